//! The agents' listener: paths of [`schema::wire::agent::path`], JSON over mutual TLS. Who calls follows from the client
//! certificate alone; only enrolment, an agent that comes back by its pair, and what an agent signed for somebody to carry, come without one.

mod exchange;
mod statements;

use std::{
    future::{Ready, ready},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::RETRY_AFTER,
    web::{self, Data, Json, ServiceConfig},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use schema::{
    clock::{Clock, Ids},
    encoding::Digest,
    id::AgentId,
    wire::{
        agent::{
            ComebackRequest, ComebackResponse, EnrolRequest, EnrolResponse, LeaseAnswer, LeaseAsk, ReceiptAnswer, ReceiptBatch,
            RenewRequest, RenewResponse, Report, ReportAnswer, path,
        },
        exchange::EXCHANGE,
        problem::Problem,
        relay::{RelayAnswer, RelayAsk},
    },
};
use service::{
    listen::PeerCertificates,
    problem::{HttpProblem, fault, json_config, not_found, query_config, wrong_method},
};
use tokio_util::sync::CancellationToken;
use trust::pair::PublicPair;

use crate::{
    agents::{
        Agent, AgentRefusal, Quarantined,
        enrolment::{EnrolError, Enrolment},
        report::{ReportError, Reports},
        standing::Standings,
    },
    bundles::service::Statements,
    eventing::handler::{CommandError, Handler},
    leases::service::{LeaseError, Leases},
    pki::{
        identity::{AgentIdentity, PeerCertificate},
        listener::{AgentRoots, RENEWAL_WINDOW},
    },
    receipts::ingest::{Ingest, IngestError},
    relay::service::{Relay, RelayError},
};

/// The largest body of enrolment and renewal.
const SMALL_BODY_BYTES: usize = 256 << 10;
/// The largest report or batch of receipts.
const LARGE_BODY_BYTES: usize = 32 << 20;
/// Requests a minute of one agent; a minute's worth may come at once.
const AGENT_PER_MINUTE: u32 = 1200;
/// After so many checks, entries that are full again are forgotten.
const SWEEP_EVERY: u32 = 10_000;

/// What agents are served by.
pub struct Parts {
    /// Where agents are looked up.
    pub handler: Handler,
    /// The statements of their sites.
    pub statements: Statements,
    /// How they join.
    pub enrolment: Enrolment,
    /// What they say of themselves.
    pub reports: Reports,
    /// What they may spend.
    pub leases: Leases,
    /// What they have for each other.
    pub relay: Relay,
    /// Their receipts.
    pub ingest: Ingest,
    /// Whose certificates are taken.
    pub roots: Arc<AgentRoots>,
    /// Enrolments a minute of one address.
    pub enrolments_per_minute: u32,
}

/// What the agents' listener serves. One for all its workers.
pub struct AgentApi {
    handler: Handler,
    statements: Statements,
    enrolment: Enrolment,
    reports: Reports,
    leases: Leases,
    relay: Relay,
    ingest: Ingest,
    roots: Arc<AgentRoots>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    agents: DefaultKeyedRateLimiter<AgentId>,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    checks: AtomicU32,
    polls: statements::Polls,
    standings: Standings,
    exchanges: exchange::Counter,
    stopping: CancellationToken,
}

impl AgentApi {
    /// Puts the parts together. Long polls end at once when `stopping` is cancelled.
    pub fn new(parts: Parts, (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>), stopping: CancellationToken) -> Self {
        let Parts { handler, statements, enrolment, reports, leases, relay, ingest, roots, enrolments_per_minute } = parts;
        let per_minute = |count| Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN));
        Self {
            handler,
            statements,
            enrolment,
            reports,
            leases,
            relay,
            ingest,
            roots,
            clock,
            ids,
            agents: RateLimiter::keyed(per_minute(AGENT_PER_MINUTE)),
            addresses: RateLimiter::keyed(per_minute(enrolments_per_minute)),
            checks: AtomicU32::new(0),
            polls: statements::Polls::default(),
            standings: Standings::default(),
            exchanges: exchange::Counter::default(),
            stopping,
        }
    }
}

