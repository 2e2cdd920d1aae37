//! What a collector of OpenTelemetry gets from a sidecar: spans beneath the host's, and the metrics that Prometheus shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

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
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{metric::Data, number_data_point},
    trace::v1::Span,
};
use pillion::{Pillion, Plan, Session};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use support::*;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resources: Vec<KeyValue>,
    /// The last export, which has everything.
    metrics: Option<ExportMetricsServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            received.resources.extend(resource.resource.unwrap().attributes);
            received.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(&self, request: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().unwrap().metrics = Some(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Received {
    fn spans(&self, name: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }

    /// The values of a metric, with their attributes.
    fn values(&self, name: &str) -> Vec<(Vec<KeyValue>, f64)> {
        let all = self.metrics.iter().flat_map(|export| &export.resource_metrics);
        let all = all.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
        let data = all.filter(|metric| metric.name == name).filter_map(|metric| metric.data.clone());
        data.flat_map(|data| {
            match data {
                Data::Sum(sum) => sum.data_points,
                Data::Gauge(gauge) => gauge.data_points,
                Data::Histogram(histogram) => {
                    return histogram.data_points.into_iter().map(|point| (point.attributes, point.count as f64)).collect::<Vec<_>>();
                }
                other => panic!("{other:?}"),
            }
            .into_iter()
            .map(|point| {
                let value = match point.value.unwrap() {
                    number_data_point::Value::AsDouble(value) => value,
                    number_data_point::Value::AsInt(value) => value as f64,
                };
                (point.attributes, value)
            })
            .collect()
        })
        .collect()
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn use_it(endpoint: &str) -> String {
    let pillion = Pillion::connect(endpoint).await.unwrap();
    let plan = Plan::scalar(function_in("metrics.py", "everything"), vec![0], "r");
    let open = pillion.session(plan).input(numbers([1]).schema()).traceparent(format!("00-{TRACE}-{PARENT}-01"));
    let mut session: Session = open.open().await.unwrap();
    let id = session.id().to_owned();
    ask(&mut session, numbers([1, 2, 3])).await.unwrap();
    ask(&mut session, numbers([0])).await.unwrap_err();
    session.finish().await.unwrap();
    assert!(session.recv().await.is_none());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_reach_a_collector() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let services =
        Server::builder().add_service(TraceServiceServer::new(collector.clone())).add_service(MetricsServiceServer::new(collector.clone()));
    let serving = tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));

    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--set", &format!("telemetry.otlp_endpoint=http://{address}")]);
    command.env("PILLION_RUNTIME_DIR", folder.path().join("run")).env("OTEL_RESOURCE_ATTRIBUTES", "deployment=test");
    let mut sidecar = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(sidecar.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let id = use_it(line.trim().strip_prefix("listening on ").unwrap()).await;
    kill_process(Pid::from_child(&sidecar), Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || sidecar.wait_with_output().unwrap()).await.unwrap();
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !log.contains("could not be sent"), "{log}");
    serving.abort();

    let received = collector.0.lock().unwrap();
    assert_eq!(text(&received.resources, "service.name"), Some("pillion"));
    assert_eq!(text(&received.resources, "deployment"), Some("test"));
    let [session] = received.spans("session")[..] else { panic!("{:?}\n{log}", received.spans) };
    assert_eq!((hex(&session.trace_id).as_str(), hex(&session.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!(text(&session.attributes, "id"), Some(&*id));
    let bundles = received.spans("bundle");
    assert!(!bundles.is_empty() && bundles.iter().all(|bundle| bundle.parent_span_id == session.span_id), "{bundles:?}");
    assert!(bundles.iter().all(|bundle| text(&bundle.attributes, "worker").unwrap().starts_with("w-")), "{bundles:?}");
    let workers = received.spans("worker");
    assert_eq!(workers.len(), 2, "{workers:?}");
    assert!(workers.iter().all(|worker| bundles.iter().any(|bundle| worker.parent_span_id == bundle.span_id)), "{workers:?}");
    let errors: Vec<_> = workers.iter().filter_map(|worker| text(&worker.attributes, "error")).collect();
    assert_eq!(errors, ["function_raised"]);
    assert!(received.spans.iter().all(|span| hex(&span.trace_id) == TRACE || span.name != "session"));

    let rows = received.values("pillion_user_rows_total");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((text(&rows[0].0, "function"), rows[0].1), (Some("metrics.py:everything"), 3.0));
    assert_eq!(received.values("pillion_user_last")[0].1, 3.0);
    assert_eq!(received.values("pillion_user_times_count")[0].1, 3.0);
    assert_eq!(received.values("pillion_sessions")[0].1, 0.0);
    assert_eq!(received.values("pillion_batch_stage_seconds").iter().map(|(_, count)| count).sum::<f64>(), 4.0);
}

#[test]
fn without_a_collector_the_sidecar_works_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    // Nobody listens at port 1.
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    command.env("PILLION_RUNTIME_DIR", folder.path().join("run"));
    let mut sidecar = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(sidecar.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let endpoint = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    run(async move { drop(use_it(&endpoint).await) });
    kill_process(Pid::from_child(&sidecar), Signal::TERM).unwrap();
    let ended = sidecar.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{log}");
    assert!(log.contains("could not be sent"), "{log}");
}
