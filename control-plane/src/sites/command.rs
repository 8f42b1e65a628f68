//! What may be asked of a site.

use schema::{
    encoding::{Base64, Digest},
    id::AgentId,
    name::{Name, Text},
    rule::OfflineRule,
};
use serde::Serialize;
use trust::recovery::RecoveryKey;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum SiteCommand {
    /// Begin it.
    Create {
        /// Its name in the tenant.
        name: Name,
        /// What people call it.
        display_name: Option<Text>,
    },
    /// Call it something else.
    Rename {
        /// What people call it.
        display_name: Option<Text>,
    },
    /// Its first agent is about to enrol.
    Found {
        /// The agent.
        agent: AgentId,
        /// The key id of its pair.
        keyid: Digest,
        /// Looked up: an earlier founder that is none any more, and no other agent is left.
        #[serde(skip)]
        instead_of: Option<AgentId>,
    },
    /// A recovery key was made at an agent of it. The handler has verified the document.
    SetRecoveryKey {
        /// What it says.
        key: RecoveryKey,
        /// The document: a DSSE envelope, exact bytes.
        document: Base64,
    },
    /// Say what goes on there without the control plane.
    SetOfflineRule {
        /// The rule; none: the tenant's, or the defaults.
        rule: Option<OfflineRule>,
    },
    /// Stop everything its agents do, or allow it again.
    SetSuspended {
        /// Whether its agents are to stand still.
        suspended: bool,
        /// Why.
        reason: Option<Text>,
    },
}
