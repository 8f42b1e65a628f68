//! Writes backups while the vault is in use. A backup is written beside its place, synced, renamed, read back from the disk, and
//! every version in it is opened and compared: one that is reported is one that was seen whole. Only that the recovery key
//! opens it cannot be seen here, because its private half is not here: [`super::drill`] shows that.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Digest,
    id::{AgentId, KeyVersion},
    wire::{
        agent::HostActKind,
        recovery::{BackupAnswer, LeftOutOfBackup},
    },
};
use service::files::{FileError, OWNER_ONLY, create_private_directory, write_atomic};
use trust::{accept::Identity, pair::Pair};

use super::file::{self, BackupError, BackupFile, Writer};
use crate::{
    host::Acts,
    policy::{backup::NotBackedUp, current::Current, in_force::InForce},
    vault::{Exported, Vault, VaultError},
};

/// How backups' names end.
pub const ENDING: &str = "fhb";

/// Writes the backups of one agent.
pub struct Backups {
    /// Where they go; none: nowhere, and versions that need one wait.
    pub directory: Option<PathBuf>,
    /// What is backed up.
    pub vault: Arc<dyn Vault>,
    /// The set in force.
    pub current: Arc<Current>,
    /// Who the agent is.
    pub identity: Identity,
    /// Its pair.
    pub pair: Arc<Pair>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// Where it is written down that material leaves the vault.
    pub acts: Acts,
    /// One at a time.
    pub writing: tokio::sync::Mutex<()>,
}

impl Backups {
    /// Backs up everything the vault holds, for this reason.
    pub async fn whole(&self, why: &str) -> Result<BackupAnswer, BackupError> {
        let now = self.clock.now();
        self.write((None, why), format!("{}.{}.{ENDING}", self.identity.agent, compact(now)), now).await
    }

    /// Backs up one version, in a file of its own.
    pub async fn version(&self, version: KeyVersion) -> Result<BackupAnswer, BackupError> {
        let why = format!("durability of {version}");
        self.write((Some(version), &why), name_of(self.identity.agent, version), self.clock.now()).await
    }

    /// Removes the file of a version that was destroyed. (It stays in older backups of the whole vault until they are removed;
    /// none of them brings it back.)
    pub fn forget(&self, version: KeyVersion) {
        let Some(directory) = &self.directory else { return };
        let path = directory.join(name_of(self.identity.agent, version));
        match std::fs::remove_file(&path) {
            Ok(()) => tracing::info!(%version, path = %path.display(), "the backup of a destroyed version was removed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(%version, path = %path.display(), %error, "the backup of a destroyed version is still there: remove it")
            }
        }
    }

    async fn write(&self, (only, why): (Option<KeyVersion>, &str), name: String, now: Timestamp) -> Result<BackupAnswer, BackupError> {
        let _one = self.writing.lock().await;
        let directory = self.directory.as_ref().ok_or(BackupError::NoDirectory)?;
        let in_force = self.current.load().ok_or(NotBackedUp::NoPolicy)?;
        let recovery = in_force.recovery_key()?;
        let (mut exported, left_out) = match only {
            Some(version) => (vec![self.vault.export(in_force.allow_backup(version)?).await?], Vec::new()),
            None => self.export_all(&in_force).await?,
        };
        // Looked up last: what was destroyed meanwhile is a tombstone, and its material stays out.
        let tombstones: BTreeSet<KeyVersion> = self.vault.tombstones().await?.into_iter().collect();
        exported.retain(|exported| !tombstones.contains(&exported.held.version));
        let Identity { tenant, site, agent, .. } = self.identity;
        let writer = Writer { tenant, site, agent, pair: &self.pair, now };
        let tombstones = tombstones.into_iter().collect();
        let sealed = file::seal(&exported, tombstones, left_out, recovery, writer, &*self.ids)?;
        drop(exported);

        create_private_directory(directory)?;
        remove_leftovers(directory, agent)?;
        // Before the file is there: a receipt may tell of one that was then not written, and never the other way.
        let what = format!(
            "{name}, SHA-256 {}: {} versions, {} tombstones, sealed to {}",
            Digest::of(&sealed.bytes),
            sealed.body.versions.len(),
            sealed.body.tombstones.len(),
            recovery.keyid(),
        );
        self.acts.write(HostActKind::BackedUp, now, what, Some(why)).await?;
        let path = directory.join(name);
        write_atomic(&path, &sealed.bytes, OWNER_ONLY)?;
        let read_back = BackupFile::read(&path).and_then(|file| file.verify_written(&sealed, self.pair.public()).map(|()| file));
        let file = read_back.map_err(|error| {
            let _ = std::fs::remove_file(&path);
            BackupError::NotWritten { path: path.clone(), detail: error.to_string() }
        })?;
        tracing::info!(path = %path.display(), versions = file.body.versions.len(), "a backup was written and read back");
        Ok(answer(&file))
    }

