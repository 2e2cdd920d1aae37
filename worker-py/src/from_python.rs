//! Lists of Python objects to Arrow arrays.

mod decimal;
mod nested;
mod scalar;
mod temporal;

use std::sync::Arc;

use arrow_array::builder::{GenericByteBuilder, GenericByteViewBuilder};
use arrow_array::types::{
    ArrowPrimitiveType, BinaryType, BinaryViewType, ByteArrayType, ByteViewType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, LargeBinaryType, LargeUtf8Type,
    StringViewType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, Utf8Type,
};
use arrow_array::{ArrayRef, BooleanArray, FixedSizeBinaryArray, NullArray, PrimitiveArray};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer, NullBufferBuilder};
use arrow_schema::DataType;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyList};

use crate::cast;
use crate::error::{Failure, Outcome, describe};
use crate::text::text;

/// Why one value could not be converted.
enum Problem {
    /// No value of this Python type can.
    Unfit,
    /// This value cannot; why.
    Value(String),
    /// Python raised.
    Raised(PyErr),
}

impl From<PyErr> for Problem {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// The result of converting one value.
type Converted<T> = Result<T, Problem>;

/// What a column is converted to.
struct Target<'a> {
    data_type: &'a DataType,
    nan_is_null: bool,
}

/// Converts a list; see `Column.from_pylist`.
pub fn array(values: &Bound<'_, PyList>, data_type: &DataType, nan_is_null: bool) -> Outcome<ArrayRef> {
    use DataType as D;
    let target = Target { data_type, nan_is_null };
    match data_type {
        D::Null => {
            collect(values, &target, |_| Err::<(), _>(Problem::Unfit))?;
            Ok(Arc::new(NullArray::new(values.len())))
        }
        D::Boolean => booleans(values, &target),
        D::Int8 => primitive::<Int8Type>(values, &target, scalar::integer),
        D::Int16 => primitive::<Int16Type>(values, &target, scalar::integer),
        D::Int32 => primitive::<Int32Type>(values, &target, scalar::integer),
        D::Int64 => primitive::<Int64Type>(values, &target, scalar::integer),
        D::UInt8 => primitive::<UInt8Type>(values, &target, scalar::integer),
        D::UInt16 => primitive::<UInt16Type>(values, &target, scalar::integer),
        D::UInt32 => primitive::<UInt32Type>(values, &target, scalar::integer),
        D::UInt64 => primitive::<UInt64Type>(values, &target, scalar::unsigned),
        D::Float16 => primitive::<Float16Type>(values, &target, |value| {
            let double = scalar::double(value)?;
            let half = <Float16Type as ArrowPrimitiveType>::Native::from_f64(double);
            scalar::rounded(half, double.is_finite() && !half.is_finite())
        }),
        D::Float32 => primitive::<Float32Type>(values, &target, |value| {
            let double = scalar::double(value)?;
            let single = double as f32;
            scalar::rounded(single, double.is_finite() && !single.is_finite())
        }),
        D::Float64 => primitive::<Float64Type>(values, &target, scalar::double),
        D::Utf8 => texts::<Utf8Type>(values, &target),
        D::LargeUtf8 => texts::<LargeUtf8Type>(values, &target),
        D::Utf8View => text_views(values, &target),
        D::Binary => binaries::<BinaryType>(values, &target),
        D::LargeBinary => binaries::<LargeBinaryType>(values, &target),
        D::BinaryView => binary_views(values, &target),
        D::FixedSizeBinary(width) => fixed_binaries(values, &target, *width),
        D::Decimal32(precision, scale) => decimal::array::<Decimal32Type>(values, &target, *precision, *scale),
        D::Decimal64(precision, scale) => decimal::array::<Decimal64Type>(values, &target, *precision, *scale),
        D::Decimal128(precision, scale) => decimal::array::<Decimal128Type>(values, &target, *precision, *scale),
        D::Decimal256(precision, scale) => decimal::array::<Decimal256Type>(values, &target, *precision, *scale),
        D::Interval(_) => Err(unsupported(data_type)),
        temporal if temporal.is_temporal() => temporal::array(values, &target),
        D::List(item) => nested::list(values, item),
        D::LargeList(item) => nested::large_list(values, item),
        D::FixedSizeList(item, size) => nested::fixed_list(values, item, *size),
        D::Struct(fields) => nested::structure(values, fields),
        D::Map(entries, sorted) => nested::map(values, entries, *sorted),
        D::Dictionary(_, plain) => cast::lossless(&array(values, plain, nan_is_null)?, data_type, false),
        other => Err(unsupported(other)),
    }
}

