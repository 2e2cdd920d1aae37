//! Timers: what functions ask to be woken at (DESIGN D8).
//!
//! A timer is (domain, key, namespace, name, timestamp); setting it twice is setting it once. Timers change with [`crate::state::Commit`], together with state, and are kept
//! by the same backend. A *single* timer has at most one timestamp per (domain, key, namespace, name): [`TimerOp::Replace`] moves it.

pub(crate) mod due;
pub(crate) mod identity;
pub(crate) mod set;

use crate::{
    error::{Code, Error, Result},
    state::Addresses,
};
use arrow_array::{Array, BinaryArray, StringArray};
use set::Change;

/// The clock of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// Fires when the watermark passes it.
    EventTime,
    /// Fires when the wall clock (or a test's) passes it.
    ProcessingTime,
}

/// A change of timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerOp {
    /// Adds a timer.
    Set,
    /// Adds a timer in the place of the one of the same domain, key, namespace and name, if there is one.
    Replace,
    /// Removes a timer; nothing happens if there is none. Also how a fired timer goes, in the commit of the bundle that it fired in.
    Delete,
    /// Removes all timestamps of a name, whatever `timestamps` says.
    DeleteName,
    /// Removes all timers of the key and namespace in this domain, whatever name and timestamp say.
    DeleteAll,
}

/// Changes of timers, row by row in their order. The columns are equally long; empty columns = no change.
#[derive(Clone, Debug, Default)]
pub struct TimerWrites {
    /// Positions in [`crate::state::Commit::addresses`].
    pub at: Vec<u32>,
    /// Which clock.
    pub domains: Vec<Domain>,
    /// What is done.
    pub ops: Vec<TimerOp>,
    /// Names, null or empty = without a name; `None` = all without.
    pub names: Option<StringArray>,
    /// In milliseconds since 1970, any value.
    pub timestamps: Vec<i64>,
}

impl TimerWrites {
    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Code::InvariantBroken`] if the columns were made with names: such are complete.
    pub fn push(&mut self, at: u32, domain: Domain, op: TimerOp, timestamp: i64) -> Result<()> {
        if self.names.is_some() {
            return Err(Error::new(Code::InvariantBroken, "a timer without a name is added to a column of names"));
        }
        self.at.push(at);
        self.domains.push(domain);
        self.ops.push(op);
        self.timestamps.push(timestamp);
        Ok(())
    }

    /// Checks that the columns are equally long and point into `addresses` rows.
    pub(crate) fn check(&self, addresses: usize) -> Result<()> {
        let rows = self.at.len();
        let lengths = [self.domains.len(), self.ops.len(), self.timestamps.len(), self.names.as_ref().map_or(rows, |names| names.len())];
        if lengths.iter().any(|&len| len != rows) || self.at.iter().any(|&at| at as usize >= addresses) {
            return Err(Error::new(Code::InvariantBroken, "the columns of a commit's timers do not fit each other"));
        }
        Ok(())
    }

    /// The change in a row.
    pub(crate) fn change<'a>(&'a self, row: usize, addresses: &'a Addresses) -> Change<'a> {
        let (key, namespace) = addresses.at(self.at[row] as usize);
        let name = self.names.as_ref().filter(|names| names.is_valid(row)).map_or("", |names| names.value(row));
        Change { domain: self.domains[row], op: self.ops[row], key, namespace, name, timestamp: self.timestamps[row] }
    }
}

/// In which order timers of different keys may be given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DueOrder {
    /// In the order of timestamps per key; across keys only as far as that costs no calls. What a vectorized function wants.
    #[default]
    PerKey,
    /// In the order of timestamps over all keys asked for, at the price of smaller results.
    Global,
}

/// Which timers are asked for.
#[derive(Clone, Debug)]
pub struct DueRequest {
    /// The clock.
    pub domain: Domain,
    /// Key groups, each once.
    pub groups: Vec<u16>,
    /// Timers up to and including this timestamp.
    pub up_to_ms: i64,
    /// At most so many; at least 1.
    pub limit: usize,
    /// In which order.
    pub order: DueOrder,
}

/// Timers that are due, sorted by timestamp, then key group and key. Never two timestamps of a key. They stay pending until a commit deletes them.
#[derive(Clone, Debug)]
pub struct DueTimers {
    /// Key groups.
    pub groups: Vec<u16>,
    /// Encoded keys.
    pub keys: BinaryArray,
    /// Namespaces.
    pub namespaces: BinaryArray,
    /// Names; empty = without.
    pub names: StringArray,
    /// When they are due.
    pub timestamps: Vec<i64>,
    /// The earliest timestamp that is due and not in this result; `None` = this is all. Once the result's bundle has committed everything before it has fired.
    pub remaining_from: Option<i64>,
}

impl DueTimers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// True if nothing is due.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }
}
