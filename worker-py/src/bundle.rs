//! Bundles of keyed plans: taken apart for Python (`pillion.bundle`), and their effects put together.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt8Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt8Array, new_null_array};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use pillion_wire::bundle::{Bundle, EVENT, Effects, Layout, PROCESSING, as_batch, op, timer_write_fields};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch::Batch;
use crate::cast::lossless;
use crate::column::Column;
use crate::error::Outcome;
use crate::fetch::Fetch;

/// The module with the classes that Python sees.
const MODULE: &str = "pillion.bundle";

/// Names of the domains of timers, by their numbers.
const DOMAINS: [&str; 2] = ["event", "processing"];

/// One call of a keyed plan: the packed effects of a packed bundle, and the nanoseconds in user code, those included in which it waited for state.
///
/// # Errors
/// What Python raised; `ValueError` for a bundle that breaks the protocol, `TypeError` for effects of other types than were announced.
pub fn call(py: Python<'_>, plan: &Py<PyAny>, layout: &Layout, input: &RecordBatch, fetch: Fetch) -> PyResult<(RecordBatch, u64)> {
    let bundle = layout.unpack(input).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let bundle = py.import(MODULE)?.getattr(intern!(py, "Bundle"))?.call((), Some(&to_python(py, layout, bundle, fetch)?))?;
    let effects = plan.bind(py).call1((bundle,))?;
    let packed = from_python(layout, &effects)
        .and_then(|parts| layout.pack_effects(parts).map_err(|error| PyTypeError::new_err(error.to_string())))?;
    Ok((packed, effects.getattr(intern!(py, "user_ns"))?.extract()?))
}

fn to_python<'py>(py: Python<'py>, layout: &Layout, bundle: Bundle, fetch: Fetch) -> PyResult<Bound<'py, PyDict>> {
    let cells = |parts: Vec<Option<ArrayRef>>| {
        let dict = PyDict::new(py);
        for (cell, values) in layout.cells.iter().zip(parts) {
            if let Some(values) = values {
                dict.set_item(&cell.name, column(&cell.name, values))?;
            }
        }
        PyResult::Ok(dict)
    };
    let keys: ArrayRef = Arc::new(bundle.keys);
    let schema = Arc::new(Schema::new(layout.keys.clone()));
    let keys = as_batch(&keys, &schema).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let dict = PyDict::new(py);
    dict.set_item("rows", bundle.rows.map(Batch::new))?;
    dict.set_item("input", bundle.input)?;
    dict.set_item("timestamps", bundle.timestamps.map(|times| column("timestamp", times)))?;
    dict.set_item("key_index", bundle.key_index.map(|places| column("key", places)))?;
    dict.set_item("keys", Batch::new(keys))?;
    dict.set_item("state", cells(bundle.state)?)?;
    dict.set_item("timers", bundle.timers.map(|timers| named_domains(&timers)).transpose()?.map(Batch::new))?;
    if let Some(state) = bundle.timer_state {
        dict.set_item("timer_state", cells(state)?)?;
    }
    dict.set_item("watermark", bundle.watermark)?;
    dict.set_item("processing_time", bundle.processing_time)?;
    dict.set_item("broadcast", bundle.broadcast)?;
    dict.set_item("fetch", Bound::new(py, fetch)?)?;
    Ok(dict)
}

/// A column of this name.
pub fn column(name: &str, array: ArrayRef) -> Column {
    let field = Field::new(name, array.data_type().clone(), true);
    Column::new(array, Arc::new(field))
}

