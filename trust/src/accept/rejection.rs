//! Why a set of statements is not believed. Every check has a name of its own.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, CompositeId, KeyId, KeyVersion, SiteId},
    key::VersionState,
    ranges::LimitKind,
};

use crate::{
    dsse::{EnvelopeError, VerifyError},
    pair::{InvalidPair, SharedKey},
    statement::Kind,
};

/// Why a set of statements is not believed. The text says what was wrong; [`Rejection::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Check 1.
    #[error("the {kind} has {bytes} bytes and may have {max}")]
    Oversized {
        /// Which kind.
        kind: Kind,
        /// Its size.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// Check 1: more statements than any set has.
    #[error("the set has {0} statements, more than any site needs")]
    TooMany(usize),
    /// Check 2: truncated, or no envelope, or another kind.
    #[error("the {kind} cannot be read")]
    Unreadable {
        /// Which kind.
        kind: Kind,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// Check 2: `format` inside is not the payload type outside.
    #[error("the {kind} says its format is {found:?}")]
    UnknownFormat {
        /// Which kind.
        kind: Kind,
        /// What it says.
        found: String,
    },
    /// Check 2.
    #[error("the {kind} requires {word:?}, which this version does not understand; update the agent")]
    UnknownRequirement {
        /// Which kind.
        kind: Kind,
        /// The word.
        word: String,
    },
    /// Check 3: the first root is not the one pinned at enrolment.
    #[error("none of the roots is the one pinned at enrolment ({pinned})")]
    RootNotPinned {
        /// SHA-256 of the pinned root.
        pinned: Digest,
    },
    /// Check 3: a root names signers or roles that make no sense.
    #[error("root {serial} is unsound: {detail}")]
    RootUnsound {
        /// Its serial.
        serial: u64,
        /// What is wrong.
        detail: String,
    },
    /// Check 3: a root names a pair that is none.
    #[error("root {serial} names a key that is none")]
    RootSigner {
        /// Its serial.
        serial: u64,
        /// Why.
        #[source]
        source: InvalidPair,
    },
    /// Check 3: two pairs of a root share a key.
    #[error("root {serial} names pairs that do not count for themselves")]
    SharedKey {
        /// Its serial.
        serial: u64,
        /// Which.
        #[source]
        source: SharedKey,
    },
    /// Check 3.
    #[error("the signatures of the {kind} do not suffice")]
    Signature {
        /// Which kind.
        kind: Kind,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// Check 4.
    #[error("the {0} is for another tenant")]
    OtherTenant(Kind),
    /// Check 4.
    #[error("the {0} is for another site")]
    OtherSite(Kind),
    /// Check 4.
    #[error("the {0} is for another agent")]
    OtherAgent(Kind),
    /// Check 4: a head that names what its kind is not for.
    #[error("the {0} does not say plainly what it is for")]
    OtherScope(Kind),
    /// Check 5.
    #[error("the {what} is {found} and {held} was seen before (epoch.serial)")]
    Older {
        /// Which statement.
        what: String,
        /// Its epoch and serial.
        found: String,
        /// The highest seen.
        held: String,
    },
    /// Check 5: two statements of one serial. Somebody is shown something else.
    #[error("the {what} {serial} differs from the one seen before under the same serial")]
    Equivocation {
        /// Which statement.
        what: String,
        /// The epoch and serial.
        serial: String,
    },
    /// Check 5: a statement of another epoch than the root's.
    #[error("the {kind} is of epoch {found}, the root of epoch {root}")]
    WrongEpoch {
        /// Which kind.
        kind: Kind,
        /// Its epoch.
        found: u64,
        /// The root's.
        root: u64,
    },
    /// Check 5: recovery takes effect only when somebody at the agent says so.
    #[error("epoch {0} begins by recovery and must be confirmed at this agent")]
    EpochNotConfirmed(u64),
    /// Check 5: a policy that was in force is no longer part of the set.
    #[error("the policy of {0} is missing from the set")]
    PolicyForgotten(String),
    /// Check 6.
    #[error("root {found} follows root {held}: the roots between are missing")]
    RootGap {
        /// The serial that was found.
        found: u64,
        /// The serial before it.
        held: u64,
    },
    /// Check 7.
    #[error("the {kind} could be accepted until {expires}, and it is {now} (check this host's clock)")]
    Expired {
        /// Which kind.
        kind: Kind,
        /// Its last moment.
        expires: Timestamp,
        /// The time.
        now: Timestamp,
    },
    /// Check 7.
    #[error("the {kind} may be accepted from {not_before}, and it is {now}")]
    NotYet {
        /// Which kind.
        kind: Kind,
        /// Its first moment.
        not_before: Timestamp,
        /// The time.
        now: Timestamp,
    },
    /// Check 7: a heartbeat far ahead of every clock.
    #[error("the heartbeat says it is {told}, far ahead of this agent's {now} (check this host's clock)")]
    FarAhead {
        /// The heartbeat's time.
        told: Timestamp,
        /// The latest this agent believes in.
        now: Timestamp,
    },
    /// Check 8.
    #[error("the set is incomplete: {0} is missing")]
    Incomplete(String),
    /// Check 8.
    #[error("the heartbeat pins another {0} than the set holds")]
    PinnedOther(String),
    /// Check 8: more than the heartbeat pins.
    #[error("the set holds the policy of {0}, which the heartbeat does not pin")]
    NotPinned(String),
    /// Check 9: a policy speaks of what it is not for.
    #[error("the policy of {policy} speaks of {about}, which is not its own")]
    PolicyOutOfScope {
        /// The policy.
        policy: String,
        /// What it speaks of.
        about: String,
    },
    /// Check 9: a key changed what is fixed at creation.
    #[error("the key {key} changed its {what}, which is fixed at creation")]
    KeyRedefined {
        /// The key.
        key: KeyId,
        /// What changed.
        what: &'static str,
    },
    /// Check 9: a name that belongs to another key, a composite or another project.
    #[error("the key {key} takes the name {name}, which is another's")]
    NameTaken {
        /// The key.
        key: KeyId,
        /// The name.
        name: String,
    },
    /// Check 9.
    #[error("the state makes the key {key} outside its template: {detail}")]
    OutsideTemplate {
        /// The key.
        key: KeyId,
        /// What does not fit.
        detail: String,
    },
    /// Check 9: a key that stands in no policy and follows no template.
    #[error("the state invents the key {0}: no policy defines it")]
    InventedKey(KeyId),
    /// Check 9.
    #[error("the key {0} is not placed at this site")]
    NotPlacedHere(KeyId),
    /// Check 9: version numbers with gaps, or fewer than before.
    #[error("the versions of {0} have a gap or are fewer than before")]
    VersionsMissing(KeyId),
    /// Check 9: a version that came sooner than the rotation rule allows.
    #[error("the version {0} comes sooner after the one before than the rotation rule allows")]
    TooSoon(KeyVersion),
    /// Check 9.
    #[error("the primary version of {key} went from {held} to {found}; it moves forward only")]
    PrimaryWentBack {
        /// The key.
        key: KeyId,
        /// Before.
        held: u32,
        /// Now.
        found: u32,
    },
    /// Check 9: the primary is no version, or one that nobody has made yet.
    #[error("the primary version {0} has not been made")]
    PrimaryNotMade(KeyVersion),
    /// Check 9.
    #[error("the version {version} went from {held} back to {found}")]
    VersionWentBack {
        /// The version.
        version: KeyVersion,
        /// Before.
        held: VersionState,
        /// Now.
        found: VersionState,
    },
    /// Check 9.
    #[error("the version {version} is to be made by {agent}, which may not make it")]
    IneligibleGenerator {
        /// The version.
        version: KeyVersion,
        /// The agent.
        agent: AgentId,
    },
    /// Check 9: a version is in use without a version record.
    #[error("the version {0} is in use but its generator has signed no version record")]
    RecordMissing(KeyVersion),
    /// Check 9: a version is in use but too few vaults have it, as their holders signed.
    #[error("the version {version} is in use but {ready} of {needed} vaults have it, as their holders reported")]
    NotReady {
        /// The version.
        version: KeyVersion,
        /// Vaults that have it.
        ready: usize,
        /// Vaults needed.
        needed: usize,
    },
    /// Check 9: a version whose durability is a sealed backup is in use, and nobody signed that it is in one.
    #[error("the version {0} is in use, and no holder has reported that it is in a sealed backup")]
    NotBackedUp(KeyVersion),
    /// Check 9.
    #[error("the site's recovery key does not hold: {detail}")]
    RecoveryKey {
        /// What is wrong.
        detail: String,
    },
    /// Check 9: a record or report that is not what it should be.
    #[error("the {what} of {version} does not hold: {detail}")]
    DocumentRefused {
        /// `version record`, `ready report` or `backup report`.
        what: &'static str,
        /// The version.
        version: KeyVersion,
        /// What is wrong.
        detail: String,
    },
    /// Check 9: a record or report of somebody who is no vouched agent of this site.
    #[error("the {what} of {version} is by {agent}, which is no vouched agent of this site")]
    NotRostered {
        /// `version record` or `ready report`.
        what: &'static str,
        /// The version.
        version: KeyVersion,
        /// The agent.
        agent: AgentId,
    },
    /// Check 9.
    #[error("the version {version} has the fingerprint {found}; the first seen, {held}, is final")]
    SecondFingerprint {
        /// The version.
        version: KeyVersion,
        /// The first seen.
        held: Digest,
        /// Now.
        found: Digest,
    },
    /// Check 9: a definition of a partner's key that is none.
    #[error("the key {key} cannot be a partner's: {detail}")]
    ExternalKey {
        /// The key.
        key: KeyId,
        /// What is wrong.
        detail: &'static str,
    },
    /// Check 9: a version of a partner's key that is more than policy says.
    #[error("the version {version} of a partner's key is not believed: {detail}")]
    ExternalVersion {
        /// The version.
        version: KeyVersion,
        /// What is wrong.
        detail: &'static str,
    },
    /// Check 9: a composite that is none.
    #[error("the composite {composite} is none: {detail}")]
    Composite {
        /// The composite.
        composite: CompositeId,
        /// What is wrong.
        detail: &'static str,
    },
    /// Check 9: a composite's name stands for other keys than it did.
    #[error("the composite {0} has other keys than before, which are fixed at creation")]
    CompositeRedefined(CompositeId),
    /// Check 9: a roster entry that is broken or not of this site.
    #[error("the roster entry of {agent} does not hold: {detail}")]
    RosterEntry {
        /// The agent.
        agent: AgentId,
        /// What is wrong.
        detail: String,
    },
    /// Check 9: another site that cannot be a neighbour as it is told of.
    #[error("what is told of the neighbour {site} does not hold: {detail}")]
    Neighbour {
        /// The site.
        site: SiteId,
        /// What is wrong.
        detail: String,
    },
    /// Check 9: more neighbours, agents of theirs or vouches for one than any site has.
    #[error("the state tells of too much of other sites: {0}")]
    NeighboursOversized(&'static str),
    /// Check 9: somebody else's pair under this agent's id.
    #[error("the roster names another pair as this agent ({0}); somebody may be posing as it")]
    Impostor(AgentId),
    /// Check 9: fewer roster slots than were ever used.
    #[error("the state counts {found} roster slots, {held} were used before")]
    SlotsForgotten {
        /// Now.
        found: u32,
        /// Before.
        held: u32,
    },
    /// Check 9: a lease for a version that there is not.
    #[error("the lease is for {0}, which is no version of a key at this site")]
    LeaseOfUnknown(KeyVersion),
    /// Check 9: a lease that policy does not cover.
    #[error("the lease gives {limit} of {version} up to {found}, and policy allows {ceiling}")]
    AboveCeiling {
        /// The version.
        version: KeyVersion,
        /// What is counted.
        limit: LimitKind,
        /// Up to where.
        found: u64,
        /// The hard limit.
        ceiling: u64,
    },
    /// Check 9: a lease that gives again what this agent has spent.
    #[error("the lease gives {limit} of {version} that this agent has spent before")]
    SpentBefore {
        /// The version.
        version: KeyVersion,
        /// What is counted.
        limit: LimitKind,
    },
    /// Check 10.
    #[error("the root demands ledger proofs, which this version cannot check; update the agent")]
    LedgerRequired,
    /// The cache on disk is no accepted set.
    #[error("the stored set cannot be read; delete it and the agent fetches a new one")]
    Cache(#[source] serde_json::Error),
}

impl Rejection {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Oversized { .. } | Self::TooMany(_) => "oversized",
            Self::Unreadable { source, .. } => match source {
                EnvelopeError::PayloadType { .. } => "other_kind",
                _ => "unreadable",
            },
            Self::UnknownFormat { .. } => "unknown_format",
            Self::UnknownRequirement { .. } => "unknown_requirement",
            Self::RootNotPinned { .. } => "root_not_pinned",
            Self::RootUnsound { .. } | Self::RootSigner { .. } => "root_unsound",
            Self::SharedKey { .. } => "pairs_share_a_key",
            Self::Signature { source, .. } => match source {
                VerifyError::HalfMissing(_) => "signature_missing",
                VerifyError::Wrong(_) => "signature_wrong",
                VerifyError::BelowThreshold { .. } => "below_threshold",
            },
            Self::OtherTenant(_) => "other_tenant",
            Self::OtherSite(_) => "other_site",
            Self::OtherAgent(_) => "other_agent",
            Self::OtherScope(_) => "other_scope",
            Self::Older { .. } => "older",
            Self::Equivocation { .. } => "equivocation",
            Self::WrongEpoch { .. } => "wrong_epoch",
            Self::EpochNotConfirmed(_) => "epoch_not_confirmed",
            Self::PolicyForgotten(_) => "policy_forgotten",
            Self::RootGap { .. } => "root_gap",
            Self::Expired { .. } => "expired",
            Self::NotYet { .. } => "not_yet",
            Self::FarAhead { .. } => "far_ahead",
            Self::Incomplete(_) => "incomplete",
            Self::PinnedOther(_) => "pinned_other",
            Self::NotPinned(_) => "not_pinned",
            Self::PolicyOutOfScope { .. } => "policy_out_of_scope",
            Self::KeyRedefined { .. } => "key_redefined",
            Self::NameTaken { .. } => "name_taken",
            Self::OutsideTemplate { .. } => "outside_template",
            Self::InventedKey(_) => "invented_key",
            Self::NotPlacedHere(_) => "not_placed_here",
            Self::VersionsMissing(_) => "versions_missing",
            Self::TooSoon(_) => "too_soon",
            Self::PrimaryWentBack { .. } => "primary_went_back",
            Self::PrimaryNotMade(_) => "primary_not_made",
            Self::VersionWentBack { .. } => "version_went_back",
            Self::IneligibleGenerator { .. } => "ineligible_generator",
            Self::RecordMissing(_) => "record_missing",
            Self::NotReady { .. } => "not_ready",
            Self::NotBackedUp(_) => "not_backed_up",
            Self::RecoveryKey { .. } => "recovery_key_unsound",
            Self::DocumentRefused { .. } => "document_refused",
            Self::NotRostered { .. } => "not_rostered",
            Self::SecondFingerprint { .. } => "second_fingerprint",
            Self::ExternalKey { .. } => "external_key_unsound",
            Self::ExternalVersion { .. } => "external_version",
            Self::Composite { .. } => "composite_unsound",
            Self::CompositeRedefined(_) => "composite_redefined",
            Self::RosterEntry { .. } => "roster_entry",
            Self::Neighbour { .. } => "neighbour_unsound",
            Self::NeighboursOversized(_) => "neighbours_oversized",
            Self::Impostor(_) => "impostor",
            Self::SlotsForgotten { .. } => "slots_forgotten",
            Self::LeaseOfUnknown(_) => "lease_of_unknown",
            Self::AboveCeiling { .. } => "above_ceiling",
            Self::SpentBefore { .. } => "spent_before",
            Self::LedgerRequired => "ledger_required",
            Self::Cache(_) => "cache_unreadable",
        }
    }
}
