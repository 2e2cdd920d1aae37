//! Typed values as opaque bytes (`docs/state-format.md`), and back.
//!
//! A stored value is a schema id, one byte, and the value. Ids: 0 = null, 1 = a value of the cell's declared type, 2 = a pickle, which only the worker understands. A single number
//! or string has nothing more than its bytes after the id; what nests has a mark before each part.

use super::{
    Cell, Entries, Shape,
    columns::{Bytes, broken, of_width},
    encoding,
    physical::{self, Reader, Value, Writer, damaged},
};
use crate::error::{Code, Error, Result};
use arrow_array::{Array, ArrayRef, BinaryArray, ListArray, StructArray, cast::AsArray, make_array};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow_data::ArrayData;
use arrow_schema::{DataType, Field, Fields};
use std::sync::Arc;

const ID_NULL: u8 = 0;
const ID_TYPED: u8 = 1;
const ID_PICKLE: u8 = 2;

/// What becomes of a null in a column that is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// Null = nothing: the row stays null.
    Absent,
    /// A stored null: an element of a list, a value of a map.
    Stored,
}

/// Values of a cell as bytes.
///
/// # Errors
/// [`Code::StateType`] if `values` are not of the cell's type, [`Code::StateTooLarge`] beyond 2 GiB.
pub fn encode(cell: &Cell, values: &ArrayRef, nulls: Nulls) -> Result<BinaryArray> {
    if *values.data_type() != cell.value {
        let message = format!("the cell `{}` keeps values of type `{}`, not `{}`", cell.name, cell.value, values.data_type());
        return Err(Error::new(Code::StateType, message));
    }
    let id = if cell.pickled { ID_PICKLE } else { ID_TYPED };
    let writer = Writer::new(values)?;
    if let Some((native, 8)) = writer.as_fixed() {
        return encode_wide(native, values.len(), id);
    }
    let mut encoded = Bytes::new(values.len(), values.len() * 9);
    for row in 0..values.len() {
        if writer.is_null(row) {
            match nulls {
                Nulls::Absent => encoded.push_null(),
                Nulls::Stored => encoded.push(&[ID_NULL])?,
            }
            continue;
        }
        encoded.open().push(id);
        if !writer.write_raw(row, encoded.open()) {
            writer.write_present::<Value>(row, encoded.open());
        }
        encoded.end()?;
    }
    Ok(encoded.finish())
}

fn encode_wide(native: &[u8], rows: usize, id: u8) -> Result<BinaryArray> {
    let mut encoded = Vec::with_capacity(rows * 9);
    for eight in native.chunks_exact(8) {
        let mut nine = [id; 9];
        nine[1..].copy_from_slice(eight);
        encoded.extend_from_slice(&nine);
    }
    of_width(encoded, 9, rows)
}

/// Values of a cell from bytes; null = absent, or a stored null.
///
/// # Errors
/// [`Code::StateDamaged`] if the bytes are no values of the cell's type.
pub fn decode(cell: &Cell, values: &BinaryArray) -> Result<ArrayRef> {
    let id = if cell.pickled { ID_PICKLE } else { ID_TYPED };
    let place = || format!("the cell `{}`", cell.name);
    if let Some((8, _)) = physical::fixed(&cell.value)
        && let Some(column) = decode_wide(&cell.value, values, id)
    {
        return column.map_err(|error| error.within(place()));
    }
    let mut reader = Reader::new(&cell.value)?;
    for row in 0..values.len() {
        if values.is_null(row) {
            reader.push_null();
            continue;
        }
        let stored = values.value(row);
        match stored.split_first() {
            Some((&ID_NULL, [])) => reader.push_null(),
            Some((&known, bytes)) if known == id => {
                if !reader.read_raw(bytes) {
                    let mut rest = bytes;
                    reader.read_present::<Value>(&mut rest).map_err(|error| error.within(place()))?;
                    if !rest.is_empty() {
                        return Err(damaged("value", &cell.value).within(place()));
                    }
                }
            }
            Some((&other, _)) => return Err(damaged("value", &cell.value).within(place()).detail(format!("schema id {other}"))),
            None => return Err(damaged("value", &cell.value).within(place()).detail("it is empty")),
        }
    }
    reader.finish().map_err(|error| error.within(place()))
}

