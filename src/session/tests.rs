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
use proptest::prelude::*;
use std::{collections::HashMap, time::Duration};

struct Bench {
    factory: Arc<FakeFactory>,
    pool: Arc<Pool>,
    session: Arc<Session>,
}

fn limits() -> Limits {
    Limits { kill_grace: Duration::from_millis(100), ..Default::default() }
}

async fn bench(workers: usize, options: proto::SessionOptions, script: impl Fn(u64, usize) -> Act + Send + Sync + 'static) -> Bench {
    bench_within(limits(), workers, options, script).await
}

async fn bench_within(
    limits: Limits,
    workers: usize,
    options: proto::SessionOptions,
    script: impl Fn(u64, usize) -> Act + Send + Sync + 'static,
) -> Bench {
    let factory = FakeFactory::new(script);
    let pool_limits = PoolLimits { pool: PoolConfig { max: workers, ..Default::default() }, shutdown_grace: Duration::from_millis(100) };
    let pool = Pool::new("test".into(), factory.clone(), pool_limits);
    let session =
        open(pool.clone(), request(options), Ids { session: "s-1".into(), plan: 1 }, ("test", false), &limits, &Stores::default())
            .await
            .unwrap();
    Bench { factory, pool, session }
}

fn request(options: proto::SessionOptions) -> OpenRequest {
    let source = proto::function_spec::Source::Module(proto::ModuleFunction { module: "m".into(), name: "f".into() });
    let call = proto::Call { function: Some(proto::FunctionSpec { source: Some(source), ..Default::default() }), arguments: vec![] };
    OpenRequest {
        plan: proto::Plan { calls: vec![call], outputs: vec![] },
        input_schema: ipc::schema_to_ipc(&Schema::empty()),
        options,
        ..Default::default()
    }
}

fn frame(seq: u64) -> Frame {
    Frame { headers: vec![seq.to_le_bytes().to_vec().into()], body_lengths: vec![0], body: Default::default(), rows: seq }
}

impl Bench {
    fn send(&self, seqs: impl IntoIterator<Item = u64>) {
        seqs.into_iter().for_each(|seq| self.session.push(seq, Input::Batch(frame(seq).into())).unwrap());
    }

    async fn next(&self) -> Option<Result<Answer>> {
        poll_fn(|cx| self.session.poll_answer(cx)).await
    }

    /// All answers up to the end: the sequence number and the code of a failure.
    async fn drain(&self) -> Vec<(u64, Option<Code>)> {
        let mut out = Vec::new();
        while let Some(answer) = self.next().await {
            match answer.unwrap() {
                Answer::Batch { seq, result: Ok(batch), .. } => {
                    assert_eq!(batch.rows(), seq, "the answer belongs to another batch");
                    out.push((seq, None));
                }
                Answer::Batch { seq, result: Err(error), .. } => {
                    assert_eq!(error.seq(), Some(seq));
                    out.push((seq, Some(error.code())));
                }
                Answer::Watermark { seq, .. } | Answer::Snapshotted { seq, .. } | Answer::Sealed { seq, .. } => out.push((seq, None)),
                Answer::Committed { .. } | Answer::Checkpointed { .. } | Answer::Ended(_) => {}
            }
        }
        out
    }

    fn executions(&self) -> HashMap<u64, usize> {
        self.factory.executed.lock().unwrap().iter().fold(HashMap::new(), |mut counts, &seq| {
            *counts.entry(seq).or_default() += 1;
            counts
        })
    }
}

fn fine(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, Option<Code>)> {
    seqs.into_iter().map(|seq| (seq, None)).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_keep_the_input_order_on_several_workers() {
    // Every third batch is slow, so that later ones overtake it.
    let slow = |seq: u64, _| if seq.is_multiple_of(3) { Act::EchoAfter(Duration::from_millis(50)) } else { Act::Echo };
    let bench = bench(3, Default::default(), slow).await;
    bench.send(1..=30);
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=30));
    assert!(bench.factory.started.load(std::sync::atomic::Ordering::SeqCst) > 1, "only one worker was used");
}

#[tokio::test(start_paused = true)]
async fn two_long_batches_run_on_two_workers() {
    let bench = bench(2, Default::default(), |_, _| Act::EchoAfter(Duration::from_secs(10))).await;
    let begun = tokio::time::Instant::now();
    bench.send(1..=2);
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=2));
    assert!(begun.elapsed() < Duration::from_secs(15), "they ran one after the other");
}

