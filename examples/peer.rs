//! Pillion in the comparison with other engines: the side of `benches/peers/run.py`, which says what it asks and what is answered.
//!
//! `cargo run --release --example peer -- "process inline, embedded" path/to/pillion path/to/python`

#[path = "../src/cli/bench/variant.rs"]
mod variant;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type};
use pillion::{Config, EnvironmentSpec, FunctionRef, Plan, Session, config::PoolConfig, host::SessionOutput};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    error::Error,
    io::{BufRead, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use variant::Running;

/// As in `benches/peers/common.py`.
const PERIOD: usize = 1_000_000;
const BATCH: usize = 100_000;
/// Round trips before those that are counted.
const WARM: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Request {
    Hello,
    Run { work: Work, rows: usize },
    Values { work: Work, rows: usize },
    Latency { work: Work, count: usize, rate: f64 },
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Work {
    Add,
    Json,
}

/// One period of the input.
fn whole(work: Work) -> Result<RecordBatch> {
    let texts = || {
        StringArray::from_iter_values(
            (0..PERIOD)
                .map(|a| format!(r#"{{"id": {a}, "customer": {{"name": "somebody {a}", "city": "Springfield"}}, "tags": ["a", "b"]}}"#)),
        )
    };
    let numbers = |of: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((0..PERIOD as i64).map(of))) as ArrayRef;
    Ok(match work {
        Work::Add => RecordBatch::try_from_iter([("a", numbers(|a| a)), ("b", numbers(|a| 1_000_000 - 7 * a))])?,
        Work::Json => RecordBatch::try_from_iter([("text", Arc::new(texts()) as ArrayRef)])?,
    })
}

/// `rows` rows as batches, from one period.
fn batches(whole: &RecordBatch, rows: usize) -> impl Iterator<Item = RecordBatch> + use<> {
    let parts: Vec<_> = (0..PERIOD / BATCH).map(|part| whole.slice(part * BATCH, BATCH)).collect();
    let number = rows.div_ceil(BATCH);
    (0..number).map(move |index| {
        let part = &parts[index % parts.len()];
        part.slice(0, BATCH.min(rows - index * BATCH))
    })
}

/// The figure of a result column: the sum of its values or of their lengths.
fn check(column: &dyn Array) -> i64 {
    match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => numbers.values().iter().fold(0i64, |sum, value| sum.wrapping_add(*value)),
        None => {
            let texts = column.as_string::<i32>();
            // All of them are ASCII.
            i64::from(texts.value_offsets()[texts.len()] - texts.value_offsets()[0])
        }
    }
}

struct Peer {
    running: Running,
    whole: [RecordBatch; 2],
}

impl Peer {
    fn input(&self, work: Work) -> &RecordBatch {
        &self.whole[usize::from(work == Work::Json)]
    }

    async fn open(&self, work: Work) -> Result<Session> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/functions.py");
        let (name, columns) = if work == Work::Add { ("add", vec![0, 1]) } else { ("name", vec![0]) };
        let plan = Plan::scalar(FunctionRef::file(file, name), columns, "r");
        let schema = self.input(work).schema();
        Ok(self.running.pillion.session(plan).environment(self.running.environment.clone()).input(schema).open().await?)
    }

    /// Sends `rows` rows and gives every result column to `see`.
    async fn answers(&self, work: Work, rows: usize, mut see: impl FnMut(&ArrayRef)) -> Result<Duration> {
        let (mut input, mut output) = self.open(work).await?.split();
        let sent = batches(self.input(work), rows);
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            for batch in sent {
                input.send(batch).await?;
            }
            input.finish().await
        });
        while let Some(answer) = next(&mut output).await? {
            see(answer.column(0));
        }
        let took = begun.elapsed();
        sending.await??;
        Ok(took)
    }

    /// Refuses to stand for shared memory where there is none. After a run, which has sent large batches.
    async fn truly_shares(&self, session: &Session) -> Result<()> {
        match self.running.unshared(session.shares_memory(), true).await? {
            Some(why) => Err(format!("{why}: it would have been measured inline").into()),
            None => Ok(()),
        }
    }

    async fn run(&self, work: Work, rows: usize) -> Result<Value> {
        let (mut count, mut figure) = (0, 0i64);
        let took = self
            .answers(work, rows, |column| {
                count += column.len();
                figure += check(column);
            })
            .await?;
        Ok(json!({"seconds": took.as_secs_f64(), "count": count, "check": figure}))
    }

    async fn values(&self, work: Work, rows: usize) -> Result<Value> {
        let mut values = Vec::new();
        let see = |column: &ArrayRef| match column.as_primitive_opt::<Int64Type>() {
            Some(numbers) => values.extend(numbers.values().iter().map(|number| json!(number))),
            None => values.extend(column.as_string::<i32>().iter().map(|text| json!(text))),
        };
        self.answers(work, rows, see).await?;
        // Thousands of rows are some tens of kilobytes, at most.
        self.answers(work, BATCH, |_| {}).await?;
        self.truly_shares(&self.open(work).await?).await?;
        Ok(json!({ "values": values }))
    }

    /// One row after the other, at most `rate` a second.
    async fn latency(&self, work: Work, count: usize, rate: f64) -> Result<Value> {
        let row = self.input(work).slice(0, 1);
        let mut session = self.open(work).await?;
        let here = self.running.variant == variant::HERE;
        let mut took = Vec::with_capacity(count);
        let begun = Instant::now();
        for index in 0..WARM + count {
            tokio::time::sleep_until((begun + Duration::from_secs_f64(index as f64 / rate)).into()).await;
            let sent = Instant::now();
            if here {
                // The thread is this session's: nobody else is served by it meanwhile.
                tokio::task::block_in_place(|| session.call_here(row.clone()))?;
            } else {
                session.send(row.clone()).await?;
                session.recv().await.ok_or("the session ended early")??;
            }
            took.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        let note = if here { "on the caller's own thread" } else { "over one open session" };
        Ok(json!({"us": took[WARM..], "note": note}))
    }

    async fn answer(&self, line: &str) -> Result<Value> {
        match serde_json::from_str(line)? {
            Request::Hello => Ok(json!({"versions": {"pillion": env!("CARGO_PKG_VERSION")}})),
            Request::Run { work, rows } => self.run(work, rows).await,
            Request::Values { work, rows } => self.values(work, rows).await,
            Request::Latency { work, count, rate } => self.latency(work, count, rate).await,
        }
    }
}

