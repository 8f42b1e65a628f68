//! Lease: ranges of budgets for one agent. Reserved: the kind has a name, a context and a head, so that readers know it.

use serde::{Deserialize, Serialize};

use super::{Head, Kind, Statement};

/// Reserved. A reader accepts none until leases are defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Common head.
    #[serde(flatten)]
    pub head: Head,
}

impl Statement for Lease {
    const KIND: Kind = Kind::Lease;

    fn head(&self) -> &Head {
        &self.head
    }
}
