//! A pretend agent: it speaks the agents' protocol over real TLS, keeps nothing, and believes only what `trust::accept` does.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    encoding::{Base64, Digest},
    id::{AgentId, IncarnationId, KeyVersion, PrekeyId, VaultId},
    key::{Origin, VersionState},
    wire::{
        agent::{
            EnrolRequest, EnrolResponse, EnrolmentToken, Receipt, ReceiptAnswer, ReceiptBatch, ReceiptBatchHead, Report, ReportAnswer,
            StatementSet, chain, path,
        },
        delta::{self, Incomplete, StatementDelta},
        relay::{RelayAnswer, RelayAsk},
    },
};
use serde_json::Value;
use service::{
    config::OutgoingConfig,
    outgoing::{Identity as TlsIdentity, Trust, client},
};
use trust::{
    accept::{AcceptedSet, Confirmed, Identity, accept},
    document::{
        self, ContextKeyHead, ContextKeyTransfer, HolderReport, HolderStatus, Month, Prekey, Transfer, TransferHead, VersionRecord,
    },
    pair::Pair,
    seal::PrekeySecret,
    time::Moment,
};

/// An agent before it has enrolled: a pair, and a key for its certificate.
pub struct Applicant {
    pub file: EnrolmentToken,
    pub pair: Pair,
    pub key: rcgen::KeyPair,
}

impl Applicant {
    pub fn new(file: EnrolmentToken) -> Self {
        Self { file, pair: Pair::generate(&SystemIds), key: rcgen::KeyPair::generate().unwrap() }
    }

    pub fn http(&self, identity: Option<&TlsIdentity>) -> reqwest::Client {
        let trust = Trust::Only(self.file.ca_pem.clone().unwrap());
        client(&OutgoingConfig::default(), &trust, identity).unwrap()
    }

    pub fn csr(&self) -> String {
        rcgen::CertificateParams::default().serialize_request(&self.key).unwrap().pem().unwrap()
    }

    pub fn request(&self) -> EnrolRequest {
        let EnrolmentToken { tenant, site, agent, root, .. } = self.file;
        EnrolRequest {
            token: self.file.token.clone(),
            csr_pem: self.csr(),
            roster_entry: document::sign_roster_entry(&self.pair, tenant, site, agent, root, SystemClock.now()),
            agent_version: "0.1.0".to_owned(),
            host: "host-1".to_owned(),
        }
    }

    pub async fn send(&self, request: &EnrolRequest) -> Result<EnrolResponse, (StatusCode, String)> {
        answer(self.http(None).post(format!("{}{}", self.file.control_plane, path::ENROL)).json(request)).await
    }

    pub async fn enrol(self) -> Agent {
        let enrolled = self.send(&self.request()).await.unwrap();
        self.with_certificate(enrolled.certificate_pem)
    }

    pub fn with_certificate(self, certificate_pem: String) -> Agent {
        let identity = TlsIdentity { certificate_pem, key_pem: self.key.serialize_pem().into() };
        let http = self.http(Some(&identity));
        Agent { applicant: self, identity, http, set: None, etag: None }
    }
}

/// The answer, or status and code of the problem.
pub async fn answer<T: serde::de::DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, (StatusCode, String)> {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.json().await.unwrap());
    }
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    Err((status, problem["code"].as_str().unwrap().to_owned()))
}

/// What came of a long poll: the bytes as they were received.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// All of a set.
    Whole(Vec<u8>),
    /// What is lacked of it.
    Delta(Vec<u8>),
}

impl Fetched {
    /// What was received.
    pub fn body(&self) -> &[u8] {
        let (Self::Whole(body) | Self::Delta(body)) = self;
        body
    }
}

/// A pretend agent.
pub struct Agent {
    pub applicant: Applicant,
    pub identity: TlsIdentity,
    pub http: reqwest::Client,
    pub set: Option<AcceptedSet>,
    pub etag: Option<String>,
}

