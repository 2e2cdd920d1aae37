//! Thread mode, embedded: what a call costs on the caller's own thread, on a worker's thread that looks out for work or sleeps, and what large batches reach. Prints
//! the design's budgets beside what was measured.
//!
//! `cargo bench --bench thread`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{
    Config, EnvironmentSpec, FunctionRef, Pillion, Plan, Session,
    config::{PoolConfig, Spin},
    host::Timing,
};
use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Builder;

/// Rows of a large batch.
const LARGE: usize = 100_000;
/// Batches that do not fit into any cache together.
const FRESH: usize = 64;
/// Long enough for everybody to fall asleep, and for others to use the caches.
const PAUSE: Duration = Duration::from_millis(5);

fn batch(rows: usize, from: i64) -> RecordBatch {
    let column = || Arc::new(Int64Array::from_iter_values(from..from + rows as i64)) as ArrayRef;
    RecordBatch::try_from_iter([("a", column()), ("b", column())]).expect("columns of one length")
}

async fn open(pillion: &Pillion, function: &str, columns: usize) -> Session {
    let requirements = ["numpy", "pandas", "pyarrow"].map(str::to_owned).to_vec();
    let environment = EnvironmentSpec { requirements, preload: vec!["pyarrow.compute".into(), "pandas".into()], ..Default::default() };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/functions.py");
    let plan = Plan::scalar(FunctionRef::file(file, function), (0..columns).collect(), "r");
    let opened = pillion.session(plan).environment(environment.in_threads()).input(batch(1, 0).schema()).open().await;
    opened.unwrap_or_else(|error| panic!("`{function}` does not open: {error:?}"))
}

async fn round_trip(session: &mut Session, batch: &RecordBatch) -> (Duration, Timing) {
    let begun = Instant::now();
    session.send(batch.clone()).await.expect("sent");
    let answer = black_box(session.recv().await.expect("answered").expect("no failure"));
    (begun.elapsed(), answer.timing)
}

/// A line with the median of round trips, and lines with the medians of their parts.
fn trips(text: &str, must: &str, trips: &[(Duration, Timing)]) {
    row(text, must, p50(trips.iter().map(|(took, _)| *took).collect()), "µs");
    let inside = |of: fn(&Timing) -> u64| p50(trips.iter().map(|(_, timing)| Duration::from_nanos(of(timing))).collect());
    row("  of it: queue", "", inside(|timing| timing.queue_ns), "µs");
    row("  of it: conversion", "", inside(|timing| timing.convert_ns), "µs");
    row("  of it: user code", "", inside(|timing| timing.user_ns), "µs");
    row("  of it: the rest of the crossing", "", inside(|timing| timing.wire_ns), "µs");
}

fn row(text: &str, must: &str, measured: f64, unit: &str) {
    println!("{text:<58} {must:>6} {measured:>9.1} {unit}");
}

fn p50(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Rows per second of the best of some runs over these batches, sent as fast as credit allows.
async fn rate(pillion: &Pillion, batches: &Arc<Vec<RecordBatch>>) -> f64 {
    let mut best = 0f64;
    for _ in 0..5 {
        let (mut input, mut output) = open(pillion, "arrow_add", 2).await.split();
        let count = 640;
        let batches = batches.clone();
        let begun = Instant::now();
        let sender = tokio::spawn(async move {
            for at in 0..count {
                input.send(batches[at % batches.len()].clone()).await.expect("sent");
            }
            input.finish().await.expect("finished");
        });
        while let Some(answer) = output.recv().await {
            black_box(answer.expect("no failure"));
        }
        best = best.max((count * LARGE) as f64 / begun.elapsed().as_secs_f64());
        sender.await.expect("the sender ends");
    }
    best / 1e6
}

fn rate_here(session: &mut Session, batches: &[RecordBatch]) -> f64 {
    let mut best = 0f64;
    for _ in 0..5 {
        let count = 640;
        let begun = Instant::now();
        for at in 0..count {
            black_box(session.call_here(batches[at % batches.len()].clone()).expect("no failure"));
        }
        best = best.max((count * LARGE) as f64 / begun.elapsed().as_secs_f64());
    }
    best / 1e6
}

fn main() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let folder = TempDir::new().expect("a temporary folder");
    let config =
        |name| Config { runtime_dir: folder.path().join(name), pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() };
    let pillion = runtime.block_on(Pillion::embedded(config("run"))).expect("an engine");
    let mut nobody_watches = config("asleep");
    nobody_watches.shm.spin = Spin::OFF;
    let sleepy = runtime.block_on(Pillion::embedded(nobody_watches)).expect("another engine");

    let (one, engine) = (batch(1, 0), pillion.clone());
    let mut session = runtime.block_on(open(&engine, "identity", 1));
    for _ in 0..200 {
        session.call_here(one.clone()).expect("no failure");
    }
    let mut here = |pause: Duration| {
        std::thread::sleep(pause);
        let begun = Instant::now();
        let answer = black_box(session.call_here(one.clone()).expect("no failure"));
        (begun.elapsed(), answer.timing)
    };
    let times: Vec<_> = (0..20_000).map(|_| here(Duration::ZERO)).collect();
    trips("1 row, arrow function, p50: caller's thread", "30", &times);
    let times: Vec<_> = (0..500).map(|_| here(PAUSE)).collect();
    trips("1 row, arrow function, p50: caller's thread after a pause", "", &times);

    for (engine, count, pause, text, must) in [
        (&pillion, 10_000, Duration::ZERO, "worker's thread, watching", "30"),
        (&sleepy, 10_000, Duration::ZERO, "worker's thread, asleep", "100"),
        (&sleepy, 500, PAUSE, "worker's thread after a pause", ""),
    ] {
        let (engine, one) = (engine.clone(), one.clone());
        let task = runtime.spawn(async move {
            let mut session = open(&engine, "identity", 1).await;
            let mut times = Vec::new();
            for _ in 0..count {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                times.push(round_trip(&mut session, &one).await);
            }
            times
        });
        let times = runtime.block_on(task).expect("no panic");
        trips(&format!("1 row, arrow function, p50: {text}"), must, &times);
    }

    let hot = Arc::new(vec![batch(LARGE, 0)]);
    let fresh: Arc<Vec<_>> = Arc::new((0..FRESH).map(|at| batch(LARGE, at as i64)).collect());
    let engine = pillion.clone();
    let (engine_hot, engine_fresh) = (hot.clone(), fresh.clone());
    let task = runtime.spawn(async move { (rate(&engine, &engine_hot).await, rate(&engine, &engine_fresh).await) });
    let (hot_rate, fresh_rate) = runtime.block_on(task).expect("no panic");
    row("2 x int64 added, 100,000 rows: worker's thread, cache-hot", "1000", hot_rate, "Mrows/s");
    row("2 x int64 added, 100,000 rows: worker's thread, fresh", "400", fresh_rate, "Mrows/s");
    let mut session = runtime.block_on(open(&pillion, "arrow_add", 2));
    row("2 x int64 added, 100,000 rows: caller's thread, cache-hot", "1000", rate_here(&mut session, &hot), "Mrows/s");
    row("2 x int64 added, 100,000 rows: caller's thread, fresh", "400", rate_here(&mut session, &fresh), "Mrows/s");
    drop(session);
    runtime.block_on(pillion.shutdown());
    runtime.block_on(sleepy.shutdown());
}
