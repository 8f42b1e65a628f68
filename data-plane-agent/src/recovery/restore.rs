//! Brings backups into a vault. Everything is read, believed and opened before the vault is touched, so that a wrong share or a
//! damaged file changes nothing; then tombstones go in first, and each version by itself: whatever interrupts it, the same
//! command again does the rest.
//!
//! What comes back is judged by the set in force, not by the backup: material that is not the one of its version record, and
//! versions that the site has destroyed since, do not.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    id::KeyVersion,
    key::{Protection, VersionState},
};
use trust::{accept::AcceptedSet, document::open_roster_entry, pair::PublicPair};

use super::{
    file::{BackupError, BackupFile, Opened},
    secret::RecoverySecret,
};
use crate::vault::{Vault, VaultError};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Versions that are in the vault now and were not before.
    pub restored: Vec<KeyVersion>,
    /// Versions that were there already.
    pub present: Vec<KeyVersion>,
    /// Versions that stay destroyed, by the site's word, by this vault's or by a backup's.
    pub destroyed: Vec<KeyVersion>,
    /// Versions that the site's statements do not name: they were left out.
    pub unknown: Vec<KeyVersion>,
    /// Versions that were refused, or are here already, although this vault guards them less than their keys demand.
    pub unguarded: Vec<Unguarded>,
    /// Versions that the site goes on using, and that neither these backups nor this vault hold.
    pub missing: Vec<KeyVersion>,
}

/// A version that this vault guards less than its key demands. It is not reported ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unguarded {
    /// The version.
    pub version: KeyVersion,
    /// What its key demands.
    pub demanded: Protection,
    /// What this vault gives.
    pub offered: Protection,
}

impl Unguarded {
    fn of(set: &AcceptedSet, version: KeyVersion, offered: Protection) -> Option<Self> {
        let demanded = set.keys().get(&version.key)?.protection;
        (offered < demanded).then_some(Self { version, demanded, offered })
    }
}

/// Checks that a backup is of this site, and signed by one who is, or was, an agent of it.
pub fn believe(file: &BackupFile, set: &AcceptedSet) -> Result<(), BackupError> {
    let (identity, head) = (set.identity(), &file.head);
    if (head.tenant, head.site) != (identity.tenant, identity.site) {
        return Err(BackupError::OtherSite { path: file.path().to_owned(), site: head.site, here: identity.site });
    }
    let pair = pair_of(set, file).ok_or_else(|| BackupError::UnknownAgent { path: file.path().to_owned(), agent: head.agent })?;
    file.signed_by(&pair)
}

/// The pair of the agent that a backup names: one of the site, also when it was revoked since and nobody vouches for it any
/// more. That is enough here: what material a version has, its record says.
fn pair_of(set: &AcceptedSet, file: &BackupFile) -> Option<PublicPair> {
    let agent = file.head.agent;
    let slot = || open_roster_entry(set.state().roster.get(&agent)?.entry.as_slice()).ok().map(|(_, pair)| pair);
    set.agents().get(&agent).cloned().or_else(slot)
}

/// Restores.
pub async fn restore(files: &[BackupFile], secret: &RecoverySecret, set: &AcceptedSet, vault: &dyn Vault) -> Result<Restored, BackupError> {
    let mut opened = BTreeMap::<KeyVersion, Opened>::new();
    let mut tombstones = BTreeSet::new();
    for file in files {
        believe(file, set)?;
        for found in file.open(secret)? {
            if set.fingerprint(found.version).is_some_and(|known| known != found.fingerprint) {
                return Err(BackupError::OtherMaterial { path: file.path().to_owned(), version: found.version });
            }
            opened.entry(found.version).or_insert(found);
        }
        tombstones.extend(file.body.tombstones.iter().copied());
    }
    let here: BTreeSet<KeyVersion> = vault.tombstones().await?.into_iter().collect();
    // What a backup calls destroyed and the site goes on using, is not destroyed by a file.
    let gone = |version: &KeyVersion| {
        set.destruction_confirmed(*version) || here.contains(version) || (tombstones.contains(version) && !is_in_use(set, *version))
    };
    let mut done = Restored::default();
    let ended = opened.keys().chain(&tombstones).copied().chain(destroyed(set)).filter(gone).collect::<BTreeSet<_>>();
    for version in &ended {
        if !here.contains(version) {
            vault.destroy(*version).await.map_err(|source| stopped(&done, *version, source))?;
        }
    }
    done.destroyed = ended.iter().copied().collect();
    for (version, found) in opened {
        if ended.contains(&version) {
            continue;
        }
        if set.fingerprint(version).is_none() {
            done.unknown.push(version);
            continue;
        }
        let present = vault.held(version).await;
        let guarded = present.as_ref().map_or_else(|_| vault.description().brought, |held| held.protection);
        if let Some(unguarded) = Unguarded::of(set, version, guarded) {
            done.unguarded.push(unguarded);
            continue;
        }
        let present = present.is_ok();
        vault.import(version, found.algorithm, found.material).await.map_err(|source| stopped(&done, version, source))?;
        if present { &mut done.present } else { &mut done.restored }.push(version);
    }
    for version in in_use(set) {
        let refused = done.unguarded.iter().any(|unguarded| unguarded.version == version);
        if !refused && matches!(vault.held(version).await, Err(VaultError::NotHeld(_))) {
            done.missing.push(version);
        }
    }
    Ok(done)
}

fn stopped(done: &Restored, version: KeyVersion, source: VaultError) -> BackupError {
    BackupError::Stopped { restored: done.restored.len(), version, source }
}

/// Versions that were made here by the site's word, and are not at their end.
fn in_use(set: &AcceptedSet) -> impl Iterator<Item = KeyVersion> + '_ {
    versions(set).filter(|version| is_in_use(set, *version))
}

fn is_in_use(set: &AcceptedSet, version: KeyVersion) -> bool {
    let own = set.keys().get(&version.key).is_some_and(|key| !key.is_external());
    own && set.fingerprint(version).is_some() && set.version_state(version).is_some_and(|state| state != VersionState::Destroyed)
}

fn destroyed(set: &AcceptedSet) -> impl Iterator<Item = KeyVersion> + '_ {
    versions(set).filter(|version| set.destruction_confirmed(*version))
}

fn versions(set: &AcceptedSet) -> impl Iterator<Item = KeyVersion> + '_ {
    set.state().keys.iter().flat_map(|(key, state)| state.versions.keys().map(|number| KeyVersion::new(*key, *number)))
}
