//! Process mode, inline transport: round trips of small batches and throughput of large ones, embedded and over a connection.
//!
//! `make bench`, or `cargo bench --bench process`. After criterion's figures it prints the design's budgets beside what was measured in this run; the ratio to
//! a plain memory copy of the same bytes, taken in the same run, is what can be compared between machines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use criterion::{BenchmarkId, Criterion, Throughput};
use pillion::{Config, EnvironmentSpec, FunctionRef, Pillion, Plan, Session, config::PoolConfig};
use std::{
    hint::black_box,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Rows of a large batch.
const LARGE: usize = 100_000;

/// Function, number of columns.
const FUNCTIONS: [(&str, usize); 4] = [("arrow_identity", 1), ("arrow_add", 2), ("pandas_add", 2), ("json_name", 1)];

fn batch(function: &str, rows: usize) -> RecordBatch {
    if function == "json_name" {
        let texts =
            StringArray::from_iter_values((0..rows).map(|i| format!(r#"{{"id": {i}, "name": "somebody {i}", "tags": ["a", "b"]}}"#)));
        return RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).expect("one column");
    }
    let column = || Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef;
    RecordBatch::try_from_iter([("a", column()), ("b", column())]).expect("columns of one length")
}

/// A sidecar in a process of its own.
struct Sidecar(Child, #[allow(dead_code, reason = "removed at the end")] TempDir);

impl Sidecar {
    fn start() -> (Sidecar, String) {
        let folder = TempDir::new().expect("a temporary folder");
        let socket = format!("unix:{}", folder.path().join("bench.sock").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_pillion"))
            .args(["serve", "--listen", &socket, "--set", "pool.max=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sidecar starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("the sidecar says where it listens");
        (Sidecar(child, folder), socket)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn environment() -> EnvironmentSpec {
    let requirements = ["numpy", "pandas", "pyarrow"].map(str::to_owned).to_vec();
    EnvironmentSpec { requirements, preload: vec!["pyarrow.compute".into(), "pandas".into()], ..Default::default() }
}

async fn open(pillion: &Pillion, function: &str, columns: usize) -> Session {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/functions.py");
    let plan = Plan::scalar(FunctionRef::file(file, function), (0..columns).collect(), "r");
    let opened = pillion.session(plan).environment(environment()).input(batch(function, 1).schema()).open().await;
    opened.unwrap_or_else(|error| panic!("`{function}` does not open: {error:?}"))
}

/// `count` round trips, one after the other, each waited for; gives all durations.
async fn round_trips(session: &mut Session, batch: &RecordBatch, count: u64) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let begun = Instant::now();
        session.send(batch.clone()).await.expect("sent");
        black_box(session.recv().await.expect("answered").expect("no failure"));
        times.push(begun.elapsed());
    }
    times
}

/// `count` batches sent as fast as credit allows, and received meanwhile.
async fn stream(session: Session, batch: RecordBatch, count: u64) -> Duration {
    let (mut input, mut output) = session.split();
    let begun = Instant::now();
    let sender = tokio::spawn(async move {
        for _ in 0..count {
            input.send(batch.clone()).await.expect("sent");
        }
        input.finish().await.expect("finished");
    });
    while let Some(answer) = output.recv().await {
        black_box(answer.expect("no failure"));
    }
    let took = begun.elapsed();
    sender.await.expect("the sender ends");
    took
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

struct Bench {
    runtime: Runtime,
    doors: Vec<(&'static str, Pillion)>,
    /// Door, function, rows, the median of a round trip.
    latencies: Mutex<Vec<(&'static str, &'static str, usize, Duration)>>,
    /// Door, function, rows per second.
    rates: Mutex<Vec<(&'static str, &'static str, f64)>>,
}

impl Bench {
    fn latency(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("round trip");
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        for (door, pillion) in &self.doors {
            for (function, columns) in FUNCTIONS {
                for rows in [1, 100, 1000] {
                    let batch = batch(function, rows);
                    let all = Mutex::new(Vec::new());
                    group.bench_function(BenchmarkId::new(format!("{door}/{function}"), rows), |bencher| {
                        bencher.iter_custom(|count| {
                            let (pillion, batch) = (pillion.clone(), batch.clone());
                            // In a task of the runtime, as an operator would be: the main thread would have to be woken for each answer.
                            let task = self.runtime.spawn(async move {
                                let mut session = open(&pillion, function, columns).await;
                                round_trips(&mut session, &batch, 20).await;
                                round_trips(&mut session, &batch, count).await
                            });
                            let times = self.runtime.block_on(task).expect("no panic");
                            let sum = times.iter().sum();
                            all.lock().expect("no panic").extend(times);
                            sum
                        });
                    });
                    // Nothing was measured if the filter on the command line left it out.
                    let all = all.into_inner().expect("no panic");
                    if all.is_empty() {
                        continue;
                    }
                    let median = p50(all);
                    self.latencies.lock().expect("no panic").push((door, function, rows, median));
                }
            }
        }
    }

    fn throughput(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("throughput");
        group.sample_size(10).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
        group.throughput(Throughput::Elements(LARGE as u64));
        for (door, pillion) in &self.doors {
            for (function, columns) in FUNCTIONS {
                let batch = batch(function, LARGE);
                let best = Mutex::new(0f64);
                group.bench_function(BenchmarkId::new(*door, function), |bencher| {
                    bencher.iter_custom(|count| {
                        let (pillion, batch) = (pillion.clone(), batch.clone());
                        let task = self.runtime.spawn(async move {
                            let mut session = open(&pillion, function, columns).await;
                            round_trips(&mut session, &batch, 2).await;
                            stream(session, batch, count).await
                        });
                        let took = self.runtime.block_on(task).expect("no panic");
                        let mut best = best.lock().expect("no panic");
                        if count >= 5 {
                            *best = best.max((count as usize * LARGE) as f64 / took.as_secs_f64());
                        }
                        took
                    });
                });
                let best = best.into_inner().expect("no panic");
                if best > 0.0 {
                    self.rates.lock().expect("no panic").push((door, function, best));
                }
            }
        }
    }

    /// The design's budget rows for process mode, inline.
    fn budgets(&self) {
        let latency = |door: &str| {
            self.latencies
                .lock()
                .expect("no panic")
                .iter()
                .find(|row| (row.0, row.1, row.2) == (door, "arrow_identity", 1))
                .map(|row| row.3)
        };
        let rate = |door: &str| {
            self.rates.lock().expect("no panic").iter().find(|row| (row.0, row.1) == (door, "arrow_add")).map(|row| row.2 / 1e6)
        };
        println!("\n{:<58} {:>14} {:>14}", "budget row (process mode, inline)", "must reach", "measured");
        for (door, budget) in [("embedded", 200.0), ("connect", 320.0)] {
            if let Some(median) = latency(door) {
                let measured = median.as_secs_f64() * 1e6;
                println!("{:<58} {:>11} µs {measured:>11.0} µs", format!("1 row, arrow function, p50, {door}"), budget);
            }
        }
        for (door, budget) in [("embedded", 30.0), ("connect", 15.0)] {
            if let Some(rate) = rate(door) {
                println!("{:<58} {budget:>7} Mrows/s {rate:>7.1} Mrows/s", format!("2 × int64 added, 100,000-row batches, best, {door}"));
            }
        }
        println!("a copy of the same bytes in this run: {:.1} Mrows/s", memcpy_rate() / 1e6);
    }
}

/// Rows per second of copying what an addition reads and writes (24 bytes a row): what the figures are a ratio to.
fn memcpy_rate() -> f64 {
    let source = vec![1u8; LARGE * 24];
    let mut target = vec![0u8; LARGE * 24];
    let begun = Instant::now();
    for _ in 0..200 {
        black_box(&mut target).copy_from_slice(black_box(&source));
    }
    (200 * LARGE) as f64 / begun.elapsed().as_secs_f64()
}

fn main() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let folder = TempDir::new().expect("a temporary folder");
    let config = Config { runtime_dir: folder.path().join("run"), pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() };
    let embedded = runtime.block_on(Pillion::embedded(config)).expect("an engine");
    let (_sidecar, endpoint) = Sidecar::start();
    let connected = runtime.block_on(Pillion::connect(&endpoint)).expect("the sidecar answers");
    let bench = Bench {
        runtime,
        doors: vec![("embedded", embedded.clone()), ("connect", connected)],
        latencies: Mutex::default(),
        rates: Mutex::default(),
    };
    let mut criterion = Criterion::default().configure_from_args();
    bench.latency(&mut criterion);
    bench.throughput(&mut criterion);
    criterion.final_summary();
    bench.budgets();
    bench.runtime.block_on(embedded.shutdown());
}
