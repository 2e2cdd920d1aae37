//! What is seen from outside: logs of functions, attributed; standard health and reflection; metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pillion_wire::proto::{StatusRequest, host_client::HostClient};
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::*;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use tracing_subscriber::fmt::MakeWriter;

async fn channel(rig: &Rig) -> Channel {
    Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap()
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// The events of one target, as JSON, once there are as many as wanted.
async fn events(lines: &Lines, target: &str, wanted: usize) -> Vec<serde_json::Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let found: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|event: &serde_json::Value| event["target"] == target)
            .collect();
        if found.len() >= wanted {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {wanted} events of `{target}`:\n{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One test for all that needs the process-wide subscriber.
#[test]
fn what_functions_log_and_print_is_attributed() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(lines.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    run(async {
        let rig = Rig::with(Door::Embedded, |config| config.pool.max = 1).await;
        let mut session = rig.open("log_something").await;
        ask(&mut session, numbers([41, 42])).await.unwrap();
        let logged = events(&lines, "pillion::worker::log", 2).await;
        let fields = &logged[1]["fields"];
        assert_eq!((&fields["message"], &fields["logger"], &logged[1]["level"]), (&"value 42".into(), &"mine".into(), &"WARN".into()));
        assert_eq!(fields["session"], session.id());
        assert!(fields["function"].as_str().unwrap().ends_with("plain.py:log_something"), "{fields}");
        assert!(fields["worker"].as_str().unwrap().starts_with("w-"), "{fields}");

        let mut session = rig.open("print_a_lot").await;
        ask(&mut session, numbers([1])).await.unwrap();
        let printed = events(&lines, "pillion::worker::output", 2).await;
        for event in printed {
            let fields = &event["fields"];
            assert!(fields["worker"].is_string() && fields["pid"].is_number(), "{fields}");
            assert!(fields["message"].as_str().unwrap().len() < 20_000, "a line was not cut");
        }
        rig.end().await;
    });
}

#[test]
fn health_turns_when_the_sidecar_drains() {
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let mut health = HealthClient::new(channel(&rig).await);
        let request = || HealthCheckRequest { service: "pillion.v1.Host".into() };
        let status = health.check(request()).await.unwrap().into_inner().status;
        assert_eq!(status, ServingStatus::Serving as i32);
        let mut watch = health.watch(request()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
        rig.engine().begin_drain(Duration::from_secs(5));
        assert_eq!(watch.message().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
        assert!(rig.pillion.status(false).await.unwrap().draining);
        drop((health, watch));
        rig.end().await;
    });
}

#[test]
fn reflection_shows_the_host_protocol() {
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let mut reflection = ServerReflectionClient::new(channel(&rig).await);
        let ask = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else {
            panic!()
        };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"pillion.v1.Host".to_owned()) && names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
        drop((reflection, answers));
        rig.end().await;
    });
}

#[test]
fn strangers_cannot_pose_as_workers() {
    use pillion_wire::proto::{ProvisionRequest, fn_client::FnClient};
    run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        exchange(rig.open("identity").await, [numbers([1])]).await;
        // The endpoint for workers is known to nobody but them; this finds it as a stranger of the same user might.
        let socket = walk(rig.folder()).into_iter().find(|path| path.ends_with("fn.sock")).expect("the endpoint for workers");
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://sidecar").connect_with_connector(connector).await.unwrap();
        let mut request = tonic::Request::new(ProvisionRequest { protocol_version: 1 });
        request.metadata_mut().insert("pillion-worker-id", "w-1".parse().unwrap());
        request.metadata_mut().insert("pillion-worker-token", "guess".parse().unwrap());
        let refused = FnClient::new(channel).get_provision_info(request).await.unwrap_err();
        assert_eq!(pillion::Error::from_status(&refused).code(), pillion::Code::Unauthenticated);
        rig.end().await;
    });
}

#[test]
fn a_status_call_needs_no_session() {
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let status = HostClient::new(channel(&rig).await).status(StatusRequest { stacks: false }).await.unwrap().into_inner();
        assert_eq!((status.version.as_str(), status.draining, status.sessions.len()), (env!("CARGO_PKG_VERSION"), false, 0));
        rig.end().await;
    });
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
