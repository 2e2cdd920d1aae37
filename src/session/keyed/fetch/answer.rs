//! An answer as it grows, and the room that it has.

use crate::state::Entries;
use arrow_array::{Array, ArrayRef, BinaryArray, UInt32Array, cast::AsArray, new_null_array};
use arrow_schema::{ArrowError, DataType};
use arrow_select::{concat::concat, take::take};
use pillion_wire::bundle::Fetched;
use std::collections::HashMap;

/// What an answer still takes.
pub(super) struct Room {
    pub left: usize,
    /// Nothing is in it yet: the first value has room, whatever its size.
    untouched: bool,
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        Room { left: bytes, untouched: true }
    }

    pub fn is_full(&self) -> bool {
        self.left == 0 && !self.untouched
    }

    /// Whether so many bytes more have room, which they then take.
    pub fn take(&mut self, bytes: usize) -> bool {
        let fits = self.untouched || bytes <= self.left;
        self.left = if fits { self.left.saturating_sub(bytes) } else { 0 };
        self.untouched &= bytes == 0;
        fits
    }
}

/// The answer, part by part.
#[derive(Default)]
pub(super) struct Found {
    parts: Vec<ArrayRef>,
    /// Of the parts one after the other, which row of the question each is.
    rows: Vec<u32>,
    pub next: HashMap<u32, Vec<u8>>,
}

impl Found {
    pub fn add(&mut self, rows: &[u32], values: ArrayRef) {
        self.rows.extend(rows);
        self.parts.push(values);
    }

    /// The parts in the order of the question.
    pub fn into_answer(self, rows: usize, column: &DataType) -> Result<Fetched, ArrowError> {
        let parts: Vec<&dyn Array> = self.parts.iter().map(AsRef::as_ref).collect();
        let joined = match &parts[..] {
            [] => new_null_array(column, 0),
            [_] => self.parts[0].clone(),
            _ => concat(&parts)?,
        };
        let values = if self.rows.iter().copied().eq(0..rows as u32) {
            joined
        } else {
            let mut places = vec![0; rows];
            self.rows.iter().enumerate().for_each(|(place, &row)| places[row as usize] = place as u32);
            take(&joined, &UInt32Array::from(places), None)?
        };
        let next = (0..rows as u32).map(|row| self.next.get(&row).map(Vec::as_slice));
        Ok(Fetched { values, next: (!self.next.is_empty()).then(|| BinaryArray::from_iter(next)) })
    }
}

/// Bytes of what a store has at an address.
pub(super) fn size(entries: &Entries, at: usize) -> usize {
    match entries {
        Entries::Values(values) => values.value(at).len(),
        Entries::Lists { lists, .. } => {
            let (offsets, values) = (lists.value_offsets(), lists.values().as_binary::<i32>());
            span(values, offsets[at], offsets[at + 1])
        }
        Entries::Maps { offsets, keys, values, .. } => {
            span(keys, offsets[at], offsets[at + 1]) + span(values, offsets[at], offsets[at + 1])
        }
    }
}

fn span(values: &BinaryArray, from: i32, to: i32) -> usize {
    let offsets = values.value_offsets();
    (offsets[to as usize] - offsets[from as usize]) as usize
}
