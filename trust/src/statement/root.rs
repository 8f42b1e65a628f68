//! Root: who may sign what. One per tenant; signed by a threshold of the old and of the new root signers.

use std::collections::BTreeMap;

use schema::encoding::{Base64, Digest};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Statement};

/// Signers and thresholds of every role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Common head.
    #[serde(flatten)]
    pub head: Head,
    /// Every pair named by a role, by key id.
    pub signers: BTreeMap<Digest, Signer>,
    /// The role of each kind (root, policy, state, heartbeat, lease).
    pub roles: BTreeMap<Kind, Role>,
    /// What is demanded of the ledger.
    pub ledger: LedgerRule,
}

/// The public halves of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// Ed25519 public key, 32 bytes (RFC 8032).
    pub ed25519: Base64,
    /// ML-DSA-65 public key, 1952 bytes (FIPS 204).
    pub ml_dsa_65: Base64,
    /// Whether the tenant holds it (else the control plane does).
    pub tenant_held: bool,
}

/// Who may sign a kind, and how many must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Distinct pairs needed.
    pub threshold: u32,
    /// Key ids of the pairs allowed.
    pub signers: Vec<Digest>,
}

/// What root demands of the ledger. Checking comes with the ledger; `required` is refused as not understood until then.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerRule {
    /// Whether statements need a ledger proof.
    pub required: bool,
    /// How many witnesses must have cosigned the checkpoint.
    pub witness_quorum: u32,
    /// Verification keys of the log, as C2SP signed-note verifier keys.
    pub log_keys: Vec<String>,
}

impl Statement for Root {
    const KIND: Kind = Kind::Root;

    fn head(&self) -> &Head {
        &self.head
    }
}
