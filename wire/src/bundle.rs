//! How a bundle of a keyed session travels: as one record batch of one row, whose columns are lists (see `KeyedPlan` in `fn.proto`). So all that is true of batches is
//! true of bundles: frames, slots, credits, replay, pointers in thread mode. Packing and unpacking share memory.

mod fetch;

pub use fetch::Fetched;

use crate::{ipc::schema_from_ipc, proto};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, LargeListArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array,
    cast::AsArray,
    types::{Int64Type, UInt32Type},
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use std::sync::Arc;

mod cell;

pub use cell::{CellLayout, Shape};

/// What a write does, as numbered in `fn.proto`.
pub mod op {
    /// Set the value, or the entry of a map.
    pub const PUT: u8 = 0;
    /// Add an element to a list.
    pub const APPEND: u8 = 1;
    /// Remove the entry of a map.
    pub const REMOVE: u8 = 2;
    /// Remove all at this key and namespace.
    pub const CLEAR: u8 = 3;
    /// The value was read.
    pub const TOUCH: u8 = 4;
    /// Remove the entries of a map whose keys begin with a string or binary.
    pub const CLEAR_PREFIX: u8 = 5;
    /// Register a timer.
    pub const SET: u8 = 0;
    /// Delete a timer.
    pub const DELETE: u8 = 1;
}

/// Timers in event time, as in the column `domain`.
pub const EVENT: u8 = 0;

/// Timers in processing time.
pub const PROCESSING: u8 = 1;

/// No watermark has come yet.
pub const NO_WATERMARK: i64 = i64::MIN;

/// The fields of fired timers.
pub fn timer_fields() -> Fields {
    vec![
        Field::new("key", DataType::UInt32, false),
        Field::new("domain", DataType::UInt8, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("namespace", DataType::Binary, false),
        Field::new("timestamp", DataType::Int64, false),
    ]
    .into()
}

/// The fields of timers that are set or deleted.
pub fn timer_write_fields() -> Fields {
    timer_fields().iter().cloned().chain([Arc::new(Field::new("op", DataType::UInt8, false))]).collect()
}

/// The input of one call.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Input rows.
    pub rows: Option<RecordBatch>,
    /// Their event times: int64.
    pub timestamps: Option<ArrayRef>,
    /// For each row its place in `keys`: uint32.
    pub key_index: Option<ArrayRef>,
    /// The distinct keys.
    pub keys: StructArray,
    /// Per cell, aligned with `keys`; `None` if it has to be fetched.
    pub state: Vec<Option<ArrayRef>>,
    /// Timers that fire.
    pub timers: Option<RecordBatch>,
    /// Per cell, aligned with `timers`.
    pub timer_state: Option<Vec<Option<ArrayRef>>>,
    /// In ms; [`NO_WATERMARK`] before the first.
    pub watermark: i64,
    /// In ms.
    pub processing_time: i64,
    /// Where the rows come from.
    pub input: u32,
    /// The rows are elements of a broadcast.
    pub broadcast: bool,
}

/// What a call has changed.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Per output, the main one first.
    pub outputs: Vec<Option<RecordBatch>>,
    /// Per cell.
    pub writes: Vec<Option<RecordBatch>>,
    /// Timers to set and to delete.
    pub timers: Option<RecordBatch>,
}

/// The types of a keyed plan's bundles, which both ends make from the same messages.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Cells, as declared.
    pub cells: Vec<CellLayout>,
    /// Rows of each input.
    pub rows: Vec<SchemaRef>,
    /// Key columns.
    pub keys: Fields,
    /// Outputs, the main one first.
    pub outputs: Vec<SchemaRef>,
    /// Of a packed [`Bundle`].
    pub bundle: SchemaRef,
    /// Of packed [`Effects`].
    pub effects: SchemaRef,
    /// Of what is asked in mid-bundle.
    pub fetch: SchemaRef,
    /// Of the answer.
    pub fetched: SchemaRef,
}

fn list(name: &str, of: DataType) -> FieldRef {
    Arc::new(Field::new(name, DataType::LargeList(Arc::new(Field::new("item", of, true))), true))
}

