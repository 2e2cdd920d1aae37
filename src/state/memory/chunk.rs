//! Rows of the memory backend: chunks of addresses and, per cell, of slots, each behind `Arc`, so that a view shares them.

use crate::state::{Cell, Op, small::Small, sorted::Sorted};
use std::sync::Arc;

/// Rows per chunk.
pub const ROWS: usize = 1024;

/// An entry of a list or map, beside its key: value and last access.
pub type Item = (Small, i64);

/// A list or a map. Keys of a list are counters.
#[derive(Clone, Debug, Default)]
pub struct Many {
    /// By encoded map key.
    pub items: Sorted<Small, Item>,
    /// Bytes of keys and values.
    pub bytes: usize,
    /// The key of the next element of a list.
    pub next: u64,
}

impl Many {
    /// Sets an entry.
    pub fn put(&mut self, key: &[u8], value: &[u8], access: i64) {
        let item = (Small::from(value), access);
        self.bytes += value.len();
        let (place, found) = self.items.seek(|other| other.as_slice().cmp(key));
        match self.items.value_at(place).filter(|_| found) {
            Some(old) => self.bytes -= std::mem::replace(old, item).0.as_slice().len(),
            None => {
                self.bytes += key.len();
                self.items.insert_at(place, Small::from(key), item);
            }
        }
    }

    /// Adds an element to a list.
    pub fn append(&mut self, value: &[u8], access: i64) {
        let key = self.next.to_be_bytes();
        self.next += 1;
        self.put(&key, value, access);
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &[u8]) {
        let (place, found) = self.items.seek(|other| other.as_slice().cmp(key));
        if found && let Some((key, (value, _))) = self.items.remove_at(place) {
            self.bytes -= key.as_slice().len() + value.as_slice().len();
        }
    }

    /// Removes the entries whose keys begin with `prefix`.
    pub fn clear_prefix(&mut self, prefix: &[u8]) {
        let (place, _) = self.items.seek(|other| other.as_slice().cmp(prefix));
        let keys: Vec<Small> =
            self.items.from(place).map(|(key, _)| key).take_while(|key| key.as_slice().starts_with(prefix)).cloned().collect();
        for key in keys {
            self.remove(key.as_slice());
        }
    }

    /// Removes what was last accessed at `cutoff` or before, and renews the rest if `renew` says to. How many were removed.
    pub fn sweep(&mut self, cutoff: i64, renew: Option<i64>) -> usize {
        let (before, mut gone) = (self.items.len(), 0);
        self.items.retain(
            |_, (_, access)| *access <= cutoff || renew.is_some_and(|now| now != *access),
            |key, (value, access)| {
                let stays = *access > cutoff;
                if stays {
                    *access = renew.unwrap_or(*access);
                } else {
                    gone += key.as_slice().len() + value.as_slice().len();
                }
                stays
            },
        );
        self.bytes -= gone;
        before - self.items.len()
    }
}

/// What a cell holds at one address.
#[derive(Clone, Debug, Default)]
pub enum Slot {
    /// Nothing.
    #[default]
    Absent,
    /// The value.
    One(Small),
    /// The list or map; never empty.
    Many(Arc<Many>),
}

/// One cell of the rows of a chunk. As long as its last row that was ever set.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// By row.
    pub slots: Vec<Slot>,
    /// Last access by row, if the cell is single and has a time to live.
    pub access: Vec<i64>,
}

impl Column {
    /// The value in a row of a single cell, unless it was last accessed at `hidden` or before.
    pub fn one(&self, row: usize, hidden: i64) -> Option<&Small> {
        match self.slots.get(row) {
            Some(Slot::One(value)) if hidden == i64::MIN || self.access.get(row).is_none_or(|&access| access > hidden) => Some(value),
            _ => None,
        }
    }

    /// The list or map in a row.
    pub fn many(&self, row: usize) -> Option<&Arc<Many>> {
        match self.slots.get(row) {
            Some(Slot::Many(many)) => Some(many),
            _ => None,
        }
    }

    /// Puts a value into a row of a single cell.
    pub fn put(&mut self, row: usize, declared: &Cell, change: &Change<'_>, gain: &mut Gain) {
        if declared.ttl.is_some() {
            self.set_access(row, change.now);
        }
        let value = Small::from(change.value);
        gain.heap += value.heap();
        match std::mem::replace(self.slot(row), Slot::One(value)) {
            Slot::One(old) => gain.freed += old.heap(),
            _ => gain.entries += 1,
        }
    }

    /// A row, to be written.
    pub fn slot(&mut self, row: usize) -> &mut Slot {
        if self.slots.len() <= row {
            self.slots.resize_with(row + 1, Slot::default);
        }
        &mut self.slots[row]
    }

    /// Sets the last access of a row.
    pub fn set_access(&mut self, row: usize, access: i64) {
        if self.access.len() <= row {
            self.access.resize(row + 1, i64::MIN);
        }
        self.access[row] = access;
    }
}

/// A change of one cell at one address.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What is done.
    pub op: Op,
    /// The map key.
    pub map_key: Option<&'a [u8]>,
    /// The value.
    pub value: &'a [u8],
    /// The time.
    pub now: i64,
}

/// What puts have added to a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gain {
    /// Entries.
    pub entries: u64,
    /// Memory of long values.
    pub heap: usize,
    /// The same of those that they replaced.
    pub freed: usize,
}

/// Up to [`ROWS`] rows.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Packed addresses; empty = the row is free.
    pub addresses: Arc<Vec<Small>>,
    /// By cell.
    pub columns: Vec<Arc<Column>>,
}

impl Chunk {
    /// An empty one.
    pub fn new(cells: usize) -> Self {
        Chunk { addresses: Arc::new(Vec::with_capacity(ROWS)), columns: (0..cells).map(|_| Arc::default()).collect() }
    }

    /// True if no cell holds anything in this row.
    pub fn is_empty(&self, row: usize) -> bool {
        self.columns.iter().all(|column| !matches!(column.slots.get(row), Some(Slot::One(_) | Slot::Many(_))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_as_small_as_their_bytes() {
        assert_eq!(size_of::<Slot>(), 24);
    }
}
