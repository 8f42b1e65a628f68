//! Desired -> vault -> report. What the set in force asks of this agent is done in the vault, and said in signed documents.
//!
//! Everything here may be done again: a crash between the vault and the report leaves a version that is found and reported
//! the next time.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use schema::{
    clock::{Clock, Timestamp},
    encoding::{Base64, Digest},
    id::{KeyVersion, VaultId},
    key::{Durability, Origin, Protection, VersionState},
};
use service::explain::in_one_line;
use trust::{
    document::{HolderReport, HolderStatus, VersionRecord},
    dsse::sign_document,
    pair::Pair,
    recovery::BackupReport,
    statement::policy::KeyDefinition,
};

use crate::{
    control::report::Documents,
    findings::{Findings, Found},
    policy::in_force::{InForce, KeyInForce, VersionInForce},
    recovery::{BackupError, backups::Backups},
    vault::{Held, Vault, VaultError},
};

/// Under which name its findings stand.
const PART: &str = "keys";
/// Under which name it is found that destroyed versions came back: for as long as the agent runs.
const RETURNED: &str = "returned";
/// The code of that.
pub const DESTROYED_VERSION_RETURNED: &str = "destroyed_version_returned";
/// How often a vault is looked through for versions that were destroyed in it.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Makes and destroys material as the set in force asks, and remembers what it signed, so that the same is said again.
#[derive(Default)]
pub struct Reconciler {
    signed: BTreeMap<(KeyVersion, Said), Base64>,
    /// Destructions the control plane has heard of; state does not say so.
    heard: BTreeSet<KeyVersion>,
    /// Versions that this agent has destroyed before, in this life or an earlier one.
    ended: BTreeSet<KeyVersion>,
    /// When the vault was last looked through for them.
    looked: Option<Timestamp>,
}

/// What was said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Made,
    Ready,
    Destroyed,
    BackedUp,
}

/// What one run works with.
struct Round<'a> {
    in_force: &'a InForce,
    vault: &'a dyn Vault,
    pair: &'a Pair,
    clock: &'a dyn Clock,
    home: VaultId,
    backups: &'a Backups,
    findings: &'a Findings,
}

impl Reconciler {
    /// One that knows what this agent destroyed in earlier lives.
    pub fn knowing(ended: BTreeSet<KeyVersion>) -> Self {
        Self { ended, ..Self::default() }
    }

    /// Versions that this agent has destroyed, to be known in later lives.
    pub fn ended(&self) -> &BTreeSet<KeyVersion> {
        &self.ended
    }