fn structs(name: &str, fields: Fields) -> FieldRef {
    list(name, DataType::Struct(fields))
}

impl Layout {
    /// The layout for the inputs of a plan, and what `prepare` told of its one function.
    ///
    /// # Errors
    /// [`ArrowError`] if these do not fit together.
    pub fn new(plan: &proto::KeyedPlan, output: &SchemaRef, function: &proto::FunctionDescription) -> Result<Self, ArrowError> {
        let rows = plan.inputs.iter().map(|input| schema_from_ipc(&input.schema)).collect::<Result<Vec<_>, _>>()?;
        let Some((first, input)) = rows.iter().zip(&plan.inputs).next() else { return Err(damaged("a keyed plan has no input")) };
        let columns: Vec<usize> = input.key_columns.iter().map(|&column| column as usize).collect();
        let keys = first.project(&columns)?.fields().clone();
        let cells = function.cells.iter().map(CellLayout::from_proto).collect::<Result<Vec<_>, _>>()?;
        let mut outputs = vec![output.clone()];
        for side in &function.side_outputs {
            outputs.push(schema_from_ipc(&side.schema)?);
        }
        let per_cell = |of: &dyn Fn(&CellLayout) -> DataType| -> Fields { cells.iter().map(|cell| list(&cell.name, of(cell))).collect() };
        let values = per_cell(&CellLayout::column);
        let inputs: Fields = rows.iter().enumerate().map(|(at, rows)| structs(&at.to_string(), rows.fields().clone())).collect();
        let bundle = Schema::new(vec![
            Arc::new(Field::new("rows", DataType::Struct(inputs), false)),
            list("timestamps", DataType::Int64),
            list("key_index", DataType::UInt32),
            structs("keys", keys.clone()),
            Arc::new(Field::new("state", DataType::Struct(values.clone()), false)),
            structs("timers", timer_fields()),
            Arc::new(Field::new("timer_state", DataType::Struct(values.clone()), true)),
            Arc::new(Field::new("watermark", DataType::Int64, false)),
            Arc::new(Field::new("processing_time", DataType::Int64, false)),
            Arc::new(Field::new("input", DataType::UInt32, false)),
            Arc::new(Field::new("broadcast", DataType::Boolean, false)),
        ]);
        let parts: Fields = outputs.iter().enumerate().map(|(at, output)| structs(&at.to_string(), output.fields().clone())).collect();
        let effects = Schema::new(vec![
            Arc::new(Field::new("outputs", DataType::Struct(parts), false)),
            Arc::new(Field::new("writes", DataType::Struct(per_cell(&|cell| DataType::Struct(cell.write()))), false)),
            structs("timers", timer_write_fields()),
        ]);
        let asked = per_cell(&|cell| DataType::Struct(cell.fetch()));
        let fetch = Schema::new(vec![Field::new("cells", DataType::Struct(asked), false)]);
        let next = per_cell(&|_| DataType::Binary);
        let fetched =
            Schema::new(vec![Field::new("cells", DataType::Struct(values), false), Field::new("next", DataType::Struct(next), false)]);
        let [bundle, effects, fetch, fetched] = [bundle, effects, fetch, fetched].map(Arc::new);
        Ok(Layout { cells, rows, keys, outputs, bundle, effects, fetch, fetched })
    }

    /// Packs a bundle.
    ///
    /// # Errors
    /// [`ArrowError`] if it has other types.
    pub fn pack(&self, bundle: Bundle) -> Result<RecordBatch, ArrowError> {
        let field = |at: usize| self.bundle.field(at);
        let mut inputs = vec![None; self.rows.len()];
        if let Some(rows) = bundle.rows {
            *inputs.get_mut(bundle.input as usize).ok_or_else(|| damaged("a bundle is of no input that there is"))? =
                Some(as_structs(rows));
        }
        let columns: Vec<ArrayRef> = vec![
            per_cell(field(0), inputs)?,
            one(field(1), bundle.timestamps)?,
            one(field(2), bundle.key_index)?,
            one(field(3), Some(Arc::new(bundle.keys)))?,
            per_cell(field(4), bundle.state)?,
            one(field(5), bundle.timers.map(as_structs))?,
            match bundle.timer_state {
                Some(state) => per_cell(field(6), state)?,
                None => arrow_array::new_null_array(field(6).data_type(), 1),
            },
            Arc::new(Int64Array::from(vec![bundle.watermark])),
            Arc::new(Int64Array::from(vec![bundle.processing_time])),
            Arc::new(UInt32Array::from(vec![bundle.input])),
            Arc::new(BooleanArray::from(vec![bundle.broadcast])),
        ];
        RecordBatch::try_new(self.bundle.clone(), columns)
    }

