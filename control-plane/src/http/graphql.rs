//! `POST /graphql`: limits, then the token, then the query. GraphiQL at `GET /graphql` in development mode.

use std::{net::IpAddr, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use async_graphql::{Data, http::GraphiQLSource};
use async_graphql_actix_web::GraphQLSubscription;
use futures::{FutureExt, StreamExt};
use schema::{id::RequestId, wire::problem::Problem};
use service::{log::RequestContext, problem, telemetry::TARGET};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use super::rate::{Rates, TooMany};
use crate::{
    access::authenticate::{Authenticated, Authenticator, Unauthenticated},
    eventing::subscription::Follower,
    graphql::{
        self, ApiSchema,
        api::{Api, Services},
        fault::{bad_request, fault},
        socket::SubscriptionsOnly,
    },
};

/// Where GraphQL stands.
pub const PATH: &str = "/graphql";
/// How often it is looked whether a request that still runs is still wanted, and by somebody who still may.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the handler needs.
pub struct Edge {
    /// The executable schema.
    pub schema: ApiSchema,
    /// What resolvers work with.
    pub services: Arc<Services>,
    /// Who is asking.
    pub authenticator: Authenticator,
    /// How often.
    pub rates: Rates,
    /// The largest body in bytes.
    pub max_body_bytes: usize,
    /// How long a request may take.
    pub timeout: Duration,
    /// How many may follow events at once.
    pub followers: Arc<Semaphore>,
    /// Where requests run: a client that hangs up stops a query, but no mutation half-way.
    pub runtime: tokio::runtime::Handle,
}

/// Counts the requests that are being worked on, also those that nobody waits for any more.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("freehold_graphql_requests_running").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("freehold_graphql_requests_running").decrement(1.0);
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers a GraphQL request.
pub async fn post(request: HttpRequest, payload: web::Payload, edge: web::Data<Edge>) -> HttpResponse {
    match answer(&request, payload, &edge).await {
        Ok(response) => HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(response),
        Err(refused) => refused,
    }
}

async fn answer(request: &HttpRequest, mut payload: web::Payload, edge: &Edge) -> Result<async_graphql::Response, HttpResponse> {
    let id = RequestContext::current().map_or(RequestId::from_bits(0), |context| context.id);
    let address = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
    edge.rates.address(address).map_err(|too_many| slow_down(&too_many))?;
    let token = bearer(request)?;
    let authenticated = edge.authenticator.authenticate(token, id).await.map_err(unauthenticated)?;
    edge.rates.principal(authenticated.ctx.tenant, authenticated.token).map_err(|too_many| slow_down(&too_many))?;
    let query = read(request, &mut payload, edge.max_body_bytes).await?;
    let query = graphql::parse(query, id).map_err(|refused| HttpResponse::Ok().json(refused))?;
    let (schema, services, ctx) = (edge.schema.clone(), edge.services.clone(), authenticated.ctx.clone());
    let reads_only = query.reads_only;
    let kind = if reads_only { "query" } else { "mutation" };
    let span = tracing::info_span!(
        target: TARGET, "GraphQL", otel.name = kind, graphql.operation.type = kind, graphql.operation.name = query.name(),
        freehold.tenant.id = %ctx.tenant
    );
    let execution = async move {
        let _counted = Counted::new();
        graphql::execute(&schema, services, ctx, query).await
    };
    let running = edge.runtime.spawn(execution.instrument(span));
    // Nobody waits for what a query finds after its time, after the client hung up, or for whom it may no longer be. A
    // mutation goes on to its end.
    let _ended = reads_only.then(|| AbortOnDrop(running.abort_handle()));
    tokio::select! {
        biased;
        refused = no_longer_wanted(&mut payload, edge, &authenticated) => Err(refused),
        answered = tokio::time::timeout(edge.timeout, running) => match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(problem::response(problem::fault(&error).0)),
            Err(_) => Err(problem::response(Problem::new(
                503,
                "timeout",
                "Timeout",
                "the request took too long; a mutation may have been done all the same: repeat it with the same idempotencyKey",
            ))),
        },
    }
}

/// Ends when the token stops counting while a request runs, or when the client has hung up.
async fn no_longer_wanted(payload: &mut web::Payload, edge: &Edge, authenticated: &Authenticated) -> HttpResponse {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The body was read to its end, so that nothing but an error can follow: over HTTP/2 that is how a client tells that
        // it hung up. Over HTTP/1.1 the server drops the request.
        if let Some(Some(Err(_))) = payload.next().now_or_never() {
            return problem::response(Problem::new(400, "invalid_body", "Invalid body", "the client hung up"));
        }
        match edge.authenticator.still_counts(authenticated).await {
            Ok(true) => {}
            Ok(false) => {
                let detail = "this token was revoked or has expired while the request ran; a mutation may have been done all the same";
                return no_entry(Problem::new(401, "invalid_token", "Invalid token", detail));
            }
            // The next look may tell, and the request has a time limit.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "looking up a token failed while a request runs"),
        }
    }
}

