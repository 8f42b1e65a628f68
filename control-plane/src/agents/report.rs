//! What an agent says of itself: documents that prove themselves become commands, the rest is kept as its last report.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    encoding::{Base64, Digest},
    id::{AgentId, PrincipalId, SiteId, TenantId},
    rule::{Sighting, Vouch},
    wire::agent::{Finding, MAX_DOCUMENTS, MAX_FINDINGS, RefusedDocument, Rejected, Report, ReportAnswer},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use trust::{
    document::{AgentVouch, Document, HolderReport, HolderStatus, SelfTestReport, VersionRecord},
    dsse::{EnvelopeError, open_document, peek_document},
    pair::{PublicPair, Signers},
    recovery::{BackupReport, RECOVERY_PUBLIC_KEY_BYTES, RecoveryKey},
};

use super::{
    Agent, AgentCommand,
    enrolment::agent_context,
    ratchet::{Proved, RatchetError, Ratchets},
};
use crate::{
    access::{context::OpContext, permit::Question},
    database::Database,
    eventing::{
        aggregate::Refusal,
        handler::{CommandError, Handler, Options},
    },
    keys::{Key, KeyCommand, RecordBackup, RecordDestroyed, RecordReady, RecordVersion},
    pki::identity::AgentIdentity,
    sealing::{Keyring, Place, SealingError},
    sites::{Site, SiteCommand},
};

