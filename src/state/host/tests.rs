use super::*;
use crate::state::{
    Cells,
    conformance::{self, Subject, address, cells, commit, now, value, writes},
};
use arrow_buffer::OffsetBuffer;
use pillion_wire::{frame::FrameLimits, proto};
use proptest::prelude::*;
use prost::Message;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use wire::Question;

/// [`Maps`] that can fail.
#[derive(Default)]
struct Moody {
    maps: Maps,
    fails: AtomicBool,
}

impl Moody {
    fn or<'a, T: Send + 'static>(&self, answer: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        match self.fails.load(Ordering::Relaxed) {
            true => Box::pin(std::future::ready(Err(Error::new(Code::ConnectionLost, "gone")))),
            false => answer,
        }
    }
}

impl StateHost for Moody {
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

const OPTIONS: HostOptions = HostOptions { attempt: 1, deadline: Duration::from_secs(60), unapplied_bytes: usize::MAX };

fn backend(host: Arc<dyn StateHost>, cells: Cells) -> Arc<Host> {
    Arc::new(Host::new(host, cells, conformance::GROUPS, OPTIONS).unwrap())
}

fn subject(cells: Cells, tell: bool) -> (Subject, Arc<Moody>) {
    let host = Arc::new(Moody::default());
    let backend = backend(host.clone(), cells);
    (Subject { settle: settle(host.clone(), backend.clone(), tell), backend, snapshots: false }, host)
}

/// Makes a host apply what it has received, and with `tell` say so.
fn settle(host: Arc<Moody>, backend: Arc<Host>, tell: bool) -> Box<dyn Fn(u64)> {
    Box::new(move |bundle| {
        // Bundles that were refused are not there.
        let _ = host.maps.apply(bundle);
        if tell {
            let _ = backend.applied(bundle);
        }
    })
}

/// The same behind a state stream, whose messages are encoded and decoded.
fn connected(cells: Cells) -> Subject {
    let host = Arc::new(Moody::default());
    let remote = RemoteHost::new(FrameLimits::default());
    let (mut asked, mut answers) = remote.attach().unwrap();
    assert!(remote.attach().is_none(), "a session has one stream");
    let maps = host.clone();
    conformance::RUNTIME.spawn(async move {
        let mut questions = wire::Questions::new();
        while let Some(request) = asked.recv().await {
            let request = proto::StateRequest::decode(&request.encode_to_vec()[..]).unwrap();
            let Some((id, question)) = questions.push(request).unwrap() else { continue };
            for response in wire::answer(&*maps, id, question).await {
                answers.take(proto::StateResponse::decode(&response.encode_to_vec()[..]).unwrap()).unwrap();
            }
        }
    });
    let backend = backend(remote, cells);
    Subject { settle: settle(host, backend.clone(), true), backend, snapshots: false }
}

#[test]
fn conforms_over_the_wire() {
    conformance::run(&connected, 100);
}

#[test]
fn conforms() {
    conformance::run(&|cells| subject(cells, true).0, 300);
}

/// The host has applied what the engine still overlays.
#[test]
fn conforms_while_the_word_that_it_applied_is_on_its_way() {
    conformance::run(&|cells| subject(cells, false).0, 300);
}

#[test]
fn the_overlay_goes_when_the_host_has_applied() {
    let (subject, _) = subject(cells(), true);
    for seq in 1..=3 {
        now(subject.backend.apply(&commit(seq, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0))).unwrap();
    }
    assert_eq!(subject.backend.sizes().overlay, 3);
    (subject.settle)(2);
    assert_eq!(subject.backend.sizes().overlay, 1);
    // There is no cache that a read could miss.
    assert!(value(&*subject.backend, 0, &address(0, "a"), 0).is_some());
    assert_eq!((subject.backend.sizes().cache_hits, subject.backend.sizes().cache_misses), (0, 0));
}

#[test]
fn a_host_that_fails_is_named_and_nothing_took_effect() {
    let (subject, host) = subject(cells(), true);
    host.fails.store(true, Ordering::Relaxed);
    let put = || commit(1, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0);
    let error = now(subject.backend.apply(&put())).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::StateHostFailed, "the host that keeps the state failed: gone"));
    host.fails.store(false, Ordering::Relaxed);
    assert_eq!(conformance::value(&*subject.backend, 0, &address(0, "a"), 0), None);
    assert_eq!(subject.backend.view(&[0], 0).err().unwrap().code(), Code::Unsupported);
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let rows = |offsets: Vec<i32>, deferred: usize| HostRows {
        applied_bundle: 0,
        offsets: OffsetBuffer::new(offsets.into()),
        keys: BinaryArray::from_iter_values([b"", b""]),
        values: BinaryArray::from_iter_values([b"a", b"b"]),
        access: vec![0; 2],
        deferred: vec![false; deferred],
    };
    rows::check(&rows(vec![0, 1, 2], 2), 2).unwrap();
    for (offsets, deferred) in [(vec![0, 1], 1), (vec![0, 1, 3], 2), (vec![1, 1, 2], 2), (vec![0, 1, 2], 1)] {
        assert_eq!(rows::check(&rows(offsets, deferred), 2).unwrap_err().code(), Code::ProtocolViolation);
    }
    let overlay = Overlay::default();
    let two = rows(vec![0, 2], 1);
    let one = conformance::addresses(&[address(0, "a")]);
    let error =
        rows::entries(&cells()[0], 0, &two, &overlay, &Get { cells: vec![0], addresses: one, now_ms: 0, prefetch: Prefetch::default() })
            .unwrap_err();
    assert_eq!(error.message(), "the host that keeps the state answered with several values of the cell `value` for one key");
}

