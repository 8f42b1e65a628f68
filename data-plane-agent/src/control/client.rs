//! The calls to the control plane's agent listener: JSON over mutual TLS 1.3.

use std::{
    error::Error,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ETAG, IF_NONE_MATCH, RETRY_AFTER},
};
use schema::{
    clock::Clock,
    encoding::Digest,
    wire::{
        agent::{
            ComebackRequest, ComebackResponse, EnrolRequest, EnrolResponse, LeaseAnswer, LeaseAsk, RATCHET_HEADER, ReceiptAnswer,
            ReceiptBatch, RenewRequest, RenewResponse, Report, ReportAnswer, StatementSet, path,
        },
        delta::{self, StatementDelta},
        problem::Problem,
        relay::{RelayAnswer, RelayAsk},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use service::{
    config::OutgoingConfig,
    outgoing::{self, OutgoingError, Trust},
    telemetry::{self, TARGET},
};
use tokio::sync::Notify;
use tracing::{Instrument as _, Span, field::Empty};
use trust::accept::AcceptedSet;
use url::Url;

use crate::journal::ship::{PostError, PostReceipts};

use super::directory::{AgentKeys, StoredAuthorities, StoredCertificate, StoredIdentity};

/// How long a call may take, beyond what a long poll asks for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of a set of statements: the largest state, and all that may stand beside it, in base64.
const MAX_SET_BYTES: usize = 256 << 20;
/// The most bytes of any other answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Why a call gave nothing. [`CallError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer.
    #[error("the control plane at {url} cannot be reached; check the address, the network and outgoing.proxy")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It said no.
    #[error("the control plane refused ({code}): {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// What was wrong.
        detail: String,
        /// When it may be tried again.
        retry_after: Option<Duration>,
    },
    /// The answer is larger than any that makes sense.
    #[error("the control plane's answer has more than {0} bytes")]
    TooLarge(usize),
    /// The answer is not what was asked for.
    #[error("the control plane's answer cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// A part of a set came where all of it was asked for.
    #[error("the control plane's answer is a part of what was asked for")]
    Unasked,
}

impl CallError {
    /// A stable name.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "control_plane_unreachable",
            Self::Refused { code, .. } => code,
            Self::TooLarge(_) => "answer_too_large",
            Self::Malformed(_) | Self::Unasked => "answer_malformed",
        }
    }

    /// The code of the refusal, when the control plane says that this agent is no longer one.
    pub fn cut_off(&self) -> Option<&'static str> {
        let codes = ["agent_quarantined", "agent_revoked"];
        codes.into_iter().find(|code| matches!(self, Self::Refused { status: 403, code: refused, .. } if refused == code))
    }

    /// When it may be tried again, if the control plane said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A set as it was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its entity tag, to ask for another than this one.
    pub etag: Option<String>,
    /// The set.
    pub set: StatementSet,
    /// Whether it is what the one before became by a delta.
    pub is_completed: bool,
}

/// Makes calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlClient {
    http: reqwest::Client,
    base: Url,
    trouble: Arc<Trouble>,
}

/// How the control plane is reached, and by what its certificate is judged.
pub struct Reach<'a> {
    /// Another address than the one the agent enrolled at.
    pub url: Option<&'a str>,
    /// Proxy and authorities.
    pub outgoing: &'a OutgoingConfig,
    /// Whose certificates it shows, where a heartbeat has told; else those that enrolment told of.
    pub authorities: Option<&'a StoredAuthorities>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Whether calls fail because one side does not take the other's certificate.
#[derive(Debug, Default)]
struct Trouble {
    /// Connections that broke after they had begun, since the last that did not: so it looks when ours is refused.
    broken: AtomicU32,
    is: AtomicBool,
    told: Notify,
}

/// After so many broken connections one after the other, certificates are suspected.
const SUSPICIOUS: u32 = 3;

impl Trouble {
    fn failed(&self, error: &reqwest::Error) {
        let broken = || !error.is_connect() && !error.is_timeout() && self.broken.fetch_add(1, Ordering::Relaxed) + 1 >= SUSPICIOUS;
        if outgoing::is_about_certificates(error) || broken() {
            self.suspected();
        }
    }

    fn suspected(&self) {
        self.is.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }

    fn succeeded(&self) {
        self.broken.store(0, Ordering::Relaxed);
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{0} is not the address of a control plane; it looks like https://control.example:7420")]
    Address(String),
    /// TLS, proxy or certificate settings.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
}

impl ControlClient {
    /// Without a certificate: for enrolment.
    pub fn unknown(base: &str, ca_pem: Option<&str>, outgoing: &OutgoingConfig, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        Self::new(base, ca_pem, None, outgoing, clock)
    }

    /// Without a certificate, to whoever is there: for what proves itself.
    pub fn anybody(base: &str, outgoing: &OutgoingConfig) -> Result<Self, ClientError> {
        Self::of(base, outgoing::client(outgoing, &Trust::Anybody, None)?)
    }

