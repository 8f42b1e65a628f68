//! What agents sign so that keys outlive a host: the key that backups of a site are sealed to, that a version is in such a
//! backup, and the head of a backup itself.

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, SiteId, TenantId},
};
use serde::{Deserialize, Serialize};

use crate::document::Document;

/// The size of the public half: MLKEM768-X25519 (HPKE's KEM 0x647a).
pub const RECOVERY_PUBLIC_KEY_BYTES: usize = 1216;

/// "Backups of this site are sealed to this key": signed by the agent it was made at. Its private half is nowhere but in the
/// shares that were handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Its number at the site, from 1: the next one takes the place of the one before.
    pub number: u32,
    /// The public half, as HPKE with MLKEM768-X25519 encodes it.
    pub public_key: Base64,
    /// How many shares of the private half there are.
    pub shares: u8,
    /// How many of them open a backup.
    pub threshold: u8,
    /// The agent it was made at.
    pub agent: AgentId,
    /// When.
    pub issued: Timestamp,
}

impl RecoveryKey {
    /// Identifies it: what people compare.
    pub fn keyid(&self) -> Digest {
        recovery_keyid(self.public_key.as_slice())
    }
}

/// Identifies a recovery key by its public half.
pub fn recovery_keyid(public_key: &[u8]) -> Digest {
    Digest::labelled("freehold-recovery-key-v1", &[public_key])
}

impl Document for RecoveryKey {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.recovery-key+json";
    const CONTEXT: &'static str = "freehold/recovery-key/v1";
}

/// "This version is in a backup that is sealed to the recovery key": signed by the holder that wrote the backup and read it
/// back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The version.
    pub version: KeyVersion,
    /// The material's fingerprint, as in the version record.
    pub fingerprint: Digest,
    /// Who wrote the backup.
    pub holder: AgentId,
    /// The key id of the recovery key it is sealed to.
    pub recovery_key: Digest,
    /// SHA-256 of the backup.
    pub backup: Digest,
    /// When.
    pub issued: Timestamp,
}

impl Document for BackupReport {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.backup-report+json";
    const CONTEXT: &'static str = "freehold/backup-report/v1";
}

/// The head of a backup: how its content key is sealed, and what its body must be. Signed by the agent that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHead {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent whose vault it holds.
    pub agent: AgentId,
    /// When.
    pub created: Timestamp,
    /// The key id of the recovery key it is sealed to.
    pub recovery_key: Digest,
    /// What the KEM encapsulated.
    pub encapsulated: Base64,
    /// The content key, sealed.
    pub encrypted_key: Base64,
    /// How many versions the body holds.
    pub versions: u32,
    /// How many tombstones.
    pub tombstones: u32,
    /// SHA-256 of the body.
    pub body: Digest,
}

impl Document for BackupHead {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.backup-head+json";
    const CONTEXT: &'static str = "freehold/backup-head/v1";
}
