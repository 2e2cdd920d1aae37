//! Protocol messages to the dicts that the Python side takes, and back.

use std::collections::HashMap;

use pillion_wire::ipc::{schema_from_ipc, schema_to_ipc};
use pillion_wire::proto;
use proto::argument::Source as ArgumentSource;
use proto::function_spec::Source as FunctionSource;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::datatype::Type;
use crate::schema::{Columns, columns_of, schema_of};

/// Reads `EnvironmentDescription` from a dict.
pub fn environment(dict: &Bound<'_, PyAny>) -> PyResult<proto::EnvironmentDescription> {
    Ok(proto::EnvironmentDescription {
        python_version: text(dict, "python_version")?,
        executable: text(dict, "executable")?,
        packages: value::<HashMap<String, String>>(dict, "packages")?.unwrap_or_default(),
        id: String::new(),
    })
}

/// Reads `FunctionDescription` from a dict.
pub fn description(dict: &Bound<'_, PyAny>) -> PyResult<proto::FunctionDescription> {
    let parameters = value::<Vec<Bound<'_, PyAny>>>(dict, "parameters")?.unwrap_or_default();
    let parameters = parameters.iter().map(|parameter| {
        Ok(proto::Parameter {
            name: text(parameter, "name")?,
            r#type: text(parameter, "type")?,
            optional: value(parameter, "optional")?.unwrap_or_default(),
            variadic: value(parameter, "variadic")?.unwrap_or_default(),
        })
    });
    Ok(proto::FunctionDescription {
        name: text(dict, "name")?,
        kind: text(dict, "kind")?,
        func_type: text(dict, "func_type")?,
        parameters: parameters.collect::<PyResult<_>>()?,
        result_schema: value::<Vec<u8>>(dict, "result_schema")?.unwrap_or_default(),
        result_type: text(dict, "result_type")?,
        deterministic: value(dict, "deterministic")?.unwrap_or_default(),
        doc: text(dict, "doc")?,
        cells: list(dict, "cells", cell)?,
        timers: value(dict, "timers")?.unwrap_or_default(),
        side_outputs: side_outputs(dict)?,
    })
}

fn side_outputs(dict: &Bound<'_, PyAny>) -> PyResult<Vec<proto::SideOutput>> {
    let sides = value::<Vec<(String, Vec<(String, PyRef<'_, Type>)>)>>(dict, "side_outputs")?.unwrap_or_default();
    let side = |(tag, fields): (String, Vec<(String, PyRef<'_, Type>)>)| {
        let columns: Columns = fields.into_iter().map(|(name, column)| (name, (*column).clone())).collect();
        proto::SideOutput { tag, schema: schema_to_ipc(&schema_of(&columns)).into() }
    };
    Ok(sides.into_iter().map(side).collect())
}

fn cell(dict: &Bound<'_, PyAny>) -> PyResult<proto::StateCell> {
    let time_to_live = value::<Bound<'_, PyAny>>(dict, "ttl")?.map(|ttl| {
        PyResult::Ok(proto::TimeToLive {
            duration_ms: value(&ttl, "ms")?.unwrap_or_default(),
            update_on_read: text(&ttl, "update")? == "read_and_write",
            return_expired: text(&ttl, "visibility")? == "return_expired",
        })
    });
    let mut columns = Columns::new();
    for (name, key) in [("key", "map_key_type"), ("value", "value_type")] {
        if let Some(one) = value::<PyRef<'_, Type>>(dict, key)? {
            columns.push((name.to_owned(), (*one).clone()));
        }
    }
    Ok(proto::StateCell {
        name: text(dict, "name")?,
        kind: text(dict, "kind")?,
        schema: schema_to_ipc(&schema_of(&columns)).into(),
        time_to_live: time_to_live.transpose()?,
        pickled: value(dict, "pickled")?.unwrap_or_default(),
    })
}

/// The entries of a list of dicts; none if it is missing.
fn list<T>(dict: &Bound<'_, PyAny>, key: &str, read: impl Fn(&Bound<'_, PyAny>) -> PyResult<T>) -> PyResult<Vec<T>> {
    let entries = value::<Vec<Bound<'_, PyAny>>>(dict, key)?.unwrap_or_default();
    entries.iter().map(read).collect()
}

/// Reads `Error` from the dict of `Runtime.error_record`.
pub fn error(dict: &Bound<'_, PyAny>) -> PyResult<proto::Error> {
    let cause = value::<Bound<'_, PyAny>>(dict, "exception")?;
    Ok(proto::Error {
        code: text(dict, "code")?,
        message: text(dict, "message")?,
        hint: text(dict, "hint")?,
        detail: text(dict, "detail")?,
        function: text(dict, "function")?,
        exception: cause.map(|cause| exception(&cause, MOST_CAUSES)).transpose()?,
        ..proto::Error::default()
    })
}

/// Longest chain of causes.
const MOST_CAUSES: usize = 8;

