//! State of keyed functions (DESIGN D7, D9): cells, addressed by (key, namespace), read and written as columns.
//!
//! [`StateBackend`] is all that a session knows of a store. [`memory`] keeps rows in shared chunks, [`disk`] an LSM store, [`host`] asks the engine. Values are opaque to them: a
//! schema id and a value ([`codec`]); so are keys ([`encoding`]). [`snapshot`] writes checkpoints and reads them back, the same for all.
//!
//! Below (cell, key group, key, namespace) a store keeps an ordered set of entries: of a value cell one, of a list its elements in order, of a map its entries by encoded key. An
//! entry of a cell with a time to live carries its last access in milliseconds. Only the `now_ms` of a request or commit decides what is expired.

pub(crate) mod address;
pub mod cell;
pub(crate) mod check;
pub mod codec;
pub(crate) mod columns;
#[cfg(test)]
pub(crate) mod conformance;
pub mod disk;
pub mod encoding;
#[cfg(test)]
pub(crate) mod fixture;
pub mod host;
pub(crate) mod local;
pub mod memory;
pub(crate) mod physical;
pub(crate) mod piece;
pub mod request;
pub(crate) mod small;
pub mod snapshot;
pub(crate) mod sorted;

pub use cell::{BROADCAST_GROUP, Cell, CellId, Cells, Cleanup, Kind, MAX_PARALLELISM, Shape, Ttl, Update, Visibility};
pub use request::{Addresses, Commit, Entries, Get, Lookup, Op, Page, PageRequest, Prefetch, Sizes, Writes};

use crate::{
    error::Result,
    timer::{Domain, DueRequest, DueTimers},
    worker::BoxFuture,
};
use arrow_array::BinaryArray;
use std::sync::Arc;

/// A store of state and timers.
///
/// Requests for different key groups may run at the same time. Those of one group follow each other: a session reads a group after the commits that the read must see have returned.
/// Memory and disk answer at once, on the caller's thread; a host answers over the network.
pub trait StateBackend: Send + Sync {
    /// `memory`, `disk` or `host`.
    fn name(&self) -> &'static str;

    /// The cells it was made with.
    fn cells(&self) -> &Cells;

    /// Reads cells at many addresses in one step; as many [`Entries`] as cells asked for.
    fn get<'a>(&'a self, request: &'a Get) -> BoxFuture<'a, Result<Vec<Entries>>>;

    /// Reads single entries of a map; null = absent.
    fn lookup<'a>(&'a self, request: &'a Lookup) -> BoxFuture<'a, Result<BinaryArray>>;

    /// Reads a part of one list or map.
    fn page<'a>(&'a self, request: &'a PageRequest) -> BoxFuture<'a, Result<Page>>;

    /// Applies a bundle's effects: all or, with an error, none. After [`crate::Code::StateFull`] the same commit succeeds when there is room.
    fn apply<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<()>>;

    /// Timers that are due.
    fn due<'a>(&'a self, request: &'a DueRequest) -> BoxFuture<'a, Result<DueTimers>>;

    /// The earliest pending timestamp in these key groups, so that somebody can wait for it.
    fn next_timer<'a>(&'a self, domain: Domain, groups: &'a [u16]) -> BoxFuture<'a, Result<Option<i64>>>;

    /// How much it keeps.
    fn sizes(&self) -> Sizes;

    /// A view of these key groups as they are now, unaffected by later commits. It copies nothing that grows with the state: call it at the barrier, and write it in the background.
    ///
    /// # Errors
    /// [`crate::Code::Unsupported`] if a host keeps the state; what keeps the store from reading.
    fn view(&self, groups: &[u16], now_ms: i64) -> Result<Arc<dyn View>>;

    /// Adds rows of a snapshot to groups that hold nothing yet.
    ///
    /// # Errors
    /// As [`Self::apply`]; [`crate::Code::Unsupported`] if a host keeps the state.
    fn load(&self, rows: Rows) -> Result<()>;

    /// Frees what it holds; a disk backend deletes its folder. Later requests fail.
    ///
    /// # Errors
    /// [`crate::Code::StateFailed`] if the folder cannot be deleted.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A frozen view of state and timers ([`StateBackend::view`]).
pub trait View: Send + Sync {
    /// The cells it holds.
    fn cells(&self) -> &Cells;

    /// Changes whenever what it says of (group, cell) or, with `None`, of the group's timers does. Unique to one store.
    fn version(&self, group: u16, part: Option<CellId>) -> u64;

    /// Gives the rows of a group's cell, or with `None` its timers, to `sink`, in pieces of bounded size.
    ///
    /// # Errors
    /// What keeps the store from reading, and what `sink` returns.
    fn read(&self, group: u16, part: Option<CellId>, sink: &mut dyn FnMut(Rows) -> Result<()>) -> Result<()>;
}

/// Rows of a snapshot: entries of one cell, or timers, of one key group.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The key group.
    pub group: u16,
    /// Encoded keys.
    pub keys: BinaryArray,
    /// Namespaces.
    pub namespaces: BinaryArray,
    /// The rest.
    pub part: Part,
}

/// What [`Rows`] hold beside their addresses.
#[derive(Clone, Debug)]
pub enum Part {
    /// Entries of a cell, those of one address together and in order. Map keys are empty for other cells; `access` is `i64::MIN` without a time to live.
    Entries { cell: CellId, map_keys: BinaryArray, values: BinaryArray, access: Vec<i64> },
    /// Timers; `single` for those that a [`crate::timer::TimerOp::Replace`] set.
    Timers { domains: Vec<Domain>, names: arrow_array::StringArray, timestamps: Vec<i64>, single: Vec<bool> },
}