/// The routes. `App::new().app_data(Data::from(api)).configure(routes)`, with
/// [`service::listen::keep_peer_certificates`] on the server.
pub fn routes(config: &mut ServiceConfig) {
    let resource = |path: &str, limit| web::resource(path.to_owned()).app_data(json_config(limit)).app_data(query_config());
    config
        .service(resource(path::ENROL, SMALL_BODY_BYTES).route(web::post().to(enrol)).default_service(web::to(wrong_method)))
        .service(resource(path::RENEW, SMALL_BODY_BYTES).route(web::post().to(renew)).default_service(web::to(wrong_method)))
        .service(resource(path::COMEBACK, SMALL_BODY_BYTES).route(web::post().to(comeback)).default_service(web::to(wrong_method)))
        .service(resource(path::STATEMENTS, 0).route(web::get().to(statements::statements)).default_service(web::to(wrong_method)))
        .service(resource(path::REPORT, LARGE_BODY_BYTES).route(web::post().to(report)).default_service(web::to(wrong_method)))
        .service(resource(path::LEASES, LARGE_BODY_BYTES).route(web::post().to(leases)).default_service(web::to(wrong_method)))
        .service(resource(path::RELAY, LARGE_BODY_BYTES).route(web::post().to(relay)).default_service(web::to(wrong_method)))
        .service(resource(path::RECEIPTS, LARGE_BODY_BYTES).route(web::post().to(receipts)).default_service(web::to(wrong_method)))
        .service(resource(EXCHANGE, 0).route(web::post().to(exchange::exchange)).default_service(web::to(wrong_method)))
        .default_service(web::to(not_found));
}

async fn enrol(request: HttpRequest, api: Data<AgentApi>, body: Json<EnrolRequest>) -> Result<Json<EnrolResponse>, HttpProblem> {
    api.limit_address(&request)?;
    Ok(Json(api.enrolment.enrol(&body).await.map_err(enrol_problem)?))
}

async fn renew(shown: Shown, api: Data<AgentApi>, body: Json<RenewRequest>) -> Result<Json<RenewResponse>, HttpProblem> {
    let (peer, _) = api.peer(shown, Expired::MayRenew).await?;
    Ok(Json(api.enrolment.renew(&peer.identity, &body).await.map_err(enrol_problem)?))
}

/// Comes without a certificate, or with one that is of no use: the agent's pair says who it is.
async fn comeback(request: HttpRequest, api: Data<AgentApi>, body: Json<ComebackRequest>) -> Result<Json<ComebackResponse>, HttpProblem> {
    api.limit_address(&request)?;
    let (identity, signing_request) = Enrolment::comeback(&body).map_err(enrol_problem)?;
    if !api.enrolment.knows(&identity).await.map_err(enrol_problem)? {
        return Err(agent_unknown());
    }
    let agent = api.standing(&identity, Some(signing_request.public_key())).await?;
    let ended = agent.certificate.as_ref().is_none_or(|certificate| certificate.expires.plus(RENEWAL_WINDOW) < api.clock.now());
    if ended {
        return Err(certificate_expired());
    }
    Ok(Json(api.enrolment.come_back((&identity, &agent), &body, &signing_request).await.map_err(enrol_problem)?))
}

async fn report(request: HttpRequest, shown: Shown, api: Data<AgentApi>, body: Json<Report>) -> Result<Json<ReportAnswer>, HttpProblem> {
    let (peer, agent) = api.peer(shown, Expired::IsOut).await?;
    let address = request.peer_addr().map(|address| address.ip());
    Ok(Json(api.take_report(&peer.identity, &agent, &body, address).await?))
}

async fn leases(shown: Shown, api: Data<AgentApi>, body: Json<LeaseAsk>) -> Result<Json<LeaseAnswer>, HttpProblem> {
    let (peer, agent) = api.peer(shown, Expired::IsOut).await?;
    Ok(Json(api.leases.take(&peer.identity, &agent, &body).await.map_err(lease_problem)?))
}

async fn relay(shown: Shown, api: Data<AgentApi>, body: Json<RelayAsk>) -> Result<Json<RelayAnswer>, HttpProblem> {
    let (peer, agent) = api.peer(shown, Expired::IsOut).await?;
    Ok(Json(api.relay.exchange(&peer.identity, &agent, &body).await.map_err(relay_problem)?))
}

async fn receipts(shown: Shown, api: Data<AgentApi>, body: Json<ReceiptBatch>) -> Result<Json<ReceiptAnswer>, HttpProblem> {
    let (peer, agent) = api.peer(shown, Expired::IsOut).await?;
    let pair =
        agent.enrolment.as_ref().and_then(|enrolment| PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).ok());
    let pair = pair.ok_or_else(|| refusal(403, "agent_not_enrolled", "this agent has not enrolled"))?;
    Ok(Json(api.ingest.take(&peer.identity, &pair, &body).await.map_err(ingest_problem)?))
}

