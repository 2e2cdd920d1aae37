//! What the benchmarks of keyed sessions share: batches, and a session that tells where the time went.

use crate::variant::Running;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{
    Event, FunctionRef, KeyedOptions, Plan, Session, Store,
    host::{SessionInput, SessionOutput},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Numbers that are the same in every run (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end) as i64
    }
}

pub fn batch(keys: impl Iterator<Item = i64>, times: impl Iterator<Item = i64>) -> RecordBatch {
    let keys = Int64Array::from_iter_values(keys);
    let values = Int64Array::from_iter_values((0..keys.len() as i64).map(|row| row % 100));
    let columns: [(&str, ArrayRef); 3] =
        [("key", Arc::new(keys)), ("value", Arc::new(values)), ("time", Arc::new(Int64Array::from_iter_values(times)))];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// A batch in which each key from `from` on comes once; `time` gives the time of each.
pub fn each_once(from: usize, rows: usize, mut time: impl FnMut() -> i64) -> RecordBatch {
    batch((from..from + rows).map(|key| key as i64), (0..rows).map(|_| time()))
}

/// An open session.
pub struct Open {
    pub input: SessionInput,
    pub output: SessionOutput,
}

/// What was measured of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub wall: Duration,
    /// Of the engine's process, the host included: of a worker in thread mode too.
    pub cpu: Duration,
    pub rows_out: usize,
    /// Summed over bundles, which overlap: reading and writing state; in the worker's conversions; in the function; on the way.
    pub state_ns: u64,
    pub convert_ns: u64,
    pub user_ns: u64,
    pub wire_ns: u64,
}

impl Took {
    pub fn add(&mut self, other: Took) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.rows_out += other.rows_out;
        self.state_ns += other.state_ns;
        self.convert_ns += other.convert_ns;
        self.user_ns += other.user_ns;
        self.wire_ns += other.wire_ns;
    }
}

impl Open {
    pub async fn new(running: &Running, function: &str, store: Store) -> Open {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/stateful.py");
        let plan = Plan::map(FunctionRef::file(file, function));
        let keyed = KeyedOptions { store, ..KeyedOptions::by(["key"]).event_time("time") };
        let schema = each_once(0, 0, || 0).schema();
        let opened = running.pillion.session(plan).environment(running.environment.clone()).input(schema).keyed(keyed).open().await;
        let (input, output) = opened.map(Session::split).unwrap_or_else(|error| panic!("`{function}` does not open: {error:?}"));
        Open { input, output }
    }

    /// Takes what comes until so many inputs have taken effect.
    pub async fn until(output: &mut SessionOutput, mut inputs: usize) -> Took {
        let (begun, cpu, mut took) = (Instant::now(), cpu_time(), Took::default());
        loop {
            match output.next().await.expect("answered").expect("no failure") {
                Event::Output(result) => {
                    took.rows_out += result.batch.num_rows();
                    took.state_ns += result.timing.state_ns;
                    took.convert_ns += result.timing.convert_ns;
                    took.user_ns += result.timing.user_ns;
                    took.wire_ns += result.timing.wire_ns;
                }
                _ => inputs -= 1,
            }
            if inputs == 0 {
                took.wall = begun.elapsed();
                took.cpu = cpu_time().saturating_sub(cpu);
                return took;
            }
        }
    }

    /// Sends batches as fast as credit allows, and takes what comes meanwhile.
    pub async fn send(self, batches: Vec<RecordBatch>) -> (Open, Took) {
        let Open { mut input, mut output } = self;
        let inputs = batches.len();
        let sender = tokio::spawn(async move {
            for batch in batches {
                input.send(batch).await.expect("sent");
            }
            input
        });
        let took = Open::until(&mut output, inputs).await;
        (Open { input: sender.await.expect("the sender ends"), output }, took)
    }

    /// Event time goes on, and timers fire.
    pub async fn watermark(mut self, timestamp_ms: i64) -> (Open, Took) {
        self.input.watermark(timestamp_ms).await.expect("sent");
        let took = Open::until(&mut self.output, 1).await;
        (self, took)
    }
}

/// What the threads of this process have had of its processors so far.
pub fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // A thread may end meanwhile.
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    Duration::from_nanos(spent.filter_map(|spent| spent.split(' ').next()?.parse::<u64>().ok()).sum())
}
