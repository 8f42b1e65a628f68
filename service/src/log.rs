//! Structured logs, request ids, and the middleware that writes a line per request. Bodies, queries and authorization are
//! never logged.

use std::{
    io,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
    web,
};
use schema::{
    clock::{Clock, Ids, new_id},
    id::RequestId,
};
use tracing::{Instrument, Subscriber, field::Empty};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
};

use crate::{
    config::{LogConfig, LogFormat},
    telemetry,
};

/// The answer's header that names the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log.filter \"{filter}\" cannot be read; it looks like info,control_plane=debug")]
pub struct InvalidFilter {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging to standard error. In a process that logs already, nothing changes.
pub fn init(config: &LogConfig) -> Result<(), InvalidFilter> {
    let subscriber = subscriber(config, io::stderr)?;
    // An error says that another subscriber is there already: the first one counts.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// What writes log lines to `writer`.
pub fn subscriber<W>(config: &LogConfig, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, InvalidFilter>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::registry().with(lines(config, writer));
    // What names only targets and levels is cheaper to ask than what names spans, and every request asks.
    Ok(match Filter::read(config)? {
        Filter::Targets(targets) => Box::new(lines.with(*targets)),
        Filter::Spans(filter) => Box::new(lines.with(*filter)),
    })
}

/// The same, and traces beside the lines: each has a filter of its own.
pub(crate) fn traced_subscriber<W>(
    config: &LogConfig,
    writer: W,
    tracer: opentelemetry_sdk::trace::Tracer,
) -> Result<Box<dyn Subscriber + Send + Sync>, InvalidFilter>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = lines(config, writer);
    let lines = match Filter::read(config)? {
        Filter::Targets(targets) => lines.with_filter(*targets).boxed(),
        Filter::Spans(filter) => lines.with_filter(*filter).boxed(),
    };
    Ok(Box::new(tracing_subscriber::registry().with(lines).with(telemetry::layer(tracer))))
}

fn lines<W>(config: &LogConfig, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

/// What log lines are let through. Spans of traces are none.
enum Filter {
    Targets(Box<Targets>),
    Spans(Box<EnvFilter>),
}

impl Filter {
    fn read(config: &LogConfig) -> Result<Self, InvalidFilter> {
        if let Ok(targets) = Targets::from_str(&config.filter) {
            return Ok(Self::Targets(Box::new(targets.with_target(telemetry::TARGET, LevelFilter::OFF))));
        }
        let text = format!("{},{}=off", config.filter, telemetry::TARGET);
        let filter = EnvFilter::from_str(&text).map_err(|source| InvalidFilter { filter: config.filter.clone(), source })?;
        Ok(Self::Spans(Box::new(filter)))
    }
}

/// The request that is being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestContext {
    /// Its id.
    pub id: RequestId,
    /// The caller's trace, when it sent a W3C `traceparent`.
    pub trace: Option<TraceParent>,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

impl RequestContext {
    /// The request this task is answering; none outside of [`requests`], and in tasks spawned from it.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| *context).ok()
    }
}

/// A W3C Trace Context `traceparent`, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace, 128 bits, not zero.
    pub trace: u128,
    /// The caller's span, 64 bits, not zero.
    pub parent: u64,
    /// Whether the caller samples it.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads the header's value; other spellings and versions give nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let lower_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, parent, flags] = parts[..] else { return None };
        let sound =
            version == "00" && [(trace, 32), (parent, 16), (flags, 2)].iter().all(|(part, len)| part.len() == *len && lower_hex(part));
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| sound && *trace != 0)?;
        let parent = u64::from_str_radix(parent, 16).ok().filter(|parent| *parent != 0)?;
        Some(Self { trace, parent, sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }

    /// The trace id as 32 hexadecimal digits.
    pub fn trace_text(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// Makes request ids: app data of [`requests`].
pub struct RequestIds {
    clock: Arc<dyn Clock>,
    ids: Ahead,
}

impl RequestIds {
    /// From the process's clock and randomness.
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { clock, ids: Ahead { ids, kept: Mutex::new(([0; AHEAD_BYTES], AHEAD_BYTES)) } }
    }

    fn next(&self) -> RequestId {
        new_id(&self.ids, self.clock.now())
    }
}

/// Bytes of randomness for ids that are asked for at once.
const AHEAD_BYTES: usize = 1000;

/// Randomness for ids, which are no secrets: asked for ahead, because each question is a system call.
struct Ahead {
    ids: Arc<dyn Ids>,
    /// The bytes, and how many of them were given out.
    kept: Mutex<([u8; AHEAD_BYTES], usize)>,
}

impl Ids for Ahead {
    fn fill(&self, bytes: &mut [u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (ahead, given) = &mut *kept;
        for byte in bytes {
            if *given == AHEAD_BYTES {
                self.ids.fill(ahead);
                *given = 0;
            }
            *byte = ahead[*given];
            *given += 1;
        }
    }
}

/// Middleware: `App::new().app_data(web::Data::new(RequestIds::new(…))).wrap(from_fn(requests))`. Gives the request an id
/// and a span, adds `x-request-id` to the answer, records its time, and writes a line: faults as errors, refusals as
/// information, the rest for debugging.
pub async fn requests<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    let started = Instant::now();
    let Some(ids) = request.app_data::<web::Data<RequestIds>>() else {
        return next.call(request).await;
    };
    let id = ids.next();
    let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).and_then(TraceParent::parse);
    let method = request.method().clone();
    let span = tracing::info_span!("request", %id, %method, route = Empty, trace = Empty);
    if let Some(trace) = trace
        && !span.is_disabled()
    {
        span.record("trace", trace.trace_text());
    }
    let served = tracing::info_span!(
        target: telemetry::TARGET, "HTTP", otel.name = Empty, otel.kind = "server", otel.status_code = Empty,
        http.request.method = method_word(&method), http.route = Empty, http.response.status_code = Empty, freehold.request.id = %id
    );
    if let Some(trace) = trace {
        telemetry::follow(&served, trace);
    }
    if !served.is_disabled() {
        // Its name is fixed once it is entered.
        let route = request.match_pattern().unwrap_or_else(|| "none".to_owned());
        served.record("otel.name", format!("{} {route}", method_word(&method)));
        served.record("http.route", &route);
    }
    let answering = CURRENT.scope(RequestContext { id, trace }, next.call(request)).instrument(span.clone());
    let answered = answering.instrument(served.clone()).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(error) => {
            let status = error.as_response_error().status_code().as_u16();
            span.in_scope(|| tracing::info!(status, "request refused early"));
            return Err(error);
        }
    };
    let elapsed = started.elapsed();
    let status = response.status().as_u16();
    let route = response.request().match_pattern().unwrap_or_else(|| "none".to_owned());
    metrics::histogram!(
        "http_server_request_duration_seconds",
        "method" => method_word(&method),
        "status" => status_class(status),
        "route" => route.clone()
    )
    .record(elapsed.as_secs_f64());
    span.record("route", &route);
    if !served.is_disabled() {
        served.record("http.response.status_code", status);
        if status >= 500 {
            served.record("otel.status_code", "ERROR");
        }
    }
    span.in_scope(|| {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        match status {
            500.. => tracing::error!(status, micros, "request failed"),
            400.. => tracing::info!(status, micros, "request refused"),
            _ => tracing::debug!(status, micros, "request answered"),
        }
    });
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(response)
}