    /// Does what the set asks, and gives what the control plane does not know yet. What fails is logged, found and tried again
    /// the next time.
    pub async fn run(
        &mut self,
        in_force: &InForce,
        vault: &dyn Vault,
        pair: &Pair,
        clock: &dyn Clock,
        backups: &Backups,
        findings: &Findings,
    ) -> Documents {
        let mut documents = Documents::default();
        let mut found = Vec::new();
        let home = match crate::vault::identity::of(vault).await {
            Ok(home) => home,
            Err(error) => {
                metrics::counter!("freehold_reconcile_failures_total").increment(1);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the vault does not say which one it is: nothing is reported of it"
                );
                findings.replace(PART, vec![Found { version: None, code: error.code(), detail: in_one_line(&error) }]);
                documents.unfinished = true;
                return documents;
            }
        };
        let round = Round { in_force, vault, pair, clock, home, backups, findings };
        self.look_through(&round).await;
        // Of a partner's key there is nothing to make, hold or wipe.
        for key in in_force.keys().filter(|key| !key.definition.is_external()) {
            for (number, entry) in &key.versions {
                let version = KeyVersion::new(key.id, *number);
                let done = if entry.wipe {
                    self.destroy(&round, version, entry, &mut documents).await
                } else {
                    self.make(&round, key, version, entry, &mut documents).await
                };
                if let Err(error) = done {
                    metrics::counter!("freehold_reconcile_failures_total").increment(1);
                    found.push(Found::of(version, error.code(), &error));
                    documents.unfinished |= error.may_pass();
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, %version, "a key version could not be brought to its desired state");
                }
                if let Err(error) = self.back_up(&round, key, version, entry, &mut documents).await {
                    metrics::counter!("freehold_backup_failures_total").increment(1);
                    found.push(Found::of(version, error.code(), &error));
                    documents.unfinished = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, %version, "a key version that must be backed up before its first use was not");
                }
            }
        }
        findings.replace(PART, found);
        documents
    }

    /// Now and then: whether the vault has again what was destroyed in it. A vault that others keep may be put back to an older
    /// state while the agent runs.
    async fn look_through(&mut self, round: &Round<'_>) {
        let now = round.clock.now();
        if self.ended.is_empty() || self.looked.is_some_and(|looked| now < looked.plus(LOOK_AGAIN)) {
            return;
        }
        match round.vault.versions().await {
            Ok(_) => {
                self.looked = Some(now);
                // What a crash left half destroyed was not destroyed before.
                for version in round.vault.returned().into_iter().filter(|version| self.ended.contains(version)) {
                    round.returned(version);
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the vault could not be looked through for destroyed versions")
            }
        }
    }

    /// The control plane took these of the holder reports that [`Self::run`] gave.
    pub fn delivered(&mut self, holder_reports: &[Base64]) {
        let taken: HashSet<&[u8]> = holder_reports.iter().map(Base64::as_slice).collect();
        let destroyed = self.signed.iter().filter(|((_, said), document)| *said == Said::Destroyed && taken.contains(document.as_slice()));
        self.heard.extend(destroyed.map(|((version, _), _)| *version));
    }

    /// Makes what this agent is to make, and reports what it holds.
    async fn make(
        &mut self,
        round: &Round<'_>,
        key: &KeyInForce,
        version: KeyVersion,
        entry: &VersionInForce,
        documents: &mut Documents,
    ) -> Result<(), VaultError> {
        match &entry.record {
            None if entry.generator == Some(round.in_force.agent) && entry.state == VersionState::PreActivation => {
                let algorithm = key.algorithm();
                let origin = key.definition.origin;
                let held = match origin {
                    // What is made elsewhere is waited for.
                    Origin::Imported => match round.vault.held(version).await {
                        Ok(held) if held.algorithm == algorithm => {
                            meets(Some(held.protection), &key.definition, version)?;
                            held
                        }
                        Ok(held) => return Err(VaultError::OtherAlgorithm { version, held: held.algorithm, asked: algorithm }),
                        Err(VaultError::NotHeld(_)) => return Ok(()),
                        Err(error) => return Err(error),
                    },
                    Origin::Generated | Origin::External => {
                        meets(round.vault.description().algorithms.get(&algorithm).copied(), &key.definition, version)?;
                        round.vault.generate(version, algorithm).await?
                    }
                };
                let record = self.say(version, Said::Made, || {
                    tracing::info!(%version, %algorithm, %origin, "a key version was made");
                    sign_document(&round.record(&held, origin), &[round.pair])
                });
                documents.version_records.push(record);
                documents.holder_reports.push(self.report(round, version, held.fingerprint, HolderStatus::Ready, Some(held.protection)));
            }
            Some(record) if !entry.reported_ready => match round.vault.held(version).await {
                Ok(held) if held.fingerprint == record.fingerprint => {
                    meets(Some(held.protection), &key.definition, version)?;
                    documents.holder_reports.push(self.report(
                        round,
                        version,
                        held.fingerprint,
                        HolderStatus::Ready,
                        Some(held.protection),
                    ));
                }
                // It is not reported ready.
                Ok(_) => return Err(VaultError::OtherMaterial(version)),
                // Another agent made it, and it has not come here; or it is gone.
                Err(VaultError::NotHeld(_) | VaultError::Destroyed(_)) => {}
                Err(error) => return Err(error),
            },
            None | Some(_) => {}
        }
        Ok(())
    }

    async fn destroy(
        &mut self,
        round: &Round<'_>,
        version: KeyVersion,
        entry: &VersionInForce,
        documents: &mut Documents,
    ) -> Result<(), VaultError> {
        if self.heard.contains(&version) {
            return Ok(());
        }
        let held = match round.vault.held(version).await {
            Ok(held) => Some(held.fingerprint),
            Err(VaultError::NotHeld(_) | VaultError::Destroyed(_)) => None,
            Err(error) => return Err(error),
        };
        round.vault.destroy(version).await?;
        round.backups.forget(version);
        let first = self.ended.insert(version);
        match held {
            Some(_) if first => tracing::warn!(%version, "a key version was destroyed, as policy says"),
            Some(_) => round.returned(version),
            None => {}
        }
        // A version that nobody made has no fingerprint, and nobody waits to hear that it is gone.
        if let Some(fingerprint) = held.or(entry.record.as_ref().map(|record| record.fingerprint)) {
            documents.holder_reports.push(self.report(round, version, fingerprint, HolderStatus::Destroyed, None));
        }
        Ok(())
    }

    /// Puts a version into a sealed backup when its durability asks for one, and the site knows of none.
    async fn back_up(
        &mut self,
        round: &Round<'_>,
        key: &KeyInForce,
        version: KeyVersion,
        entry: &VersionInForce,
        documents: &mut Documents,
    ) -> Result<(), BackupError> {
        if key.definition.durability != Durability::SealedBackup || entry.backed_up || entry.wipe {
            return Ok(());
        }
        if let Some(said) = self.signed.get(&(version, Said::BackedUp)) {
            documents.backup_reports.push(said.clone());
            return Ok(());
        }
        let fingerprint = match round.vault.held(version).await {
            Ok(held) => held.fingerprint,
            Err(VaultError::NotHeld(_) | VaultError::Destroyed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if entry.record.as_ref().is_some_and(|record| record.fingerprint != fingerprint) {
            return Ok(()); // other material: it is said elsewhere
        }
        let written = round.backups.version(version).await?;
        let InForce { tenant, site, agent, .. } = *round.in_force;
        let (holder, recovery_key, backup, issued) = (agent, written.recovery_key, written.sha256, round.clock.now());
        documents.backup_reports.push(self.say(version, Said::BackedUp, || {
            let report = BackupReport { tenant, site, version, fingerprint, holder, recovery_key, backup, issued };
            sign_document(&report, &[round.pair])
        }));
        Ok(())
    }

    fn report(
        &mut self,
        round: &Round<'_>,
        version: KeyVersion,
        fingerprint: Digest,
        status: HolderStatus,
        protection: Option<Protection>,
    ) -> Base64 {
        let said = match status {
            HolderStatus::Ready => Said::Ready,
            HolderStatus::Destroyed => Said::Destroyed,
        };
        self.say(version, said, || {
            let InForce { tenant, site, agent, .. } = round.in_force;
            let (tenant, site, holder, vault, issued) = (*tenant, *site, *agent, round.home, round.clock.now());
            sign_document(&HolderReport { tenant, site, version, fingerprint, holder, vault, status, protection, issued }, &[round.pair])
        })
    }

    fn say(&mut self, version: KeyVersion, said: Said, sign: impl FnOnce() -> Vec<u8>) -> Base64 {
        self.signed.entry((version, said)).or_insert_with(|| Base64(sign())).clone()
    }
}

/// Refuses to bring material where it is guarded less than its key demands.
pub(crate) fn meets(offered: Option<Protection>, definition: &KeyDefinition, version: KeyVersion) -> Result<(), VaultError> {
    let (demanded, offered) = (definition.protection, offered.unwrap_or_default());
    if offered < demanded { Err(VaultError::ProtectionNotMet { version, demanded, offered }) } else { Ok(()) }
}

impl Round<'_> {
    /// Says that a version that had been destroyed here was here again, and is destroyed again.
    fn returned(&self, version: KeyVersion) {
        let detail = "the vault had it again after it was destroyed here, as from an old copy of the vault; it was not used, and was \
                      destroyed again: find out where the copy came from, and whether there are others";
        tracing::error!(%version, "{detail}");
        self.findings.add(RETURNED, Found { version: Some(version), code: DESTROYED_VERSION_RETURNED, detail: detail.to_owned() });
    }

    fn record(&self, held: &Held, origin: Origin) -> VersionRecord {
        VersionRecord {
            tenant: self.in_force.tenant,
            site: self.in_force.site,
            version: held.version,
            algorithm: held.algorithm,
            origin,
            fingerprint: held.fingerprint,
            public_key: held.public_key.clone().map(Base64),
            generator: self.in_force.agent,
            issued: self.clock.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use schema::clock::{ManualClock, ManualIds, SystemIds};
    use trust::{
        accept::{Identity, RecoveryMemory},
        dsse::{open_document, peek_document},
        pair::Signers,
        statement::state::VersionEntry,
    };

    use super::*;
    use crate::{
        policy::{
            current::Current,
            testing::{AGENT, KEY, NOW, SITE, SetBuilder, TENANT},
        },
        recovery::{file::BackupFile, secret::RecoverySecret},
        vault::{
            file::{FileVault, Unlock},
            secret::SecretBytes,
        },
    };

    const NEXT: KeyVersion = KeyVersion::new(KEY, 3);

    struct Bench {
        set: SetBuilder,
        vault: FileVault,
        pair: Pair,
        clock: ManualClock,
        backups: Backups,
        directory: tempfile::TempDir,
        findings: Findings,
    }

    impl Bench {
        /// Version 3 was asked for, and this agent is to make it.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
            let vault = FileVault::open_or_create(&directory.path().join("vault"), &unlock, Arc::new(SystemIds)).unwrap();
            let mut set = SetBuilder::new("permit (principal, action, resource);");
            let entry = VersionEntry {
                state: VersionState::PreActivation,
                created: NOW,
                activated: None,
                generator: Some(AGENT),
                record: None,
                ready: BTreeMap::new(),
                backup: None,
            };
            set.state.keys.get_mut(&KEY).unwrap().versions.insert(3, entry);
            set.versions.insert(NEXT, (VersionState::PreActivation, false));
            let pair = Pair::generate(&ManualIds::seeded(1));
            let identity = Identity { tenant: TENANT, site: SITE, agent: AGENT, root: Digest([0; 32]), founder: None, keyid: pair.keyid() };
            let backups = Backups {
                directory: None,
                vault: Arc::new(vault.clone()),
                current: Arc::new(Current::default()),
                identity,
                pair: Arc::new(Pair::generate(&ManualIds::seeded(1))),
                clock: Arc::new(ManualClock::at(NOW)),
                ids: Arc::new(SystemIds),
                acts: crate::host::Acts::Notes(directory.path().to_owned()),
                writing: tokio::sync::Mutex::default(),
            };
            let findings = Findings::new(Arc::new(ManualClock::at(NOW)), Arc::default());
            Self { set, vault, pair, clock: ManualClock::at(NOW), backups, directory, findings }
        }

        async fn run(&self, reconciler: &mut Reconciler) -> Documents {
            self.backups.current.swap(Arc::new(self.set.compile()));
            reconciler.run(&self.set.compile(), &self.vault, &self.pair, &self.clock, &self.backups, &self.findings).await
        }
    }

    fn report(bench: &Bench, bytes: &Base64) -> HolderReport {
        open_document(bytes.as_slice(), &Signers::one(bench.pair.public().clone()), 1).unwrap().payload
    }

    #[tokio::test]
    async fn what_is_asked_for_is_made_once_and_said_until_state_knows_it() {
        let mut bench = Bench::new();
        let mut reconciler = Reconciler::default();
        let first = bench.run(&mut reconciler).await;
        assert_eq!((first.version_records.len(), first.holder_reports.len()), (1, 1));
        let record: VersionRecord = peek_document(first.version_records[0].as_slice()).unwrap();
        assert_eq!((record.version, record.generator), (NEXT, AGENT));
        assert_eq!(report(&bench, &first.holder_reports[0]).status, HolderStatus::Ready);
        assert_eq!(bench.run(&mut reconciler).await, first, "the same is said again");

        // After a crash between vault and report the same material is found.
        let again = bench.run(&mut Reconciler::default()).await;
        let found: VersionRecord = peek_document(again.version_records[0].as_slice()).unwrap();
        assert_eq!(found.fingerprint, record.fingerprint);

        let entry = bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap();
        entry.record = Some(first.version_records[0].clone());
        let known = bench.run(&mut reconciler).await;
        assert_eq!((known.version_records.len(), known.holder_reports.len()), (0, 1), "the record is known, the report is not");
        bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap().ready.insert(AGENT, first.holder_reports[0].clone());
        assert_eq!(bench.run(&mut reconciler).await, Documents::default());
    }

    #[tokio::test]
    async fn a_version_is_not_made_where_it_is_guarded_less_than_its_key_demands() {
        let mut bench = Bench::new();
        bench.set.key().protection = Protection::SealedByHardware;
        assert_eq!(bench.run(&mut Reconciler::default()).await, Documents::default());
        assert!(matches!(bench.vault.held(NEXT).await, Err(VaultError::NotHeld(_))), "nothing was made");
        bench.set.key().protection = Protection::Software;
        let made = bench.run(&mut Reconciler::default()).await;
        assert_eq!(report(&bench, &made.holder_reports[0]).protection, Some(Protection::Software));
    }

    #[tokio::test]
    async fn what_is_made_elsewhere_is_waited_for_and_recorded_as_such() {
        let mut bench = Bench::new();
        bench.set.key().origin = Origin::Imported;
        let mut reconciler = Reconciler::default();
        assert_eq!(bench.run(&mut reconciler).await, Documents::default(), "nothing is made in its place");
        assert!(matches!(bench.vault.held(NEXT).await, Err(VaultError::NotHeld(_))));
        bench.vault.import(NEXT, "A256KW+A256GCM".parse().unwrap(), SecretBytes::new(vec![3; 32])).await.unwrap();
        // Also after a crash between the vault and the record.
        for reconciler in [&mut reconciler, &mut Reconciler::default()] {
            let said = bench.run(reconciler).await;
            let record: VersionRecord = peek_document(said.version_records[0].as_slice()).unwrap();
            assert_eq!((record.version, record.origin), (NEXT, Origin::Imported));
            assert_eq!(report(&bench, &said.holder_reports[0]).status, HolderStatus::Ready);
        }
    }

    #[tokio::test]
    async fn others_make_what_they_are_to_make_and_other_material_is_not_reported() {
        let mut bench = Bench::new();
        let entry = bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap();
        entry.generator = Some(schema::id::AgentId::from_bits(99));
        assert_eq!(bench.run(&mut Reconciler::default()).await, Documents::default());
        assert!(matches!(bench.vault.held(NEXT).await, Err(VaultError::NotHeld(_))));

        // A record that speaks of other material than the vault holds.
        let other = Bench::new();
        let foreign = other.run(&mut Reconciler::default()).await;
        bench.vault.generate(NEXT, "A256KW+A256GCM".parse().unwrap()).await.unwrap();
        bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap().record = Some(foreign.version_records[0].clone());
        assert_eq!(bench.run(&mut Reconciler::default()).await, Documents::default());
    }

    #[tokio::test]
    async fn material_is_wiped_when_policy_confirms_it_and_that_is_said_until_it_is_heard() {
        let mut bench = Bench::new();
        let mut reconciler = Reconciler::default();
        bench.run(&mut reconciler).await;
        bench.set.versions.insert(NEXT, (VersionState::Destroyed, true));
        let gone = bench.run(&mut reconciler).await;
        assert_eq!(report(&bench, &gone.holder_reports[0]).status, HolderStatus::Destroyed);
        assert!(matches!(bench.vault.held(NEXT).await, Err(VaultError::Destroyed(_))));
        reconciler.delivered(&[]);
        assert!(reconciler.heard.is_empty(), "it was not among what was taken");
        reconciler.delivered(&gone.holder_reports);
        assert_eq!(reconciler.heard, BTreeSet::from([NEXT]));
        assert_eq!(bench.run(&mut reconciler).await, Documents::default());
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_soon_and_what_is_done_is_not() {
        let bench = Bench::new();
        let mut reconciler = Reconciler::default();
        let (there, away) = (bench.directory.path().join("vault"), bench.directory.path().join("away"));
        std::fs::rename(&there, &away).unwrap();
        let failed = bench.run(&mut reconciler).await;
        assert!(failed.unfinished && failed.version_records.is_empty(), "{failed:?}");
        std::fs::rename(&away, &there).unwrap();
        let made = bench.run(&mut reconciler).await;
        assert_eq!((made.unfinished, made.version_records.len()), (false, 1));
    }

    #[tokio::test]
    async fn a_version_that_must_be_backed_up_is_and_that_is_said_until_state_knows_it() {
        let mut bench = Bench::new();
        bench.set.key().durability = Durability::SealedBackup;
        for number in [1, 2] {
            bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&number).unwrap().backup = Some(Base64(vec![1]));
        }
        let mut reconciler = Reconciler::default();
        // Made, and held; but there is nothing to seal to, and then nowhere to put it.
        assert_eq!(bench.run(&mut reconciler).await.backup_reports.len(), 0);
        let secret = RecoverySecret::generate(&SystemIds).unwrap();
        bench.set.recovery =
            Some(RecoveryMemory { number: 1, public_key: secret.public_key().into(), shares: 3, threshold: 2, agent: AGENT });
        assert_eq!(bench.run(&mut reconciler).await.backup_reports.len(), 0);
        bench.backups.directory = Some(bench.directory.path().join("backups"));
        let said = bench.run(&mut reconciler).await;
        let report: BackupReport =
            open_document(said.backup_reports[0].as_slice(), &Signers::one(bench.pair.public().clone()), 1).unwrap().payload;
        assert_eq!((report.version, report.recovery_key), (NEXT, secret.keyid()));
        assert_eq!(bench.run(&mut reconciler).await, said, "the same is said again");
        let path = bench.directory.path().join(format!("backups/{AGENT}.{KEY}.3.fhb"));
        let file = BackupFile::read(&path).unwrap();
        assert_eq!((file.sha256, file.open(&secret).unwrap()[0].fingerprint), (report.backup, report.fingerprint));
        bench.set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap().backup = Some(said.backup_reports[0].clone());
        assert_eq!(bench.run(&mut reconciler).await.backup_reports.len(), 0);
        // Its backup goes when it is destroyed.
        bench.set.versions.insert(NEXT, (VersionState::Destroyed, true));
        bench.run(&mut reconciler).await;
        assert!(!path.exists());
    }
}
