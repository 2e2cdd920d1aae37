//! Streams millions of rows through a session whose function, or whose consumer, is slower than the producer, and shows that memory stays flat.
//!
//! ```text
//! cargo run --release --example flat_memory -- --slow function --rows 200000000
//! cargo run --release --example flat_memory -- --slow consumer --rows 200000000
//! ```
//!
//! The sidecar is a `pillion serve` of its own beside this host (`--pillion`, default `target/release/pillion`), so that the resident memory of both
//! can be told apart. Exits with 1 if memory grew after the first tenth of the rows. The function needs pyarrow, which Pillion installs.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use clap::{Parser, ValueEnum};
use pillion::host::{SessionInput, SessionOutput};
use pillion::{EnvironmentSpec, FunctionRef, Pillion, Plan, SessionOptions};

/// Doubles a column and takes its time: `DELAY` seconds per batch.
const FUNCTION: &str = r#"
import os
import time

import pyarrow.compute as pc

from pillion import udf

DELAY = float(os.environ["DELAY"])


@udf(result_type="bigint", func_type="arrow")
def double(x):
    time.sleep(DELAY)
    return pc.multiply(x, 2)
"#;

const MIB: u64 = 1 << 20;
/// Growth that is no growth: allocators keep some of what they are given.
const TOLERATED: u64 = 48 * MIB;

/// Shows that memory stays flat while rows stream through a session.
#[derive(Parser)]
struct Args {
    /// Who is slower than the producer
    #[arg(long, value_enum)]
    slow: Slow,
    /// Rows to stream
    #[arg(long, default_value_t = 200_000_000)]
    rows: u64,
    /// Rows per batch
    #[arg(long, default_value_t = 100_000)]
    batch_rows: u64,
    /// How long the slow one takes per batch, in milliseconds
    #[arg(long, default_value_t = 10)]
    delay: u64,
    /// Workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// The sidecar's binary
    #[arg(long, default_value = "target/release/pillion")]
    pillion: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Slow {
    Function,
    Consumer,
}

/// A sidecar that ends with this value.
struct Sidecar {
    process: Child,
    endpoint: String,
}

impl Sidecar {
    fn start(binary: &Path, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let listen = format!("unix:{}", folder.join("pillion.sock").display());
        let mut process = Command::new(binary).args(["serve", "--log", "warn", "--listen", &listen]).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("the sidecar has no standard output")?;
        let mut sidecar = Self { process, endpoint: String::new() };
        // It says so when it listens.
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let endpoint = line.trim().strip_prefix("listening on ").ok_or("the sidecar did not start")?;
        endpoint.clone_into(&mut sidecar.endpoint);
        Ok(sidecar)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Its workers end when it does. That it has ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("double.py");
    std::fs::write(&file, FUNCTION)?;
    let sidecar = Sidecar::start(&args.pillion, folder.path())?;

    let delay = if args.slow == Slow::Function { args.delay } else { 0 };
    let environment = EnvironmentSpec {
        requirements: vec!["pyarrow>=14".into()],
        variables: BTreeMap::from([("DELAY".into(), (delay as f64 / 1000.0).to_string())]),
        ..EnvironmentSpec::default()
    };
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
    let plan = Plan::scalar(FunctionRef::file(&file, "double"), vec![0], "doubled");
    let options = SessionOptions { max_workers: Some(args.workers), ..SessionOptions::default() };
    let pillion = Pillion::connect(&sidecar.endpoint).await?;
    let session = pillion.session(plan).environment(environment).input(schema.clone()).options(options).open().await?;

    let (input, output) = session.split();
    let producer = tokio::spawn(produce(input, schema, args.rows, args.batch_rows));
    let flat = consume(output, &args, sidecar.process.id()).await?;
    producer.await??;
    Ok(if flat { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends batches as fast as the session takes them.
async fn produce(mut input: SessionInput, schema: SchemaRef, rows: u64, batch_rows: u64) -> pillion::Result<()> {
    for start in (0..rows).step_by(batch_rows as usize) {
        let end = (start + batch_rows).min(rows);
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(start as i64..end as i64));
        let batch = RecordBatch::try_new(schema.clone(), vec![column])
            .map_err(|error| pillion::Error::new(pillion::Code::SchemaMismatch, error.to_string()))?;
        input.send(batch).await?;
    }
    input.finish().await
}

/// Receives and checks every result, and watches the memory of both processes; true if it stayed flat.
async fn consume(mut output: SessionOutput, args: &Args, sidecar: u32) -> Result<bool, Box<dyn Error>> {
    let started = Instant::now();
    let mut shown = Instant::now();
    let mut rows = 0;
    let mut memory = [Memory::of(std::process::id()), Memory::of(sidecar)];
    println!("{:>13}  {:>9}  {:>11}  {:>11}", "rows", "seconds", "host MiB", "sidecar MiB");
    while let Some(result) = output.recv().await {
        let batch = result?.batch;
        let values = batch.column(0).as_any().downcast_ref::<Int64Array>().ok_or("the result is no bigint")?;
        for (index, value) in values.values().iter().enumerate() {
            if *value != 2 * (rows as i64 + index as i64) {
                return Err(format!("row {} is wrong: {value}", rows + index as u64).into());
            }
        }
        rows += batch.num_rows() as u64;
        if args.slow == Slow::Consumer {
            tokio::time::sleep(Duration::from_millis(args.delay)).await;
        }
        let warm = rows * 10 >= args.rows;
        for memory in &mut memory {
            memory.sample(warm)?;
        }
        if shown.elapsed() >= Duration::from_secs(1) || rows == args.rows {
            shown = Instant::now();
            let [host, sidecar] = memory.each_ref().map(|memory| memory.now / MIB);
            println!("{rows:>13}  {:>9.1}  {host:>11}  {sidecar:>11}", started.elapsed().as_secs_f64());
        }
    }
    if rows != args.rows {
        return Err(format!("{} rows were sent, but {rows} came back", args.rows).into());
    }
    let mut flat = true;
    for (name, memory) in ["host", "sidecar"].iter().zip(&memory) {
        flat &= memory.is_flat();
        let verdict = if memory.is_flat() { "flat" } else { "NOT FLAT" };
        println!("{name}: {} MiB at the first tenth, {} MiB at most after it: {verdict}", memory.warm / MIB, memory.most / MIB);
    }
    Ok(flat)
}

/// The resident memory of a process over time, in bytes.
struct Memory {
    pid: u32,
    now: u64,
    /// The most until a tenth of the rows had come back.
    warm: u64,
    /// The most after that.
    most: u64,
}

impl Memory {
    fn of(pid: u32) -> Self {
        Self { pid, now: 0, warm: 0, most: 0 }
    }

    fn sample(&mut self, warm: bool) -> Result<(), Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        self.now = line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024;
        let most = if warm { &mut self.most } else { &mut self.warm };
        *most = self.now.max(*most);
        Ok(())
    }

    fn is_flat(&self) -> bool {
        self.most <= self.warm + self.warm / 4 + TOLERATED
    }
}