/// Fired timers with the names of their domains.
fn named_domains(timers: &RecordBatch) -> PyResult<RecordBatch> {
    let domains = timers.column(1).as_primitive::<UInt8Type>().values().iter();
    let names = StringArray::from_iter_values(domains.map(|&domain| DOMAINS[usize::from(domain.min(PROCESSING))]));
    let mut fields: Vec<_> = timers.schema_ref().fields().iter().cloned().collect();
    fields[1] = Arc::new(Field::new("domain", DataType::Utf8, false));
    let mut columns = timers.columns().to_vec();
    columns[1] = Arc::new(names);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn from_python(layout: &Layout, effects: &Bound<'_, PyAny>) -> PyResult<Effects> {
    let py = effects.py();
    let mut outputs: Vec<Vec<RecordBatch>> = vec![Vec::new(); layout.outputs.len()];
    for (at, batch) in effects.getattr(intern!(py, "outputs"))?.extract::<Vec<(usize, PyRef<'_, Batch>)>>()? {
        let Some(schema) = layout.outputs.get(at) else {
            return Err(PyValueError::new_err(format!("the function has no output {at}")));
        };
        let batch = batch.record_batch();
        outputs[at].push(conform(batch, schema, &|_, _| None).map_err(|error| error.into_py(py, &format!("output {at}")))?);
    }
    let mut writes: Vec<Vec<RecordBatch>> = vec![Vec::new(); layout.cells.len()];
    for (name, batch) in effects.getattr(intern!(py, "writes"))?.extract::<Vec<(String, PyRef<'_, Batch>)>>()? {
        let Some(at) = layout.cells.iter().position(|cell| cell.name == name) else {
            return Err(PyValueError::new_err(format!("the function has declared no cell `{name}`")));
        };
        let schema = Arc::new(Schema::new(layout.cells[at].write()));
        writes[at].push(conform(batch.record_batch(), &schema, &omitted).map_err(|error| error.into_py(py, &name))?);
    }
    let timers = effects.getattr(intern!(py, "timers"))?.extract::<Option<PyRef<'_, Batch>>>()?;
    let schema = Arc::new(Schema::new(timer_write_fields()));
    let timers = timers.map(|batch| numbered_domains(batch.record_batch()).and_then(|batch| conform(&batch, &schema, &|_, _| None)));
    let timers = timers.transpose().map_err(|error| error.into_py(py, "timers"))?;
    let joined = |parts: Vec<RecordBatch>| match parts.len() {
        0 => Ok(None),
        1 => Ok(parts.into_iter().next()),
        _ => concat_batches(&parts[0].schema(), &parts).map(Some).map_err(|error| PyValueError::new_err(error.to_string())),
    };
    Ok(Effects {
        outputs: outputs.into_iter().map(joined).collect::<PyResult<_>>()?,
        writes: writes.into_iter().map(joined).collect::<PyResult<_>>()?,
        timers,
    })
}

/// What is asked of a cell, in the columns of `schema`.
///
/// # Errors
/// `TypeError` or `ValueError` if there is something else.
pub fn asked_of(py: Python<'_>, cell: &str, batch: &RecordBatch, schema: &SchemaRef) -> PyResult<RecordBatch> {
    conform(batch, schema, &omitted).map_err(|error| error.into_py(py, cell))
}

/// What a column of writes, or of what is asked, is that was left out.
fn omitted(field: &Field, rows: usize) -> Option<ArrayRef> {
    match field.name().as_str() {
        "op" => Some(Arc::new(UInt8Array::from_value(op::PUT, rows))),
        "key" => None,
        _ => Some(new_null_array(field.data_type(), rows)),
    }
}

/// The batch with the columns of `schema`, found by name.
fn conform(batch: &RecordBatch, schema: &SchemaRef, missing: &dyn Fn(&Field, usize) -> Option<ArrayRef>) -> Outcome<RecordBatch> {
    let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
        Some(column) => lossless(column, field.data_type(), false).map_err(|error| error.inside(&format!("column `{}`", field.name()))),
        None => {
            missing(field, batch.num_rows()).ok_or_else(|| crate::error::Failure::whole(format!("column `{}` is missing", field.name())))
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Outcome<Vec<_>>>()?;
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// Timer writes with the numbers of their domains, if they have names.
fn numbered_domains(timers: &RecordBatch) -> Outcome<RecordBatch> {
    let Some((at, field)) = timers.schema_ref().column_with_name("domain").filter(|(_, field)| *field.data_type() == DataType::Utf8) else {
        return Ok(timers.clone());
    };
    let number = |(row, name): (usize, Option<&str>)| match name {
        Some("event") => Ok(EVENT),
        Some("processing") => Ok(PROCESSING),
        _ => Err(crate::error::Failure::at(row, "a timer is of no domain that there is")),
    };
    let numbers = timers.column(at).as_string::<i32>().iter().enumerate().map(number).collect::<Outcome<Vec<u8>>>()?;
    let mut fields: Vec<_> = timers.schema_ref().fields().iter().cloned().collect();
    fields[at] = Arc::new(Field::new(field.name(), DataType::UInt8, false));
    let mut columns = timers.columns().to_vec();
    columns[at] = Arc::new(UInt8Array::from(numbers));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(Fields::from(fields))), columns)?)
}
