//! The axes of the grid: payloads, functions, rows.

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use pillion::{EnvironmentSpec, batch::Batch};
use std::{hint::black_box, sync::Arc, time::Instant};

/// Rows of a large batch.
pub const LARGE: usize = 100_000;
pub const ROWS: [usize; 5] = [1, 100, 1_000, 10_000, LARGE];

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Two columns of 64-bit integers.
    Numbers,
    /// Ten columns, three of them text, one with nulls.
    Mixed,
    /// JSON text.
    Json,
}

/// A function over a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub function: &'static str,
    pub payload: Payload,
}

const fn case(function: &'static str, payload: Payload) -> Case {
    Case { function, payload }
}

impl Case {
    pub const ALL: [Case; 9] = [
        case("identity", Payload::Numbers),
        case("arrow_add", Payload::Numbers),
        case("pandas_add", Payload::Numbers),
        case("sklearn_model", Payload::Numbers),
        case("identity", Payload::Mixed),
        case("arrow_add", Payload::Mixed),
        case("pandas_add", Payload::Mixed),
        case("text_identity", Payload::Json),
        case("json_name", Payload::Json),
    ];

    pub fn name(self) -> String {
        let payload = match self.payload {
            Payload::Numbers => "2 int64",
            Payload::Mixed => "10 mixed",
            Payload::Json => "json",
        };
        format!("{} of {payload}", self.function)
    }

    /// How many of the columns the function gets; all of them are sent.
    pub fn columns(self) -> usize {
        match (self.payload, self.function) {
            (Payload::Json, _) => 1,
            (Payload::Mixed, "identity") => 10,
            _ => 2,
        }
    }

    pub fn has_budget(self) -> bool {
        self.payload == Payload::Numbers && self.function != "sklearn_model"
    }

    /// The rows for which the design has a budget.
    pub fn budget_rows(self) -> &'static [usize] {
        match self.function {
            "identity" => &[1],
            "pandas_add" => &[1_000],
            _ => &[LARGE],
        }
    }
}

pub fn batch(payload: Payload, rows: usize) -> RecordBatch {
    let numbers = || Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef;
    let texts = |make: fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..rows).map(make))) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> = match payload {
        Payload::Numbers => vec![("a", numbers()), ("b", numbers())],
        Payload::Json => vec![("text", texts(|i| format!(r#"{{"id": {i}, "name": "somebody {i}", "tags": ["a", "b"]}}"#)))],
        Payload::Mixed => vec![
            ("a", numbers()),
            ("b", numbers()),
            ("c", Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64 / 3.0)))),
            ("d", Arc::new(Int32Array::from_iter((0..rows as i32).map(|i| (i % 7 != 0).then_some(i))))),
            ("e", Arc::new(BooleanArray::from_iter((0..rows).map(|i| Some(i % 2 == 0))))),
            ("f", Arc::new(Date32Array::from_iter_values((0..rows).map(|i| (i % 20_000) as i32)))),
            ("g", Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows).map(|i| i as i64 * 1_000_000)))),
            ("h", texts(|i| format!("customer {}", i % 1000))),
            ("i", texts(|i| format!("{i:016x}"))),
            ("j", texts(|_| "a text of moderate length that is the same in each row".to_owned())),
        ],
    };
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).expect("columns of one length")
}

/// Bytes of the values of a batch.
pub fn bytes(batch: &RecordBatch) -> u64 {
    Batch::from(batch.clone()).bytes()
}

/// Where the functions run.
pub fn environment() -> EnvironmentSpec {
    let preload = vec!["pyarrow.compute".into(), "pandas".into()];
    match std::env::var("PILLION_BENCH_PYTHON") {
        Ok(python) if !python.is_empty() => EnvironmentSpec { preload, ..EnvironmentSpec::python(python) },
        _ => EnvironmentSpec {
            requirements: ["numpy", "pandas", "pyarrow", "scikit-learn"].map(str::to_owned).to_vec(),
            preload,
            ..Default::default()
        },
    }
}

/// Rows per second of copying what an addition reads and writes (24 bytes a row): what the figures are a ratio to.
pub fn memcpy_rate() -> f64 {
    let source = vec![1u8; LARGE * 24];
    let mut target = vec![0u8; LARGE * 24];
    let begun = Instant::now();
    for _ in 0..200 {
        black_box(&mut target).copy_from_slice(black_box(&source));
    }
    (200 * LARGE) as f64 / begun.elapsed().as_secs_f64()
}
