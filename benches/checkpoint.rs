//! How long a checkpoint of a GiB keeps input waiting: at the barrier, and while it is written. A table beside the design's budget; a part of `make bench`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on has nothing to say")]
#![allow(dead_code, reason = "of what benchmarks share this uses a part")]
#[path = "support/grid.rs"]
mod grid;
#[path = "support/stateful.rs"]
mod stateful;
#[path = "../src/cli/bench/variant.rs"]
mod variant;

use pillion::{Config, Event, Store, config::PoolConfig};
use stateful::{Open, each_once};
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tokio::{runtime::Builder, time::Instant};
use variant::{Door, Mode, Running, Transport, Variant};

const VARIANT: Variant = Variant { mode: Mode::Process, transport: Transport::Shm, door: Door::Embedded };

fn main() {
    // `cargo test --benches` only wants to know whether it runs; a filter is for other benchmarks.
    if std::env::args().skip(1).any(|argument| argument == "--test" || !argument.starts_with('-')) {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let folder = TempDir::new().expect("a folder");
    let mut config = Config { pool: PoolConfig { max: 1, ..Default::default() }, ..Default::default() };
    config.state.checkpoints = Some(folder.path().join("checkpoints").display().to_string());
    match runtime.block_on(VARIANT.start(&config, &grid::environment(), Path::new(""))) {
        Ok(running) => {
            runtime.block_on(measure(&running));
            runtime.block_on(running.stop());
        }
        Err(error) => println!("not measured: {} ({})", error.message(), error.code().as_str()),
    }
}

async fn measure(running: &Running) {
    let mut open = Open::new(running, "Blobs", Store::Memory).await;
    open = open.send((0..100).map(|part| each_once(part * 10_000, 10_000, || 0)).collect()).await.0;
    let small = |at: usize| vec![each_once(at * 100, 100, || 0)];
    let mut alone = Vec::new();
    for at in 0..50 {
        let (after, took) = open.send(small(at)).await;
        open = after;
        alone.push(took.wall);
    }
    alone.sort_unstable();
    let usual = alone[alone.len() / 2];
    println!("\n{:<96} {:>12} {:>12}", "checkpoint of 1 GiB of state in memory", "must be", "measured");
    for (id, what) in [(1, "whole"), (2, "what has changed since")] {
        let begun = Instant::now();
        open.input.barrier(id).await.expect("sent");
        let (mut pause, mut slowest, mut done) = (None, Duration::ZERO, None);
        while done.is_none() {
            let sent = Instant::now();
            open.input.send(small(id as usize).remove(0)).await.expect("sent");
            loop {
                match open.output.next().await.expect("answered").expect("no failure") {
                    Event::Sealed { .. } => break,
                    Event::Checkpointed { result, .. } => done = Some(result.expect("written")),
                    _ => {}
                }
            }
            // The first batch behind the barrier waits for it; the others compete with the one that writes.
            match pause {
                None => pause = Some(begun.elapsed().saturating_sub(usual)),
                Some(_) => slowest = slowest.max(sent.elapsed()),
            }
        }
        let done = done.expect("is there");
        let pause = ms_of(pause.unwrap_or_default());
        println!("{:<96} {:>12} {pause:>9.1} ms", format!("{what}: input stops for, beyond an open bundle's time"), "100 ms");
        let written = done.new_bytes >> 20;
        let name = format!("{what}: {written} of {} MiB written in; the slowest batch of 100 rows meanwhile", done.bytes >> 20);
        println!("{name:<96} {:>9.0} ms {:>9.1} ms", ms_of(done.took), ms_of(slowest));
    }
    println!("{:<96} {:>12} {:>9.1} ms", "a batch of 100 rows while none is taken", "", ms_of(usual));
}

fn ms_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
