//! A commit as the keys and values that it changes: collected, checked for room, written as one batch.

use super::{Disk, HANDED_OVER, Open, Values, failed, keys, locked};
use crate::{
    error::{Code, Error, Result},
    fault::{Point, reach},
    state::{Cell, CellId, Commit, Op, Part, Rows, Shape, Update, Writes, address::slot, check, columns::value, small::Small},
    timer::{Domain, identity},
};
use arrow_array::Array;
use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
};

/// Changed keys; `None` = removed.
pub type Changed = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a commit changes.
#[derive(Default)]
pub struct Stage {
    /// Values of cells with one entry; each key once.
    singles: Vec<(Small, Option<Small>)>,
    /// By cell and position of the address the place in `singles`.
    latest: HashMap<CellId, Vec<u32>>,
    /// Elements of lists and entries of maps.
    many: Changed,
    /// Timers.
    pub(super) timers: Changed,
    /// Timers that came, and that went.
    pub(super) came: u64,
    pub(super) went: u64,
    expired: u64,
}

/// A stage that was written.
pub struct Written(Stage);

const NOT_YET: u32 = u32::MAX;

impl Stage {
    /// Of a commit. Reads what appending, clearing and touching need to know.
    pub fn of(disk: &Disk, open: &Open, commit: &Commit) -> Result<Self> {
        check::commit(&disk.cells, commit)?;
        let addresses = &commit.addresses;
        for &group in &addresses.groups {
            slot(group, disk.slots)?;
        }
        let mut stage = Stage::default();
        for columns in &commit.writes {
            let cell = disk.cells.at(columns.cell)?;
            if cell.shape() == Shape::Single {
                stage.singles(disk, open, commit, columns, cell)?;
            } else {
                for row in 0..columns.at.len() {
                    stage.entry(disk, open, commit, columns, cell, row)?;
                }
            }
        }
        for row in 0..commit.timers.len() {
            let group = addresses.groups[commit.timers.at[row] as usize];
            stage.timer(open, group, &commit.timers.change(row, addresses))?;
        }
        let longest = stage
            .singles
            .iter()
            .map(|(key, _)| key.as_slice().len())
            .chain(stage.many.keys().chain(stage.timers.keys()).map(Vec::len))
            .max();
        if longest.is_some_and(|longest| longest > keys::MAX) {
            return Err(Error::new(Code::StateTooLarge, format!("key, namespace and map key together have more than {} bytes", keys::MAX)));
        }
        Ok(stage)
    }

    fn singles(&mut self, disk: &Disk, open: &Open, commit: &Commit, columns: &Writes, cell: &Cell) -> Result<()> {
        let latest = self.latest.entry(columns.cell).or_insert_with(|| vec![NOT_YET; commit.addresses.len()]);
        let mut buffer = Vec::with_capacity(64);
        for (row, &op) in columns.ops.iter().enumerate() {
            let at = columns.at[row] as usize;
            let known = latest[at] as usize;
            let key = || {
                let mut buffer = Vec::with_capacity(64);
                let (key, namespace) = commit.addresses.at(at);
                keys::prefix(&mut buffer, columns.cell, commit.addresses.groups[at], key, namespace);
                Small::from(&buffer[..])
            };
            let new = match op {
                Op::Put | Op::Append => {
                    buffer.clear();
                    buffer.extend(cell.ttl.iter().flat_map(|_| commit.now_ms.to_be_bytes()));
                    buffer.extend_from_slice(value(&columns.values, row).unwrap_or_default());
                    Some(Small::from(&buffer[..]))
                }
                Op::Touch => {
                    let Some(ttl) = cell.ttl else { continue };
                    let old = match self.singles.get(known) {
                        Some((_, staged)) => staged.clone(),
                        None => disk.stored(open, &key())?,
                    };
                    let Some(old) = old else { continue };
                    let (access, value) = keys::value(old.as_slice(), true)?;
                    if ttl.expired(access, commit.now_ms) {
                        self.expired += 1;
                        None
                    } else if ttl.update == Update::OnReadAndWrite && access != commit.now_ms {
                        Some(Small::from(&keys::stored(value, Some(commit.now_ms))[..]))
                    } else {
                        continue;
                    }
                }
                Op::Clear | Op::Remove | Op::ClearPrefix => None,
            };
            if let Some(staged) = self.singles.get_mut(known) {
                staged.1 = new;
            } else {
                latest[at] = self.singles.len() as u32;
                self.singles.push((key(), new));
            }
        }
        Ok(())
    }

    /// One change of a list or map.
    fn entry(&mut self, disk: &Disk, open: &Open, commit: &Commit, columns: &Writes, cell: &Cell, row: usize) -> Result<()> {
        let at = columns.at[row] as usize;
        let (key, namespace) = commit.addresses.at(at);
        let mut full = Vec::with_capacity(64);
        keys::prefix(&mut full, columns.cell, commit.addresses.groups[at], key, namespace);
        let map_key = columns.map_keys.as_ref().and_then(|keys| value(keys, row));
        let new = value(&columns.values, row).map(|value| keys::stored(value, cell.ttl.map(|_| commit.now_ms)));
        let op = columns.ops[row];
        match (op, map_key) {
            (Op::Append, _) => full.extend_from_slice(&disk.appended.fetch_add(1, Ordering::Relaxed).to_be_bytes()),
            (_, Some(sub)) => full.extend_from_slice(sub),
            _ => {}
        }
        match op {
            Op::Put | Op::Append => drop(self.many.insert(full, new)),
            Op::Remove => drop(self.many.insert(full, None)),
            Op::Clear | Op::ClearPrefix => {
                for (found, _) in self.merged(&self.many, &open.entries, &full)? {
                    self.many.insert(found, None);
                }
            }
            Op::Touch => self.touch(open, cell, &full, map_key.is_some(), commit.now_ms)?,
        }
        Ok(())
    }