    /// As an agent that has enrolled.
    pub fn enrolled(
        identity: &StoredIdentity,
        certificate: &StoredCertificate,
        keys: &AgentKeys,
        reach: &Reach<'_>,
    ) -> Result<Self, ClientError> {
        // Where the enrolment file named no authority, the listener has a certificate the system believes.
        let authorities = identity.ca_pem.as_ref().map(|enrolled| match reach.authorities {
            Some(named) => named.ca_pem.clone(),
            None => format!("{enrolled}\n{}", certificate.ca_pem),
        });
        let own = outgoing::Identity { certificate_pem: certificate.certificate_pem.clone(), key_pem: keys.tls_key_pem.clone() };
        let base = reach.url.unwrap_or(&identity.control_plane);
        Self::new(base, authorities.as_deref(), Some(&own), reach.outgoing, reach.clock.clone())
    }

    fn new(
        base: &str,
        authorities: Option<&str>,
        identity: Option<&outgoing::Identity>,
        outgoing: &OutgoingConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ClientError> {
        let http = match authorities {
            Some(pem) => outgoing::client_at(outgoing, pem, identity, clock)?,
            None => outgoing::client(outgoing, &Trust::System, identity)?,
        };
        Self::of(base, http)
    }

    fn of(base: &str, http: reqwest::Client) -> Result<Self, ClientError> {
        let url = Url::parse(base).ok().filter(|url| url.scheme() == "https" && url.host().is_some());
        let base = url.ok_or_else(|| ClientError::Address(base.to_owned()))?;
        Ok(Self { http, base, trouble: Arc::default() })
    }

    /// Joins a site.
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolResponse, CallError> {
        self.post(path::ENROL, request).await
    }

    /// Asks for the next certificate.
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewResponse, CallError> {
        self.post(path::RENEW, request).await
    }

    /// Comes back by the agent's pair: see `control::certificate`.
    pub async fn come_back(&self, request: &ComebackRequest) -> Result<ComebackResponse, CallError> {
        self.post(path::COMEBACK, request).await
    }

    /// Says what the agent made, holds and enforces.
    pub async fn report(&self, report: &Report) -> Result<ReportAnswer, CallError> {
        self.post(path::REPORT, report).await
    }

    /// Asks for a lease.
    pub async fn lease(&self, ask: &LeaseAsk) -> Result<LeaseAnswer, CallError> {
        self.post(path::LEASES, ask).await
    }

    /// Gives the relay what is for others, and fetches what others have for this agent.
    pub async fn relay(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError> {
        self.post(path::RELAY, ask).await
    }

    /// Sends receipts.
    pub async fn receipts(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, CallError> {
        self.post(path::RECEIPTS, batch).await
    }

    /// The site's statements, when they are others than those of `etag`; waits up to `wait` for that. With the `base` that was served under
    /// this tag only what it lacks need be sent. `position` is where the agent's ratchet is.
    pub async fn statements(
        &self,
        etag: Option<&str>,
        base: Option<&AcceptedSet>,
        wait: Duration,
        position: Option<(u64, Digest)>,
    ) -> Result<Option<Served>, CallError> {
        let base = etag.zip(base);
        let response = self.ask_for_statements(etag, base.is_some(), wait, position).await?;
        if response.status() != StatusCode::IM_USED {
            return self.whole(response).await;
        }
        let (known, base) = base.ok_or(CallError::Unasked)?;
        match self.completed(response, known, base).await? {
            Ok(served) => Ok(Some(served)),
            // Nothing is lost but the time for another request: whatever was sent is not looked at further.
            Err(why) => {
                tracing::debug!(why, "a part of the statements that cannot be made whole is asked for as a whole");
                metrics::counter!("freehold_statements_received_total", "form" => "incomplete").increment(1);
                let response = self.ask_for_statements(None, false, Duration::ZERO, position).await?;
                if response.status() == StatusCode::IM_USED { Err(CallError::Unasked) } else { self.whole(response).await }
            }
        }
    }

    async fn ask_for_statements(
        &self,
        etag: Option<&str>,
        takes_delta: bool,
        wait: Duration,
        position: Option<(u64, Digest)>,
    ) -> Result<Response, CallError> {
        let mut url = self.url(path::STATEMENTS);
        url.query_pairs_mut().append_pair("wait", &wait.as_secs().to_string());
        let mut request = self.http.request(Method::GET, url).timeout(wait + PATIENCE);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if takes_delta {
            request = request.header(delta::A_IM, delta::MANIPULATION);
        }
        if let Some((counter, hash)) = position {
            request = request.header(RATCHET_HEADER, format!("{counter}.{hash}"));
        }
        self.send(path::STATEMENTS, request).await
    }

    async fn whole(&self, response: Response) -> Result<Option<Served>, CallError> {
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let etag = header(&response, ETAG.as_str());
        let body = self.body(response, MAX_SET_BYTES).await?;
        let set = serde_json::from_slice(&body).map_err(CallError::Malformed)?;
        metrics::counter!("freehold_statements_received_total", "form" => "whole").increment(1);
        Ok(Some(Served { etag, set, is_completed: false }))
    }

    /// What a delta to the set with this tag makes of it; or why nothing.
    async fn completed(&self, response: Response, known: &str, base: &AcceptedSet) -> Result<Result<Served, &'static str>, CallError> {
        let etag = header(&response, ETAG.as_str());
        let is_ours = header(&response, delta::IM).is_some_and(|named| delta::is_named(&named));
        if !is_ours || header(&response, delta::DELTA_BASE).as_deref() != Some(known) {
            return Ok(Err("it is a part of another set"));
        }
        let body = self.body(response, MAX_SET_BYTES).await?;
        let Ok(delta) = serde_json::from_slice::<StatementDelta>(&body) else { return Ok(Err("it cannot be read")) };
        let Ok(set) = delta.complete(&base.statements()) else { return Ok(Err("it names statements that are not held")) };
        metrics::counter!("freehold_statements_received_total", "form" => "delta").increment(1);
        Ok(Ok(Served { etag, set, is_completed: true }))
    }

    async fn post<A: DeserializeOwned>(&self, path: &'static str, body: &impl Serialize) -> Result<A, CallError> {
        let request = self.http.request(Method::POST, self.url(path)).json(body).timeout(PATIENCE);
        let response = self.send(path, request).await?;
        let body = self.body(response, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(CallError::Malformed)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// Traced, and told to the control plane, so that both sides of a call are one trace.
    async fn send(&self, route: &'static str, mut request: RequestBuilder) -> Result<Response, CallError> {
        let span = tracing::info_span!(
            target: TARGET, "call", otel.name = route, otel.kind = "client", otel.status_code = Empty, http.route = route,
            http.response.status_code = Empty, server.address = self.base.host_str()
        );
        if let Some(traceparent) = telemetry::traceparent(&span) {
            request = request.header("traceparent", traceparent);
        }
        let sent = self.answered(request, &span).instrument(span.clone()).await;
        if sent.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        sent
    }

    async fn answered(&self, request: RequestBuilder, span: &Span) -> Result<Response, CallError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        self.trouble.succeeded();
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = self.body(response, MAX_ANSWER_BYTES).await?;
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let (code, detail) = match problem {
            Some(problem) => (problem.code, problem.detail),
            None => ("http_status".to_owned(), format!("HTTP status {status}; is this the agent listener of a control plane?")),
        };
        if code == "certificate_authority_retired" {
            self.trouble.suspected();
        }
        Err(CallError::Refused { status: status.as_u16(), code, detail, retry_after: seconds.map(Duration::from_secs) })
    }

    /// The body, up to a limit that holds while it arrives.
    async fn body(&self, mut response: Response, max: usize) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            if body.len() + chunk.len() > max {
                return Err(CallError::TooLarge(max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, source: reqwest::Error) -> CallError {
        self.trouble.failed(&source);
        CallError::Unreachable { url: self.base.to_string(), source: source.without_url() }
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The client of the certificate that is current: renewing replaces it, calls in flight finish with the old one.
#[derive(Debug)]
pub struct Connection {
    client: RwLock<ControlClient>,
    trouble: Arc<Trouble>,
    apart: bool,
}

impl Connection {
    /// Begins with this client.
    pub fn new(client: ControlClient) -> Arc<Self> {
        Arc::new(Self { trouble: client.trouble.clone(), client: RwLock::new(client), apart: false })
    }

    /// One that is never used: the agent is connected to nothing, and what it says travels as files.
    pub fn apart(client: ControlClient) -> Arc<Self> {
        Arc::new(Self { trouble: client.trouble.clone(), client: RwLock::new(client), apart: true })
    }

    /// Whether nobody is to be called.
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    /// The client to call with now.
    pub fn client(&self) -> ControlClient {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, this one.
    pub fn replace(&self, client: ControlClient) {
        let client = ControlClient { trouble: self.trouble.clone(), ..client };
        self.trouble.succeeded();
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Whether calls fail because one side does not take the other's certificate; asked again, only if it was seen again.
    pub fn is_troubled(&self) -> bool {
        self.trouble.is.swap(false, Ordering::Relaxed)
    }

    /// Returns when they do.
    pub async fn troubled(&self) {
        self.trouble.told.notified().await;
    }
}

#[async_trait]
impl PostReceipts for Connection {
    async fn post(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, PostError> {
        self.client().receipts(batch).await.map_err(|error| match error {
            // What is wrong with the request stays wrong; the rest may pass.
            CallError::Refused { status: 400..=428 | 430..=499, code, detail, .. } => PostError::Refused { code, detail },
            error => PostError::Unreachable(Box::new(error) as Box<dyn Error + Send + Sync>),
        })
    }
}
