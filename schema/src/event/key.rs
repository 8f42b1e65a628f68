//! What is recorded of a key and its versions.

use crate::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Base64, Digest},
    events,
    id::{AgentId, KeyId, ProjectId, SiteId, VaultId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, Purpose, RevocationReason, RotationRule},
    name::{Labels, Name, Text},
};

events! {
    /// What happens to a key.
    KeyEvent {
        /// It was created. It has no material yet.
        KeyCreated 1 {
            /// The project it belongs to.
            project: ProjectId,
            /// Its name in the project.
            name: Name,
            /// What it is for.
            description: Option<Text>,
            /// Exactly one algorithm.
            algorithm: Algorithm,
            /// Exactly one purpose.
            purpose: Purpose,
            /// Where its material may be.
            placement: Vec<SiteId>,
            /// Labels, given to policy.
            labels: Labels,
            /// How many homes a version needs.
            durability: Durability,
            /// How well a vault must guard its material.
            #[serde(default, skip_serializing_if = "Protection::is_least")]
            protection: Protection,
            /// Whether material may leave the vault, wrapped.
            exportable: bool,
            /// Where its material is made.
            origin: Origin,
            /// Agents that may make its material; empty: any rostered agent of its sites.
            eligible_generators: Vec<AgentId>,
            /// Whether it is protected from destruction.
            deletion_protection: bool,
            /// Soft and hard limits.
            limits: Limits,
            /// How new versions may come about.
            rotation: RotationRule,
            /// The template of policy it follows.
            template: Option<Name>,
        },
        /// It is described otherwise now.
        KeyDescribed 1 {
            /// What it is for.
            description: Option<Text>,
        },
        /// Its labels were replaced.
        KeyRelabelled 1 {
            /// All labels.
            labels: Labels,
        },
        /// Its limits were replaced.
        KeyLimitsSet 1 {
            /// All limits.
            limits: Limits,
        },
        /// Its rotation rule was replaced.
        KeyRotationRuleSet 1 {
            /// The rule.
            rotation: RotationRule,
        },
        /// Older versions may no longer be used, or may again.
        KeyMinimumVersionsSet 1 {
            /// The lowest versions that may still be used.
            minimum_versions: MinimumVersions,
        },
        /// Another key takes its place, or none does any more.
        KeySuccessorSet 1 {
            /// The key that what this one protects is to move to.
            successor: Option<KeyId>,
        },
        /// It is protected from destruction, or no longer.
        KeyDeletionProtectionSet 1 {
            /// Whether it is protected.
            protected: bool,
        },
        /// All its versions may do nothing until it is resumed.
        KeySuspended 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// Its versions may be used again, each as far as its own state allows.
        KeyResumed 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// A version was asked for.
        VersionRequested 1 {
            /// Its number, from 1 without gaps.
            number: u32,
            /// The agent that is to make it; none until one was chosen.
            generator: Option<AgentId>,
        },
        /// An agent was chosen to make a version.
        GeneratorAssigned 1 {
            /// The version.
            number: u32,
            /// The agent.
            generator: AgentId,
        },
        /// Its generator made a version, and signed for it. The first such record is final.
        VersionMade 1 {
            /// The version.
            number: u32,
            /// Who made it.
            generator: AgentId,
            /// Identifies the material.
            fingerprint: Digest,
            /// The public key, where there is one.
            public_key: Option<Base64>,
            /// The signed version record: a DSSE envelope, exact bytes.
            record: Base64,
        },
        /// A partner's public key was registered as a version of an external key. It is in nobody's vault.
        ExternalVersionRegistered 1 {
            /// The version.
            number: u32,
            /// Identifies the key: [`crate::key::fingerprint`].
            fingerprint: Digest,
            /// The public key as the algorithm's standard encodes it.
            public_key: Base64,
        },
        /// A holder's vault has a version.
        HolderReady 1 {
            /// The version.
            number: u32,
            /// The holder.
            holder: AgentId,
            /// Its vault: agents that share one are one home.
            vault: VaultId,
            /// How well its vault guards it, as the report says.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            protection: Option<Protection>,
            /// Its signed report: a DSSE envelope, exact bytes.
            report: Base64,
        },
        /// A holder sent a version, sealed, to another agent: a copy may be there from now on.
        MaterialSent 1 {
            /// The version.
            number: u32,
            /// Who sent it.
            sender: AgentId,
            /// Whom to.
            recipient: AgentId,
        },
        /// A version is in a backup that is sealed to the site's recovery key.
        VersionBackedUp 1 {
            /// The version.
            number: u32,
            /// The holder that wrote the backup.
            holder: AgentId,
            /// The key id of the recovery key.
            recovery_key: Digest,
            /// SHA-256 of the backup.
            backup: Digest,
            /// The holder's signed report: a DSSE envelope, exact bytes.
            report: Base64,
        },
        /// A version has the homes its durability demands.
        VersionActivated 1 {
            /// The version.
            number: u32,
        },
        /// A version is used when none is named.
        PrimaryMoved 1 {
            /// The version.
            number: u32,
        },
        /// A version may do nothing until it is resumed.
        VersionSuspended 1 {
            /// The version.
            number: u32,
            /// Why.
            reason: Option<Text>,
        },
        /// A version is what it was before it was suspended.
        VersionResumed 1 {
            /// The version.
            number: u32,
            /// Why.
            reason: Option<Text>,
        },
        /// A version only opens and verifies from now on.
        VersionDeactivated 1 {
            /// The version.
            number: u32,
            /// Why.
            reason: Option<Text>,
        },
        /// A version will be deactivated, unless somebody cancels it.
        DeactivationScheduled 1 {
            /// The version.
            number: u32,
            /// When.
            due: Timestamp,
            /// Why.
            reason: Option<Text>,
        },
        /// It will not be.
        DeactivationCancelled 1 {
            /// The version.
            number: u32,
        },
        /// A version is known or feared to be in other hands.
        VersionCompromised 1 {
            /// The version.
            number: u32,
            /// What is known.
            reason: Option<Text>,
        },
        /// A version was revoked; the reason says which state it takes.
        VersionRevoked 1 {
            /// The version.
            number: u32,
            /// Why (RFC 5280).
            reason: RevocationReason,
            /// In words.
            comment: Option<Text>,
        },
        /// A version will be destroyed, unless somebody cancels it.
        DestructionScheduled 1 {
            /// The version.
            number: u32,
            /// Not before this.
            due: Timestamp,
            /// Why.
            reason: Option<Text>,
            /// Until when backups that hold it may exist, as far as somebody has said.
            backups_expire: Option<Timestamp>,
        },
        /// It will not be.
        DestructionCancelled 1 {
            /// The version.
            number: u32,
        },
        /// The wait is over: holders are told to destroy it.
        DestructionBegun 1 {
            /// The version.
            number: u32,
        },
        /// It is gone from a holder's vault.
        HolderDestroyed 1 {
            /// The version.
            number: u32,
            /// The holder.
            holder: AgentId,
            /// Its signed report: a DSSE envelope, exact bytes.
            report: Base64,
        },
        /// A holder will never report; somebody attests why.
        HolderAttestedLost 1 {
            /// The version.
            number: u32,
            /// The holder.
            holder: AgentId,
            /// What is known of its vault.
            attestation: Text,
        },
        /// It is gone from every holder.
        VersionDestroyed 1 {
            /// The version.
            number: u32,
        },
    }
}
