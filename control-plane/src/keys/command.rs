//! What may be asked of a key.

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, KeyId, KeyVersion, ProjectId, SiteId, VaultId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, Purpose, RevocationReason, RotationRule},
    name::{Labels, Name, Text},
    rule::KeyTemplate,
};
use serde::Serialize;

use super::RecoverKey;

/// A parsed intent. What was looked up beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum KeyCommand {
    /// Begin it, and ask for its first version.
    Create(Box<CreateKey>),
    /// Begin a partner's key, with the public key it has now.
    RegisterExternal(Box<RegisterExternal>),
    /// The partner has another public key now: the next version.
    RegisterExternalVersion {
        /// The public key as the algorithm's standard encodes it; the handler has read it.
        public_key: Base64,
    },
    /// Come as far again as a signed state says it was, after the control plane was restored.
    Recover(Box<RecoverKey>),
    /// Describe it otherwise.
    Describe {
        /// What it is for.
        description: Option<Text>,
    },
    /// Replace its labels.
    Relabel {
        /// All labels.
        labels: Labels,
    },
    /// Replace its limits.
    SetLimits {
        /// All limits.
        limits: Limits,
    },
    /// Replace its rotation rule.
    SetRotationRule {
        /// The rule.
        rotation: RotationRule,
    },
    /// Say which versions may still be used.
    SetMinimumVersions {
        /// The lowest versions.
        minimum_versions: MinimumVersions,
    },
    /// Say which key takes its place.
    SetSuccessor {
        /// The key; none: no key does.
        successor: Option<KeyId>,
        /// Looked up: what there is to know of it; none when there is no such key.
        #[serde(skip)]
        found: Option<Successor>,
    },
    /// Protect it from destruction, or no longer.
    SetDeletionProtection {
        /// Whether it is protected.
        protected: bool,
    },
    /// Let all its versions do nothing for now.
    Suspend {
        /// Why.
        reason: Option<Text>,
    },
    /// Let them act again.
    Resume {
        /// Why.
        reason: Option<Text>,
    },
    /// Ask for the next version.
    Rotate {
        /// Looked up or chosen: the agent that is to make it, and its site.
        #[serde(skip)]
        generator: Option<(AgentId, SiteId)>,
    },
    /// Choose the agent that is to make a version.
    AssignGenerator {
        /// The version.
        number: u32,
        /// The agent.
        generator: AgentId,
        /// Looked up: the site it is rostered at.
        #[serde(skip)]
        site: SiteId,
    },
    /// Its generator made a version. The handler has verified the record.
    RecordVersion(Box<RecordVersion>),
    /// A holder has a version. The handler has verified the report.
    RecordReady(RecordReady),
    /// A holder sends a version to another agent. The handler has verified that the holder sealed and signed it.
    RecordSent(RecordSent),
    /// Let one version do nothing for now.
    SuspendVersion {
        /// The version.
        number: u32,
        /// Why.
        reason: Option<Text>,
    },
    /// Let it be again what it was.
    ResumeVersion {
        /// The version.
        number: u32,
        /// Why.
        reason: Option<Text>,
    },
    /// A holder has put a version into a sealed backup. The handler has verified the report.
    RecordBackup(RecordBackup),
    /// Let one version only open and verify.
    DeactivateVersion {
        /// The version.
        number: u32,
        /// Why.
        reason: Option<Text>,
    },
    /// Deactivate a version at a time.
    ScheduleDeactivation {
        /// The version.
        number: u32,
        /// When.
        due: Timestamp,
        /// Why.
        reason: Option<Text>,
    },
    /// Do not deactivate it after all.
    CancelDeactivation {
        /// The version.
        number: u32,
    },
    /// Say that a version is, or may be, in other hands.
    CompromiseVersion {
        /// The version.
        number: u32,
        /// What is known.
        reason: Option<Text>,
    },
    /// Revoke a version; the reason decides the state it takes.
    RevokeVersion {
        /// The version.
        number: u32,
        /// Why (RFC 5280).
        reason: RevocationReason,
        /// In words.
        comment: Option<Text>,
    },
    /// Destroy a version, after a wait.
    ScheduleDestruction {
        /// The version.
        number: u32,
        /// How long it can still be cancelled; absent: [`super::DEFAULT_WAIT`].
        wait_seconds: Option<u64>,
        /// Instead of a wait: when.
        due: Option<Timestamp>,
        /// Why.
        reason: Option<Text>,
        /// Until when backups that hold it may exist, as far as somebody has said.
        backups_expire: Option<Timestamp>,
    },
    /// Do not destroy it after all.
    CancelDestruction {
        /// The version.
        number: u32,
    },
    /// The wait is over: tell the holders.
    BeginDestruction {
        /// The version.
        number: u32,
    },
    /// A holder has destroyed a version. The handler has verified the report.
    RecordDestroyed(RecordDestroyed),
    /// Say why a holder will never report that.
    AttestLost {
        /// The version.
        number: u32,
        /// The holder.
        holder: AgentId,
        /// What is known of its vault.
        attestation: Text,
    },
}

/// A key that is to take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Successor {
    /// Its project.
    pub project: ProjectId,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it leads back to the key whose place it is to take.
    pub leads_back: bool,
}

