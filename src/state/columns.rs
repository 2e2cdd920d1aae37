//! Building columns of bytes within the limits of their offsets.

use crate::error::{Code, Error, Result};
use arrow_array::{Array, BinaryArray, BooleanArray, ListArray, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
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

/// A column of values that the caller has in another order: row `i` is `data[places[i]]`, or null if its start is `ABSENT`.
#[derive(Debug)]
pub struct Scattered {
    data: Vec<u8>,
    places: Vec<(u32, u32)>,
    absent: usize,
}

const ABSENT: u32 = u32::MAX;

impl Scattered {
    /// For so many rows, all absent at first.
    pub fn new(rows: usize) -> Self {
        Scattered { data: Vec::with_capacity(rows * 8), places: vec![(ABSENT, 0); rows], absent: rows }
    }

    /// Sets a row; once.
    pub fn set(&mut self, row: usize, value: &[u8]) -> Result<()> {
        let start = self.data.len();
        self.data.extend_from_slice(value);
        if self.data.len() > i32::MAX as usize {
            return Err(too_large());
        }
        self.places[row] = (start as u32, value.len() as u32);
        self.absent -= 1;
        Ok(())
    }

    /// The column.
    pub fn finish(self) -> BinaryArray {
        let rows = self.places.len();
        let nulls = (self.absent > 0).then(|| NullBuffer::from(BooleanBuffer::collect_bool(rows, |row| self.places[row].0 != ABSENT)));
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0i32);
        let width = self.places.iter().find(|place| place.0 != ABSENT).map_or(0, |place| place.1);
        if width == 9 && self.absent == 0 && self.places.iter().all(|place| place.1 == width) {
            // A schema id and eight bytes, the most frequent value: a copy of a known width is much quicker.
            let mut data = MutableBuffer::with_capacity(self.data.len());
            for (row, &(start, _)) in self.places.iter().enumerate() {
                let mut nine = [0u8; 9];
                nine.copy_from_slice(&self.data[start as usize..start as usize + 9]);
                data.extend_from_slice(&nine);
                offsets.push((row as i32 + 1) * 9);
            }
            return BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(offsets)), data.into(), nulls);
        }
        let mut data = Vec::with_capacity(self.data.len());
        for &(start, len) in &self.places {
            if start != ABSENT {
                data.extend_from_slice(&self.data[start as usize..(start + len) as usize]);
            }
            offsets.push(data.len() as i32);
        }
        BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data), nulls)
    }
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
