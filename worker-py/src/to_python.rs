//! Arrow arrays to lists of Python objects.

mod temporal;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait, PrimitiveArray};
use arrow_schema::{DataType, Fields};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::classes;
use crate::text::text;

/// The values of an array, `None` for null; see `Column.to_pylist`.
pub fn list<'py>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    match array.data_type() {
        DataType::Null => PyList::new(py, (0..array.len()).map(|_| py.None())),
        DataType::Boolean => PyList::new(py, optional(array.as_boolean())),
        DataType::Int8 => numbers::<Int8Type>(py, array),
        DataType::Int16 => numbers::<Int16Type>(py, array),
        DataType::Int32 => numbers::<Int32Type>(py, array),
        DataType::Int64 => numbers::<Int64Type>(py, array),
        DataType::UInt8 => numbers::<UInt8Type>(py, array),
        DataType::UInt16 => numbers::<UInt16Type>(py, array),
        DataType::UInt32 => numbers::<UInt32Type>(py, array),
        DataType::UInt64 => numbers::<UInt64Type>(py, array),
        DataType::Float16 => PyList::new(py, array.as_primitive::<Float16Type>().iter().map(|value| value.map(|value| value.to_f64()))),
        DataType::Float32 => numbers::<Float32Type>(py, array),
        DataType::Float64 => numbers::<Float64Type>(py, array),
        DataType::Utf8 => texts(py, optional(array.as_string::<i32>())),
        DataType::LargeUtf8 => texts(py, optional(array.as_string::<i64>())),
        DataType::Utf8View => texts(py, optional(array.as_string_view())),
        DataType::Binary => bytes(py, optional(array.as_binary::<i32>())),
        DataType::LargeBinary => bytes(py, optional(array.as_binary::<i64>())),
        DataType::BinaryView => bytes(py, optional(array.as_binary_view())),
        DataType::FixedSizeBinary(_) => bytes(py, optional(array.as_fixed_size_binary())),
        DataType::Decimal32(..) => decimals::<Decimal32Type>(py, array),
        DataType::Decimal64(..) => decimals::<Decimal64Type>(py, array),
        DataType::Decimal128(..) => decimals::<Decimal128Type>(py, array),
        DataType::Decimal256(..) => decimals::<Decimal256Type>(py, array),
        data_type if data_type.is_temporal() => temporal::list(py, array),
        DataType::List(_) => lists::<i32>(py, array),
        DataType::LargeList(_) => lists::<i64>(py, array),
        DataType::FixedSizeList(_, size) => fixed_lists(py, array, size.unsigned_abs() as usize),
        DataType::Struct(fields) => dicts(py, array, fields),
        DataType::Map(..) => maps(py, array),
        DataType::Dictionary(keys, _) => dictionary(py, array, keys),
        other => Err(unsupported(other)),
    }
}

/// The error of a type whose values have no Python equivalent.
fn unsupported(data_type: &DataType) -> PyErr {
    PyTypeError::new_err(format!("values of type `{}` cannot be given to Python", text(data_type, true)))
}

/// The items of an array, as an iterator of known length.
fn optional<A: arrow_array::ArrayAccessor>(array: A) -> arrow_array::iterator::ArrayIter<A> {
    arrow_array::iterator::ArrayIter::new(array)
}

fn numbers<'py, T>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>>
where
    T: ArrowPrimitiveType,
    T::Native: IntoPyObject<'py>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    if array.null_count() == 0 { PyList::new(py, array.values().iter().copied()) } else { PyList::new(py, array.iter()) }
}

/// A text that is repeated row after row is one object.
fn texts<'a, 'py>(py: Python<'py>, items: impl ExactSizeIterator<Item = Option<&'a str>>) -> PyResult<Bound<'py, PyList>> {
    let mut last: Option<(&str, Bound<'py, PyString>)> = None;
    PyList::new(
        py,
        items.map(|item| {
            item.map(|item| match &last {
                Some((text, object)) if *text == item => object.clone(),
                _ => last.insert((item, PyString::new(py, item))).1.clone(),
            })
        }),
    )
}

