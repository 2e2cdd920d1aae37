//! Modes, transports and doors × rows × payload × function: round trips one at a time, and throughput.
//!
//! `make bench` runs the part that the design's budgets are about and prints them beside what was measured. `PILLION_BENCH=all` runs the whole grid
//! (which takes long), and a filter its part: `PILLION_BENCH=all cargo bench --bench modes -- "round trip/thread, embedded"`.
//! Environment: `PILLION_BENCH_PYTHON` names an interpreter with pyarrow, pandas and scikit-learn; without it one is built, once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]

#[path = "support/grid.rs"]
mod grid;
#[path = "../src/cli/bench/variant.rs"]
mod variant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
use arrow_schema::SchemaRef;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use grid::{Case, Payload, batch, bytes, environment, memcpy_rate};
use hdrhistogram::Histogram;
use pillion::{
    Config, FunctionRef, Plan, Session,
    config::PoolConfig,
    host::{Allocation, Part},
};
use std::{
    hint::black_box,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};
use variant::{Door, Mode, Running, Transport, Variant};

/// Round trips of one row in a sample, at least.
const TRIPS: u64 = 1000;

/// Batches on their way at once, of those that the host fills: so few stay in the caches.
const IN_FLIGHT: usize = 4;

/// Batches of a stream in a sample, at least.
const BATCHES: u64 = 300;

