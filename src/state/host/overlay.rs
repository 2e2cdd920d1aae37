//! What sealed bundles wrote that the host has not applied yet.

use super::HostCommit;
use crate::{
    state::{CellId, Op, columns::value, small::Small},
    timer::{Domain, TimerOp},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

/// Cell, key group, key and namespace.
type Place = (CellId, u16, Small, Small);

/// One change of entries.
#[derive(Clone, Debug)]
struct Change {
    op: Op,
    sub: Option<Small>,
    value: Small,
    now: i64,
    cutoff: i64,
    renew: bool,
}

/// A timer: its key group, key, namespace, name and timestamp.
pub type Pending = (i64, u16, Small, Small, Small);

#[derive(Debug)]
struct Sealed {
    bundle: u64,
    changes: HashMap<Place, Vec<Change>>,
    timers: Vec<(Domain, TimerOp, Pending)>,
    memory: usize,
}

/// Sealed bundles in the order of their numbers. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    sealed: VecDeque<Arc<Sealed>>,
    /// The last bundle that there was.
    last: u64,
    memory: usize,
}

/// Entries at one address: value and last access by sub-key.
pub type Merged = BTreeMap<Small, (Small, i64)>;

impl Overlay {
    /// Adds a bundle.
    pub fn seal(&mut self, commit: &HostCommit) {
        let mut changes: HashMap<Place, Vec<Change>> = HashMap::new();
        let mut memory = 0;
        for columns in &commit.writes {
            let writes = &columns.writes;
            for (row, &at) in writes.at.iter().enumerate() {
                let (key, namespace) = commit.addresses.at(at as usize);
                let place = (writes.cell, commit.addresses.groups[at as usize], Small::from(key), Small::from(namespace));
                let sub = writes.map_keys.as_ref().and_then(|keys| value(keys, row)).map(Small::from);
                let value = Small::from(value(&writes.values, row).unwrap_or_default());
                memory += size_of::<Change>() + value.heap() + sub.as_ref().map_or(0, Small::heap);
                changes.entry(place).or_default().push(Change {
                    op: writes.ops[row],
                    sub,
                    value,
                    now: commit.now_ms,
                    cutoff: columns.cutoff,
                    renew: columns.renew,
                });
            }
        }
        let timers = (0..commit.timers.len()).map(|row| {
            let change = commit.timers.change(row, &commit.addresses);
            let group = commit.addresses.groups[commit.timers.at[row] as usize];
            let pending =
                (change.timestamp, group, Small::from(change.key), Small::from(change.namespace), Small::from(change.name.as_bytes()));
            (change.domain, change.op, pending)
        });
        let timers: Vec<_> = timers.collect();
        memory += changes.len() * size_of::<(Place, Vec<Change>)>() + timers.len() * size_of::<(Domain, TimerOp, Pending)>();
        let at = self.sealed.partition_point(|sealed| sealed.bundle < commit.bundle);
        self.sealed.insert(at, Arc::new(Sealed { bundle: commit.bundle, changes, timers, memory }));
        self.last = self.last.max(commit.bundle);
        self.memory += memory;
    }

    /// Drops a bundle that the host did not take.
    pub fn forget(&mut self, bundle: u64) {
        let forgotten = self.sealed.iter().position(|sealed| sealed.bundle == bundle).and_then(|at| self.sealed.remove(at));
        self.memory -= forgotten.map_or(0, |sealed| sealed.memory);
    }

    /// Drops what the host has applied; false if there was no such bundle.
    pub fn applied(&mut self, bundle: u64) -> bool {
        if bundle > self.last {
            return false;
        }
        while self.sealed.front().is_some_and(|sealed| sealed.bundle <= bundle)
            && let Some(sealed) = self.sealed.pop_front()
        {
            self.memory -= sealed.memory;
        }
        true
    }

    /// How many bundles there are.
    pub fn len(&self) -> usize {
        self.sealed.len()
    }

    /// Memory for them.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// How many changes of timers there are.
    pub fn timer_changes(&self) -> usize {
        self.sealed.iter().map(|sealed| sealed.timers.len()).sum()
    }

    fn after(&self, applied_bundle: u64) -> impl Iterator<Item = &Arc<Sealed>> {
        self.sealed.iter().filter(move |sealed| sealed.bundle > applied_bundle)
    }

    /// True if a bundle after `applied_bundle` changed anything of a cell at an address.
    pub fn touches(&self, applied_bundle: u64, cell: CellId, group: u16, key: &[u8], namespace: &[u8]) -> bool {
        let place = (cell, group, Small::from(key), Small::from(namespace));
        self.after(applied_bundle).any(|sealed| sealed.changes.contains_key(&place))
    }

    /// Applies bundles after `applied_bundle` to the entries at an address, as far as `within` says of sub-keys.
    #[expect(clippy::too_many_arguments, reason = "an address in its parts")]
    pub fn merge(
        &self,
        applied_bundle: u64,
        cell: CellId,
        group: u16,
        key: &[u8],
        namespace: &[u8],
        within: impl Fn(&[u8]) -> bool,
        entries: &mut Merged,
    ) {
        let place = (cell, group, Small::from(key), Small::from(namespace));
        for change in self.after(applied_bundle).filter_map(|sealed| sealed.changes.get(&place)).flatten() {
            let sub = change.sub.clone().unwrap_or(Small::EMPTY);
            match change.op {
                Op::Put | Op::Append => {
                    if within(sub.as_slice()) {
                        entries.insert(sub, (change.value.clone(), change.now));
                    }
                }
                Op::Remove => drop(entries.remove(&sub)),
                Op::Clear => entries.clear(),
                Op::ClearPrefix => entries.retain(|key, _| !key.as_slice().starts_with(sub.as_slice())),
                Op::Touch => entries.retain(|key, (_, access)| {
                    if change.sub.as_ref().is_some_and(|only| only != key) {
                        return true;
                    }
                    let stays = *access > change.cutoff;
                    if stays && change.renew {
                        *access = change.now;
                    }
                    stays
                }),
            }
        }
    }

    /// Applies changes of timers after `applied_bundle`, as far as `within` says of timers that are set.
    pub fn merge_timers(&self, applied_bundle: u64, domain: Domain, within: impl Fn(&Pending) -> bool, timers: &mut BTreeSet<Pending>) {
        for (_, op, pending) in self.after(applied_bundle).flat_map(|sealed| &sealed.timers).filter(|timer| timer.0 == domain) {
            let (_, group, key, namespace, name) = pending;
            let of_name = |other: &Pending| (other.1, &other.2, &other.3, &other.4) == (*group, key, namespace, name);
            match op {
                TimerOp::Set => {}
                TimerOp::Delete => drop(timers.remove(pending)),
                TimerOp::Replace | TimerOp::DeleteName => timers.retain(|other| !of_name(other)),
                TimerOp::DeleteAll => timers.retain(|other| (other.1, &other.2, &other.3) != (*group, key, namespace)),
            }
            if matches!(op, TimerOp::Set | TimerOp::Replace) && within(pending) {
                timers.insert(pending.clone());
            }
        }
    }
}