async fn next(output: &mut SessionOutput) -> Result<Option<RecordBatch>> {
    Ok(output.recv().await.transpose()?.map(|answer| answer.batch))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, program, python] = arguments.as_slice() else { return Err("give a variant, the binary and an interpreter".into()) };
    let variant = variant::ALL
        .into_iter()
        .chain([variant::HERE])
        .find(|variant| variant.name() == *name)
        .ok_or_else(|| format!("no variant is called `{name}`"))?;
    let config = Config { pool: PoolConfig { max: 1, ..PoolConfig::default() }, ..Config::default() };
    let environment = EnvironmentSpec { preload: vec!["pyarrow.compute".into()], ..EnvironmentSpec::python(python) };
    let running = match variant.start(&config, &environment, Path::new(program)).await {
        Ok(running) => running,
        Err(error) => return say(&json!({"error": format!("{} ({})", error.message(), error.code().as_str())})),
    };
    let peer = Arc::new(Peer { running, whole: [whole(Work::Add)?, whole(Work::Json)?] });
    for line in std::io::stdin().lock().lines() {
        // In a task of the runtime, as an operator would be: the main thread would have to be woken for each answer.
        let (peer, line) = (Arc::clone(&peer), line?);
        let answer = tokio::spawn(async move { peer.answer(&line).await }).await?;
        say(&answer.unwrap_or_else(|error| json!({"error": error.to_string()})))?;
    }
    if let Ok(peer) = Arc::try_unwrap(peer) {
        peer.running.stop().await;
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}