    fn touch(&mut self, open: &Open, cell: &Cell, full: &[u8], exact: bool, now_ms: i64) -> Result<()> {
        let Some(ttl) = cell.ttl else { return Ok(()) };
        for (found, stored) in self.merged(&self.many, &open.entries, full)? {
            if exact && found != full {
                continue;
            }
            let (access, value) = keys::value(&stored, true)?;
            if ttl.expired(access, now_ms) {
                self.expired += 1;
                self.many.insert(found, None);
            } else if ttl.update == Update::OnReadAndWrite && access != now_ms {
                let renewed = keys::stored(value, Some(now_ms));
                self.many.insert(found, Some(renewed));
            }
        }
        Ok(())
    }

    /// What begins with `prefix`, in the store and in this commit so far.
    pub(super) fn merged(&self, staged: &Changed, keyspace: &fjall::Keyspace, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        for entry in keyspace.prefix(prefix) {
            let (key, value) = entry.into_inner().map_err(|error| failed(&error))?;
            found.insert(key.to_vec(), value.to_vec());
        }
        for (key, value) in staged.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(value) => drop(found.insert(key.clone(), value.clone())),
                None => drop(found.remove(key)),
            }
        }
        Ok(found)
    }

    /// Of rows of a snapshot.
    pub fn load(disk: &Disk, rows: &Rows) -> Result<Self> {
        slot(rows.group, disk.slots)?;
        let mut stage = Stage::default();
        for row in 0..rows.keys.len() {
            let (key, namespace) = (rows.keys.value(row), rows.namespaces.value(row));
            match &rows.part {
                Part::Timers { domains, names, timestamps, single } => {
                    let mut packed = Vec::new();
                    identity::pack(&mut packed, key, namespace, names.value(row));
                    stage.add_timer(domains[row], rows.group, &packed, timestamps[row], single[row], !names.value(row).is_empty());
                }
                Part::Entries { cell: id, map_keys, values, access } => {
                    let cell = disk.cells.at(*id)?;
                    let mut full = Vec::new();
                    keys::prefix(&mut full, *id, rows.group, key, namespace);
                    match cell.shape() {
                        Shape::Single => {}
                        Shape::List => full.extend_from_slice(&disk.appended.fetch_add(1, Ordering::Relaxed).to_be_bytes()),
                        Shape::Map => full.extend_from_slice(map_keys.value(row)),
                    }
                    stage.many.insert(full, Some(keys::stored(values.value(row), cell.ttl.map(|_| access[row]))));
                }
            }
        }
        Ok(stage)
    }

    /// Adds a timer that is not there.
    pub(super) fn add_timer(&mut self, domain: Domain, group: u16, packed: &[u8], timestamp: i64, single: bool, named: bool) {
        self.came += 1;
        self.timers.insert(keys::timer(domain, group, timestamp, packed), Some(vec![u8::from(single)]));
        if single || named {
            self.timers.insert(keys::named_at(domain, group, packed, timestamp), Some(vec![]));
        }
    }

    /// How much is written.
    pub fn bytes(&self) -> usize {
        let many = self.many.iter().chain(&self.timers).map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 32);
        let singles =
            self.singles.iter().map(|(key, value)| key.as_slice().len() + value.as_ref().map_or(0, |value| value.as_slice().len()) + 32);
        many.sum::<usize>() + singles.sum::<usize>()
    }

    /// Writes all of it, or nothing.
    pub fn write(mut self, open: &Open, values: &Values) -> Result<Written, fjall::Error> {
        // Neighbours one after the other: the store's tables in memory are ordered.
        self.singles.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut batch =
            fjall::OwnedWriteBatch::with_capacity(open.database.clone(), self.singles.len() + self.many.len() + self.timers.len());
        batch = batch.durability(HANDED_OVER);
        for (key, value) in &self.singles {
            match value {
                Some(value) => batch.insert(&open.entries, key.as_slice(), value.as_slice()),
                None => batch.remove(&open.entries, key.as_slice()),
            }
        }
        for (keyspace, changed) in [(&open.entries, &self.many), (&open.timers, &self.timers)] {
            for (key, value) in changed {
                match value {
                    Some(value) => batch.insert(keyspace, key.as_slice(), value.as_slice()),
                    None => batch.remove(keyspace, key.as_slice()),
                }
            }
        }
        reach(Point::Committing);
        batch.commit()?;
        let mut written = Written(self);
        for (key, value) in std::mem::take(&mut written.0.singles) {
            values.insert(key, value);
        }
        Ok(written)
    }
}

impl Written {
    /// Tells the store what changed.
    pub fn publish(self, disk: &Disk, commit: &Commit) {
        {
            let mut versions = locked(&disk.versions);
            let mut seen = std::collections::HashSet::new();
            let cells = commit.writes.iter().flat_map(|columns| columns.at.iter().map(|&at| (at, Some(columns.cell))));
            for (at, part) in cells.chain(commit.timers.at.iter().map(|&at| (at, None))) {
                let place = (commit.addresses.groups[at as usize], part);
                if seen.insert(place) {
                    *versions.entry(place).or_default() += 1;
                }
            }
        }
        self.publish_loaded(disk);
    }

    /// The same for what was loaded.
    pub fn publish_loaded(self, disk: &Disk) {
        disk.pending.fetch_add(self.0.came, Ordering::Relaxed);
        disk.pending.fetch_sub(self.0.went, Ordering::Relaxed);
        disk.expired.fetch_add(self.0.expired, Ordering::Relaxed);
        disk.move_fronts(&self.0.timers);
    }
}
