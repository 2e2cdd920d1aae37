//! The host of `scripts/soak.py`: sessions that send batches of random size to a sidecar, check every answer, end, and come again.
//!
//! ```console
//! $ python scripts/soak.py --seconds 120
//! ```
//!
//! Runs until its standard input ends. Prints its totals every second, and `WRONG` for an answer that is not what it must be.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, cast::AsArray, types::Int64Type};
use arrow_schema::{DataType, Field, Schema};
use clap::Parser;
use pillion::{FunctionRef, Pillion, Plan, SessionOptions};

/// Sends batches to a sidecar until standard input ends.
#[derive(Parser)]
struct Args {
    /// The sidecar
    #[arg(long)]
    endpoint: String,
    /// The Python file with the function `mix`
    #[arg(long)]
    function: PathBuf,
    /// Sessions at a time
    #[arg(long, default_value_t = 4)]
    sessions: u64,
    /// Of the sizes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What was done, by all sessions.
#[derive(Default)]
struct Totals {
    batches: AtomicU64,
    rows: AtomicU64,
    sessions: AtomicU64,
    stop: AtomicBool,
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Mostly small, sometimes large: each power of two is as likely as the others.
    fn size(&mut self) -> u64 {
        let most = 1 << self.below(18);
        self.below(most) + 1
    }
}

/// What `mix` must give; see `examples/soak.py`.
fn mix(value: i64) -> i64 {
    value.wrapping_mul(31) ^ 0x5eed
}

fn batch(start: i64, rows: u64) -> Result<RecordBatch, Box<dyn Error + Send + Sync>> {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + rows as i64));
    Ok(RecordBatch::try_from_iter([("x", column)])?)
}

/// One session, from open to end: sends and checks some batches.
async fn session(pillion: &Pillion, args: &Args, random: &mut Random, totals: &Totals) -> Result<(), Box<dyn Error + Send + Sync>> {
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
    let plan = Plan::scalar(FunctionRef::file(&args.function, "mix"), vec![0], "mixed");
    let options = SessionOptions {
        max_delay: (random.below(2) == 0).then(|| Duration::from_millis(random.below(5))),
        // Kills are frequent, and no fault of the batches.
        max_attempts: Some(100),
        weight: Some(1 + random.below(4) as u32),
        ..SessionOptions::default()
    };
    let (mut input, mut output) = pillion.session(plan).input(schema).options(options).open().await?.split();
    let (count, seed) = (random.below(400) + 1, random.next());
    let sending = async move {
        let mut random = Random(seed);
        let mut start = 0;
        for _ in 0..count {
            let rows = random.size();
            if random.below(50) == 0 {
                input.watermark(start).await?;
            }
            input.send(batch(start, rows)?).await?;
            start += rows as i64;
        }
        input.finish().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(start)
    };
    let receiving = async {
        let mut expected = 0;
        while let Some(answer) = output.recv().await {
            let answer = answer?;
            let values = answer.batch.column(0).as_primitive::<Int64Type>();
            for value in values.values() {
                if *value != mix(expected) {
                    println!("WRONG: row {expected} gave {value} instead of {}", mix(expected));
                    return Err("a wrong answer".into());
                }
                expected += 1;
            }
            totals.batches.fetch_add(1, Ordering::Relaxed);
            totals.rows.fetch_add(answer.batch.num_rows() as u64, Ordering::Relaxed);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(expected)
    };
    let (sent, received) = tokio::try_join!(sending, receiving)?;
    if sent != received {
        println!("WRONG: {sent} rows were sent, and {received} came back");
        return Err("rows are missing".into());
    }
    totals.sessions.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Session after session, sometimes over a new connection; now and then one is dropped in the middle.
async fn operator(args: Arc<Args>, number: u64, totals: Arc<Totals>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut random = Random(args.seed.wrapping_mul(1000).wrapping_add(number));
    let mut pillion = Pillion::connect(&args.endpoint).await?;
    while !totals.stop.load(Ordering::Relaxed) {
        match random.below(4) {
            0 => pillion = Pillion::connect(&args.endpoint).await?,
            1 => {
                // Another one of the same function, gone before its answers.
                let mut gone = Random(random.next());
                let within = Duration::from_millis(random.below(200));
                let _ = tokio::time::timeout(within, session(&pillion, &args, &mut gone, &totals)).await;
            }
            _ => {}
        }
        session(&pillion, &args, &mut random, &totals).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Arc::new(Args::parse());
    let totals = Arc::new(Totals::default());
    let mut operators = tokio::task::JoinSet::new();
    for number in 0..args.sessions {
        operators.spawn(operator(args.clone(), number, totals.clone()));
    }
    // A thread, since reading standard input cannot be cancelled.
    std::thread::spawn({
        let totals = totals.clone();
        move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            totals.stop.store(true, Ordering::Relaxed);
        }
    });
    let print = |totals: &Totals| {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!("batches={} rows={} sessions={}", read(&totals.batches), read(&totals.rows), read(&totals.sessions));
    };
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut failed = false;
    loop {
        tokio::select! {
            ended = operators.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    println!("WRONG: {error}: {error:?}");
                    failed = true;
                    totals.stop.store(true, Ordering::Relaxed);
                }
                Some(Err(error)) => return Err(error.into()),
            },
            _ = ticks.tick() => print(&totals),
        }
    }
    print(&totals);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