    /// Everything that may leave, and what stays behind and why.
    async fn export_all(&self, in_force: &InForce) -> Result<(Vec<Exported>, Vec<LeftOutOfBackup>), BackupError> {
        let (mut exported, mut left_out) = (Vec::new(), Vec::new());
        for held in self.vault.versions().await? {
            let version = held.version;
            let left = match in_force.allow_backup(version) {
                Err(NotBackedUp::Destroyed(_)) => continue,
                Err(not) => not.to_string(),
                Ok(permit) => match self.vault.export(permit).await {
                    Ok(found) => {
                        exported.push(found);
                        continue;
                    }
                    Err(VaultError::Destroyed(_) | VaultError::NotHeld(_)) => continue,
                    Err(error @ VaultError::NotExtractable(_)) => error.to_string(),
                    Err(error) => return Err(error.into()),
                },
            };
            left_out.push(LeftOutOfBackup { version, reason: left });
        }
        Ok((exported, left_out))
    }
}

/// What is told of a backup.
pub fn answer(file: &BackupFile) -> BackupAnswer {
    BackupAnswer {
        file: file.path().display().to_string(),
        sha256: file.sha256,
        agent: file.head.agent,
        recovery_key: file.head.recovery_key,
        versions: file.body.versions.iter().map(|sealed| sealed.version).collect(),
        tombstones: file.body.tombstones.clone(),
        left_out: file.body.left_out.clone(),
    }
}

/// A file that should be a backup, and what reading it gave.
pub type Listed = (PathBuf, Result<BackupFile, BackupError>);

/// Every backup in a directory, by name, with those that do not read.
pub fn list(directory: &Path) -> Result<Vec<Listed>, FileError> {
    let io = |source| FileError::Io { act: "list", path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| (path.clone(), BackupFile::read(&path))).collect())
}

/// The file of one version, by one agent: several agents may share a directory.
fn name_of(agent: AgentId, version: KeyVersion) -> String {
    format!("{agent}.{}.{}.{ENDING}", version.key, version.number)
}

/// Whether a file's name is that of a backup of an agent's whole vault.
pub(super) fn is_whole_of(agent: AgentId, path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts: Vec<&str> = name.split('.').collect();
    matches!(parts[..], [of, _, ending] if of == agent.to_string() && ending == ENDING)
}

