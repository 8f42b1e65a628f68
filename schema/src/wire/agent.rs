//! Between agent and control plane: enrol, renew, sync, report, ship. JSON over mutual TLS; only enrolment comes without
//! a client certificate. Statements and documents travel as the exact bytes of their DSSE envelopes.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use crate::{
    clock::Timestamp,
    encoding::{Base64, Digest, opt_u64_string, u64_string},
    id::{AgentId, IncarnationId, KeyVersion, SiteId, TenantId},
    key::Operation,
};

/// Where the agent API stands.
pub mod path {
    /// `POST` [`super::EnrolRequest`] -> [`super::EnrolResponse`].
    pub const ENROL: &str = "/agent/v1/enrol";
    /// `POST` [`super::RenewRequest`] -> [`super::RenewResponse`].
    pub const RENEW: &str = "/agent/v1/renew";
    /// `POST` [`super::ComebackRequest`] -> [`super::ComebackResponse`]; without a client certificate.
    pub const COMEBACK: &str = "/agent/v1/comeback";
    /// `GET` -> [`super::StatementSet`]; `If-None-Match` and `?wait=<seconds>` make it a long poll (304 when nothing came). With `A-IM`,
    /// the answer may be a [`crate::wire::delta::StatementDelta`] (226).
    pub const STATEMENTS: &str = "/agent/v1/statements";
    /// `POST` [`super::Report`] -> [`super::ReportAnswer`].
    pub const REPORT: &str = "/agent/v1/report";
    /// `POST` [`super::LeaseAsk`] -> [`super::LeaseAnswer`].
    pub const LEASES: &str = "/agent/v1/leases";
    /// `POST` [`crate::wire::relay::RelayAsk`] -> [`crate::wire::relay::RelayAnswer`].
    pub const RELAY: &str = "/agent/v1/relay";
    /// `POST` [`super::ReceiptBatch`] -> [`super::ReceiptAnswer`].
    pub const RECEIPTS: &str = "/agent/v1/receipts";
}

/// An agent asks to join the site its token was made for.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The single-use enrolment token's text. Secret.
    pub token: String,
    /// PKCS#10 certificate signing request (RFC 2986), PEM.
    pub csr_pem: String,
    /// The agent's self-signed `trust::document::RosterEntry` (the enrolment file names its id): DSSE, exact bytes.
    pub roster_entry: Base64,
    /// The version of the agent program.
    pub agent_version: String,
    /// The host's name, for people.
    pub host: String,
}

/// What the enrolment file handed to an agent holds. The token proves the right to join; the rest is what to believe.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// `1`.
    pub v: u32,
    /// Where the control plane's agent listener is, `https://host:port`.
    pub control_plane: String,
    /// The certificate authority of that listener, PEM; absent: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The id the agent will have.
    pub agent: AgentId,
    /// SHA-256 of the payload of the tenant's current root: what the agent pins.
    pub root: Digest,
    /// The key id of the pair of the site's first agent, when there is one: whom a joiner believes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founder: Option<Digest>,
    /// When no agent of the site is left: those that were, and the key ids of their pairs. What they signed, of versions and
    /// backups, goes on counting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<AgentId, Digest>,
    /// The secret, `fh_enrol_…`.
    pub token: String,
    /// After this it is worthless.
    pub expires: Timestamp,
}

/// The agent is in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolResponse {
    /// The agent.
    pub agent: AgentId,
    /// Its certificate and the authorities above it, PEM.
    pub certificate_pem: String,
    /// The certificate authority of agents and of the agent listener, PEM.
    pub ca_pem: String,
    /// When the certificate ends.
    pub certificate_expires: Timestamp,
}

/// A certificate is about to end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS#10 certificate signing request with the same key, PEM.
    pub csr_pem: String,
}

/// The next certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// The certificate and the authorities above it, PEM.
    pub certificate_pem: String,
    /// The certificate authority of agents and of the agent listener, PEM.
    pub ca_pem: String,
    /// When it ends.
    pub certificate_expires: Timestamp,
}

