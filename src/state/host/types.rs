//! What a host that keeps the state implements, and what it is asked and told.

use crate::{
    error::Result,
    state::{Addresses, CellId, Prefetch, Writes},
    timer::{Domain, TimerWrites},
    worker::BoxFuture,
};
use arrow_array::{BinaryArray, StringArray};
use arrow_buffer::OffsetBuffer;
use std::sync::Arc;

/// What a host that keeps the state is asked.
///
/// Every answer says up to which bundle the host had applied everything when it read: later bundles are overlaid by the engine.
pub trait StateHost: Send + Sync {
    /// Reads a cell at addresses.
    fn get<'a>(&'a self, request: &'a HostGet) -> BoxFuture<'a, Result<HostRows>>;

    /// Reads the next part of what is at one address: sub-keys after [`HostPage::after`] that begin with the prefix, in the order of their bytes, up to `max_bytes` but at least one.
    /// One row; [`HostRows::deferred`] says whether more is left.
    fn page<'a>(&'a self, request: &'a HostPage) -> BoxFuture<'a, Result<HostRows>>;

    /// Takes a sealed bundle, and keeps it. When [`Event::Committed`](crate::Event::Committed) names it, behind its results, the host applies it whole, in one step with what it emits, and says
    /// so with [`SessionOutput::applied`](crate::host::SessionOutput::applied). What is not named, because the session ended, never happens.
    fn commit(&self, commit: HostCommit) -> BoxFuture<'_, Result<()>>;

    /// Reads pending timers up to a timestamp, in the order of timestamps, at most `limit`.
    fn timers<'a>(&'a self, request: &'a HostDue) -> BoxFuture<'a, Result<HostTimers>>;
}

/// A question of [`StateHost::get`].
#[derive(Clone, Debug)]
pub struct HostGet {
    /// The cell, by its place in [`StateBackend::cells`](crate::state::StateBackend::cells).
    pub cell: u16,
    /// Where.
    pub addresses: Arc<Addresses>,
    /// Of each address only this sub-key; `None` = all.
    pub map_keys: Option<BinaryArray>,
    /// Rows with more bytes are deferred: they have no entries here, and are paged.
    pub prefetch: Prefetch,
}

/// A question of [`StateHost::page`].
#[derive(Clone, Debug)]
pub struct HostPage {
    /// The cell, by its place in [`StateBackend::cells`](crate::state::StateBackend::cells).
    pub cell: CellId,
    /// The key group of the address.
    pub group: u16,
    /// The encoded key.
    pub key: Vec<u8>,
    /// The namespace.
    pub namespace: Vec<u8>,
    /// Only sub-keys that begin with these bytes.
    pub prefix: Vec<u8>,
    /// Only sub-keys after this one; `None`: from the first.
    pub after: Option<Vec<u8>>,
    /// Upper bound of sub-keys and values together; but at least one entry, if one is left.
    pub max_bytes: usize,
}

/// Entries of rows: row `i` has the entries `offsets[i]..offsets[i + 1]`, in the order of sub-keys.
#[derive(Clone, Debug)]
pub struct HostRows {
    /// Everything up to this bundle was applied when this was read; 0 = none.
    pub applied_bundle: u64,
    /// As many as rows, and one.
    pub offsets: OffsetBuffer<i32>,
    /// Sub-keys; empty for cells with one entry.
    pub keys: BinaryArray,
    /// As many values.
    pub values: BinaryArray,
    /// As many times of last access, as they were written.
    pub access: Vec<i64>,
    /// By row: there is more than this.
    pub deferred: Vec<bool>,
}

/// A sealed bundle.
#[derive(Clone, Debug)]
pub struct HostCommit {
    /// The bundle. They are numbered from 1, with no gap.
    pub bundle: u64,
    /// What the columns refer to.
    pub addresses: Arc<Addresses>,
    /// Changes of cells, executed in order.
    pub writes: Vec<HostWrites>,
    /// Changes of timers, executed in order.
    pub timers: TimerWrites,
    /// The last access of everything that is written.
    pub now_ms: i64,
}

/// Changes of one cell. There is no [`Op::Append`](crate::state::Op::Append): the engine makes sub-keys whose order is that of appending, so it became [`Op::Put`](crate::state::Op::Put).
#[derive(Clone, Debug)]
pub struct HostWrites {
    /// The changes; `map_keys` are sub-keys, null = the whole address (of a [`Op::Put`](crate::state::Op::Put): the empty sub-key).
    pub writes: Writes,
    /// What [`Op::Touch`](crate::state::Op::Touch) does here: entries last accessed at this time or before go ...
    pub cutoff: i64,
    /// ... and the others, if this is set, are last accessed at `now_ms` from now on.
    pub renew: bool,
}

/// A question of [`StateHost::timers`].
#[derive(Clone, Debug)]
pub struct HostDue {
    /// The clock.
    pub domain: Domain,
    /// Key groups, each once.
    pub groups: Vec<u16>,
    /// Timers up to and including this timestamp.
    pub up_to_ms: i64,
    /// At most so many.
    pub limit: usize,
}

/// Pending timers, in the order of timestamps.
#[derive(Clone, Debug)]
pub struct HostTimers {
    /// Everything up to this bundle was applied when this was read; 0 = none.
    pub applied_bundle: u64,
    /// Where they are.
    pub addresses: Addresses,
    /// Names; empty = without.
    pub names: StringArray,
    /// When they are due.
    pub timestamps: Vec<i64>,
    /// There are more.
    pub more: bool,
}
