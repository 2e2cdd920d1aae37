//! Rows of a column as bytes.

use super::{Class, Form, NULL, PRESENT, check_type, fixed, plain};
use crate::error::{Code, Error, Result};
use arrow_array::{Array, ArrayRef, cast::AsArray, make_array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::DataType;

/// A column, ready to be written row by row.
#[derive(Debug)]
pub struct Writer {
    nulls: Option<NullBuffer>,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Null,
    Boolean(BooleanBuffer),
    Fixed { values: Buffer, width: usize, class: Class },
    Bytes { ends: Vec<usize>, values: Buffer },
    Struct(Vec<Writer>),
    List { ends: Vec<usize>, element: Box<Writer> },
}

/// Offsets of either width.
fn offsets(array: &dyn Array) -> Option<Vec<usize>> {
    fn wide<O: arrow_array::OffsetSizeTrait>(offsets: &[O]) -> Vec<usize> {
        offsets.iter().map(|offset| offset.as_usize()).collect()
    }
    Some(match array.data_type() {
        DataType::Utf8 => wide(array.as_string::<i32>().offsets()),
        DataType::LargeUtf8 => wide(array.as_string::<i64>().offsets()),
        DataType::Binary => wide(array.as_binary::<i32>().offsets()),
        DataType::LargeBinary => wide(array.as_binary::<i64>().offsets()),
        DataType::List(_) => wide(array.as_list::<i32>().offsets()),
        DataType::LargeList(_) => wide(array.as_list::<i64>().offsets()),
        DataType::Map(..) => wide(array.as_map().offsets()),
        DataType::FixedSizeList(_, size) => (0..=array.len()).map(|row| row * usize::try_from(*size).unwrap_or(0)).collect(),
        _ => return None,
    })
}

impl Writer {
    /// Looks at a column.
    ///
    /// # Errors
    /// [`Code::StateType`] for types that cannot be written.
    pub fn new(array: &dyn Array) -> Result<Self> {
        check_type(array.data_type(), false)?;
        Writer::checked(array)
    }

    fn checked(array: &dyn Array) -> Result<Self> {
        let data_type = array.data_type();
        if let Some(plain) = plain(data_type) {
            let values = arrow_cast::cast(array, &plain).map_err(super::super::columns::broken)?;
            return Writer::checked(&values);
        }
        let nulls = array.logical_nulls();
        let layout = if let Some((width, class)) = fixed(data_type) {
            let data = array.to_data();
            let values = data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width);
            Layout::Fixed { values, width, class }
        } else {
            match data_type {
                DataType::Null => Layout::Null,
                DataType::Boolean => Layout::Boolean(array.as_boolean().values().clone()),
                DataType::Utf8 => bytes(array, array.as_string::<i32>().values())?,
                DataType::LargeUtf8 => bytes(array, array.as_string::<i64>().values())?,
                DataType::Binary => bytes(array, array.as_binary::<i32>().values())?,
                DataType::LargeBinary => bytes(array, array.as_binary::<i64>().values())?,
                DataType::Struct(_) => {
                    Layout::Struct(array.as_struct().columns().iter().map(|column| Writer::checked(column)).collect::<Result<_>>()?)
                }
                DataType::List(_) => list(array, array.as_list::<i32>().values())?,
                DataType::LargeList(_) => list(array, array.as_list::<i64>().values())?,
                DataType::FixedSizeList(..) => list(array, array.as_fixed_size_list().values())?,
                DataType::Map(..) => list(array, &make_array(array.as_map().entries().to_data()))?,
                other => return Err(Error::new(Code::StateType, format!("values of type `{other}` cannot be kept as state"))),
            }
        };
        Ok(Writer { nulls, layout })
    }

    /// True if a row is null.
    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.layout, Layout::Null) || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends a row, with a mark before it that says whether it is null.
    pub fn write<F: Form>(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.push(NULL);
        } else {
            out.push(PRESENT);
            self.write_present::<F>(row, out);
        }
    }

    /// The native bytes of a column of fixed width, and that width.
    pub fn as_fixed(&self) -> Option<(&[u8], usize)> {
        match &self.layout {
            Layout::Fixed { values, width, .. } if self.nulls.is_none() => Some((values, *width)),
            _ => None,
        }
    }

    /// Appends a row that is a byte string as it is; false if the column is of another layout.
    pub fn write_raw(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let Layout::Bytes { ends, values } = &self.layout else { return false };
        out.extend_from_slice(&values[ends[row]..ends[row + 1]]);
        true
    }

    /// Appends a row that is not null.
    pub fn write_present<F: Form>(&self, row: usize, out: &mut Vec<u8>) {
        match &self.layout {
            Layout::Null => {}
            Layout::Boolean(values) => out.push(u8::from(values.value(row))),
            Layout::Fixed { values, width, class } => F::fixed(out, &values[row * width..(row + 1) * width], *class),
            Layout::Bytes { ends, values } => F::bytes(out, &values[ends[row]..ends[row + 1]]),
            Layout::Struct(columns) => columns.iter().for_each(|column| column.write::<F>(row, out)),
            Layout::List { ends, element } => {
                // A mark before each element and at the end: a list is before those that go on after it.
                for at in ends[row]..ends[row + 1] {
                    out.push(PRESENT);
                    element.write::<F>(at, out);
                }
                out.push(NULL);
            }
        }
    }
}

fn bytes(array: &dyn Array, values: &Buffer) -> Result<Layout> {
    let ends = offsets(array).ok_or_else(unknown)?;
    Ok(Layout::Bytes { ends, values: values.clone() })
}

fn list(array: &dyn Array, values: &ArrayRef) -> Result<Layout> {
    let ends = offsets(array).ok_or_else(unknown)?;
    Ok(Layout::List { ends, element: Box::new(Writer::checked(values)?) })
}

fn unknown() -> Error {
    Error::new(Code::InvariantBroken, "a column has offsets of an unknown kind")
}
