//! A view: a snapshot of the LSM store, which keeps old versions as long as it lives.

use super::{Disk, failed, keys, locked};
use crate::{
    error::Result,
    state::{
        CellId, Cells, Rows, Shape, View,
        address::slot,
        piece::{EntryPiece, TimerPiece},
    },
    timer::Domain,
};
use fjall::{Keyspace, Readable, Snapshot};
use std::collections::HashMap;

/// The store as it was.
pub struct DiskView {
    cells: Cells,
    snapshot: Snapshot,
    entries: Keyspace,
    timers: Keyspace,
    versions: HashMap<(u16, Option<CellId>), u64>,
    now_ms: i64,
    origin: u64,
}

impl DiskView {
    pub(super) fn new(disk: &Disk, groups: &[u16], now_ms: i64) -> Result<Self> {
        for &group in groups {
            slot(group, disk.slots)?;
        }
        let opened = disk.open();
        let open = opened.get()?;
        let (snapshot, versions) = (open.database.snapshot(), locked(&disk.versions).clone());
        let (cells, origin) = (disk.cells.clone(), disk.origin);
        Ok(DiskView { cells, snapshot, entries: open.entries.clone(), timers: open.timers.clone(), versions, now_ms, origin })
    }
}

impl View for DiskView {
    fn cells(&self) -> &Cells {
        &self.cells
    }

    fn version(&self, group: u16, part: Option<CellId>) -> u64 {
        self.origin + self.versions.get(&(group, part)).copied().unwrap_or_default()
    }

    fn read(&self, group: u16, part: Option<CellId>, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        match part {
            Some(cell) => self.entries(group, cell, sink),
            None => self.timers(group, sink),
        }
    }
}

impl DiskView {
    fn entries(&self, group: u16, id: CellId, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let cell = self.cells.at(id)?;
        let cutoff = cell.ttl.filter(|ttl| ttl.cleanup.on_snapshot).map_or(i64::MIN, |ttl| ttl.cutoff(self.now_ms));
        let mut head = Vec::new();
        keys::head(&mut head, id, group);
        let mut piece = EntryPiece::new(cell);
        for entry in self.snapshot.prefix(&self.entries, &head) {
            let (full, stored) = entry.into_inner().map_err(|error| failed(&error))?;
            let (key, namespace, sub) = keys::split(&full)?;
            let (access, value) = keys::value(&stored, cell.ttl.is_some())?;
            let map_key = if cell.shape() == Shape::Map { sub } else { &[] };
            piece.push(cutoff, key, namespace, map_key, value, access)?;
            if piece.is_full() {
                sink(piece.take(group, id))?;
            }
        }
        if piece.is_empty() { Ok(()) } else { sink(piece.take(group, id)) }
    }

    fn timers(&self, group: u16, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()> {
        let mut piece = TimerPiece::new();
        for domain in [Domain::EventTime, Domain::ProcessingTime] {
            for entry in self.snapshot.prefix(&self.timers, keys::queue(domain, group)) {
                let (key, single) = entry.into_inner().map_err(|error| failed(&error))?;
                let (timestamp, identity) = keys::split_timer(&key)?;
                piece.push(domain, identity, timestamp, single.first() == Some(&1))?;
                if piece.is_full() {
                    sink(piece.take(group)?)?;
                }
            }
        }
        if piece.is_empty() { Ok(()) } else { sink(piece.take(group)?) }
    }
}