    /// Unpacks a bundle.
    ///
    /// # Errors
    /// [`ArrowError`] if parts are missing, or of unequal lengths.
    pub fn unpack(&self, batch: &RecordBatch) -> Result<Bundle, ArrowError> {
        check(batch, &self.bundle)?;
        let keys = part(batch.column(3)).ok_or_else(|| damaged("a bundle has no keys"))?.as_struct().clone();
        let input = batch.column(9).as_primitive::<UInt32Type>().value(0);
        let rows = cells_of(batch.column(0)).into_iter().zip(&self.rows).nth(input as usize);
        let (rows, schema) = rows.ok_or_else(|| damaged("a bundle is of no input that there is"))?;
        let rows = rows.map(|rows| as_batch(&rows, schema)).transpose()?;
        let (timestamps, key_index) = (part(batch.column(1)), part(batch.column(2)));
        let count = rows.as_ref().map(RecordBatch::num_rows);
        let fits = |column: &Option<ArrayRef>| column.as_ref().is_none_or(|column| Some(column.len()) == count);
        if !fits(&timestamps) || !fits(&key_index) {
            return Err(damaged("a bundle has columns of unequal lengths"));
        }
        if let Some(index) = &key_index {
            check_places(index, keys.len())?;
        }
        let timers = part(batch.column(5)).map(|timers| as_batch(&timers, &Arc::new(Schema::new(timer_fields())))).transpose()?;
        if let Some(timers) = &timers {
            check_places(timers.column(0), keys.len())?;
        }
        let state = self.aligned(cells_of(batch.column(4)), keys.len())?;
        let fired = timers.as_ref().map_or(0, RecordBatch::num_rows);
        let timer_state = if batch.column(6).is_null(0) { None } else { Some(self.aligned(cells_of(batch.column(6)), fired)?) };
        Ok(Bundle {
            rows,
            timestamps,
            key_index,
            keys,
            state,
            timers,
            timer_state,
            watermark: batch.column(7).as_primitive::<Int64Type>().value(0),
            processing_time: batch.column(8).as_primitive::<Int64Type>().value(0),
            input,
            broadcast: batch.column(10).as_boolean().value(0),
        })
    }

    /// Packs effects. Missing parts are left out.
    ///
    /// # Errors
    /// [`ArrowError`] if they have other types.
    pub fn pack_effects(&self, effects: Effects) -> Result<RecordBatch, ArrowError> {
        let field = |at: usize| self.effects.field(at);
        let lists = |parts: Vec<Option<RecordBatch>>| parts.into_iter().map(|part| part.map(as_structs)).collect();
        let columns = vec![
            per_cell(field(0), lists(effects.outputs))?,
            per_cell(field(1), lists(effects.writes))?,
            one(field(2), effects.timers.map(as_structs))?,
        ];
        RecordBatch::try_new(self.effects.clone(), columns)
    }