#[tokio::test(start_paused = true)]
async fn unordered_sessions_do_not_wait_for_slow_batches() {
    let slow = |seq: u64, _| if seq == 1 { Act::EchoAfter(Duration::from_secs(1)) } else { Act::Echo };
    let bench = bench(2, proto::SessionOptions { unordered: true, ..Default::default() }, slow).await;
    bench.send(1..=5);
    bench.session.push(6, Input::Watermark(proto::Watermark::default())).unwrap();
    bench.session.finish();
    let answers: Vec<u64> = bench.drain().await.into_iter().map(|(seq, _)| seq).collect();
    assert_ne!(answers[0], 1, "{answers:?}");
    assert_eq!(answers[5], 6, "{answers:?}: a watermark waits for all batches before it");
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_does_not_end_the_session() {
    let bench = bench(2, Default::default(), |seq, _| if seq == 2 { Act::Fail } else { Act::Echo }).await;
    bench.send(1..=3);
    bench.session.finish();
    assert_eq!(bench.drain().await, vec![(1, None), (2, Some(Code::FunctionRaised)), (3, None)]);
    assert_eq!(bench.executions()[&2], 1, "an exception is no reason to try again");
}

#[tokio::test(start_paused = true)]
async fn a_crash_costs_only_its_own_batch_an_attempt() {
    let bench = bench(1, Default::default(), |seq, time| if seq == 1 && time < 3 { Act::Crash } else { Act::Echo }).await;
    bench.send(1..=4);
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=4));
    assert_eq!(bench.executions()[&1], 3);
    assert_eq!(bench.session.lock().stats.retries, 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_always_crashes_fails_after_its_attempts_and_the_rest_goes_on() {
    let bench =
        bench(2, proto::SessionOptions { max_attempts: 3, ..Default::default() }, |seq, _| if seq == 2 { Act::Crash } else { Act::Echo })
            .await;
    bench.send(1..=10);
    bench.session.finish();
    let expected: Vec<_> = (1..=10).map(|seq| (seq, (seq == 2).then_some(Code::WorkerDied))).collect();
    assert_eq!(bench.drain().await, expected);
    assert_eq!(bench.executions()[&2], 3);
}

#[tokio::test(start_paused = true)]
async fn kills_from_outside_have_their_own_larger_limit() {
    let bench = bench(1, Default::default(), |seq, time| if seq == 1 && time < 8 { Act::KilledOutside } else { Act::Echo }).await;
    bench.send(1..=2);
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=2));
}

