//! What an agent that is connected to nothing has to say, handed in by whoever carries its file. Each part goes where it would have gone
//! over a connection; the agent's pair takes the place of its client certificate.

use std::{
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest, dev,
    web::{self, Data, Json},
};
use schema::{
    encoding::Digest,
    wire::{
        agent::{RenewRequest, ReportAnswer},
        exchange::{ExchangeAnswer, ExchangeAsk, Inbox, MAX_ASK_BYTES, MAX_BATCHES, MAX_RELAY_ASKS, Outbox, RefusedPart, TakenReceipts},
        problem::Problem,
        relay::RelayAnswer,
    },
};
use service::problem::{HttpProblem, fault};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trust::{
    document,
    dsse::{EnvelopeError, peek_document},
    pair::PublicPair,
};

use super::{AgentApi, agent_unknown, enrol_problem, refusal, too_many, whole};
use crate::{
    access::permit::Question,
    agents::{Agent, AgentCommand, enrolment::agent_context},
    eventing::{
        aggregate::Refusal as _,
        handler::{CommandError, Options},
    },
    pki::identity::AgentIdentity,
};

/// So many are read at a time, whoever sends them: none of them has proved anything yet.
const AT_A_TIME: usize = 4;
/// How long one may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many outboxes are being read.
#[derive(Clone)]
pub(super) struct Counter(Arc<Semaphore>);

impl Default for Counter {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

/// One of the few that may be read now. Handlers name it before the body: nothing of others is read or kept.
pub(super) struct Admitted(#[allow(dead_code, reason = "held, so that others wait")] OwnedSemaphorePermit);

impl FromRequest for Admitted {
    type Error = HttpProblem;
    type Future = Ready<Result<Self, HttpProblem>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let Some(api) = request.app_data::<Data<AgentApi>>() else { return ready(Err(agent_unknown())) };
        let admitted = api.limit_address(request).and_then(|()| {
            let permit = api.exchanges.0.clone().try_acquire_owned();
            permit.map(Self).map_err(|_| too_many(Duration::from_secs(10)))
        });
        ready(admitted)
    }
}

/// `POST` [`schema::wire::exchange::EXCHANGE`].
pub(super) async fn exchange(_admitted: Admitted, api: Data<AgentApi>, body: web::Payload) -> Result<Json<ExchangeAnswer>, HttpProblem> {
    let ask = read(body).await?;
    let claimed: Outbox = peek_document(ask.outbox.as_slice()).map_err(not_genuine)?;
    let identity = AgentIdentity { tenant: claimed.tenant, site: claimed.site, agent: claimed.agent };
    drop(claimed);
    if !api.enrolment.knows(&identity).await.map_err(enrol_problem)? {
        return Err(agent_unknown());
    }
    let agent = api.standing(&identity, None).await?;
    let enrolment = agent.enrolment.as_ref().ok_or_else(agent_unknown)?;
    let pair = PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).map_err(|_| agent_unknown())?;
    let signed = document::open::<Outbox>(ask.outbox.as_slice(), &pair).map_err(not_genuine)?;
    drop(ask);
    let (outbox, sha256) = (signed.payload, signed.sha256);
    if outbox.receipts.len() > MAX_BATCHES || outbox.relay.len() > MAX_RELAY_ASKS {
        return Err(Problem::new(400, "outbox_too_large", "Outbox too large", "it has more parts than an agent writes into one").into());
    }

    let command = AgentCommand::TakeOutbox { number: outbox.number, sha256 };
    // Two with one number are the work of two processes: the ratchet of the report says so, and cuts both off.
    let is_second = agent.outbox.as_ref().is_some_and(|last| last.number == outbox.number && last.sha256 != sha256);
    if !is_second {
        api.record(&identity, command.clone()).await?;
    }
    let report = api.take_report(&identity, &agent, &outbox.report, None).await?;
    if is_second {
        api.record(&identity, command).await?;
    }
    let inbox = api.answer((&identity, &agent, &pair), &outbox, sha256, report).await?;
    let statements = api.statements.newest(identity.tenant, identity.site).await.map_err(|error| fault(&error))?;
    let signed = api.statements.sign_inbox(&inbox).await.map_err(|error| fault(&error))?;
    let AgentIdentity { tenant, site, agent } = identity;
    tracing::info!(%tenant, %site, %agent, number = outbox.number, "an outbox of an agent was handed in");
    Ok(Json(ExchangeAnswer { inbox: signed.into(), statements }))
}

