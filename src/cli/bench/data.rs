//! The data that is sent: a person's own, or generated.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_select::concat::concat_batches;
use pillion::batch::Batch;

use crate::cli::failure::Failure;
use crate::cli::io::{Input, ReadOptions};
use crate::cli::progress::count;
use crate::cli::run::INFER_ROWS;

/// Rows per batch that are compared.
pub const SIZES: [usize; 5] = [1, 100, 1_000, 10_000, 100_000];
/// The largest of them.
const LARGEST: usize = SIZES[SIZES.len() - 1];
/// Rows of a file that are used.
const MOST_ROWS: usize = 4 * LARGEST;
/// Different batches of one size: enough that a row is not always the same, few enough that their answers can be kept.
const MOST_BATCHES: usize = 64;

/// Rows to cut batches from.
pub struct Data {
    /// At least as many as the largest batch has.
    rows: RecordBatch,
    /// What a person reads about it.
    pub text: String,
}

impl Data {
    /// Two columns `a` and `b` of 64-bit integers.
    ///
    /// # Errors
    /// None; two columns of one length are a batch.
    pub fn generated() -> Result<Self, Failure> {
        let column = |factor: i64, offset: i64| {
            Arc::new(Int64Array::from_iter_values((0..MOST_ROWS as i64).map(|i| i * factor + offset))) as ArrayRef
        };
        let rows = RecordBatch::try_from_iter([("a", column(1, 0)), ("b", column(-7, 1_000_000))]);
        let rows = rows.map_err(|error| Failure::data(format!("the data cannot be generated: {error}")))?;
        Ok(Self { rows, text: "generated: `a` and `b`, 64-bit integers".to_owned() })
    }

    /// The first rows of a file, repeated if there are too few for the largest batch.
    ///
    /// # Errors
    /// A file that cannot be read, or has no rows.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut input = Input::open(path, ReadOptions { batch_rows: LARGEST, infer_rows: INFER_ROWS })?;
        let mut batches = Vec::new();
        let mut rows = 0;
        while rows < MOST_ROWS
            && let Some(batch) = input.next_batch()
        {
            let batch = batch?;
            rows += batch.num_rows();
            batches.push(batch);
        }
        if rows == 0 {
            return Err(Failure::data(format!("`{}` has no rows to run the function on", input.name())));
        }
        let read = rows.min(MOST_ROWS);
        let mut text = format!("`{}`: {} rows", input.name(), count(read as u64));
        if rows < LARGEST {
            let times = LARGEST.div_ceil(rows);
            text += &format!(", repeated to {}", count((rows * times) as u64));
            batches = std::iter::repeat_n(batches, times).flatten().collect();
        }
        let joined = concat_batches(&input.schema, &batches);
        let joined = joined.map_err(|error| Failure::data(format!("the rows of `{}` cannot be joined: {error}", input.name())))?;
        Ok(Self { rows: joined.slice(0, joined.num_rows().min(MOST_ROWS)), text })
    }

    /// The schema of the data.
    pub fn schema(&self) -> arrow_schema::SchemaRef {
        self.rows.schema()
    }

    /// Different batches of `size` rows.
    pub fn batches(&self, size: usize) -> Vec<RecordBatch> {
        let number = (self.rows.num_rows() / size).clamp(1, MOST_BATCHES);
        (0..number).map(|index| self.rows.slice(index * size, size)).collect()
    }
}

/// Bytes of the values of a batch.
pub fn bytes(batch: &RecordBatch) -> u64 {
    Batch::from(batch.clone()).bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_differ_and_have_their_size() {
        let data = Data::generated().unwrap();
        for size in SIZES {
            let batches = data.batches(size);
            assert!(batches.len() >= 4 && batches.iter().all(|batch| batch.num_rows() == size), "{size}");
            assert_ne!(batches[0], batches[1], "{size}");
        }
    }

    #[test]
    fn a_small_file_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.csv");
        std::fs::write(&path, "x,y\n1,a\n2,b\n3,c\n").unwrap();
        let data = Data::read(&path).unwrap();
        assert!(data.text.contains("3 rows, repeated to 100,002"), "{}", data.text);
        assert_eq!(data.batches(100_000).len(), 1);
        assert_eq!(data.batches(1)[3], data.batches(1)[0]);

        std::fs::write(&path, "x,y\n").unwrap();
        assert!(Data::read(&path).is_err());
    }
}
