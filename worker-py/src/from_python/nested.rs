//! Lists, structs and maps: their parts are gathered into lists and converted as columns.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray};
use arrow_buffer::{NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, FieldRef, Fields};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyByteArray, PyBytes, PyDict, PyList, PyMapping, PySequence, PyString, PyTuple};

use super::{array, is_missing};
use crate::error::{Failure, Outcome, describe};

/// The items of all rows, one after the other.
struct Items<'py> {
    values: Bound<'py, PyList>,
    /// Where each row begins, and the end.
    offsets: Vec<usize>,
    nulls: Option<NullBuffer>,
}

impl<'py> Items<'py> {
    /// Gathers the items; null rows get `padding` items.
    fn of(rows: &Bound<'py, PyList>, padding: usize) -> Outcome<Self> {
        let py = rows.py();
        let values = PyList::empty(py);
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        let mut nulls = NullBufferBuilder::new(rows.len());
        offsets.push(0);
        for (row, value) in rows.iter().enumerate() {
            if value.is_none() || is_missing_cell(&value)? {
                nulls.append_null();
                for _ in 0..padding {
                    values.append(py.None())?;
                }
            } else {
                nulls.append_non_null();
                extend(&values, &value, row)?;
            }
            offsets.push(values.len());
        }
        Ok(Self { values, offsets, nulls: nulls.finish() })
    }

    /// The row that item `item` belongs to.
    fn row_of(&self, item: usize) -> usize {
        self.offsets.partition_point(|&offset| offset <= item).saturating_sub(1)
    }

    fn convert(&self, field: &FieldRef) -> Outcome<ArrayRef> {
        let items = array(&self.values, field.data_type(), false).map_err(|failure| failure.outer_row(|item| self.row_of(item)))?;
        if !field.is_nullable() && items.null_count() > 0 {
            let padded = |item: usize| self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(self.row_of(item)));
            if let Some(item) = (0..items.len()).find(|&item| items.is_null(item) && !padded(item)) {
                return Err(Failure::at(self.row_of(item), "an item is null, which the type does not allow"));
            }
        }
        Ok(items)
    }
}

/// A null spelled `pandas.NA`; looked up only for what is neither a list nor a tuple.
fn is_missing_cell(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyDict>() {
        return Ok(false);
    }
    is_missing(value)
}

/// Appends the items of one row: a list, tuple, array or any other sequence, but no text, bytes or dict.
fn extend<'py>(values: &Bound<'py, PyList>, row_value: &Bound<'py, PyAny>, row: usize) -> Outcome<()> {
    let py = values.py();
    if row_value.is_instance_of::<PyList>() || row_value.is_instance_of::<PyTuple>() {
        values.as_sequence().in_place_concat(row_value.cast::<PySequence>().map_err(PyErr::from)?)?;
        return Ok(());
    }
    let refused = row_value.is_instance_of::<PyString>()
        || row_value.is_instance_of::<PyBytes>()
        || row_value.is_instance_of::<PyByteArray>()
        || row_value.is_instance_of::<PyMapping>();
    if !refused {
        // NumPy arrays and pandas Series give Python objects by `tolist`, and NumPy scalars one that is no list.
        let items = match row_value.getattr_opt(intern!(py, "tolist"))? {
            Some(tolist) => tolist.call0()?,
            None => row_value.clone(),
        };
        if items.is_instance_of::<PyList>() || items.is_instance_of::<PySequence>() || items.hasattr(intern!(py, "__iter__"))? {
            values.call_method1(intern!(py, "extend"), (items,))?;
            return Ok(());
        }
    }
    Err(Failure::at(row, format!("a {} is no list of items", describe(row_value))))
}

/// Converts rows of items to an `array` column.
pub fn list(rows: &Bound<'_, PyList>, field: &FieldRef) -> Outcome<ArrayRef> {
    let items = Items::of(rows, 0)?;
    let values = items.convert(field)?;
    let offsets = offsets_of(&items)?;
    Ok(Arc::new(ListArray::try_new(field.clone(), offsets, values, items.nulls)?))
}

/// As [`list`], with 64-bit offsets.
pub fn large_list(rows: &Bound<'_, PyList>, field: &FieldRef) -> Outcome<ArrayRef> {
    let items = Items::of(rows, 0)?;
    let values = items.convert(field)?;
    let offsets = ScalarBuffer::from_iter(items.offsets.iter().map(|&offset| offset as i64));
    Ok(Arc::new(LargeListArray::try_new(field.clone(), OffsetBuffer::new(offsets), values, items.nulls)?))
}

/// Converts rows of exactly `size` items.
pub fn fixed_list(rows: &Bound<'_, PyList>, field: &FieldRef, size: i32) -> Outcome<ArrayRef> {
    let size_usize = size.unsigned_abs() as usize;
    let items = Items::of(rows, size_usize)?;
    if let Some(row) = items.offsets.windows(2).position(|row| row[1] - row[0] != size_usize) {
        return Err(Failure::at(row, format!("{} items do not have the size {size}", items.offsets[row + 1] - items.offsets[row])));
    }
    let values = items.convert(field)?;
    Ok(Arc::new(FixedSizeListArray::try_new(field.clone(), size, values, items.nulls)?))
}

fn offsets_of(items: &Items<'_>) -> Outcome<OffsetBuffer<i32>> {
    if i32::try_from(items.values.len()).is_err() {
        return Err(Failure::whole("the rows hold more items than an `array` column can; use `large_array`"));
    }
    Ok(OffsetBuffer::new(ScalarBuffer::from_iter(items.offsets.iter().map(|&offset| offset as i32))))
}

