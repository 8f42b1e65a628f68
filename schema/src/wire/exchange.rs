//! What agents that are connected to nothing say, and hear, as files. A person carries them; they prove themselves. Inside is what
//! connected agents send and are answered ([`super::agent`], [`super::relay`]), and it is handled as if it had come that way.

use serde::{Deserialize, Serialize};

use super::{
    agent::{
        EnrolResponse, LeaseAnswer, LeaseAsk, ReceiptAnswer, ReceiptBatch, RenewResponse, Report, ReportAnswer, StatementSet, at_most,
    },
    relay::{RelayAnswer, RelayAsk},
};
use crate::{
    clock::Timestamp,
    encoding::{Base64, Digest, opt_u64_string, u64_string},
    id::{AgentId, IncarnationId, SiteId, TenantId},
};

/// `POST` [`ExchangeAsk`] -> [`ExchangeAnswer`]; without a client certificate: what is carried is signed.
pub const EXCHANGE: &str = "/agent/v1/exchange";

/// The largest outbox or inbox: the signed document as it travels.
pub const MAX_DOCUMENT_BYTES: usize = 40 << 20;
/// The largest request with an outbox in it.
pub const MAX_ASK_BYTES: usize = 56 << 20;
/// The most runs of receipts in one outbox: the rest follows in the next.
pub const MAX_BATCHES: usize = 64;
/// The most requests to the relay in one outbox.
pub const MAX_RELAY_ASKS: usize = 16;

/// Everything that an agent has to say, signed by its pair (`application/vnd.freehold.outbox+json`, context `freehold/outbox/v1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Who says it.
    pub agent: AgentId,
    /// Counts the outboxes of this agent, from 1: an older one than the last that was handed in is not taken.
    #[serde(with = "u64_string")]
    pub number: u64,
    /// When it was written.
    pub issued: Timestamp,
    /// What it made, holds and enforces.
    pub report: Report,
    /// What it has for others, in order; the last asks what others have for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_RELAY_ASKS, _, _>")]
    pub relay: Vec<RelayAsk>,
    /// What it needs of budgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseAsk>,
    /// Its receipts, in order and without gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_BATCHES, _, _>")]
    pub receipts: Vec<ReceiptBatch>,
    /// A request for its next certificate (PKCS#10, PEM): so that it can come back to a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr_pem: Option<String>,
}

/// What the control plane says to one outbox, signed as leases are (`application/vnd.freehold.inbox+json`, context
/// `freehold/inbox/v1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inbox {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Whom it is for.
    pub agent: AgentId,
    /// The number of the outbox that it answers.
    #[serde(with = "u64_string")]
    pub number: u64,
    /// SHA-256 of the payload of that outbox.
    pub outbox: Digest,
    /// When it was answered.
    pub issued: Timestamp,
    /// What was not taken of the report.
    pub report: ReportAnswer,
    /// The number of the report, in the agent's ratchet, that was taken.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub ratchet: Option<u64>,
    /// What others have for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayAnswer>,
    /// What it may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseAnswer>,
    /// How far its receipts were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<TakenReceipts>,
    /// Its next certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<RenewResponse>,
    /// Parts that came to nothing, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPart>,
}

/// How far the receipts of a journal were taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenReceipts {
    /// Which life of the journal.
    pub incarnation: IncarnationId,
    /// How far.
    #[serde(flatten)]
    pub answer: ReceiptAnswer,
}

/// A part of an outbox that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPart {
    /// `relay`, `lease`, `receipts` or `certificate`.
    pub part: String,
    /// A stable code.
    pub code: String,
    /// What was wrong.
    pub detail: String,
}

/// An outbox, handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeAsk {
    /// The signed [`Outbox`]: DSSE, exact bytes.
    pub outbox: Base64,
}

/// What goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeAnswer {
    /// The signed [`Inbox`]: DSSE, exact bytes.
    pub inbox: Base64,
    /// The statements of the site; none when nothing was published for it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statements: Option<StatementSet>,
}

/// A file that names its format.
pub trait CarriedFile {
    /// What `format` says.
    const FORMAT: &'static str;
    /// What `format` says in this one, and the version of it.
    fn says(&self) -> (&str, u32);
}

macro_rules! carried {
    ($file:ident, $format:literal) => {
        impl CarriedFile for $file {
            const FORMAT: &'static str = $format;
            fn says(&self) -> (&str, u32) {
                (&self.format, self.v)
            }
        }
    };
}

/// An outbox on its way. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxFile {
    /// `application/vnd.freehold.outbox-file+json`.
    pub format: String,
    /// Version of this format: `1`.
    pub v: u32,
    /// Where the control plane's agent listener is, as far as the agent knows.
    pub control_plane: String,
    /// The authority of that listener, PEM; none: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The signed [`Outbox`]: DSSE, exact bytes.
    pub outbox: Base64,
}

carried!(OutboxFile, "application/vnd.freehold.outbox-file+json");

/// The answer on its way back. Nothing in it is secret: material is sealed to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxFile {
    /// `application/vnd.freehold.inbox-file+json`.
    pub format: String,
    /// Version of this format: `1`.
    pub v: u32,
    /// What the control plane answered.
    #[serde(flatten)]
    pub answer: ExchangeAnswer,
}

carried!(InboxFile, "application/vnd.freehold.inbox-file+json");

/// An agent asks to join, by a file. The token is not in it: whoever hands it in holds the enrolment file as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRequestFile {
    /// `application/vnd.freehold.enrolment-request-file+json`.
    pub format: String,
    /// Version of this format: `1`.
    pub v: u32,
    /// [`EnrolmentRequest`] as JSON, exact bytes.
    pub request: Base64,
    /// HMAC-SHA-256 of those bytes under the token: the file comes from a host that has it, unchanged.
    pub mac: Base64,
}

carried!(EnrolmentRequestFile, "application/vnd.freehold.enrolment-request-file+json");

/// What an enrolment request says, beside the token ([`super::agent::EnrolRequest`]). Tenant, site, agent and the root that is believed stand in the roster entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRequest {
    /// PKCS#10 certificate signing request (RFC 2986), PEM.
    pub csr_pem: String,
    /// The agent's self-signed `trust::document::RosterEntry`: DSSE, exact bytes.
    pub roster_entry: Base64,
    /// The version of the agent program.
    pub agent_version: String,
    /// The host's name, for people.
    pub host: String,
}

/// The answer to an enrolment request, on its way back. Nothing in it is secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolmentAnswerFile {
    /// `application/vnd.freehold.enrolment-answer-file+json`.
    pub format: String,
    /// Version of this format: `1`.
    pub v: u32,
    /// What the control plane answered.
    pub answer: EnrolResponse,
    /// The statements of the site; none when nothing was published for it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statements: Option<StatementSet>,
}

carried!(EnrolmentAnswerFile, "application/vnd.freehold.enrolment-answer-file+json");

/// Reads a file of a format; none when it is something else, or of another version.
pub fn read_carried<T: CarriedFile + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let file: T = serde_json::from_slice(bytes).ok()?;
    (file.says() == (T::FORMAT, 1)).then_some(file)
}
