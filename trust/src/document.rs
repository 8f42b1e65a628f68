//! Small documents that agents sign with their pair. They prove themselves, whoever carries them.
//!
//! Same DSSE envelope as statements, with types and contexts of their own.

mod certificate;
mod context;
mod exchange;
mod movement;

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Base64, Digest, u64_string},
    id::{AgentId, KeyVersion, SiteId, TenantId, VaultId},
    key::{Origin, Protection},
    ranges::LimitKind,
    wire::agent::ReceiptBatchHead,
};
use serde::{Deserialize, Serialize};

use crate::{
    dsse::{self, EnvelopeError, Signed},
    pair::{InvalidPair, Pair, PublicPair, Signers},
    statement::lease::Share,
};

pub use certificate::CertificateAsk;
pub use context::{ContextKeyHead, ContextKeyTransfer, Month};
pub use movement::{Prekey, Transfer, TransferHead};

/// A document's DSSE payload type and ML-DSA context.
pub trait Document: Serialize + for<'de> Deserialize<'de> + Clone + PartialEq + std::fmt::Debug {
    /// The DSSE payload type.
    const MEDIA_TYPE: &'static str;
    /// The ML-DSA context, and the label of the Ed25519 message.
    const CONTEXT: &'static str;
    /// The most bytes of an envelope; checked before parsing.
    const MAX_BYTES: usize = 64 * 1024;
}

/// "This pair is an agent of this site": signed by the pair itself, counts only with a vouch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// Ed25519 public key, 32 bytes.
    pub ed25519: Base64,
    /// ML-DSA-65 public key, 1952 bytes.
    pub ml_dsa_65: Base64,
    /// SHA-256 of the tenant's root the agent pinned at enrolment.
    pub root: Digest,
    /// When it was signed.
    pub issued: Timestamp,
}

impl Document for RosterEntry {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.roster-entry+json";
    const CONTEXT: &'static str = "freehold/roster-entry/v1";
}

/// "That entry is genuine": signed by a rostered agent, tenant signers, or the agent's previous pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentVouch {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent vouched for.
    pub agent: AgentId,
    /// The key id of its pair.
    pub keyid: Digest,
    /// When it was signed.
    pub issued: Timestamp,
}

impl AgentVouch {
    /// What signers of the tenant say of an agent: the same bytes for each of them, so that they need not meet to sign it.
    pub fn of_entry(entry: &RosterEntry, keyid: Digest) -> Self {
        Self { tenant: entry.tenant, site: entry.site, agent: entry.agent, keyid, issued: entry.issued }
    }

    /// The exact bytes that are signed.
    #[allow(clippy::expect_used, reason = "our own type, written to memory")]
    pub fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a vouch is JSON")
    }
}

impl Document for AgentVouch {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.agent-vouch+json";
    const CONTEXT: &'static str = "freehold/agent-vouch/v1";
}

/// "I made this version": signed by the generator; the first seen is final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The version.
    pub version: KeyVersion,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Where the material came from.
    pub origin: Origin,
    /// Identifies the material: SHA-256 over a label and the public key, or over a label and a key derived from the secret.
    pub fingerprint: Digest,
    /// The public key as the algorithm's standard encodes it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<Base64>,
    /// Who made it.
    pub generator: AgentId,
    /// When.
    pub issued: Timestamp,
}

impl Document for VersionRecord {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.version-record+json";
    const CONTEXT: &'static str = "freehold/version-record/v1";
    const MAX_BYTES: usize = 128 * 1024;
}

/// "My vault has this version" or "it is gone from my vault": signed by a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderReport {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The version.
    pub version: KeyVersion,
    /// The material's fingerprint, as in the version record.
    pub fingerprint: Digest,
    /// Who holds it.
    pub holder: AgentId,
    /// In which vault: agents that share one are one home.
    pub vault: VaultId,
    /// What is reported.
    pub status: HolderStatus,
    /// How well the vault guards it, while it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// When.
    pub issued: Timestamp,
}

impl Document for HolderReport {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.holder-report+json";
    const CONTEXT: &'static str = "freehold/holder-report/v1";
}

/// What a holder reports of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderStatus {
    /// The vault has it and it passed its pairwise test.
    Ready,
    /// It is gone, and a tombstone keeps it gone.
    Destroyed,
}

