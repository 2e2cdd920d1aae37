//! One Python object to one value: numbers, booleans, text, bytes.

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyMemoryView, PyString};

use super::{Converted, Problem};

/// From this on, not every integer is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An integer: Python's, anything with `__index__`, or a float that is whole. Booleans are none.
pub fn integer<T: TryFrom<i64>>(value: &Bound<'_, PyAny>) -> Converted<T> {
    let number = match value.cast_exact::<PyInt>() {
        Ok(int) => int.extract::<i64>().map_err(|_| out_of_range())?,
        Err(_) => loose_integer(value)?,
    };
    T::try_from(number).map_err(|_| out_of_range())
}

/// As [`integer`], for 64 bits without a sign.
pub fn unsigned(value: &Bound<'_, PyAny>) -> Converted<u64> {
    match value.cast_exact::<PyInt>() {
        Ok(int) => int.extract::<u64>().map_err(|_| out_of_range()),
        Err(_) => match loose_integer(value) {
            Ok(number) => u64::try_from(number).map_err(|_| out_of_range()),
            // Above `i64::MAX`, as a NumPy scalar.
            Err(Problem::Value(_)) => value.extract::<u64>().map_err(|_| out_of_range()),
            Err(problem) => Err(problem),
        },
    }
}

fn out_of_range() -> Problem {
    Problem::Value(String::from("it is out of range"))
}

fn loose_integer(value: &Bound<'_, PyAny>) -> Converted<i64> {
    if value.is_instance_of::<PyBool>() {
        return Err(Problem::Unfit);
    }
    if let Ok(float) = value.cast::<PyFloat>() {
        let double = float.value();
        return if double.fract() != 0.0 || !double.is_finite() {
            Err(Problem::Value(String::from("it is no whole number")))
        } else if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&double) {
            Ok(double as i64)
        } else {
            Err(out_of_range())
        };
    }
    if !value.hasattr(intern!(value.py(), "__index__"))? || value.hasattr(intern!(value.py(), "__len__"))? {
        return Err(Problem::Unfit);
    }
    value.extract::<i64>().map_err(|_| out_of_range())
}

/// A double: Python's float, an integer that is one exactly, or anything with `__float__`. Booleans and text are none.
pub fn double(value: &Bound<'_, PyAny>) -> Converted<f64> {
    if let Ok(float) = value.cast::<PyFloat>() {
        return Ok(float.value());
    }
    if let Ok(int) = value.cast_exact::<PyInt>() {
        let double = int.extract::<f64>().map_err(|_| out_of_range())?;
        let exact = double.abs() < EXACT || value.eq(double)?;
        return if exact { Ok(double) } else { Err(Problem::Value(String::from("no `double` equals it"))) };
    }
    if value.is_instance_of::<PyBool>() || !value.hasattr(intern!(value.py(), "__float__"))? {
        return Err(Problem::Unfit);
    }
    if value.hasattr(intern!(value.py(), "__len__"))? {
        // An array of one element is no number.
        return Err(Problem::Unfit);
    }
    value.extract::<f64>().map_err(|_| Problem::Unfit)
}

/// A value that was rounded, unless it `overflowed`.
pub fn rounded<T>(value: T, overflowed: bool) -> Converted<T> {
    if overflowed { Err(out_of_range()) } else { Ok(value) }
}

/// A boolean: Python's. NumPy's arrives through `item`.
pub fn boolean(value: &Bound<'_, PyAny>) -> Converted<bool> {
    value.cast::<PyBool>().map(|bool| bool.is_true()).map_err(|_| Problem::Unfit)
}

/// A text: `str` and its subclasses.
pub fn text<'py>(value: &Bound<'py, PyAny>) -> Converted<Bound<'py, PyString>> {
    let text = value.cast::<PyString>().map_err(|_| Problem::Unfit)?;
    match text.to_str() {
        Ok(_) => Ok(text.clone()),
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(value.py()) => {
            Err(Problem::Value(String::from("it holds characters that UTF-8 has no code for (lone surrogates)")))
        }
        Err(error) => Err(Problem::Raised(error)),
    }
}

/// Bytes: `bytes`, `bytearray` or a contiguous `memoryview`.
pub fn bytes<'py>(value: &Bound<'py, PyAny>) -> Converted<Bound<'py, PyBytes>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    if let Ok(array) = value.cast::<PyByteArray>() {
        return Ok(PyBytes::new(value.py(), &array.to_vec()));
    }
    if value.is_instance_of::<PyMemoryView>() {
        let bytes = value.call_method0(intern!(value.py(), "tobytes"))?;
        return bytes.cast_into::<PyBytes>().map_err(|_| Problem::Unfit);
    }
    Err(Problem::Unfit)
}
