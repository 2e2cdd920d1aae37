//! The timers of one key group in memory.

use super::{Domain, TimerOp, identity};
use crate::{
    error::Result,
    state::{small::Small, sorted::Sorted},
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Timers in the order in which they fire: timestamp, then packed identity; the value says whether the timer is single.
pub type Queue = Sorted<(i64, Small), bool>;

/// Pending timers of a key group.
#[derive(Clone, Debug, Default)]
pub struct TimerSet {
    queues: [Arc<Queue>; 2],
    /// Timestamps of those with a name or single, by domain and packed identity: what [`TimerOp::Replace`] and [`TimerOp::DeleteName`] look up.
    named: BTreeMap<(Domain, Small), BTreeSet<i64>>,
    /// Memory of long identities.
    heap: usize,
}

/// One change, resolved.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Which clock.
    pub domain: Domain,
    /// What is done.
    pub op: TimerOp,
    /// The key.
    pub key: &'a [u8],
    /// The namespace.
    pub namespace: &'a [u8],
    /// The name; empty = without.
    pub name: &'a str,
    /// The timestamp.
    pub timestamp: i64,
}

fn queue_of(domain: Domain) -> usize {
    match domain {
        Domain::EventTime => 0,
        Domain::ProcessingTime => 1,
    }
}

impl TimerSet {
    /// The timers of a domain; to share, not to copy.
    pub fn queue(&self, domain: Domain) -> &Arc<Queue> {
        &self.queues[queue_of(domain)]
    }

    /// How many are pending.
    pub fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.len()).sum()
    }

    /// Memory for all of them.
    pub fn memory(&self) -> usize {
        let named = self.named.len() * (size_of::<((Domain, Small), BTreeSet<i64>)>() + 16);
        self.queues.iter().map(|queue| queue.memory()).sum::<usize>() + named + self.heap
    }

    /// The earliest timestamp of a domain.
    pub fn next(&self, domain: Domain) -> Option<i64> {
        self.queue(domain).iter().next().map(|((timestamp, _), _)| *timestamp)
    }

    /// Makes a change.
    pub fn change(&mut self, change: &Change<'_>, buffer: &mut Vec<u8>) {
        buffer.clear();
        let Change { domain, op, key, namespace, name, timestamp } = *change;
        if op == TimerOp::DeleteAll {
            identity::prefix(buffer, key, namespace);
            return self.delete_all(domain, buffer);
        }
        identity::pack(buffer, key, namespace, name);
        match op {
            TimerOp::Set => self.set(domain, buffer, timestamp, !name.is_empty(), false),
            TimerOp::Replace => {
                self.delete_name(domain, buffer, !name.is_empty());
                self.set(domain, buffer, timestamp, true, true);
            }
            TimerOp::Delete => self.delete(domain, buffer, timestamp),
            TimerOp::DeleteName | TimerOp::DeleteAll => self.delete_name(domain, buffer, !name.is_empty()),
        }
    }

    /// Adds a timer of a snapshot.
    pub fn load(&mut self, domain: Domain, packed: &[u8], timestamp: i64, single: bool) -> Result<()> {
        let (_, _, name) = identity::unpack(packed)?;
        self.set(domain, packed, timestamp, single || !name.is_empty(), single);
        Ok(())
    }

    fn set(&mut self, domain: Domain, packed: &[u8], timestamp: i64, indexed: bool, single: bool) {
        let queue = Arc::make_mut(&mut self.queues[queue_of(domain)]);
        let (place, found) = queue.seek(|key| order(key, timestamp, packed));
        if found {
            if single && let Some(flag) = queue.value_at(place) {
                *flag = true;
            }
        } else {
            let identity = Small::from(packed);
            self.heap += identity.heap();
            queue.insert_at(place, (timestamp, identity), single);
        }
        if indexed {
            self.named.entry((domain, Small::from(packed))).or_default().insert(timestamp);
        }
    }

    fn delete(&mut self, domain: Domain, packed: &[u8], timestamp: i64) {
        let queue = &mut self.queues[queue_of(domain)];
        let (place, found) = queue.seek(|key| order(key, timestamp, packed));
        if found && let Some(((_, identity), _)) = Arc::make_mut(queue).remove_at(place) {
            self.heap -= identity.heap();
        }
        if self.named.is_empty() {
            return;
        }
        let key = (domain, Small::from(packed));
        if let Some(timestamps) = self.named.get_mut(&key) {
            timestamps.remove(&timestamp);
            if timestamps.is_empty() {
                self.named.remove(&key);
            }
        }
    }

    fn delete_name(&mut self, domain: Domain, packed: &[u8], named: bool) {
        let mut timestamps = self.named.get(&(domain, Small::from(packed))).cloned().unwrap_or_default();
        if !named {
            // Those without a name have no index: it would cost each of them as much memory as the timer itself.
            let queue = self.queue(domain).iter();
            timestamps.extend(queue.filter(|((_, identity), _)| identity.as_slice() == packed).map(|((timestamp, _), _)| *timestamp));
        }
        for timestamp in timestamps {
            self.delete(domain, packed, timestamp);
        }
    }

    fn delete_all(&mut self, domain: Domain, prefix: &[u8]) {
        let found: Vec<(i64, Small)> = self
            .queue(domain)
            .iter()
            .map(|(key, _)| key)
            .filter(|(_, identity)| identity.as_slice().starts_with(prefix))
            .cloned()
            .collect();
        for (timestamp, identity) in found {
            self.delete(domain, identity.as_slice(), timestamp);
        }
    }
}

/// The order of a queue.
pub fn order(key: &(i64, Small), timestamp: i64, packed: &[u8]) -> Ordering {
    key.0.cmp(&timestamp).then_with(|| key.1.as_slice().cmp(packed))
}
