//! One key group of the memory backend: an index over the rows of its chunks, and its timers.

use super::chunk::{Change, Chunk, Column, Gain, Item, Many, ROWS, Slot};
use crate::{
    state::{Addresses, Cell, Op, Shape, Update, address::pack, small::Small},
    timer::set::TimerSet,
};
use hashbrown::HashTable;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// A row of the index: part of the address's hash, and where it is.
#[derive(Clone, Copy, Debug)]
struct Indexed {
    hash: u32,
    row: u32,
}

/// The state and timers of a key group.
#[derive(Debug)]
pub struct Group {
    index: HashTable<Indexed>,
    /// The rows.
    pub chunks: Vec<Chunk>,
    /// Rows that were given up.
    free: Vec<u32>,
    /// The end of the rows in use.
    end: u32,
    /// How often an address has got or lost a row: while it stays the same, what was found stays where it is.
    pub moves: u64,
    /// Its timers.
    pub timers: TimerSet,
    /// Changes so far, by cell; the last is of the timers.
    pub versions: Vec<u64>,
    /// Entries of cells.
    pub entries: u64,
    /// Memory of long keys and values.
    pub heap: usize,
    /// Entries that were removed because they were expired.
    pub expired: u64,
    /// Where the next clean-up goes on.
    pub swept: u32,
}

/// No row.
pub const NONE: u32 = u32::MAX;

/// Packed addresses one after the other, with their short hashes.
#[derive(Debug, Default)]
pub struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    hashes: Vec<u32>,
}

impl Packed {
    /// Replaces what it holds by these rows of addresses.
    pub fn fill(&mut self, addresses: &Addresses, rows: &[u32]) {
        self.bytes.clear();
        self.ends.clear();
        self.hashes.clear();
        for &row in rows {
            let (start, (key, namespace)) = (self.bytes.len(), addresses.at(row as usize));
            match <&[u8; 9]>::try_from(key) {
                // Keys of 64-bit integers: a copy of a known width needs no call.
                Ok(key) if namespace.is_empty() => {
                    let mut packed = [9; 10];
                    packed[1..].copy_from_slice(key);
                    self.bytes.extend_from_slice(&packed);
                    self.hashes.push(xxh3_64(&packed) as u32);
                }
                _ => {
                    pack(&mut self.bytes, key, namespace);
                    self.hashes.push(xxh3_64(&self.bytes[start..]) as u32);
                }
            }
            self.ends.push(self.bytes.len());
        }
    }

    /// The address at a place.
    pub fn get(&self, at: usize) -> &[u8] {
        &self.bytes[if at == 0 { 0 } else { self.ends[at - 1] }..self.ends[at]]
    }
}

/// Looks at something of everything, so that processors fetch the memory of many at once: what then looks closely at one after the other finds it there.
pub fn on_its_way(looks: impl Iterator<Item = bool>) {
    std::hint::black_box(looks.fold(0, |count, look| count + usize::from(look)));
}

