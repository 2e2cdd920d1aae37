//! What backends are asked and told, as columns.

use super::cell::CellId;
use crate::{
    error::{Code, Error, Result},
    timer::TimerWrites,
};
use arrow_array::{Array, BinaryArray, BooleanArray, ListArray};
use arrow_buffer::OffsetBuffer;
use std::sync::Arc;

/// Where state lives: one (key, namespace) per row, with its key group. Keys are in the encoding of [`super::encoding`]; backends see only bytes.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Key groups, below max parallelism, or [`super::BROADCAST_GROUP`].
    pub groups: Vec<u16>,
    /// Encoded keys, without nulls.
    pub keys: BinaryArray,
    /// Namespaces, without nulls; `None` = the empty namespace in all rows.
    pub namespaces: Option<BinaryArray>,
}

impl Addresses {
    /// Addresses of columns of equal length without nulls.
    ///
    /// # Errors
    /// [`Code::InvariantBroken`] if they are not.
    pub fn new(groups: Vec<u16>, keys: BinaryArray, namespaces: Option<BinaryArray>) -> Result<Self> {
        let lengths = keys.len() == groups.len() && namespaces.as_ref().is_none_or(|namespaces| namespaces.len() == groups.len());
        let nulls = keys.null_count() + namespaces.as_ref().map_or(0, |namespaces| namespaces.null_count());
        if !lengths || nulls > 0 || u32::try_from(groups.len()).is_err() {
            return Err(Error::new(Code::InvariantBroken, "addresses of state have columns of different lengths, or nulls"));
        }
        Ok(Addresses { groups, keys, namespaces })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Key and namespace of a row.
    pub fn at(&self, row: usize) -> (&[u8], &[u8]) {
        (self.keys.value(row), self.namespaces.as_ref().map_or(&[][..], |namespaces| namespaces.value(row)))
    }
}

/// How much of lists and maps a multi-get brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// A list or map with more bytes than this is deferred.
    pub entry_bytes: usize,
    /// When the lists and maps of one cell have brought this much, the rest is deferred.
    pub total_bytes: usize,
}

impl Default for Prefetch {
    fn default() -> Self {
        Prefetch { entry_bytes: 64 << 10, total_bytes: 64 << 20 }
    }
}

/// Read cells at addresses. A peek: it renews no time to live and removes nothing.
#[derive(Clone, Debug)]
pub struct Get {
    /// The cells, in the order of the answer.
    pub cells: Vec<CellId>,
    /// Where; each address at most once.
    pub addresses: Arc<Addresses>,
    /// Decides what is expired.
    pub now_ms: i64,
    /// How much of lists and maps comes along.
    pub prefetch: Prefetch,
}

/// What one cell holds at the addresses of a [`Get`], aligned with them.
#[derive(Clone, Debug)]
pub enum Entries {
    /// Cells with one entry: null = absent.
    Values(BinaryArray),
    /// Lists: empty = absent; where `deferred` the list is empty here and must be paged.
    Lists { lists: ListArray, deferred: BooleanArray },
    /// Maps: row `i` has the entries `offsets[i]..offsets[i + 1]`, in the order of the bytes of their keys; where `deferred` it must be paged.
    Maps { offsets: OffsetBuffer<i32>, keys: BinaryArray, values: BinaryArray, deferred: BooleanArray },
}

/// Read single entries of a map: `map_keys[i]` at address `at[i]`.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// A map.
    pub cell: CellId,
    /// Positions in `addresses`.
    pub at: Vec<u32>,
    /// Where.
    pub addresses: Arc<Addresses>,
    /// Encoded map keys, as many as `at`.
    pub map_keys: BinaryArray,
    /// Decides what is expired.
    pub now_ms: i64,
}

/// Read the next page of a list or map.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// A list or map.
    pub cell: CellId,
    /// The key group of the address.
    pub group: u16,
    /// The encoded key.
    pub key: Vec<u8>,
    /// The namespace.
    pub namespace: Vec<u8>,
    /// Only map keys that begin with these bytes.
    pub prefix: Vec<u8>,
    /// [`Page::next`] of the page before; `None` for the first.
    pub after: Option<Vec<u8>>,
    /// Upper bound of keys and values together; a page has at least one entry, if one is left.
    pub max_bytes: usize,
    /// Decides what is expired.
    pub now_ms: i64,
}

/// Entries of a list or map in order.
#[derive(Clone, Debug)]
pub struct Page {
    /// Map keys; of a list opaque and only good for the order.
    pub keys: BinaryArray,
    /// As many values.
    pub values: BinaryArray,
    /// Continue here; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// One change of one cell at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Set the value, or the map's entry at the map key. Renews its time to live.
    Put,
    /// Add the value at the end of a list, without reading it.
    Append,
    /// Remove the map's entry at the map key.
    Remove,
    /// Remove everything: the value, the whole list or map.
    Clear,
    /// Remove the map's entries whose keys begin with the bytes in `map_key`.
    ClearPrefix,
    /// A read is reported: what is not expired lives on from now; what is expired is removed. Of a map the entry at the map key, or all if it is null.
    Touch,
}

/// The changes of one cell, row by row in their order. The columns are equally long.
#[derive(Clone, Debug)]
pub struct Writes {
    /// The cell.
    pub cell: CellId,
    /// Positions in [`Commit::addresses`].
    pub at: Vec<u32>,
    /// What is done.
    pub ops: Vec<Op>,
    /// Map keys, null where the operation has none; `None` for cells that are no maps.
    pub map_keys: Option<BinaryArray>,
    /// Values, null where the operation has none.
    pub values: BinaryArray,
}

/// The effects of one bundle on state and timers: all of them take effect, or none.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The bundle. Rises within a session; a `host` backend keeps it until [`super::host::Host::applied`].
    pub seq: u64,
    /// The addresses that the columns refer to; each at most once.
    pub addresses: Arc<Addresses>,
    /// Changes of cells, executed in order.
    pub writes: Vec<Writes>,
    /// Changes of timers, executed in order.
    pub timers: TimerWrites,
    /// The time of the bundle: last access of what it writes, and what decides expiry.
    pub now_ms: i64,
}

/// How much a backend keeps. Estimates, for metrics and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of cells: values, list elements, map entries. Of disk an upper bound.
    pub entries: u64,
    /// Pending timers.
    pub timers: u64,
    /// Memory for state and timers, caches included.
    pub memory_bytes: u64,
    /// Disk space.
    pub disk_bytes: u64,
    /// Reads that a cache answered.
    pub cache_hits: u64,
    /// Reads that went past it; none where there is no cache.
    pub cache_misses: u64,
    /// Entries removed because they were expired.
    pub expired: u64,
    /// Bundles in the overlay: sealed, not yet applied by the host.
    pub overlay: u64,
}
