//! Desired -> vault -> report. What the set in force asks of this agent is done in the vault, and said in signed documents.
//!
//! Everything here may be done again: a crash between the vault and the report leaves a version that is found and reported
//! the next time.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    catalogue::Algorithm,
    clock::Clock,
    encoding::{Base64, Digest},
    id::KeyVersion,
    key::{Origin, VersionState},
};
use trust::{
    document::{HolderReport, HolderStatus, VersionRecord},
    dsse::sign_document,
    pair::Pair,
};

use crate::{
    policy::in_force::{InForce, KeyInForce, VersionInForce},
    vault::{Held, Vault, VaultError},
};

/// Signed documents for the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Documents {
    /// Records of versions that were made here.
    pub version_records: Vec<Base64>,
    /// What the vault holds, and what is gone from it.
    pub holder_reports: Vec<Base64>,
}

impl Documents {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.version_records.is_empty() && self.holder_reports.is_empty()
    }
}

/// Makes and destroys material as the set in force asks, and remembers what it signed, so that the same is said again.
#[derive(Default)]
pub struct Reconciler {
    signed: BTreeMap<(KeyVersion, Said), Base64>,
    /// Destructions the control plane has heard of; state does not say so.
    heard: BTreeSet<KeyVersion>,
}

/// What was said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Made,
    Ready,
    Destroyed,
}

impl Reconciler {
    /// Does what the set asks, and gives what the control plane does not know yet. What fails is logged and tried again the
    /// next time.
    pub async fn run(&mut self, in_force: &InForce, vault: &dyn Vault, pair: &Pair, clock: &dyn Clock) -> Documents {
        let mut documents = Documents::default();
        for key in in_force.keys() {
            for (number, entry) in &key.versions {
                let version = KeyVersion::new(key.id, *number);
                if let Err(error) = self.version(in_force, vault, pair, clock, key, version, entry, &mut documents).await {
                    metrics::counter!("freehold_reconcile_failures_total").increment(1);
                    tracing::error!(error = &error as &dyn std::error::Error, %version, "a key version could not be brought to its desired state");
                }
            }
        }
        documents
    }

    /// The control plane took what [`Self::run`] gave last.
    pub fn delivered(&mut self) {
        let destroyed = self.signed.keys().filter(|(_, said)| *said == Said::Destroyed).map(|(version, _)| *version);
        self.heard.extend(destroyed);
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `run`")]
    async fn version(
        &mut self,
        in_force: &InForce,
        vault: &dyn Vault,
        pair: &Pair,
        clock: &dyn Clock,
        key: &KeyInForce,
        version: KeyVersion,
        entry: &VersionInForce,
        documents: &mut Documents,
    ) -> Result<(), VaultError> {
        if entry.wipe && self.heard.contains(&version) {
            return Ok(());
        }
        if entry.wipe {
            return self.destroy(in_force, vault, pair, clock, version, entry, documents).await;
        }
        match &entry.record {
            None if entry.generator == Some(in_force.agent) && entry.state == VersionState::PreActivation => {
                let algorithm = key.algorithm();
                let held = vault.generate(version, algorithm).await?;
                let record = self.say(version, Said::Made, || {
                    tracing::info!(%version, %algorithm, "a key version was made");
                    sign_document(&record(in_force, clock, &held, algorithm), &[pair])
                });
                documents.version_records.push(record);
                documents.holder_reports.push(self.report(in_force, pair, clock, version, held.fingerprint, HolderStatus::Ready));
                Ok(())
            }
            None => Ok(()),
            Some(_) if entry.reported_ready => Ok(()),
            Some(record) => match vault.held(version).await {
                Ok(held) if held.fingerprint == record.fingerprint => {
                    documents.holder_reports.push(self.report(in_force, pair, clock, version, held.fingerprint, HolderStatus::Ready));
                    Ok(())
                }
                Ok(_) => {
                    tracing::error!(%version, "the vault holds other material than the version's record says: it is not reported ready");
                    Ok(())
                }
                // Another agent made it, and it has not come here.
                Err(VaultError::NotHeld(_)) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `run`")]
    async fn destroy(
        &mut self,
        in_force: &InForce,
        vault: &dyn Vault,
        pair: &Pair,
        clock: &dyn Clock,
        version: KeyVersion,
        entry: &VersionInForce,
        documents: &mut Documents,
    ) -> Result<(), VaultError> {
        let held = match vault.held(version).await {
            Ok(held) => Some(held.fingerprint),
            Err(VaultError::NotHeld(_) | VaultError::Destroyed(_)) => None,
            Err(error) => return Err(error),
        };
        vault.destroy(version).await?;
        if held.is_some() {
            tracing::warn!(%version, "a key version was destroyed, as policy says");
        }
        // A version that nobody made has no fingerprint, and nobody waits to hear that it is gone.
        if let Some(fingerprint) = held.or(entry.record.as_ref().map(|record| record.fingerprint)) {
            documents.holder_reports.push(self.report(in_force, pair, clock, version, fingerprint, HolderStatus::Destroyed));
        }
        Ok(())
    }

    fn report(
        &mut self,
        in_force: &InForce,
        pair: &Pair,
        clock: &dyn Clock,
        version: KeyVersion,
        fingerprint: Digest,
        status: HolderStatus,
    ) -> Base64 {
        let said = match status {
            HolderStatus::Ready => Said::Ready,
            HolderStatus::Destroyed => Said::Destroyed,
        };
        self.say(version, said, || {
            let (tenant, site, holder) = (in_force.tenant, in_force.site, in_force.agent);
            sign_document(&HolderReport { tenant, site, version, fingerprint, holder, status, issued: clock.now() }, &[pair])
        })
    }

    fn say(&mut self, version: KeyVersion, said: Said, sign: impl FnOnce() -> Vec<u8>) -> Base64 {
        self.signed.entry((version, said)).or_insert_with(|| Base64(sign())).clone()
    }
}

fn record(in_force: &InForce, clock: &dyn Clock, held: &Held, algorithm: Algorithm) -> VersionRecord {
    VersionRecord {
        tenant: in_force.tenant,
        site: in_force.site,
        version: held.version,
        algorithm,
        origin: Origin::Generated,
        fingerprint: held.fingerprint,
        public_key: held.public_key.clone().map(Base64),
        generator: in_force.agent,
        issued: clock.now(),
    }
}
