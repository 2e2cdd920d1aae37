//! How sessions share the workers of a pool: on the paused clock, with workers that take a millisecond per row.

use super::*;
use crate::{
    config::PoolConfig,
    error::Code,
    pool::PoolLimits,
    worker::fake::{Act, FakeFactory},
};
use arrow_schema::Schema;
use futures_util::future::poll_fn;
use pillion_wire::{frame::Frame, ipc};
use std::time::Duration;
use tokio::time::sleep;

/// As in `bundle.rs`.
const SLICE: Duration = Duration::from_millis(10);

fn pool(workers: usize) -> (Arc<Pool>, Arc<FakeFactory>) {
    let factory = FakeFactory::new(|_, _| Act::EchoByRows);
    let limits = PoolLimits { pool: PoolConfig { max: workers, ..Default::default() }, shutdown_grace: Duration::from_millis(100) };
    (Pool::new("test".into(), factory.clone(), limits), factory)
}

async fn session(pool: &Arc<Pool>, plan: u64, weight: u32) -> Arc<Session> {
    let source = proto::function_spec::Source::Module(proto::ModuleFunction { module: "m".into(), name: "f".into() });
    let call = proto::Call { function: Some(proto::FunctionSpec { source: Some(source), ..Default::default() }), arguments: vec![] };
    let request = OpenRequest {
        plan: proto::Plan { calls: vec![call], outputs: vec![] },
        input_schema: ipc::schema_to_ipc(&Schema::empty()),
        options: proto::SessionOptions { weight, ..Default::default() },
        ..Default::default()
    };
    let ids = Ids { session: format!("s-{plan}"), plan };
    open(pool.clone(), request, ids, ("test", false), &Limits::default(), &Stores::default()).await.unwrap()
}

/// Queues `count` batches that take so many milliseconds each, behind the `before` that were sent.
fn send(session: &Arc<Session>, before: u64, count: u64, millis: u64) {
    for seq in before + 1..=before + count {
        let frame = Frame { headers: vec![], body_lengths: vec![], body: Default::default(), rows: millis };
        session.push(seq, Input::Batch(frame.into())).unwrap();
    }
}

/// Worker time that a session got, in milliseconds.
fn used(session: &Session, millis: u64) -> f64 {
    (session.status().done_batches * millis) as f64
}

/// Sends a batch of a millisecond every `every`, and gives the longest time that one took.
async fn longest_answer(session: &Arc<Session>, count: u64, every: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    for seq in 1..=count {
        sleep(every).await;
        let sent = Instant::now();
        send(session, seq - 1, 1, 1);
        assert!(matches!(poll_fn(|cx| session.poll_answer(cx)).await, Some(Ok(Answer::Batch { .. }))));
        longest = longest.max(sent.elapsed());
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn sessions_with_long_batches_get_no_more_worker_time() {
    let (pool, _) = pool(2);
    let (long, short) = (session(&pool, 1, 0).await, session(&pool, 2, 0).await);
    send(&long, 0, 3_000, 35);
    send(&short, 0, 30_000, 2);
    sleep(Duration::from_secs(20)).await;
    let ratio = used(&long, 35) / used(&short, 2);
    assert!((0.95..1.05).contains(&ratio), "worker time {ratio} to 1");
    assert!(used(&long, 35) + used(&short, 2) > 0.98 * 2.0 * 20_000.0, "workers were idle");
}

#[tokio::test(start_paused = true)]
async fn weights_divide_the_worker_time() {
    let (pool, _) = pool(2);
    let sessions = [session(&pool, 1, 4).await, session(&pool, 2, 2).await, session(&pool, 3, 0).await];
    for (session, millis) in sessions.iter().zip([3, 20, 7]) {
        send(session, 0, 20_000, millis);
    }
    sleep(Duration::from_secs(35)).await;
    let [four, two, one] = [used(&sessions[0], 3), used(&sessions[1], 20), used(&sessions[2], 7)];
    assert!((1.9..2.1).contains(&(four / two)) && (1.9..2.1).contains(&(two / one)), "{four} : {two} : {one} ms");
}

#[tokio::test(start_paused = true)]
async fn a_light_session_waits_for_a_slice_and_the_batch_that_runs() {
    for noise in [1, 4, 9, 25, 200] {
        let (pool, _) = pool(1);
        let (noisy, light) = (session(&pool, 1, 0).await, session(&pool, 2, 0).await);
        send(&noisy, 0, 1_000_000 / noise, noise);
        let longest = longest_answer(&light, 50, Duration::from_millis(2 * noise + 97)).await;
        // Short batches: the slice ends in the middle of one, and another may be in the worker. Long ones go alone. Then its own; timers count whole milliseconds.
        let ahead = if noise < 10 { SLICE + Duration::from_millis(2 * noise) } else { Duration::from_millis(noise) };
        let bound = ahead + Duration::from_millis(1 + 2);
        assert!(longest <= bound, "{longest:?} beside batches of {noise} ms, more than {bound:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn opening_and_describing_wait_for_a_slice_too() {
    let (pool, _) = pool(1);
    let mut noisy = Vec::new();
    for plan in 1..=3 {
        let session = session(&pool, plan, 0).await;
        send(&session, 0, 100_000, 4);
        noisy.push(session);
    }
    for plan in 4..24 {
        sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        drop(session(&pool, plan, 0).await);
        describe(&pool, proto::FunctionSpec::default(), &Limits::default()).await.unwrap();
        let bound = 2 * (SLICE + Duration::from_millis(2 * 4 + 2));
        assert!(begun.elapsed() <= bound, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_session_uses_all_workers() {
    let (pool, factory) = pool(4);
    let session = session(&pool, 1, 0).await;
    let begun = Instant::now();
    send(&session, 0, 40, 100);
    session.finish();
    for expected in 1..=40 {
        let Some(Ok(Answer::Batch { seq, .. })) = poll_fn(|cx| session.poll_answer(cx)).await else { panic!("no answer {expected}") };
        assert_eq!(seq, expected);
    }
    assert_eq!(factory.started.load(std::sync::atomic::Ordering::SeqCst), 4);
    assert!(begun.elapsed() < Duration::from_millis(1_100), "four workers need a quarter of 4 s, this took {:?}", begun.elapsed());
}

#[tokio::test]
async fn weights_have_bounds() {
    let (pool, _) = pool(1);
    let options = proto::SessionOptions { weight: MAX_WEIGHT + 1, ..Default::default() };
    let request = OpenRequest { options, ..Default::default() };
    let refused =
        open(pool, request, Ids { session: "s-1".into(), plan: 1 }, ("test", false), &Limits::default(), &Stores::default()).await;
    assert_eq!(refused.err().map(|error| error.code()), Some(Code::OptionsInvalid));
}
