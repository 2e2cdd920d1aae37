//! The Arrow PyCapsule interface: arrays and schemas to and from any library that speaks it.

use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchIterator, new_empty_array};
use arrow_schema::{ArrowError, Field, FieldRef};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use crate::buffers::{self, ARRAY, SCHEMA, STREAM};

/// A schema and an array capsule, as `__arrow_c_array__` returns them.
pub type Capsules<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyCapsule>);

/// A field as a capsule.
pub fn export_field<'py>(py: Python<'py>, field: &Field) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(field).map_err(unsupported)?;
    PyCapsule::new_with_value(py, schema, SCHEMA)
}

/// An array as capsules; its buffers are shared.
pub fn export_array<'py>(py: Python<'py>, array: &dyn Array, field: &Field) -> PyResult<Capsules<'py>> {
    let data = FFI_ArrowArray::new(&array.to_data());
    Ok((export_field(py, field)?, PyCapsule::new_with_value(py, data, ARRAY)?))
}

/// A batch as a capsule of a stream that holds it alone.
pub fn export_stream<'py>(py: Python<'py>, batch: &RecordBatch) -> PyResult<Bound<'py, PyCapsule>> {
    let reader = RecordBatchIterator::new([Ok(batch.clone())], batch.schema());
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(Box::new(reader)), STREAM)
}

/// The field of anything with `__arrow_c_schema__`.
pub fn field_of(value: &Bound<'_, PyAny>) -> PyResult<Field> {
    let py = value.py();
    let Some(method) = value.getattr_opt(intern!(py, "__arrow_c_schema__"))? else {
        let kind = value.get_type().name()?;
        return Err(PyTypeError::new_err(format!("a `{kind}` is no Arrow type: it has no `__arrow_c_schema__`")));
    };
    let capsule = method.call0()?;
    buffers::import_field(capsule.cast::<PyCapsule>()?)?.map_err(invalid)
}

/// The array of anything with `__arrow_c_array__` or `__arrow_c_stream__`; chunks are put together.
pub fn array_of(value: &Bound<'_, PyAny>) -> PyResult<(FieldRef, ArrayRef)> {
    let py = value.py();
    if let Some(method) = value.getattr_opt(intern!(py, "__arrow_c_array__"))? {
        let capsules = method.call0()?.cast_into::<PyTuple>()?;
        let field = buffers::import_field(capsules.get_item(0)?.cast::<PyCapsule>()?)?.map_err(invalid)?;
        let array = buffers::import_array(capsules.get_item(1)?.cast::<PyCapsule>()?, field.data_type().clone())?.map_err(invalid)?;
        return Ok((Arc::new(field), array));
    }
    let Some(method) = value.getattr_opt(intern!(py, "__arrow_c_stream__"))? else {
        let kind = value.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "a `{kind}` is no Arrow data: it has no `__arrow_c_array__` and no `__arrow_c_stream__`"
        )));
    };
    let capsule = method.call0()?;
    let stream = buffers::import_stream(capsule.cast::<PyCapsule>()?)?.map_err(invalid)?;
    let field = arrow_array::ArrayReader::field(&stream).clone();
    let mut chunks = stream.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    chunks.retain(|chunk| !chunk.is_empty());
    let array = match chunks.len() {
        0 => new_empty_array(field.data_type()),
        1 => chunks.swap_remove(0),
        _ => arrow_select::concat::concat(&chunks.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(invalid)?,
    };
    Ok((field, array))
}

/// An array or schema that breaks the interface.
fn invalid(error: ArrowError) -> PyErr {
    PyValueError::new_err(format!("invalid Arrow data: {error}"))
}

/// A type that the interface cannot carry.
fn unsupported(error: ArrowError) -> PyErr {
    PyTypeError::new_err(format!("unsupported Arrow type: {error}"))
}
