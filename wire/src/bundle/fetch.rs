//! What a worker asks for in the middle of a bundle, and the answer (`fetch` and `fetched` in `fn.proto`).

use super::{CellLayout, Layout, as_batch, as_structs, cells_of, check, check_places, damaged, per_cell};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, cast::AsArray};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use std::sync::Arc;

/// What one cell holds at the addresses that were asked for.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Aligned with what was asked, in the column type of the cell ([`CellLayout::column`]).
    pub values: ArrayRef,
    /// As many: what is not null is not complete, and is asked for again with these bytes as `after`. `None` if all is complete.
    pub next: Option<BinaryArray>,
}

impl CellLayout {
    /// The fields of what is asked of the cell: `key`, a place in the bundle's keys; `namespace`; `sub`, the key of one entry of a map, null for all of it; `after`, null or the
    /// `next` of an earlier answer.
    pub fn fetch(&self) -> Fields {
        vec![
            Field::new("key", DataType::UInt32, false),
            Field::new("namespace", DataType::Binary, false),
            Field::new("sub", self.map_key.clone().unwrap_or(DataType::Null), true),
            Field::new("after", DataType::Binary, true),
        ]
        .into()
    }
}

impl Layout {
    /// Packs what is asked of each cell, as rows of [`CellLayout::fetch`].
    ///
    /// # Errors
    /// [`ArrowError`] if it has other types.
    pub fn pack_fetch(&self, asked: Vec<Option<RecordBatch>>) -> Result<RecordBatch, ArrowError> {
        let lists = asked.into_iter().map(|part| part.map(as_structs)).collect();
        RecordBatch::try_new(self.fetch.clone(), vec![per_cell(self.fetch.field(0), lists)?])
    }

    /// Unpacks what a worker asks of a bundle with so many keys.
    ///
    /// # Errors
    /// [`ArrowError`] if it names a key that is not there.
    pub fn unpack_fetch(&self, batch: &RecordBatch, keys: usize) -> Result<Vec<Option<RecordBatch>>, ArrowError> {
        check(batch, &self.fetch)?;
        let asked = cells_of(batch.column(0));
        let asked = asked.iter().zip(&self.cells).map(|(asked, cell)| {
            let asked = asked.as_ref().map(|asked| as_batch(asked, &Arc::new(Schema::new(cell.fetch())))).transpose()?;
            if let Some(asked) = &asked {
                check_places(asked.column(0), if cell.broadcast { 1 } else { keys })?;
            }
            Ok(asked)
        });
        asked.collect()
    }

    /// Packs the answer.
    ///
    /// # Errors
    /// [`ArrowError`] if it has other types.
    pub fn pack_fetched(&self, found: Vec<Option<Fetched>>) -> Result<RecordBatch, ArrowError> {
        let next = found.iter().map(|found| found.as_ref().and_then(|found| found.next.clone()).map(|next| Arc::new(next) as ArrayRef));
        let next = per_cell(self.fetched.field(1), next.collect())?;
        let values = per_cell(self.fetched.field(0), found.into_iter().map(|found| found.map(|found| found.values)).collect())?;
        RecordBatch::try_new(self.fetched.clone(), vec![values, next])
    }

    /// Unpacks the answer to what [`Layout::pack_fetch`] has asked.
    ///
    /// # Errors
    /// [`ArrowError`] if it is not aligned with that.
    pub fn unpack_fetched(&self, batch: &RecordBatch, asked: &[Option<RecordBatch>]) -> Result<Vec<Option<Fetched>>, ArrowError> {
        check(batch, &self.fetched)?;
        let found = cells_of(batch.column(0)).into_iter().zip(cells_of(batch.column(1))).zip(asked);
        let found = found.map(|((values, next), asked)| {
            let rows = asked.as_ref().map(RecordBatch::num_rows);
            if values.as_ref().map(|values| values.len()) != rows || next.as_ref().is_some_and(|next| Some(next.len()) != rows) {
                return Err(damaged("an answer is not aligned with what was asked"));
            }
            Ok(values.map(|values| Fetched { values, next: next.map(|next| next.as_binary::<i32>().clone()) }))
        });
        found.collect()
    }
}