    /// Unpacks the effects of a bundle with so many keys.
    ///
    /// # Errors
    /// [`ArrowError`] if a write or a timer names a key that is not there.
    pub fn unpack_effects(&self, batch: &RecordBatch, keys: usize) -> Result<Effects, ArrowError> {
        check(batch, &self.effects)?;
        let outputs = cells_of(batch.column(0));
        let outputs =
            outputs.iter().zip(&self.outputs).map(|(output, schema)| output.as_ref().map(|rows| as_batch(rows, schema)).transpose());
        let writes = cells_of(batch.column(1));
        let writes = writes.iter().zip(&self.cells).map(|(writes, cell)| {
            let writes = writes.as_ref().map(|writes| as_batch(writes, &Arc::new(Schema::new(cell.write())))).transpose()?;
            if let Some(writes) = &writes
                && !cell.broadcast
            {
                check_places(writes.column(0), keys)?;
            }
            Ok(writes)
        });
        let timers = part(batch.column(2)).map(|timers| as_batch(&timers, &Arc::new(Schema::new(timer_write_fields())))).transpose()?;
        if let Some(timers) = &timers {
            check_places(timers.column(0), keys)?;
        }
        Ok(Effects { outputs: outputs.collect::<Result<_, _>>()?, writes: writes.collect::<Result<_, ArrowError>>()?, timers })
    }

    /// The state, if each cell has a value for each key.
    fn aligned(&self, state: Vec<Option<ArrayRef>>, keys: usize) -> Result<Vec<Option<ArrayRef>>, ArrowError> {
        let fits = |(cell, values): (&CellLayout, &Option<ArrayRef>)| {
            values.as_ref().is_none_or(|values| values.len() == if cell.broadcast { 1 } else { keys })
        };
        if self.cells.iter().zip(&state).all(fits) { Ok(state) } else { Err(damaged("the state of a bundle is not aligned with its keys")) }
    }
}

fn damaged(what: &str) -> ArrowError {
    ArrowError::InvalidArgumentError(what.to_owned())
}

fn check(batch: &RecordBatch, schema: &SchemaRef) -> Result<(), ArrowError> {
    if batch.num_rows() != 1 || batch.schema_ref().fields() != schema.fields() {
        return Err(damaged("a bundle has not the columns that were agreed"));
    }
    Ok(())
}

fn check_places(places: &ArrayRef, keys: usize) -> Result<(), ArrowError> {
    let inside = places.as_primitive::<UInt32Type>().values().iter().all(|&place| (place as usize) < keys);
    if inside { Ok(()) } else { Err(damaged("a bundle names a key that it does not have")) }
}

/// The rows as structs.
pub fn as_structs(batch: RecordBatch) -> ArrayRef {
    if batch.num_columns() == 0 {
        return Arc::new(StructArray::new_empty_fields(batch.num_rows(), None));
    }
    Arc::new(StructArray::from(batch))
}

/// Structs as rows of a schema with the same fields.
///
/// # Errors
/// [`ArrowError`] if the fields differ, or a struct is null.
pub fn as_batch(structs: &ArrayRef, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if structs.null_count() > 0 {
        return Err(damaged("a row is null"));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(structs.len()));
    RecordBatch::try_new_with_options(schema.clone(), structs.as_struct().columns().to_vec(), &options)
}

/// A list of one row that holds the array.
fn one(field: &Field, array: Option<ArrayRef>) -> Result<ArrayRef, ArrowError> {
    let DataType::LargeList(item) = field.data_type() else { return Err(damaged("a part of a bundle is no list")) };
    Ok(Arc::new(match array {
        Some(array) => LargeListArray::try_new(item.clone(), OffsetBuffer::from_lengths([array.len()]), array, None)?,
        None => LargeListArray::new_null(item.clone(), 1),
    }))
}

/// What a list of one row holds.
fn part(column: &ArrayRef) -> Option<ArrayRef> {
    let lists = column.as_list::<i64>();
    lists.is_valid(0).then(|| lists.value(0))
}

/// A struct of one row with a list for each part.
fn per_cell(field: &Field, parts: Vec<Option<ArrayRef>>) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(fields) = field.data_type() else { return Err(damaged("a part of a bundle is no struct")) };
    if parts.len() != fields.len() {
        return Err(damaged("a bundle has another number of parts than was agreed"));
    }
    if fields.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(1, None)));
    }
    let lists = fields.iter().zip(parts).map(|(field, part)| one(field, part)).collect::<Result<_, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields.clone(), lists, None)?))
}

/// The parts of a struct of lists.
fn cells_of(column: &ArrayRef) -> Vec<Option<ArrayRef>> {
    column.as_struct().columns().iter().map(part).collect()
}

#[cfg(test)]
mod tests;