/// Columns of eight bytes per value, if all that is not null looks like one.
fn decode_wide(data_type: &DataType, values: &BinaryArray, id: u8) -> Option<Result<ArrayRef>> {
    let (offsets, data) = (values.value_offsets(), values.value_data());
    let mut native: Vec<u64> = Vec::with_capacity(values.len());
    for row in 0..values.len() {
        let stored = &data[offsets[row] as usize..offsets[row + 1] as usize];
        match stored {
            [first, eight @ ..] if *first == id && eight.len() == 8 => native.push(u64::from_ne_bytes(eight.try_into().ok()?)),
            [] if values.is_null(row) => native.push(0),
            _ => return None,
        }
    }
    let nulls = values.nulls().cloned().filter(|nulls| nulls.null_count() > 0);
    let data = ArrayData::builder(data_type.clone()).len(values.len()).nulls(nulls).add_buffer(Buffer::from_vec(native)).build();
    Some(data.map(make_array).map_err(|error| damaged("value", data_type).detail(error.to_string())))
}

/// The type of the column that [`typed`] makes: the value's type, a list of it, or a list of structs of `key` and `value`.
pub fn typed_type(cell: &Cell) -> DataType {
    match (cell.shape(), &cell.key) {
        (Shape::List, _) => DataType::List(Arc::new(Field::new_list_field(cell.value.clone(), true))),
        (Shape::Map, Some(key)) => DataType::List(Arc::new(Field::new_list_field(DataType::Struct(entry_fields(key, &cell.value)), false))),
        _ => cell.value.clone(),
    }
}

fn entry_fields(key: &DataType, value: &DataType) -> Fields {
    Fields::from(vec![Field::new("key", key.clone(), true), Field::new("value", value.clone(), true)])
}

/// What a cell holds at the addresses of a request, as a typed column aligned with them. Deferred rows are empty lists; [`deferred`] says which.
///
/// # Errors
/// [`Code::StateDamaged`] if the bytes are not of the cell's types.
pub fn typed(cell: &Cell, entries: &Entries) -> Result<ArrayRef> {
    match (entries, &cell.key) {
        (Entries::Values(values), _) => decode(cell, values),
        (Entries::Lists { lists, .. }, _) => {
            let elements = decode(cell, lists.values().as_binary::<i32>())?;
            list_of(lists.offsets().clone(), elements, true)
        }
        (Entries::Maps { offsets, keys, values, .. }, Some(key)) => {
            let columns = vec![
                encoding::decode_map_keys(keys, key).map_err(|error| error.within(format_args!("the map `{}`", cell.name)))?,
                decode(cell, values)?,
            ];
            let entries = StructArray::try_new(entry_fields(key, &cell.value), columns, None).map_err(broken)?;
            list_of(offsets.clone(), Arc::new(entries), false)
        }
        (Entries::Maps { .. }, None) => {
            Err(Error::new(Code::InvariantBroken, format!("the cell `{}` has entries and no key type", cell.name)))
        }
    }
}

fn list_of(offsets: OffsetBuffer<i32>, elements: ArrayRef, nullable: bool) -> Result<ArrayRef> {
    let field = Arc::new(Field::new_list_field(elements.data_type().clone(), nullable));
    Ok(Arc::new(ListArray::try_new(field, offsets, elements, None::<NullBuffer>).map_err(broken)?))
}

/// Which rows must be paged; `None` for cells that have no pages.
pub fn deferred(entries: &Entries) -> Option<&arrow_array::BooleanArray> {
    match entries {
        Entries::Values(_) => None,
        Entries::Lists { deferred, .. } | Entries::Maps { deferred, .. } => Some(deferred),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
