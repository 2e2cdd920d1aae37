//! Results of a keyed job are given out exactly once, whatever happens to its workers and sessions: random programs of reads, writes and timers beside a simple model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use pillion::{
    Event, Pillion, Result, Session, Store,
    host::SessionInput,
    state::host::{HostCommit, HostDue, HostGet, HostPage, HostRows, HostTimers, Maps, StateHost},
    worker::BoxFuture,
};
use proptest::prelude::*;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use support::{
    Door, Rig,
    keyed::{Step, by_key, keyed_in, kill_workers, per_key, restoring, rig_with_places_and, rows, table},
    model::{Model, OPERATIONS, READS},
};

/// What happens to a session and to the job that it belongs to.
#[derive(Clone, Debug)]
enum Fate {
    Step(Step),
    Barrier,
    KillWorkers,
    /// The job fails: its session is dropped wherever it stands, and it goes on from the last checkpoint that is durable.
    Fail,
}

/// Keys are few, so that each has a history.
const KEYS: i64 = 6;

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let row = (0..KEYS, 0..OPERATIONS, 0..100i64).prop_map(|(key, what, argument)| (key, what * 1000 + argument, 0));
    let fate = prop_oneof![
        6 => proptest::collection::vec(row, 1..12).prop_map(|rows| Fate::Step(Step::Rows(rows))),
        // Always an advance: a session that goes on from a checkpoint has forgotten its watermark, so an equal one would be an advance to it only.
        3 => (1..20i64).prop_map(|ahead| Fate::Step(Step::Watermark(ahead))),
        2 => Just(Fate::Barrier),
        1 => Just(Fate::KillWorkers),
        1 => Just(Fate::Fail),
    ];
    proptest::collection::vec(fate, 1..16)
}

/// A job as an engine runs it: results are given out when the checkpoint behind them is durable.
struct Job {
    steps: Vec<Fate>,
    /// Steps that the last checkpoint covers, its handle, and the results given out with it.
    done: usize,
    from: Checkpoint,
    given: Vec<Vec<i64>>,
}

/// Where a job keeps its state, and its last checkpoint.
enum Checkpoint {
    Engine(Store, Option<String>),
    Host(Maps),
}

impl Checkpoint {
    /// A session that goes on from it; with the host that keeps its state.
    async fn open(&self, rig: &Rig) -> (Session, Option<Arc<Keeper>>) {
        let builder = |options| keyed_in("programs.py", rig, "Program", options);
        match self {
            Checkpoint::Engine(store, handle) => {
                let handles: Vec<&str> = handle.as_deref().into_iter().collect();
                (builder(restoring(*store, &handles)).open().await.unwrap(), None)
            }
            Checkpoint::Host(maps) => {
                let keeper = Arc::new(Keeper { maps: maps.checkpoint(), pillion: rig.pillion.clone(), asked: AtomicU64::new(0) });
                (builder(by_key()).state_host(keeper.clone()).open().await.unwrap(), Some(keeper))
            }
        }
    }
}

/// Keeps the state, and kills all workers at some of the steps of a bundle that it sees: before its state is read, and when its effects are there and not committed.
struct Keeper {
    maps: Maps,
    pillion: Pillion,
    asked: AtomicU64,
}

impl Keeper {
    async fn step(&self) {
        if self.asked.fetch_add(1, Ordering::Relaxed) % 7 == 6 {
            kill_workers(&self.pillion).await;
        }
    }
}

impl StateHost for Keeper {
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>> {
        Box::pin(async {
            self.step().await;
            self.maps.get(request).await
        })
    }

    fn page<'a>(&'a self, request: &'a HostPage) -> BoxFuture<'a, Result<HostRows>> {
        self.maps.page(request)
    }

    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.step().await;
            self.maps.commit(commit).await
        })
    }

    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>> {
        self.maps.timers(request)
    }
}

/// Sends what comes behind a checkpoint; false if the job fails.
async fn send(steps: &[Fate], from: usize, fails_at: Option<usize>, input: &mut SessionInput, pillion: &Pillion) -> bool {
    let mut watermark = 0;
    for (at, fate) in steps.iter().enumerate() {
        if let Fate::Step(Step::Watermark(ahead)) = fate {
            watermark += ahead;
        }
        if at < from {
            continue;
        }
        let sent = match fate {
            Fate::Step(Step::Rows(given)) => input.send(rows(given)).await,
            Fate::Step(_) => input.watermark(watermark).await,
            Fate::Barrier => input.barrier(at as u64 + 1).await,
            Fate::KillWorkers => {
                kill_workers(pillion).await;
                Ok(0)
            }
            Fate::Fail if fails_at == Some(at) => return false,
            Fate::Fail => Ok(0),
        };
        sent.unwrap();
    }
    input.finish().await.unwrap();
    true
}

