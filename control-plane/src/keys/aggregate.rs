//! What a key is, and how it changes. How it decides stands in `decide.rs`.

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    event::key::KeyEvent,
    id::{AgentId, KeyId, ProjectId, SiteId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, Purpose, RevocationReason, RotationRule, VersionState, words},
    name::{Labels, Name, Text},
};
use serde::{Deserialize, Serialize};

use super::{Backup, Deactivation, Destruction, Gone, Holder, KeyCommand, KeyRefusal, Made, Ready, Revoked, Version};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

words! {
    /// How a key is, in a word: listings filter by it.
    KeyState {
        /// No version has become active yet.
        Pending = "pending",
        /// Its primary version is active.
        Active = "active",
        /// The key, or its primary version, is suspended.
        Suspended = "suspended",
        /// Its primary version only opens and verifies.
        Deactivated = "deactivated",
        /// Its primary version is known or feared to be in other hands.
        Compromised = "compromised",
        /// Its primary version, or every version, is destroyed.
        Destroyed = "destroyed",
    }
}

/// A key; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What it is for.
    pub description: Option<Text>,
    /// Labels, given to policy.
    pub labels: Labels,
    /// Soft and hard limits.
    pub limits: Limits,
    /// How new versions may come about.
    pub rotation: RotationRule,
    /// The lowest versions that may still be used.
    pub minimum_versions: MinimumVersions,
    /// The key that takes its place.
    #[serde(default)]
    pub successor: Option<KeyId>,
    /// Whether it is protected from destruction.
    pub deletion_protection: bool,
    /// Since when, and why, all its versions may do nothing.
    pub suspended: Option<Stopped>,
    /// When it was last resumed: every earlier suspension of the whole key is lifted.
    pub resumed: Option<Timestamp>,
    /// The version used when none is named; 0 while there is none. Moves forward only.
    pub primary: u32,
    /// Every version ever, by number, without gaps from 1.
    pub versions: BTreeMap<u32, Version>,
}

/// What never changes about a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: KeyId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// Exactly one algorithm.
    pub algorithm: Algorithm,
    /// Exactly one purpose.
    pub purpose: Purpose,
    /// Where its material may be.
    pub placement: Vec<SiteId>,
    /// How many homes a version needs.
    pub durability: Durability,
    /// How well a vault must guard its material.
    #[serde(default)]
    pub protection: Protection,
    /// Whether material may leave the vault, wrapped.
    pub exportable: bool,
    /// Where its material is made.
    pub origin: Origin,
    /// Agents that may make its material; empty: any rostered agent of its sites.
    pub eligible_generators: Vec<AgentId>,
    /// The template of policy it follows.
    pub template: Option<Name>,
    /// When it was created.
    pub created: Timestamp,
}

/// Since when and why something does nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: Option<Text>,
}

impl Key {
    /// How it is, in a word.
    pub fn state(&self) -> KeyState {
        if !self.versions.is_empty() && self.versions.values().all(|version| version.state == VersionState::Destroyed) {
            return KeyState::Destroyed;
        }
        match self.versions.get(&self.primary).map(|version| version.state) {
            Some(VersionState::Destroyed) => KeyState::Destroyed,
            Some(VersionState::Compromised) => KeyState::Compromised,
            _ if self.suspended.is_some() => KeyState::Suspended,
            None | Some(VersionState::PreActivation) => KeyState::Pending,
            Some(VersionState::Active) => KeyState::Active,
            Some(VersionState::Suspended) => KeyState::Suspended,
            Some(VersionState::Deactivated) => KeyState::Deactivated,
        }
    }