/// "This is what I have spent of my lease, this I give back, and this I want": signed by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Who asks.
    pub agent: AgentId,
    /// With each request of the agent one more; the same again when an answer was lost.
    #[serde(with = "u64_string")]
    pub number: u64,
    /// 16 random bytes: no two requests are the same, also after an agent was restored from a backup.
    pub nonce: Base64,
    /// By version.
    pub budgets: BTreeMap<KeyVersion, BudgetRequest>,
    /// When.
    pub issued: Timestamp,
}

impl Document for LeaseRequest {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.lease-request+json";
    const CONTEXT: &'static str = "freehold/lease-request/v1";
    const MAX_BYTES: usize = 1024 * 1024;
}

/// What an agent says of its part of one version's budgets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetRequest {
    /// What it holds and has spent.
    pub spent: Share,
    /// What it holds, has not spent, and will not spend.
    pub returned: Share,
    /// How many uses more it wants.
    #[serde(with = "u64_string")]
    pub uses_wanted: u64,
    /// How many bytes more it wants.
    #[serde(with = "u64_string")]
    pub bytes_wanted: u64,
}

impl BudgetRequest {
    /// How much more it wants.
    pub const fn wanted(&self, kind: LimitKind) -> u64 {
        match kind {
            LimitKind::Uses => self.uses_wanted,
            LimitKind::Bytes => self.bytes_wanted,
        }
    }

    /// The same, to be changed.
    pub const fn wanted_mut(&mut self, kind: LimitKind) -> &mut u64 {
        match kind {
            LimitKind::Uses => &mut self.uses_wanted,
            LimitKind::Bytes => &mut self.bytes_wanted,
        }
    }
}

/// "This is what my self-tests found": signed by the agent, kept with its last report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTestReport {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Who tested itself.
    pub agent: AgentId,
    /// The version of its program.
    pub agent_version: String,
    /// When the round of tests began.
    pub tested: Timestamp,
    /// Names of algorithms that passed.
    pub passed: Vec<String>,
    /// Names of algorithms that did not and are switched off, each with what was wrong.
    pub failed: BTreeMap<String, String>,
    /// When it was signed.
    pub issued: Timestamp,
}

impl Document for SelfTestReport {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.self-test-report+json";
    const CONTEXT: &'static str = "freehold/self-test-report/v1";
}

/// The head of a batch of receipts is defined beside the batch, in `schema`.
impl Document for ReceiptBatchHead {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.receipt-batch+json";
    const CONTEXT: &'static str = "freehold/receipt-batch/v1";
}

/// Why a roster entry does not hold.
#[derive(Debug, thiserror::Error)]
pub enum RosterEntryError {
    /// Not an envelope, or not signed by its own pair.
    #[error("it is not signed by the pair it names: {0}")]
    Envelope(#[source] EnvelopeError),
    /// The keys are none.
    #[error("{0}")]
    Pair(#[source] InvalidPair),
}

/// Signs a document with an agent's pair; gives the envelope's exact bytes.
pub fn sign<D: Document>(document: &D, pair: &Pair) -> Base64 {
    dsse::sign_document(document, &[pair]).into()
}

/// Reads a document that this pair signed.
pub fn open<D: Document>(bytes: &[u8], pair: &PublicPair) -> Result<Signed<D>, EnvelopeError> {
    dsse::open_document(bytes, &Signers::one(pair.clone()), 1)
}

/// Reads a roster entry, and checks that the pair it names signed it. That it *counts* takes a vouch.
pub fn open_roster_entry(bytes: &[u8]) -> Result<(RosterEntry, PublicPair), RosterEntryError> {
    let claimed: RosterEntry = dsse::peek_document(bytes).map_err(RosterEntryError::Envelope)?;
    let pair = PublicPair::parse(claimed.ed25519.as_slice(), claimed.ml_dsa_65.as_slice()).map_err(RosterEntryError::Pair)?;
    let signed = open::<RosterEntry>(bytes, &pair).map_err(RosterEntryError::Envelope)?;
    Ok((signed.payload, pair))
}

/// An agent's own roster entry, signed by its pair.
pub fn sign_roster_entry(pair: &Pair, tenant: TenantId, site: SiteId, agent: AgentId, root: Digest, issued: Timestamp) -> Base64 {
    let (ed25519, ml_dsa_65) = (Base64::from(*pair.public().ed25519()), Base64::from(pair.public().ml_dsa_65()));
    sign(&RosterEntry { tenant, site, agent, ed25519, ml_dsa_65, root, issued }, pair)
}
