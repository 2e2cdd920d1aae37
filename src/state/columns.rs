//! Building columns of bytes within the limits of their offsets.

use crate::error::{Code, Error, Result};
use arrow_array::{Array, BinaryArray, BooleanArray, ListArray, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use std::sync::Arc;

/// A column of byte strings that grows.
#[derive(Debug)]
pub struct Bytes {
    offsets: Vec<i32>,
    data: Vec<u8>,
    /// Empty while nothing is null.
    valid: Vec<bool>,
}

fn too_large() -> Error {
    Error::new(Code::StateTooLarge, "the state of one bundle is larger than 2 GiB")
        .hint("cut smaller bundles, or keep large values in maps and lists, which are read in pages")
}

impl Bytes {
    /// An empty column with room.
    pub fn new(rows: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Bytes { offsets, data: Vec::with_capacity(bytes), valid: Vec::new() }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Adds a row.
    pub fn push(&mut self, value: &[u8]) -> Result<()> {
        self.data.extend_from_slice(value);
        self.end()
    }

    /// Ends the row whose bytes were written into [`Self::open`].
    pub fn end(&mut self) -> Result<()> {
        self.offsets.push(i32::try_from(self.data.len()).map_err(|_| too_large())?);
        if !self.valid.is_empty() {
            self.valid.push(true);
        }
        Ok(())
    }

    /// Where the bytes of the next row are written.
    pub fn open(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        if self.valid.is_empty() {
            self.valid = vec![true; self.len()];
        }
        self.valid.push(false);
        self.offsets.push(self.offsets.last().copied().unwrap_or_default());
    }

    /// Adds a row, or a null.
    pub fn push_option(&mut self, value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self.push(value),
            None => {
                self.push_null();
                Ok(())
            }
        }
    }

    /// The column.
    pub fn finish(self) -> BinaryArray {
        let nulls = (!self.valid.is_empty()).then(|| NullBuffer::from(self.valid));
        // The offsets rise from zero to the length by construction.
        BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(self.offsets)), Buffer::from_vec(self.data), nulls)
    }
}

/// A column of byte strings of one width.
pub fn of_width(data: Vec<u8>, width: usize, rows: usize) -> Result<BinaryArray> {
    if data.len() != width * rows || i32::try_from(data.len()).is_err() {
        return Err(too_large());
    }
    let offsets: Vec<i32> = (0..=rows).map(|row| (row * width) as i32).collect();
    Ok(BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data), None))
}

/// Offsets of lists.
#[derive(Debug)]
pub struct Offsets(Vec<i32>);

impl Offsets {
    /// With room.
    pub fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Offsets(offsets)
    }

    /// Ends a list before entry `end`.
    pub fn push(&mut self, end: usize) -> Result<()> {
        self.0.push(i32::try_from(end).map_err(|_| too_large())?);
        Ok(())
    }

    /// As a buffer.
    pub fn finish(self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(ScalarBuffer::from(self.0))
    }
}

/// Lists of byte strings.
pub fn lists(offsets: OffsetBuffer<i32>, values: BinaryArray) -> Result<ListArray> {
    ListArray::try_new(Arc::new(Field::new_list_field(DataType::Binary, true)), offsets, Arc::new(values), None).map_err(broken)
}

/// A column of flags.
pub fn flags(flags: Vec<bool>) -> BooleanArray {
    BooleanArray::new(BooleanBuffer::from(flags), None)
}

/// A column whose rows are set in any order, each at most once; the others are null.
#[derive(Debug)]
pub enum Scattered {
    /// As long as all values have the width of the first: each lies where it ends up.
    Even { width: usize, data: Vec<u8>, set: Vec<bool>, count: usize },
    /// Row `i` is `data[start..start + len]` of `places[i]`, or null if its start is `ABSENT`.
    Uneven { data: Vec<u8>, places: Vec<(u32, u32)> },
}

const ABSENT: u32 = u32::MAX;

/// A wider value is not worth room for all rows when the first is set.
const EVEN: usize = 32;

impl Scattered {
    /// For so many rows, all absent at first.
    pub fn new(rows: usize) -> Self {
        Scattered::Even { width: 0, data: Vec::new(), set: vec![false; rows], count: 0 }
    }

    /// Sets a row; once.
    pub fn set(&mut self, row: usize, value: &[u8]) -> Result<()> {
        if let Scattered::Even { width, data, set, count } = self {
            let fits = value.len() <= EVEN && i32::try_from(set.len() * value.len()).is_ok();
            if *count == 0 && fits {
                *width = value.len();
                *data = vec![0; set.len() * *width];
            }
            if value.len() == *width && fits {
                let place = &mut data[row * *width..(row + 1) * *width];
                // A schema id and eight bytes, the most frequent value: a copy of a known width needs no call.
                match (<&mut [u8; 9]>::try_from(&mut *place), <&[u8; 9]>::try_from(value)) {
                    (Ok(place), Ok(value)) => *place = *value,
                    _ => place.copy_from_slice(value),
                }
                set[row] = true;
                *count += 1;
                return Ok(());
            }
            let places = set.iter().enumerate().map(|(row, &set)| if set { ((row * *width) as u32, *width as u32) } else { (ABSENT, 0) });
            *self = Scattered::Uneven { places: places.collect(), data: std::mem::take(data) };
        }
        let Scattered::Uneven { data, places } = self else { return Ok(()) };
        let start = data.len();
        data.extend_from_slice(value);
        if data.len() > i32::MAX as usize {
            return Err(too_large());
        }
        places[row] = (start as u32, value.len() as u32);
        Ok(())
    }

    /// The column.
    pub fn finish(self) -> Result<BinaryArray> {
        match self {
            Scattered::Even { width, data, set, count } if count == set.len() => of_width(data, width, count),
            Scattered::Even { width, data, set, .. } => {
                gathered(&data, set.iter().enumerate().map(|(row, &set)| set.then_some((row * width, width))))
            }
            Scattered::Uneven { data, places } => {
                gathered(&data, places.iter().map(|&(start, len)| (start != ABSENT).then_some((start as usize, len as usize))))
            }
        }
    }
}

/// The pieces of `data` at these places, one after the other.
fn gathered(data: &[u8], places: impl ExactSizeIterator<Item = Option<(usize, usize)>>) -> Result<BinaryArray> {
    let mut column = Bytes::new(places.len(), data.len());
    for place in places {
        column.push_option(place.map(|(start, len)| &data[start..start + len]))?;
    }
    Ok(column.finish())
}

/// A column of names from byte strings that came from such a column.
pub fn strings(bytes: BinaryArray) -> Result<StringArray> {
    StringArray::try_from_binary(bytes)
        .map_err(|error| Error::new(Code::StateDamaged, "a timer's name is not valid UTF-8").detail(error.to_string()))
}

/// An Arrow call that cannot fail did.
pub fn broken(error: arrow_schema::ArrowError) -> Error {
    Error::new(Code::InvariantBroken, "columns of state do not fit each other").detail(error.to_string())
}

/// The bytes of row `row`, or `None` for null.
pub fn value(array: &BinaryArray, row: usize) -> Option<&[u8]> {
    array.is_valid(row).then(|| array.value(row))
}
