//! Batches that ask for state, with workers that do what they are told.

use super::{super::*, Fetcher, Unanswered};
use crate::{
    config::PoolConfig,
    error::Code,
    pool::PoolLimits,
    worker::{
        BoxFuture, KillCause,
        fake::{Act, FakeFactory},
    },
};
use futures_util::future::poll_fn;
use pillion_wire::frame::Frame;
use std::{sync::atomic::AtomicUsize, sync::atomic::Ordering, time::Duration};

/// What becomes of a question.
type Answering = fn(u64) -> Result<Batch, Unanswered>;

/// State that takes its time.
struct Slow {
    takes: Duration,
    answers: Answering,
    asked: AtomicUsize,
}

impl Fetcher for Slow {
    fn fetch(self: Arc<Self>, seq: u64, _: Batch) -> BoxFuture<'static, std::result::Result<Batch, Unanswered>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            (self.answers)(seq)
        })
    }
}

struct Bench {
    factory: Arc<FakeFactory>,
    pool: Arc<Pool>,
    session: Arc<Session>,
    state: Arc<Slow>,
}

const DEADLINE: Duration = Duration::from_secs(2);

fn frame(seq: u64) -> Batch {
    Frame { headers: vec![seq.to_le_bytes().to_vec().into()], body_lengths: vec![0], body: Default::default(), rows: seq }.into()
}

fn bench(takes: Duration, answers: Answering, script: impl Fn(u64, usize) -> Act + Send + Sync + 'static) -> Bench {
    let factory = FakeFactory::new(script);
    let grace = Duration::from_millis(100);
    let limits = PoolLimits { pool: PoolConfig { max: 1, ..Default::default() }, shutdown_grace: grace };
    let pool = Pool::new("test".into(), factory.clone(), limits);
    let state = Arc::new(Slow { takes, answers, asked: AtomicUsize::new(0) });
    let limits = Limits { kill_grace: grace, slow_bundle: Duration::from_secs(1), ..Default::default() };
    let behaviour = Behaviour { ordered: true, deadline: DEADLINE, max_attempts: 2, max_workers: 1, weight: 1, limits };
    let plan = SessionPlan { id: 1, prepare: Arc::default(), functions: "f".into(), fetcher: Some(state.clone()) };
    let described = Described { output_schema: Default::default(), functions: vec![], environment: Default::default(), trusted: false };
    let metrics = BatchMetrics::new("f", behaviour.limits.metric_series);
    let seen = Seen { id: "s-1".into(), name: String::new(), span: tracing::Span::none(), metrics };
    let session = Session::new(seen, plan, behaviour, described, pool.clone(), None);
    Bench { factory, pool, session, state }
}

impl Bench {
    fn send(&self, seqs: impl IntoIterator<Item = u64>) {
        seqs.into_iter().for_each(|seq| self.session.push(seq, Input::Batch(frame(seq))).unwrap());
        self.session.finish();
    }

    /// The answers: the code of a failure, and how long was waited for state.
    async fn drain(&self) -> Vec<(u64, Option<Code>, u64)> {
        let mut out = Vec::new();
        while let Some(answer) = poll_fn(|cx| self.session.poll_answer(cx)).await {
            if let Ok(Answer::Batch { seq, result, timing, .. }) = answer {
                out.push((seq, result.err().map(|error| error.code()), timing.state_ns / 1_000_000));
            }
        }
        out
    }

    fn kills(&self) -> Vec<KillCause> {
        self.factory.kills.lock().unwrap().clone()
    }
}

fn given(_: u64) -> Result<Batch, Unanswered> {
    Ok(frame(1))
}

fn now() -> Duration {
    Duration::ZERO
}

#[tokio::test(start_paused = true)]
async fn waiting_for_state_counts_toward_no_deadline() {
    // Three questions of five seconds each, and nearly the whole deadline in the function.
    const TWICE: Act = Act::AskThen(&Act::AskThen(&Act::EchoAfter(Duration::from_millis(1900))));
    let bench = bench(Duration::from_secs(5), given, |_, _| Act::AskThen(&TWICE));
    bench.send(1..=2);
    assert_eq!(bench.drain().await, [(1, None, 15_000), (2, None, 15_000)]);
    assert_eq!((bench.state.asked.load(Ordering::SeqCst), bench.kills()), (6, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_hangs_after_its_state_is_killed_at_its_deadline() {
    let bench = bench(Duration::from_secs(5), given, |_, time| if time == 1 { Act::AskThen(&Act::Hang) } else { Act::Echo });
    let begun = tokio::time::Instant::now();
    bench.send(1..=1);
    assert_eq!(bench.drain().await, [(1, None, 0)]);
    assert_eq!(bench.kills(), [KillCause::Deadline]);
    assert!((Duration::from_secs(7)..Duration::from_secs(8)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_while_it_waits_is_replaced() {
    let bench = bench(Duration::from_secs(5), given, |_, time| if time == 1 { Act::AskAndDie } else { Act::AskThen(&Act::Echo) });
    bench.send(1..=2);
    assert_eq!(bench.drain().await, [(1, None, 5000), (2, None, 5000)]);
    assert_eq!(bench.session.lock().stats.retries, 2);
}

#[tokio::test(start_paused = true)]
async fn state_that_cannot_be_had_fails_the_batch_whatever_its_function_says() {
    let full = |_| Err(Error::new(Code::StateTooLarge, "too large").into());
    let bench = bench(now(), full, |seq, _| if seq == 1 { Act::AskThen(&Act::Echo) } else { Act::Echo });
    bench.send(1..=2);
    assert_eq!(bench.drain().await, [(1, Some(Code::StateTooLarge), 0), (2, None, 0)]);
    assert_eq!(bench.kills(), [], "the worker has done nothing wrong");
}

#[tokio::test(start_paused = true)]
async fn questions_that_may_not_be_asked_cost_the_worker() {
    let breach = |_| Err(Unanswered::Breach("nonsense".into()));
    let cases: [(Answering, Act); 3] = [
        (given, Act::Ask { further: 1, times: 1 }),
        (given, Act::Ask { further: 0, times: 2 }),
        (breach, Act::Ask { further: 0, times: 1 }),
    ];
    for (answers, act) in cases {
        let shown = format!("{act:?}");
        let bench = bench(now(), answers, move |seq, time| if seq == 1 && time == 1 { act.clone() } else { Act::Echo });
        bench.send(1..=2);
        assert_eq!(bench.drain().await, [(1, None, 0), (2, None, 0)], "{shown}");
        assert_eq!(bench.kills(), [KillCause::Protocol], "{shown}");
    }
    // Whoever always asks for what there is not fails its batch.
    let bench = bench(now(), breach, |seq, _| if seq == 1 { Act::AskThen(&Act::Echo) } else { Act::Echo });
    bench.send(1..=2);
    assert_eq!(bench.drain().await, [(1, Some(Code::ProtocolViolation), 0), (2, None, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_session_ends_the_wait_and_keeps_the_worker() {
    let bench = bench(Duration::from_secs(1000), given, |_, _| Act::AskThen(&Act::Echo));
    bench.send(1..=1);
    while bench.state.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    bench.session.cancel(Error::new(Code::Cancelled, "enough"));
    bench.pool.lease(9).await.unwrap();
    assert_eq!(bench.kills(), []);
    assert_eq!(bench.factory.started.load(Ordering::SeqCst), 1);
}
