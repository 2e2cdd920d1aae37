//! Schemas as Arrow IPC messages, as the protocols carry them.

use arrow_schema::{Field, Schema};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::datatype::Type;

/// Names and types of columns, in order.
pub type Columns = Vec<(String, Type)>;

/// The Arrow schema of columns.
pub fn schema_of(columns: &[(String, Type)]) -> Schema {
    Schema::new(columns.iter().map(|(name, column)| Field::new(name, column.data_type.clone(), column.nullable)).collect::<Vec<_>>())
}

/// The columns of an Arrow schema.
pub fn columns_of(schema: &Schema) -> Columns {
    schema.fields().iter().map(|field| (field.name().clone(), Type::of(field))).collect()
}

/// Encodes names and types as an Arrow IPC schema message.
#[pyfunction]
pub fn schema_to_ipc<'py>(py: Python<'py>, columns: Vec<(String, PyRef<'py, Type>)>) -> Bound<'py, PyBytes> {
    let columns: Columns = columns.into_iter().map(|(name, column)| (name, (*column).clone())).collect();
    PyBytes::new(py, &pillion_wire::ipc::schema_to_ipc(&schema_of(&columns)))
}

/// Decodes what `schema_to_ipc` made. Raises `ValueError` if the bytes are no schema message.
#[pyfunction]
pub fn schema_from_ipc(message: &[u8]) -> PyResult<Columns> {
    let schema = pillion_wire::ipc::schema_from_ipc(message).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(columns_of(&schema))
}
