//! `POST /v1/self-test`: tests every algorithm now. For operators of this host: it costs processor time, and tells what is
//! broken.

use actix_web::{HttpRequest, HttpResponse, web};
use schema::wire::{
    health::{SelfTestAnswer, SelfTestResult},
    problem::Problem,
};
use service::problem::HttpProblem;

use super::Shared;
use crate::selftest::{TestResult, Tested};

/// Runs known answers, pairwise tests and fast against reference implementation. What fails is switched off until the agent
/// is started again.
#[utoipa::path(post, path = "/v1/self-test", tag = "agent", responses(
    (status = 200, description = "What was found; asked again within seconds, the same.", body = SelfTestAnswer),
    (status = 403, description = "Only for this host.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn self_test(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, HttpProblem> {
    // A unix socket has no address; whoever may open it is on this host.
    if request.peer_addr().is_some_and(|peer| !peer.ip().to_canonical().is_loopback()) {
        let detail = "self-tests are run from the agent's own host: freehold-agent self-test";
        return Err(Problem::new(403, "only_from_this_host", "Only from this host", detail).into());
    }
    let tests = shared.pipeline.tests.clone();
    let tested = tokio::task::spawn_blocking(move || tests.run()).await;
    let tested = tested.map_err(|_| Problem::new(500, "internal", "Internal fault", "the self-tests ended unexpectedly"))?;
    Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(answer(&tested)))
}

/// As it is told to people.
pub fn answer(tested: &Tested) -> SelfTestAnswer {
    let told = |result: &TestResult| SelfTestResult {
        algorithm: result.algorithm.name().to_owned(),
        passed: result.failure.is_none(),
        micros: u64::try_from(result.took.as_micros()).unwrap_or(u64::MAX),
        failure: result.failure.as_ref().map(|failure| failure.detail.clone()),
        failed_at: result.failure.as_ref().map(|failure| failure.at),
    };
    SelfTestAnswer { at: tested.at, passed: tested.failures().next().is_none(), algorithms: tested.results.iter().map(told).collect() }
}
