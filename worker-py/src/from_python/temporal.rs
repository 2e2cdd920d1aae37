//! Objects of `datetime` to dates, times, timestamps and durations.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int32Array, Int64Array};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyType};

use super::{Converted, Problem, Target, collect, is_missing, unsupported};
use crate::datatype::per_second;
use crate::error::Outcome;
use crate::{classes, numpy};

/// `date(1970, 1, 1).toordinal()`.
const EPOCH_ORDINAL: i64 = 719_163;
const NANOSECONDS_PER_DAY: i128 = 86_400 * 1_000_000_000;

/// Converts a list to the temporal type of `target`.
pub fn array(values: &Bound<'_, PyList>, target: &Target<'_>) -> Outcome<ArrayRef> {
    let py = values.py();
    let numbers = match target.data_type {
        DataType::Date32 | DataType::Date64 => {
            let classes = Dates { date: classes::date(py)?, datetime: classes::datetime(py)? };
            let factor = if *target.data_type == DataType::Date32 { 1 } else { 86_400_000 };
            collect(values, target, |value| {
                let days = or_scalar(value, &DataType::Date32, |value| classes.days(value))?;
                Ok(days * factor)
            })?
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let class = classes::time(py)?;
            collect(values, target, |value| in_unit(time(value, class)?, *unit))?
        }
        DataType::Duration(unit) => {
            let class = classes::timedelta(py)?;
            collect(values, target, |value| {
                or_scalar(value, target.data_type, |value| {
                    if !value.is_instance(class)? || is_missing(value)? {
                        return Err(Problem::Unfit);
                    }
                    in_unit(delta(value, !value.get_type().is(class))?, *unit)
                })
            })?
        }
        DataType::Timestamp(unit, zone) => {
            let epochs = Epochs::new(py)?;
            collect(values, target, |value| {
                or_scalar(value, target.data_type, |value| in_unit(epochs.since(value, zone.is_some())?, *unit))
            })?
        }
        other => return Err(unsupported(other)),
    };
    restore(numbers.0, numbers.1, target.data_type)
}

/// The values of a temporal type from the numbers they are stored as.
fn restore(numbers: Vec<i64>, nulls: Option<arrow_buffer::NullBuffer>, data_type: &DataType) -> Outcome<ArrayRef> {
    let array: ArrayRef = match data_type {
        // Days and seconds of a day fit: both come from `datetime`.
        DataType::Date32 | DataType::Time32(_) => {
            Arc::new(Int32Array::try_new(numbers.into_iter().map(|number| number as i32).collect(), nulls)?)
        }
        _ => Arc::new(Int64Array::try_new(numbers.into(), nulls)?),
    };
    Ok(cast(&array, data_type)?)
}

/// Converts with `convert`, or, if that refuses the type, as a NumPy `datetime64` or `timedelta64`.
fn or_scalar<'py>(
    value: &Bound<'py, PyAny>,
    data_type: &DataType,
    convert: impl Fn(&Bound<'py, PyAny>) -> Converted<i64>,
) -> Converted<i64> {
    let problem = match convert(value) {
        Err(problem @ Problem::Unfit) => problem,
        converted => return converted,
    };
    let name = value.get_type().name()?;
    if !matches!(name.to_str()?, "datetime64" | "timedelta64") {
        return Err(problem);
    }
    let py = value.py();
    let single = value.call_method1(intern!(py, "reshape"), (1,))?;
    let array =
        numpy::array(&single, None, data_type, false).map_err(|failure| Problem::Value(failure.into_py(py, "").value(py).to_string()))?;
    if array.is_null(0) {
        return Err(Problem::Value(String::from("`NaT` is no value; use None")));
    }
    let as_i64 = match data_type {
        DataType::Date32 => cast(&array, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64)),
        _ => cast(&array, &DataType::Int64),
    };
    let numbers = as_i64.map_err(|error| Problem::Value(error.to_string()))?;
    Ok(numbers.as_primitive::<Int64Type>().value(0))
}

/// Nanoseconds as whole units.
fn in_unit(nanoseconds: i128, unit: TimeUnit) -> Converted<i64> {
    let per_unit = i128::from(1_000_000_000 / per_second(unit));
    if nanoseconds % per_unit != 0 {
        return Err(Problem::Value(String::from("it is finer than the unit of the type")));
    }
    i64::try_from(nanoseconds / per_unit).map_err(|_| Problem::Value(String::from("it is out of range")))
}

