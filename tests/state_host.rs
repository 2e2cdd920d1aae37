//! State that the host keeps, from end to end: the same results as from the engine's own stores, on disk too, in every mode, over every transport, through both doors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use pillion::{
    Code, Error, Event, KeyedOptions, Result, Store,
    state::host::{HostCommit, HostDue, HostGet, HostPage, HostRows, HostTimers, Maps, StateHost},
    worker::BoxFuture,
};
use pillion_wire::{
    ipc,
    proto::{self, execute_request, execute_response, host_client::HostClient, host_state_message},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    Door, Rig, everywhere,
    keyed::{Step, by_key, keyed, keyed_in, main_rows, open, per_key, rig_with_places_and, rows, run, run_at_host},
    run as in_time,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

/// Rows and watermarks, and between them times of the clock.
fn steps() -> Vec<Step> {
    let row = |batch: i64, row: i64| ((row * 7 + batch) % 13, row % 11, batch * 10 + row % 10);
    let batch = |batch: i64| {
        let rows = Step::Rows((0..60).map(|one| row(batch, one)).collect());
        [Step::Clock(1000 + batch * 20), rows, Step::Watermark(batch * 10 + 2)]
    };
    (0..6).flat_map(batch).collect()
}

#[test]
fn results_are_those_of_an_engines_store() {
    everywhere(async |setup| {
        // Lists and maps are fetched in parts.
        let rig = rig_with_places_and(setup, |config| config.limits.max_batch_bytes = 4 << 20).await;
        let functions = ["Sum", "Histories", "Purge", "Split", "Remind", "Alarm", "Forget"].map(|name| ("stateful.py", name));
        let windows = ["tumbling", "sliding_rows", "sessions", "counted", "Inventory", "Remembered"].map(|name| ("windows.py", name));
        for (at, (file, name)) in functions.into_iter().chain(windows).enumerate() {
            let options = || KeyedOptions { host_clock: true, ..by_key() };
            let session = keyed_in(file, &rig, name, options()).open().await.unwrap();
            let expected = run(&rig, session, &steps()).await.unwrap();
            let session = keyed_in(file, &rig, name, KeyedOptions { store: Store::Disk, ..options() }).open().await.unwrap();
            let seen = run(&rig, session, &steps()).await.unwrap();
            assert_eq!(per_key(&main_rows(&seen)), per_key(&main_rows(&expected)), "{name} on disk");
            let maps = Arc::new(Maps::default());
            let session = keyed_in(file, &rig, name, options()).state_host(maps.clone()).open().await.unwrap();
            let seen = run_at_host(&rig, session, &steps(), &maps, at % 4).await.unwrap_or_else(|error| panic!("`{name}`: {error:?}"));
            assert_eq!(per_key(&main_rows(&seen)), per_key(&main_rows(&expected)), "{name}");
            assert_eq!(seen.len(), expected.len(), "{name}");
            assert_eq!(maps.waiting(), 0, "{name}: every bundle was committed");
            assert!(
                maps.sizes().0 > 0 || ["Split", "Alarm", "tumbling", "sliding_rows", "sessions"].contains(&name),
                "{name} keeps something"
            );
        }
        rig.end().await;
    });
}

#[test]
fn a_session_goes_on_from_what_its_host_has_applied() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let maps = Arc::new(Maps::default());
        let mut session = keyed(&rig, "Sum", by_key()).state_host(maps.clone()).open().await.unwrap();
        let (input, output) = session.halves();
        input.send(rows(&[(1, 5, 0), (2, 7, 0)])).await.unwrap();
        input.barrier(1).await.unwrap();
        input.send(rows(&[(1, 100, 0)])).await.unwrap();
        let checkpoint = loop {
            match output.next().await.unwrap().unwrap() {
                Event::Committed { bundle, .. } => {
                    maps.apply(bundle).unwrap();
                    output.applied(bundle).unwrap();
                }
                Event::Snapshotted { checkpoint_id: 1, .. } => break maps.checkpoint(),
                Event::Checkpointed { .. } => panic!("checkpoints are the host's"),
                _ => {}
            }
        };
        drop(session);
        let maps = Arc::new(checkpoint);
        let session = keyed(&rig, "Sum", by_key()).state_host(maps.clone()).open().await.unwrap();
        let seen = run_at_host(&rig, session, &[Step::Rows(vec![(1, 1, 0), (2, 1, 0)])], &maps, 0).await.unwrap();
        let seen = per_key(&main_rows(&seen));
        assert_eq!((&seen[&1], &seen[&2]), (&vec![vec![6]], &vec![vec![8]]));
        rig.end().await;
    });
}

