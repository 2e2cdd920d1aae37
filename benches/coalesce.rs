//! What coalescing gains where batches are small: one row each, in process mode, embedded, with a function that works row by row.
//!
//! `cargo bench --bench coalesce`. Two figures for each `max_delay`: rows per second as fast as they are taken, and the latency (p50, p99) at 10,000 rows a second that come
//! evenly, with what of that rate was reached.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to say")]

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{Config, FunctionRef, Pillion, Plan, SessionOptions, config::PoolConfig};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Batches of a measurement.
const COUNT: usize = 30_000;

/// Batches a second that come evenly.
const RATE: f64 = 10_000.0;

fn row(value: usize) -> RecordBatch {
    RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![value as i64])) as ArrayRef)]).unwrap()
}

/// Sends `COUNT` batches, at a rate or as they are taken; gives the seconds it took and the latencies in milliseconds, sorted.
async fn stream(pillion: &Pillion, max_delay: Option<Duration>, rate: Option<f64>) -> (f64, Vec<f64>) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/soak.py");
    let plan = Plan::scalar(FunctionRef::file(file, "mix"), vec![0], "r");
    let options = SessionOptions { max_delay, ..Default::default() };
    let (mut input, mut output) = pillion.session(plan).input(row(0).schema()).options(options).open().await.unwrap().split();
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        let mut due = Vec::with_capacity(COUNT);
        for at in 0..COUNT {
            // Latency counts from when a row was due, also if the sender is late.
            let mut when = begun.elapsed();
            if let Some(rate) = rate {
                when = Duration::from_secs_f64(at as f64 / rate);
                while begun.elapsed() < when {
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            }
            due.push(when);
            input.send(row(at)).await.unwrap();
        }
        input.finish().await.unwrap();
        due
    });
    let mut answered = Vec::with_capacity(COUNT);
    while let Some(answer) = output.recv().await {
        answer.unwrap();
        answered.push(begun.elapsed());
    }
    let due = sending.await.unwrap();
    let mut latencies: Vec<_> =
        answered.iter().zip(&due).map(|(answered, due)| (answered.saturating_sub(*due)).as_secs_f64() * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    (begun.elapsed().as_secs_f64(), latencies)
}

#[tokio::main]
async fn main() {
    let pillion = Pillion::embedded(Config { pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() }).await.unwrap();
    println!("{:>10}  {:>12}  {:>12}  {:>9}  {:>9}", "max_delay", "most rows/s", "at 10,000/s", "p50 ms", "p99 ms");
    for delay in [None, Some(0), Some(1), Some(5)] {
        let max_delay = delay.map(Duration::from_millis);
        let (seconds, _) = stream(&pillion, max_delay, None).await;
        let (paced, latencies) = stream(&pillion, max_delay, Some(RATE)).await;
        let [p50, p99] = [0.50, 0.99].map(|part| latencies[(COUNT as f64 * part) as usize]);
        let name = delay.map_or("none".to_owned(), |delay| format!("{delay} ms"));
        println!("{name:>10}  {:>12.0}  {:>12.0}  {p50:>9.2}  {p99:>9.2}", COUNT as f64 / seconds, COUNT as f64 / paced);
    }
    pillion.shutdown().await;
}