async fn open(running: &Running, case: &Case, schema: SchemaRef) -> Session {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/functions.py");
    let plan = Plan::scalar(FunctionRef::file(file, case.function), (0..case.columns()).collect(), "r");
    let opened = running.pillion.session(plan).environment(running.environment.clone()).input(schema).open().await;
    opened.unwrap_or_else(|error| panic!("`{}` does not open: {error:?}", case.function))
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

/// As [`stream`], but every batch is another one, built where the session says.
async fn stream_filled(session: Session, schema: SchemaRef, rows: usize, count: u64) -> Duration {
    let (mut input, mut output) = session.split();
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let answered = room.clone();
    let begun = Instant::now();
    let sender = tokio::spawn(async move {
        for number in 0..count as i64 {
            room.acquire().await.expect("open").forget();
            let mut slot = input.allocate(2 * Allocation::room::<i64>(rows));
            let (mut a, mut b) = (slot.part::<i64>(rows).expect("room"), slot.part::<i64>(rows).expect("room"));
            a.iter_mut().zip(number..).for_each(|(value, at)| *value = at);
            b.fill(number);
            let column = |part: Part<i64>| Arc::new(Int64Array::new(part.freeze(), None)) as ArrayRef;
            let batch = RecordBatch::try_new(schema.clone(), vec![column(a), column(b)]).expect("columns of the schema");
            input.send(batch).await.expect("sent");
        }
        input.finish().await.expect("finished");
    });
    let mut last = 0;
    while let Some(answer) = output.recv().await {
        last = answer.expect("no failure").batch.column(0).as_primitive::<Int64Type>().value(rows - 1);
        answered.add_permits(1);
    }
    let took = begun.elapsed();
    sender.await.expect("the sender ends");
    assert_eq!(last, 2 * (count as i64 - 1) + rows as i64 - 1, "the last batch has another sum");
    took
}

/// One figure of the grid.
struct Figure {
    variant: Variant,
    case: Case,
    rows: usize,
    /// Of the round trips, in nanoseconds.
    trips: Histogram<u64>,
    /// Rows per second of the best sample, as the budgets are told.
    best: f64,
    /// The same, if the host fills a slot for each batch.
    filled: f64,
}

struct Bench {
    runtime: Runtime,
    running: Vec<Running>,
    figures: Mutex<Vec<Figure>>,
    /// The whole grid, or what budgets are about.
    all: bool,
}

impl Bench {
    /// Starts every variant; one that cannot be had is named with the reason.
    fn new(runtime: Runtime, all: bool) -> Bench {
        let config = Config { pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() };
        let program = Path::new(env!("CARGO_BIN_EXE_pillion"));
        let mut running = Vec::new();
        for variant in variant::ALL.into_iter().chain(variant::MORE) {
            match runtime.block_on(variant.start(&config, &environment(), program)) {
                Ok(started) => running.push(started),
                Err(error) => println!("not measured: {}: {} ({})", variant.name(), error.message(), error.code().as_str()),
            }
        }
        Bench { runtime, running, figures: Mutex::default(), all }
    }

    /// What is measured: all of it, or the rows of the budget table.
    fn cells(&self) -> Vec<(&Running, Case, usize)> {
        let mut cells = Vec::new();
        for running in &self.running {
            for case in Case::ALL.into_iter().filter(|case| self.all || case.has_budget()) {
                for rows in grid::ROWS.into_iter().filter(|&rows| self.all || case.budget_rows().contains(&rows)) {
                    cells.push((running, case, rows));
                }
            }
        }
        cells
    }

    fn note(&self, variant: Variant, case: Case, rows: usize, change: impl FnOnce(&mut Figure)) {
        let mut figures = self.figures.lock().expect("no panic");
        let found = figures.iter().position(|figure| figure.variant == variant && figure.case == case && figure.rows == rows);
        let index = found.unwrap_or_else(|| {
            let trips = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds in order");
            figures.push(Figure { variant, case, rows, trips, best: 0.0, filled: 0.0 });
            figures.len() - 1
        });
        change(&mut figures[index]);
    }

    fn latency(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("round trip");
        group.sample_size(10).measurement_time(self.time(2.0)).warm_up_time(self.time(0.5)).sampling_mode(SamplingMode::Flat);
        for (running, case, rows) in self.cells() {
            let batch = batch(case.payload, rows);
            let id = BenchmarkId::new(format!("{}/{}", running.variant.name(), case.name()), rows);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    // In a task of the runtime, as an operator would be: the main thread would have to be woken for each answer.
                    // What waits adaptively has to learn first; and opening a session takes so much longer than a trip that a sample would be one trip.
                    let trips = count.max(if rows == 1 { TRIPS } else { 1 });
                    let times = self.in_task(running, case, batch.clone(), move |mut session, batch| async move {
                        round_trips(&mut session, &batch, 3 + trips / 4).await;
                        round_trips(&mut session, &batch, trips).await
                    });
                    let sum: Duration = times.iter().sum();
                    self.note(running.variant, case, rows, |figure| {
                        times.iter().for_each(|time| figure.trips.saturating_record(time.as_nanos() as u64));
                    });
                    sum.mul_f64(count as f64 / trips as f64)
                });
            });
        }
    }

    fn throughput(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("throughput");
        group.sample_size(10).measurement_time(self.time(3.0)).warm_up_time(self.time(0.5)).sampling_mode(SamplingMode::Flat);
        for (running, case, rows) in self.cells() {
            let batch = batch(case.payload, rows);
            let id = BenchmarkId::new(format!("{}/{}", running.variant.name(), case.name()), rows);
            group.throughput(Throughput::ElementsAndBytes { elements: rows as u64, bytes: bytes(&batch) });
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    // The whole grid has batches that take half a second.
                    let batches = count.max(if self.all { 1 } else { BATCHES });
                    let took = self.in_task(running, case, batch.clone(), move |mut session, batch| async move {
                        // The first large batches go inline, while memory for the others is made.
                        round_trips(&mut session, &batch, 8).await;
                        stream(session, batch, batches).await
                    });
                    let rate = (batches as usize * rows) as f64 / took.as_secs_f64();
                    self.note(running.variant, case, rows, |figure| figure.best = figure.best.max(rate));
                    took.mul_f64(count as f64 / batches as f64)
                });
            });
        }
    }

    /// Large batches, none of which was in any cache before its host wrote it.
    fn filled(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("filled");
        group.sample_size(10).measurement_time(self.time(3.0)).warm_up_time(self.time(0.5)).sampling_mode(SamplingMode::Flat);
        let case = Case { function: "arrow_add", payload: Payload::Numbers };
        for running in &self.running {
            let rows = grid::LARGE;
            let batch = batch(case.payload, rows);
            group.throughput(Throughput::ElementsAndBytes { elements: rows as u64, bytes: bytes(&batch) });
            group.bench_function(BenchmarkId::new(format!("{}/{}", running.variant.name(), case.name()), rows), |bencher| {
                bencher.iter_custom(|count| {
                    let batches = count.max(BATCHES);
                    let took = self.in_task(running, case, batch.clone(), move |mut session, batch| async move {
                        round_trips(&mut session, &batch, 8).await;
                        stream_filled(session, batch.schema(), rows, batches).await
                    });
                    let rate = (batches as usize * rows) as f64 / took.as_secs_f64();
                    self.note(running.variant, case, rows, |figure| figure.filled = figure.filled.max(rate));
                    took.mul_f64(count as f64 / batches as f64)
                });
            });
        }
    }

    /// Runs `work` in a task of the runtime, with a session of its own.
    fn in_task<T: Send + 'static, F: Future<Output = T> + Send>(
        &self,
        running: &Running,
        case: Case,
        batch: RecordBatch,
        work: impl FnOnce(Session, RecordBatch) -> F + Send + 'static,
    ) -> T {
        let session = self.runtime.block_on(open(running, &case, batch.schema()));
        self.runtime.block_on(self.runtime.spawn(async move { work(session, batch).await })).expect("no panic")
    }

    /// Little for each cell of the whole grid, so that it ends.
    fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(if self.all { seconds / 8.0 } else { seconds })
    }

    fn table(&self) {
        println!("\n{:<58} {:>8} {:>10} {:>10} {:>10} {:>12} {:>10}", "", "rows", "p50 µs", "p99 µs", "p99.9 µs", "Mrows/s", "MB/s");
        for Figure { variant, case, rows, trips, best, .. } in self.figures.lock().expect("no panic").iter() {
            let us = |quantile: f64| trips.value_at_quantile(quantile) as f64 / 1e3;
            let megabytes = best * bytes(&batch(case.payload, *rows)) as f64 / *rows as f64 / 1e6;
            let name = format!("{}/{}", variant.name(), case.name());
            println!(
                "{name:<58} {rows:>8} {:>10.0} {:>10.0} {:>10.0} {:>12.3} {megabytes:>10.0}",
                us(0.5),
                us(0.99),
                us(0.999),
                best / 1e6
            );
        }
    }

    /// The design's budget rows, as far as they were measured. Whether a wait spins or sleeps is the configuration's business.
    fn budgets(&self) {
        let figures = self.figures.lock().expect("no panic");
        let find = |variant: Variant, function: &str, rows: usize| {
            figures.iter().find(|figure| figure.variant == variant && figure.case.function == function && figure.rows == rows)
        };
        println!("\n{:<64} {:>16} {:>16}", "budget row", "must reach", "measured");
        for running in &self.running {
            let variant = running.variant;
            let (latency, rate) = budget(variant);
            if let Some(figure) = find(variant, "identity", 1).filter(|figure| !figure.trips.is_empty()) {
                let p50 = figure.trips.value_at_quantile(0.5) as f64 / 1e3;
                println!("{:<64} {latency:>13.0} µs {p50:>13.0} µs", format!("1 row, arrow function, p50: {}", variant.name()));
            }
            if let Some(figure) = find(variant, "arrow_add", grid::LARGE).filter(|figure| figure.best > 0.0) {
                let name = format!("2 × int64 added, 100,000-row batches, best: {}", variant.name());
                println!("{name:<64} {rate:>9.0} Mrows/s {:>8.1} Mrows/s", figure.best / 1e6);
            }
            if let Some((rate, figure)) =
                filled_budget(variant).zip(find(variant, "arrow_add", grid::LARGE)).filter(|(_, f)| f.filled > 0.0)
            {
                let name = format!("the same, every slot filled by the host: {}", variant.name());
                println!("{name:<64} {rate:>9.0} Mrows/s {:>8.1} Mrows/s", figure.filled / 1e6);
            }
        }
        println!("a copy of the same bytes in this run: {:.1} Mrows/s", memcpy_rate() / 1e6);
    }
}