#[tokio::test(start_paused = true)]
async fn a_hang_is_killed_at_its_deadline_and_tells_where_it_was() {
    let options = proto::SessionOptions { bundle_deadline_ms: 2000, max_attempts: 1, ..Default::default() };
    let bench = bench(1, options, |seq, _| if seq == 1 { Act::Hang } else { Act::Echo }).await;
    bench.send(1..=3);
    bench.session.finish();
    let Some(Ok(Answer::Batch { seq: 1, result: Err(error), .. })) = bench.next().await else { panic!("the hang was not reported first") };
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert_eq!(error.worker_loss().unwrap().stacks, "stacks of fake-1");
    assert_eq!(bench.drain().await, fine(2..=3));
    assert_eq!(*bench.factory.kills.lock().unwrap(), [crate::worker::KillCause::Deadline]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_while_it_loads_is_replaced() {
    let factory = FakeFactory::new(|_, _| Act::Echo);
    factory.stopped.store(true, std::sync::atomic::Ordering::SeqCst);
    let limits_of_pool = PoolLimits { pool: PoolConfig { max: 1, ..Default::default() }, shutdown_grace: Duration::from_millis(100) };
    let pool = Pool::new("test".into(), factory.clone(), limits_of_pool);
    let goes_on = factory.clone();
    tokio::spawn(async move {
        // Somebody stops workers for a while.
        tokio::time::sleep(Duration::from_secs(15)).await;
        goes_on.stopped.store(false, std::sync::atomic::Ordering::SeqCst);
    });
    let begun = tokio::time::Instant::now();
    open(pool, request(Default::default()), Ids { session: "s-1".into(), plan: 1 }, ("test", false), &limits(), &Stores::default())
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "it was given the time for loading: {:?}", begun.elapsed());
    assert!(factory.started.load(std::sync::atomic::Ordering::SeqCst) > 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_answers_out_of_turn_is_killed() {
    let bench = bench(1, Default::default(), |seq, time| if seq == 1 && time == 1 { Act::Lie } else { Act::Echo }).await;
    bench.send(1..=2);
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=2));
    assert_eq!(*bench.factory.kills.lock().unwrap(), [crate::worker::KillCause::Protocol]);
}

#[tokio::test(start_paused = true)]
async fn cancelling_interrupts_a_hanging_worker_and_frees_it() {
    let bench = bench(1, Default::default(), |_, _| Act::Hang).await;
    bench.send(1..=3);
    tokio::time::sleep(Duration::from_millis(10)).await;
    bench.session.cancel(Error::new(Code::Cancelled, "enough"));
    assert_eq!(bench.next().await.unwrap().unwrap_err().code(), Code::Cancelled);
    assert!(bench.next().await.is_none());
    bench.pool.lease(9).await.unwrap();
    assert_eq!(*bench.factory.kills.lock().unwrap(), [crate::worker::KillCause::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_start_fails_batches_not_the_session() {
    let bench = bench(1, Default::default(), |_, time| if time == 1 { Act::KilledOutside } else { Act::Echo }).await;
    bench.factory.failing_starts.store(2, std::sync::atomic::Ordering::SeqCst);
    bench.send(1..=2);
    bench.session.finish();
    assert_eq!(bench.drain().await, vec![(1, Some(Code::WorkerStartFailed)), (2, None)]);
}

#[tokio::test]
async fn inputs_out_of_sequence_are_refused() {
    let bench = bench(1, Default::default(), |_, _| Act::Echo).await;
    assert_eq!(bench.session.push(2, Input::Batch(frame(2).into())).unwrap_err().code(), Code::ProtocolViolation);
    bench.session.push(1, Input::Batch(frame(1).into())).unwrap();
    bench.session.finish();
    assert_eq!(bench.session.push(2, Input::Batch(frame(2).into())).unwrap_err().code(), Code::SessionClosed);
}

#[tokio::test(start_paused = true)]
async fn two_sessions_share_one_worker() {
    let factory = FakeFactory::new(|_, _| Act::EchoAfter(Duration::from_millis(20)));
    let limits = PoolLimits { pool: PoolConfig { max: 1, ..Default::default() }, shutdown_grace: Duration::from_millis(100) };
    let pool = Pool::new("test".into(), factory.clone(), limits);
    let mut sessions = Vec::new();
    for plan in 1..=2 {
        let ids = Ids { session: format!("s-{plan}"), plan };
        let session =
            open(pool.clone(), request(Default::default()), ids, ("test", false), &Limits::default(), &Stores::default()).await.unwrap();
        sessions.push(Bench { factory: factory.clone(), pool: pool.clone(), session });
    }
    // The first floods the pool; the second must not wait for all of it.
    sessions[0].send(1..=200);
    tokio::time::sleep(Duration::from_millis(1)).await;
    sessions[1].send(1..=1);
    sessions[1].session.finish();
    let begun = tokio::time::Instant::now();
    assert_eq!(sessions[1].drain().await, fine(1..=1));
    assert!(begun.elapsed() < Duration::from_millis(200), "the second session starved for {:?}", begun.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the workers do, every batch is answered exactly once, in order, with its own result or a failure of its own making.
    #[test]
    fn any_mix_of_faults_leaves_the_order_and_the_count(acts in prop::collection::vec(0..5u8, 1..60), workers in 1..4usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let count = acts.len() as u64;
            let plan = acts.clone();
            let script = move |seq: u64, time: usize| match (plan[seq as usize - 1], time) {
                (1, _) => Act::EchoAfter(Duration::from_millis(seq % 7)),
                (2, _) => Act::Fail,
                (3, 1 | 2) => Act::Crash,
                (4, 1..=5) => Act::KilledOutside,
                _ => Act::Echo,
            };
            let bench = bench(workers, Default::default(), script).await;
            bench.send(1..=count);
            bench.session.finish();
            let expected: Vec<_> = acts.iter().zip(1..).map(|(&act, seq)| (seq, (act == 2).then_some(Code::FunctionRaised))).collect();
            assert_eq!(bench.drain().await, expected);
            bench.pool.shutdown().await;
            assert_eq!(bench.factory.alive.load(std::sync::atomic::Ordering::SeqCst), 0);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn results_that_nobody_takes_stop_the_work() {
    // Frames of one header of eight bytes, and as many rows as their number.
    let limits = Limits { session_output_rows: 10, ..limits() };
    let bench = bench_within(limits, 2, Default::default(), |_, _| Act::Echo).await;
    bench.send(1..=100);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let done = bench.executions().len();
    assert!((4..10).contains(&done), "{done} results were made although none was taken");
    bench.session.finish();
    assert_eq!(bench.drain().await, fine(1..=100));
}
