//! A host that replays what was recorded into a keyed session: batches of one or two inputs, of which the second is a broadcast, and the times of its own clock in between. It shows an
//! operator's two tasks, and is how `scripts/real_work.py` runs what has no place on the command line of `pillion run`.
//!
//! ```text
//! cargo run --release --example replay -- examples/dynamic_rules.py:alerts --input events.arrows --broadcast rules.arrows --keys user --timeline timeline.jsonl --output alerts.arrows
//! ```
//!
//! Inputs and output are Arrow IPC streams. Each line of the timeline is `{"batch": N}`, the next batch of input N, or `{"clock": MS}`, from where on that is the processing time.

use arrow_array::RecordBatch;
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use clap::Parser;
use pillion::{Config, FunctionRef, KeyedInput, KeyedOptions, Pillion, Plan, Store};
use serde::Deserialize;
use std::{
    error::Error,
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

/// Replays recorded inputs into a function with state.
#[derive(Parser)]
struct Args {
    /// `path/file.py:name`
    function: String,
    /// The first input.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The second input, whose rows are for all keys.
    #[arg(long, value_name = "FILE")]
    broadcast: Option<PathBuf>,
    /// Columns of the first input that make the key.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    keys: Vec<String>,
    /// What happens, in order.
    #[arg(long, value_name = "FILE")]
    timeline: PathBuf,
    /// The main output.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Keep the state on disk instead of in memory.
    #[arg(long)]
    disk: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Moment {
    Batch(u32),
    Clock(i64),
}

type Stream = StreamReader<BufReader<File>>;

fn stream(path: &PathBuf) -> Result<Stream, Box<dyn Error>> {
    Ok(StreamReader::try_new(BufReader::new(File::open(path)?), None)?)
}

fn next(streams: &mut [Stream], input: u32) -> Result<RecordBatch, String> {
    let stream = streams.get_mut(input as usize).ok_or_else(|| format!("there is no input {input}"))?;
    let batch = stream.next().ok_or_else(|| format!("input {input} has no more batches"))?;
    batch.map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let lines = BufReader::new(File::open(&args.timeline)?).lines();
    let moments = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<Result<Vec<Moment>, Box<dyn Error>>>()?;
    let mut streams = vec![stream(&args.input)?];
    let mut options =
        KeyedOptions { host_clock: true, store: if args.disk { Store::Disk } else { Store::Memory }, ..KeyedOptions::by(args.keys) };
    if let Some(broadcast) = &args.broadcast {
        let second = stream(broadcast)?;
        options.more_inputs.push(KeyedInput {
            schema: second.schema(),
            keys: Vec::new(),
            event_time: None,
            key_group: None,
            broadcast: true,
        });
        streams.push(second);
    }
    let pillion = Pillion::embedded(Config::default()).await?;
    let plan = Plan::map(FunctionRef::parse(&args.function)?);
    let session = pillion.session(plan).input(streams[0].schema()).keyed(options).open().await?;
    let mut writer = StreamWriter::try_new(File::create(&args.output)?, &session.output_schema())?;

    let (mut input, mut output) = session.split();
    let sender = tokio::spawn(async move {
        for moment in moments {
            match moment {
                Moment::Batch(from) => input.send_to(from, next(&mut streams, from)?).await,
                Moment::Clock(now_ms) => input.processing_time(now_ms).await,
            }
            .map_err(|error| error.report())?;
        }
        input.finish().await.map_err(|error| error.report())
    });
    while let Some(result) = output.recv().await {
        let result = result?;
        if result.tag.is_none() {
            writer.write(&result.batch)?;
        }
    }
    sender.await??;
    writer.finish()?;
    pillion.shutdown().await;
    Ok(())
}