/// Answers so many questions, and then none; or fails.
struct Silent {
    maps: Maps,
    left: AtomicUsize,
    fails: bool,
}

impl Silent {
    fn or<'a, T: Send + 'a>(&self, answer: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return answer;
        }
        match self.fails {
            true => Box::pin(std::future::ready(Err(Error::new(Code::StateFull, "no room").hint("make some")))),
            false => Box::pin(std::future::pending()),
        }
    }
}

impl StateHost for Silent {
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>> {
        self.or(self.maps.get(request))
    }

    fn page<'a>(&'a self, request: &'a HostPage) -> BoxFuture<'a, Result<HostRows>> {
        self.or(self.maps.page(request))
    }

    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>> {
        self.or(self.maps.commit(commit))
    }

    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>> {
        self.or(self.maps.timers(request))
    }
}

#[test]
fn a_host_that_stops_answering_ends_its_session_and_no_other() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            config.limits.state_deadline = Duration::from_millis(100);
            config.state.full_wait = Duration::ZERO;
        })
        .await;
        let steps = [Step::Rows(vec![(1, 1, 0)]), Step::Rows(vec![(1, 2, 0)])];
        for (answered, fails) in [(0, false), (1, false), (2, false), (3, false), (1, true), (2, true)] {
            let host = Arc::new(Silent { maps: Maps::default(), left: AtomicUsize::new(answered), fails });
            let session = keyed(&rig, "Sum", by_key()).state_host(host.clone()).open().await.unwrap();
            let error = run(&rig, session, &steps).await.unwrap_err();
            let expected = if fails { Code::StateFull } else { Code::StateHostFailed };
            assert_eq!((error.code(), error.seq()), (expected, None), "{error:?}");
            assert!(error.hint_text().is_some(), "{error:?}");
        }
        let session = open(&rig, "Sum", by_key()).await;
        assert_eq!(per_key(&main_rows(&run(&rig, session, &steps).await.unwrap()))[&1], [[1], [3]]);
        rig.end().await;
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    for door in [Door::Embedded, Door::ConnectUnix] {
        in_time(async {
            let rig = Rig::new(door).await;
            let host = || Arc::new(Maps::default());
            let restore = KeyedOptions { restore: vec!["chk-1".into()], ..by_key() };
            let error = keyed(&rig, "Sum", restore).state_host(host()).open().await.err().unwrap();
            assert_eq!(error.code(), Code::OptionsInvalid, "{error:?}");
            let plan = pillion::Plan::map(support::function_in("stateful.py", "Sum"));
            let error = rig.pillion.session(plan).input(rows(&[]).schema()).state_host(host()).open().await.err().unwrap();
            assert_eq!(error.code(), Code::OptionsInvalid, "{error:?}");
            // A bundle that was not committed.
            let session = keyed(&rig, "Sum", by_key()).state_host(host()).open().await.unwrap();
            let (mut input, mut output) = session.split();
            let error = match output.applied(7) {
                Err(error) => error,
                Ok(()) => loop {
                    match output.next().await {
                        Some(Err(error)) => break error,
                        Some(Ok(_)) => {}
                        None => panic!("the session ended without a word"),
                    }
                },
            };
            assert_eq!(error.code(), Code::ProtocolViolation, "{error:?}");
            let _ = input.finish().await;
            drop(output);
            rig.end().await;
        });
    }
}

#[test]
fn a_state_stream_belongs_to_one_session_that_waits_for_it() {
    use pillion_wire::proto::{HostStateMessage, host_client::HostClient, host_state_message::Message};
    in_time(async {
        let rig = Rig::with(Door::ConnectTcp, |config| config.limits.open_deadline = Duration::from_millis(100)).await;
        let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
        // Its stream is taken already.
        let session = keyed(&rig, "Sum", by_key()).state_host(Arc::new(Maps::default())).open().await.unwrap();
        let hello = |id: &str| vec![HostStateMessage { message: Some(Message::SessionId(id.to_owned())) }];
        let response = HostStateMessage { message: Some(Message::Response(Default::default())) };
        let cases = [
            (hello(session.id()), Code::SessionClosed),
            (hello("s-999"), Code::SessionClosed),
            (vec![response], Code::ProtocolViolation),
            (vec![], Code::ProtocolViolation),
        ];
        for (messages, code) in cases {
            let messages = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
            let status = HostClient::new(channel.clone()).state(messages).await.unwrap_err();
            assert_eq!(Error::from_status(&status).code(), code);
        }
        drop(session);
        rig.end().await;
    });
}

