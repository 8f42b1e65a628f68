//! What is recorded of a policy document. Its Cedar text is a content-addressed blob, named here by its SHA-256.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    encoding::{Digest, u64_string},
    events,
    name::{Name, Text},
    rule::{KeyTemplate, OfflineRule, Scope, VouchingRule},
};

/// What one draft or version says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyContent {
    /// SHA-256 of the Cedar text.
    pub cedar: Digest,
    /// The length of the Cedar text in bytes.
    #[serde(with = "u64_string")]
    pub cedar_bytes: u64,
    /// What keys the control plane may make by itself (tenant and project documents).
    pub templates: BTreeMap<Name, KeyTemplate>,
    /// Who may vouch for agents (tenant and site documents).
    pub vouching: Option<VouchingRule>,
    /// What goes on without the control plane (tenant and site documents).
    pub offline: Option<OfflineRule>,
}

events! {
    /// What happens to a policy document.
    PolicyEvent {
        /// The document was begun. It says nothing yet.
        PolicyCreated 1 {
            /// Its name in its scope.
            name: Name,
            /// What it is for.
            scope: Scope,
        },
        /// A draft was saved.
        PolicyDraftSaved 1 {
            /// The draft's number, from 1 without gaps.
            draft: u32,
            /// What it says.
            content: PolicyContent,
            /// What was changed and why.
            note: Option<Text>,
        },
        /// The draft was thrown away.
        PolicyDraftDiscarded 1 {
            /// Its number.
            draft: u32,
        },
        /// A draft became the next version.
        PolicyPublished 1 {
            /// The version's number, from 1 without gaps.
            version: u32,
            /// The draft it was.
            draft: u32,
            /// What it says.
            content: PolicyContent,
            /// The ids of its single Cedar policies.
            policies: Vec<String>,
            /// What was changed and why.
            note: Option<Text>,
        },
        /// What an older version said became the next version.
        PolicyRolledBack 1 {
            /// The version's number.
            version: u32,
            /// The older version.
            restored: u32,
            /// What it says.
            content: PolicyContent,
            /// The ids of its single Cedar policies.
            policies: Vec<String>,
            /// Why.
            note: Option<Text>,
        },
    }
}