/// The client certificate that was shown. Handlers name it before the body: who shows none has nothing read or kept.
#[derive(Debug, Clone)]
struct Shown {
    peer: PeerCertificate,
    certificate: Vec<u8>,
}

impl FromRequest for Shown {
    type Error = HttpProblem;
    type Future = Ready<Result<Self, HttpProblem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let certificate = PeerCertificates::of(request).and_then(|certificates| certificates.leaf());
        let missing =
            || refusal(401, "client_certificate_missing", "this needs the agent's client certificate; an agent gets one by enrolling");
        ready(certificate.ok_or_else(missing).and_then(|certificate| {
            let read = PeerCertificate::read(certificate);
            let shown = read.map(|peer| Self { peer, certificate: certificate.to_vec() });
            shown.map_err(|error| refusal(403, "client_certificate_foreign", &error.to_string()))
        }))
    }
}

/// What a certificate that ended allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expired {
    /// Nothing.
    IsOut,
    /// Renewal.
    MayRenew,
}

impl AgentApi {
    /// Who is at the other end: from the client certificate, and as the agent's own history has it.
    async fn peer(&self, shown: Shown, expired: Expired) -> Result<(PeerCertificate, Agent), HttpProblem> {
        self.limit_agent(shown.peer.identity.agent)?;
        let agent = self.known(&shown, expired).await?;
        Ok((shown.peer, agent))
    }

    /// Whether an agent that waits, or begins to, is one. Its history is read again only when something was added to it.
    async fn still(&self, shown: &Shown) -> Result<(), HttpProblem> {
        self.is_taken(shown)?;
        let identity = &shown.peer.identity;
        let holds = self.standings.hold(&self.handler, identity, Digest::of(&shown.peer.public_key)).await;
        if !holds.map_err(unreadable)? {
            self.standing(identity, Some(&shown.peer.public_key)).await?;
        }
        self.in_time(shown, Expired::IsOut)
    }

    async fn known(&self, shown: &Shown, expired: Expired) -> Result<Agent, HttpProblem> {
        self.is_taken(shown)?;
        let agent = self.standing(&shown.peer.identity, Some(&shown.peer.public_key)).await?;
        self.in_time(shown, expired)?;
        Ok(agent)
    }

    /// A connection outlives the authority that let it in.
    fn is_taken(&self, shown: &Shown) -> Result<(), HttpProblem> {
        if self.roots.takes(&shown.certificate, self.clock.now()) {
            return Ok(());
        }
        let detail = "the authority of this certificate is believed no more; come back by the agent's pair";
        Err(refusal(403, "certificate_authority_retired", detail))
    }

    /// TLS has looked at this too, but when the connection began.
    fn in_time(&self, Shown { peer, .. }: &Shown, expired: Expired) -> Result<(), HttpProblem> {
        let until = if expired == Expired::MayRenew { peer.expires.plus(RENEWAL_WINDOW) } else { peer.expires };
        if until < self.clock.now() { Err(certificate_expired()) } else { Ok(()) }
    }

    /// Whether an agent, as its own history has it, is one still, and has this key, where a certificate says who it is.
    async fn standing(&self, identity: &AgentIdentity, public_key: Option<&[u8]>) -> Result<Agent, HttpProblem> {
        let loaded = self.handler.load::<Agent>(identity.tenant, identity.agent).await.map_err(unreadable)?;
        let agent = loaded.state;
        let fixed = agent.fixed.as_ref().filter(|fixed| fixed.site == identity.site);
        let (Some(_), Some(enrolment)) = (fixed, &agent.enrolment) else {
            return Err(agent_unknown());
        };
        if agent.revoked.is_some() {
            return Err(refusal(403, "agent_revoked", "this agent was revoked; enrol it again with a new invitation"));
        }
        if let Some(Quarantined { known, other, .. }) = &agent.quarantined {
            let detail = format!(
                "two processes came with this agent's identity, and both are cut off: {known}; {other}. Find out which is right, and enrol that \
                 host again (freehold-agent enrol --again)"
            );
            return Err(refusal(403, "agent_quarantined", &detail));
        }
        if public_key.is_some_and(|key| Digest::of(key) != enrolment.certificate_key) {
            return Err(refusal(403, "certificate_superseded", "this certificate is for a key the agent no longer has"));
        }
        self.standings.found(identity, enrolment.certificate_key, loaded.revision);
        Ok(agent)
    }

