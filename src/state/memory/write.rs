//! Writing: a commit is checked as a whole, then executed group by group.

use super::{
    Memory,
    chunk::Change,
    group::{Group, NONE, Packed},
    known::Resolved,
};
use crate::{
    error::{Code, Error, Result},
    fault::{Point, reach},
    state::{
        Addresses, Cell, Commit, Op, Part, Rows, Shape, Writes,
        address::{ByGroup, pack, slot},
        check,
        columns::value,
    },
    timer::{TimerOp, identity},
};
use arrow_array::{Array, BinaryArray};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

/// A commit looks into at most so many groups for what is expired, be they ever so empty.
const CLEANED: usize = 64;

/// Memory of a timer that is new, roughly.
const TIMER: usize = 48;

/// Memory of so many entries that are new, with these values, roughly.
fn entries(count: usize, values: &BinaryArray) -> usize {
    let long: usize = (0..values.len()).map(|row| values.value_length(row) as usize).filter(|&len| len > 22).sum();
    long + count * 64
}

impl Memory {
    pub(super) fn apply_now(&self, commit: &Commit) -> Result<()> {
        check::commit(&self.cells, commit)?;
        let _shared = self.barrier.read().unwrap_or_else(PoisonError::into_inner);
        self.make_room(commit)?;
        // Every group is checked before the first is changed.
        let Resolved { by_group, mut rows, moves } = self.resolved(&commit.addresses)?;
        let parts = |at: &[u32]| Parts::new(at, &commit.addresses, self.groups.len());
        let mut writes = Vec::with_capacity(commit.writes.len());
        for columns in &commit.writes {
            writes.push((columns, self.cells.at(columns.cell)?, parts(&columns.at)?));
        }
        let timers = parts(&commit.timers.at)?;
        let (mut packed, mut found, mut buffer) = (Packed::default(), Vec::new(), Vec::new());
        for (at, (name, members)) in by_group.iter().enumerate() {
            let mut group = self.group(name)?;
            if !writes.is_empty() && moves.get(at) != Some(&group.moves) {
                packed.fill(&commit.addresses, members);
                group.find_all(&packed, &mut found);
                members.iter().zip(&found).for_each(|(&at, &row)| rows[at as usize] = row);
            }
            if at == 1 {
                reach(Point::Committing);
            }
            for (columns, cell, parts) in &writes {
                let members = parts.of(name, members);
                if !members.is_empty() {
                    write(&mut group, &commit.addresses, columns, cell, members, commit.now_ms, &mut rows);
                }
            }
            let members = timers.of(name, members);
            for &row in members {
                group.timers.change(&commit.timers.change(row as usize, &commit.addresses), &mut buffer);
            }
            if let Some(version) = group.versions.last_mut().filter(|_| !members.is_empty()) {
                *version += 1;
            }
        }
        self.clean(commit.now_ms)
    }

    /// Where addresses are, as far as their multi-get has found them.
    fn resolved(&self, addresses: &Arc<Addresses>) -> Result<Resolved> {
        if let Some(known) = self.known.take(addresses) {
            return Ok(known);
        }
        let by_group = ByGroup::of(addresses, self.groups.len())?;
        Ok(Resolved { by_group, rows: vec![NONE; addresses.len()], moves: Vec::new() })
    }

    /// Refuses a commit that would not fit, before anything of it took effect.
    fn make_room(&self, commit: &Commit) -> Result<()> {
        let adds = |columns: &Writes| entries(columns.ops.iter().filter(|op| matches!(op, Op::Put | Op::Append)).count(), &columns.values);
        let sets = commit.timers.ops.iter().filter(|op| matches!(op, TimerOp::Set | TimerOp::Replace)).count();
        self.room_for(|| commit.writes.iter().map(adds).sum::<usize>() + sets * TIMER)
    }

    fn room_for(&self, needs: impl Fn() -> usize) -> Result<()> {
        if self.limit == usize::MAX {
            return Ok(());
        }
        let needs = needs();
        if needs > 0 && self.sizes_in_bytes() + needs > self.limit {
            let limit = bytesize::ByteSize(self.limit as u64);
            return Err(Error::new(Code::StateFull, format!("the state would grow beyond its limit of {limit}"))
                .hint("raise `state.memory_bytes`, give cells a time to live, or keep the state on disk")
                .retryable());
        }
        Ok(())
    }

    fn sizes_in_bytes(&self) -> usize {
        self.all().map(|group| group.memory()).sum()
    }

