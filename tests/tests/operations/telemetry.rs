//! Traces and metrics, as a collector receives them from a control plane and an agent of another process.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::Mutex,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind},
};
use service::{
    config::Period,
    telemetry::{self, Service, TelemetryConfig},
};
use tonic::{Request, Response, Status};

use super::super::*;

/// Set in the process that is watched: where the collector is.
const COLLECTOR: &str = "FREEHOLD_TEST_COLLECTOR";
const HEADER: &str = "collector-token-marker";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Keeps what it is sent by those who have its token.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

fn authorised<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("authorization").and_then(|value| value.to_str().ok()) {
        Some(HEADER) => Ok(()),
        _ => Err(Status::unauthenticated("no token")),
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        authorised(&request)?;
        self.0.lock().unwrap().traces.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(&self, request: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        authorised(&request)?;
        self.0.lock().unwrap().metrics.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.as_str(), text(&pair.value))).collect()
}

/// What runs in the watched process: a mutation that belongs to somebody's trace, and an agent that joins and asks.
async fn watched(endpoint: &str) {
    let world = World::new();
    secret_file(&world.path("headers"), format!("authorization: {HEADER}\n").as_bytes());
    let config = TelemetryConfig {
        otlp_endpoint: Some(endpoint.parse().unwrap()),
        headers_file: Some(world.path("headers")),
        metrics_interval: Period(Duration::from_secs(1)),
        ..TelemetryConfig::default()
    };
    let service = Service::new("freehold-control-plane", "0", &SystemIds);
    let telemetry = telemetry::start(&LogConfig::default(), &config, &service).unwrap();
    let plane = world.control_plane().await;
    let operator = fs::read_to_string(plane.operator_token_file()).unwrap().trim().to_owned();
    let made = world.mutate(&plane, &operator, "createTenant", json!({ "name": "acme" }), "adminToken").await;
    let admin = made["adminToken"].as_str().unwrap().to_owned();
    let query = "mutation CreateProject($input: CreateProjectInput!) { createProject(input: $input) { userErrors { code } } }";
    let body = json!({ "query": query, "operationName": "CreateProject", "variables": { "input": { "name": KEY_NAME } } });
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let request = world.http.post(plane.graphql_url()).bearer_auth(&admin).header("traceparent", traceparent).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    world.mutate(&plane, &admin, "createSite", json!({ "name": "fra" }), "site { id }").await;
    let invited = world.mutate(&plane, &admin, "inviteAgent", json!({ "site": "fra" }), "enrolment").await;
    world.enrol(&serde_json::from_str(invited["enrolment"].as_str().unwrap()).unwrap()).await.unwrap();
    let agent = world.agent(Arc::new(SystemClock)).await;
    let started = Instant::now();
    while world.ready(&agent).await["ready"] != true {
        assert!(started.elapsed() < Duration::from_secs(60), "{}", world.ready(&agent).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.stop().await.unwrap();
    plane.stop().await;
    telemetry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_receives_traces_and_metrics_with_nothing_secret_in_them() {
    if let Ok(endpoint) = std::env::var(COLLECTOR) {
        return watched(&endpoint).await;
    }
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector.clone()))
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);
    let child = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "operations::telemetry::a_collector_receives_traces_and_metrics_with_nothing_secret_in_them"])
            .env(COLLECTOR, endpoint)
            .output()
            .unwrap()
    });
    let output = child.await.unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the watched process ran nothing");
    serving.abort();

    let received = collector.0.lock().unwrap();
    let resources: Vec<_> = received.traces.iter().flat_map(|request| &request.resource_spans).collect();
    for resource in &resources {
        let resource = attributes(&resource.resource.as_ref().unwrap().attributes);
        assert_eq!(resource["service.name"], "freehold-control-plane");
        assert!(resource.contains_key("service.instance.id"));
    }
    let spans: Vec<&Span> = resources.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).collect();
    let by_id: BTreeMap<&[u8], &Span> = spans.iter().map(|span| (span.span_id.as_slice(), *span)).collect();
    let parents = |span: &Span| {
        let mut names = Vec::new();
        let mut next = by_id.get(span.parent_span_id.as_slice());
        while let Some(parent) = next {
            names.push(parent.name.as_str());
            next = by_id.get(parent.parent_span_id.as_slice());
        }
        names
    };

    // One request, from the caller's trace down to the append.
    let of_trace: Vec<&&Span> = spans.iter().filter(|span| hex::encode(&span.trace_id) == TRACE).collect();
    let append = of_trace.iter().find(|span| span.name == "INSERT records").expect("an append in the caller's trace");
    assert_eq!(parents(append), ["handle project", "mutation", "POST /graphql"]);
    let served = of_trace.iter().find(|span| span.name == "POST /graphql").unwrap();
    assert_eq!((served.kind, hex::encode(&served.parent_span_id)), (SpanKind::Server as i32, "b7ad6b7169203331".to_owned()));
    assert_eq!(attributes(&served.attributes)["http.response.status_code"], "200");
    let graphql = of_trace.iter().find(|span| span.name == "mutation").unwrap();
    assert_eq!(attributes(&graphql.attributes)["graphql.operation.name"], "CreateProject");
    assert_eq!(attributes(&append.attributes)["db.system.name"], "sqlite");

    // What runs by itself, and both sides of an agent's call as one trace.
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    for name in ["COMMIT records", "project read_model", "react statements", "/agent/v1/report"] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    let answered = spans.iter().filter(|span| span.name == "GET /agent/v1/statements" || span.name == "POST /agent/v1/report");
    assert!(answered.clone().count() > 0, "{names:?}");
    for answered in answered {
        let asked = by_id.get(answered.parent_span_id.as_slice()).expect("the agent's side of the call");
        assert_eq!((asked.kind, &asked.trace_id), (SpanKind::Client as i32, &answered.trace_id));
    }

    let metrics: BTreeSet<&str> = received
        .metrics
        .iter()
        .flat_map(|request| &request.resource_metrics)
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics)
        .map(|metric| metric.name.as_str())
        .collect();
    for name in [
        "http_server_request_duration_seconds",
        "freehold_store_commit_seconds",
        "freehold_store_commit_records",
        "freehold_follower_behind_records",
        "freehold_heartbeat_age_seconds",
    ] {
        assert!(metrics.contains(name), "{name} is not among {metrics:?}");
    }
    let everything = format!("{:?} {:?}", received.traces, received.metrics);
    for marker in [KEY_NAME, HEADER, PASSPHRASE, "fh_api_", "fh_enrol_"] {
        assert!(!everything.contains(marker), "{marker} was sent to the collector");
    }
}

