//! A view: shared chunks and queues of timers.

use super::{
    Memory,
    chunk::{Chunk, ROWS, Slot},
};
use crate::{
    error::{Code, Error, Result},
    state::{Cell, CellId, Cells, Part, Rows, View, address, columns, columns::Bytes},
    timer::{Domain, identity, set::Queue},
};
use std::{collections::BTreeMap, sync::Arc};

/// A piece that a view gives out ends with so many rows or bytes.
const PIECE_ROWS: usize = 16 << 10;
const PIECE_BYTES: usize = 8 << 20;

/// What a group held.
struct Frozen {
    chunks: Vec<Chunk>,
    timers: [Arc<Queue>; 2],
    versions: Vec<u64>,
}

/// Key groups as they were.
pub struct MemoryView {
    cells: Cells,
    groups: BTreeMap<u16, Frozen>,
    now_ms: i64,
    origin: u64,
}

impl MemoryView {
    pub(super) fn new(memory: &Memory, groups: &[u16], now_ms: i64) -> Result<Self> {
        let mut frozen = BTreeMap::new();
        for &name in groups {
            let group = memory.group(name)?;
            let timers = [Domain::EventTime, Domain::ProcessingTime].map(|domain| Arc::clone(group.timers.queue(domain)));
            frozen.insert(name, Frozen { chunks: group.chunks.clone(), timers, versions: group.versions.clone() });
        }
        Ok(MemoryView { cells: memory.cells.clone(), groups: frozen, now_ms, origin: memory.origin })
    }

    fn group(&self, group: u16) -> Result<&Frozen> {
        self.groups.get(&group).ok_or_else(|| Error::new(Code::InvariantBroken, format!("a view does not hold key group {group}")))
    }
}

impl View for MemoryView {
    fn cells(&self) -> &Cells {
        &self.cells
    }

    fn version(&self, group: u16, part: Option<CellId>) -> u64 {
        let versions = self.groups.get(&group).map(|group| &group.versions[..]).unwrap_or_default();
        self.origin + part.map_or(versions.last(), |cell| versions.get(usize::from(cell))).copied().unwrap_or_default()
    }

    fn read(&self, group: u16, part: Option<CellId>, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let frozen = self.group(group)?;
        match part {
            Some(cell) => self.entries(group, frozen, cell, sink),
            None => timers(group, frozen, sink),
        }
    }
}

impl MemoryView {
    fn entries(&self, group: u16, frozen: &Frozen, id: CellId, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let cell = self.cells.at(id)?;
        let cutoff = cell.ttl.filter(|ttl| ttl.cleanup.on_snapshot).map_or(i64::MIN, |ttl| ttl.cutoff(self.now_ms));
        let list = cell.shape() == crate::state::Shape::List;
        let mut piece = EntryPiece::new(cell);
        for chunk in &frozen.chunks {
            let column = &chunk.columns[usize::from(id)];
            for row in 0..column.slots.len().min(ROWS) {
                let (key, namespace) = match &column.slots[row] {
                    Slot::Absent => continue,
                    _ => address::unpack(chunk.addresses[row].as_slice())?,
                };
                match &column.slots[row] {
                    Slot::Absent => {}
                    Slot::One(value) => {
                        let access = column.access.get(row).copied().unwrap_or(i64::MIN);
                        piece.push(cutoff, key, namespace, &[], value.as_slice(), access)?;
                    }
                    Slot::Many(many) => {
                        for (map_key, (value, access)) in many.items.iter() {
                            let map_key = if list { &[] } else { map_key.as_slice() };
                            piece.push(cutoff, key, namespace, map_key, value.as_slice(), *access)?;
                            if piece.is_full() {
                                sink(piece.take(group, id))?;
                            }
                        }
                    }
                }
                if piece.is_full() {
                    sink(piece.take(group, id))?;
                }
            }
        }
        if piece.keys.len() > 0 { sink(piece.take(group, id)) } else { Ok(()) }
    }
}

