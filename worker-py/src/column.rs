//! `Column`: one Arrow array with a name, as Python sees it.

use std::sync::{Arc, OnceLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int32Array, ListArray, UInt32Array};
use arrow_buffer::Buffer;
use arrow_schema::{ArrowError, DataType, Field, FieldRef};
use arrow_select::concat::concat;
use arrow_select::take::{TakeOptions, take};
use pyo3::exceptions::{PyAttributeError, PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};

use crate::capsule::{self, Capsules};
use crate::datatype::Type;
use crate::error::Failure;
use crate::view::{View, dense_values, null_mask};
use crate::{cast, from_python, numpy, text, to_python};

/// One Arrow array and its name. Immutable; slices and exports share its memory.
#[pyclass(frozen, name = "Column", module = "pillion._native")]
pub struct Column {
    array: ArrayRef,
    field: FieldRef,
    /// What `__array_interface__` pointed to, if that is not the array's own memory; as long-lived as the pointer may be used.
    dense: OnceLock<Buffer>,
}

impl Column {
    /// A column over `array`, whose type `field` must have.
    pub fn new(array: ArrayRef, field: FieldRef) -> Self {
        Self { array, field, dense: OnceLock::new() }
    }

    /// The array.
    pub fn array(&self) -> &ArrayRef {
        &self.array
    }

    /// Name, type and nullability.
    pub fn field(&self) -> &FieldRef {
        &self.field
    }

    /// A column of the declared type, given that `array` has the same Arrow type.
    fn declared(array: ArrayRef, declared: &Type, name: &str) -> Self {
        let field = Field::new(name, array.data_type().clone(), declared.nullable);
        Self::new(array, Arc::new(field))
    }
}