fn exception(dict: &Bound<'_, PyAny>, causes: usize) -> PyResult<proto::PythonException> {
    let frames = value::<Vec<Bound<'_, PyAny>>>(dict, "frames")?.unwrap_or_default();
    let frames = frames.iter().map(|frame| {
        Ok(proto::StackFrame {
            file: text(frame, "file")?,
            line: value(frame, "line")?.unwrap_or_default(),
            function: text(frame, "function")?,
            source: text(frame, "source")?,
        })
    });
    let row = value::<Bound<'_, PyAny>>(dict, "row")?.map(|row| {
        let values = value::<Vec<(String, String)>>(&row, "values")?.unwrap_or_default();
        let values = values.into_iter().map(|(name, repr)| proto::FailedValue { name, repr }).collect();
        PyResult::Ok(proto::FailedRow { index: value(&row, "index")?.unwrap_or_default(), values })
    });
    let cause = value::<Bound<'_, PyAny>>(dict, "cause")?.filter(|_| causes > 0);
    Ok(proto::PythonException {
        r#type: text(dict, "type")?,
        message: text(dict, "message")?,
        frames: frames.collect::<PyResult<_>>()?,
        row: row.transpose()?,
        cause: cause.map(|cause| exception(&cause, causes - 1).map(Box::new)).transpose()?,
        caret: text(dict, "caret")?,
    })
}

/// An entry of a dict; `None` if it is missing or `None`.
fn value<'py, T>(dict: &Bound<'py, PyAny>, key: &str) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    match dict.cast::<PyDict>()?.get_item(key)? {
        Some(item) if !item.is_none() => item.extract().map(Some).map_err(Into::into),
        _ => Ok(None),
    }
}

/// A text of a dict; empty if it is missing or `None`.
fn text(dict: &Bound<'_, PyAny>, key: &str) -> PyResult<String> {
    Ok(value(dict, key)?.unwrap_or_default())
}

/// A function as `Runtime.describe` takes it.
pub fn function<'py>(py: Python<'py>, spec: Option<proto::FunctionSpec>) -> PyResult<Bound<'py, PyDict>> {
    let spec = spec.unwrap_or_default();
    let dict = PyDict::new(py);
    match spec.source {
        Some(FunctionSource::File(file)) => {
            dict.set_item("file", file.path)?;
            dict.set_item("name", file.name)?;
        }
        Some(FunctionSource::Module(module)) => {
            dict.set_item("module", module.module)?;
            dict.set_item("name", module.name)?;
        }
        Some(FunctionSource::Pickled(pickled)) => dict.set_item("pickled", PyBytes::new(py, &pickled))?,
        None => return Err(PyValueError::new_err("the message names no function")),
    }
    if !spec.result_type.is_empty() {
        dict.set_item("result_type", spec.result_type)?;
    }
    Ok(dict)
}

/// A plan as `Runtime.prepare` takes it.
pub fn plan<'py>(py: Python<'py>, prepare: proto::Prepare, input: &arrow_schema::Schema) -> PyResult<Bound<'py, PyDict>> {
    let plan = prepare.plan.unwrap_or_default();
    let calls = PyList::empty(py);
    for call in plan.calls {
        let arguments = call.arguments.iter().map(argument).collect::<PyResult<Vec<_>>>()?;
        let dict = PyDict::new(py);
        dict.set_item("function", function(py, call.function)?)?;
        dict.set_item("arguments", arguments)?;
        calls.append(dict)?;
    }
    let outputs = plan.outputs.iter().map(|output| {
        let source = output.source.as_ref().ok_or_else(|| PyValueError::new_err(format!("output `{}` has no source", output.name)))?;
        Ok((output.name.as_str(), argument(source)?))
    });
    let input: Columns = columns_of(input);
    let dict = PyDict::new(py);
    dict.set_item("calls", calls)?;
    dict.set_item("outputs", outputs.collect::<PyResult<Vec<_>>>()?)?;
    dict.set_item("input", input)?;
    dict.set_item("on_error", prepare.on_error)?;
    if let Some(keyed) = prepare.keyed {
        let inputs = keyed.inputs.iter().map(|input| schema_from_ipc(&input.schema).map(|schema| columns_of(&schema)));
        let inputs = inputs.collect::<Result<Vec<Columns>, _>>().map_err(|error| PyValueError::new_err(error.to_string()))?;
        let keys = keyed.inputs.first().map(|first| &first.key_columns).into_iter().flatten();
        let keys: Option<Columns> = keys.map(|&column| inputs.first().and_then(|fields| fields.get(column as usize)).cloned()).collect();
        dict.set_item("keys", keys)?;
        dict.set_item("inputs", inputs)?;
    }
    dict.set_item("session_id", prepare.session_id)?;
    dict.set_item("session_name", prepare.session_name)?;
    dict.set_item("max_metric_series", prepare.max_metric_series)?;
    Ok(dict)
}

fn argument(argument: &proto::Argument) -> PyResult<(&'static str, u32)> {
    match argument.source {
        Some(ArgumentSource::Column(index)) => Ok(("column", index)),
        Some(ArgumentSource::Call(index)) => Ok(("call", index)),
        None => Err(PyValueError::new_err("an argument of the plan has no source")),
    }
}
