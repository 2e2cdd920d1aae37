//! A view: shared chunks and queues of timers.

use super::{
    Memory,
    chunk::{Chunk, ROWS, Slot},
};
use crate::{
    error::{Code, Error, Result},
    state::{
        CellId, Cells, Rows, View, address,
        piece::{EntryPiece, TimerPiece},
    },
    timer::{Domain, set::Queue},
};
use std::{collections::BTreeMap, sync::Arc};

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
        if piece.is_empty() { Ok(()) } else { sink(piece.take(group, id)) }
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