#[pymethods]
impl Column {
    /// Type of the values.
    #[getter]
    fn r#type(&self) -> Type {
        Type::of(&self.field)
    }

    /// Name of the column; empty if it has none.
    #[getter]
    fn name(&self) -> &str {
        self.field.name()
    }

    /// Number of nulls.
    #[getter]
    fn null_count(&self) -> usize {
        self.array.logical_null_count()
    }

    /// Size of the array's memory in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.array.get_buffer_memory_size()
    }

    fn __len__(&self) -> usize {
        self.array.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "Column({:?}, {}, {} rows)",
            self.field.name(),
            text::text(self.field.data_type(), self.field.is_nullable()),
            self.array.len()
        )
    }

    /// Schema and array capsules of the Arrow C data interface, without a copy. `requested_schema` is a wish, and not granted.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(&self, py: Python<'py>, requested_schema: Option<&Bound<'py, PyAny>>) -> PyResult<Capsules<'py>> {
        let _ = requested_schema;
        capsule::export_array(py, &self.array, &self.field)
    }

    /// The type as a capsule of the Arrow C data interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        capsule::export_field(py, &self.field)
    }

    /// The values as Python objects, `None` for null: int, float, str, bytes, bool, `datetime` types, `Decimal`, list, dict.
    ///
    /// Nanoseconds are cut to microseconds. Raises `TypeError` for types without a Python equivalent, `OverflowError` for years that
    /// `datetime` cannot hold.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        to_python::list(py, &self.array)
    }

    /// NumPy's view of the values: read-only, without a copy for numbers, durations and timestamps. `AttributeError` with nulls and for
    /// types that NumPy has no dtype for.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if self.array.logical_null_count() > 0 {
            return Err(PyAttributeError::new_err("a column with nulls has no `__array_interface__`"));
        }
        let (dense, dtype) = dense_values(&self.array).ok_or_else(|| PyAttributeError::new_err(self.no_dtype()))?;
        let buffer = self.dense.get_or_init(|| dense);
        View::interface(py, buffer, &dtype, self.array.len())
    }

    /// An object whose `__array_interface__` gives the values, whatever stands in the slots that are null.
    ///
    /// Raises `TypeError` for types that NumPy has no dtype for.
    fn values_interface(&self) -> PyResult<View> {
        let (buffer, dtype) = dense_values(&self.array).ok_or_else(|| PyTypeError::new_err(self.no_dtype()))?;
        Ok(View::new(buffer, dtype, self.array.len()))
    }

    /// An object whose `__array_interface__` gives a boolean per row, true for null.
    fn null_mask(&self) -> View {
        View::new(null_mask(&self.array), "|b1".into(), self.array.len())
    }

    /// A column from anything with `__arrow_c_array__` or `__arrow_c_stream__`, converted if that loses nothing.
    ///
    /// Raises `TypeError` if the types do not fit, `ConversionError` with the row if a value does not.
    #[staticmethod]
    #[pyo3(signature = (obj, r#type, name=""))]
    fn from_arrow(py: Python<'_>, obj: &Bound<'_, PyAny>, r#type: &Type, name: &str) -> PyResult<Self> {
        let array = match obj.cast::<Self>() {
            Ok(own) => own.get().array.clone(),
            Err(_) => capsule::array_of(obj)?.1,
        };
        let array = cast::lossless(&array, &r#type.data_type, false).map_err(|failure| failure.into_py(py, name))?;
        Ok(Self::declared(array, r#type, name))
    }

    /// A column from a one-dimensional array with `__array_interface__`, converted if that loses nothing.
    ///
    /// `mask` is a boolean array, true for null. NaT is null; NaN is null for types that are not floating-point, and for those if
    /// `nan_is_null`. Large arrays of the right dtype are not copied. Raises as `from_arrow`.
    #[staticmethod]
    #[pyo3(signature = (values, r#type, mask=None, name="", nan_is_null=false))]
    fn from_numpy(
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        r#type: &Type,
        mask: Option<&Bound<'_, PyAny>>,
        name: &str,
        nan_is_null: bool,
    ) -> PyResult<Self> {
        let array = numpy::array(values, mask, &r#type.data_type, nan_is_null).map_err(|failure| failure.into_py(py, name))?;
        Ok(Self::declared(array, r#type, name))
    }

    /// A column from a list of Python objects. `None`, `pandas.NA` and `NaT` are null, NaN if `nan_is_null`.
    ///
    /// Raises `ConversionError` with the row, naming the type of the value that does not fit.
    #[staticmethod]
    #[pyo3(signature = (values, r#type, name="", nan_is_null=false))]
    fn from_pylist(py: Python<'_>, values: &Bound<'_, PyList>, r#type: &Type, name: &str, nan_is_null: bool) -> PyResult<Self> {
        let array = from_python::array(values, &r#type.data_type, nan_is_null).map_err(|failure| failure.into_py(py, name))?;
        Ok(Self::declared(array, r#type, name))
    }

    /// The same value in each of `rows` rows; None is null.
    #[staticmethod]
    #[pyo3(signature = (value, rows, r#type, name=""))]
    fn repeat(py: Python<'_>, value: &Bound<'_, PyAny>, rows: usize, r#type: &Type, name: &str) -> PyResult<Self> {
        let one = Self::from_pylist(py, &PyList::new(py, [value])?, r#type, name, false)?;
        let array = take(&one.array, &UInt32Array::from_value(0, rows), None).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self::new(array, one.field))
    }

    /// The numbers below `rows`, a `uint32` column without nulls.
    #[staticmethod]
    fn sequence(rows: u32) -> Self {
        let field = Field::new("", DataType::UInt32, false);
        Self::new(Arc::new(UInt32Array::from_iter_values(0..rows)), Arc::new(field))
    }

    /// Columns of one type, one after the other, with the name of the first. Raises `ValueError` if there is none, or if they are of different types.
    #[staticmethod]
    fn concat(columns: Vec<Bound<'_, Self>>) -> PyResult<Self> {
        let arrays: Vec<&dyn Array> = columns.iter().map(|column| column.get().array().as_ref()).collect();
        match (&columns[..], concat(&arrays)) {
            ([first, ..], Ok(array)) => Ok(Self::new(array, first.get().field.clone())),
            (_, Err(error)) => Err(PyValueError::new_err(error.to_string())),
            ([], Ok(_)) => Err(PyValueError::new_err("there is no column to begin with")),
        }
    }

    /// Rows `offset` to `offset + length`, sharing memory. Raises `IndexError` outside the column.
    fn slice(&self, offset: usize, length: usize) -> PyResult<Self> {
        match offset.checked_add(length) {
            Some(end) if end <= self.array.len() => Ok(Self::new(self.array.slice(offset, length), self.field.clone())),
            _ => Err(PyIndexError::new_err(format!("rows {offset} + {length} lie outside a column of {} rows", self.array.len()))),
        }
    }

    /// The values at these positions, a `uint32` column, copied. Raises `IndexError` outside the column.
    fn take(&self, positions: &Bound<'_, Self>) -> PyResult<Self> {
        let options = TakeOptions { check_bounds: true };
        let taken = take(&self.array, positions.get().array(), Some(options));
        let array = taken.map_err(|error| PyIndexError::new_err(error.to_string()))?;
        Ok(Self::new(array, self.field.clone()))
    }

    /// Where the list of each row ends among the elements of all, and these elements. A null has none.
    ///
    /// Raises `TypeError` if it is no column of lists.
    fn flatten(&self) -> PyResult<(Vec<i32>, Self)> {
        let Some(lists) = self.array.as_list_opt::<i32>() else {
            let kind = text::text(self.field.data_type(), true);
            return Err(PyTypeError::new_err(format!("a column of `{kind}` has no lists")));
        };
        let (ends, elements) = flat(lists).map_err(|error| PyTypeError::new_err(error.to_string()))?;
        let item = Field::new("item", elements.data_type().clone(), true);
        Ok((ends, Self::new(elements, Arc::new(item))))
    }

    /// The same column under another name.
    fn with_name(&self, name: &str) -> Self {
        Self::new(self.array.clone(), Arc::new(self.field.as_ref().clone().with_name(name)))
    }

    /// The column with another type, converted if that loses nothing. Raises as `from_arrow`.
    fn cast(&self, py: Python<'_>, r#type: &Type) -> PyResult<Self> {
        let name = self.field.name();
        let array = cast::lossless(&self.array, &r#type.data_type, false).map_err(|failure: Failure| failure.into_py(py, name))?;
        Ok(Self::declared(array, r#type, name))
    }
}

impl Column {
    fn no_dtype(&self) -> String {
        let data_type: &DataType = self.field.data_type();
        format!("NumPy has no dtype for `{}`", text::text(data_type, true))
    }
}

/// Ends and elements of lists, without what may lie behind nulls.
fn flat(lists: &ListArray) -> Result<(Vec<i32>, ArrayRef), ArrowError> {
    let offsets = lists.value_offsets();
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    let length = |row: usize| if lists.is_valid(row) { lists.value_length(row) } else { 0 };
    let ends = (0..lists.len()).scan(0, |end, row| {
        *end += length(row);
        Some(*end)
    });
    let ends: Vec<i32> = ends.collect();
    let elements = lists.values().slice(usize_of(first), usize_of(last - first));
    if ends.last().copied().unwrap_or(0) == last - first {
        return Ok((ends, elements));
    }
    let kept = (0..lists.len()).flat_map(|row| (0..length(row)).map(move |at| offsets[row] - first + at));
    Ok((ends, take(&elements, &Int32Array::from_iter_values(kept), None)?))
}

/// An offset, which is never negative.
fn usize_of(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}