fn bytes<'a, 'py>(py: Python<'py>, items: impl Iterator<Item = Option<&'a [u8]>>) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, items.map(|item| item.map(|item| PyBytes::new(py, item))))
}

fn decimals<'py, T: DecimalType + ArrowPrimitiveType>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    let decimal = classes::decimal(py)?;
    let array: &PrimitiveArray<T> = array.as_primitive();
    let values = (0..array.len())
        .map(|row| array.is_valid(row).then(|| decimal.call1((array.value_as_string(row),))).transpose())
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, values)
}

fn lists<'py, O: OffsetSizeTrait>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    let lists = array.as_list::<O>();
    let offsets = lists.value_offsets();
    let (first, last) = match offsets {
        [first, .., last] => (first.as_usize(), last.as_usize()),
        _ => (0, 0),
    };
    let items = list(py, &lists.values().slice(first, last - first))?;
    let rows = (0..lists.len())
        .map(|row| lists.is_valid(row).then(|| items.get_slice(offsets[row].as_usize() - first, offsets[row + 1].as_usize() - first)));
    PyList::new(py, rows.collect::<Vec<_>>())
}

fn fixed_lists<'py>(py: Python<'py>, array: &ArrayRef, size: usize) -> PyResult<Bound<'py, PyList>> {
    let lists = array.as_fixed_size_list();
    let items = list(py, lists.values())?;
    let rows = (0..lists.len()).map(|row| lists.is_valid(row).then(|| items.get_slice(row * size, (row + 1) * size)));
    PyList::new(py, rows.collect::<Vec<_>>())
}

fn dicts<'py>(py: Python<'py>, array: &ArrayRef, fields: &Fields) -> PyResult<Bound<'py, PyList>> {
    let structs = array.as_struct();
    let names: Vec<_> = fields.iter().map(|field| PyString::intern(py, field.name())).collect();
    let columns = structs.columns().iter().map(|column| list(py, column)).collect::<PyResult<Vec<_>>>()?;
    let row_dict = |row: usize| {
        let dict = PyDict::new(py);
        for (name, column) in names.iter().zip(&columns) {
            dict.set_item(name, column.get_item(row)?)?;
        }
        Ok(dict)
    };
    let rows = (0..structs.len()).map(|row| structs.is_valid(row).then(|| row_dict(row)).transpose()).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, rows)
}

fn maps<'py>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    let maps = array.as_map();
    let offsets = maps.value_offsets();
    let (keys, values) = (list(py, maps.keys())?, list(py, maps.values())?);
    let row_dict = |row: usize| {
        let dict = PyDict::new(py);
        for entry in offsets[row]..offsets[row + 1] {
            let entry = usize::try_from(entry).unwrap_or(0);
            dict.set_item(keys.get_item(entry)?, values.get_item(entry)?)?;
        }
        Ok(dict)
    };
    let rows = (0..maps.len()).map(|row| maps.is_valid(row).then(|| row_dict(row)).transpose()).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, rows)
}

fn dictionary<'py>(py: Python<'py>, array: &ArrayRef, keys: &DataType) -> PyResult<Bound<'py, PyList>> {
    fn of<'py, K: ArrowDictionaryKeyType>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
        let array = array.as_dictionary::<K>();
        // Equal values become one object.
        let values = list(py, array.values())?;
        let rows = (0..array.len()).map(|row| array.key(row).map(|key| values.get_item(key)).transpose()).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, rows)
    }
    match keys {
        DataType::Int8 => of::<Int8Type>(py, array),
        DataType::Int16 => of::<Int16Type>(py, array),
        DataType::Int32 => of::<Int32Type>(py, array),
        DataType::Int64 => of::<Int64Type>(py, array),
        DataType::UInt8 => of::<UInt8Type>(py, array),
        DataType::UInt16 => of::<UInt16Type>(py, array),
        DataType::UInt32 => of::<UInt32Type>(py, array),
        DataType::UInt64 => of::<UInt64Type>(py, array),
        other => Err(unsupported(other)),
    }
}
