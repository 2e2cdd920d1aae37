//! Dates, times, timestamps and durations between units.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array};
use arrow_schema::DataType;

use super::{plain, unfit, value_unfit};
use crate::datatype::per_second;
use crate::error::{Failure, Outcome};

const SECONDS_PER_DAY: i64 = 86_400;

/// How long one unit of a type is: `(units, seconds)` for that many units in that many seconds.
fn resolution(data_type: &DataType) -> Option<(i64, i64)> {
    Some(match data_type {
        DataType::Date32 => (1, SECONDS_PER_DAY),
        DataType::Date64 => (1_000, 1),
        DataType::Timestamp(unit, _) | DataType::Duration(unit) | DataType::Time32(unit) | DataType::Time64(unit) => (per_second(*unit), 1),
        _ => return None,
    })
}

/// Converts between units; fails if a value is no whole number of the other unit.
pub fn rescale(array: &ArrayRef, to: &DataType) -> Outcome<ArrayRef> {
    let from = array.data_type();
    if let (DataType::Timestamp(_, Some(zone)), DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64) = (from, to) {
        return Err(Failure::Type(format!(
            "a timestamp with time zone `{zone}` cannot be converted to `{}`, which has none",
            crate::text::text(to, true)
        )));
    }
    let ((from_units, from_seconds), (to_units, to_seconds)) = resolution(from).zip(resolution(to)).ok_or_else(|| unfit(from, to))?;
    // One unit of `from` is `multiply / divide` units of `to`, and one of the two is 1, but for days in milliseconds.
    let (multiply, divide) = reduce(to_units * from_seconds, from_units * to_seconds);
    let values = integers(array)?;
    let values = if *to == DataType::Date64 {
        whole_days(array, &values, multiply, divide, to)?
    } else {
        scale(array, &values, multiply, divide, to)?
    };
    restore(values, to)
}

fn reduce(a: i64, b: i64) -> (i64, i64) {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x, b / x)
}

/// The values as numbers of their unit.
fn integers(array: &ArrayRef) -> Outcome<Int64Array> {
    let numbers = match array.data_type() {
        DataType::Date32 | DataType::Time32(_) => plain(array, &DataType::Int32)?,
        _ => array.clone(),
    };
    Ok(plain(&numbers, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn restore(values: Int64Array, to: &DataType) -> Outcome<ArrayRef> {
    let values: ArrayRef = Arc::new(values);
    match to {
        DataType::Date32 | DataType::Time32(_) => plain(&plain(&values, &DataType::Int32)?, to),
        _ => plain(&values, to),
    }
}

fn scale(array: &ArrayRef, values: &Int64Array, multiply: i64, divide: i64, to: &DataType) -> Outcome<Int64Array> {
    if multiply == divide {
        return Ok(values.clone());
    }
    let mut scaled = Vec::with_capacity(values.len());
    for (row, &value) in values.values().iter().enumerate() {
        // Null slots may hold anything; they become 0.
        let value = if values.is_valid(row) { value } else { 0 };
        let result = value.checked_mul(multiply).filter(|product| product % divide == 0).map(|product| product / divide);
        scaled.push(result.ok_or_else(|| value_unfit(array, row, to))?);
    }
    Ok(Int64Array::try_new(scaled.into(), values.nulls().cloned())?)
}

/// `Date64` counts milliseconds but holds whole days only.
fn whole_days(array: &ArrayRef, values: &Int64Array, multiply: i64, divide: i64, to: &DataType) -> Outcome<Int64Array> {
    let scaled = scale(array, values, multiply, divide, to)?;
    match scaled.iter().position(|value| value.is_some_and(|value| value % (SECONDS_PER_DAY * 1_000) != 0)) {
        Some(row) => Err(value_unfit(array, row, to)),
        None => Ok(scaled),
    }
}
