//! `Batch`: an Arrow RecordBatch, as Python sees it.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, RecordBatchOptions, StructArray};
use arrow_schema::{DataType, Field, Schema};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::capsule::{self, Capsules};
use crate::column::Column;
use crate::datatype::Type;

/// Columns of equal length, with names. Immutable; exports share its memory.
#[pyclass(frozen, name = "Batch", module = "pillion._native")]
pub struct Batch {
    batch: RecordBatch,
}

impl Batch {
    /// Wraps a batch.
    pub fn new(batch: RecordBatch) -> Self {
        Self { batch }
    }

    /// The batch.
    pub fn record_batch(&self) -> &RecordBatch {
        &self.batch
    }
}

#[pymethods]
impl Batch {
    /// Number of rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Number of columns.
    #[getter]
    fn num_columns(&self) -> usize {
        self.batch.num_columns()
    }

    /// Names of the columns.
    #[getter]
    fn names(&self) -> Vec<String> {
        self.batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The columns.
    #[getter]
    fn columns(&self) -> Vec<Column> {
        (0..self.batch.num_columns()).map(|index| self.at(index)).collect()
    }

    /// Names and types of the columns.
    #[getter]
    fn schema(&self) -> Vec<(String, Type)> {
        self.batch.schema_ref().fields().iter().map(|field| (field.name().clone(), Type::of(field))).collect()
    }

    /// The column at a position. Raises `IndexError` outside.
    fn column(&self, index: usize) -> PyResult<Column> {
        if index < self.batch.num_columns() {
            Ok(self.at(index))
        } else {
            Err(pyo3::exceptions::PyIndexError::new_err(format!("no column {index} in a batch of {}", self.batch.num_columns())))
        }
    }

    fn __len__(&self) -> usize {
        self.batch.num_rows()
    }

    fn __repr__(&self) -> String {
        format!("Batch({} rows, {:?})", self.batch.num_rows(), self.names())
    }

    /// Rows `offset` to `offset + length`, sharing memory. Raises `IndexError` outside the batch.
    fn slice(&self, offset: usize, length: usize) -> PyResult<Self> {
        match offset.checked_add(length) {
            Some(end) if end <= self.batch.num_rows() => Ok(Self::new(self.batch.slice(offset, length))),
            _ => Err(pyo3::exceptions::PyIndexError::new_err(format!(
                "rows {offset} + {length} lie outside a batch of {} rows",
                self.batch.num_rows()
            ))),
        }
    }

    /// A batch of columns. `num_rows` is needed only if there are none.
    ///
    /// Raises `ValueError` if the lengths differ, or the numbers of columns and names.
    #[staticmethod]
    #[pyo3(signature = (columns, names, num_rows=None))]
    fn from_columns(columns: Vec<PyRef<'_, Column>>, names: Vec<String>, num_rows: Option<usize>) -> PyResult<Self> {
        if columns.len() != names.len() {
            return Err(PyValueError::new_err(format!("{} columns but {} names", columns.len(), names.len())));
        }
        let rows = num_rows.or_else(|| columns.first().map(|column| column.array().len())).unwrap_or(0);
        let mut fields = Vec::with_capacity(columns.len());
        let mut arrays = Vec::with_capacity(columns.len());
        for (column, name) in columns.iter().zip(names) {
            let length = column.array().len();
            if length != rows {
                return Err(PyValueError::new_err(format!("column `{name}` has {length} rows, the batch has {rows}")));
            }
            // Nulls decide: a batch whose schema denies what its columns hold would be refused as a whole.
            let nullable = column.field().is_nullable() || column.array().logical_null_count() > 0;
            fields.push(Field::new(name, column.array().data_type().clone(), nullable));
            arrays.push(column.array().clone());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
        batch.map(Self::new).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// A batch from a pyarrow RecordBatch or Table, a polars DataFrame, or anything else with `__arrow_c_array__` or `__arrow_c_stream__`.
    ///
    /// Raises `TypeError` if it is no table.
    #[staticmethod]
    fn from_arrow(py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        if let Ok(own) = obj.cast::<Self>() {
            return Ok(own.clone().unbind());
        }
        let (_, array) = capsule::array_of(obj)?;
        let Some(structs) = array.as_struct_opt() else {
            let kind = crate::text::text(array.data_type(), true);
            return Err(PyTypeError::new_err(format!("an array of `{kind}` is no table")));
        };
        if structs.null_count() > 0 {
            return Err(PyValueError::new_err("a table must not have null rows"));
        }
        Py::new(py, Self::new(batch_of(structs)?))
    }

    /// Schema and struct array capsules of the Arrow C data interface, without a copy. `requested_schema` is a wish, and not granted.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(&self, py: Python<'py>, requested_schema: Option<&Bound<'py, PyAny>>) -> PyResult<Capsules<'py>> {
        let _ = requested_schema;
        let array = StructArray::from(self.batch.clone());
        capsule::export_array(py, &array, &self.as_field())
    }

    /// The schema as a capsule of the Arrow C data interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        capsule::export_field(py, &self.as_field())
    }

    /// A stream of this one batch, for readers that know no arrays.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        capsule::export_stream(py, &self.batch)
    }
}

impl Batch {
    fn at(&self, index: usize) -> Column {
        Column::new(self.batch.column(index).clone(), Arc::new(self.batch.schema_ref().field(index).clone()))
    }

    fn as_field(&self) -> Field {
        Field::new("", DataType::Struct(self.batch.schema_ref().fields().clone()), false)
    }
}

/// The rows of a struct array as a batch; one without fields keeps its length.
fn batch_of(structs: &StructArray) -> PyResult<RecordBatch> {
    let (fields, columns, _) = structs.clone().into_parts();
    let options = RecordBatchOptions::new().with_row_count(Some(structs.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}
