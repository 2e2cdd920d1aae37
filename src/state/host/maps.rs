//! The simplest host that keeps state: ordered maps in memory.

use super::{
    HostCommit, HostDue, HostGet, HostPage, HostRows, HostTimers, HostWrites, StateHost,
    overlay::{Merged, Pending},
};
use crate::{
    error::{Code, Error, Result},
    state::{
        Addresses, Op,
        columns::{self, Bytes, Offsets, value},
        small::Small,
    },
    timer::{Domain, TimerOp},
    worker::BoxFuture,
};
use arrow_array::BinaryArray;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Cell, key group, key and namespace.
type Place = (u16, u16, Vec<u8>, Vec<u8>);

/// A [`StateHost`] in the memory of its process: for tests, and to see what an engine has to do.
///
/// A clone of its state is a checkpoint: what was applied until then.
#[derive(Debug, Default)]
pub struct Maps(Mutex<Held>);

#[derive(Clone, Debug, Default)]
struct Held {
    entries: BTreeMap<Place, Merged>,
    timers: BTreeSet<(Domain, Pending)>,
    /// Received, and not applied.
    waiting: VecDeque<HostCommit>,
    applied: u64,
}

impl Maps {
    /// Applies what was received up to this bundle.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] if it was not received.
    pub fn apply(&self, bundle: u64) -> Result<()> {
        self.lock().apply(bundle)
    }

    /// What was applied so far, for a session that is opened again: its bundles are numbered anew.
    #[must_use]
    pub fn checkpoint(&self) -> Maps {
        let held = self.lock();
        Maps(Mutex::new(Held { entries: held.entries.clone(), timers: held.timers.clone(), ..Held::default() }))
    }

    /// Entries and timers that were applied.
    pub fn sizes(&self) -> (usize, usize) {
        let held = self.lock();
        (held.entries.values().map(BTreeMap::len).sum(), held.timers.len())
    }

    /// Bundles that were received and not applied.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateHost for Maps {
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>> {
        Box::pin(std::future::ready(self.lock().get(request)))
    }

    fn page<'a>(&'a self, request: &'a HostPage) -> BoxFuture<'a, Result<HostRows>> {
        Box::pin(std::future::ready(self.lock().page(request)))
    }

    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>> {
        self.lock().waiting.push_back(commit);
        Box::pin(std::future::ready(Ok(())))
    }

    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>> {
        Box::pin(std::future::ready(self.lock().timers(request)))
    }
}

impl Held {
    fn apply(&mut self, bundle: u64) -> Result<()> {
        while self.waiting.front().is_some_and(|commit| commit.bundle <= bundle)
            && let Some(commit) = self.waiting.pop_front()
        {
            self.applied = commit.bundle;
            for columns in &commit.writes {
                (0..columns.writes.at.len()).try_for_each(|row| self.write(&commit, columns, row))?;
            }
            (0..commit.timers.len()).for_each(|row| self.set(&commit, row));
        }
        if self.applied < bundle {
            return Err(Error::new(Code::ProtocolViolation, format!("bundle {bundle} was not received")));
        }
        Ok(())
    }

    fn set(&mut self, commit: &HostCommit, row: usize) {
        let change = commit.timers.change(row, &commit.addresses);
        let group = commit.addresses.groups[commit.timers.at[row] as usize];
        let pending: Pending = (change.timestamp, group, change.key.into(), change.namespace.into(), change.name.as_bytes().into());
        let domain = change.domain;
        let address = |timer: &Pending| (timer.1, timer.2.clone(), timer.3.clone());
        let mine = address(&pending);
        match change.op {
            TimerOp::Set => drop(self.timers.insert((domain, pending))),
            TimerOp::Delete => drop(self.timers.remove(&(domain, pending))),
            TimerOp::DeleteAll => self.timers.retain(|(of, timer)| *of != domain || address(timer) != mine),
            TimerOp::Replace | TimerOp::DeleteName => {
                self.timers.retain(|(of, timer)| *of != domain || address(timer) != mine || timer.4 != pending.4);
                if change.op == TimerOp::Replace {
                    self.timers.insert((domain, pending));
                }
            }
        }
    }

