//! One version of a key.

use std::collections::{BTreeMap, BTreeSet};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, VaultId},
    key::{Durability, Protection, RevocationReason, VersionState},
    name::Text,
};
use serde::{Deserialize, Serialize};

use super::{KeyRefusal, RecordBackup};

/// One version: its state, who made it, who has it, and whether it is on its way out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its state (SP 800-57).
    pub state: VersionState,
    /// When it was asked for.
    pub requested: Timestamp,
    /// Who is to make it, or made it.
    pub generator: Option<AgentId>,
    /// Its material, once it was made.
    pub made: Option<Made>,
    /// The generator, and whoever reported it ready.
    pub holders: BTreeMap<AgentId, Holder>,
    /// The sealed backups it is in, by the holder that wrote them.
    #[serde(default)]
    pub backups: BTreeMap<AgentId, Backup>,
    /// When it became active.
    pub activated: Option<Timestamp>,
    /// When it became deactivated.
    #[serde(default)]
    pub deactivated: Option<Timestamp>,
    /// When somebody wants it deactivated.
    #[serde(default)]
    pub deactivation: Option<Deactivation>,
    /// Somebody has cancelled its destruction: no rule schedules another.
    #[serde(default)]
    pub kept: bool,
    /// While it is suspended: the state it goes back to.
    pub suspended_in: Option<VersionState>,
    /// When it was last resumed: every earlier suspension is lifted.
    pub resumed: Option<Timestamp>,
    /// Why it was revoked.
    pub revoked: Option<Revoked>,
    /// Its end.
    pub destruction: Option<Destruction>,
}

/// What is known of the material of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Identifies the material. Final.
    pub fingerprint: Digest,
    /// The public key, where there is one.
    pub public_key: Option<Base64>,
    /// The generator's signed version record: a DSSE envelope, exact bytes. None of a partner's key.
    pub record: Option<Base64>,
    /// When the record, or the partner's public key, came.
    pub at: Timestamp,
}

/// An agent whose vault has, or had, a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// Its ready report.
    pub ready: Option<Ready>,
    /// Why it no longer has it.
    pub gone: Option<Gone>,
}

/// A ready report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The vault that has the version: agents that share one are one home.
    pub vault: VaultId,
    /// How well its vault guards it.
    #[serde(default)]
    pub protection: Option<Protection>,
    /// A DSSE envelope, exact bytes.
    pub report: Base64,
    /// When it came.
    pub at: Timestamp,
}

/// A sealed backup that a version is in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// The key id of the recovery key that opens it.
    pub recovery_key: Digest,
    /// SHA-256 of the backup.
    pub backup: Digest,
    /// The holder's report: a DSSE envelope, exact bytes.
    pub report: Base64,
    /// When it came.
    pub at: Timestamp,
}

/// Why a holder no longer has a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Gone {
    /// It reported that it destroyed it.
    Destroyed {
        /// The report: a DSSE envelope, exact bytes.
        report: Base64,
        /// When it came.
        at: Timestamp,
    },
    /// Somebody attests that its vault is lost.
    AttestedLost {
        /// What is known of it.
        attestation: Text,
        /// When it was attested.
        at: Timestamp,
    },
}

/// Why and when a version was revoked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why (RFC 5280).
    pub reason: RevocationReason,
    /// In words.
    pub comment: Option<Text>,
    /// When.
    pub at: Timestamp,
}

/// A deactivation that somebody wants at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deactivation {
    /// When.
    pub due: Timestamp,
    /// Why.
    pub reason: Option<Text>,
}

/// The end of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Destruction {
    /// It begins at this time, unless it is cancelled before.
    pub due: Timestamp,
    /// Why.
    pub reason: Option<Text>,
    /// Until when backups that hold it may exist, as far as somebody has said.
    #[serde(default)]
    pub backups_expire: Option<Timestamp>,
    /// When holders were told.
    pub begun: Option<Timestamp>,
    /// When the last holder had reported it gone.
    pub completed: Option<Timestamp>,
}

impl Version {
    /// A version that was asked for.
    pub(super) fn requested(generator: Option<AgentId>, at: Timestamp) -> Self {
        Self {
            state: VersionState::PreActivation,
            requested: at,
            generator,
            made: None,
            holders: BTreeMap::new(),
            backups: BTreeMap::new(),
            activated: None,
            deactivated: None,
            deactivation: None,
            kept: false,
            suspended_in: None,
            resumed: None,
            revoked: None,
            destruction: None,
        }
    }

    /// Whether it is still on its way to its first use: pre-activation, or suspended in it.
    pub fn is_pending(&self) -> bool {
        self.state == VersionState::PreActivation || self.suspended_in == Some(VersionState::PreActivation)
    }

    /// Whether its destruction is scheduled and can still be cancelled.
    pub fn is_scheduled_for_destruction(&self) -> bool {
        self.destruction.as_ref().is_some_and(|destruction| destruction.begun.is_none())
    }

    /// Holders that have not reported it gone.
    pub fn holders_left(&self) -> impl Iterator<Item = AgentId> + '_ {
        self.holders.iter().filter(|(_, holder)| holder.gone.is_none()).map(|(agent, _)| *agent)
    }

    /// Whether it has the homes its durability demands, one more holder counted in. A home is a vault: what agents share is
    /// one.
    pub(super) fn is_home_with(&self, durability: Durability, one_more: Option<(AgentId, VaultId)>) -> bool {
        let ready = |(agent, holder): (&AgentId, &Holder)| {
            holder.ready.as_ref().filter(|_| holder.gone.is_none()).map(|ready| (*agent, ready.vault))
        };
        let holders: BTreeMap<AgentId, VaultId> = self.holders.iter().filter_map(ready).chain(one_more).collect();
        let homes: BTreeSet<VaultId> = holders.values().copied().collect();
        let generator_is_home = self.generator.is_some_and(|generator| holders.contains_key(&generator));
        match durability {
            Durability::SingleCopy => self.made.is_some() && generator_is_home,
            Durability::TwoHolders => self.made.is_some() && homes.len() >= 2,
            Durability::SealedBackup => self.made.is_some() && generator_is_home && !self.backups.is_empty(),
            // Nobody here has to have it.
            Durability::Elsewhere => self.made.is_some(),
        }
    }

    /// The backups it is in, one more counted in.
    pub(super) fn backups_with(&self, report: &RecordBackup) -> BTreeMap<AgentId, Backup> {
        let RecordBackup { recovery_key, backup, .. } = *report;
        let one_more = Backup { recovery_key, backup, report: report.report.clone(), at: self.requested };
        self.backups.clone().into_iter().chain([(report.holder, one_more)]).collect()
    }

    /// Refuses a transition that SP 800-57 does not know.
    pub(super) fn may_become(&self, to: VersionState) -> Result<(), KeyRefusal> {
        if self.state.successors().contains(&to) { Ok(()) } else { Err(KeyRefusal::Transition { from: self.state, to }) }
    }

    /// Takes a state.
    pub(super) fn become_state(&mut self, to: VersionState, at: Timestamp) {
        if to == VersionState::Deactivated {
            self.deactivated = Some(at);
        }
        if !matches!(to, VersionState::PreActivation | VersionState::Active | VersionState::Suspended) {
            self.deactivation = None;
        }
        self.suspended_in = (to == VersionState::Suspended).then_some(self.suspended_in.unwrap_or(self.state));
        self.state = to;
    }

    /// Goes back to the state it was suspended in.
    pub(super) fn resume(&mut self, at: Timestamp) {
        if let Some(state) = self.suspended_in.take() {
            self.state = state;
            self.resumed = Some(at);
        }
    }
}
