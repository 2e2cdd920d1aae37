//! The host protocol, spoken by hand: what a sidecar refuses, and what that costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pillion::Code;
use support::*;

/// Opens a session of `identity` over one column.
fn open_identity() -> pillion_wire::proto::Open {
    use pillion_wire::proto;
    let path = format!("{}/tests/functions/plain.py", env!("CARGO_MANIFEST_DIR"));
    let file = proto::FileFunction { path, name: "identity".into() };
    let function = proto::FunctionSpec { source: Some(proto::function_spec::Source::File(file)), ..Default::default() };
    let argument = |source| proto::Argument { source: Some(source) };
    let call = proto::Call { function: Some(function), arguments: vec![argument(proto::argument::Source::Column(0))] };
    let output = proto::OutputColumn { name: "r".into(), source: Some(argument(proto::argument::Source::Call(0))) };
    proto::Open { protocol_version: 1, plan: Some(proto::Plan { calls: vec![call], outputs: vec![output] }), ..Default::default() }
}

#[test]
fn a_version_from_the_future_is_refused() {
    use pillion_wire::proto::{self, execute_request, execute_response, host_client::HostClient};
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
        let mut client = HostClient::new(channel);
        let open = proto::Open { protocol_version: 99, ..Default::default() };
        let first = proto::ExecuteRequest { seq: 0, message: Some(execute_request::Message::Open(open)), ..Default::default() };
        let mut answers = client.execute(tokio_stream::iter([first])).await.unwrap().into_inner();
        let Some(execute_response::Message::Failed(error)) = answers.message().await.unwrap().unwrap().message else {
            panic!("not refused")
        };
        assert_eq!(error.code, "protocol_version");
        assert!(error.message.contains("99") && !error.hint.is_empty(), "{error:?}");
        assert!(answers.message().await.unwrap().is_none(), "the stream ends after a refusal");
        let status = client.describe(proto::DescribeRequest { protocol_version: 99, ..Default::default() }).await.unwrap_err();
        assert_eq!(pillion::Error::from_status(&status).code(), Code::ProtocolVersion);
        rig.end().await;
    });
}

#[test]
fn a_host_that_breaks_the_protocol_ends_only_its_own_session() {
    use pillion_wire::{
        ipc,
        proto::{self, execute_request::Message, execute_response, host_client::HostClient},
    };
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let mut other = rig.open("identity").await;
        let open = proto::Open { input_schema: ipc::schema_to_ipc(&numbers([1]).schema()).into(), ..open_identity() };
        let header =
            proto::Frame { headers: vec![vec![1, 2, 3].into()], body_lengths: vec![1000], body_length: 1000, ..Default::default() };
        let chunk = proto::Frame { chunk: vec![0; 10].into(), ..Default::default() };
        let garbage = proto::Frame { headers: vec![vec![7; 64].into()], body_lengths: vec![0], ..Default::default() };
        let huge = proto::Frame { body_lengths: vec![1 << 40], body_length: 1 << 40, ..header.clone() };
        let cases = [
            (vec![(0, Message::Open(open.clone()))], "protocol_violation"),
            (vec![(1, Message::Batch(chunk.clone()))], "protocol_violation"),
            (vec![(1, Message::Batch(header.clone())), (1, Message::Batch(header.clone()))], "protocol_violation"),
            (vec![(1, Message::Batch(header.clone())), (2, Message::Watermark(Default::default()))], "protocol_violation"),
            (vec![(5, Message::Watermark(Default::default()))], "protocol_violation"),
            (vec![(1, Message::Batch(huge))], "batch_too_large"),
            // To an input that only a keyed session may have, see below.
            (vec![(1, Message::Batch(garbage.clone()))], "unsupported"),
            (vec![(1, Message::Batch(garbage)), (2, Message::End(proto::End::default()))], "protocol_violation"),
        ];
        let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
        for (messages, code) in cases {
            let shown = format!("{messages:?}");
            let mut requests = vec![proto::ExecuteRequest { seq: 0, message: Some(Message::Open(open.clone())), ..Default::default() }];
            requests.extend(messages.into_iter().map(|(seq, message)| proto::ExecuteRequest {
                seq,
                message: Some(message),
                input: u32::from(code == "unsupported"),
                ..Default::default()
            }));
            // The stream stays open behind the messages, so that only they can be what ends the session.
            let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
            let mut answers = HostClient::new(channel.clone()).execute(requests).await.unwrap().into_inner();
            let found = loop {
                match answers.message().await.unwrap().expect("the session ended without a word").message {
                    Some(execute_response::Message::Failed(error)) => break error.code,
                    _ => continue,
                }
            };
            assert_eq!(found, code, "{shown:.200}");
        }
        assert!(ask(&mut other, numbers([1])).await.is_ok());
        rig.end().await;
    });
}

#[test]
fn a_host_that_does_not_say_what_it_wants_is_let_go() {
    use pillion_wire::proto::{self, execute_response, host_client::HostClient};
    run(async {
        let rig = Rig::with(Door::ConnectTcp, |config| config.limits.open_deadline = std::time::Duration::from_millis(50)).await;
        let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
        let silence = tokio_stream::pending::<proto::ExecuteRequest>();
        let mut answers = HostClient::new(channel).execute(silence).await.unwrap().into_inner();
        let Some(execute_response::Message::Failed(error)) = answers.message().await.unwrap().unwrap().message else {
            panic!("not refused")
        };
        assert_eq!(error.code, "protocol_violation");
        assert!(error.message.contains("`open`"), "{error:?}");
        assert!(answers.message().await.unwrap().is_none());
        rig.end().await;
    });
}

#[test]
fn a_cancel_is_heard_by_a_host_that_gives_no_credit() {
    use pillion_wire::{
        ipc::{self, Encoder},
        proto::{self, execute_request::Message, execute_response, host_client::HostClient},
    };
    run(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let batch = numbers(0..10);
        let open = proto::Open {
            credit: Some(proto::Credit { bytes: 1, rows: 1 }),
            input_schema: ipc::schema_to_ipc(&batch.schema()).into(),
            ..open_identity()
        };
        let mut requests = vec![proto::ExecuteRequest { seq: 0, message: Some(Message::Open(open)), ..Default::default() }];
        let mut encoder = Encoder::new(batch.schema()).unwrap();
        for seq in 1..=3 {
            let messages = encoder.encode(&batch).unwrap().into_messages();
            requests.extend(messages.map(|message| proto::ExecuteRequest {
                seq,
                message: Some(Message::Batch(message)),
                ..Default::default()
            }));
        }
        let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
        let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
        let mut answers = HostClient::new(channel).execute(requests).await.unwrap().into_inner();
        let Some(execute_response::Message::Opened(opened)) = answers.message().await.unwrap().unwrap().message else {
            panic!("not opened")
        };
        // The first result uses up the credit; the second waits for more.
        assert_eq!(answers.message().await.unwrap().unwrap().seq, 1);
        while rig.pillion.status(false).await.unwrap().sessions[0].done_batches < 3 {}
        assert!(rig.pillion.cancel(&opened.session_id).await.unwrap());
        let Some(execute_response::Message::Failed(error)) = answers.message().await.unwrap().unwrap().message else { panic!("not heard") };
        assert_eq!(error.code, "cancelled");
        assert!(answers.message().await.unwrap().is_none());
        rig.end().await;
    });
}