/// The host protocol spoken by hand: a session of `Sum` whose host answers nothing. Its results, its questions, and what keeps either stream open.
async fn by_hand(rig: &Rig) -> (Streaming<proto::ExecuteResponse>, Streaming<proto::SidecarStateMessage>, Kept) {
    let channel = tonic::transport::Endpoint::from_shared(rig.endpoint.clone().unwrap()).unwrap().connect().await.unwrap();
    let mut client = HostClient::new(channel);
    let path = format!("{}/tests/functions/stateful.py", env!("CARGO_MANIFEST_DIR"));
    let file = proto::FileFunction { path, name: "Sum".into() };
    let function = proto::FunctionSpec { source: Some(proto::function_spec::Source::File(file)), ..Default::default() };
    let call = proto::Call { function: Some(function), ..Default::default() };
    let input = proto::KeyedInput { key_columns: vec![0], ..Default::default() };
    let batch = rows(&[(1, 1, 0)]);
    let open = proto::Open {
        protocol_version: 1,
        plan: Some(proto::Plan { calls: vec![call], ..Default::default() }),
        input_schema: ipc::schema_to_ipc(&batch.schema()).into(),
        credit: Some(proto::Credit { bytes: 1 << 20, rows: 1 << 20 }),
        keyed: Some(proto::KeyedOptions { inputs: vec![input], backend: "host".into(), ..Default::default() }),
        ..Default::default()
    };
    let (sender, requests) = mpsc::unbounded_channel();
    let send = |seq, message| sender.send(proto::ExecuteRequest { seq, message: Some(message), ..Default::default() }).unwrap();
    send(0, execute_request::Message::Open(open));
    let mut answers = client.execute(UnboundedReceiverStream::new(requests)).await.unwrap().into_inner();
    let Some(execute_response::Message::Opened(opened)) = answers.message().await.unwrap().unwrap().message else { panic!("not opened") };
    let (telling, told) = mpsc::unbounded_channel();
    telling.send(proto::HostStateMessage { message: Some(host_state_message::Message::SessionId(opened.session_id)) }).unwrap();
    let questions = client.state(UnboundedReceiverStream::new(told)).await.unwrap().into_inner();
    for message in ipc::Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap().into_messages() {
        send(1, execute_request::Message::Batch(message));
    }
    (answers, questions, (sender, telling))
}

type Kept = (mpsc::UnboundedSender<proto::ExecuteRequest>, mpsc::UnboundedSender<proto::HostStateMessage>);

#[test]
fn a_state_stream_that_breaks_ends_its_session_and_no_other() {
    in_time(async {
        let rig = Rig::new(Door::ConnectTcp).await;
        let other = open(&rig, "Sum", by_key()).await;
        for breaks in ["ends", "is dropped", "answers nonsense"] {
            let (mut answers, mut questions, (_kept, telling)) = by_hand(&rig).await;
            questions.message().await.unwrap().expect("it asks for the state of the bundle's key");
            // The session waits for the answer.
            match breaks {
                "ends" => drop(telling),
                "is dropped" => drop((telling, questions)),
                _ => telling.send(proto::HostStateMessage::default()).unwrap(),
            }
            let error = loop {
                match answers.message().await.unwrap().expect("the session ended without a word").message {
                    Some(execute_response::Message::Failed(error)) => break error,
                    _ => continue,
                }
            };
            assert_eq!(error.code, "state_host_failed", "{breaks}: {error:?}");
            assert!(!error.hint.is_empty() && answers.message().await.unwrap().is_none(), "{breaks}: {error:?}");
        }
        assert_eq!(main_rows(&run(&rig, other, &[Step::Rows(vec![(1, 5, 0)])]).await.unwrap()), [[1, 5]]);
        rig.end().await;
    });
}