/// Rows of a piece that is being collected. Shared by views of every kind.
pub struct EntryPiece {
    ttl: bool,
    keys: Bytes,
    namespaces: Bytes,
    map_keys: Bytes,
    values: Bytes,
    access: Vec<i64>,
}

impl EntryPiece {
    /// An empty piece.
    pub fn new(cell: &Cell) -> Self {
        let bytes = || Bytes::new(0, 0);
        EntryPiece { ttl: cell.ttl.is_some(), keys: bytes(), namespaces: bytes(), map_keys: bytes(), values: bytes(), access: Vec::new() }
    }

    /// Adds an entry unless it was last accessed at `cutoff` or before.
    pub fn push(&mut self, cutoff: i64, key: &[u8], namespace: &[u8], map_key: &[u8], value: &[u8], access: i64) -> Result<()> {
        if self.ttl && access <= cutoff {
            return Ok(());
        }
        self.keys.push(key)?;
        self.namespaces.push(namespace)?;
        self.map_keys.push(map_key)?;
        self.values.push(value)?;
        self.access.push(access);
        Ok(())
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// True if it is time to give it out.
    pub fn is_full(&self) -> bool {
        let bytes = self.keys.bytes() + self.namespaces.bytes() + self.map_keys.bytes() + self.values.bytes();
        self.keys.len() >= PIECE_ROWS || bytes >= PIECE_BYTES
    }

    /// The piece; an empty one takes its place.
    pub fn take(&mut self, group: u16, cell: CellId) -> Rows {
        let bytes = |bytes: &mut Bytes| std::mem::replace(bytes, Bytes::new(0, 0)).finish();
        let part = Part::Entries {
            cell,
            map_keys: bytes(&mut self.map_keys),
            values: bytes(&mut self.values),
            access: std::mem::take(&mut self.access),
        };
        Rows { group, keys: bytes(&mut self.keys), namespaces: bytes(&mut self.namespaces), part }
    }
}

/// Timers of a piece that is being collected.
pub struct TimerPiece {
    keys: Bytes,
    namespaces: Bytes,
    names: Bytes,
    domains: Vec<Domain>,
    timestamps: Vec<i64>,
    single: Vec<bool>,
}

impl TimerPiece {
    /// An empty piece.
    pub fn new() -> Self {
        let bytes = || Bytes::new(0, 0);
        TimerPiece { keys: bytes(), namespaces: bytes(), names: bytes(), domains: Vec::new(), timestamps: Vec::new(), single: Vec::new() }
    }

    /// Adds a timer.
    pub fn push(&mut self, domain: Domain, packed: &[u8], timestamp: i64, single: bool) -> Result<()> {
        let (key, namespace, name) = identity::unpack(packed)?;
        self.keys.push(key)?;
        self.namespaces.push(namespace)?;
        self.names.push(name.as_bytes())?;
        self.domains.push(domain);
        self.timestamps.push(timestamp);
        self.single.push(single);
        Ok(())
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// True if it is time to give it out.
    pub fn is_full(&self) -> bool {
        self.timestamps.len() >= PIECE_ROWS
    }

    /// The piece; an empty one takes its place.
    pub fn take(&mut self, group: u16) -> Result<Rows> {
        let piece = std::mem::replace(self, TimerPiece::new());
        let names = columns::strings(piece.names.finish())?;
        let part = Part::Timers { domains: piece.domains, names, timestamps: piece.timestamps, single: piece.single };
        Ok(Rows { group, keys: piece.keys.finish(), namespaces: piece.namespaces.finish(), part })
    }
}

fn timers(group: u16, frozen: &Frozen, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
    let mut piece = TimerPiece::new();
    for (domain, queue) in [Domain::EventTime, Domain::ProcessingTime].into_iter().zip(&frozen.timers) {
        for ((timestamp, identity), single) in queue.iter() {
            piece.push(domain, identity.as_slice(), *timestamp, *single)?;
            if piece.is_full() {
                sink(piece.take(group)?)?;
            }
        }
    }
    if piece.is_empty() { Ok(()) } else { sink(piece.take(group)?) }
}
