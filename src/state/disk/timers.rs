//! Timers on disk: changes, and what is due.

use super::{
    Disk, Open, failed, keys, locked,
    stage::{Changed, Stage},
};
use crate::{
    error::Result,
    state::address::slot,
    timer::{Domain, DueRequest, DueTimers, TimerOp, due, identity, set::Change},
};
use std::{collections::BTreeSet, ops::Bound};

fn domain_of(byte: u8) -> Option<Domain> {
    match byte {
        0 => Some(Domain::EventTime),
        1 => Some(Domain::ProcessingTime),
        _ => None,
    }
}

impl Stage {
    /// Makes a change of timers.
    pub(super) fn timer(&mut self, open: &Open, group: u16, change: &Change<'_>) -> Result<()> {
        let Change { domain, op, key, namespace, name, timestamp } = *change;
        let mut packed = Vec::new();
        if op == TimerOp::DeleteAll {
            identity::prefix(&mut packed, key, namespace);
            let queue = self.merged(&self.timers, &open.timers, &keys::queue(domain, group))?;
            for (found, single) in queue {
                let (timestamp, identity) = keys::split_timer(&found)?;
                if identity.starts_with(&packed) {
                    let named = single.first() == Some(&1) || !identity::unpack(identity)?.2.is_empty();
                    self.remove_timer(domain, group, identity, timestamp, named);
                }
            }
            return Ok(());
        }
        identity::pack(&mut packed, key, namespace, name);
        let named = !name.is_empty();
        match op {
            TimerOp::Set => self.set_timer(open, domain, group, &packed, timestamp, false, named)?,
            TimerOp::Replace => {
                self.delete_name(open, domain, group, &packed, named)?;
                self.set_timer(open, domain, group, &packed, timestamp, true, named)?;
            }
            TimerOp::Delete => {
                if let Some(single) = self.timer_at(open, &keys::timer(domain, group, timestamp, &packed))? {
                    self.remove_timer(domain, group, &packed, timestamp, named || single);
                }
            }
            TimerOp::DeleteName | TimerOp::DeleteAll => self.delete_name(open, domain, group, &packed, named)?,
        }
        Ok(())
    }

    /// Whether the timer with this key is single, if there is one.
    fn timer_at(&self, open: &Open, key: &[u8]) -> Result<Option<bool>> {
        let single = |value: &[u8]| value.first() == Some(&1);
        match self.timers.get(key) {
            Some(staged) => Ok(staged.as_deref().map(single)),
            None => Ok(open.timers.get(key).map_err(|error| failed(&error))?.map(|value| single(&value))),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a timer")]
    fn set_timer(
        &mut self,
        open: &Open,
        domain: Domain,
        group: u16,
        packed: &[u8],
        timestamp: i64,
        single: bool,
        named: bool,
    ) -> Result<()> {
        match self.timer_at(open, &keys::timer(domain, group, timestamp, packed))? {
            None => self.add_timer(domain, group, packed, timestamp, single, named),
            Some(known) if single && !known => {
                self.add_timer(domain, group, packed, timestamp, single, named);
                self.came -= 1;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn remove_timer(&mut self, domain: Domain, group: u16, packed: &[u8], timestamp: i64, named: bool) {
        self.went += 1;
        self.timers.insert(keys::timer(domain, group, timestamp, packed), None);
        if named {
            self.timers.insert(keys::named_at(domain, group, packed, timestamp), None);
        }
    }

    fn delete_name(&mut self, open: &Open, domain: Domain, group: u16, packed: &[u8], named: bool) -> Result<()> {
        let mut timestamps = BTreeSet::new();
        for (found, _) in self.merged(&self.timers, &open.timers, &keys::named(domain, group, packed))? {
            let (identity, timestamp) = keys::split_named(&found)?;
            if identity == packed {
                timestamps.insert((timestamp, true));
            }
        }
        if !named {
            // Those without a name have no index, as in memory.
            for (found, single) in self.merged(&self.timers, &open.timers, &keys::queue(domain, group))? {
                let (timestamp, identity) = keys::split_timer(&found)?;
                if identity == packed && single.first() != Some(&1) {
                    timestamps.insert((timestamp, false));
                }
            }
        }
        for (timestamp, indexed) in timestamps {
            self.remove_timer(domain, group, packed, timestamp, indexed);
        }
        Ok(())
    }
}

impl Disk {
    /// The pending timers of a domain and group in order, from where they can begin.
    fn queue(&self, open: &Open, domain: Domain, group: u16) -> fjall::Iter {
        let head = keys::queue(domain, group);
        let from = locked(&self.fronts).get(&(domain, group)).cloned().unwrap_or_else(|| head.to_vec());
        let number = u32::from_be_bytes([0, head[0], head[1], head[2]]) + 1;
        let [_, end @ ..] = number.to_be_bytes();
        open.timers.range::<Vec<u8>, _>((Bound::Included(from), Bound::Excluded(end.to_vec())))
    }

    /// Remembers that a queue begins at `first`.
    fn set_front(&self, domain: Domain, group: u16, first: Option<&[u8]>) {
        // Beyond all its timers: any that is set moves the front back.
        let front = first.map_or_else(|| [&keys::queue(domain, group)[..], &[0xff; 8]].concat(), <[u8]>::to_vec);
        locked(&self.fronts).insert((domain, group), front);
    }

    /// Moves fronts back to timers that were set.
    pub(super) fn move_fronts(&self, changed: &Changed) {
        let mut fronts = locked(&self.fronts);
        for (key, value) in changed {
            let [byte, high, low, ..] = key[..] else { continue };
            let Some(domain) = domain_of(byte).filter(|_| value.is_some()) else { continue };
            if let Some(front) = fronts.get_mut(&(domain, u16::from_be_bytes([high, low])))
                && *key < *front
            {
                front.clone_from(key);
            }
        }
    }

    pub(super) fn due_now(&self, request: &DueRequest) -> Result<DueTimers> {
        let opened = self.open();
        let open = opened.get()?;
        let mut queues = Vec::new();
        for &group in &request.groups {
            slot(group, self.slots)?;
            let mut first = true;
            let queue = self.queue(open, request.domain, group).map(move |entry| {
                let key = entry.key().map_err(|error| failed(&error))?;
                let (timestamp, identity) = keys::split_timer(&key)?;
                if std::mem::take(&mut first) {
                    self.set_front(request.domain, group, Some(&key));
                }
                Ok((timestamp, identity.to_vec()))
            });
            let up_to = request.up_to_ms;
            queues.push((
                group,
                queue.take_while(move |entry: &Result<(i64, Vec<u8>)>| !matches!(entry, Ok((timestamp, _)) if *timestamp > up_to)),
            ));
        }
        due::merge(queues, request.limit, request.order)
    }

    pub(super) fn next_now(&self, domain: Domain, groups: &[u16]) -> Result<Option<i64>> {
        let opened = self.open();
        let open = opened.get()?;
        let mut earliest = None;
        for &group in groups {
            slot(group, self.slots)?;
            let first = self.queue(open, domain, group).next().map(fjall::Guard::key).transpose().map_err(|error| failed(&error))?;
            self.set_front(domain, group, first.as_deref());
            let timestamp = first.map(|key| keys::split_timer(&key).map(|(timestamp, _)| timestamp)).transpose()?;
            earliest = [earliest, timestamp].into_iter().flatten().min();
        }
        Ok(earliest)
    }
}