    /// The number of the newest version; 0 while there is none.
    pub fn highest(&self) -> u32 {
        self.versions.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// The version that is on its way to its first use, if there is one.
    pub fn pending(&self) -> Option<(u32, &Version)> {
        self.versions.iter().find(|(_, version)| version.is_pending()).map(|(number, version)| (*number, version))
    }

    /// When the rotation rule wants the next version, by age or calendar: none when it is by hand or by uses only, or one is on its
    /// way.
    pub fn rotation_due(&self) -> Option<Timestamp> {
        Some(self.rotation.due_after(self.may_rotate()?.activated?)?.max(self.rotation_allowed()))
    }

    /// When the rotation rule wants the next version because the primary one was used so often.
    pub fn rotation_due_by_uses(&self, used: u64) -> Option<Timestamp> {
        self.may_rotate()?;
        self.rotation.after_uses.filter(|uses| used >= *uses).map(|_| self.rotation_allowed())
    }

    /// The version that a rule may replace.
    fn may_rotate(&self) -> Option<&Version> {
        if self.pending().is_some() || self.suspended.is_some() {
            return None;
        }
        self.versions.get(&self.primary).filter(|version| version.state == VersionState::Active)
    }

    /// Since when a newer version is used instead of this one; none while it is the primary.
    pub fn replaced(&self, number: u32) -> Option<Timestamp> {
        let newer = self.versions.range(number.checked_add(1)?..).take_while(|(newer, _)| **newer <= self.primary);
        newer.filter_map(|(_, version)| version.activated).min()
    }

    /// When a version is to be deactivated: by the date that somebody chose, or by the rotation rule.
    pub fn deactivation_due(&self, number: u32) -> Option<Timestamp> {
        let version = self.versions.get(&number).filter(|version| version.state == VersionState::Active)?;
        let by_date = version.deactivation.as_ref().map(|deactivation| deactivation.due);
        by_date.into_iter().chain(self.deactivation_by_rule(number)).min()
    }

    /// When the rotation rule wants a version deactivated.
    pub fn deactivation_by_rule(&self, number: u32) -> Option<Timestamp> {
        Some(self.replaced(number)?.plus(std::time::Duration::from_secs(self.rotation.deactivate_after_seconds?)))
    }

    /// When the rotation rule wants a version destroyed, if nobody has said otherwise: then it is scheduled at once.
    pub fn destruction_by_rule(&self, number: u32) -> Option<Timestamp> {
        let version = self.versions.get(&number).filter(|version| version.state == VersionState::Deactivated)?;
        if version.destruction.is_some() || version.kept || self.deletion_protection {
            return None;
        }
        self.replaced(number)?;
        Some(version.deactivated?.plus(std::time::Duration::from_secs(self.rotation.destroy_after_seconds?)))
    }

    /// From when on the rotation rule allows the next version.
    pub fn rotation_allowed(&self) -> Timestamp {
        self.versions.last_key_value().map_or(Timestamp::default(), |(_, last)| last.requested.plus(self.rotation.min_interval()))
    }

    fn version(&mut self, number: u32, change: impl FnOnce(&mut Version)) {
        if let Some(version) = self.versions.get_mut(&number) {
            change(version);
        }
    }

    fn revoke(&mut self, number: u32, reason: RevocationReason, comment: Option<Text>, at: Timestamp) {
        self.version(number, |version| {
            version.become_state(reason.state(), at);
            version.revoked = Some(Revoked { reason, comment, at });
        });
    }
}

impl Aggregate for Key {
    type Id = KeyId;
    type Command = KeyCommand;
    type Event = KeyEvent;
    type Refusal = KeyRefusal;
    const KIND: &'static str = "key";

    fn decide(&self, command: &KeyCommand, deciding: &Deciding<'_>) -> Result<Vec<KeyEvent>, KeyRefusal> {
        super::decide::decide(self, command, deciding.now)
    }

