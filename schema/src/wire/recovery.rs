//! Backups of an agent's vault, as commands on its host hear of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    encoding::Digest,
    id::{AgentId, KeyVersion},
};

/// A backup that was written, read back and found whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupAnswer {
    /// Where it is, at the agent.
    pub file: String,
    /// SHA-256 of the file, base64url.
    #[schema(value_type = String)]
    pub sha256: Digest,
    /// The agent whose vault it holds.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The key id of the recovery key that it is sealed to.
    #[schema(value_type = String)]
    pub recovery_key: Digest,
    /// The versions it holds, `key_…/3`.
    #[schema(value_type = Vec<String>)]
    pub versions: Vec<KeyVersion>,
    /// Versions that were destroyed: the backup keeps them from coming back.
    #[schema(value_type = Vec<String>)]
    pub tombstones: Vec<KeyVersion>,
    /// Versions in the vault that it does not hold.
    pub left_out: Vec<LeftOutOfBackup>,
}

/// A version that is in the vault and not in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutOfBackup {
    /// `key_…/3`
    #[schema(value_type = String)]
    pub version: KeyVersion,
    /// Why.
    pub reason: String,
}
