//! Traces and metrics for an OpenTelemetry collector, over OTLP (gRPC). Off unless settings name a collector.
//!
//! Spans that are to be traced have the target [`TARGET`]; log lines never show them, and where nothing is traced they
//! cost one comparison. What is counted goes through the `metrics` macros: `/metrics` shows it, and the collector gets the
//! same. Neither holds bodies, queries, names that people gave, or secrets: ids, routes, numbers and words of ours.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics_exporter_opentelemetry::Recorder;
use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_otlp::{
    WithExportConfig as _, WithTonicConfig as _,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig},
    },
};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{Sampler, SdkTracerProvider, Tracer},
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use schema::clock::{Ids, random};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    config::{LogConfig, Period},
    log::{self, InvalidFilter, TraceParent},
};

/// The target of spans that are traced.
pub const TARGET: &str = "freehold::trace";

/// How long the last spans and figures may take at the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the collector may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Where traces and metrics go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The collector, OTLP over gRPC: `http://127.0.0.1:4317` or `https://…`. Absent: nothing is sent.
    #[schemars(with = "Option<String>")]
    pub otlp_endpoint: Option<url::Url>,
    /// Certificate authorities of the collector beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// A file with headers for the collector, one `name: value` a line: for example its token. Readable by its owner only.
    pub headers_file: Option<PathBuf>,
    /// How many of a hundred traces that begin here are kept. One that a client began is kept when the client keeps it.
    #[schemars(range(max = 100))]
    pub sample_percent: u8,
    /// How often metrics are sent.
    pub metrics_interval: Period,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            ca_file: None,
            headers_file: None,
            sample_percent: 100,
            metrics_interval: Period(Duration::from_secs(30)),
        }
    }
}

/// Who speaks: attributes of the resource (OpenTelemetry semantic conventions, `service.*`).
#[derive(Debug, Clone)]
pub struct Service {
    /// `freehold-control-plane` or `freehold-agent`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// One process among several: random.
    pub instance: String,
}

impl Service {
    /// A process that has just started.
    pub fn new(name: &'static str, version: &'static str, ids: &dyn Ids) -> Self {
        Self { name, version, instance: uuid::Uuid::from_bytes(random(ids)).to_string() }
    }
}

/// Why nothing can be logged, traced or counted.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log's filter.
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
    /// A file that settings name.
    #[error("telemetry.{setting}: reading {} failed", path.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of the headers file.
    #[error("telemetry.headers_file: line {line} is no header; write `name: value`")]
    Header {
        /// Which, from 1.
        line: usize,
    },
    /// The share of traces.
    #[error("telemetry.sample_percent is {0}; it is a number from 0 to 100")]
    Percent(u8),
    /// The exporter.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// What is counted goes here too; taken by [`crate::metrics::Metrics::install`].
static COUNTED: Mutex<Option<Recorder>> = Mutex::new(None);

