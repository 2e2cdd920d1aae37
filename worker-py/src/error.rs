//! Conversion failures: what could not be converted, and in which row.

use arrow_schema::ArrowError;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

pyo3::create_exception!(
    pillion._native,
    ConversionError,
    PyTypeError,
    "A value cannot be converted to the Arrow type it is declared to have. `row` is its 0-based position, or None."
);

/// Why a conversion did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Python code that was called raised, or memory ran out.
    Raised(PyErr),
    /// A value does not fit its type.
    Value {
        /// 0-based position in the column.
        row: Option<usize>,
        /// What is wrong, without the row.
        message: String,
    },
    /// No value of the one type can become the other type.
    Type(String),
}

/// The result of a conversion.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A value at `row` that does not fit.
    pub fn at(row: usize, message: impl Into<String>) -> Self {
        Self::Value { row: Some(row), message: message.into() }
    }

    /// A failure of the column as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self::Value { row: None, message: message.into() }
    }

    /// Moves a failure inside a nested column to the row of the outer one.
    pub fn outer_row(self, outer: impl FnOnce(usize) -> usize) -> Self {
        match self {
            Self::Value { row: Some(row), message } => Self::Value { row: Some(outer(row)), message },
            other => other,
        }
    }

    /// Names the part of a nested value that failed, for example a field of a struct.
    pub fn inside(self, part: &str) -> Self {
        match self {
            Self::Value { row, message } => Self::Value { row, message: format!("in {part}: {message}") },
            Self::Type(message) => Self::Type(format!("in {part}: {message}")),
            raised @ Self::Raised(_) => raised,
        }
    }

    /// The Python exception, naming the column if it has a name.
    pub fn into_py(self, py: Python<'_>, column: &str) -> PyErr {
        let named = if column.is_empty() { String::new() } else { format!("column `{column}`") };
        match self {
            Self::Raised(error) => error,
            Self::Type(message) if named.is_empty() => PyTypeError::new_err(message),
            Self::Type(message) => PyTypeError::new_err(format!("{named}: {message}")),
            Self::Value { row, message } => {
                let place = match (row, named.is_empty()) {
                    (Some(row), true) => format!("row {row}: "),
                    (Some(row), false) => format!("{named}, row {row}: "),
                    (None, true) => String::new(),
                    (None, false) => format!("{named}: "),
                };
                let error = ConversionError::new_err(format!("{place}{message}"));
                match error.value(py).setattr("row", row) {
                    Ok(()) => error,
                    Err(raised) => raised,
                }
            }
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Self::whole(error.to_string())
    }
}

/// Describes a value for a message: its type and, for short plain values, the value itself.
pub fn describe(value: &Bound<'_, PyAny>) -> String {
    let kind = value.get_type().name().map_or_else(|_| String::from("?"), |name| name.to_string());
    let plain = value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<pyo3::types::PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<pyo3::types::PyBool>();
    match value.repr() {
        Ok(text) if plain => format!("`{kind}` value {}", cut(&text.to_string_lossy(), 60)),
        _ => format!("`{kind}` value"),
    }
}

/// At most `limit` characters of `text`.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