impl Job {
    /// Runs until it is done or its session fails; true when it is done.
    async fn attempt(&mut self, rig: &Rig, failures: &mut usize) -> bool {
        let (session, keeper) = self.from.open(rig).await;
        let (mut input, mut output) = session.split();
        let (steps, from) = (self.steps.clone(), self.done);
        let last_fail = steps.iter().enumerate().skip(from).filter(|(_, fate)| matches!(fate, Fate::Fail)).map(|(at, _)| at).next();
        // Each failure happens once.
        let fails_at = last_fail.filter(|_| *failures > 0);
        let sending = send(&steps, from, fails_at, &mut input, &rig.pillion);
        let (mut results, mut waiting) = (Vec::new(), Vec::new());
        let mut receiving = Box::pin(async {
            while let Some(event) = output.next().await {
                match event.unwrap() {
                    Event::Output(result) => results.extend(table(&result.batch)),
                    Event::Committed { bundle, .. } => {
                        keeper.as_ref().unwrap().maps.apply(bundle).unwrap();
                        output.applied(bundle).unwrap();
                    }
                    // What a host has applied is its checkpoint.
                    Event::Snapshotted { checkpoint_id, .. } if let Some(keeper) = &keeper => {
                        self.given.append(&mut results);
                        self.from = Checkpoint::Host(keeper.maps.checkpoint());
                        self.done = checkpoint_id as usize;
                    }
                    Event::Snapshotted { checkpoint_id, .. } => waiting.push((checkpoint_id, std::mem::take(&mut results))),
                    Event::Checkpointed { checkpoint_id, result } => {
                        let at = waiting.iter().position(|(id, _)| *id == checkpoint_id).unwrap();
                        self.given.extend(waiting.drain(..=at).flat_map(|(_, results)| results));
                        let Checkpoint::Engine(_, handle) = &mut self.from else { panic!("a checkpoint of the engine") };
                        *handle = Some(result.unwrap().handle);
                        self.done = checkpoint_id as usize;
                    }
                    _ => {}
                }
            }
        });
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            () = &mut receiving => panic!("the session ended early"),
        };
        if !sent {
            *failures -= 1;
            return false;
        }
        receiving.await;
        self.given.extend(waiting.into_iter().flat_map(|(_, results)| results));
        self.given.extend(results);
        true
    }
}

/// Whatever happens, every key has the results that the model gives, each once and in order, up to reads of all that it has and the timers that are left.
fn results_are_exactly_once(store: Option<Store>, door: Door, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rig = runtime.block_on(rig_with_places_and(door, |config| config.limits.timers_at_once = 2));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(fates in fates())| {
        let mut fates = fates;
        let reads = |key| READS.map(|what| (key, what * 1000, 0));
        fates.push(Fate::Step(Step::Rows((0..KEYS).flat_map(reads).collect())));
        let (mut model, mut watermark) = (Model::default(), 0);
        for fate in &fates {
            match fate {
                Fate::Step(Step::Rows(rows)) => rows.iter().for_each(|&(key, value, _)| model.row(key, value)),
                Fate::Step(Step::Watermark(ahead)) => {
                    watermark += ahead;
                    model.watermark(watermark);
                }
                _ => {}
            }
        }
        model.watermark(i64::MAX);
        let given = runtime.block_on(async {
            let mut failures = fates.iter().filter(|fate| matches!(fate, Fate::Fail)).count();
            let from = store.map_or_else(|| Checkpoint::Host(Maps::default()), |store| Checkpoint::Engine(store, None));
            let mut job = Job { steps: fates, done: 0, from, given: Vec::new() };
            while !job.attempt(&rig, &mut failures).await {}
            job.given
        });
        prop_assert_eq!(per_key(&given), per_key(&model.given));
    });
    runtime.block_on(rig.end());
}

/// How many random programs; more with `PILLION_TEST_CASES`.
fn cases() -> u32 {
    std::env::var("PILLION_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(25)
}

#[test]
fn results_are_exactly_once_from_memory() {
    results_are_exactly_once(Some(Store::Memory), Door::Embedded, cases());
}

#[test]
fn results_are_exactly_once_from_disk() {
    results_are_exactly_once(Some(Store::Disk), Door::Embedded, cases());
}

#[test]
fn results_are_exactly_once_from_a_host() {
    results_are_exactly_once(None, Door::Embedded, cases());
    results_are_exactly_once(None, Door::ConnectUnix, cases() / 2);
}