/// An agent that has enrolled, and does not know the listener's authority any more or has no certificate that is taken. Its pair
/// proves who it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComebackRequest {
    /// `trust::document::CertificateAsk` by the agent's pair: DSSE, exact bytes.
    pub ask: Base64,
    /// PKCS#10 certificate signing request with the same key as ever, PEM.
    pub csr_pem: String,
}

/// Whom to believe from now on, and the proof: what `trust::accept::authorities` judges.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComebackResponse {
    /// Every root from the first, in order.
    pub roots: Vec<Base64>,
    /// The site's heartbeat, which names the authorities.
    pub heartbeat: Base64,
    /// The authorities, PEM.
    pub ca_pem: String,
    /// The next certificate and the authorities above it, PEM.
    pub certificate_pem: String,
    /// When it ends.
    pub certificate_expires: Timestamp,
}

/// Every statement a site needs: the candidate of `trust::accept`. Each is a DSSE envelope, exact bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatementSet {
    /// Every root from the first, in order (an agent skips those it has).
    pub roots: Vec<Base64>,
    /// The tenant's policy, the site's, and those of projects with keys at the site.
    pub policies: Vec<Base64>,
    /// The site's state.
    pub state: Option<Base64>,
    /// The site's heartbeat.
    pub heartbeat: Option<Base64>,
}

impl StatementSet {
    /// Every statement, in order.
    pub fn envelopes(&self) -> impl Iterator<Item = &Base64> {
        self.roots.iter().chain(&self.policies).chain(&self.state).chain(&self.heartbeat)
    }
}

/// More statements than any site has: one policy per project, and one root per change of signers.
pub const MAX_STATEMENTS: usize = 20_000;
/// The most documents of each list in one report.
pub const MAX_DOCUMENTS: usize = 1_000;
/// The most findings in one report.
pub const MAX_FINDINGS: usize = 200;
/// The most receipts in one batch.
pub const MAX_ENTRIES: usize = 5_000;

/// Reads a list and keeps no more than one entry above the limit: enough to see that it is too long.
pub(super) fn at_most<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct AtMost<const MAX: usize, T>(PhantomData<T>);

    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() <= MAX {
                match list.next_element()? {
                    Some(entry) => kept.push(entry),
                    None => return Ok(kept),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }

    deserializer.deserialize_seq(AtMost::<MAX, T>(PhantomData))
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Signed version records of versions it made (`trust::document::VersionRecord`), exact bytes.
    #[serde(deserialize_with = "at_most::<MAX_DOCUMENTS, _, _>")]
    pub version_records: Vec<Base64>,
    /// Signed holder reports (`trust::document::HolderReport`), exact bytes.
    #[serde(deserialize_with = "at_most::<MAX_DOCUMENTS, _, _>")]
    pub holder_reports: Vec<Base64>,
    /// Signed vouches for other agents of the site (`trust::document::AgentVouch`), exact bytes.
    #[serde(deserialize_with = "at_most::<MAX_DOCUMENTS, _, _>")]
    pub vouches: Vec<Base64>,
    /// Signed reports of sealed backups (`trust::recovery::BackupReport`), exact bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_DOCUMENTS, _, _>")]
    pub backup_reports: Vec<Base64>,
    /// The recovery key that was made at this agent, signed (`trust::recovery::RecoveryKey`), exact bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<Base64>,
    /// The heartbeat it enforces.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub enforced_heartbeat: Option<u64>,
    /// The state it enforces.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub enforced_state: Option<u64>,
    /// The highest epoch it has seen.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Why the newest set was not accepted: the code of the rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejected>,
    /// The version of the agent program.
    pub agent_version: String,
    /// What its vault is: `file`, …
    pub vault: String,
    /// What its self-tests found, signed (`trust::document::SelfTestReport`), exact bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_tests: Option<Base64>,
    /// Proves the report before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratchet: Option<RatchetClaim>,
    /// The name of its host now, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When its process began, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// What keeps it from what its site asks of it. For people: nothing is decided by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<MAX_FINDINGS, _, _>")]
    pub findings: Vec<Finding>,
    /// The set that it holds, when the newest one knows less: a control plane that was restored learns from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<StatementSet>,
}

