//! Classes of the standard library that values are made of, imported once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

macro_rules! class {
    ($(#[$doc:meta])* $name:ident, $module:literal, $class:literal) => {
        $(#[$doc])*
        pub fn $name(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
            static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            CLASS.import(py, $module, $class)
        }
    };
}

class!(
    /// `datetime.date`.
    date, "datetime", "date"
);
class!(
    /// `datetime.time`.
    time, "datetime", "time"
);
class!(
    /// `datetime.datetime`.
    datetime, "datetime", "datetime"
);
class!(
    /// `datetime.timedelta`.
    timedelta, "datetime", "timedelta"
);
class!(
    /// `decimal.Decimal`.
    decimal, "decimal", "Decimal"
);

/// `datetime.timezone.utc`.
pub fn utc(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static UTC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    UTC.get_or_try_init(py, || Ok(py.import("datetime")?.getattr("timezone")?.getattr("utc")?.unbind())).map(|utc| utc.bind(py).clone())
}

/// The `tzinfo` of an Arrow time zone: a name of the zone database, or an offset such as `+05:30`.
pub fn zone<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    if matches!(name, "UTC" | "Etc/UTC" | "+00:00" | "Z") {
        return utc(py);
    }
    match offset_seconds(name) {
        Some(seconds) => {
            let delta = timedelta(py)?.call1((0, seconds))?;
            py.import("datetime")?.getattr("timezone")?.call1((delta,))
        }
        // `ZoneInfo` caches its instances by name.
        None => py.import("zoneinfo")?.getattr("ZoneInfo")?.call1((name,)),
    }
}

/// Seconds of an offset such as `+05:30` or `-0800`; `None` if the text is no offset.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    Some(sign * (hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60))
}
