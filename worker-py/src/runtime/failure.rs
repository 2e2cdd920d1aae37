//! Failures as the protocol's `Error`.

use pillion_wire::error::Code;
use pillion_wire::proto;
use pyo3::intern;
use pyo3::prelude::*;

use super::message;

/// An error of the worker itself.
pub fn error(code: Code, text: impl Into<String>) -> Box<proto::Error> {
    Box::new(proto::Error { code: code.as_str().to_owned(), message: text.into(), ..proto::Error::default() })
}

/// What `Runtime.error_record` says about an exception.
pub fn of_exception(runtime: &Bound<'_, PyAny>, raised: &PyErr) -> Box<proto::Error> {
    let py = runtime.py();
    let record = runtime.call_method1(intern!(py, "error_record"), (raised.value(py),)).and_then(|record| message::error(&record));
    record.map(Box::new).unwrap_or_else(|second| {
        // A record that cannot be made must not hide what happened.
        let mut error = error(Code::InvariantBroken, format!("the worker runtime raised {raised}"));
        error.detail = format!("describing the exception raised {second}");
        error
    })
}