    fn evolve(&mut self, event: &KeyEvent, meta: &EventMeta) {
        let at = meta.time;
        match event {
            KeyEvent::KeyCreated(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed {
                    id,
                    project: event.project,
                    name: event.name.clone(),
                    algorithm: event.algorithm,
                    purpose: event.purpose,
                    placement: event.placement.clone(),
                    durability: event.durability,
                    protection: event.protection,
                    exportable: event.exportable,
                    origin: event.origin,
                    eligible_generators: event.eligible_generators.clone(),
                    template: event.template.clone(),
                    created: at,
                });
                self.description = event.description.clone();
                self.labels = event.labels.clone();
                self.limits = event.limits.clone();
                self.rotation = event.rotation.clone();
                self.deletion_protection = event.deletion_protection;
            }
            KeyEvent::KeyDescribed(event) => self.description = event.description.clone(),
            KeyEvent::KeyRelabelled(event) => self.labels = event.labels.clone(),
            KeyEvent::KeyLimitsSet(event) => self.limits = event.limits.clone(),
            KeyEvent::KeyRotationRuleSet(event) => self.rotation = event.rotation.clone(),
            KeyEvent::KeyMinimumVersionsSet(event) => self.minimum_versions = event.minimum_versions,
            KeyEvent::KeySuccessorSet(event) => self.successor = event.successor,
            KeyEvent::DeactivationScheduled(event) => self.version(event.number, |version| {
                version.deactivation = Some(Deactivation { due: event.due, reason: event.reason.clone() });
            }),
            KeyEvent::DeactivationCancelled(event) => self.version(event.number, |version| version.deactivation = None),
            KeyEvent::KeyDeletionProtectionSet(event) => self.deletion_protection = event.protected,
            KeyEvent::KeySuspended(event) => self.suspended = Some(Stopped { at, reason: event.reason.clone() }),
            KeyEvent::KeyResumed(_) => {
                self.suspended = None;
                self.resumed = Some(at);
            }
            KeyEvent::VersionRequested(event) => {
                self.versions.insert(event.number, Version::requested(event.generator, at));
            }
            KeyEvent::GeneratorAssigned(event) => self.version(event.number, |version| version.generator = Some(event.generator)),
            KeyEvent::VersionMade(event) => self.version(event.number, |version| {
                version.generator = Some(event.generator);
                let (public_key, record) = (event.public_key.clone(), Some(event.record.clone()));
                version.made = Some(Made { fingerprint: event.fingerprint, public_key, record, at });
                version.holders.insert(event.generator, Holder::default());
            }),
            KeyEvent::ExternalVersionRegistered(event) => {
                let public_key = Some(event.public_key.clone());
                let made = Made { fingerprint: event.fingerprint, public_key, record: None, at };
                self.versions.insert(event.number, Version { made: Some(made), ..Version::requested(None, at) });
            }
            KeyEvent::HolderReady(event) => self.version(event.number, |version| {
                version.holders.entry(event.holder).or_default().ready =
                    Some(Ready { vault: event.vault, protection: event.protection, report: event.report.clone(), at });
            }),
            KeyEvent::MaterialSent(event) => self.version(event.number, |version| {
                version.holders.entry(event.recipient).or_default();
            }),
            KeyEvent::VersionBackedUp(event) => self.version(event.number, |version| {
                let (recovery_key, backup, report) = (event.recovery_key, event.backup, event.report.clone());
                version.backups.insert(event.holder, Backup { recovery_key, backup, report, at });
            }),
            KeyEvent::VersionActivated(event) => self.version(event.number, |version| {
                version.become_state(VersionState::Active, at);
                version.activated = Some(at);
            }),
            KeyEvent::PrimaryMoved(event) => self.primary = self.primary.max(event.number),
            KeyEvent::VersionSuspended(event) => self.version(event.number, |version| version.become_state(VersionState::Suspended, at)),
            KeyEvent::VersionResumed(event) => self.version(event.number, |version| version.resume(at)),
            KeyEvent::VersionDeactivated(event) => {
                self.version(event.number, |version| version.become_state(VersionState::Deactivated, at))
            }
            KeyEvent::VersionCompromised(event) => {
                self.version(event.number, |version| version.become_state(VersionState::Compromised, at))
            }
            KeyEvent::VersionRevoked(event) => self.revoke(event.number, event.reason, event.comment.clone(), at),
            KeyEvent::DestructionScheduled(event) => self.version(event.number, |version| {
                version.destruction = Some(Destruction {
                    due: event.due,
                    reason: event.reason.clone(),
                    backups_expire: event.backups_expire,
                    begun: None,
                    completed: None,
                });
            }),
            KeyEvent::DestructionCancelled(event) => self.version(event.number, |version| {
                version.destruction = None;
                version.kept = true;
            }),
            KeyEvent::DestructionBegun(event) => self.version(event.number, |version| {
                version.become_state(VersionState::Destroyed, at);
                if let Some(destruction) = &mut version.destruction {
                    destruction.begun = Some(at);
                }
            }),
            KeyEvent::HolderDestroyed(event) => self.version(event.number, |version| {
                version.holders.entry(event.holder).or_default().gone = Some(Gone::Destroyed { report: event.report.clone(), at });
            }),
            KeyEvent::HolderAttestedLost(event) => self.version(event.number, |version| {
                let attestation = event.attestation.clone();
                version.holders.entry(event.holder).or_default().gone = Some(Gone::AttestedLost { attestation, at });
            }),
            KeyEvent::VersionDestroyed(event) => self.version(event.number, |version| {
                if let Some(destruction) = &mut version.destruction {
                    destruction.completed = Some(at);
                }
            }),
        }
    }

    fn index(&self) -> Index {
        let Some(fixed) = &self.fixed else { return Index::default() };
        let mut terms = vec![
            ("algorithm".to_owned(), fixed.algorithm.to_string()),
            ("purpose".to_owned(), fixed.purpose.to_string()),
            ("durability".to_owned(), fixed.durability.to_string()),
        ];
        terms.extend(fixed.placement.iter().map(|site| ("site".to_owned(), site.to_string())));
        terms.extend(fixed.template.iter().map(|template| ("template".to_owned(), template.to_string())));
        terms.extend(self.successor.iter().map(|successor| ("successor".to_owned(), successor.to_string())));
        terms.extend(self.labels.iter().map(|(name, value)| (format!("label.{name}"), value.to_string())));
        Index {
            parent: Some(fixed.project.to_string()),
            name: Some(fixed.name.to_string()),
            state: Some(self.state().to_string()),
            terms,
            ..Index::default()
        }
    }
}
