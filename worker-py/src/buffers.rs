//! Memory that Python owns: the one place where its addresses are read.
//!
//! Two contracts bring an address in: the Arrow C data interface (PyCapsules, whose names say what they point to) and NumPy's
//! `__array_interface__`. Both are promises of the producer; nothing here can prove them, everything that can be checked is checked by the
//! callers, and what is imported is kept alive by its owner.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::ffi_stream::{ArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{ArrayRef, make_array};
use arrow_buffer::{ArrowNativeType, Buffer};
use arrow_schema::{ArrowError, DataType, Field};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// Name of a capsule that holds a schema.
pub const SCHEMA: &CStr = c"arrow_schema";
/// Name of a capsule that holds an array.
pub const ARRAY: &CStr = c"arrow_array";
/// Name of a capsule that holds a stream of arrays.
pub const STREAM: &CStr = c"arrow_array_stream";

/// Reads the field in a schema capsule.
pub fn import_field(capsule: &Bound<'_, PyCapsule>) -> PyResult<Result<Field, ArrowError>> {
    let pointer = capsule.pointer_checked(Some(SCHEMA))?.cast::<FFI_ArrowSchema>();
    // SAFETY: a capsule of this name holds a valid `ArrowSchema` for as long as it lives (Arrow PyCapsule interface); it is only read.
    let schema = unsafe { pointer.as_ref() };
    if schema.release().is_none() {
        return Ok(Err(ArrowError::CDataInterface("the schema was released before".into())));
    }
    Ok(Field::try_from(schema))
}

/// Moves the array out of its capsule; the memory stays the producer's and lives as long as the result.
pub fn import_array(capsule: &Bound<'_, PyCapsule>, data_type: DataType) -> PyResult<Result<ArrayRef, ArrowError>> {
    let pointer = capsule.pointer_checked(Some(ARRAY))?.cast::<FFI_ArrowArray>();
    // SAFETY: a capsule of this name holds a valid `ArrowArray`; taking it leaves a released one behind, as the interface asks.
    let array = unsafe { FFI_ArrowArray::from_raw(pointer.as_ptr()) };
    if array.is_released() {
        return Ok(Err(ArrowError::CDataInterface("the array was taken before".into())));
    }
    // SAFETY: the producer promises that the array agrees with the schema that came with it.
    Ok(unsafe { from_ffi_and_data_type(array, data_type) }.map(make_array))
}

/// Moves the stream out of its capsule.
pub fn import_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<Result<ArrayStreamReader, ArrowError>> {
    let pointer = capsule.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
    // SAFETY: a capsule of this name holds a valid `ArrowArrayStream`; taking it leaves a released one behind.
    Ok(unsafe { ArrayStreamReader::from_raw(pointer.as_ptr()) })
}

/// A one-dimensional array in memory that a Python object owns, as its `__array_interface__` describes it.
pub struct Foreign {
    /// Keeps the memory alive.
    pub owner: Py<PyAny>,
    /// Address of the first element.
    pub address: usize,
    /// Number of elements.
    pub length: usize,
    /// Bytes from one element to the next; may be negative or zero.
    pub stride: isize,
}

/// Whether results outlive the next call, so that they must not share memory that the function could write again.
static APART: AtomicBool = AtomicBool::new(false);

/// From now on values of NumPy are copied into results. A worker process sends each result before it calls Python again; in thread mode the host keeps it.
pub fn keep_results_apart() {
    APART.store(true, Ordering::Relaxed);
}

/// Below this size a copy is cheaper than keeping the owner alive, in bytes.
const SHARE_BYTES: usize = 64 * 1024;

impl Foreign {
    /// The elements as an Arrow buffer: the memory itself if it is large, contiguous and aligned, else a copy.
    ///
    /// A shared buffer sees later writes of its owner. The worker sends each result before it calls Python again, so a function may reuse its
    /// output array from call to call; in thread mode, see [`keep_results_apart`], it is always a copy.
    pub fn buffer<T: ArrowNativeType>(self) -> Buffer {
        let width = size_of::<T>();
        let contiguous = self.stride == width.cast_signed() && self.address.is_multiple_of(align_of::<T>());
        let bytes = self.length.saturating_mul(width);
        if self.length == 0 || self.address == 0 {
            return Buffer::default();
        }
        if contiguous
            && bytes >= SHARE_BYTES
            && !APART.load(Ordering::Relaxed)
            && let Some(pointer) = NonNull::new(self.address as *mut u8)
        {
            // SAFETY: the owner promised `length` elements of this width at `address`, readable while it lives, and the buffer holds it.
            return unsafe { Buffer::from_custom_allocation(pointer, bytes, Arc::new(AssertUnwindSafe(self.owner))) };
        }
        Buffer::from_vec(self.copy::<T>())
    }

    /// The elements, copied.
    pub fn copy<T: ArrowNativeType>(&self) -> Vec<T> {
        if self.length == 0 || self.address == 0 {
            return Vec::new();
        }
        let first = self.address as *const u8;
        if self.stride == size_of::<T>().cast_signed() {
            let mut values: Vec<T> = vec![T::default(); self.length];
            // SAFETY: the owner promised `length` elements at `address`; `values` is as long and does not overlap with it.
            unsafe { first.copy_to_nonoverlapping(values.as_mut_ptr().cast(), self.length * size_of::<T>()) };
            return values;
        }
        (0..self.length.cast_signed())
            // SAFETY: the owner promised an element at each of these offsets; it need not be aligned.
            .map(|index| unsafe { first.offset(index * self.stride).cast::<T>().read_unaligned() })
            .collect()
    }
}