/// Converts dicts, tuples by position, or objects with attributes to a `row` column.
pub fn structure(rows: &Bound<'_, PyList>, fields: &Fields) -> Outcome<ArrayRef> {
    let py = rows.py();
    let names: Vec<_> = fields.iter().map(|field| PyString::intern(py, field.name())).collect();
    let columns: Vec<_> = fields.iter().map(|_| PyList::empty(py)).collect();
    let mut nulls = NullBufferBuilder::new(rows.len());
    for (row, value) in rows.iter().enumerate() {
        if value.is_none() || is_missing_cell(&value)? {
            nulls.append_null();
            columns.iter().try_for_each(|column| column.append(py.None()))?;
        } else {
            nulls.append_non_null();
            spread(&value, row, &names, &columns)?;
        }
    }
    let nulls = nulls.finish();
    let mut arrays = Vec::with_capacity(fields.len());
    for (field, column) in fields.iter().zip(&columns) {
        let part = format!("field `{}`", field.name());
        let converted = array(column, field.data_type(), false).map_err(|failure| failure.inside(&part))?;
        let parent_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        let missing = |row: &usize| !field.is_nullable() && converted.is_null(*row) && !parent_null(*row);
        if let Some(row) = (0..converted.len()).find(missing) {
            return Err(Failure::at(row, format!("{part} is null, which the type does not allow")));
        }
        arrays.push(converted);
    }
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), arrays, nulls, rows.len())?))
}

/// Appends the fields of one row to the columns.
fn spread<'py>(value: &Bound<'py, PyAny>, row: usize, names: &[Bound<'py, PyString>], columns: &[Bound<'py, PyList>]) -> Outcome<()> {
    if let Ok(dict) = value.cast::<PyDict>() {
        let mut found = 0;
        for (name, column) in names.iter().zip(columns) {
            let item = dict.get_item(name)?;
            found += usize::from(item.is_some());
            column.append(item)?;
        }
        if found < dict.len() {
            // A key too many is most often a misspelt one, whose value would be lost without a word.
            let unknown = dict.keys().iter().find(|key| !names.iter().any(|name| name.as_any().eq(key).unwrap_or(false)));
            let unknown = unknown.map_or_else(String::new, |key| key.to_string());
            return Err(Failure::at(row, format!("the type has no field for key `{unknown}`")));
        }
        return Ok(());
    }
    if value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyList>() {
        let items = value.cast::<PySequence>().map_err(PyErr::from)?;
        if items.len()? != names.len() {
            return Err(Failure::at(row, format!("{} values for the {} fields of the type", items.len()?, names.len())));
        }
        return Ok(columns.iter().enumerate().try_for_each(|(index, column)| column.append(items.get_item(index)?))?);
    }
    if value.is_instance_of::<PyMapping>() {
        let dict = PyDict::new(value.py());
        dict.update(value.cast::<PyMapping>().map_err(PyErr::from)?)?;
        return spread(&dict.into_any(), row, names, columns);
    }
    for (name, column) in names.iter().zip(columns) {
        match value.getattr_opt(name)? {
            Some(item) => column.append(item)?,
            None => return Err(Failure::at(row, format!("a {} has no `{name}`: it is no row", describe(value)))),
        }
    }
    Ok(())
}

/// Converts dicts, or lists of pairs, to a `map` column.
pub fn map(rows: &Bound<'_, PyList>, entries: &FieldRef, sorted: bool) -> Outcome<ArrayRef> {
    let py = rows.py();
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(Failure::Type(String::from("the entries of a map must be a struct of two fields")));
    };
    let (keys, values) = (PyList::empty(py), PyList::empty(py));
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    let mut nulls = NullBufferBuilder::new(rows.len());
    offsets.push(0);
    for (row, value) in rows.iter().enumerate() {
        let present = !value.is_none() && !is_missing_cell(&value)?;
        nulls.append(present);
        if present {
            pairs(&value, row, &keys, &values)?;
        }
        offsets.push(keys.len());
    }
    let keys = Items { values: keys, offsets: offsets.clone(), nulls: None };
    let values = Items { values, offsets, nulls: None };
    let convert = |items: &Items<'_>, index: usize| items.convert(&fields[index]).map_err(|failure| failure.inside(fields[index].name()));
    let columns = vec![convert(&keys, 0)?, convert(&values, 1)?];
    let offsets = offsets_of(&keys)?;
    let structs = StructArray::try_new(fields.clone(), columns, None)?;
    Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, structs, nulls.finish(), sorted)?))
}

/// Appends the entries of one row.
fn pairs<'py>(value: &Bound<'py, PyAny>, row: usize, keys: &Bound<'py, PyList>, values: &Bound<'py, PyList>) -> Outcome<()> {
    if let Ok(dict) = value.cast::<PyDict>() {
        for (key, item) in dict.iter() {
            keys.append(key)?;
            values.append(item)?;
        }
        return Ok(());
    }
    let items = if value.is_instance_of::<PyMapping>() { value.call_method0(intern!(value.py(), "items"))? } else { value.clone() };
    let wrong = || Failure::at(row, format!("a {} is no dict and no list of pairs", describe(value)));
    if value.is_instance_of::<PyString>() {
        return Err(wrong());
    }
    let entries = items.try_iter().map_err(|error| if error.is_instance_of::<PyTypeError>(value.py()) { wrong() } else { error.into() })?;
    for entry in entries {
        let (key, item): (Bound<'_, PyAny>, Bound<'_, PyAny>) = entry?.extract().map_err(|_| wrong())?;
        keys.append(key)?;
        values.append(item)?;
    }
    Ok(())
}