    /// Takes a report, and learns from a set that knows more than this control plane.
    async fn take_report(
        &self,
        identity: &AgentIdentity,
        agent: &Agent,
        report: &Report,
        address: Option<IpAddr>,
    ) -> Result<ReportAnswer, HttpProblem> {
        let taken = self.reports.take(identity, agent, report, address).await;
        if let (Ok(_), Some(set)) = (&taken, &report.holds) {
            let learned = self.statements.learn(identity.tenant, Some(identity.site), Some(identity.agent), set).await;
            learned.map(drop).map_err(|error| fault(&error))?;
        }
        taken.map_err(|error| match &error {
            ReportError::RatchetMissing => refusal(400, "ratchet_missing", &error.to_string()),
            ReportError::Forked { .. } => refusal(403, "agent_quarantined", &error.to_string()),
            ReportError::TooMany { list } => {
                Problem::new(400, "report_too_large", "Report too large", error.to_string()).field(*list).into()
            }
            error => fault(error),
        })
    }

    fn limit_agent(&self, agent: AgentId) -> Result<(), HttpProblem> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.agents.retain_recent();
            self.addresses.retain_recent();
        }
        self.agents.check_key(&agent).map_err(|until| too_many(until.wait_time_from(self.agents.clock().now())))
    }

    fn limit_address(&self, request: &HttpRequest) -> Result<(), HttpProblem> {
        let Some(address) = request.peer_addr().map(|address| address.ip()) else { return Ok(()) };
        self.addresses.check_key(&address).map_err(|until| too_many(until.wait_time_from(self.addresses.clock().now())))
    }
}

/// Of an agent whose tenant was erased nothing is known.
fn unreadable(error: CommandError<AgentRefusal>) -> HttpProblem {
    if error.is_erasure() { agent_unknown() } else { fault(&error) }
}

fn agent_unknown() -> HttpProblem {
    refusal(403, "agent_unknown", "no such agent has enrolled here")
}

fn certificate_expired() -> HttpProblem {
    refusal(403, "certificate_expired", "the agent's certificate has ended; renew it, or, a month later, enrol again")
}

fn refusal(status: u16, code: &str, detail: &str) -> HttpProblem {
    let title = if status == 401 { "Not authenticated" } else { "Refused" };
    Problem::new(status, code, title, detail).into()
}

fn too_many(wait: Duration) -> HttpProblem {
    let seconds = wait.as_secs() + 1;
    let detail = format!("too many requests; come again in {seconds} s");
    Problem::new(429, "too_many_requests", "Too many requests", detail).fact(RETRY_AFTER.as_str(), seconds).into()
}

/// The message of an error and of what caused it, in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn enrol_problem(error: EnrolError) -> HttpProblem {
    let Some(code) = error.code() else { return fault(&error) };
    let status = match &error {
        EnrolError::Token(_) | EnrolError::UnknownToken => 401,
        EnrolError::Command(CommandError::Refused(_)) => match code {
            "enrolment_token_wrong" => 401,
            "agent_revoked" | "agent_suspended" => 403,
            _ => 409,
        },
        EnrolError::Command(_) | EnrolError::Founding(_) => 409,
        _ => 400,
    };
    Problem::new(status, code, "Enrolment refused", whole(&error)).into()
}

fn relay_problem(error: RelayError) -> HttpProblem {
    let Some(code) = error.code() else { return fault(&error) };
    let status = if code == "agent_not_rostered" { 403 } else { 400 };
    Problem::new(status, code, "Not relayed", error.to_string()).into()
}

fn lease_problem(error: LeaseError) -> HttpProblem {
    let Some(code) = error.code() else { return fault(&error) };
    let status = match code {
        "contended" => 409,
        "agent_not_rostered" | "forbidden" => 403,
        _ => 400,
    };
    Problem::new(status, code, "Lease refused", whole(&error)).into()
}

fn ingest_problem(error: IngestError) -> HttpProblem {
    let Some(code) = error.code() else { return fault(&error) };
    let status = match code {
        "receipts_missing" | "receipts_forked" | "receipts_busy" | "contended" => 409,
        "journal_of_another_agent" | "forbidden" => 403,
        _ => 400,
    };
    let mut problem = Problem::new(status, code, "Receipts refused", whole(&error));
    if let IngestError::Refused(crate::receipts::check::BatchRefusal::Gap { expected, .. }) = &error {
        problem = problem.fact("expected", expected.to_string());
    }
    problem.into()
}
