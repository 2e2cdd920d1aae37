//! Between a bundle's typed columns and the bytes that a store keeps.

use super::executor::Rows;
use crate::{
    batch::event_times,
    error::{Code, Error, Result},
    state::{
        Addresses, Cell, CellId, Cells, Cleanup, Entries, Kind, Op, Shape, Ttl, Update, Visibility, Writes,
        codec::{self, Nulls},
        encoding::{Distinct, Groups, KeyEncoder, encode_map_keys, has_prefixes, key_group, prefix_of},
    },
};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StructArray, UInt16Array, UInt32Array, cast::AsArray, types};
use arrow_buffer::NullBuffer;
use arrow_cast::cast;
use arrow_schema::{DataType, Fields};
use arrow_select::take::{take, take_record_batch};
use pillion_wire::{
    bundle::{CellLayout, Layout, op},
    proto,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// A lane's part of a batch.
#[derive(Debug)]
pub(super) struct Share {
    pub rows: Rows,
    /// The distinct keys of the rows.
    pub keys: StructArray,
    /// The same, as the store has them.
    pub addresses: Addresses,
}

/// What a session knows of the columns of its function.
pub(super) struct Columns {
    inputs: Vec<proto::KeyedInput>,
    keys: Fields,
    encoder: KeyEncoder,
    cells: Cells,
    /// Timers with one timestamp per key and name.
    single: HashSet<String>,
    max_parallelism: u16,
}

impl Columns {
    pub fn new(
        layout: &Layout,
        function: &proto::FunctionDescription,
        inputs: Vec<proto::KeyedInput>,
        max_parallelism: u32,
    ) -> Result<Self> {
        let max_parallelism = u16::try_from(max_parallelism).unwrap_or(u16::MAX);
        for (input, (rows, plan)) in layout.rows.iter().zip(&inputs).enumerate() {
            let types: Vec<_> = plan.key_columns.iter().map(|&column| rows.field(column as usize).data_type()).collect();
            let same = types.len() == layout.keys.len() && types.iter().zip(&layout.keys).all(|(one, key)| *one == key.data_type());
            if !plan.broadcast && !same {
                return Err(Error::new(
                    Code::SchemaMismatch,
                    format!("the key columns of input {input} have other types than those of the first"),
                )
                .hint("cast them, so that equal keys are equal"));
            }
            if let Some(column) = plan.key_group_column.checked_sub(1) {
                let field = rows.field(column as usize);
                if !field.data_type().is_integer() {
                    let message = format!("column `{}` of type `{}` cannot be the key group", field.name(), field.data_type());
                    return Err(Error::new(Code::SchemaMismatch, message).hint("give integers"));
                }
            }
            if let Some(column) = plan.timestamp_column.checked_sub(1) {
                let field = rows.field(column as usize);
                event_times(field.name(), &arrow_array::new_empty_array(field.data_type()))?;
            }
        }
        let encoder = KeyEncoder::new(layout.keys.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect(), false)?;
        let cells =
            Cells::new(layout.cells.iter().zip(&function.cells).map(|(layout, cell)| declared(layout, cell)).collect::<Result<_>>()?)?;
        let single = function.timers.iter().cloned().collect();
        Ok(Columns { inputs, keys: layout.keys.clone(), encoder, cells, single, max_parallelism })
    }

    /// The function's cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Whether some state is the same for all keys.
    pub fn has_broadcast(&self) -> bool {
        self.cells.iter().any(|cell| cell.kind == Kind::Broadcast)
    }

    /// Of the keys.
    pub fn encoder(&self) -> &KeyEncoder {
        &self.encoder
    }

    /// Key groups in all.
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    pub fn inputs(&self) -> &[proto::KeyedInput] {
        &self.inputs
    }

    /// Whether a timer of this name has one timestamp at a time.
    pub fn is_single(&self, name: &str) -> bool {
        self.single.contains(name)
    }

    /// The event times of rows, in ms.
    pub fn timestamps(&self, input: u32, rows: &RecordBatch) -> Result<Option<ArrayRef>> {
        let Some(column) = self.inputs[input as usize].timestamp_column.checked_sub(1) else { return Ok(None) };
        let column = column as usize;
        Ok(Some(Arc::new(event_times(rows.schema_ref().field(column).name(), rows.column(column))?)))
    }

    /// The key groups that the host gives, by row; `None` if they are to be computed.
    fn given_groups(&self, input: u32, rows: &RecordBatch) -> Result<Option<UInt16Array>> {
        let Some(column) = self.inputs[input as usize].key_group_column.checked_sub(1) else { return Ok(None) };
        let groups = cast(rows.column(column as usize), &DataType::UInt16).map_err(|error| unfit(&error))?;
        let groups = groups.as_primitive::<types::UInt16Type>();
        // What is out of range has become null.
        if let Some(row) = (0..groups.len()).find(|&row| groups.is_null(row) || groups.value(row) >= self.max_parallelism) {
            let name = rows.schema_ref().field(column as usize).name().clone();
            let message = format!(
                "the key group in row {row} of column `{name}` is null or not below the max parallelism of {}",
                self.max_parallelism
            );
            return Err(
                Error::new(Code::ProtocolViolation, message).hint("give the groups that the engine computes, or leave them to pillion")
            );
        }
        Ok(Some(groups.clone()))
    }

    /// Cuts a batch into the shares of the lanes, with the keys of each.
    pub fn shares(&self, input: u32, rows: RecordBatch, lanes: usize, lane: impl Fn(u16) -> Result<usize>) -> Result<Vec<(usize, Share)>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let columns: Vec<ArrayRef> =
            self.inputs[input as usize].key_columns.iter().map(|&column| rows.column(column as usize).clone()).collect();
        let timestamps = self.timestamps(input, &rows)?;
        let found = self.distinct(&columns, self.given_groups(input, &rows)?, rows.num_rows())?;
        let lane_of = found.groups.iter().map(|&group| lane(group)).collect::<Result<Vec<_>>>()?;
        let first = lane_of.first().copied().unwrap_or_default();
        if lane_of.iter().all(|&lane| lane == first) {
            let keys = self.typed(&columns, &found.first)?;
            let addresses = Addresses::new(found.groups, found.keys, None)?;
            let key_index: ArrayRef = Arc::new(UInt32Array::from(found.index));
            return Ok(vec![(first, Share { rows: Rows { input, rows, timestamps, key_index: Some(key_index) }, keys, addresses })]);
        }
        // The place of each key in its lane, and the rows of each lane.
        let mut key_rows: Vec<Vec<u32>> = vec![Vec::new(); lanes];
        let mut places = Vec::with_capacity(lane_of.len());
        for (key, &lane) in lane_of.iter().enumerate() {
            places.push(key_rows[lane].len() as u32);
            key_rows[lane].push(key as u32);
        }
        let mut picked: Vec<(Vec<u32>, Vec<u32>)> = vec![Default::default(); lanes];
        for (row, &key) in found.index.iter().enumerate() {
            let (rows, index) = &mut picked[lane_of[key as usize]];
            rows.push(row as u32);
            index.push(places[key as usize]);
        }
        let mut shares = Vec::with_capacity(lanes);
        for (lane, ((row_numbers, index), keys)) in picked.into_iter().zip(key_rows).enumerate() {
            if row_numbers.is_empty() {
                continue;
            }
            let row_numbers = UInt32Array::from(row_numbers);
            let first: Vec<u32> = keys.iter().map(|&key| found.first[key as usize]).collect();
            let addresses = Addresses::new(
                keys.iter().map(|&key| found.groups[key as usize]).collect(),
                BinaryArray::from_iter_values(keys.iter().map(|&key| found.keys.value(key as usize))),
                None,
            )?;
            let rows = Rows {
                input,
                rows: take_record_batch(&rows, &row_numbers).map_err(|error| unfit(&error))?,
                timestamps: timestamps.as_ref().map(|times| take(times, &row_numbers, None)).transpose().map_err(|error| unfit(&error))?,
                key_index: Some(Arc::new(UInt32Array::from(index))),
            };
            shares.push((lane, Share { rows, keys: self.typed(&columns, &first)?, addresses }));
        }
        Ok(shares)
    }

    /// Key columns of some rows.
    fn typed(&self, columns: &[ArrayRef], rows: &[u32]) -> Result<StructArray> {
        let rows = UInt32Array::from(rows.to_vec());
        let columns =
            columns.iter().map(|column| take(column, &rows, None)).collect::<Result<Vec<_>, _>>().map_err(|error| unfit(&error))?;
        self.keys_from(columns, rows.len())
    }

    fn keys_from(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<StructArray> {
        if columns.is_empty() {
            return Ok(StructArray::new_empty_fields(rows, None));
        }
        StructArray::try_new(self.keys.clone(), columns, None).map_err(|error| unfit(&error))
    }

    /// The typed keys of encoded ones.
    pub fn keys_of(&self, encoded: &BinaryArray) -> Result<StructArray> {
        self.keys_from(self.encoder.decode(encoded)?, encoded.len())
    }

    /// The distinct keys of rows. Without key columns all have the same one.
    fn distinct(&self, columns: &[ArrayRef], given: Option<UInt16Array>, rows: usize) -> Result<Distinct> {
        let groups = given.as_ref().map_or(Groups::Computed(self.max_parallelism), |given| Groups::Given(given.values()));
        if columns.is_empty() {
            let groups = vec![key_group(&[], self.max_parallelism)];
            return Ok(Distinct { keys: BinaryArray::from_iter_values([b""]), groups, first: vec![0], index: vec![0; rows] });
        }
        self.encoder.distinct(columns, groups)
    }

    /// What a cell holds as the function sees it; `None` if some of it is too large to send along.
    pub fn values(&self, cell: CellId, entries: &Entries) -> Result<Option<ArrayRef>> {
        if codec::deferred(entries).is_some_and(|deferred| deferred.true_count() > 0) {
            return Ok(None);
        }
        codec::typed(self.cells.at(cell)?, entries).map(Some)
    }

    /// The state of addresses, for those who name them several times or in another order.
    pub fn spread(&self, state: Vec<Option<ArrayRef>>, places: &UInt32Array) -> Result<Vec<Option<ArrayRef>>> {
        let spread = |(values, cell): (Option<ArrayRef>, &Cell)| match values {
            Some(values) if cell.kind != Kind::Broadcast => take(&values, places, None).map(Some).map_err(|error| unfit(&error)),
            values => Ok(values),
        };
        state.into_iter().zip(self.cells.iter()).map(spread).collect()
    }

    /// The writes of a cell, at places among the addresses of a commit.
    pub fn writes(&self, cell: CellId, batch: &RecordBatch, at: Vec<u32>) -> Result<Writes> {
        let declared = self.cells.at(cell)?;
        let wrong = |code: u8| Error::new(Code::ProtocolViolation, format!("operation {code} cannot be done to cell `{}`", declared.name));
        let values = batch.column(4);
        let single = declared.shape() == Shape::Single;
        let prefixed = declared.key.as_ref().is_some_and(has_prefixes);
        let ops = batch.column(2).as_primitive::<types::UInt8Type>().values().iter().enumerate().map(|(row, &code)| match code {
            // No value is no entry.
            op::PUT if single && values.is_null(row) => Ok(Op::Clear),
            op::PUT => Ok(Op::Put),
            op::APPEND => Ok(Op::Append),
            op::REMOVE => Ok(Op::Remove),
            op::CLEAR => Ok(Op::Clear),
            op::TOUCH => Ok(Op::Touch),
            op::CLEAR_PREFIX if prefixed && batch.column(3).is_valid(row) => Ok(Op::ClearPrefix),
            other => Err(wrong(other)),
        });
        let ops: Vec<Op> = ops.collect::<Result<_>>()?;
        let map_keys = if declared.shape() == Shape::Map { Some(entries_of(batch.column(3), &ops)?) } else { None };
        let nulls = if single { Nulls::Absent } else { Nulls::Stored };
        Ok(Writes { cell, at, ops, map_keys, values: codec::encode(declared, values, nulls)? })
    }
}

/// The map keys of writes: null for what concerns the whole map. A null that is written or removed is a key like others.
fn entries_of(keys: &ArrayRef, ops: &[Op]) -> Result<BinaryArray> {
    let mut encoded = encode_map_keys(keys)?;
    if ops.contains(&Op::ClearPrefix) {
        let cut = |(row, op): (usize, &Op)| if *op == Op::ClearPrefix { prefix_of(encoded.value(row)) } else { encoded.value(row) };
        encoded = BinaryArray::from_iter_values(ops.iter().enumerate().map(cut));
    }
    let (offsets, values, _) = encoded.into_parts();
    let whole = |(row, op): (usize, &Op)| matches!(op, Op::Clear) || (matches!(op, Op::Touch) && keys.is_null(row));
    let named: NullBuffer = ops.iter().enumerate().map(|row| !whole(row)).collect();
    BinaryArray::try_new(offsets, values, Some(named)).map_err(|error| unfit(&error))
}

fn declared(layout: &CellLayout, cell: &proto::StateCell) -> Result<Cell> {
    let unknown = || Error::new(Code::DeclarationInvalid, format!("the cell `{}` is of the unknown kind `{}`", cell.name, cell.kind));
    let kind = Kind::parse(&cell.kind).ok_or_else(unknown)?;
    let ttl = cell.time_to_live.as_ref().map(|ttl| Ttl {
        duration: Duration::from_millis(ttl.duration_ms),
        update: if ttl.update_on_read { Update::OnReadAndWrite } else { Update::OnCreateAndWrite },
        visibility: if ttl.return_expired { Visibility::ReturnExpiredIfNotCleanedUp } else { Visibility::NeverReturnExpired },
        cleanup: Cleanup::default(),
    });
    Ok(Cell { name: cell.name.clone(), kind, value: layout.value.clone(), key: layout.map_key.clone(), ttl, pickled: cell.pickled })
}

fn unfit(error: &arrow_schema::ArrowError) -> Error {
    Error::new(Code::InvariantBroken, "the columns of a bundle do not fit together").detail(error.to_string())
}
