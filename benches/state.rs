//! The stores of state and timers alone, without workers: what a bundle of 100,000 rows costs in a store, how long a barrier takes, how much memory an entry and a timer take.
//!
//! `cargo bench --bench state`; with `PILLION_BENCH=all` the state at the barrier is 1 GB. On a busy machine `PILLION_BENCH_TIME=cpu` counts the time of the measuring thread on its
//! processor instead of time on the wall.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use arrow_array::{ArrayRef, BinaryArray, Int64Array};
use arrow_schema::DataType;
use criterion::{
    BatchSize, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use futures_util::FutureExt;
use pillion::{
    state::{
        Addresses, Cell, Cells, Commit, Entries, Get, Op, Prefetch, StateBackend, Writes, codec,
        disk::{Disk, DiskOptions},
        encoding::{Groups, KeyEncoder},
        memory::Memory,
    },
    timer::{Domain, DueOrder, DueRequest, TimerOp, TimerWrites},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const GROUPS: u16 = 128;
const ROWS: usize = 100_000;

fn cells() -> Cells {
    Cells::new(vec![Cell::value("count", DataType::Int64)]).unwrap()
}

fn encoder() -> KeyEncoder {
    KeyEncoder::new(vec![("key".into(), DataType::Int64)], false).unwrap()
}

/// Keys in an order that has nothing to do with that of the store.
fn keys(rows: usize, of: i64, seed: i64) -> ArrayRef {
    let mixed = |i: usize| (i as i64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64).rotate_left(29).rem_euclid(of);
    Arc::new(Int64Array::from_iter_values((0..rows).map(mixed)))
}

fn addresses(column: ArrayRef) -> Arc<Addresses> {
    let distinct = encoder().distinct(&[column], Groups::Computed(GROUPS)).unwrap();
    Arc::new(Addresses::new(distinct.groups, distinct.keys, None).unwrap())
}

/// Distinct keys `from..to`.
fn all(from: i64, to: i64) -> Arc<Addresses> {
    addresses(Arc::new(Int64Array::from_iter_values(from..to)))
}

fn get(store: &dyn StateBackend, addresses: &Arc<Addresses>) -> BinaryArray {
    let get = Get { cells: vec![0], addresses: Arc::clone(addresses), now_ms: 0, prefetch: Prefetch::default() };
    match store.get(&get).now_or_never().unwrap().unwrap().remove(0) {
        Entries::Values(values) => values,
        _ => unreachable!("the cell is a value"),
    }
}

fn put(store: &dyn StateBackend, seq: u64, addresses: &Arc<Addresses>, values: BinaryArray) {
    let rows = addresses.len();
    let writes = Writes { cell: 0, at: (0..rows as u32).collect(), ops: vec![Op::Put; rows], map_keys: None, values };
    let commit = Commit { seq, addresses: Arc::clone(addresses), writes: vec![writes], timers: TimerWrites::default(), now_ms: 0 };
    store.apply(&commit).now_or_never().unwrap().unwrap();
}

fn longs(rows: usize) -> BinaryArray {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    codec::encode(&cells()[0], &column, codec::Nulls::Absent).unwrap()
}

fn fill(store: &dyn StateBackend, count: i64) {
    for from in (0..count).step_by(ROWS) {
        let part = all(from, count.min(from + ROWS as i64));
        put(store, 1, &part, longs(part.len()));
    }
}

fn memory() -> Memory {
    Memory::new(cells(), GROUPS, None).unwrap()
}

fn reads_and_writes(c: &mut Criterion<Clock>) {
    let scratch = tempfile::tempdir().unwrap();
    let disk = |cache: u64| Disk::new(cells(), GROUPS, &DiskOptions { cache_bytes: cache, ..DiskOptions::new(scratch.path()) }).unwrap();
    let stores: [(&str, Arc<dyn StateBackend>); 3] =
        [("memory", Arc::new(memory())), ("disk", Arc::new(disk(256 << 20))), ("disk, cache of 16 MiB", Arc::new(disk(16 << 20)))];
    for (name, store) in stores {
        for count in [10_000, 1_000_000] {
            fill(&*store, count);
            if count == 1_000_000 {
                eprintln!("{name}: {} bytes of memory per entry", store.sizes().memory_bytes / 1_000_000);
            }
            let batches: Vec<Arc<Addresses>> = (0..8).map(|seed| addresses(keys(ROWS, count, seed * 7_777_777))).collect();
            let mut group =
                c.benchmark_group(format!("{name}, {count} keys, a batch of {ROWS} rows with {} distinct keys", batches[0].len()));
            group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
            let mut next = batches.iter().cycle();
            let mut batch = || next.next().unwrap();
            group.bench_function("get", |b| b.iter_batched(&mut batch, |batch| get(&*store, batch), BatchSize::PerIteration));
            let mut seq = 1;
            let mut bundle = || {
                seq += 1;
                let batch = batch();
                (seq, batch, longs(batch.len()))
            };
            group.bench_function("apply", |b| {
                b.iter_batched(&mut bundle, |(seq, batch, values)| put(&*store, seq, batch, values), BatchSize::PerIteration)
            });
            group.bench_function("get and apply", |b| {
                b.iter_batched(
                    &mut bundle,
                    |(seq, batch, values)| {
                        get(&*store, batch);
                        put(&*store, seq, batch, values);
                    },
                    BatchSize::PerIteration,
                );
            });
            group.finish();
        }
    }
}

fn encodings(c: &mut Criterion<Clock>) {
    let mut group = c.benchmark_group(format!("{ROWS} rows"));
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);
    let texts: ArrayRef = Arc::new(arrow_array::StringArray::from_iter_values((0..ROWS).map(|i| format!("user-{}", i * 7919 % 10_000))));
    for (name, column) in [
        ("int64, 10,000 distinct", keys(ROWS, 10_000, 0)),
        ("int64, nearly all distinct", keys(ROWS, 1_000_000, 0)),
        ("utf8, 10,000 distinct", texts),
    ] {
        let encoder = KeyEncoder::new(vec![("key".into(), column.data_type().clone())], false).unwrap();
        let columns = [column];
        group
            .bench_function(format!("distinct keys, {name}"), |b| b.iter(|| encoder.distinct(&columns, Groups::Computed(GROUPS)).unwrap()));
    }
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let cell = &cells()[0];
    group.bench_function("int64 values to bytes", |b| b.iter(|| codec::encode(cell, &column, codec::Nulls::Absent).unwrap()));
    let stored = longs(ROWS);
    group.bench_function("int64 values from bytes", |b| b.iter(|| codec::decode(cell, &stored).unwrap()));
    group.finish();
}

/// Sets one timer for each address.
fn set_timers(store: &dyn StateBackend, addresses: &Arc<Addresses>, from: usize) {
    let mut timers = TimerWrites::default();
    for row in 0..addresses.len() {
        timers.push(row as u32, Domain::EventTime, TimerOp::Set, ((from + row) * 7919 % 1_000_003) as i64).unwrap();
    }
    store.apply(&Commit { seq: 1, addresses: Arc::clone(addresses), writes: vec![], timers, now_ms: 0 }).now_or_never().unwrap().unwrap();
}

/// Fires all timers in bundles: what is due, then the commit that deletes it.
fn fire_all(store: &dyn StateBackend) -> usize {
    let mut fired = 0;
    loop {
        let request = DueRequest {
            domain: Domain::EventTime,
            groups: (0..GROUPS).collect(),
            up_to_ms: i64::MAX,
            limit: ROWS,
            order: DueOrder::PerKey,
        };
        let due = store.due(&request).now_or_never().unwrap().unwrap();
        if due.is_empty() {
            return fired;
        }
        fired += due.len();
        let rows = due.len();
        let timers = TimerWrites {
            at: (0..rows as u32).collect(),
            domains: vec![Domain::EventTime; rows],
            ops: vec![TimerOp::Delete; rows],
            names: None,
            timestamps: due.timestamps,
        };
        let addresses = Arc::new(Addresses::new(due.groups, due.keys, Some(due.namespaces)).unwrap());
        store.apply(&Commit { seq: 1, addresses, writes: vec![], timers, now_ms: 0 }).now_or_never().unwrap().unwrap();
    }
}

fn timers(c: &mut Criterion<Clock>) {
    let scratch = tempfile::tempdir().unwrap();
    const COUNT: usize = 1_000_000;
    let parts: Vec<Arc<Addresses>> = (0..10).map(|part| all(part * 100_000, (part + 1) * 100_000)).collect();
    let stores: [(&str, Arc<dyn StateBackend>); 2] =
        [("memory", Arc::new(memory())), ("disk", Arc::new(Disk::new(cells(), GROUPS, &DiskOptions::new(scratch.path())).unwrap()))];
    for (name, store) in stores {
        let set_all = || parts.iter().enumerate().for_each(|(part, addresses)| set_timers(&*store, addresses, part * 100_000));
        let empty = store.sizes().memory_bytes;
        set_all();
        eprintln!("{name}: {} bytes of memory per timer", (store.sizes().memory_bytes - empty) / COUNT as u64);
        assert_eq!(fire_all(&*store), COUNT);
        let mut group = c.benchmark_group(format!("{name}, {COUNT} timers pending"));
        group.throughput(Throughput::Elements(COUNT as u64)).sample_size(10);
        group.bench_function("set", |b| b.iter_batched(|| fire_all(&*store), |_| set_all(), BatchSize::PerIteration));
        group.bench_function("fire", |b| b.iter_batched(set_all, |()| fire_all(&*store), BatchSize::PerIteration));
        group.finish();
    }
}

/// How long a view takes that shares 1,000,000 entries (of 1,000 bytes, with `PILLION_BENCH=all`), and what it costs the next commit.
fn barrier(c: &mut Criterion<Clock>) {
    let long = std::env::var("PILLION_BENCH").is_ok_and(|bench| bench == "all");
    let store = Memory::new(Cells::new(vec![Cell::value("count", DataType::Binary)]).unwrap(), GROUPS, None).unwrap();
    let value = vec![7u8; if long { 1000 } else { 100 }];
    for from in (0..1_000_000).step_by(ROWS) {
        let part = all(from, from + ROWS as i64);
        put(&store, 1, &part, BinaryArray::from_iter_values(std::iter::repeat_n(&value, part.len())));
    }
    eprintln!("a barrier over {} MB of state", store.sizes().memory_bytes / 1_000_000);
    let groups: Vec<u16> = (0..GROUPS).collect();
    let mut group = c.benchmark_group("barrier");
    group.sample_size(20);
    group.bench_function("view", |b| b.iter(|| store.view(&groups, 0).unwrap()));
    let batch = addresses(keys(ROWS, 1_000_000, 3));
    let values = BinaryArray::from_iter_values(std::iter::repeat_n(&value, batch.len()));
    group.bench_function("the first apply after it", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for seq in 0..times {
                let view = store.view(&groups, 0).unwrap();
                let values = values.clone();
                let started = Clock.start();
                put(&store, seq, &batch, values);
                spent += Clock.end(started);
                drop(view);
            }
            spent
        });
    });
    group.finish();
}

/// Time on the wall, or of this thread on its processor.
struct Clock;

impl Clock {
    fn now() -> Duration {
        if std::env::var("PILLION_BENCH_TIME").is_ok_and(|time| time == "cpu") {
            let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            Duration::from_nanos(spent.split(' ').next().unwrap().parse().unwrap())
        } else {
            static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
            BEGIN.get_or_init(Instant::now).elapsed()
        }
    }
}

impl Measurement for Clock {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Clock::now()
    }

    fn end(&self, start: Duration) -> Duration {
        // The processor's clock may stand still over a short measurement.
        (Clock::now() - start).max(Duration::from_nanos(1))
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        static WALL: WallTime = WallTime;
        WALL.formatter()
    }
}

fn measured() -> Criterion<Clock> {
    Criterion::default().with_measurement(Clock)
}

criterion_group! {
    name = benches;
    config = measured();
    targets = encodings, reads_and_writes, timers, barrier
}
criterion_main!(benches);
