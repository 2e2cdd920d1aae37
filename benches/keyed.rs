//! Keyed sessions from end to end: one value cell read and written per row, and timers, by row and in columns, with one worker and the engine embedded.
//!
//! `make bench` prints what was measured beside the design's budgets. `PILLION_BENCH=all` adds smaller batches; a filter picks a part: `cargo bench --bench keyed -- "timers/process shm"`.
//! Environment: as `benches/modes.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]
#![allow(dead_code, reason = "of the grid of `modes.rs` only the environment is needed")]
#[path = "support/grid.rs"]
mod grid;
#[path = "support/stateful.rs"]
mod stateful;
#[path = "../src/cli/bench/variant.rs"]
mod variant;

use arrow_array::RecordBatch;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use pillion::{Config, Store, config::PoolConfig};
use stateful::{Dice, Open, Took, batch, each_once};
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use variant::{Door, Mode, Running, Transport, Variant};

/// Rows of the batches that fill the store, and of those with a budget.
const ROWS: usize = 100_000;

/// Batches that are made, to be sent in turn.
const MADE: usize = 16;

/// Timers that are pending when a part of them fires.
const PENDING: usize = 1_000_000;

/// Where a session keeps its state.
const STORES: [Store; 2] = [Store::Memory, Store::Disk];

const VARIANTS: [Variant; 3] = [
    Variant { mode: Mode::Process, transport: Transport::Shm, door: Door::Embedded },
    Variant { mode: Mode::Process, transport: Transport::Inline, door: Door::Embedded },
    Variant { mode: Mode::Thread, transport: Transport::Auto, door: Door::Embedded },
];

/// How a function is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    ByRow,
    Columns,
}

impl Form {
    const ALL: [Form; 2] = [Form::Columns, Form::ByRow];

    fn name(self) -> &'static str {
        match self {
            Form::ByRow => "by row",
            Form::Columns => "vectorized",
        }
    }

    /// The function in `stateful.py` of the two that do the same.
    fn of(self, columns: &'static str, by_row: &'static str) -> &'static str {
        match self {
            Form::ByRow => by_row,
            Form::Columns => columns,
        }
    }
}

/// One figure.
struct Figure {
    name: String,
    variant: Variant,
    budget: f64,
    /// Per second, of the best sample.
    best: f64,
    /// Of all samples.
    count: usize,
    took: Took,
}

struct Bench {
    runtime: Runtime,
    running: Vec<Running>,
    figures: Vec<Figure>,
    all: bool,
    /// Of stores on disk.
    _folder: TempDir,
}

impl Bench {
    fn new(runtime: Runtime, all: bool) -> Bench {
        let folder = TempDir::new().expect("a folder");
        let mut config = Config { pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() };
        config.state.dir = folder.path().join("state");
        let program = Path::new(option_env!("CARGO_BIN_EXE_pillion").unwrap_or_default());
        let mut running = Vec::new();
        for variant in VARIANTS {
            match runtime.block_on(variant.start(&config, &grid::environment(), program)) {
                Ok(started) => running.push(started),
                Err(error) => println!("not measured: {}: {} ({})", variant.name(), error.message(), error.code().as_str()),
            }
        }
        Bench { runtime, running, figures: Vec::new(), all, _folder: folder }
    }

