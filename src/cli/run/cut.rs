//! Cuts a stream of batches into those that are sent.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::concat::concat_batches;

use crate::cli::failure::Failure;
use crate::cli::progress::count;

/// Where batches end.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// After this many rows. Batches that somebody has cut are split but not joined, unless `join`.
    Rows { rows: usize, join: bool },
    /// Only at the end of the input.
    All,
    /// At the first change of a column's value after this many rows.
    Groups { column: usize, rows: usize },
}

/// Takes batches as they are read, gives batches as they are sent.
pub struct Cutter {
    rule: Rule,
    schema: SchemaRef,
    held: VecDeque<RecordBatch>,
    held_rows: usize,
    ready: VecDeque<RecordBatch>,
    groups: Groups,
}

impl Cutter {
    pub fn new(rule: Rule, schema: SchemaRef) -> Self {
        Self { rule, schema, held: VecDeque::new(), held_rows: 0, ready: VecDeque::new(), groups: Groups::default() }
    }

    /// Adds a batch that was read.
    ///
    /// # Errors
    /// A group that comes back after others; rows that do not fit into one batch.
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match self.rule {
            Rule::All => self.hold(batch),
            Rule::Rows { rows, join } => {
                self.hold(batch);
                while self.held_rows >= rows {
                    self.release(rows)?;
                }
                if !join {
                    self.release(self.held_rows)?;
                }
            }
            Rule::Groups { column, rows } => {
                let mut from = 0;
                for end in self.groups.ends(&batch, column)? {
                    if self.held_rows + (end - from) >= rows {
                        self.hold(batch.slice(from, end - from));
                        self.release(self.held_rows)?;
                        from = end;
                    }
                }
                self.hold(batch.slice(from, batch.num_rows() - from));
            }
        }
        Ok(())
    }

    /// The next batch to send, if one is complete.
    pub fn pop(&mut self) -> Option<RecordBatch> {
        self.ready.pop_front()
    }

    /// Completes the last batch; to be followed by [`Self::pop`].
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.release(self.held_rows)
    }

    fn hold(&mut self, batch: RecordBatch) {
        self.held_rows += batch.num_rows();
        self.held.push_back(batch);
    }

    /// Makes one batch of the first `rows` rows held.
    fn release(&mut self, rows: usize) -> Result<(), Failure> {
        let mut parts = Vec::new();
        let mut missing = rows;
        while missing > 0 {
            let Some(first) = self.held.pop_front() else { break };
            if first.num_rows() > missing {
                self.held.push_front(first.slice(missing, first.num_rows() - missing));
                parts.push(first.slice(0, missing));
                missing = 0;
            } else {
                missing -= first.num_rows();
                parts.push(first);
            }
        }
        self.held_rows -= rows;
        match parts.len() {
            0 => {}
            1 => self.ready.extend(parts),
            _ => self.ready.push_back(concat_batches(&self.schema, &parts).map_err(|error| too_large(rows, &error))?),
        }
        Ok(())
    }
}

fn too_large(rows: usize, error: &ArrowError) -> Failure {
    Failure::data(format!("{} rows cannot be joined into one batch: {error}", count(rows as u64)))
        .hint("use smaller batches: `--batch-rows N`")
}

/// Finds where the value of a column changes, and that no value comes back.
#[derive(Default)]
struct Groups {
    current: Option<Option<String>>,
    /// Hashes of the values whose groups have ended: eight bytes per group, however long its value is.
    ended: HashSet<u64>,
    rows: u64,
}

impl Groups {
    /// The rows of `batch` at which a group of an earlier row has ended.
    fn ends(&mut self, batch: &RecordBatch, column: usize) -> Result<Vec<usize>, Failure> {
        let array = batch.column(column);
        let options = FormatOptions::default();
        let name = batch.schema_ref().field(column).name().clone();
        let fails = |error: ArrowError| Failure::data(format!("batches cannot be cut by the column `{name}`: {error}"));
        let formatter = ArrayFormatter::try_new(array.as_ref(), &options).map_err(fails)?;
        let mut ends = Vec::new();
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            text.clear();
            let value = if array.is_null(row) {
                None
            } else {
                write!(text, "{}", formatter.value(row)).map_err(|_| fails(ArrowError::ComputeError("a value cannot be shown".into())))?;
                Some(text.as_str())
            };
            if self.current.as_ref().is_some_and(|current| current.as_deref() == value) {
                continue;
            }
            if let Some(before) = self.current.replace(value.map(str::to_owned)) {
                self.ended.insert(hash(before.as_deref()));
                ends.push(row);
            }
            if self.ended.contains(&hash(value)) {
                let shown = value.map_or_else(|| "null".to_owned(), |value| format!("`{value}`"));
                let at = count(self.rows + row as u64 + 1);
                let text = format!("the rows with {shown} in the column `{name}` do not stand together: row {at} comes after other values");
                return Err(Failure::data(text).hint(format!("sort the input by `{name}`, or use `--batch-rows all`")));
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(ends)
    }
}

fn hash(value: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Array, Int64Array};
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Arc;

    fn batch(values: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
    }

    fn cut(rule: Rule, batches: &[&[i64]]) -> Result<Vec<Vec<i64>>, Failure> {
        let mut cutter = Cutter::new(rule, batch(&[]).schema());
        let mut out = Vec::new();
        let mut drain = |cutter: &mut Cutter| {
            while let Some(batch) = cutter.pop() {
                let values = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
                out.push(values);
            }
        };
        for values in batches {
            cutter.push(batch(values))?;
            drain(&mut cutter);
        }
        cutter.finish()?;
        drain(&mut cutter);
        Ok(out)
    }

    #[test]
    fn rows_are_split_and_joined() {
        let batches: &[&[i64]] = &[&[1, 2, 3, 4, 5], &[6], &[7, 8]];
        let joined = cut(Rule::Rows { rows: 3, join: true }, batches).unwrap();
        assert_eq!(joined, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8]]);
        let split = cut(Rule::Rows { rows: 3, join: false }, batches).unwrap();
        assert_eq!(split, [vec![1, 2, 3], vec![4, 5], vec![6], vec![7, 8]]);
    }

    #[test]
    fn all_rows_are_one_batch() {
        assert_eq!(cut(Rule::All, &[&[1, 2], &[3], &[]]).unwrap(), [vec![1, 2, 3]]);
        assert!(cut(Rule::All, &[&[]]).unwrap().is_empty());
    }

    #[test]
    fn groups_stay_whole() {
        let batches: &[&[i64]] = &[&[1, 1, 2], &[2, 2, 3], &[4]];
        assert_eq!(cut(Rule::Groups { column: 0, rows: 1 }, batches).unwrap(), [vec![1, 1], vec![2, 2, 2], vec![3], vec![4]]);
        assert_eq!(cut(Rule::Groups { column: 0, rows: 3 }, batches).unwrap(), [vec![1, 1, 2, 2, 2], vec![3, 4]]);
    }

    #[test]
    fn a_group_that_comes_back_is_refused() {
        let failure = cut(Rule::Groups { column: 0, rows: 1 }, &[&[1, 2], &[1]]).unwrap_err();
        assert!(failure.report().contains("`1` in the column `x`") && failure.report().contains("row 3"), "{}", failure.report());
    }
}