struct Dates<'a, 'py> {
    date: &'a Bound<'py, PyType>,
    datetime: &'a Bound<'py, PyType>,
}

impl<'py> Dates<'_, 'py> {
    /// Days since the epoch of a `date`, or of a `datetime` at midnight.
    fn days(&self, value: &Bound<'py, PyAny>) -> Converted<i64> {
        let py = value.py();
        if !value.get_type().is(self.date) {
            if !value.is_instance(self.date)? || is_missing(value)? {
                return Err(Problem::Unfit);
            }
            if value.is_instance(self.datetime)? {
                if !value.getattr(intern!(py, "tzinfo"))?.is_none() {
                    return Err(Problem::Value(String::from("it has a time zone")));
                }
                let midnight = value.call_method0(intern!(py, "time"))?;
                if !midnight.eq(classes::time(py)?.call0()?)? {
                    return Err(Problem::Value(String::from("it has a time of day")));
                }
            }
        }
        Ok(value.call_method0(intern!(py, "toordinal"))?.extract::<i64>()? - EPOCH_ORDINAL)
    }
}

/// Nanoseconds since midnight of a `time` without a zone.
fn time(value: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> Converted<i128> {
    let py = value.py();
    if !value.is_instance(class)? {
        return Err(Problem::Unfit);
    }
    if !value.getattr(intern!(py, "tzinfo"))?.is_none() {
        return Err(Problem::Value(String::from("it has a time zone")));
    }
    let part = |name: &Bound<'_, pyo3::types::PyString>| value.getattr(name)?.extract::<i128>();
    let seconds = (part(intern!(py, "hour"))? * 60 + part(intern!(py, "minute"))?) * 60 + part(intern!(py, "second"))?;
    Ok((seconds * 1_000_000 + part(intern!(py, "microsecond"))?) * 1_000)
}

/// Nanoseconds of a `timedelta`; subclasses may have nanoseconds of their own, as pandas' has.
fn delta(value: &Bound<'_, PyAny>, subclass: bool) -> Converted<i128> {
    let py = value.py();
    let days: i64 = value.getattr(intern!(py, "days"))?.extract()?;
    let seconds: i64 = value.getattr(intern!(py, "seconds"))?.extract()?;
    let micros: i64 = value.getattr(intern!(py, "microseconds"))?.extract()?;
    let nanos: i64 = match subclass.then(|| value.getattr_opt(intern!(py, "nanoseconds"))).transpose()?.flatten() {
        Some(nanos) => nanos.extract()?,
        None => 0,
    };
    Ok(i128::from(days) * NANOSECONDS_PER_DAY + i128::from(seconds) * 1_000_000_000 + i128::from(micros) * 1_000 + i128::from(nanos))
}

/// 1970-01-01, without and with a zone.
struct Epochs<'py> {
    class: &'py Bound<'py, PyType>,
    naive: Bound<'py, PyAny>,
    utc: Bound<'py, PyAny>,
}

impl<'py> Epochs<'py> {
    fn new(py: Python<'py>) -> PyResult<Self> {
        static NAIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static UTC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let class = classes::datetime(py)?;
        let naive = NAIVE.get_or_try_init(py, || class.call1((1970, 1, 1)).map(Bound::unbind))?;
        let utc = UTC.get_or_try_init(py, || class.call1((1970, 1, 1, 0, 0, 0, 0, classes::utc(py)?)).map(Bound::unbind))?;
        Ok(Self { class, naive: naive.bind(py).clone(), utc: utc.bind(py).clone() })
    }

    /// Nanoseconds since the epoch of a `datetime`; one without a zone is taken as UTC by a type `with_zone`.
    fn since(&self, value: &Bound<'py, PyAny>, with_zone: bool) -> Converted<i128> {
        let subclass = !value.get_type().is(self.class);
        if subclass && (!value.is_instance(self.class)? || is_missing(value)?) {
            return Err(Problem::Unfit);
        }
        let aware = !value.getattr(intern!(value.py(), "tzinfo"))?.is_none();
        if aware && !with_zone {
            return Err(Problem::Value(String::from("it has a time zone, and the type has none")));
        }
        let since = value.sub(if aware { &self.utc } else { &self.naive })?;
        delta(&since, subclass)
    }
}
