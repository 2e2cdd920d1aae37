//! What a store should hold: an ordered map of entries and a set of timers, without any cleverness.

use crate::{
    state::{Cells, Op, Shape, Update, Visibility},
    timer::{Domain, TimerOp},
};
use std::collections::{BTreeMap, BTreeSet};

/// Group, key and namespace.
pub type Address = (u16, Vec<u8>, Vec<u8>);
/// Domain, address, name and timestamp.
pub type Timer = (Domain, Address, String, i64);

/// Cell, address and sub-key.
type EntryAt = (u16, Address, Vec<u8>);

#[derive(Clone, Debug)]
pub struct Model {
    pub cells: Cells,
    /// By cell, address and sub-key: value and last access.
    pub entries: BTreeMap<EntryAt, (Vec<u8>, i64)>,
    pub timers: BTreeSet<Timer>,
    appended: u64,
}

impl Model {
    pub fn new(cells: Cells) -> Self {
        Model { cells, entries: BTreeMap::new(), timers: BTreeSet::new(), appended: 0 }
    }

    pub fn write(&mut self, cell: u16, address: &Address, op: Op, sub: &[u8], value: &[u8], now: i64) {
        let key = |sub: &[u8]| (cell, address.clone(), sub.to_vec());
        let single = self.cells[usize::from(cell)].shape() == Shape::Single;
        match op {
            Op::Put => drop(self.entries.insert(key(if single { &[] } else { sub }), (value.to_vec(), now))),
            Op::Append => {
                self.appended += 1;
                self.entries.insert(key(&self.appended.to_be_bytes()), (value.to_vec(), now));
            }
            Op::Remove => drop(self.entries.remove(&key(sub))),
            Op::Clear => self.entries.retain(|(c, a, _), _| (*c, a) != (cell, address)),
            Op::ClearPrefix => self.entries.retain(|(c, a, s), _| (*c, a) != (cell, address) || !s.starts_with(sub)),
            Op::Touch => {
                let Some(ttl) = self.cells[usize::from(cell)].ttl else { return };
                self.entries.retain(|(c, a, s), (_, access)| {
                    if (*c, a) != (cell, address) || (!sub.is_empty() && s != sub) {
                        return true;
                    }
                    let stays = !ttl.expired(*access, now);
                    if stays && ttl.update == Update::OnReadAndWrite {
                        *access = now;
                    }
                    stays
                });
            }
        }
    }

    pub fn timer(&mut self, domain: Domain, address: &Address, op: TimerOp, name: &str, timestamp: i64) {
        let timer = (domain, address.clone(), name.to_owned(), timestamp);
        match op {
            TimerOp::Set => drop(self.timers.insert(timer)),
            TimerOp::Delete => drop(self.timers.remove(&timer)),
            TimerOp::DeleteAll => self.timers.retain(|(d, a, _, _)| (*d, a) != (domain, address)),
            TimerOp::Replace | TimerOp::DeleteName => {
                self.timers.retain(|(d, a, n, _)| (*d, a, n.as_str()) != (domain, address, name));
                if op == TimerOp::Replace {
                    self.timers.insert(timer);
                }
            }
        }
    }

    /// What a read may give for a cell: sub-key, value, and whether it may be missing, too.
    pub fn read(&self, cell: u16, address: &Address, now: i64) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
        let ttl = self.cells[usize::from(cell)].ttl;
        let here = self.entries.iter().filter(|((c, a, _), _)| (*c, a) == (cell, address));
        let seen = here.filter_map(|((_, _, sub), (value, access))| {
            let expired = ttl.is_some_and(|ttl| ttl.expired(*access, now));
            let hidden = expired && ttl.is_some_and(|ttl| ttl.visibility == Visibility::NeverReturnExpired);
            (!hidden).then(|| (sub.clone(), value.clone(), expired))
        });
        seen.collect()
    }
}
