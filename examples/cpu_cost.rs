//! What watching costs: CPU time of an engine and its workers while nothing happens, for each call of one row, and at 100 rows a second.
//!
//! `make bench-cpu`, or `cargo run --release --example cpu_cost -- path/to/pillion [seconds]`. Prints a table in Markdown.

#[path = "../src/cli/bench/variant.rs"]
mod variant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{Config, EnvironmentSpec, FunctionRef, Plan, Session, config::PoolConfig};
use std::{
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use variant::{Door, Mode, Running, Transport, Variant};

/// Watching and asleep at once, by turns; inline and on the caller's own thread nobody ever watches.
const VARIANTS: [Variant; 7] = [
    Variant { mode: Mode::Process, transport: Transport::Shm, door: Door::Embedded },
    Variant { mode: Mode::Process, transport: Transport::Asleep, door: Door::Embedded },
    Variant { mode: Mode::Thread, transport: Transport::Auto, door: Door::Embedded },
    Variant { mode: Mode::Thread, transport: Transport::Asleep, door: Door::Embedded },
    Variant { mode: Mode::Process, transport: Transport::Inline, door: Door::Embedded },
    Variant { mode: Mode::Process, transport: Transport::Shm, door: Door::Connect },
    Variant { mode: Mode::Process, transport: Transport::Asleep, door: Door::Connect },
];

/// Calls one after the other.
const CALLS: u32 = 10_000;

/// Calls a second of the slow ones.
const RATE: f64 = 100.0;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// CPU time of this process and all below it. What has ended is not in it, and nothing ends meanwhile.
fn cpu() -> Result<Duration> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut family = vec![std::process::id()];
    let mut sum = 0.0;
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<f64> = rest.split_whitespace().skip(1).take(12).filter_map(|field| field.parse().ok()).collect();
        // Behind the state the parent comes first, user and system time are the eleventh and twelfth.
        if let [parent, .., user, system] = fields[..] {
            parents.push((pid, parent as u32, user + system));
        }
    }
    let mut known = 0;
    while known < family.len() {
        let of = family[known];
        family.extend(parents.iter().filter(|(_, parent, _)| *parent == of).map(|(pid, ..)| *pid));
        sum += parents.iter().find(|(pid, ..)| *pid == of).map_or(0.0, |(.., time)| *time);
        known += 1;
    }
    Ok(Duration::from_secs_f64(sum / ticks))
}

async fn ask(session: &mut Session, row: &RecordBatch) -> Result<Duration> {
    let begun = Instant::now();
    session.send(row.clone()).await?;
    session.recv().await.ok_or("the session ended early")??;
    Ok(begun.elapsed())
}

/// A line of the table.
async fn measure(running: Running, idle: Duration) -> Result<String> {
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let row = RecordBatch::try_from_iter([("a", column(1)), ("b", column(2))])?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/plain.py");
    let plan = Plan::scalar(FunctionRef::file(file, "add"), vec![0, 1], "r");
    let mut session = running.pillion.session(plan).environment(running.environment.clone()).input(row.schema()).open().await?;
    for _ in 0..CALLS / 10 {
        ask(&mut session, &row).await?;
    }
    let mut before = cpu()?;
    tokio::time::sleep(idle).await;
    let nothing = cpu()?.saturating_sub(before);

    before = cpu()?;
    let mut took = Vec::new();
    for _ in 0..CALLS {
        took.push(ask(&mut session, &row).await?);
    }
    let busy = cpu()?.saturating_sub(before);
    took.sort_unstable();

    before = cpu()?;
    let begun = Instant::now();
    let mut slow = Vec::new();
    while begun.elapsed() < idle {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(slow.len() as f64 / RATE)).into()).await;
        slow.push(ask(&mut session, &row).await?);
    }
    let now_and_then = cpu()?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    slow.sort_unstable();

    let us = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e6;
    let name = running.variant.name();
    drop(session);
    running.stop().await;
    Ok(format!(
        "| {name} | {:.2} s | {:.0} µs | {:.0} µs | {:.1} % | {:.0} µs |",
        nothing.as_secs_f64(),
        busy.as_secs_f64() * 1e6 / f64::from(CALLS),
        us(&took),
        now_and_then * 100.0,
        us(&slow)
    ))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = arguments.first().ok_or("give the binary")?.clone();
    let seconds = arguments.get(1).map_or(Ok(10), |text| text.parse::<u64>())?;
    println!("| | CPU time of {seconds} s idle | CPU time per call, one after the other | its p50 | CPU at {RATE:.0} calls/s | its p50 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let config = Config { pool: PoolConfig { max: 1, ..PoolConfig::default() }, ..Config::default() };
    for variant in VARIANTS {
        let running = variant.start(&config, &EnvironmentSpec::default(), Path::new(&program)).await?;
        // In a task of the runtime, as an operator would be.
        println!("{}", tokio::spawn(measure(running, Duration::from_secs(seconds))).await??);
    }
    Ok(())
}