impl Agent {
    pub fn id(&self) -> AgentId {
        self.applicant.file.agent
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.applicant.file.control_plane)
    }

    /// Long-polls once; whether there was something new. Everything that is served must be believed.
    pub async fn sync(&mut self, wait_seconds: u64) -> Result<bool, (StatusCode, String)> {
        let Some(mut fetched) = self.fetch(wait_seconds).await.unwrap()? else { return Ok(false) };
        let set = loop {
            if let Ok(set) = self.complete(&fetched) {
                break set;
            }
            // As agents do: all of it, then.
            self.etag = None;
            fetched = self.fetch(0).await.unwrap()?.expect("a set");
        };
        self.believe(&set);
        Ok(true)
    }

    /// Long-polls once; the set when it is another than the last, or what of it is.
    pub async fn fetch(&mut self, wait_seconds: u64) -> reqwest::Result<Result<Option<Fetched>, (StatusCode, String)>> {
        let mut request = self.http.get(format!("{}?wait={wait_seconds}", self.url(path::STATEMENTS)));
        if let Some(etag) = &self.etag {
            request = request.header("if-none-match", etag).header(delta::A_IM, delta::MANIPULATION);
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(Ok(None));
        }
        if !status.is_success() {
            let problem: Value = answer.json().await?;
            return Ok(Err((status, problem["code"].as_str().unwrap_or_default().to_owned())));
        }
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let is_delta = status == StatusCode::IM_USED;
        assert_eq!(header(delta::IM).as_deref(), is_delta.then_some(delta::MANIPULATION));
        assert_eq!(header(delta::DELTA_BASE), self.etag.clone().filter(|_| is_delta), "a delta to what it was asked for");
        let etag = header("etag");
        let body = answer.bytes().await?.to_vec();
        self.etag = etag;
        Ok(Ok(Some(if is_delta { Fetched::Delta(body) } else { Fetched::Whole(body) })))
    }

    /// The set that was fetched: with what it believes already, where a delta came.
    pub fn complete(&self, fetched: &Fetched) -> Result<StatementSet, Incomplete> {
        match fetched {
            Fetched::Whole(body) => Ok(serde_json::from_slice(body).unwrap()),
            Fetched::Delta(body) => {
                let delta: StatementDelta = serde_json::from_slice(body).unwrap();
                delta.complete(&self.set.as_ref().map(AcceptedSet::statements).unwrap_or_default())
            }
        }
    }

    /// Judges a set as agents do; it must be believed.
    pub fn believe(&mut self, set: &StatementSet) {
        let EnrolmentToken { tenant, site, agent, root, founder, .. } = self.applicant.file;
        let identity = Identity { tenant, site, agent, root, founder, keyid: self.applicant.pair.keyid() };
        let now = SystemClock.now();
        let now = Moment { signed: now, wall: now };
        let accepted = accept(self.set.as_ref(), set, &identity, &Confirmed::default(), now);
        self.set = Some(accepted.unwrap_or_else(|rejection| panic!("the served set is not believed: {}: {rejection}", rejection.code())));
    }

    /// Syncs until what it believes is so.
    pub async fn sync_until(&mut self, what: &str, is_so: impl Fn(&AcceptedSet) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.set.as_ref().is_some_and(&is_so) {
            assert!(Instant::now() < until, "{what}: never came; state {:#?}", self.set.as_ref().map(|set| set.state()));
            self.sync(5).await.unwrap();
        }
    }

    /// Syncs until nothing new comes.
    pub async fn settle(&mut self) {
        let me = self.id();
        self.sync_until("being in the roster", |set| set.agents().contains_key(&me)).await;
        while self.sync(1).await.unwrap() {}
    }

    pub async fn report(&self, report: &Report) -> Result<ReportAnswer, (StatusCode, String)> {
        answer(self.http.post(self.url(path::REPORT)).json(report)).await
    }

    pub fn blank_report(&self) -> Report {
        Report {
            version_records: Vec::new(),
            holder_reports: Vec::new(),
            vouches: Vec::new(),
            backup_reports: Vec::new(),
            recovery_key: None,
            enforced_heartbeat: self.set.as_ref().map(|set| set.heartbeat().head.serial),
            enforced_state: self.set.as_ref().map(|set| set.state().head.serial),
            epoch: Some(1),
            rejection: None,
            agent_version: "0.1.0".to_owned(),
            vault: "file".to_owned(),
            self_tests: None,
            ratchet: None,
            host: None,
            started: None,
            holds: None,
            findings: Vec::new(),
        }
    }

    /// A version record and a ready report, as if the vault had made the version.
    pub fn made(&self, version: KeyVersion, fingerprint: Digest) -> (Base64, Base64) {
        let EnrolmentToken { tenant, site, agent, .. } = self.applicant.file;
        let (issued, algorithm, origin) = (SystemClock.now(), "A256KW+A256GCM".parse().unwrap(), Origin::Generated);
        let record = VersionRecord { tenant, site, version, algorithm, origin, fingerprint, public_key: None, generator: agent, issued };
        let (holder, vault, status) = (agent, VaultId::from_bits(agent.bits()), HolderStatus::Ready);
        let ready = HolderReport { tenant, site, version, fingerprint, holder, vault, status, protection: None, issued };
        (document::sign(&record, &self.applicant.pair), document::sign(&ready, &self.applicant.pair))
    }

    /// Waits to be named as the generator of a version, makes it, and sees it active.
    pub async fn generate(&mut self, version: KeyVersion) {
        let me = self.id();
        self.sync_until("being named as the generator", |set| {
            set.key(version.key).and_then(|(_, state)| state.versions.get(&version.number)?.generator) == Some(me)
        })
        .await;
        let (record, ready) = self.made(version, Digest::of(version.to_string().as_bytes()));
        let report = Report { version_records: vec![record], holder_reports: vec![ready], ..self.blank_report() };
        assert_eq!(self.report(&report).await.unwrap(), ReportAnswer::default());
        self.sync_until("the version becoming active", |set| set.version_state(version) == Some(VersionState::Active)).await;
    }

    pub fn batch(&self, incarnation: IncarnationId, previous: Digest, receipts: &[Receipt]) -> ReceiptBatch {
        let EnrolmentToken { tenant, site, agent, .. } = self.applicant.file;
        let entries: Vec<Base64> = receipts.iter().map(|receipt| serde_json::to_vec(receipt).unwrap().into()).collect();
        let last = entries.iter().fold(previous, |hash, entry| chain(&hash, entry.as_slice()));
        let (first_seq, count) = (receipts[0].seq, receipts.len() as u64);
        let head = ReceiptBatchHead { tenant, site, agent, incarnation, first_seq, count, previous, last };
        ReceiptBatch { incarnation, first_seq, previous, entries, head: document::sign(&head, &self.applicant.pair) }
    }

    pub async fn relay(&self, ask: &RelayAsk) -> Result<RelayAnswer, (StatusCode, String)> {
        answer(self.http.post(self.url(path::RELAY)).json(ask)).await
    }

    /// A prekey of this agent (of another one, when `of` says so), signed by it.
    pub fn prekey(&self, id: u128, of: AgentId, life: Duration) -> Base64 {
        let EnrolmentToken { tenant, site, .. } = self.applicant.file;
        let public_key = PrekeySecret::generate(&SystemIds).unwrap().public_key().into();
        let issued = SystemClock.now();
        let prekey = Prekey { tenant, site, agent: of, id: PrekeyId::from_bits(id), public_key, not_after: issued.plus(life), issued };
        document::sign(&prekey, &self.applicant.pair)
    }

    /// What this agent sends of a version it made: whatever is inside, the relay cannot tell.
    pub fn transfer(&self, version: KeyVersion, to: AgentId, prekey: u128, change: impl FnOnce(&mut TransferHead)) -> Base64 {
        let EnrolmentToken { tenant, site, agent, .. } = self.applicant.file;
        let mut head = TransferHead {
            tenant,
            site,
            recipient_site: None,
            version,
            algorithm: "A256KW+A256GCM".parse().unwrap(),
            origin: Origin::Generated,
            fingerprint: Digest::of(version.to_string().as_bytes()),
            sender: agent,
            recipient: to,
            prekey: PrekeyId::from_bits(prekey),
            issued: SystemClock.now(),
        };
        change(&mut head);
        let transfer = Transfer { head, encapsulated: vec![1; 1120].into(), ciphertext: vec![2; 48].into() };
        document::sign(&transfer, &self.applicant.pair)
    }

    /// A context key for another agent: whatever is inside, the relay cannot tell.
    pub fn context_key(&self, to: AgentId, prekey: u128, change: impl FnOnce(&mut ContextKeyHead)) -> Base64 {
        let EnrolmentToken { tenant, site, agent, .. } = self.applicant.file;
        let now = SystemClock.now();
        let (month, prekey) = (Month::of(now), PrekeyId::from_bits(prekey));
        let id = Digest([3; 32]);
        let mut head = ContextKeyHead { tenant, site, month, id, made: now, sender: agent, recipient: to, prekey, issued: now };
        change(&mut head);
        let sealed = ContextKeyTransfer { head, encapsulated: vec![1; 1120].into(), ciphertext: vec![2; 48].into() };
        document::sign(&sealed, &self.applicant.pair)
    }

    pub async fn ship(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, (StatusCode, String)> {
        answer(self.http.post(self.url(path::RECEIPTS)).json(batch)).await
    }
}