#[test]
fn a_host_that_does_not_answer_is_named() {
    let remote = RemoteHost::new(FrameLimits::default());
    let options = HostOptions { deadline: Duration::from_millis(20), ..OPTIONS };
    let backend = Host::new(remote.clone(), cells(), conformance::GROUPS, options).unwrap();
    let put = || commit(1, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0);
    let error = now(backend.apply(&put())).unwrap_err();
    assert_eq!(error.code(), Code::StateHostFailed);
    assert!(error.message().contains("did not answer within 20ms"), "{error:?}");
    // A stream that breaks is noticed at once.
    drop(remote.attach().unwrap());
    let error = now(backend.apply(&put())).unwrap_err();
    assert_eq!(error.message(), "the host that keeps the state has closed its stream");
}

#[test]
fn messages_that_are_mixed_up_end_the_stream() {
    let remote = RemoteHost::new(FrameLimits::default());
    let (mut asked, mut answers) = remote.attach().unwrap();
    let backend = backend(remote, cells());
    let due = || DueRequest { domain: Domain::EventTime, groups: vec![0], up_to_ms: 0, limit: 1, order: DueOrder::Global };
    // An answer of another kind.
    let request = due();
    let done = Some(proto::state_response::Response::Done(proto::StateDone {}));
    let (error, ()) = conformance::RUNTIME.block_on(async {
        tokio::join!(backend.due(&request), async {
            let id = asked.recv().await.unwrap().request_id;
            answers.take(proto::StateResponse { request_id: id, response: done.clone(), ..Default::default() }).unwrap();
        })
    });
    assert_eq!(error.unwrap_err().code(), Code::ProtocolViolation);
    // An answer to what was never asked; whoever waits hears of it.
    let (error, ()) = conformance::RUNTIME.block_on(async {
        tokio::join!(backend.due(&request), async {
            asked.recv().await.unwrap();
            answers.take(proto::StateResponse { request_id: 77, response: done.clone(), ..Default::default() }).unwrap_err();
        })
    });
    assert_eq!(error.unwrap_err().code(), Code::ProtocolViolation);
    // Columns without a head, a head inside of another answer, and columns where there are none.
    let rows = proto::StateResponse {
        request_id: 1,
        response: Some(proto::state_response::Response::Rows(proto::StateRows {})),
        ..Default::default()
    };
    let piece = proto::StateResponse { request_id: 1, columns: Some(proto::Frame::default()), ..Default::default() };
    for wrong in [vec![piece.clone()], vec![rows.clone(), rows.clone()], vec![rows, piece]] {
        let mut replies = wire::Replies::new(FrameLimits::default());
        let taken: Vec<_> = wrong.into_iter().map(|message| replies.push(message)).collect();
        assert_eq!(taken.into_iter().last().unwrap().unwrap_err().code(), Code::ProtocolViolation);
    }
}