#[test]
fn settings_of_telemetry_that_cannot_work_say_so() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let start = |change: &dyn Fn(&mut TelemetryConfig)| {
        let mut config = TelemetryConfig { otlp_endpoint: Some("http://127.0.0.1:1".parse().unwrap()), ..Default::default() };
        change(&mut config);
        let started = telemetry::start(&LogConfig::default(), &config, &Service::new("freehold-agent", "0", &SystemIds));
        explain("freehold-agent", &started.err().expect("it started"))
    };
    says(&start(&|config| config.sample_percent = 101), &["telemetry.sample_percent is 101", "from 0 to 100"]);
    says(&start(&|config| config.headers_file = Some(world.path("gone"))), &["telemetry.headers_file", "gone"]);
    secret_file(&world.path("headers"), b"a: b\nnonsense-marker");
    let error = start(&|config| config.headers_file = Some(world.path("headers")));
    says(&error, &["telemetry.headers_file: line 2 is no header"]);
    assert!(!error.contains("nonsense-marker"));
    let private = |config: &mut TelemetryConfig| {
        (config.otlp_endpoint, config.ca_file) = (Some("https://127.0.0.1:1".parse().unwrap()), Some(world.path("ca.pem")));
    };
    says(&start(&private), &["telemetry.ca_file", "ca.pem"]);
}