async fn read(body: web::Payload) -> Result<ExchangeAsk, HttpProblem> {
    let too_large = || {
        let detail = format!("an outbox has at most {MAX_ASK_BYTES} bytes on its way");
        HttpProblem::from(Problem::new(413, "body_too_large", "Body too large", detail))
    };
    let broken = || HttpProblem::from(Problem::new(400, "invalid_body", "Invalid body", "the body broke off, or took too long"));
    let bytes = tokio::time::timeout(PATIENCE, body.to_bytes_limited(MAX_ASK_BYTES)).await.map_err(|_| broken())?;
    let bytes = bytes.map_err(|_| too_large())?.map_err(|_| broken())?;
    let unreadable = |_| Problem::new(400, "invalid_body", "Invalid body", "the body is no outbox that is handed in");
    Ok(serde_json::from_slice(&bytes).map_err(unreadable)?)
}

fn not_genuine(error: EnvelopeError) -> HttpProblem {
    let detail = format!("this is no outbox of an agent, or not as the agent signed it: {}", whole(&error));
    refusal(403, "outbox_not_genuine", &detail)
}

impl AgentApi {
    async fn record(&self, identity: &AgentIdentity, command: AgentCommand) -> Result<(), HttpProblem> {
        let ctx = agent_context(identity, &*self.ids, self.clock.now());
        let question = Question::new("takeOutbox", "Agent", identity.agent);
        match self.handler.handle::<Agent>(&ctx, question, identity.agent, Options::default(), command).await {
            Ok(_) => Ok(()),
            Err(CommandError::Refused(no)) => Err(refusal(409, no.code(), &no.to_string())),
            Err(error) => match error.code() {
                Some(code) => Err(refusal(409, code, &whole(&error))),
                None => Err(fault(&error)),
            },
        }
    }

    /// Everything beside the report. A part that comes to nothing does not stop the others.
    async fn answer(
        &self,
        (identity, agent, pair): (&AgentIdentity, &Agent, &PublicPair),
        outbox: &Outbox,
        sha256: Digest,
        report: ReportAnswer,
    ) -> Result<Inbox, HttpProblem> {
        let mut refused = Vec::new();
        let mut turned = |part: &str, code: &str, detail: String| {
            refused.push(RefusedPart { part: part.to_owned(), code: code.to_owned(), detail });
        };
        let mut relay = None::<RelayAnswer>;
        for ask in &outbox.relay {
            match self.relay.exchange(identity, agent, ask).await {
                Ok(mut answer) => {
                    let before = relay.take().map(|before| before.refused).unwrap_or_default();
                    answer.refused.splice(..0, before);
                    relay = Some(answer);
                }
                Err(error) => match error.code() {
                    Some(code) => turned("relay", code, whole(&error)),
                    None => return Err(fault(&error)),
                },
            }
        }
        let mut lease = None;
        if let Some(ask) = &outbox.lease {
            match self.leases.take(identity, agent, ask).await {
                Ok(answer) => lease = Some(answer),
                Err(error) => match error.code() {
                    Some(code) => turned("lease", code, whole(&error)),
                    None => return Err(fault(&error)),
                },
            }
        }
        let mut receipts = None;
        for batch in &outbox.receipts {
            match self.ingest.take(identity, pair, batch).await {
                Ok(answer) => receipts = Some(TakenReceipts { incarnation: batch.incarnation, answer }),
                Err(error) => {
                    match error.code() {
                        Some(code) => turned("receipts", code, whole(&error)),
                        None => return Err(fault(&error)),
                    }
                    // What follows goes on from what was not taken.
                    break;
                }
            }
        }
        let mut certificate = None;
        if let Some(csr_pem) = &outbox.csr_pem {
            match self.enrolment.renew(identity, &RenewRequest { csr_pem: csr_pem.clone() }).await {
                Ok(answer) => certificate = Some(answer),
                Err(error) => match error.code() {
                    Some(code) => turned("certificate", code, whole(&error)),
                    None => return Err(fault(&error)),
                },
            }
        }
        let AgentIdentity { tenant, site, agent } = *identity;
        Ok(Inbox {
            tenant,
            site,
            agent,
            number: outbox.number,
            outbox: sha256,
            issued: self.clock.now(),
            report,
            ratchet: outbox.report.ratchet.as_ref().map(|claim| claim.counter),
            relay,
            lease,
            receipts,
            certificate,
            refused,
        })
    }
}