    /// Measures `sample` over a session of its own, which `prepare` fills; both run in a task of the runtime, as an operator would.
    fn measure<P, S>(
        &mut self,
        criterion: &mut Criterion,
        cell: Cell,
        count: usize,
        prepare: impl FnOnce(Open) -> P,
        mut sample: impl FnMut(Open, u64) -> S,
    ) where
        P: Future<Output = Open> + Send + 'static,
        S: Future<Output = (Open, Took)> + Send + 'static,
    {
        let Bench { runtime, running, figures, .. } = self;
        let running = &running[cell.running];
        let mut group = criterion.benchmark_group(cell.group);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(300))
            .sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(count as u64));
        let name = format!("{}, {}, {}", cell.what, cell.form.name(), cell.store.as_str());
        let mut prepare = Some(prepare);
        let (mut open, mut figure) = (None, None::<Figure>);
        group.bench_function(BenchmarkId::new(running.variant.name(), &name), |bencher| {
            // Only what the filter lets through is prepared.
            if let Some(prepare) = prepare.take() {
                let opened = runtime.block_on(Open::new(running, cell.function, cell.store));
                open = Some(runtime.block_on(runtime.spawn(prepare(opened))).expect("no panic"));
            }
            bencher.iter_custom(|times| {
                let (opened, took) = runtime.block_on(runtime.spawn(sample(open.take().expect("is put back"), times))).expect("no panic");
                open = Some(opened);
                let all = times as usize * count;
                let figure = figure.get_or_insert_with(|| Figure {
                    name: name.clone(),
                    variant: running.variant,
                    budget: cell.budget,
                    best: 0.0,
                    count: 0,
                    took: Took::default(),
                });
                figure.best = figure.best.max(all as f64 / took.wall.as_secs_f64());
                figure.count += all;
                figure.took.add(took);
                took.wall
            });
        });
        group.finish();
        figures.extend(figure);
    }

    fn value_cells(&mut self, criterion: &mut Criterion) {
        for (running, store, form) in self.grid() {
            for keys in [10_000u64, 1_000_000] {
                let budget = match (form, keys, store) {
                    (_, 10_000, Store::Disk) => 0.0,
                    (Form::ByRow, 10_000, _) => 0.2e6,
                    (Form::Columns, 10_000, _) => 5e6,
                    (Form::Columns, _, Store::Memory) => 2e6,
                    (Form::Columns, _, Store::Disk) => 0.3e6,
                    (Form::ByRow, ..) => 0.0,
                };
                for rows in [ROWS, 10_000].into_iter().filter(|&rows| self.all || rows == ROWS && budget > 0.0).collect::<Vec<_>>() {
                    let mut dice = Dice(keys);
                    let batches: Vec<_> = (0..MADE).map(|_| batch((0..rows).map(|_| dice.below(keys)), 0..rows as i64)).collect();
                    let what = format!("value cell, {keys} keys, batches of {rows} rows");
                    let function = form.of("Sums", "Sum");
                    let budget = if rows == ROWS { budget } else { 0.0 };
                    let cell = Cell { running, group: "keyed", what, form, store, function, budget };
                    let fill = move |open: Open| async move {
                        let parts = (0..keys as usize).step_by(ROWS);
                        open.send(parts.map(|from| each_once(from, ROWS.min(keys as usize - from), || 0)).collect()).await.0
                    };
                    let sent = (ROWS / rows) * 4;
                    self.measure(criterion, cell, rows * sent, fill, move |open, times| {
                        let batches: Vec<_> = batches.iter().cycle().take(times as usize * sent).cloned().collect();
                        async move {
                            let expected = batches.len() * rows;
                            let (open, took) = open.send(batches).await;
                            assert_eq!(took.rows_out, expected, "each row gives one");
                            (open, took)
                        }
                    });
                }
            }
        }
    }

    /// A tenth of the pending timers fires, and as many are set behind them.
    fn timers(&mut self, criterion: &mut Criterion) {
        const PARTS: usize = 10;
        const PART: usize = PENDING / PARTS;
        /// The part of keys that is number `part` in time, again and again.
        fn part(part: usize, dice: &mut Dice) -> RecordBatch {
            each_once(part % PARTS * PART, PART, || (part * PART) as i64 + dice.below(PART as u64))
        }
        for (running, store, form) in self.grid().into_iter().filter(|(_, store, _)| *store == Store::Memory) {
            let budget = if form == Form::Columns { 0.5e6 } else { 0.1e6 };
            let what = format!("timers fired, {PENDING} pending");
            let cell = Cell { running, group: "timers", what, form, store, function: form.of("Wakes", "Wake"), budget };
            let (mut dice, mut next) = (Dice(1), 0);
            let all: Vec<_> = (0..PARTS).map(|at| part(at, &mut dice)).collect();
            let set_all = move |open: Open| async move { open.send(all).await.0 };
            self.measure(criterion, cell, PART, set_all, move |mut open, times| {
                let from = next;
                next += times as usize;
                let mut dice = Dice(from as u64);
                async move {
                    let mut sum = Took::default();
                    for at in from..from + times as usize {
                        let (fired, took) = open.watermark(((at + 1) * PART) as i64 - 1).await;
                        assert_eq!(took.rows_out, PART, "each timer fires once");
                        sum.add(took);
                        open = fired.send(vec![part(at + PARTS, &mut dice)]).await.0;
                    }
                    (open, sum)
                }
            });
        }
    }

    /// How the state is kept has nothing to do with how bundles cross: the disk is measured with the first variant only.
    fn grid(&self) -> Vec<(usize, Store, Form)> {
        let cells = (0..self.running.len()).flat_map(|running| STORES.map(|store| (running, store)));
        let cells = cells.filter(|(running, store)| *store == Store::Memory || *running == 0);
        cells.flat_map(|(running, store)| Form::ALL.map(|form| (running, store, form))).collect()
    }

    /// What was measured beside the budgets; and where the time of 100,000 rows or timers went, in milliseconds.
    fn table(&self) {
        println!(
            "\n{:<96} {:>12} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "budget row", "must reach", "measured", "wall", "cpu", "state", "convert", "user", "wire"
        );
        for Figure { name, variant, budget, best, count, took } in &self.figures {
            let must = if *budget > 0.0 { format!("{:.1} M/s", budget / 1e6) } else { String::new() };
            let ms = |ns: u64| ns as f64 / 1e6 * 1e5 / *count as f64;
            println!(
                "{:<96} {must:>12} {:>8.2} M/s {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                format!("{}: {name}", variant.name()),
                best / 1e6,
                ms(took.wall.as_nanos() as u64),
                ms(took.cpu.as_nanos() as u64),
                ms(took.state_ns),
                ms(took.convert_ns),
                ms(took.user_ns),
                ms(took.wire_ns)
            );
        }
    }
}

/// What is measured.
struct Cell {
    running: usize,
    group: &'static str,
    what: String,
    form: Form,
    store: Store,
    function: &'static str,
    /// Per second; 0: none.
    budget: f64,
}

fn main() {
    let all = std::env::var("PILLION_BENCH").is_ok_and(|part| part == "all");
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut bench = Bench::new(runtime, all);
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    bench.value_cells(&mut criterion);
    bench.timers(&mut criterion);
    criterion.final_summary();
    bench.table();
    let Bench { runtime, running, .. } = bench;
    running.into_iter().for_each(|running| runtime.block_on(running.stop()));
}