/// Something that keeps an agent from what its site asks of it, as long as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable code.
    pub code: String,
    /// What is wrong, and what to do.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
    /// The version it concerns, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<KeyVersion>,
}

/// Codes of rejections that say that the control plane knows less than the agent.
pub const KNOWS_LESS: [&str; 6] =
    ["older", "equivocation", "policy_forgotten", "versions_missing", "primary_went_back", "version_went_back"];

/// Proves the report before this one: `trust::ratchet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatchetClaim {
    /// The number of this report of the agent, from 1.
    #[serde(with = "u64_string")]
    pub counter: u64,
    /// The secret whose hash went with the last report that was answered; none in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Base64>,
    /// The hash of the secret that the next report will show.
    pub next: Digest,
}

/// With a request for statements: where the agent's ratchet is, `<counter>.<hash>` (`trust::ratchet::Ratchet::position`).
pub const RATCHET_HEADER: &str = "freehold-ratchet";

/// A set of statements that an agent would not believe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The code of the rejection.
    pub code: String,
    /// What was wrong.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// The report was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// Documents that were not taken, by their place in the request, and why.
    pub refused: Vec<RefusedDocument>,
}

/// A document that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedDocument {
    /// `version_records`, `holder_reports`, `vouches`, `backup_reports`, `recovery_key` or `self_tests`.
    pub list: String,
    /// Its place, from 0.
    pub index: usize,
    /// The code of the refusal.
    pub code: String,
    /// What was wrong.
    pub detail: String,
}

/// An agent says what it has spent of budgets, gives back what it does not need, and asks for more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAsk {
    /// `trust::document::LeaseRequest` by the agent's pair: DSSE, exact bytes.
    pub request: Base64,
}

/// What the agent may spend from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// `trust::statement::lease::Lease`: DSSE, exact bytes.
    pub lease: Base64,
}

/// A run of journal entries, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiptBatch {
    /// The journal's life.
    pub incarnation: IncarnationId,
    /// The sequence number of the first entry.
    #[serde(with = "u64_string")]
    pub first_seq: u64,
    /// The chain hash before the first entry.
    pub previous: Digest,
    /// The entries: the exact bytes of each record's JSON ([`Receipt`]).
    #[serde(deserialize_with = "at_most::<MAX_ENTRIES, _, _>")]
    pub entries: Vec<Base64>,
    /// `trust::document`-style DSSE envelope of [`ReceiptBatchHead`] by the agent's pair
    /// (payload type `application/vnd.freehold.receipt-batch+json`, context `freehold/receipt-batch/v1`).
    pub head: Base64,
}

/// What the agent signs of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptBatchHead {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// The journal's life.
    pub incarnation: IncarnationId,
    /// The sequence number of the first entry.
    #[serde(with = "u64_string")]
    pub first_seq: u64,
    /// How many entries.
    #[serde(with = "u64_string")]
    pub count: u64,
    /// The chain hash before the first entry.
    pub previous: Digest,
    /// The chain hash after the last entry.
    pub last: Digest,
}

/// How far the control plane has durably taken the receipts: everything up to and with `acknowledged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptAnswer {
    /// The highest sequence number taken.
    #[serde(with = "u64_string")]
    pub acknowledged: u64,
    /// The chain hash after it.
    pub last: Digest,
}

/// The label of the journal's hash chain: `hash = SHA-256(label, previous, entry bytes)`, see [`chain`].
pub const CHAIN_LABEL: &str = "freehold-journal-v1";

/// The chain hash after an entry.
pub fn chain(previous: &Digest, entry: &[u8]) -> Digest {
    Digest::labelled(CHAIN_LABEL, &[&previous.0, entry])
}

