//! An operator in Rust: a function in a file, a session over it, batches sent and received on two tasks.
//!
//! ```text
//! cargo run --release --example operator                               # the engine inside this process
//! cargo run --release --example operator -- unix:/path/to/pillion.sock # a sidecar that `pillion serve` started
//! ```

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{Config, FunctionRef, Pillion, Plan};
use std::sync::Arc;

/// What a function author would write.
const FUNCTION: &str = r#"
from pillion import udf

@udf(result_type="bigint")
def add(a, b):
    return a + b
"#;

fn batch(from: i64) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let column = |values: std::ops::Range<i64>| Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    RecordBatch::try_from_iter([("a", column(from..from + 1000)), ("b", column(from..from + 1000))])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("add.py");
    std::fs::write(&file, FUNCTION)?;

    let pillion = match std::env::args().nth(1) {
        Some(endpoint) => Pillion::connect(&endpoint).await?,
        None => Pillion::embedded(Config::default()).await?,
    };
    let plan = Plan::scalar(FunctionRef::file(&file, "add"), vec![0, 1], "sum");
    let session = pillion.session(plan).name("example").input(batch(0)?.schema()).open().await?;
    println!("session {} runs {} in CPython {}", session.id(), session.functions()[0].name, session.environment().python_version);

    // Two tasks: the sender waits whenever the engine has no room, and only the receiver makes room.
    let (mut input, mut output) = session.split();
    let sender = tokio::spawn(async move {
        for at in 0..100 {
            let batch = batch(at * 1000).map_err(|error| error.to_string())?;
            input.send(batch).await.map_err(|error| error.report())?;
        }
        input.finish().await.map_err(|error| error.report())
    });
    let mut rows = 0;
    while let Some(answer) = output.recv().await {
        rows += answer?.batch.num_rows();
    }
    sender.await??;
    println!("{rows} rows came back, in order");
    pillion.shutdown().await;
    Ok(())
}