fn unsupported(data_type: &DataType) -> Failure {
    Failure::Type(format!("values of type `{}` cannot be made from Python objects", text(data_type, true)))
}

/// Calls `put` with the row and the converted value, or `None` for null, of every item.
///
/// `convert` sees each value that is not `None`; what it refuses is tried again as a missing value or as a NumPy scalar.
fn for_each<'py, T>(
    values: &Bound<'py, PyList>,
    target: &Target<'_>,
    convert: impl Fn(&Bound<'py, PyAny>) -> Converted<T>,
    mut put: impl FnMut(usize, Option<T>) -> Outcome<()>,
) -> Outcome<()> {
    for (row, value) in values.iter().enumerate() {
        if value.is_none() {
            put(row, None)?;
            continue;
        }
        match convert(&value) {
            // NaN is looked for here and not in `convert`, because it depends on the caller's wish.
            Ok(_) if target.nan_is_null && is_nan(&value) => put(row, None)?,
            Ok(converted) => put(row, Some(converted))?,
            Err(problem) => put(row, second_chance(&value, row, problem, target, &convert)?)?,
        }
    }
    Ok(())
}

fn is_nan(value: &Bound<'_, PyAny>) -> bool {
    value.cast::<PyFloat>().is_ok_and(|float| float.value().is_nan())
}

/// A value that was refused: missing, a NumPy scalar, or really wrong.
#[cold]
fn second_chance<'py, T>(
    value: &Bound<'py, PyAny>,
    row: usize,
    problem: Problem,
    target: &Target<'_>,
    convert: &impl Fn(&Bound<'py, PyAny>) -> Converted<T>,
) -> Outcome<Option<T>> {
    if is_missing(value)? || (target.nan_is_null && is_nan(value)) {
        return Ok(None);
    }
    let py = value.py();
    let unfit = matches!(problem, Problem::Unfit);
    let problem = if unfit && value.hasattr(intern!(py, "dtype"))? && value.hasattr(intern!(py, "item"))? {
        // A NumPy scalar. Arrays of one element have `item` too, and more dimensions than none.
        let is_scalar = value.getattr(intern!(py, "ndim")).and_then(|ndim| ndim.extract::<usize>()).is_ok_and(|ndim| ndim == 0);
        let item = if is_scalar { value.call_method0(intern!(py, "item"))? } else { value.clone() };
        match convert(&item) {
            Ok(_) if target.nan_is_null && is_nan(&item) => return Ok(None),
            Ok(converted) => return Ok(Some(converted)),
            Err(problem) => problem,
        }
    } else {
        problem
    };
    Err(match problem {
        Problem::Unfit => Failure::at(row, format!("a {} cannot be converted to `{}`", describe(value), text(target.data_type, true))),
        Problem::Value(why) => {
            Failure::at(row, format!("a {} cannot be converted to `{}`: {why}", describe(value), text(target.data_type, true)))
        }
        Problem::Raised(error) => Failure::Raised(error),
    })
}

/// True for `pandas.NA` and `pandas.NaT`, which mean null in every type; known by name, since pandas may not be there.
fn is_missing(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let name = value.get_type().name()?;
    let name = name.to_str()?;
    Ok(matches!(name, "NAType" | "NaTType"))
}

/// The converted values, with the type's default where null.
fn collect<'py, T: Default>(
    values: &Bound<'py, PyList>,
    target: &Target<'_>,
    convert: impl Fn(&Bound<'py, PyAny>) -> Converted<T>,
) -> Outcome<(Vec<T>, Option<NullBuffer>)> {
    let mut converted = Vec::with_capacity(values.len());
    let mut nulls = NullBufferBuilder::new(values.len());
    for_each(values, target, convert, |_, value| {
        nulls.append(value.is_some());
        converted.push(value.unwrap_or_default());
        Ok(())
    })?;
    Ok((converted, nulls.finish()))
}