/// The chain hash before the first entry of an incarnation.
pub fn chain_start(incarnation: IncarnationId) -> Digest {
    Digest::labelled(CHAIN_LABEL, &[incarnation.to_string().as_bytes()])
}

/// One journal entry, as its exact bytes are read. Sequence numbers have no gaps within an incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of this format: `1`.
    pub v: u32,
    /// Its number.
    #[serde(with = "u64_string")]
    pub seq: u64,
    /// When, by the agent's wall clock.
    pub time: Timestamp,
    /// What kind of entry.
    #[serde(flatten)]
    pub body: ReceiptBody,
}

/// Intent and outcome of an operation, and what concerns the journal itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReceiptBody {
    /// Somebody may do something, and is about to.
    Intent(Intent),
    /// What came of it.
    Outcome {
        /// The intent's number.
        #[serde(with = "u64_string")]
        intent: u64,
        /// `ok`, `failed`, `aborted`, or `unknown` after a crash.
        result: OutcomeResult,
        /// A stable code, when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// Bytes of plaintext processed.
        #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// Somebody was refused; repeated refusals of one caller are counted into one entry per interval.
    Refusal {
        /// Who asked for what.
        #[serde(flatten)]
        intent: Intent,
        /// The stable code.
        code: String,
        /// How many like it.
        #[serde(with = "u64_string")]
        count: u64,
    },
    /// Somebody did something on the agent's host, beside its callers.
    Host(HostAct),
}

/// What somebody did on the agent's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAct {
    /// What.
    pub act: HostActKind,
    /// When; the entry may be younger.
    pub done: Timestamp,
    /// The user of the host, by number.
    pub user: u32,
    /// To what, in words: a file, by its hash, and what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What can be done on a host that receipts tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostActKind {
    /// The agent was locked.
    Locked,
    /// It was unlocked.
    Unlocked,
    /// Its vault, or a version in it, was backed up.
    BackedUp,
    /// Backups were to be restored into its vault; what it holds since tells whether they were.
    Restored,
}

impl HostActKind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Locked, Self::Unlocked, Self::BackedUp, Self::Restored];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Unlocked => "unlocked",
            Self::BackedUp => "backed_up",
            Self::Restored => "restored",
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    /// It was done.
    Ok,
    /// It was not.
    Failed,
    /// The caller went away or the stream broke.
    Aborted,
    /// Nobody knows: the agent stopped in between.
    Unknown,
}

/// Who asked for what, and why it was decided so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The caller, or nothing when it did not prove who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What was asked.
    pub operation: Operation,
    /// The key version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<KeyVersion>,
    /// The algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// Bytes of plaintext, when known beforehand.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Encryption context: name -> HMAC-SHA-256 of the value under a key made on site, base64url of its first 16 bytes.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub context: std::collections::BTreeMap<String, String>,
    /// Which key: its month, and what identifies it. Digests under one key compare, those under two do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_key: Option<String>,
    /// The request.
    pub request: String,
    /// W3C trace id, when the caller sent a traceparent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// `heartbeat.state.policy…` serials in force, e.g. `h42.s7.t3`.
    pub statements: String,
    /// The deciding Cedar policies.
    pub policies: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_endless_list_no_more_is_kept_than_shows_that_it_is_too_long() {
        let entries = vec!["AAAA"; MAX_ENTRIES * 2];
        let batch = serde_json::json!({
            "incarnation": IncarnationId::from_bits(1), "first_seq": "1", "previous": Digest([0; 32]), "entries": entries, "head": "AAAA",
        });
        let read: ReceiptBatch = serde_json::from_value(batch.clone()).unwrap();
        assert_eq!(read.entries.len(), MAX_ENTRIES + 1);
        // What is not kept must be well-formed all the same.
        let text = batch.to_string();
        let broken = text.replacen("]", ",]", 1);
        assert!(serde_json::from_str::<ReceiptBatch>(&text).is_ok());
        assert!(serde_json::from_str::<ReceiptBatch>(&broken).is_err());
    }
}
