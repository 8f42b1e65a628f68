//! Heartbeat: what is current at a site, and what time it is. Never logged as an event.

use std::collections::{BTreeMap, BTreeSet};

use schema::{clock::Timestamp, encoding::Digest, id::ProjectId};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Pin, Statement};

/// The serials and hashes of everything a site should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Common head; `issued` is the time.
    #[serde(flatten)]
    pub head: Head,
    /// The current root.
    pub root: Pin,
    /// The tenant's policy.
    pub tenant_policy: Pin,
    /// Policies of the projects with keys at the site.
    pub project_policies: BTreeMap<ProjectId, Pin>,
    /// The site's own policy, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_policy: Option<Pin>,
    /// The site's state.
    pub state: Pin,
    /// The latest ledger checkpoint, as a signed note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// SHA-256 of the certificates of every authority whose certificates the control plane shows or takes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub authorities: BTreeSet<Digest>,
}

impl Heartbeat {
    /// The time it tells.
    pub fn time(&self) -> Timestamp {
        self.head.issued
    }
}

impl Statement for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;

    fn head(&self) -> &Head {
        &self.head
    }
}
