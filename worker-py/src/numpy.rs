//! NumPy arrays to Arrow, through `__array_interface__` alone: any NumPy, and anything that speaks its protocol.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{ArrayRef, BooleanArray, PrimitiveArray};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow_schema::DataType;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::buffers::Foreign;
use crate::error::{Failure, Outcome};
use crate::{cast, from_python};

/// What stands for NaT in `datetime64` and `timedelta64`.
const NAT: i64 = i64::MIN;

/// Converts a one-dimensional array; see `Column.from_numpy`.
pub fn array(values: &Bound<'_, PyAny>, mask: Option<&Bound<'_, PyAny>>, data_type: &DataType, nan_is_null: bool) -> Outcome<ArrayRef> {
    let described = describe(values)?;
    let mask = mask.map(|mask| mask_of(mask, described.foreign.length)).transpose()?.flatten();
    match described.code {
        // Objects and text have no memory of their own in the array; pandas and numpy turn them into Python objects best.
        'O' | 'U' | 'S' | 'T' => {
            let list = values.call_method0(intern!(values.py(), "tolist"))?.cast_into::<PyList>().map_err(PyErr::from)?;
            if let Some(mask) = &mask {
                (0..list.len()).filter(|&row| mask.is_null(row)).try_for_each(|row| list.set_item(row, values.py().None()))?;
            }
            from_python::array(&list, data_type, nan_is_null)
        }
        _ => cast::lossless(&natural(described, mask)?, data_type, nan_is_null),
    }
}

/// An `__array_interface__`, read.
struct Described {
    /// NumPy's character code of the kind, for example `i`, `f`, `M`.
    code: char,
    /// Bytes per element.
    width: usize,
    /// Unit of `M` and `m`, with its multiple, for example `us`, `25s`; empty for others.
    unit: String,
    foreign: Foreign,
}

fn describe(values: &Bound<'_, PyAny>) -> Outcome<Described> {
    let py = values.py();
    let Some(interface) = values.getattr_opt(intern!(py, "__array_interface__"))? else {
        let kind = values.get_type().name()?;
        return Err(Failure::Type(format!("a `{kind}` is no array: it has no `__array_interface__`")));
    };
    let interface = interface.cast_into::<PyDict>().map_err(PyErr::from)?;
    let typestr: String = required(&interface, "typestr")?.extract()?;
    let shape = required(&interface, "shape")?.cast_into::<PyTuple>().map_err(PyErr::from)?;
    if shape.len() != 1 {
        return Err(Failure::Type(format!("an array of {} dimensions is no column", shape.len())));
    }
    let length: usize = shape.get_item(0)?.extract()?;
    let (code, width, unit) = typestr_parts(&typestr)?;
    let stride = match interface.get_item(intern!(py, "strides"))? {
        Some(strides) if !strides.is_none() => strides.get_item(0)?.extract::<isize>()?,
        _ => width.cast_signed(),
    };
    let address = match interface.get_item(intern!(py, "data"))? {
        Some(data) if data.is_instance_of::<PyTuple>() => data.get_item(0)?.extract::<usize>()?,
        // A buffer object instead of an address: nothing that NumPy itself makes.
        _ => return Err(Failure::Type(String::from("the array gives no address of its data"))),
    };
    Ok(Described { code, width, unit, foreign: Foreign { owner: values.clone().unbind(), address, length, stride } })
}

fn required<'py>(interface: &Bound<'py, PyDict>, key: &str) -> Outcome<Bound<'py, PyAny>> {
    interface.get_item(key)?.ok_or_else(|| Failure::Type(format!("the array interface has no `{key}`")))
}

/// Takes a typestr apart: `<M8[us]` is kind `M`, 8 bytes, unit `us`.
fn typestr_parts(typestr: &str) -> Outcome<(char, usize, String)> {
    let wrong = || Failure::Type(format!("arrays of dtype `{typestr}` cannot be converted"));
    let mut chars = typestr.chars();
    let order = chars.next().ok_or_else(wrong)?;
    let code = chars.next().ok_or_else(wrong)?;
    let rest = chars.as_str();
    let (digits, unit) = rest.split_once('[').map_or((rest, ""), |(digits, unit)| (digits, unit.trim_end_matches(']')));
    // Objects are written without a width.
    let width = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| wrong())? };
    let native = if cfg!(target_endian = "little") { '<' } else { '>' };
    if order == native || order == '|' || order == '=' {
        Ok((code, width, unit.to_owned()))
    } else {
        Err(Failure::Type(format!("arrays of dtype `{typestr}` are not in native byte order")))
    }
}