#[test]
fn nothing_is_executed_while_too_much_waits_to_be_applied() {
    let host = Arc::new(Moody::default());
    let backend = Host::new(host.clone(), cells(), conformance::GROUPS, HostOptions { unapplied_bytes: 0, ..OPTIONS }).unwrap();
    now(backend.has_room());
    now(backend.apply(&commit(1, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"x"))])], 0))).unwrap();
    assert_eq!(backend.applied(2).unwrap_err().code(), Code::ProtocolViolation);
    let waited = Notify::new();
    conformance::RUNTIME.block_on(async {
        tokio::join!(
            async {
                backend.has_room().await;
                waited.notify_one();
            },
            async {
                assert!(timeout(Duration::from_millis(20), waited.notified()).await.is_err(), "it did not wait");
                host.maps.apply(1).unwrap();
                backend.applied(1).unwrap();
            }
        )
    });
    now(waited.notified());
}

proptest! {
    /// Whatever a host says, it is refused or used, and nothing panics.
    #[test]
    fn damaged_answers_do_no_harm(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), which in 0..3usize) {
        let maps = Maps::default();
        let put = commit(1, &[address(0, "a")], vec![writes(2, &[(0, Op::Put, Some(b"k"), Some(b"x")), (0, Op::Put, Some(b"l"), Some(b"y"))])], 0);
        let timers = crate::timer::TimerWrites { at: vec![0], domains: vec![Domain::EventTime], ops: vec![crate::timer::TimerOp::Set], names: None, timestamps: vec![5] };
        let writes = put.writes.into_iter().map(|writes| HostWrites { writes, cutoff: i64::MIN, renew: false }).collect();
        now(maps.commit(HostCommit { bundle: 1, addresses: put.addresses, writes, timers, now_ms: 0 })).unwrap();
        maps.apply(1).unwrap();
        let addresses = conformance::addresses(&[address(0, "a"), address(0, "b")]);
        let due = DueRequest { domain: Domain::EventTime, groups: vec![0], up_to_ms: 9, limit: 4, order: DueOrder::Global };
        let page = PageRequest {
            cell: 4, group: 0, key: b"a".to_vec(), namespace: vec![], prefix: vec![], after: None, max_bytes: 100, now_ms: 0,
        };
        let asked = match which {
            0 => Question::Get(HostGet { cell: 2, addresses: addresses.clone(), map_keys: None, prefetch: Prefetch::default() }),
            1 => Question::Page(HostPage { cell: 2, group: 0, key: b"a".to_vec(), namespace: vec![], prefix: vec![], after: None, max_bytes: 100 }),
            _ => Question::Timers(HostDue { domain: due.domain, groups: vec![0], up_to_ms: 9, limit: 4 }),
        };
        let mut replies = wire::Replies::new(FrameLimits { bytes: 1 << 16, rows: 1 << 10 });
        for response in now(wire::answer(&maps, 1, asked)) {
            let mut bytes = response.encode_to_vec();
            for (at, with) in &flips {
                *at.get_mut(&mut bytes[..]) ^= with;
            }
            let Ok(response) = proto::StateResponse::decode(&bytes[..]) else { continue };
            let overlay = Overlay::default();
            match replies.push(response) {
                Ok(Some((_, Ok(wire::Reply::Rows(rows))))) => {
                    if rows::check(&rows, 2).is_ok() {
                        let get = Get { cells: vec![2], addresses: addresses.clone(), now_ms: 0, prefetch: Prefetch::default() };
                        let _ = rows::entries(&cells()[2], 2, &rows, &overlay, &get);
                    }
                    if rows::check(&rows, 1).is_ok() {
                        let _ = rows::page(&cells()[4], &page, &rows, &overlay);
                    }
                }
                Ok(Some((_, Ok(wire::Reply::Timers(timers))))) => drop(rows::due(&due, &timers, &overlay)),
                Ok(_) | Err(_) => {}
            }
        }
    }
}
