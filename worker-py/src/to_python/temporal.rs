//! Dates, times, timestamps and durations as objects of `datetime`.

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::{MICROSECONDS, NANOSECONDS};
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use pyo3::exceptions::{PyOverflowError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::unsupported;
use crate::classes;
use crate::datatype::per_second;

const SECONDS_PER_DAY: i64 = 86_400;

/// The values of a temporal array; units finer than a microsecond are cut.
pub fn list<'py>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    let values = integers(array)?;
    match array.data_type() {
        DataType::Date32 => {
            let class = classes::date(py)?;
            each(py, &values, |days| class.call1(civil(days)?))
        }
        DataType::Date64 => {
            let class = classes::date(py)?;
            each(py, &values, |milliseconds| class.call1(civil(milliseconds.div_euclid(SECONDS_PER_DAY * 1_000))?))
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let class = classes::time(py)?;
            each(py, &values, |value| class.call1(clock(microseconds(value, *unit)?)))
        }
        DataType::Duration(unit) => {
            let class = classes::timedelta(py)?;
            each(py, &values, |value| {
                // Days, seconds and microseconds apart: one number of microseconds would pass through a division in Python.
                let micros = i128::from(value) * i128::from(MICROSECONDS) / i128::from(per_second(*unit));
                let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
                class.call1((days, rest / 1_000_000, rest % 1_000_000))
            })
        }
        DataType::Timestamp(unit, zone) => timestamps(py, &values, *unit, zone.as_deref()),
        other => Err(unsupported(other)),
    }
}

fn timestamps<'py>(py: Python<'py>, values: &ArrayRef, unit: TimeUnit, zone: Option<&str>) -> PyResult<Bound<'py, PyList>> {
    let class = classes::datetime(py)?;
    let Some(zone) = zone else {
        return each(py, values, |value| {
            let ((year, month, day), (hour, minute, second, micro)) = wall(value, unit)?;
            class.call1((year, month, day, hour, minute, second, micro))
        });
    };
    let (zone, utc) = (classes::zone(py, zone)?, classes::utc(py)?);
    let is_utc = zone.is(&utc);
    each(py, values, |value| {
        let ((year, month, day), (hour, minute, second, micro)) = wall(value, unit)?;
        let instant = class.call1((year, month, day, hour, minute, second, micro, &utc))?;
        if is_utc { Ok(instant) } else { instant.call_method1(pyo3::intern!(py, "astimezone"), (&zone,)) }
    })
}

fn each<'py>(py: Python<'py>, values: &ArrayRef, make: impl Fn(i64) -> PyResult<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyList>> {
    let items = values.as_primitive::<Int64Type>().iter().map(|value| value.map(&make).transpose()).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, items)
}

/// The values as numbers of their unit.
fn integers(array: &ArrayRef) -> PyResult<ArrayRef> {
    let convert = |array: &ArrayRef, to: &DataType| cast(array, to).map_err(|error| PyRuntimeError::new_err(error.to_string()));
    match array.data_type() {
        DataType::Date32 | DataType::Time32(_) => convert(&convert(array, &DataType::Int32)?, &DataType::Int64),
        DataType::Interval(_) => Err(unsupported(array.data_type())),
        _ => convert(array, &DataType::Int64),
    }
}

type Date = (i64, i64, i64);
type Clock = (i64, i64, i64, i64);

fn microseconds(value: i64, unit: TimeUnit) -> PyResult<i64> {
    match unit {
        TimeUnit::Nanosecond => Ok(value.div_euclid(NANOSECONDS / MICROSECONDS)),
        _ => value.checked_mul(MICROSECONDS / per_second(unit)).ok_or_else(out_of_range),
    }
}

/// Date and time of day of a timestamp.
fn wall(value: i64, unit: TimeUnit) -> PyResult<(Date, Clock)> {
    let micros = microseconds(value, unit)?;
    let day = SECONDS_PER_DAY * MICROSECONDS;
    Ok((civil(micros.div_euclid(day))?, clock(micros.rem_euclid(day))))
}

/// Hour, minute, second and microsecond of a number of microseconds.
fn clock(micros: i64) -> Clock {
    let seconds = micros / MICROSECONDS;
    (seconds / 3_600, seconds / 60 % 60, seconds % 60, micros % MICROSECONDS)
}

/// Year, month and day of a number of days since 1970-01-01, in the years that `datetime` knows (1 to 9999).
fn civil(days: i64) -> PyResult<Date> {
    // Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last of its year.
    if !(-719_162..=2_932_896).contains(&days) {
        return Err(out_of_range());
    }
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Ok((year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1))
}

fn out_of_range() -> PyErr {
    PyOverflowError::new_err("the time is outside the years 1 to 9999 that `datetime` can hold")
}
