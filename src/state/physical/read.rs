//! Bytes as rows of a column. Everything is checked: the bytes may come from a host or from a file.

use super::{Class, Form, NULL, PRESENT, check_type, damaged, fixed, plain, take};
use crate::{
    error::{Code, Error, Result},
    state::columns::broken,
};
use arrow_array::{ArrayRef, make_array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_data::ArrayData;
use arrow_schema::DataType;

/// A column that is read row by row.
#[derive(Debug)]
pub struct Reader {
    data_type: DataType,
    valid: Vec<bool>,
    nulls: usize,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Null,
    Boolean(Vec<bool>),
    Fixed {
        values: Vec<u8>,
        width: usize,
        class: Class,
    },
    Bytes {
        ends: Vec<usize>,
        values: Vec<u8>,
    },
    Struct(Vec<Reader>),
    List {
        ends: Vec<usize>,
        element: Box<Reader>,
    },
    FixedList {
        size: usize,
        element: Box<Reader>,
    },
    /// Read as another type, then cast.
    Cast(Box<Reader>),
}

impl Reader {
    /// An empty column of a type.
    ///
    /// # Errors
    /// [`Code::StateType`] for types that cannot be read.
    pub fn new(data_type: &DataType) -> Result<Self> {
        check_type(data_type, false)?;
        Reader::checked(data_type)
    }

    fn checked(data_type: &DataType) -> Result<Self> {
        let element = |field: &arrow_schema::Field| Ok::<_, Error>(Box::new(Reader::checked(field.data_type())?));
        let layout = if let Some((width, class)) = fixed(data_type) {
            Layout::Fixed { values: Vec::new(), width, class }
        } else if let Some(plain) = plain(data_type) {
            Layout::Cast(Box::new(Reader::checked(&plain)?))
        } else {
            match data_type {
                DataType::Null => Layout::Null,
                DataType::Boolean => Layout::Boolean(Vec::new()),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                    Layout::Bytes { ends: vec![0], values: Vec::new() }
                }
                DataType::Struct(fields) => {
                    Layout::Struct(fields.iter().map(|field| Reader::checked(field.data_type())).collect::<Result<_>>()?)
                }
                DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
                    Layout::List { ends: vec![0], element: element(field)? }
                }
                DataType::FixedSizeList(field, size) => {
                    Layout::FixedList { size: usize::try_from(*size).unwrap_or(0), element: element(field)? }
                }
                other => return Err(Error::new(Code::StateType, format!("values of type `{other}` cannot be kept as state"))),
            }
        };
        Ok(Reader { data_type: data_type.clone(), valid: Vec::new(), nulls: 0, layout })
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        self.valid.push(false);
        self.nulls += 1;
        match &mut self.layout {
            Layout::Null => {}
            Layout::Boolean(values) => values.push(false),
            Layout::Fixed { values, width, .. } => values.resize(values.len() + *width, 0),
            Layout::Bytes { ends, values } => ends.push(values.len()),
            Layout::Struct(columns) => columns.iter_mut().for_each(Reader::push_null),
            Layout::List { ends, element } => ends.push(element.valid.len()),
            Layout::FixedList { size, element } => (0..*size).for_each(|_| element.push_null()),
            Layout::Cast(plain) => plain.push_null(),
        }
    }

    /// Adds a row from the front of `input`, which has a mark before it.
    ///
    /// # Errors
    /// [`Code::StateDamaged`].
    pub fn read<F: Form>(&mut self, input: &mut &[u8]) -> Result<()> {
        match take(input, 1) {
            Some([NULL]) => {
                self.push_null();
                Ok(())
            }
            Some([PRESENT]) => self.read_present::<F>(input),
            _ => Err(self.damaged()),
        }
    }

    /// Adds a row that is not null.
    ///
    /// # Errors
    /// [`Code::StateDamaged`].
    pub fn read_present<F: Form>(&mut self, input: &mut &[u8]) -> Result<()> {
        let read = match &mut self.layout {
            Layout::Null => None,
            Layout::Boolean(values) => match take(input, 1) {
                Some([flag @ (0 | 1)]) => {
                    values.push(*flag == 1);
                    Some(())
                }
                _ => None,
            },
            Layout::Fixed { values, width, class } => F::read_fixed(input, values, *width, *class),
            Layout::Bytes { ends, values } => F::read_bytes(input, values).map(|()| ends.push(values.len())),
            Layout::Struct(columns) => {
                for column in columns {
                    column.read::<F>(input)?;
                }
                Some(())
            }
            Layout::List { ends, element } => elements::<F>(element, input)?.map(|()| ends.push(element.valid.len())),
            Layout::FixedList { size, element } => {
                let before = element.valid.len();
                elements::<F>(element, input)?.filter(|()| element.valid.len() - before == *size)
            }
            Layout::Cast(plain) => {
                plain.read_present::<F>(input)?;
                Some(())
            }
        };
        self.valid.push(true);
        read.ok_or_else(|| self.damaged())
    }

    /// Adds a row that is a byte string as it is; false if the column is of another layout.
    pub fn read_raw(&mut self, input: &[u8]) -> bool {
        let done = match &mut self.layout {
            Layout::Bytes { ends, values } => {
                values.extend_from_slice(input);
                ends.push(values.len());
                true
            }
            Layout::Cast(plain) => plain.read_raw(input),
            _ => false,
        };
        if done {
            self.valid.push(true);
        }
        done
    }

    fn damaged(&self) -> Error {
        damaged("value", &self.data_type)
    }

    /// The column.
    ///
    /// # Errors
    /// [`Code::StateDamaged`] if strings are not valid UTF-8 or numbers are out of the range of their type, [`Code::StateTooLarge`] if offsets do not suffice.
    pub fn finish(self) -> Result<ArrayRef> {
        let Reader { data_type, valid, nulls, layout } = self;
        let len = valid.len();
        let mut data = ArrayData::builder(data_type.clone()).len(len);
        if nulls > 0 && data_type != DataType::Null {
            data = data.nulls(Some(NullBuffer::from(valid)));
        }
        data = match layout {
            Layout::Null => data,
            Layout::Boolean(values) => data.add_buffer(BooleanBuffer::from(values).into_inner()),
            // Copied: numbers must be aligned, a vector of bytes need not be.
            Layout::Fixed { values, .. } => data.add_buffer(Buffer::from_slice_ref(&values)),
            Layout::Bytes { ends, values } => data.add_buffer(offsets(&ends, &data_type)?).add_buffer(Buffer::from_vec(values)),
            Layout::Struct(columns) => {
                let columns = columns.into_iter().map(|column| Ok(column.finish()?.to_data())).collect::<Result<Vec<_>>>()?;
                data.child_data(columns)
            }
            Layout::List { ends, element } => data.add_buffer(offsets(&ends, &data_type)?).add_child_data(element.finish()?.to_data()),
            Layout::FixedList { element, .. } => data.add_child_data(element.finish()?.to_data()),
            Layout::Cast(plain) => return arrow_cast::cast(&plain.finish()?, &data_type).map_err(broken),
        };
        let data = data.build().map_err(|error| damaged("value", &data_type).detail(error.to_string()))?;
        Ok(make_array(data))
    }
}

/// Elements up to the mark that ends them.
fn elements<F: Form>(element: &mut Reader, input: &mut &[u8]) -> Result<Option<()>> {
    loop {
        match take(input, 1) {
            Some([PRESENT]) => element.read::<F>(input)?,
            Some([NULL]) => return Ok(Some(())),
            _ => return Ok(None),
        }
    }
}

fn offsets(ends: &[usize], data_type: &DataType) -> Result<Buffer> {
    match data_type {
        DataType::LargeUtf8 | DataType::LargeBinary | DataType::LargeList(_) => {
            Ok(Buffer::from_vec(ends.iter().map(|&end| end as i64).collect()))
        }
        _ => {
            let narrow: Result<Vec<i32>, _> = ends.iter().map(|&end| i32::try_from(end)).collect();
            narrow
                .map(Buffer::from_vec)
                .map_err(|_| Error::new(Code::StateTooLarge, format!("state of type `{data_type}` is larger than one column can hold")))
        }
    }
}
