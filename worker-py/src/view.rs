//! Arrow memory as NumPy sees it: `__array_interface__` outwards.

use arrow_array::cast::AsArray;
use arrow_array::types::Date32Type;
use arrow_array::{Array, ArrayRef};
use arrow_buffer::{BooleanBuffer, Buffer};
use arrow_schema::DataType;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::datatype::unit_text;

/// Memory with a dtype; `numpy.asarray` of it is a read-only array that keeps it alive.
#[pyclass(frozen, name = "View", module = "pillion._native")]
pub struct View {
    buffer: Buffer,
    dtype: String,
    length: usize,
}

impl View {
    /// `length` elements of `dtype` (NumPy's typestr).
    pub fn new(buffer: Buffer, dtype: String, length: usize) -> Self {
        Self { buffer, dtype, length }
    }

    /// The interface dict (version 3) of a buffer whose owner's life the caller answers for.
    pub fn interface<'py>(py: Python<'py>, buffer: &Buffer, dtype: &str, length: usize) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item(intern!(py, "version"), 3)?;
        interface.set_item(intern!(py, "shape"), (length,))?;
        interface.set_item(intern!(py, "typestr"), dtype)?;
        interface.set_item(intern!(py, "data"), (buffer.as_ptr() as usize, true))?;
        Ok(interface)
    }
}

#[pymethods]
impl View {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        Self::interface(py, &self.buffer, &self.dtype, self.length)
    }

    fn __len__(&self) -> usize {
        self.length
    }
}

/// The values as NumPy lays them out, with their dtype: the array's own memory where the layouts agree, a copy for booleans and dates;
/// `None` if there is no dtype. Null slots hold whatever the array has there.
pub fn dense_values(array: &ArrayRef) -> Option<(Buffer, String)> {
    let dtype = match array.data_type() {
        DataType::Boolean => return Some((bytes_of(array.as_boolean().values()), "|b1".into())),
        DataType::Date32 => {
            let days: Vec<i64> = array.as_primitive::<Date32Type>().values().iter().map(|&days| i64::from(days)).collect();
            return Some((Buffer::from_vec(days), "<M8[D]".into()));
        }
        DataType::Int8 => "|i1".into(),
        DataType::UInt8 => "|u1".into(),
        DataType::Int16 => "<i2".into(),
        DataType::UInt16 => "<u2".into(),
        DataType::Int32 => "<i4".into(),
        DataType::UInt32 => "<u4".into(),
        DataType::Int64 => "<i8".into(),
        DataType::UInt64 => "<u8".into(),
        DataType::Float16 => "<f2".into(),
        DataType::Float32 => "<f4".into(),
        DataType::Float64 => "<f8".into(),
        DataType::Date64 => "<M8[ms]".into(),
        DataType::Timestamp(unit, _) => format!("<M8[{}]", unit_text(*unit)),
        DataType::Duration(unit) => format!("<m8[{}]", unit_text(*unit)),
        _ => return None,
    };
    let data = array.to_data();
    let width = array.data_type().primitive_width()?;
    Some((data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width), dtype))
}

/// One byte per row, 1 where it is null.
pub fn null_mask(array: &ArrayRef) -> Buffer {
    match array.logical_nulls() {
        Some(nulls) => bytes_of(&!nulls.inner()),
        None => Buffer::from_vec(vec![0_u8; array.len()]),
    }
}

/// One byte per bit.
fn bytes_of(bits: &BooleanBuffer) -> Buffer {
    Buffer::from_vec(bits.iter().map(u8::from).collect::<Vec<u8>>())
}