/// The hash table wants its 64 bits well mixed; 32 are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Group {
    /// An empty group.
    pub fn new(cells: usize) -> Self {
        Group {
            index: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            end: 0,
            moves: 0,
            timers: TimerSet::default(),
            versions: vec![0; cells + 1],
            entries: 0,
            heap: 0,
            expired: 0,
            swept: 0,
        }
    }

    /// How many rows there are, free ones included.
    pub fn rows(&self) -> u32 {
        self.end
    }

    /// The row of a packed address.
    pub fn find(&self, packed: &[u8]) -> Option<u32> {
        let hash = xxh3_64(packed) as u32;
        self.index.find(spread(hash), |entry| entry.hash == hash && self.address(entry.row).as_slice() == packed).map(|entry| entry.row)
    }

    /// The rows of many packed addresses, into `rows`; [`NONE`] for those that have none. In short passes one after the other, so that the memory of many rows is on its way at once.
    pub fn find_all(&self, packed: &Packed, rows: &mut Vec<u32>) {
        rows.clear();
        rows.extend(
            packed.hashes.iter().map(|&hash| self.index.find(spread(hash), |entry| entry.hash == hash).map_or(NONE, |entry| entry.row)),
        );
        on_its_way(rows.iter().filter(|row| **row != NONE).map(|&row| matches!(self.address(row), Small::Inline(..))));
        for (at, row) in rows.iter_mut().enumerate() {
            // Two addresses with the same short hash are rare; then the address decides.
            if *row != NONE && self.address(*row).as_slice() != packed.get(at) {
                *row = self.find(packed.get(at)).unwrap_or(NONE);
            }
        }
    }

    fn address(&self, row: u32) -> &Small {
        &self.chunks[row as usize / ROWS].addresses[row as usize % ROWS]
    }

    /// The row of a packed address, which gets one if it has none.
    pub fn find_or_add(&mut self, packed: &[u8]) -> u32 {
        if let Some(row) = self.find(packed) {
            return row;
        }
        self.moves += 1;
        let hash = xxh3_64(packed) as u32;
        let address = Small::from(packed);
        self.heap += address.heap();
        let row = match self.free.pop() {
            Some(row) => {
                Arc::make_mut(&mut self.chunks[row as usize / ROWS].addresses)[row as usize % ROWS] = address;
                row
            }
            None => {
                if self.end as usize == self.chunks.len() * ROWS {
                    self.chunks.push(Chunk::new(self.versions.len() - 1));
                }
                let row = self.end;
                Arc::make_mut(&mut self.chunks[row as usize / ROWS].addresses).push(address);
                self.end += 1;
                row
            }
        };
        self.index.insert_unique(spread(hash), Indexed { hash, row }, |entry| spread(entry.hash));
        row
    }

    /// Gives a row up if no cell holds anything there; true if it is free now.
    pub fn release(&mut self, row: u32) -> bool {
        let chunk = &mut self.chunks[row as usize / ROWS];
        let at = row as usize % ROWS;
        if !chunk.is_empty(at) {
            return false;
        }
        if chunk.addresses[at].as_slice().is_empty() {
            return true;
        }
        self.moves += 1;
        let hash = xxh3_64(chunk.addresses[at].as_slice()) as u32;
        self.heap -= chunk.addresses[at].heap();
        Arc::make_mut(&mut chunk.addresses)[at] = Small::EMPTY;
        if let Ok(found) = self.index.find_entry(spread(hash), |entry| entry.row == row) {
            found.remove();
        }
        self.free.push(row);
        true
    }

    /// A cell's column of the chunk of a row.
    pub fn column(&self, row: u32, cell: usize) -> &Column {
        &self.chunks[row as usize / ROWS].columns[cell]
    }

    /// Changes a cell in a row; true if the cell holds nothing there afterwards.
    pub fn change(&mut self, row: u32, cell: usize, declared: &Cell, change: &Change<'_>) -> bool {
        match (declared.shape(), change.op) {
            (Shape::List | Shape::Map, _) => self.change_many(row, cell, declared, change),
            (Shape::Single, Op::Put | Op::Append) => {
                let column = Arc::make_mut(&mut self.chunks[row as usize / ROWS].columns[cell]);
                let mut gain = Gain::default();
                column.put(row as usize % ROWS, declared, change, &mut gain);
                self.gain(&gain);
                false
            }
            (Shape::Single, Op::Touch) => self.touch(row, cell, declared, change.now),
            (Shape::Single, Op::Clear | Op::Remove | Op::ClearPrefix) => self.clear(row, cell),
        }
    }

    /// Puts values into rows of a single cell. Chunks are made one's own once, not for each row.
    pub fn put_all<'a>(&mut self, cell: usize, declared: &Cell, puts: impl Iterator<Item = (u32, Change<'a>)> + Clone) {
        let mut touched = vec![false; self.chunks.len()];
        puts.clone().for_each(|(row, _)| touched[row as usize / ROWS] = true);
        let chunks = self.chunks.iter_mut().zip(touched);
        let mut columns: Vec<Option<&mut Column>> =
            chunks.map(|(chunk, touched)| if touched { Some(Arc::make_mut(&mut chunk.columns[cell])) } else { None }).collect();
        let slot = |row: u32| columns[row as usize / ROWS].as_ref().and_then(|column| column.slots.get(row as usize % ROWS));
        on_its_way(puts.clone().map(|(row, _)| matches!(slot(row), Some(Slot::One(_)))));
        let mut gain = Gain::default();
        for (row, change) in puts {
            if let Some(column) = &mut columns[row as usize / ROWS] {
                column.put(row as usize % ROWS, declared, &change, &mut gain);
            }
        }
        self.gain(&gain);
    }

    fn gain(&mut self, gain: &Gain) {
        self.entries += gain.entries;
        self.heap = self.heap + gain.heap - gain.freed;
    }

    /// Reports a read of a single cell.
    fn touch(&mut self, row: u32, cell: usize, declared: &Cell, now: i64) -> bool {
        let Some(ttl) = declared.ttl else { return false };
        let column = Arc::make_mut(&mut self.chunks[row as usize / ROWS].columns[cell]);
        let at = row as usize % ROWS;
        if !matches!(column.slots.get(at), Some(Slot::One(_))) {
            return false;
        }
        if ttl.expired(column.access[at], now) {
            self.expired += 1;
            return self.clear(row, cell);
        }
        if ttl.update == Update::OnReadAndWrite {
            column.set_access(at, now);
        }
        false
    }

    fn clear(&mut self, row: u32, cell: usize) -> bool {
        let column = &mut self.chunks[row as usize / ROWS].columns[cell];
        let at = row as usize % ROWS;
        if matches!(column.slots.get(at), None | Some(Slot::Absent)) {
            return true;
        }
        match std::mem::take(Arc::make_mut(column).slot(at)) {
            Slot::Absent => {}
            Slot::One(value) => {
                self.heap -= value.heap();
                self.entries -= 1;
            }
            Slot::Many(many) => {
                self.heap -= weight(&many);
                self.entries -= many.items.len() as u64;
            }
        }
        true
    }

    fn change_many(&mut self, row: u32, cell: usize, declared: &Cell, change: &Change<'_>) -> bool {
        if change.op == Op::Clear {
            return self.clear(row, cell);
        }
        let slot = Arc::make_mut(&mut self.chunks[row as usize / ROWS].columns[cell]).slot(row as usize % ROWS);
        if matches!(slot, Slot::Absent) {
            if !matches!(change.op, Op::Put | Op::Append) {
                return true;
            }
            *slot = Slot::Many(Arc::default());
            self.heap += MANY;
        }
        let Slot::Many(many) = slot else { return true };
        let (entries, heap) = (many.items.len(), weight(many));
        let many = Arc::make_mut(many);
        let access = if declared.ttl.is_some() { change.now } else { i64::MIN };
        let mut expired = 0;
        match (change.op, change.map_key) {
            (Op::Put, Some(key)) => many.put(key, change.value, access),
            (Op::Append | Op::Put, _) => many.append(change.value, access),
            (Op::Remove, Some(key)) => many.remove(key),
            (Op::ClearPrefix, Some(prefix)) => many.clear_prefix(prefix),
            (Op::Touch, key) => expired = touch(many, declared, key, change.now),
            (Op::Remove | Op::ClearPrefix | Op::Clear, _) => {}
        }
        self.entries = self.entries - entries as u64 + many.items.len() as u64;
        self.heap = self.heap - heap + weight(many);
        self.expired += expired as u64;
        let empty = many.items.is_empty();
        if empty {
            *slot = Slot::Absent;
            self.heap -= MANY;
        }
        empty
    }

    /// Removes what is expired from a row of a cell.
    pub fn sweep(&mut self, row: u32, cell: usize, declared: &Cell, now: i64) {
        let cutoff = declared.cutoff(now);
        let column = self.column(row, cell);
        let at = row as usize % ROWS;
        let stale = match column.slots.get(at) {
            Some(Slot::One(_)) => column.access.get(at).is_some_and(|&access| access <= cutoff),
            Some(Slot::Many(many)) => many.items.iter().any(|(_, (_, access))| *access <= cutoff),
            _ => false,
        };
        if stale {
            // Touching removes what is expired; it renews nothing here, since the cell is asked as if reads did not count.
            let cell_of_writes =
                Cell { ttl: declared.ttl.map(|ttl| crate::state::Ttl { update: Update::OnCreateAndWrite, ..ttl }), ..declared.clone() };
            self.change(row, cell, &cell_of_writes, &Change { op: Op::Touch, map_key: None, value: &[], now });
            self.versions[cell] += 1;
            self.release(row);
        }
    }

    /// Memory for all of it.
    pub fn memory(&self) -> usize {
        let rows: usize = self
            .chunks
            .iter()
            .flat_map(|chunk| &chunk.columns)
            .map(|column| column.slots.capacity() * 24 + column.access.capacity() * 8)
            .sum();
        let index = self.index.capacity() * 9 * 8 / 7 + self.free.capacity() * 4;
        rows + self.chunks.len() * ROWS * 24 + index + self.heap + self.timers.memory()
    }
}

/// Memory of an empty list or map.
const MANY: usize = size_of::<Many>() + 16;

/// Memory of a list or map. An estimate that needs no walk over it: entries, long keys and values.
fn weight(many: &Many) -> usize {
    MANY + many.items.len() * size_of::<(Small, Item)>() + many.bytes
}

/// Reports a read of an entry, or of all.
fn touch(many: &mut Many, declared: &Cell, key: Option<&[u8]>, now: i64) -> usize {
    let Some(ttl) = declared.ttl else { return 0 };
    let renew = (ttl.update == Update::OnReadAndWrite).then_some(now);
    let Some(key) = key else { return many.sweep(ttl.cutoff(now), renew) };
    let (place, found) = many.items.seek(|other| other.as_slice().cmp(key));
    let Some((_, access)) = many.items.value_at(place).filter(|_| found) else { return 0 };
    if ttl.expired(*access, now) {
        many.remove(key);
        return 1;
    }
    *access = renew.unwrap_or(*access);
    0
}