fn primitive<'py, T: ArrowPrimitiveType>(
    values: &Bound<'py, PyList>,
    target: &Target<'_>,
    convert: impl Fn(&Bound<'py, PyAny>) -> Converted<T::Native>,
) -> Outcome<ArrayRef> {
    let (values, nulls) = collect(values, target, convert)?;
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?.with_data_type(target.data_type.clone())))
}

fn booleans(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let mut bits = BooleanBufferBuilder::new(values.len());
    let mut nulls = NullBufferBuilder::new(values.len());
    for_each(values, target, scalar::boolean, |_, value| {
        nulls.append(value.is_some());
        bits.append(value.unwrap_or_default());
        Ok(())
    })?;
    Ok(Arc::new(BooleanArray::new(bits.finish(), nulls.finish())))
}

/// Most bytes that the 32-bit offsets of a `string` or `bytes` column can address.
const MOST_BYTES: usize = i32::MAX as usize;

/// Fails before the builder's offsets overflow.
fn check_room<T: ByteArrayType>(used: usize, more: usize, row: usize, target: &Target<'_>) -> Outcome<()> {
    if size_of::<T::Offset>() == 4 && used.saturating_add(more) > MOST_BYTES {
        let kind = text(target.data_type, true);
        return Err(Failure::at(row, format!("the values exceed the 2 GiB that a `{kind}` column can hold; use `large_{kind}`")));
    }
    Ok(())
}

fn texts<T: ByteArrayType<Native = str>>(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let mut builder = GenericByteBuilder::<T>::with_capacity(values.len(), values.len() * 8);
    for_each(values, target, scalar::text, |row, value| {
        match value {
            Some(value) => {
                let value = value.to_str()?;
                check_room::<T>(builder.values_slice().len(), value.len(), row, target)?;
                builder.append_value(value);
            }
            None => builder.append_null(),
        }
        Ok(())
    })?;
    Ok(Arc::new(builder.finish()))
}

fn text_views(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let mut builder = GenericByteViewBuilder::<StringViewType>::with_capacity(values.len());
    for_each(values, target, scalar::text, |row, value| match value {
        Some(value) => view(&mut builder, value.to_str()?, row),
        None => {
            builder.append_null();
            Ok(())
        }
    })?;
    Ok(Arc::new(builder.finish()))
}

fn binaries<T: ByteArrayType<Native = [u8]>>(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let mut builder = GenericByteBuilder::<T>::with_capacity(values.len(), values.len() * 8);
    for_each(values, target, scalar::bytes, |row, value| {
        match value {
            Some(value) => {
                check_room::<T>(builder.values_slice().len(), value.as_bytes().len(), row, target)?;
                builder.append_value(value.as_bytes());
            }
            None => builder.append_null(),
        }
        Ok(())
    })?;
    Ok(Arc::new(builder.finish()))
}

fn binary_views(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let mut builder = GenericByteViewBuilder::<BinaryViewType>::with_capacity(values.len());
    for_each(values, target, scalar::bytes, |row, value| match value {
        Some(value) => view(&mut builder, value.as_bytes(), row),
        None => {
            builder.append_null();
            Ok(())
        }
    })?;
    Ok(Arc::new(builder.finish()))
}

fn view<T: ByteViewType>(builder: &mut GenericByteViewBuilder<T>, value: impl AsRef<T::Native>, row: usize) -> Outcome<()> {
    builder.try_append_value(value).map_err(|error| Failure::at(row, error.to_string()))
}

fn fixed_binaries(values: &Bound<'_, PyList>, target: &Target<'_>, width: i32) -> Outcome<ArrayRef> {
    let width_usize = width.unsigned_abs() as usize;
    let mut bytes = Vec::with_capacity(values.len() * width_usize);
    let mut nulls = NullBufferBuilder::new(values.len());
    for_each(values, target, scalar::bytes, |row, value| {
        nulls.append(value.is_some());
        match value {
            Some(value) if value.as_bytes().len() == width_usize => bytes.extend_from_slice(value.as_bytes()),
            Some(value) => return Err(Failure::at(row, format!("{} bytes do not have the width {width}", value.as_bytes().len()))),
            None => bytes.resize(bytes.len() + width_usize, 0),
        }
        Ok(())
    })?;
    Ok(Arc::new(FixedSizeBinaryArray::try_new_with_len(width, bytes.into(), nulls.finish(), values.len())?))
}