/// What a kill in the middle of writing left behind. Backups of an agent are written one at a time, so none of these is in use.
fn remove_leftovers(directory: &Path, agent: AgentId) -> Result<(), FileError> {
    let io = |source| FileError::Io { act: "clean", path: directory.to_owned(), source };
    let prefix = format!("{agent}.");
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".new")) {
            std::fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// A time that a file's name may have, and that sorts.
fn compact(now: Timestamp) -> String {
    now.to_string().replace(['-', ':', '.'], "")
}

/// What two backups are told apart by: for messages.
pub fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use schema::clock::{ManualClock, SystemIds};
    use trust::accept::RecoveryMemory;

    use super::*;
    use crate::{
        policy::testing::{AGENT, KEY, NOW, SITE, SetBuilder, TENANT},
        recovery::secret::RecoverySecret,
        vault::{
            file::{FileVault, Unlock},
            secret::SecretBytes,
        },
    };

    pub(in crate::recovery) struct Bench {
        pub(in crate::recovery) secret: RecoverySecret,
        pub(in crate::recovery) backups: Backups,
        pub(in crate::recovery) clock: ManualClock,
        pub(in crate::recovery) set: SetBuilder,
        pub(in crate::recovery) directory: tempfile::TempDir,
    }

    fn version(number: u32) -> KeyVersion {
        KeyVersion::new(KEY, number)
    }

    pub(in crate::recovery) async fn bench() -> Bench {
        let clock = ManualClock::at(NOW);
        let directory = tempfile::tempdir().unwrap();
        let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
        let vault = FileVault::open_or_create(&directory.path().join("vault"), &unlock, Arc::new(SystemIds)).unwrap();
        for number in 1..=3 {
            vault.generate(version(number), "A256KW+A256GCM".parse().unwrap()).await.unwrap();
        }
        let secret = RecoverySecret::generate(&SystemIds).unwrap();
        let mut set = SetBuilder::new("permit (principal, action, resource);");
        set.recovery = Some(RecoveryMemory { number: 1, public_key: secret.public_key().into(), shares: 3, threshold: 2, agent: AGENT });
        let pair = Arc::new(Pair::generate(&SystemIds));
        let identity = Identity { tenant: TENANT, site: SITE, agent: AGENT, root: Digest([0; 32]), founder: None, keyid: pair.keyid() };
        let backups = Backups {
            directory: Some(directory.path().join("backups")),
            vault: Arc::new(vault),
            current: Arc::new(Current::default()),
            identity,
            pair,
            clock: Arc::new(clock.clone()),
            ids: Arc::new(SystemIds),
            acts: Acts::Notes(directory.path().to_owned()),
            writing: tokio::sync::Mutex::default(),
        };
        Bench { secret, backups, clock, set, directory }
    }

    impl Bench {
        pub(in crate::recovery) fn publish(&self) {
            self.backups.current.swap(Arc::new(self.set.compile()));
        }
    }

    /// A journal that takes nothing.
    struct Full;

    #[async_trait::async_trait]
    impl crate::journal::Journal for Full {
        async fn intent(&self, _: schema::wire::agent::Intent) -> Result<crate::journal::Ticket, crate::journal::JournalError> {
            Err(crate::journal::JournalError::Closed)
        }

        async fn intents(&self, _: Vec<schema::wire::agent::Intent>) -> Result<Vec<crate::journal::Ticket>, crate::journal::JournalError> {
            Err(crate::journal::JournalError::Closed)
        }

        fn refusal(&self, _: schema::wire::agent::Intent, _: &str) {}

        async fn host(&self, _: &schema::wire::agent::HostAct) -> Result<(), crate::journal::JournalError> {
            Err(crate::journal::JournalError::Closed)
        }

        fn status(&self) -> crate::journal::Status {
            unreachable!("nobody asks")
        }
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_backed_up() {
        let mut bench = bench().await;
        bench.publish();
        bench.backups.acts = Acts::Journal(Arc::new(Full));
        for made in [bench.backups.whole("a test").await, bench.backups.version(version(1)).await] {
            let error = made.err().unwrap();
            assert_eq!(error.code(), crate::journal::JournalError::Closed.code());
        }
        bench.backups.acts = Acts::Notes(bench.directory.path().join("nowhere"));
        assert_eq!(bench.backups.whole("a test").await.err().unwrap().code(), "host_act_not_noted");
        let files = std::fs::read_dir(bench.backups.directory.as_ref().unwrap()).unwrap();
        assert_eq!(files.count(), 0, "there is no file of which nobody knows");
    }

    #[tokio::test]
    async fn a_backup_holds_what_the_site_knows_and_says_what_it_leaves_out() {
        let mut bench = bench().await;
        assert_eq!(bench.backups.whole("a test").await.err().unwrap().code(), "no_policy_yet");
        let recovery = bench.set.recovery.take();
        bench.publish();
        assert_eq!(bench.backups.whole("a test").await.err().unwrap().code(), "no_recovery_key");
        bench.set.recovery = recovery;
        bench.publish();
        // Version 3 was made, and the site does not speak of it.
        let written = bench.backups.whole("a test").await.unwrap();
        assert_eq!((&written.versions[..], written.left_out.len()), (&[version(1), version(2)][..], 1));
        let file = BackupFile::read(Path::new(&written.file)).unwrap();
        let opened = file.open(&bench.secret).unwrap();
        for opened in opened {
            assert_eq!(bench.backups.vault.held(opened.version).await.unwrap().fingerprint, opened.fingerprint);
        }
        // A version that was destroyed since is a tombstone of the next one.
        bench.backups.vault.destroy(version(1)).await.unwrap();
        let next = bench.backups.version(version(2)).await.unwrap();
        assert_eq!((&next.versions[..], &next.tombstones[..]), (&[version(2)][..], &[version(1)][..]));
        assert_eq!(bench.backups.version(version(1)).await.err().unwrap().code(), "key_version_destroyed");
        assert_eq!(list(bench.backups.directory.as_ref().unwrap()).unwrap().len(), 2);
        bench.backups.forget(version(2));
        bench.backups.forget(version(2));
        assert_eq!(list(bench.backups.directory.as_ref().unwrap()).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn without_a_place_to_put_it_there_is_no_backup_and_leftovers_are_removed() {
        let mut bench = bench().await;
        bench.publish();
        let directory = bench.backups.directory.take();
        assert_eq!(bench.backups.whole("a test").await.err().unwrap().code(), "backup_directory_missing");
        // Something else is where the directory should be.
        let file = bench.directory.path().join("a-file");
        std::fs::write(&file, b"x").unwrap();
        bench.backups.directory = Some(file);
        assert_eq!(bench.backups.whole("a test").await.err().unwrap().code(), "backup_file");
        bench.backups.directory = directory.clone();
        let directory = directory.unwrap();
        create_private_directory(&directory).unwrap();
        let (mine, others) = (directory.join(format!("{AGENT}.x.fhb.17.new")), directory.join("agt_other.x.fhb.17.new"));
        std::fs::write(&mine, b"half").unwrap();
        std::fs::write(&others, b"half").unwrap();
        bench.backups.whole("a test").await.unwrap();
        assert!(!mine.exists() && others.exists());
        assert_eq!(list(&directory).unwrap().len(), 1, "what is not finished is no backup");
    }
}
