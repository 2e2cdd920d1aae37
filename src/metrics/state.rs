//! State, timers and checkpoints of keyed sessions, by function.

use crate::state::Sizes;
use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Entries of cells in all open sessions of a function.
pub const STATE_ENTRIES: &str = "pillion_state_entries";
/// Bytes of state and timers, by place (`memory`, `disk`).
pub const STATE_BYTES: &str = "pillion_state_bytes";
/// Pending timers.
pub const TIMERS: &str = "pillion_timers";
/// Reads of state, by whether a cache answered (`hit`, `miss`).
pub const STATE_CACHE: &str = "pillion_state_cache_total";
/// Entries removed because they were expired.
pub const STATE_EXPIRED: &str = "pillion_state_expired_total";
/// Checkpoints, by outcome (`ok`, `failed`).
pub const CHECKPOINTS: &str = "pillion_checkpoints_total";
/// Seconds from the barrier until a checkpoint was durable.
pub const CHECKPOINT_SECONDS: &str = "pillion_checkpoint_seconds";
/// Bytes written for checkpoints.
pub const CHECKPOINT_BYTES: &str = "pillion_checkpoint_bytes_total";

pub(super) fn describe() {
    describe_gauge!(STATE_ENTRIES, "entries of cells in open sessions");
    describe_gauge!(STATE_BYTES, Unit::Bytes, "state and timers of open sessions, by place");
    describe_gauge!(TIMERS, "pending timers of open sessions");
    describe_counter!(STATE_CACHE, "reads of state, by whether a cache answered");
    describe_counter!(STATE_EXPIRED, "entries removed because they were expired");
    describe_counter!(CHECKPOINTS, "checkpoints, by outcome");
    describe_histogram!(CHECKPOINT_SECONDS, Unit::Seconds, "time from the barrier until a checkpoint was durable");
    describe_counter!(CHECKPOINT_BYTES, Unit::Bytes, "bytes written for checkpoints");
}

/// What one session adds to the gauges of its function. They are sums over sessions, so each takes out what it put in.
pub(crate) struct StateMetrics {
    function: String,
    seen: Mutex<Sizes>,
    hits: Counter,
    misses: Counter,
    expired: Counter,
}

impl StateMetrics {
    /// For a session of this function.
    pub fn new(function: &str) -> Self {
        let cache = |outcome: &'static str| counter!(STATE_CACHE, "function" => function.to_owned(), "outcome" => outcome);
        StateMetrics {
            function: function.to_owned(),
            seen: Mutex::default(),
            hits: cache("hit"),
            misses: cache("miss"),
            expired: counter!(STATE_EXPIRED, "function" => function.to_owned()),
        }
    }

    /// What the session's store keeps now.
    pub fn saw(&self, sizes: Sizes) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *seen, sizes);
        let function = || self.function.clone();
        let by = |now: u64, before: u64| now as f64 - before as f64;
        gauge!(STATE_ENTRIES, "function" => function()).increment(by(sizes.entries, before.entries));
        gauge!(TIMERS, "function" => function()).increment(by(sizes.timers, before.timers));
        gauge!(STATE_BYTES, "function" => function(), "place" => "memory").increment(by(sizes.memory_bytes, before.memory_bytes));
        gauge!(STATE_BYTES, "function" => function(), "place" => "disk").increment(by(sizes.disk_bytes, before.disk_bytes));
        self.hits.increment(sizes.cache_hits.saturating_sub(before.cache_hits));
        self.misses.increment(sizes.cache_misses.saturating_sub(before.cache_misses));
        self.expired.increment(sizes.expired.saturating_sub(before.expired));
    }

    /// A checkpoint is durable and has written so many bytes, or has failed.
    pub fn checkpoint(&self, written: Option<u64>, took: Duration) {
        let outcome = if written.is_some() { "ok" } else { "failed" };
        counter!(CHECKPOINTS, "function" => self.function.clone(), "outcome" => outcome).increment(1);
        if let Some(bytes) = written {
            counter!(CHECKPOINT_BYTES, "function" => self.function.clone()).increment(bytes);
            histogram!(CHECKPOINT_SECONDS, "function" => self.function.clone()).record(took);
        }
    }
}

impl Drop for StateMetrics {
    fn drop(&mut self) {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Counters stay where they are.
        let Sizes { cache_hits, cache_misses, expired, .. } = seen;
        self.saw(Sizes { cache_hits, cache_misses, expired, ..Sizes::default() });
    }
}