/// A boolean array, true for null, as validity; `None` if nothing is null.
fn mask_of(mask: &Bound<'_, PyAny>, length: usize) -> Outcome<Option<NullBuffer>> {
    let described = describe(mask)?;
    if described.code != 'b' || described.width != 1 {
        return Err(Failure::Type(String::from("the mask is no boolean array")));
    }
    if described.foreign.length != length {
        return Err(Failure::Type(format!("the mask has {} rows, the values have {length}", described.foreign.length)));
    }
    let nulls: Vec<u8> = described.foreign.copy();
    let valid = BooleanBuffer::collect_bool(nulls.len(), |row| nulls[row] == 0);
    Ok(Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0))
}

/// The array in the Arrow type that lies the same in memory.
fn natural(described: Described, nulls: Option<NullBuffer>) -> Outcome<ArrayRef> {
    let Described { code, width, unit, foreign } = described;
    Ok(match (code, width) {
        ('b', 1) => {
            let bytes: Vec<u8> = foreign.copy();
            Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(bytes.len(), |row| bytes[row] != 0), nulls))
        }
        ('i', 1) => primitive::<Int8Type>(foreign, nulls)?,
        ('i', 2) => primitive::<Int16Type>(foreign, nulls)?,
        ('i', 4) => primitive::<Int32Type>(foreign, nulls)?,
        ('i', 8) => primitive::<Int64Type>(foreign, nulls)?,
        ('u', 1) => primitive::<UInt8Type>(foreign, nulls)?,
        ('u', 2) => primitive::<UInt16Type>(foreign, nulls)?,
        ('u', 4) => primitive::<UInt32Type>(foreign, nulls)?,
        ('u', 8) => primitive::<UInt64Type>(foreign, nulls)?,
        ('f', 2) => primitive::<Float16Type>(foreign, nulls)?,
        ('f', 4) => primitive::<Float32Type>(foreign, nulls)?,
        ('f', 8) => primitive::<Float64Type>(foreign, nulls)?,
        ('M', 8) => match unit.as_str() {
            "s" => temporal::<TimestampSecondType>(foreign, nulls)?,
            "ms" => temporal::<TimestampMillisecondType>(foreign, nulls)?,
            "us" => temporal::<TimestampMicrosecondType>(foreign, nulls)?,
            "ns" => temporal::<TimestampNanosecondType>(foreign, nulls)?,
            _ => coarse::<TimestampSecondType>(&foreign, nulls, seconds_in(&unit, "datetime64")?)?,
        },
        ('m', 8) => match unit.as_str() {
            "s" => temporal::<DurationSecondType>(foreign, nulls)?,
            "ms" => temporal::<DurationMillisecondType>(foreign, nulls)?,
            "us" => temporal::<DurationMicrosecondType>(foreign, nulls)?,
            "ns" => temporal::<DurationNanosecondType>(foreign, nulls)?,
            _ => coarse::<DurationSecondType>(&foreign, nulls, seconds_in(&unit, "timedelta64")?)?,
        },
        _ => return Err(Failure::Type(format!("arrays of dtype `{code}{width}` cannot be converted"))),
    })
}

fn primitive<T: ArrowPrimitiveType>(foreign: Foreign, nulls: Option<NullBuffer>) -> Outcome<ArrayRef> {
    let length = foreign.length;
    let values = ScalarBuffer::<T::Native>::new(foreign.buffer::<T::Native>(), 0, length);
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values, nulls)?))
}

/// As [`primitive`], with NaT as null.
fn temporal<T: ArrowPrimitiveType<Native = i64>>(foreign: Foreign, nulls: Option<NullBuffer>) -> Outcome<ArrayRef> {
    let length = foreign.length;
    let values = ScalarBuffer::<i64>::new(foreign.buffer::<i64>(), 0, length);
    let nulls = NullBuffer::union(nulls.as_ref(), nat_mask(&values).as_ref());
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values, nulls)?))
}

/// Days, hours and other units above a second, as seconds.
fn coarse<T: ArrowPrimitiveType<Native = i64>>(foreign: &Foreign, nulls: Option<NullBuffer>, seconds: i64) -> Outcome<ArrayRef> {
    let mut values: Vec<i64> = foreign.copy();
    let nulls = NullBuffer::union(nulls.as_ref(), nat_mask(&values).as_ref());
    for (row, value) in values.iter_mut().enumerate() {
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            *value = value.checked_mul(seconds).ok_or_else(|| Failure::at(row, "the time is out of range"))?;
        }
    }
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?))
}

fn nat_mask(values: &[i64]) -> Option<NullBuffer> {
    // Most arrays have none, and looking is cheaper than building the mask.
    values.contains(&NAT).then(|| NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| values[row] != NAT)))
}

/// Seconds in a unit above one second.
fn seconds_in(unit: &str, dtype: &str) -> Outcome<i64> {
    Ok(match unit {
        "m" => 60,
        "h" => 3_600,
        "D" => 86_400,
        "W" => 604_800,
        _ => return Err(Failure::Type(format!("arrays of dtype `{dtype}[{unit}]` cannot be converted"))),
    })
}