    fn write(&mut self, commit: &HostCommit, columns: &HostWrites, row: usize) -> Result<()> {
        let at = columns.writes.at[row] as usize;
        let (key, namespace) = commit.addresses.at(at);
        let place = (columns.writes.cell, commit.addresses.groups[at], key.to_vec(), namespace.to_vec());
        let map = self.entries.entry(place.clone()).or_default();
        let sub = columns.writes.map_keys.as_ref().and_then(|keys| value(keys, row)).map(Small::from);
        let of_sub = sub.clone().unwrap_or(Small::EMPTY);
        match columns.writes.ops[row] {
            Op::Put => drop(map.insert(of_sub, (columns.writes.values.value(row).into(), commit.now_ms))),
            Op::Append => return Err(Error::new(Code::ProtocolViolation, "a host is told to append")),
            Op::Remove => drop(map.remove(&of_sub)),
            Op::Clear => map.clear(),
            Op::ClearPrefix => map.retain(|key, _| !key.as_slice().starts_with(of_sub.as_slice())),
            Op::Touch => map.retain(|key, (_, access)| {
                let chosen = sub.as_ref().is_none_or(|sub| sub == key);
                let stays = !chosen || *access > columns.cutoff;
                if chosen && stays && columns.renew {
                    *access = commit.now_ms;
                }
                stays
            }),
        }
        if map.is_empty() {
            self.entries.remove(&place);
        }
        Ok(())
    }

    fn rows(&self, chosen: impl Iterator<Item = (Vec<(Small, (Small, i64))>, bool)>) -> Result<HostRows> {
        let (mut offsets, mut keys, mut values, mut access, mut deferred) =
            (Offsets::new(0), Bytes::new(0, 0), Bytes::new(0, 0), vec![], vec![]);
        for (entries, more) in chosen {
            for (key, (value, at)) in entries {
                keys.push(key.as_slice())?;
                values.push(value.as_slice())?;
                access.push(at);
            }
            offsets.push(values.len())?;
            deferred.push(more);
        }
        Ok(HostRows {
            applied_bundle: self.applied,
            offsets: offsets.finish(),
            keys: keys.finish(),
            values: values.finish(),
            access,
            deferred,
        })
    }

    fn get(&self, request: &HostGet) -> Result<HostRows> {
        let mut total = 0;
        self.rows((0..request.addresses.len()).map(|row| {
            let (key, namespace) = request.addresses.at(row);
            let here = self.entries.get(&(request.cell, request.addresses.groups[row], key.to_vec(), namespace.to_vec()));
            let only = |key: &Small| request.map_keys.as_ref().is_none_or(|keys| keys.value(row) == key.as_slice());
            let found: Vec<_> =
                here.into_iter().flatten().filter(|(key, _)| only(key)).map(|(key, item)| (key.clone(), item.clone())).collect();
            let bytes: usize = found.iter().map(|(key, (value, _))| key.as_slice().len() + value.as_slice().len()).sum();
            // Of a cell with one value the sub-key is empty; such are never deferred.
            let single = found.iter().all(|(key, _)| key.as_slice().is_empty());
            if !single && (bytes > request.prefetch.entry_bytes || total > request.prefetch.total_bytes) {
                return (vec![], true);
            }
            total += bytes;
            (found, false)
        }))
    }

    fn page(&self, request: &HostPage) -> Result<HostRows> {
        let here = self.entries.get(&(request.cell, request.group, request.key.clone(), request.namespace.clone()));
        let (mut found, mut bytes, mut more) = (Vec::new(), 0, false);
        for (key, item) in here.into_iter().flatten() {
            if !key.as_slice().starts_with(&request.prefix) || request.after.as_deref().is_some_and(|after| key.as_slice() <= after) {
                continue;
            }
            bytes += key.as_slice().len() + item.0.as_slice().len();
            if !found.is_empty() && bytes > request.max_bytes {
                more = true;
                break;
            }
            found.push((key.clone(), item.clone()));
        }
        self.rows([(found, more)].into_iter())
    }

    fn timers(&self, request: &HostDue) -> Result<HostTimers> {
        let of = |(domain, timer): &&(Domain, Pending)| {
            *domain == request.domain && timer.0 <= request.up_to_ms && request.groups.contains(&timer.1)
        };
        let mut all: Vec<Pending> = self.timers.iter().filter(of).map(|(_, timer)| timer.clone()).collect();
        let more = all.len() > request.limit;
        all.truncate(request.limit);
        let column = |of: fn(&Pending) -> &Small| BinaryArray::from_iter_values(all.iter().map(of));
        let addresses =
            Addresses::new(all.iter().map(|timer| timer.1).collect(), column(|timer| &timer.2), Some(column(|timer| &timer.3)))?;
        let names = columns::strings(column(|timer| &timer.4))?;
        Ok(HostTimers { applied_bundle: self.applied, addresses, names, timestamps: all.iter().map(|timer| timer.0).collect(), more })
    }
}