/// Opens a WebSocket for subscriptions (`graphql-transport-ws`). The token comes as `authorization` in the payload of
/// `connection_init`, for browsers, or in the header.
pub async fn subscribe(request: HttpRequest, payload: web::Payload, edge: web::Data<Edge>) -> HttpResponse {
    let address = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
    if let Err(too_many) = edge.rates.address(address) {
        return slow_down(&too_many);
    }
    let Ok(place) = Arc::clone(&edge.followers).try_acquire_owned() else {
        let detail = "as many follow events here as may; try again, or another replica";
        return problem::response(Problem::new(503, "too_many_followers", "Too many followers", detail));
    };
    let id = RequestContext::current().map_or(RequestId::from_bits(0), |context| context.id);
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let shared = edge.clone();
    let begin = move |payload: serde_json::Value| async move {
        let given = ["authorization", "Authorization"].into_iter().find_map(|name| payload.get(name)?.as_str().map(str::to_owned));
        let value = given.or(header).unwrap_or_default();
        let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let refused = || bad_request("invalid_token", "send an API token that counts: {\"authorization\": \"Bearer fh_api_…\"}");
        let authenticated = match shared.authenticator.authenticate(token.unwrap_or_default(), id).await {
            Ok(authenticated) => authenticated,
            Err(Unauthenticated::Fault(error)) => return Err(fault("looking up a token", &error)),
            Err(_) => return Err(refused()),
        };
        shared
            .rates
            .principal(authenticated.ctx.tenant, authenticated.token)
            .map_err(|_| bad_request("too_many_requests", "too many requests"))?;
        let keys =
            shared.services.handler.keys(authenticated.ctx.tenant).await.map_err(|error| fault("opening the tenant's keys", &error))?;
        let mut data = Data::default();
        data.insert(Api::new(authenticated.ctx.clone(), keys, shared.services.clone()));
        data.insert(Arc::new(Follower { authenticator: shared.authenticator.clone(), authenticated }));
        // Given back when the connection ends.
        data.insert(place);
        Ok(data)
    };
    let socket = GraphQLSubscription::new(SubscriptionsOnly::new(edge.schema.clone(), id)).on_connection_init(begin);
    socket.start(&request, payload).unwrap_or_else(|error| error.error_response())
}

async fn read(request: &HttpRequest, payload: &mut web::Payload, limit: usize) -> Result<async_graphql::Request, HttpResponse> {
    let refuse = |status, code, title, detail: String| Err(problem::response(Problem::new(status, code, title, detail)));
    let json = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if json.split(';').next().map(str::trim) != Some("application/json") {
        return refuse(415, "unsupported_media_type", "Unsupported media type", "send Content-Type: application/json".to_owned());
    }
    let mut body = web::BytesMut::new();
    while let Some(piece) = payload.next().await {
        let Ok(piece) = piece else {
            return refuse(400, "invalid_body", "Invalid body", "the body could not be read to its end".to_owned());
        };
        if body.len() + piece.len() > limit {
            return refuse(413, "body_too_large", "Body too large", format!("the body has more than {limit} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    serde_json::from_slice(&body).or_else(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        refuse(400, "invalid_json", "Invalid JSON", format!("the body is not a GraphQL request ({{\"query\": …}}); see {place}"))
    })
}

fn bearer(request: &HttpRequest) -> Result<&str, HttpResponse> {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token
        .map(|(_, token)| token.trim())
        .ok_or_else(|| no_entry(Problem::new(401, "unauthenticated", "Who are you?", "send an API token: Authorization: Bearer fh_api_…")))
}

fn unauthenticated(error: Unauthenticated) -> HttpResponse {
    match error {
        Unauthenticated::Malformed(error) => no_entry(Problem::new(401, "invalid_token", "Invalid token", error.to_string())),
        Unauthenticated::Unknown => {
            let detail = "this token is unknown, expired or revoked; ask an administrator of the tenant for another one";
            no_entry(Problem::new(401, "invalid_token", "Invalid token", detail))
        }
        Unauthenticated::Fault(error) => problem::response(problem::fault(&error).0),
    }
}

fn no_entry(problem: Problem) -> HttpResponse {
    let mut response = problem::response(problem);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

fn slow_down(too_many: &TooMany) -> HttpResponse {
    let seconds = too_many.retry_after.as_secs() + 1;
    let detail = format!("too many requests of this {}; come again in {seconds} s", too_many.of);
    let mut response = problem::response(Problem::new(429, "too_many_requests", "Too many requests", detail));
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    response
}

/// The GraphiQL page.
pub async fn graphiql() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(GraphiQLSource::build().endpoint(PATH).title("Freehold").finish())
}
