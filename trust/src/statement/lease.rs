//! Lease: what one agent may spend of the budgets of key versions: disjoint ranges, under the ceilings of policy. It is an
//! answer to a request of that agent, and served to nobody else.

use std::collections::BTreeMap;

use schema::{
    encoding::{Digest, opt_u64_string, u64_string},
    id::KeyVersion,
    ranges::{LimitKind, Ranges},
};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Statement};

/// Everything one agent may spend, until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Common head; names site and agent.
    #[serde(flatten)]
    pub head: Head,
    /// The highest number of a request of this agent that has counted.
    #[serde(with = "u64_string")]
    pub number: u64,
    /// SHA-256 of the payload of the request it answers; none when the request came too late to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Digest>,
    /// What the agent holds, of each version.
    pub budgets: BTreeMap<KeyVersion, Leased>,
}

/// What an agent holds of one version's budgets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leased {
    /// Which uses and which bytes.
    #[serde(flatten)]
    pub share: Share,
    /// How many uses nobody holds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u64>,
    /// How many bytes nobody holds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub bytes_left: Option<u64>,
}

impl Leased {
    /// How much nobody holds; none when it is not limited.
    pub const fn left(&self, kind: LimitKind) -> Option<u64> {
        match kind {
            LimitKind::Uses => self.uses_left,
            LimitKind::Bytes => self.bytes_left,
        }
    }
}

/// A part of one version's budgets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Uses.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub uses: Ranges,
    /// Bytes of plaintext.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub bytes: Ranges,
}

impl Share {
    /// What is counted as this.
    pub const fn of(&self, kind: LimitKind) -> &Ranges {
        match kind {
            LimitKind::Uses => &self.uses,
            LimitKind::Bytes => &self.bytes,
        }
    }

    /// The same, to be changed.
    pub const fn of_mut(&mut self, kind: LimitKind) -> &mut Ranges {
        match kind {
            LimitKind::Uses => &mut self.uses,
            LimitKind::Bytes => &mut self.bytes,
        }
    }
}

impl Statement for Lease {
    const KIND: Kind = Kind::Lease;

    fn head(&self) -> &Head {
        &self.head
    }
}
