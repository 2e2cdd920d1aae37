//! Which timers are due: queues of key groups merged, and cut so that no result holds two timestamps of a key.

use super::{DueOrder, DueTimers, identity};
use crate::{
    error::Result,
    state::{
        columns::{self, Bytes},
        small::Small,
    },
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    hash::BuildHasherDefault,
    iter::Peekable,
};

type Seen = HashMap<(u16, Small), i64, BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>>;

/// With [`DueOrder::PerKey`] later timestamps of a key are passed over; looking on ends when these are so many times the timers found, so that many timers of few keys cost no more
/// than they must.
const PASSED_OVER: usize = 3;
/// And at least so many.
const PASSED_OVER_MIN: usize = 1000;

/// Takes timers from the front of sorted queues, one per key group.
pub fn merge<I, P>(queues: Vec<(u16, I)>, limit: usize, by: DueOrder) -> Result<DueTimers>
where
    I: Iterator<Item = Result<(i64, P)>>,
    P: AsRef<[u8]>,
{
    let mut queues: Vec<(u16, Peekable<I>)> = queues.into_iter().map(|(group, queue)| (group, queue.peekable())).collect();
    queues.sort_unstable_by_key(|(group, _)| *group);
    let mut heads: BinaryHeap<Reverse<(i64, usize)>> = BinaryHeap::with_capacity(queues.len());
    for (i, (_, queue)) in queues.iter_mut().enumerate() {
        heads.extend(head(queue)?.map(|timestamp| Reverse((timestamp, i))));
    }
    let mut result = Building::new(limit);
    let (mut seen, mut passed_over) = (Seen::default(), 0);
    while let Some(Reverse((timestamp, i))) = heads.pop() {
        let (group, queue) = &mut queues[i];
        if result.timestamps.len() >= limit.max(1) || passed_over > PASSED_OVER_MIN + PASSED_OVER * result.timestamps.len() {
            result.remaining(timestamp);
            break;
        }
        let Some((_, packed)) = queue.next().transpose()? else { continue };
        let (key, namespace, name) = identity::unpack(packed.as_ref())?;
        let taken = match seen.entry((*group, Small::from(key))) {
            Entry::Vacant(entry) => *entry.insert(timestamp) == timestamp,
            Entry::Occupied(entry) => *entry.get() == timestamp,
        };
        if taken {
            result.push(*group, key, namespace, name, timestamp)?;
        } else {
            result.remaining(timestamp);
            if by == DueOrder::Global {
                break;
            }
            passed_over += 1;
        }
        heads.extend(head(queue)?.map(|timestamp| Reverse((timestamp, i))));
    }
    result.finish()
}

/// The timestamp at the front of a queue.
fn head<I, P>(queue: &mut Peekable<I>) -> Result<Option<i64>>
where
    I: Iterator<Item = Result<(i64, P)>>,
{
    match queue.peek() {
        None => Ok(None),
        Some(Ok((timestamp, _))) => Ok(Some(*timestamp)),
        Some(Err(error)) => Err(error.clone()),
    }
}

struct Building {
    groups: Vec<u16>,
    keys: Bytes,
    namespaces: Bytes,
    names: Bytes,
    timestamps: Vec<i64>,
    remaining_from: Option<i64>,
}

impl Building {
    fn new(limit: usize) -> Self {
        let rows = limit.min(1 << 12);
        let bytes = || Bytes::new(rows, 0);
        Building {
            groups: Vec::with_capacity(rows),
            keys: bytes(),
            namespaces: bytes(),
            names: bytes(),
            timestamps: Vec::with_capacity(rows),
            remaining_from: None,
        }
    }

    /// Timers come in order: the first that is left behind is the earliest.
    fn remaining(&mut self, timestamp: i64) {
        self.remaining_from.get_or_insert(timestamp);
    }

    fn push(&mut self, group: u16, key: &[u8], namespace: &[u8], name: &str, timestamp: i64) -> Result<()> {
        self.groups.push(group);
        self.keys.push(key)?;
        self.namespaces.push(namespace)?;
        self.names.push(name.as_bytes())?;
        self.timestamps.push(timestamp);
        Ok(())
    }

    fn finish(self) -> Result<DueTimers> {
        Ok(DueTimers {
            groups: self.groups,
            keys: self.keys.finish(),
            namespaces: self.namespaces.finish(),
            names: columns::strings(self.names.finish())?,
            timestamps: self.timestamps,
            remaining_from: self.remaining_from,
        })
    }
}