/// Begin a key.
#[derive(Debug, Clone, Serialize)]
pub struct CreateKey {
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// What it is for.
    pub description: Option<Text>,
    /// Exactly one algorithm.
    pub algorithm: Algorithm,
    /// Exactly one purpose.
    pub purpose: Purpose,
    /// Where its material may be: sites of the tenant, which the handler has looked up.
    pub placement: Vec<SiteId>,
    /// Labels, given to policy.
    pub labels: Labels,
    /// How many homes a version needs; absent: a sealed backup, where every site of the key has a recovery key.
    pub durability: Option<Durability>,
    /// How well a vault must guard its material.
    pub protection: Protection,
    /// Whether material may leave the vault, wrapped.
    pub exportable: bool,
    /// Where its material is made.
    pub origin: Origin,
    /// Agents that may make its material; empty: any rostered agent of its sites.
    pub eligible_generators: Vec<AgentId>,
    /// Whether it is protected from destruction.
    pub deletion_protection: bool,
    /// Soft and hard limits.
    pub limits: Limits,
    /// How new versions may come about.
    pub rotation: RotationRule,
    /// The template of policy it follows.
    pub template: Option<Template>,
    /// Looked up or chosen: the agent that is to make the first version, and its site.
    #[serde(skip)]
    pub generator: Option<(AgentId, SiteId)>,
    /// Looked up: whether an alias of the project has this very name.
    #[serde(skip)]
    pub name_is_an_alias: bool,
    /// Looked up: whether a composite of the project has it.
    #[serde(skip)]
    pub name_is_a_composite: bool,
    /// Looked up: whether every site of the placement has a recovery key.
    #[serde(skip)]
    pub sites_have_recovery_keys: bool,
}

/// Begin a partner's key.
#[derive(Debug, Clone, Serialize)]
pub struct RegisterExternal {
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// What it is for.
    pub description: Option<Text>,
    /// Exactly one algorithm.
    pub algorithm: Algorithm,
    /// Exactly one purpose; absent: the first that a public half serves.
    pub purpose: Option<Purpose>,
    /// Where it may be used: sites of the tenant, which the handler has looked up.
    pub placement: Vec<SiteId>,
    /// Labels, given to policy.
    pub labels: Labels,
    /// Whether it is protected from destruction.
    pub deletion_protection: bool,
    /// The public key as the algorithm's standard encodes it; the handler has read it.
    pub public_key: Base64,
    /// Looked up: whether an alias of the project has this very name.
    #[serde(skip)]
    pub name_is_an_alias: bool,
    /// Looked up: whether a composite of the project has it.
    #[serde(skip)]
    pub name_is_a_composite: bool,
}

/// A template of the policy in force.
#[derive(Debug, Clone, Serialize)]
pub struct Template {
    /// Its name.
    pub name: Name,
    /// Looked up: what it allows.
    #[serde(skip)]
    pub rule: KeyTemplate,
    /// Looked up: how many keys were made from it.
    #[serde(skip)]
    pub keys_made: u64,
}

/// What a verified version record says, and its exact bytes.
#[derive(Debug, Clone, Serialize)]
pub struct RecordVersion {
    /// The version it names.
    pub version: KeyVersion,
    /// The site it names.
    pub site: SiteId,
    /// The algorithm it names.
    pub algorithm: Algorithm,
    /// The origin it names.
    pub origin: Origin,
    /// Who signed it.
    pub generator: AgentId,
    /// Identifies the material.
    pub fingerprint: Digest,
    /// The public key, where there is one.
    pub public_key: Option<Base64>,
    /// The record: a DSSE envelope, exact bytes.
    pub record: Base64,
}

/// What a verified transfer says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct RecordSent {
    /// The version it names.
    pub version: KeyVersion,
    /// The sites it names: of its sender, and of its recipient.
    pub sites: [SiteId; 2],
    /// Who sealed and signed it.
    pub sender: AgentId,
    /// Whom it is for.
    pub recipient: AgentId,
    /// Identifies the material.
    pub fingerprint: Digest,
}

/// What a verified ready report says, and its exact bytes.
#[derive(Debug, Clone, Serialize)]
pub struct RecordReady {
    /// The version it names.
    pub version: KeyVersion,
    /// The site it names.
    pub site: SiteId,
    /// Who signed it.
    pub holder: AgentId,
    /// In which vault.
    pub vault: VaultId,
    /// Identifies the material.
    pub fingerprint: Digest,
    /// How well its vault guards it.
    pub protection: Option<Protection>,
    /// The report: a DSSE envelope, exact bytes.
    pub report: Base64,
}

/// What a verified report of a sealed backup says, and its exact bytes.
#[derive(Debug, Clone, Serialize)]
pub struct RecordBackup {
    /// The version it names.
    pub version: KeyVersion,
    /// The site it names.
    pub site: SiteId,
    /// Who signed it.
    pub holder: AgentId,
    /// Identifies the material.
    pub fingerprint: Digest,
    /// The key id of the recovery key that the backup is sealed to.
    pub recovery_key: Digest,
    /// SHA-256 of the backup.
    pub backup: Digest,
    /// The report: a DSSE envelope, exact bytes.
    pub report: Base64,
}

/// What a verified report of destruction says, and its exact bytes.
#[derive(Debug, Clone, Serialize)]
pub struct RecordDestroyed {
    /// The version it names.
    pub version: KeyVersion,
    /// Who signed it.
    pub holder: AgentId,
    /// Identifies the material.
    pub fingerprint: Digest,
    /// The report: a DSSE envelope, exact bytes.
    pub report: Base64,
}