const TABLE: &str = "agent_reports";
/// The most characters kept of a text in a report.
const MAX_TEXT: usize = 2_000;
/// The most characters kept of what an agent finds, and of a code.
const MAX_FINDING: usize = 500;
const MAX_CODE: usize = 100;
/// The most characters kept of the name of a host.
const MAX_HOST: usize = 255;
/// The principal that cuts off.
const PRINCIPAL: PrincipalId = PrincipalId::System("ratchet");

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Too much at once.
    #[error("{list} has more than {MAX_DOCUMENTS} documents; send the rest in the next report")]
    TooMany {
        /// Which list.
        list: &'static str,
    },
    /// Reading or keeping the report failed.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// Sealing or opening failed.
    #[error("sealing or opening a report failed")]
    Sealing(#[from] SealingError),
    /// What is stored does not read.
    #[error("a stored report is damaged")]
    Damaged,
    /// An agent that has sent a ratchet before sends one each time.
    #[error("a report of this agent proves the one before it; this one does not try to")]
    RatchetMissing,
    /// Two processes have this identity.
    #[error(
        "another process came with this agent's identity: {known}; this one is {other}. Both are cut off: find out which is right, and enrol that host again (freehold-agent enrol --again)"
    )]
    Forked {
        /// Who was known.
        known: Sighting,
        /// Who came beside it.
        other: Sighting,
    },
    /// The ratchet could not be looked at.
    #[error(transparent)]
    Ratchet(#[from] RatchetError),
    /// A command came to nothing because of a fault.
    #[error("recording what a report says failed")]
    Fault(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The last report of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct LastReport {
    /// When it came.
    pub at: Timestamp,
    /// What it said; documents are left out, but for what its self-tests found.
    pub report: Report,
}

impl LastReport {
    /// What its self-tests found; the signature was checked when it came.
    pub fn self_tests(&self) -> Option<SelfTestReport> {
        self.report.self_tests.as_ref().and_then(|document| peek_document(document.as_slice()).ok())
    }
}

/// Takes reports and keeps the last one of each agent.
#[derive(Clone)]
pub struct Reports {
    handler: Handler,
    database: Database,
    keyring: Arc<Keyring>,
    ratchets: Ratchets,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// Why one document was not taken.
enum Turned {
    Refused { code: &'static str, detail: String },
    Fault(Box<dyn std::error::Error + Send + Sync>),
}

impl<R: Refusal> From<CommandError<R>> for Turned {
    fn from(error: CommandError<R>) -> Self {
        match error.code() {
            Some(code) => Self::Refused { code, detail: error.to_string() },
            None => Self::Fault(Box::new(error)),
        }
    }
}

impl From<EnvelopeError> for Turned {
    fn from(error: EnvelopeError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Refused { code: "document_not_genuine", detail: format!("{error}{cause}") }
    }
}

fn refused<T>(code: &'static str, detail: &str) -> Result<T, Turned> {
    Err(Turned::Refused { code, detail: detail.to_owned() })
}

/// The one who reports, and by which pair its documents are checked.
struct Reporter<'a> {
    identity: &'a AgentIdentity,
    pair: PublicPair,
    ctx: OpContext,
}

impl Reports {
    /// Puts the parts together.
    pub fn new(handler: Handler, database: Database, keyring: Arc<Keyring>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        let ratchets = Ratchets::new(database.clone(), keyring.clone());
        Self { handler, database, keyring, ratchets, clock, ids }
    }

    /// Whether a report comes from the same agent as the one before. If not, the agent is cut off, and the report not taken.
    async fn prove(&self, identity: &AgentIdentity, report: &Report, address: Option<IpAddr>) -> Result<(), ReportError> {
        let Some(claim) = &report.ratchet else {
            let known = self.ratchets.known(identity).await?;
            return if known.counter() == 0 { Ok(()) } else { Err(ReportError::RatchetMissing) };
        };
        let now = self.clock.now();
        let other = Sighting {
            host: report.host.as_deref().unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_HOST).collect(),
            address: address.map_or_else(String::new, |address| address.to_string()),
            started: report.started,
            at: now,
        };
        let Proved::Forked { known } = self.ratchets.prove(identity, claim, &other).await? else { return Ok(()) };
        tracing::error!(tenant = %identity.tenant, agent = %identity.agent, %known, %other, "two processes came with one agent's identity");
        let request = service::log::RequestContext::current().map_or_else(|| new_id(&*self.ids, now), |context| context.id);
        let ctx = OpContext { tenant: identity.tenant, principal: PRINCIPAL, scopes: Vec::new(), via: None, request };
        let question = Question::new("quarantineAgent", "Agent", identity.agent);
        let command = AgentCommand::Quarantine { counter: claim.counter, known: known.clone(), other: other.clone() };
        let done = self.handler.handle::<Agent>(&ctx, question, identity.agent, Options::default(), command).await;
        done.map_err(|error| ReportError::Fault(Box::new(error)))?;
        Err(ReportError::Forked { known, other })
    }

    /// Whether an agent may be served what others get: not when its ratchet is elsewhere than that of whoever reported last.
    pub async fn may_be_served(&self, identity: &AgentIdentity, position: Option<(u64, Digest)>) -> Result<bool, ReportError> {
        Ok(self.ratchets.known(identity).await?.may_be_at(position))
    }

    /// Takes a report of an agent. Documents that are turned down are listed; the others count.
    pub async fn take(
        &self,
        identity: &AgentIdentity,
        agent: &Agent,
        report: &Report,
        address: Option<IpAddr>,
    ) -> Result<ReportAnswer, ReportError> {
        for (list, length) in [
            ("version_records", report.version_records.len()),
            ("holder_reports", report.holder_reports.len()),
            ("vouches", report.vouches.len()),
            ("backup_reports", report.backup_reports.len()),
        ] {
            if length > MAX_DOCUMENTS {
                return Err(ReportError::TooMany { list });
            }
        }
        self.prove(identity, report, address).await?;
        let now = self.clock.now();
        let enrolment = agent.enrolment.as_ref().ok_or(ReportError::Damaged)?;
        let pair = PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).map_err(|_| ReportError::Damaged)?;
        let reporter = Reporter { identity, pair, ctx: agent_context(identity, &*self.ids, now) };
        let mut answer = ReportAnswer::default();
        let mut note = |list: &str, index, outcome: Result<(), Turned>| match outcome {
            Ok(()) => Ok(()),
            Err(Turned::Fault(error)) => Err(ReportError::Fault(error)),
            Err(Turned::Refused { code, detail }) => {
                answer.refused.push(RefusedDocument { list: list.to_owned(), index, code: code.to_owned(), detail });
                Ok(())
            }
        };
        let at_work = agent.is_at_work();
        for (index, document) in report.version_records.iter().enumerate() {
            let outcome = if at_work { self.version_record(&reporter, document).await } else { not_at_work() };
            note("version_records", index, outcome)?;
        }
        for (index, document) in report.holder_reports.iter().enumerate() {
            let outcome = if at_work { self.holder_report(&reporter, document).await } else { not_at_work() };
            note("holder_reports", index, outcome)?;
        }
        for (index, document) in report.vouches.iter().enumerate() {
            let outcome = if at_work { self.vouch(&reporter, document).await } else { not_at_work() };
            note("vouches", index, outcome)?;
        }
        for (index, document) in report.backup_reports.iter().enumerate() {
            let outcome = if at_work { self.backup_report(&reporter, document).await } else { not_at_work() };
            note("backup_reports", index, outcome)?;
        }
        if let Some(document) = &report.recovery_key {
            let outcome = if at_work { self.recovery_key(&reporter, document).await } else { not_at_work() };
            note("recovery_key", 0, outcome)?;
        }
        // Also of an agent that is not at work: why it is not may stand in there.
        let self_tests = match report.self_tests.as_ref().map(|document| reporter.self_tests(document)) {
            Some(Ok(())) => report.self_tests.clone(),
            Some(turned) => {
                note("self_tests", 0, turned)?;
                None
            }
            None => None,
        };
        self.keep(identity, Report { self_tests, ..in_bounds(report) }, now).await?;
        Ok(answer)
    }

    /// The last reports of a site's agents.
    pub async fn of_site(&self, tenant: TenantId, site: SiteId) -> Result<BTreeMap<AgentId, LastReport>, ReportError> {
        self.select(tenant, "site = $2", site.to_string().into()).await
    }

    /// The last report of one agent.
    pub async fn of_agent(&self, tenant: TenantId, agent: AgentId) -> Result<Option<LastReport>, ReportError> {
        Ok(self.select(tenant, "agent = $2", agent.to_string().into()).await?.remove(&agent))
    }

    /// The agents that reported since then.
    pub async fn heard(&self, tenant: TenantId, since: Timestamp) -> Result<BTreeSet<AgentId>, ReportError> {
        let failed = |source| ReportError::Database { act: "reading reports", source };
        let sql = "SELECT agent FROM agent_reports WHERE tenant = $1 AND at >= $2";
        let values = vec![tenant.to_string().into(), since.micros().into()];
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        let agent = |row: &QueryResult| -> Result<AgentId, ReportError> {
            let text: String = row.try_get_by_index(0).map_err(failed)?;
            text.parse().map_err(|_| ReportError::Damaged)
        };
        rows.iter().map(agent).collect()
    }

    async fn version_record(&self, reporter: &Reporter<'_>, document: &Base64) -> Result<(), Turned> {
        let record: VersionRecord = reporter.open(document)?;
        if record.generator != reporter.identity.agent {
            return refused("version_record_of_another_agent", "an agent reports the versions it made itself");
        }
        reporter.is_here(record.tenant, record.site)?;
        let key = record.version.key;
        let command = RecordVersion {
            version: record.version,
            site: record.site,
            algorithm: record.algorithm,
            origin: record.origin,
            generator: record.generator,
            fingerprint: record.fingerprint,
            public_key: record.public_key,
            record: document.clone(),
        };
        let question = Question::new("recordVersion", "Key", key);
        let command = KeyCommand::RecordVersion(Box::new(command));
        self.handler.handle::<Key>(&reporter.ctx, question, key, Options::default(), command).await?;
        Ok(())
    }

    async fn holder_report(&self, reporter: &Reporter<'_>, document: &Base64) -> Result<(), Turned> {
        let report: HolderReport = reporter.open(document)?;
        if report.holder != reporter.identity.agent {
            return refused("holder_report_of_another_agent", "an agent reports its own vault");
        }
        reporter.is_here(report.tenant, report.site)?;
        let HolderReport { version, site, fingerprint, holder, vault, protection, .. } = report;
        let bytes = document.clone();
        let command = match report.status {
            HolderStatus::Ready => {
                KeyCommand::RecordReady(RecordReady { version, site, holder, vault, fingerprint, protection, report: bytes })
            }
            HolderStatus::Destroyed => KeyCommand::RecordDestroyed(RecordDestroyed { version, holder, fingerprint, report: bytes }),
        };
        let question = Question::new("reportHolder", "Key", version.key);
        self.handler.handle::<Key>(&reporter.ctx, question, version.key, Options::default(), command).await?;
        Ok(())
    }

    async fn backup_report(&self, reporter: &Reporter<'_>, document: &Base64) -> Result<(), Turned> {
        let said: BackupReport = reporter.open(document)?;
        if said.holder != reporter.identity.agent {
            return refused("backup_report_of_another_agent", "an agent reports the backups it wrote itself");
        }
        reporter.is_here(said.tenant, said.site)?;
        let BackupReport { version, site, holder, fingerprint, recovery_key, backup, .. } = said;
        let report = document.clone();
        let command = KeyCommand::RecordBackup(RecordBackup { version, site, holder, fingerprint, recovery_key, backup, report });
        let question = Question::new("reportBackup", "Key", version.key);
        self.handler.handle::<Key>(&reporter.ctx, question, version.key, Options::default(), command).await?;
        Ok(())
    }

    async fn recovery_key(&self, reporter: &Reporter<'_>, document: &Base64) -> Result<(), Turned> {
        let key: RecoveryKey = reporter.open(document)?;
        if key.agent != reporter.identity.agent {
            return refused("recovery_key_of_another_agent", "an agent registers the recovery keys that were made at it");
        }
        reporter.is_here(key.tenant, key.site)?;
        if key.public_key.as_slice().len() != RECOVERY_PUBLIC_KEY_BYTES {
            return refused("recovery_key_malformed", "its public half is no MLKEM768-X25519 key");
        }
        let site = key.site;
        let question = Question::new("setRecoveryKey", "Site", site);
        let command = SiteCommand::SetRecoveryKey { key, document: document.clone() };
        self.handler.handle::<Site>(&reporter.ctx, question, site, Options::default(), command).await?;
        Ok(())
    }

    async fn vouch(&self, reporter: &Reporter<'_>, document: &Base64) -> Result<(), Turned> {
        let vouch: AgentVouch = reporter.open(document)?;
        // An agent of another site of the tenant may be meant: its material comes here, or goes there.
        reporter.is_here(vouch.tenant, reporter.identity.site)?;
        let loaded = self.handler.load::<Agent>(reporter.identity.tenant, vouch.agent).await?;
        if loaded.state.fixed.as_ref().is_none_or(|fixed| fixed.site != vouch.site) {
            return refused("agent_not_found", "there is no such agent at the site that is named");
        }
        if vouch.site != reporter.identity.site && loaded.state.rostered.is_none() {
            return refused("agent_not_rostered", "whoever belongs to a site, agents of that site say first");
        }
        let command =
            AgentCommand::Vouch { keyid: vouch.keyid, vouch: Vouch::Agent { agent: reporter.identity.agent, vouch: document.clone() } };
        let question = Question::new("vouchForAgent", "Agent", vouch.agent);
        self.handler.handle::<Agent>(&reporter.ctx, question, vouch.agent, Options::default(), command).await?;
        Ok(())
    }

    async fn keep(&self, identity: &AgentIdentity, report: Report, now: Timestamp) -> Result<(), ReportError> {
        let (agent, keys) = (identity.agent.to_string(), self.keyring.tenant(identity.tenant).await?);
        let plain = serde_json::to_vec(&report).map_err(|_| ReportError::Damaged)?;
        let sealed = keys.seal(Place::Row { table: TABLE, key: &agent }, &plain)?;
        let sql = "INSERT INTO agent_reports (tenant, agent, site, at, heartbeat, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                   ON CONFLICT (tenant, agent) DO UPDATE SET site = excluded.site, at = excluded.at, heartbeat = excluded.heartbeat, \
                   data_key = excluded.data_key, sealed = excluded.sealed";
        let values = vec![
            identity.tenant.to_string().into(),
            agent.into(),
            identity.site.to_string().into(),
            now.micros().into(),
            report.enforced_heartbeat.map(|serial| i64::try_from(serial).unwrap_or(i64::MAX)).into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ];
        let done = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        done.map(drop).map_err(|source| ReportError::Database { act: "keeping a report", source })
    }

    async fn select(&self, tenant: TenantId, condition: &str, value: Value) -> Result<BTreeMap<AgentId, LastReport>, ReportError> {
        let failed = |source| ReportError::Database { act: "reading reports", source };
        let sql = format!("SELECT agent, at, data_key, sealed FROM agent_reports WHERE tenant = $1 AND {condition}");
        let values = vec![tenant.to_string().into(), value];
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        let mut reports = BTreeMap::new();
        for row in rows {
            let read = |row: &QueryResult| -> Result<_, DbErr> {
                let (agent, at): (String, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                let (data_key, sealed): (String, Vec<u8>) = (row.try_get_by_index(2)?, row.try_get_by_index(3)?);
                Ok((agent, at, data_key, sealed))
            };
            let (agent, at, data_key, sealed) = read(&row).map_err(failed)?;
            let data_key = data_key.parse().map_err(|_| ReportError::Damaged)?;
            let plain = self.keyring.open_sealed(tenant, Place::Row { table: TABLE, key: &agent }, data_key, &sealed).await?;
            let report = serde_json::from_slice(&plain).map_err(|_| ReportError::Damaged)?;
            let agent = agent.parse().map_err(|_| ReportError::Damaged)?;
            reports.insert(agent, LastReport { at: Timestamp::from_micros(at), report });
        }
        Ok(reports)
    }
}

/// What is kept of a report: no documents, and of each text no more than people read.
fn in_bounds(report: &Report) -> Report {
    let short = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
    Report {
        version_records: Vec::new(),
        holder_reports: Vec::new(),
        vouches: Vec::new(),
        backup_reports: Vec::new(),
        recovery_key: None,
        enforced_heartbeat: report.enforced_heartbeat,
        enforced_state: report.enforced_state,
        epoch: report.epoch,
        rejection: report.rejection.as_ref().map(|rejected| Rejected {
            code: short(&rejected.code),
            detail: short(&rejected.detail),
            at: rejected.at,
        }),
        agent_version: short(&report.agent_version),
        vault: short(&report.vault),
        self_tests: None,
        ratchet: None,
        host: report.host.as_deref().map(short),
        started: report.started,
        findings: report.findings.iter().take(MAX_FINDINGS).map(finding_in_bounds).collect(),
        holds: None,
    }
}

fn finding_in_bounds(finding: &Finding) -> Finding {
    let short = |text: &str, most| text.chars().take(most).collect();
    Finding { code: short(&finding.code, MAX_CODE), detail: short(&finding.detail, MAX_FINDING), ..*finding }
}

fn not_at_work() -> Result<(), Turned> {
    refused("agent_not_rostered", "documents of an agent count once somebody has vouched for it, and while it is not suspended")
}

impl Reporter<'_> {
    /// Reads a document that the reporter's own pair must have signed.
    fn open<D: Document>(&self, document: &Base64) -> Result<D, Turned> {
        Ok(open_document::<D>(document.as_slice(), &Signers::one(self.pair.clone()), 1)?.payload)
    }

    fn self_tests(&self, document: &Base64) -> Result<(), Turned> {
        let report: SelfTestReport = self.open(document)?;
        if report.agent != self.identity.agent {
            return refused("self_tests_of_another_agent", "an agent reports its own self-tests");
        }
        self.is_here(report.tenant, report.site)
    }

    fn is_here(&self, tenant: TenantId, site: SiteId) -> Result<(), Turned> {
        if tenant == self.identity.tenant && site == self.identity.site {
            return Ok(());
        }
        refused("document_of_another_site", "the document names another tenant or site than the agent's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_endless_report_little_is_kept() {
        let long = "é".repeat(1 << 20);
        let report = Report {
            version_records: vec![Base64::default()],
            holder_reports: Vec::new(),
            backup_reports: Vec::new(),
            recovery_key: None,
            vouches: Vec::new(),
            enforced_heartbeat: Some(7),
            enforced_state: None,
            epoch: None,
            rejection: Some(Rejected { code: long.clone(), detail: long.clone(), at: Timestamp::default() }),
            agent_version: long.clone(),
            vault: "file".to_owned(),
            self_tests: Some(Base64::from(long.clone().into_bytes())),
            ratchet: None,
            host: Some(long.clone()),
            started: None,
            findings: (0..=MAX_FINDINGS as u32)
                .map(|_| Finding { code: long.clone(), detail: long.clone(), since: Timestamp::default(), key_version: None })
                .collect(),
            holds: None,
        };
        let kept = in_bounds(&report);
        assert_eq!((kept.vault.as_str(), kept.enforced_heartbeat), ("file", Some(7)));
        assert_eq!((kept.findings.len(), kept.findings[0].code.chars().count()), (MAX_FINDINGS, MAX_CODE));
        assert!(serde_json::to_vec(&kept).unwrap().len() < 1 << 20);
    }
}