    /// Looks at a few rows and removes what is expired there.
    fn clean(&self, now_ms: i64) -> Result<()> {
        let cleaned = self.cells.iter().enumerate().filter_map(|(id, cell)| Some((id, cell, cell.ttl?.cleanup.per_commit)));
        let Some(budget) = cleaned.clone().map(|(_, _, rows)| rows).max().filter(|&rows| rows > 0) else { return Ok(()) };
        let mut left = budget;
        for _ in 0..self.groups.len().min(CLEANED) {
            let at = self.cleaning.load(Ordering::Relaxed) % self.groups.len();
            let mut group = self.groups[at].lock().unwrap_or_else(PoisonError::into_inner);
            let end = group.rows().min(group.swept.saturating_add(left));
            for row in group.swept..end {
                for (id, cell, _) in cleaned.clone() {
                    group.sweep(row, id, cell, now_ms);
                }
            }
            left -= end - group.swept.min(end);
            group.swept = end;
            if left == 0 {
                return Ok(());
            }
            group.swept = 0;
            self.cleaning.store(at + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn load_now(&self, rows: &Rows) -> Result<()> {
        slot(rows.group, self.groups.len())?;
        self.room_for(|| match &rows.part {
            Part::Timers { timestamps, .. } => timestamps.len() * TIMER,
            Part::Entries { values, access, .. } => entries(access.len(), values),
        })?;
        let mut group = self.group(rows.group)?;
        let mut packed = Vec::new();
        match &rows.part {
            Part::Timers { domains, names, timestamps, single } => {
                for row in 0..rows.keys.len() {
                    packed.clear();
                    identity::pack(&mut packed, rows.keys.value(row), rows.namespaces.value(row), names.value(row));
                    group.timers.load(domains[row], &packed, timestamps[row], single[row])?;
                }
            }
            Part::Entries { cell: id, map_keys, values, access } => {
                let cell = self.cells.at(*id)?;
                for (row, &now) in access.iter().enumerate() {
                    packed.clear();
                    pack(&mut packed, rows.keys.value(row), rows.namespaces.value(row));
                    let at = group.find_or_add(&packed);
                    let op = if cell.shape() == Shape::List { Op::Append } else { Op::Put };
                    let change = Change {
                        op,
                        map_key: Some(map_keys.value(row)).filter(|_| cell.shape() == Shape::Map),
                        value: values.value(row),
                        now,
                    };
                    group.change(at, usize::from(*id), cell, &change);
                }
            }
        }
        Ok(())
    }
}

/// Rows of changes by key group.
enum Parts {
    /// One for each address, in their order.
    Same,
    Other(BTreeMap<u16, Vec<u32>>),
}

impl Parts {
    fn new(at: &[u32], addresses: &Addresses, slots: usize) -> Result<Self> {
        if at.len() == addresses.len() && at.iter().zip(0..).all(|(&at, row)| at == row) {
            return Ok(Parts::Same);
        }
        let by_group = ByGroup::new(at.len(), slots, |row| addresses.groups[at[row] as usize])?;
        Ok(Parts::Other(by_group.iter().map(|(group, rows)| (group, rows.to_vec())).collect()))
    }

    /// The rows of a group whose addresses are `same`.
    fn of<'a>(&'a self, group: u16, same: &'a [u32]) -> &'a [u32] {
        match self {
            Parts::Same => same,
            Parts::Other(parts) => parts.get(&group).map_or(&[], Vec::as_slice),
        }
    }
}

/// Executes the changes of one cell in one group; `rows` are those of all addresses.
fn write(group: &mut Group, addresses: &Addresses, columns: &Writes, cell: &Cell, members: &[u32], now: i64, rows: &mut [u32]) {
    let id = usize::from(columns.cell);
    let place = |row: u32| columns.at[row as usize] as usize;
    let mut packed = Vec::new();
    for &row in members.iter().filter(|&&row| matches!(columns.ops[row as usize], Op::Put | Op::Append)) {
        let known = &mut rows[place(row)];
        if *known == NONE {
            let (key, namespace) = addresses.at(place(row));
            packed.clear();
            pack(&mut packed, key, namespace);
            *known = group.find_or_add(&packed);
        }
    }
    group.versions[id] += 1;
    let change = |row: u32| {
        let row = row as usize;
        let map_key = columns.map_keys.as_ref().and_then(|keys| value(keys, row));
        Change { op: columns.ops[row], map_key, value: value(&columns.values, row).unwrap_or_default(), now }
    };
    if cell.shape() == Shape::Single && members.iter().all(|&row| columns.ops[row as usize] == Op::Put) {
        return group.put_all(id, cell, members.iter().map(|&row| (rows[place(row)], change(row))));
    }
    let mut emptied = Vec::new();
    for &row in members {
        let at = rows[place(row)];
        if at != NONE && group.change(at, id, cell, &change(row)) {
            emptied.push((at, columns.at[row as usize]));
        }
    }
    for (at, position) in emptied {
        if group.release(at) {
            rows[position as usize] = NONE;
        }
    }
}
