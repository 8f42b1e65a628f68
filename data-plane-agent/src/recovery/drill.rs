//! A drill: shows beforehand that the shares and a backup would bring the keys back. Nothing is changed, and no material leaves
//! the process.

use schema::{
    clock::{Ids, Timestamp},
    encoding::{Base64, Digest},
    id::KeyVersion,
    key::{Durability, VersionState},
};
use trust::{accept::AcceptedSet, recovery::BackupHead};

use super::{
    file::{BackupError, BackupFile},
    restore::believe,
    secret::{self, RecoverySecret},
};
use crate::{algorithm::AlgorithmError, vault::secret::ContentKey};

/// What went wrong in a drill: it would go wrong in earnest.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Nothing is sealed to anything.
    #[error("this site has no recovery key that this agent believes: see freehold-agent recovery status")]
    NoRecoveryKey,
    /// The shares are of another key.
    #[error("these shares are of the recovery key {given}, and this agent seals to {sealed_to}: find the shares of that one")]
    OtherKey {
        /// Theirs.
        given: Digest,
        /// The one in use.
        sealed_to: Digest,
    },
    /// What was sealed does not open.
    #[error("what is sealed to the recovery key does not open with these shares")]
    Box(#[source] AlgorithmError),
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Material of another version than the site knows.
    #[error("the backup holds other material of {0} than its version record says")]
    OtherMaterial(KeyVersion),
}

/// What a drill has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The recovery key.
    pub recovery_key: Digest,
    /// Versions of the backup that were opened, each with the material that its record names.
    pub opened: Vec<KeyVersion>,
    /// Versions that the site uses and that must be backed up, and that this backup does not hold.
    pub not_in_it: Vec<KeyVersion>,
}

/// Opens a box that is sealed as backups are.
pub fn test_box(set: &AcceptedSet, shares: &RecoverySecret, ids: &dyn Ids) -> Result<Digest, DrillError> {
    let recovery = set.recovery_key().ok_or(DrillError::NoRecoveryKey)?;
    let (given, sealed_to) = (shares.keyid(), recovery.keyid());
    if given != sealed_to {
        return Err(DrillError::OtherKey { given, sealed_to });
    }
    let identity = set.identity();
    let mut head = BackupHead {
        tenant: identity.tenant,
        site: identity.site,
        agent: identity.agent,
        created: Timestamp::default(),
        recovery_key: sealed_to,
        encapsulated: Base64::default(),
        encrypted_key: Base64::default(),
        versions: 0,
        tombstones: 0,
        body: Digest([0; 32]),
    };
    let key = ContentKey::random(ids);
    secret::seal(&mut head, recovery.public_key.as_slice(), &key, ids).map_err(DrillError::Box)?;
    let opened = shares.open(&head).map_err(DrillError::Box)?;
    if opened.expose() == key.expose() { Ok(sealed_to) } else { Err(DrillError::OtherKey { given, sealed_to }) }
}

/// Opens a real backup, and compares all of it with what the site knows.
pub fn backup(set: &AcceptedSet, shares: &RecoverySecret, file: &BackupFile) -> Result<Shown, DrillError> {
    believe(file, set)?;
    let mut opened = Vec::new();
    for found in file.open(shares)? {
        if set.fingerprint(found.version).is_some_and(|known| known != found.fingerprint) {
            return Err(DrillError::OtherMaterial(found.version));
        }
        opened.push(found.version);
    }
    let must_be = set.keys().iter().filter(|(_, key)| key.durability == Durability::SealedBackup).filter_map(|(id, _)| {
        let (_, state) = set.key(*id)?;
        Some(state.versions.keys().map(|number| KeyVersion::new(*id, *number)))
    });
    let in_use = |version: &KeyVersion| set.version_state(*version).is_some_and(|state| state != VersionState::Destroyed);
    let not_in_it = must_be.flatten().filter(in_use).filter(|version| !opened.contains(version)).collect();
    Ok(Shown { recovery_key: shares.keyid(), opened, not_in_it })
}
