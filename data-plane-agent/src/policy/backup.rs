//! Whether a version may leave the vault for a backup: it is of this site and not at its end, and there is a recovery key that
//! is believed. Anything else, a key's being exportable among it, is about callers.

use schema::id::KeyVersion;
use trust::accept::RecoveryMemory;

use super::{
    in_force::InForce,
    permit::{Destination, ExportPermit},
};

/// Why a version is not backed up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBackedUp {
    /// Nothing is believed yet.
    #[error("this agent has no policy in force yet: enrol it, start it, and wait until it is ready")]
    NoPolicy,
    /// Nothing to seal to.
    #[error("this site has no recovery key yet: make one with freehold-agent recovery init")]
    NoRecoveryKey,
    /// Not here.
    #[error("the site's statements do not name {0}")]
    Unknown(KeyVersion),
    /// At its end.
    #[error("{0} is destroyed")]
    Destroyed(KeyVersion),
}

impl NotBackedUp {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPolicy => "no_policy_yet",
            Self::NoRecoveryKey => "no_recovery_key",
            Self::Unknown(_) => "backup_of_unknown_version",
            Self::Destroyed(_) => "backup_of_destroyed_version",
        }
    }
}

impl InForce {
    /// The key that backups are sealed to.
    pub fn recovery_key(&self) -> Result<&RecoveryMemory, NotBackedUp> {
        self.recovery.as_deref().ok_or(NotBackedUp::NoRecoveryKey)
    }

    /// Lets a version leave once, into a backup that is sealed to the recovery key.
    pub fn allow_backup(&self, version: KeyVersion) -> Result<ExportPermit, NotBackedUp> {
        self.recovery_key()?;
        let key = self.keys.get(&version.key).filter(|key| !key.definition.is_external());
        let entry = key.and_then(|key| key.versions.get(&version.number)).ok_or(NotBackedUp::Unknown(version))?;
        if entry.wipe {
            return Err(NotBackedUp::Destroyed(version));
        }
        Ok(ExportPermit::grant(version, Destination::Backup))
    }
}

#[cfg(test)]
mod tests {
    use schema::{id::KeyId, key::VersionState};

    use super::*;
    use crate::policy::testing::{AGENT, KEY, SetBuilder};

    #[test]
    fn what_is_of_the_site_and_not_destroyed_may_be_backed_up_once_there_is_a_recovery_key() {
        let mut set = SetBuilder::new("forbid (principal, action, resource);");
        let version = KeyVersion::new(KEY, 2);
        assert_eq!(set.compile().allow_backup(version), Err(NotBackedUp::NoRecoveryKey));
        let key = RecoveryMemory { number: 1, public_key: vec![1; 1216].into(), shares: 5, threshold: 3, agent: AGENT };
        set.recovery = Some(key);
        let permit = set.compile().allow_backup(version).unwrap();
        assert_eq!((permit.version(), permit.destination()), (version, Destination::Backup));
        for other in [KeyVersion::new(KEY, 9), KeyVersion::new(KeyId::from_bits(99), 1)] {
            assert_eq!(set.compile().allow_backup(other), Err(NotBackedUp::Unknown(other)));
        }
        set.versions.insert(version, (VersionState::Destroyed, true));
        assert_eq!(set.compile().allow_backup(version), Err(NotBackedUp::Destroyed(version)));
    }
}