pub(crate) fn recorder() -> Option<Recorder> {
    COUNTED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sends until it is stopped.
#[must_use = "what was traced last is sent by `stop`"]
pub struct Telemetry(Option<Providers>);

struct Providers {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

/// Starts logging to standard error, and tracing and counting for the collector where settings name one. Call it once, inside
/// the runtime, before anything is counted.
pub fn start(log: &LogConfig, config: &TelemetryConfig, service: &Service) -> Result<Telemetry, TelemetryError> {
    let Some(endpoint) = &config.otlp_endpoint else {
        log::init(log)?;
        return Ok(Telemetry(None));
    };
    let (traces, metrics, recorder) = exporters(endpoint, config, service)?;
    let subscriber = log::traced_subscriber(log, io::stderr, traces.tracer("freehold"))?;
    // An error says that another subscriber is there already: the first one counts.
    let _ = tracing::subscriber::set_global_default(subscriber);
    *COUNTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
    Ok(Telemetry(Some(Providers { traces, metrics })))
}

fn exporters(
    endpoint: &url::Url,
    config: &TelemetryConfig,
    service: &Service,
) -> Result<(SdkTracerProvider, SdkMeterProvider, Recorder), TelemetryError> {
    if config.sample_percent > 100 {
        return Err(TelemetryError::Percent(config.sample_percent));
    }
    crate::tls::install_provider();
    let (headers, tls) = (headers(config)?, tls(endpoint, config)?);
    macro_rules! over_grpc {
        ($exporter:ty) => {{
            let exporter = <$exporter>::builder().with_tonic().with_endpoint(endpoint.as_str()).with_timeout(ANSWER_LIMIT);
            let exporter = exporter.with_metadata(headers.clone());
            let exporter = match &tls {
                Some(tls) => exporter.with_tls_config(tls.clone()),
                None => exporter,
            };
            exporter.build().map_err(TelemetryError::Exporter)?
        }};
    }
    let resource = Resource::builder_empty()
        .with_service_name(service.name)
        .with_attributes([
            KeyValue::new("service.version", service.version),
            KeyValue::new("service.namespace", "freehold"),
            KeyValue::new("service.instance.id", service.instance.clone()),
        ])
        .build();
    let share = Sampler::TraceIdRatioBased(f64::from(config.sample_percent) / 100.0);
    let traces = SdkTracerProvider::builder()
        .with_batch_exporter(over_grpc!(opentelemetry_otlp::SpanExporter))
        .with_sampler(Sampler::ParentBased(Box::new(share)))
        .with_resource(resource.clone())
        .build();
    let reader = PeriodicReader::builder(over_grpc!(opentelemetry_otlp::MetricExporter)).with_interval(config.metrics_interval.0).build();
    let (metrics, recorder) =
        Recorder::builder("freehold").with_meter_provider(|provider| provider.with_reader(reader).with_resource(resource)).build();
    Ok((traces, metrics, recorder))
}

fn headers(config: &TelemetryConfig) -> Result<MetadataMap, TelemetryError> {
    let mut headers = HeaderMap::new();
    let Some(path) = &config.headers_file else { return Ok(MetadataMap::new()) };
    let failed = |source| TelemetryError::File { setting: "headers_file", path: path.clone(), source };
    let text = crate::files::read_secret(path).map_err(|source| failed(io::Error::other(source)))?;
    let text = std::str::from_utf8(&text).map_err(|source| failed(io::Error::other(source)))?;
    for (line, header) in (1..).zip(text.lines()).filter(|(_, header)| !header.trim().is_empty()) {
        let header = header.split_once(':').and_then(|(name, value)| {
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name.trim().parse::<HeaderName>().ok()?, value))
        });
        let (name, value) = header.ok_or(TelemetryError::Header { line })?;
        headers.insert(name, value);
    }
    Ok(MetadataMap::from_headers(headers))
}

fn tls(endpoint: &url::Url, config: &TelemetryConfig) -> Result<Option<ClientTlsConfig>, TelemetryError> {
    if endpoint.scheme() != "https" {
        return Ok(None);
    }
    let tls = ClientTlsConfig::new().with_native_roots();
    let Some(path) = &config.ca_file else { return Ok(Some(tls)) };
    let pem = std::fs::read(path).map_err(|source| TelemetryError::File { setting: "ca_file", path: path.clone(), source })?;
    Ok(Some(tls.ca_certificate(Certificate::from_pem(pem))))
}

impl Telemetry {
    /// Sends what is left, for some seconds at most.
    pub async fn stop(self) {
        let Some(providers) = self.0 else { return };
        let sent = tokio::task::spawn_blocking(move || {
            let traces = providers.traces.shutdown_with_timeout(LAST_WORDS);
            let metrics = providers.metrics.shutdown_with_timeout(LAST_WORDS);
            traces.and(metrics)
        });
        if let Ok(Err(error)) = sent.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last traces and metrics were not sent");
        }
    }
}

/// The layer that turns spans of [`TARGET`], and nothing else, into traces.
pub(crate) fn layer<S>(tracer: Tracer) -> impl tracing_subscriber::Layer<S> + Send + Sync
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span> + Send + Sync,
{
    use tracing_subscriber::{Layer as _, filter::filter_fn};
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
}

/// Makes a span go on with a trace that somebody else began.
pub fn follow(span: &Span, trace: TraceParent) {
    if span.is_disabled() {
        return;
    }
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let parent = SpanContext::new(TraceId::from(trace.trace), SpanId::from(trace.parent), flags, true, TraceState::default());
    // An error says that the span has begun already, or is none of ours: then the trace begins here.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
}

/// The `traceparent` (W3C Trace Context) that tells another program which span asked it; none where nothing is traced.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span().span_context().clone();
    span.is_valid().then(|| format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}
