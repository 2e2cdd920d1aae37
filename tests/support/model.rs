//! What `Program` of `tests/functions/programs.py` does, in plain Rust.

use std::collections::{BTreeMap, BTreeSet};

const NOTHING: i64 = -1;

/// How many operations there are.
pub const OPERATIONS: i64 = 13;

/// Those that read all that a key has.
pub const READS: [i64; 4] = [0, 4, 8, 10];

#[derive(Default)]
struct Key {
    value: Option<i64>,
    items: Vec<i64>,
    entries: BTreeMap<i64, i64>,
    largest: Option<i64>,
    timers: BTreeSet<i64>,
}

/// State and timers of all keys, and what they gave.
#[derive(Default)]
pub struct Model {
    keys: BTreeMap<i64, Key>,
    pub given: Vec<Vec<i64>>,
}

impl Model {
    /// A row, whose value is an operation and an argument.
    pub fn row(&mut self, key: i64, value: i64) {
        let (what, argument) = (value / 1000, value % 1000);
        let state = self.keys.entry(key).or_default();
        let mut give = |first: i64, second: i64| self.given.push(vec![key, what, first, second]);
        match what {
            0 => give(state.value.unwrap_or(NOTHING), argument),
            1 => state.value = Some(argument),
            2 => state.value = None,
            3 => state.items.push(argument),
            4 => give(state.items.iter().zip(1..).map(|(item, at)| item * at).sum(), state.items.len() as i64),
            5 => state.items.clear(),
            6 => drop(state.entries.insert(argument % 5, argument)),
            7 => drop(state.entries.remove(&(argument % 5))),
            8 => {
                let found = state.entries.get(&(argument % 5)).copied();
                give(found.unwrap_or(NOTHING), state.entries.iter().map(|(key, value)| key * value).sum());
            }
            9 => state.largest = state.largest.max(Some(argument)),
            10 => give(state.largest.unwrap_or(NOTHING), 0),
            11 => drop(state.timers.insert(argument)),
            12 => drop(state.timers.remove(&argument)),
            other => panic!("there is no operation {other}"),
        }
    }

    /// Event time goes on.
    pub fn watermark(&mut self, watermark: i64) {
        for (key, state) in &mut self.keys {
            while let Some(timestamp) = state.timers.first().copied().filter(|&timestamp| timestamp <= watermark) {
                state.timers.remove(&timestamp);
                self.given.push(vec![*key, 100, timestamp, state.value.unwrap_or(NOTHING)]);
                state.value = Some(timestamp);
                if timestamp % 3 == 0 {
                    state.timers.insert(timestamp + 7);
                }
            }
        }
    }
}