/// Microseconds of one row, and million rows per second of batches that stay in the caches. Waits spin unless the variant says otherwise.
fn budget(variant: Variant) -> (f64, f64) {
    let (latency, rate) = match (variant.mode, variant.transport) {
        (Mode::Thread, Transport::Asleep) => (100.0, 1000.0),
        // A worker's thread that looks out for work.
        (Mode::Thread, _) => (30.0, 1000.0),
        (_, Transport::Asleep) => (150.0, 200.0),
        (_, Transport::Inline) => (200.0, 30.0),
        _ => (40.0, 200.0),
    };
    match (variant.door, variant.transport) {
        (Door::Embedded, _) => (latency, rate),
        (Door::Connect, Transport::Inline) => (latency + 120.0, rate / 2.0),
        // No copy more than embedded; to thread mode the batch crosses once, as it does to a process.
        (Door::Connect, _) => (latency + 120.0, 200.0),
    }
}

/// Million rows per second of batches that are new each time.
fn filled_budget(variant: Variant) -> Option<f64> {
    match (variant.mode, variant.transport, variant.door) {
        (Mode::Thread, _, Door::Embedded) => Some(400.0),
        (Mode::Process, Transport::Shm, _) => Some(150.0),
        _ => None,
    }
}

fn main() {
    let all = std::env::var("PILLION_BENCH").is_ok_and(|part| part == "all");
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let bench = Bench::new(runtime, all);
    // Plots take longer than the measurements of the grid.
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    bench.latency(&mut criterion);
    bench.throughput(&mut criterion);
    bench.filled(&mut criterion);
    criterion.final_summary();
    bench.table();
    bench.budgets();
    let Bench { runtime, running, .. } = bench;
    running.into_iter().for_each(|running| runtime.block_on(running.stop()));
}
