//! Conversions between Arrow types that lose nothing.
//!
//! The rule: a value either has exactly one equal value in the other type, or the conversion fails and names the row. Two exceptions, because
//! floating-point types are approximate by nature: floats are rounded to narrower floats, and decimals to floats. NaN becomes null where
//! the other type has no NaN. A timestamp without a zone is taken as UTC by a type with one; the reverse is refused.

mod nested;
mod temporal;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, Float64Array, PrimitiveArray, new_null_array};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_cast::display::array_value_to_string;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::DataType;

use crate::error::{Failure, Outcome};
use crate::text::text;

/// Converts an array to `to`. With `nan_is_null`, NaN is null in floating-point results too.
///
/// # Errors
/// [`Failure::Type`] if the types do not fit, [`Failure::Value`] with the row if a value does not.
pub fn lossless(array: &ArrayRef, to: &DataType, nan_is_null: bool) -> Outcome<ArrayRef> {
    use DataType::{Date32, Date64, Dictionary, Duration, FixedSizeBinary, Map, Null, RunEndEncoded, Struct, Time32, Time64, Timestamp};
    let from = array.data_type();
    let converted = match (from, to) {
        (from, to) if from == to => array.clone(),
        (Null, _) => new_null_array(to, array.len()),
        (Dictionary(_, values), _) => return lossless(&plain(array, values)?, to, nan_is_null),
        (RunEndEncoded(_, values), _) => return lossless(&plain(array, values.data_type())?, to, nan_is_null),
        (_, Dictionary(_, values)) => plain(&lossless(array, values, nan_is_null)?, to)?,
        (from, to) if (is_text(from) && is_text(to)) || (is_bytes(from) && is_bytes(to)) => plain(array, to)?,
        (FixedSizeBinary(_), to) if is_bytes(to) => plain(array, to)?,
        (from, FixedSizeBinary(_)) if is_bytes(from) => checked(array, to)?,
        (from, to) if from.is_integer() && to.is_integer() => checked(array, to)?,
        (from, to) if from.is_integer() && to.is_floating() => exact(array, to)?,
        (from, to) if from.is_integer() && is_decimal(to) => checked(array, to)?,
        (from, to) if is_decimal(from) && (is_decimal(to) || to.is_integer()) => exact(array, to)?,
        (from, to) if is_decimal(from) && to.is_floating() => checked(array, to)?,
        (from, to) if from.is_floating() && to.is_floating() => round(array, to)?,
        (from, to) if from.is_floating() && to.is_integer() => whole(array, to)?,
        (from, to) if from.is_floating() && all_nan(array)? => new_null_array(to, array.len()),
        (Timestamp(..) | Date32 | Date64, Timestamp(..) | Date32 | Date64)
        | (Time32(_) | Time64(_), Time32(_) | Time64(_))
        | (Duration(_), Duration(_)) => temporal::rescale(array, to)?,
        (from, to) if nested::is_list(from) && nested::is_list(to) => nested::list(array, to)?,
        (Struct(_), Struct(fields)) => nested::structure(array, fields)?,
        (Map(..), Map(entries, sorted)) => nested::map(array, entries, *sorted)?,
        _ => return Err(unfit(from, to)),
    };
    if nan_is_null && to.is_floating() { nan_to_null(&converted) } else { Ok(converted) }
}

/// The failure of two types that do not fit.
fn unfit(from: &DataType, to: &DataType) -> Failure {
    Failure::Type(format!("`{}` cannot be converted to `{}` without loss", text(from, true), text(to, true)))
}

/// A conversion that cannot fail on a value.
fn plain(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    Ok(cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })?)
}

/// A conversion that fails on the first value out of range.
fn checked(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    // What does not fit becomes null, which tells its row; an error of the kernel would not.
    let converted = cast_with_options(array, to, &CastOptions { safe: true, ..CastOptions::default() })?;
    if converted.null_count() == array.null_count() {
        return Ok(converted);
    }
    match (0..array.len()).find(|&row| converted.is_null(row) && !array.is_null(row)) {
        Some(row) => Err(value_unfit(array, row, to)),
        None => Ok(converted),
    }
}

/// A conversion that fails on the first value that does not come back the same.
fn exact(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    let converted = checked(array, to)?;
    let back = cast_with_options(&converted, array.data_type(), &CastOptions { safe: true, ..CastOptions::default() })?;
    if array.to_data() == back.to_data() {
        return Ok(converted);
    }
    match (0..array.len()).find(|&row| array.slice(row, 1).to_data() != back.slice(row, 1).to_data()) {
        Some(row) => Err(value_unfit(array, row, to)),
        None => Ok(converted),
    }
}

/// Floats to floats, rounded; fails if a finite value would become infinite.
fn round(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    let converted = plain(array, to)?;
    let (wide, narrow) = (doubles(array)?, doubles(&converted)?);
    let lost = wide.values().iter().zip(narrow.values()).position(|(before, after)| before.is_finite() && !after.is_finite());
    match lost.filter(|&row| array.is_valid(row)) {
        Some(row) => Err(value_unfit(array, row, to)),
        None => Ok(converted),
    }
}

/// Floats to integers; NaN becomes null, fractions fail.
fn whole(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    let values: ArrayRef = nan_to_null(&(Arc::new(doubles(array)?) as ArrayRef))?;
    let fraction =
        values.as_primitive::<Float64Type>().values().iter().enumerate().find(|(row, value)| value.fract() != 0.0 && values.is_valid(*row));
    match fraction {
        // The fraction of an infinite value is NaN; that case is out of range below.
        Some((row, value)) if value.is_finite() => Err(value_unfit(&values, row, to)),
        _ => checked(&values, to),
    }
}

fn doubles(array: &ArrayRef) -> Outcome<Float64Array> {
    Ok(plain(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

/// True if every value is NaN or null: how pandas spells a column of nulls.
fn all_nan(array: &ArrayRef) -> Outcome<bool> {
    let values = doubles(array)?;
    Ok(values.iter().flatten().all(f64::is_nan))
}

/// Makes NaN null.
fn nan_to_null(array: &ArrayRef) -> Outcome<ArrayRef> {
    fn mask<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, is_nan: impl Fn(T::Native) -> bool) -> Outcome<ArrayRef> {
        let values = array.values();
        if !values.iter().any(|&value| is_nan(value)) {
            return Ok(Arc::new(array.clone()));
        }
        let numbers = NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| !is_nan(values[row])));
        let nulls = NullBuffer::union(array.nulls(), Some(&numbers));
        Ok(Arc::new(PrimitiveArray::<T>::try_new(values.clone(), nulls)?))
    }
    match array.data_type() {
        DataType::Float16 => mask(array.as_primitive::<Float16Type>(), |value| value.is_nan()),
        DataType::Float32 => mask(array.as_primitive::<Float32Type>(), f32::is_nan),
        DataType::Float64 => mask(array.as_primitive::<Float64Type>(), f64::is_nan),
        _ => Ok(array.clone()),
    }
}

/// The failure of a value that has no equal in `to`.
fn value_unfit(array: &ArrayRef, row: usize, to: &DataType) -> Failure {
    let value = array_value_to_string(array, row).unwrap_or_default();
    Failure::at(row, format!("value {value} cannot be converted to `{}` without loss", text(to, true)))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_decimal(data_type: &DataType) -> bool {
    crate::datatype::decimal_of(data_type).is_some()
}