/// A method as a label: never a word the client made up.
fn method_word(method: &actix_web::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "1xx",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::{App, HttpResponse, middleware::from_fn, test};
    use schema::{
        clock::{ManualClock, ManualIds, Timestamp},
        wire::problem::Problem,
    };

    use super::*;
    use crate::problem::HttpProblem;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn fail() -> Result<HttpResponse, HttpProblem> {
        Err(Problem::new(403, "forbidden", "Forbidden", "no").into())
    }

    #[actix_web::test]
    async fn a_request_has_one_id_in_answer_problem_and_log_and_nothing_secret_in_them() {
        let lines = Lines::default();
        let config = LogConfig { format: LogFormat::Json, filter: "debug".to_owned() };
        let writer = lines.clone();
        let guard = tracing::subscriber::set_default(subscriber(&config, move || writer.clone()).unwrap());
        let ids = RequestIds::new(Arc::new(ManualClock::at(Timestamp::from_micros(1))), Arc::new(ManualIds::seeded(7)));
        let app =
            test::init_service(App::new().app_data(web::Data::new(ids)).wrap(from_fn(requests)).route("/keys/{id}", web::post().to(fail)))
                .await;
        let request = test::TestRequest::post()
            .uri("/keys/abc?token=marker-query")
            .insert_header(("authorization", "Bearer marker-token"))
            .insert_header(("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
            .set_payload("marker-body");
        let response = test::call_service(&app, request.to_request()).await;
        let id = response.headers().get(REQUEST_ID).unwrap().to_str().unwrap().to_owned();
        assert!(id.parse::<RequestId>().is_ok(), "{id}");
        let problem: Problem = test::read_body_json(response).await;
        assert_eq!(problem.request_id.as_deref(), Some(id.as_str()));
        drop(guard);
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = written.lines().find(|line| line.contains("request refused")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["status"], 403);
        assert_eq!(line["span"]["id"], id);
        assert_eq!(line["span"]["route"], "/keys/{id}");
        assert_eq!(line["span"]["trace"], "0af7651916cd43dd8448eb211c80319c");
        assert!(!written.contains("marker"), "{written}");
    }

    #[actix_web::test]
    async fn ids_differ_and_are_absent_outside_of_a_request() {
        assert!(RequestContext::current().is_none());
        let ids = RequestIds::new(Arc::new(ManualClock::at(Timestamp::from_micros(1))), Arc::new(ManualIds::seeded(7)));
        let many: BTreeSet<_> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(many.len(), 1000);
    }

    #[::core::prelude::v1::test]
    fn only_sound_trace_parents_are_read() {
        let sound = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = TraceParent::parse(sound).unwrap();
        assert_eq!((read.trace_text().as_str(), read.sampled), ("0af7651916cd43dd8448eb211c80319c", true));
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[::core::prelude::v1::test]
    fn a_bad_filter_is_refused() {
        let config = LogConfig { filter: "info,x=loud".to_owned(), ..LogConfig::default() };
        assert!(init(&config).unwrap_err().to_string().contains("log.filter"));
    }
}
