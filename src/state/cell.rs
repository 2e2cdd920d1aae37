//! Cells: what a function declares that it keeps, per key and namespace.

use crate::error::{Code, Error, Result};
use arrow_schema::DataType;
use std::{collections::HashSet, sync::Arc, time::Duration};

/// A cell by its place in [`Cells`]. Requests and commits name cells this way.
pub type CellId = u16;

/// How a cell's entries are shaped and merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One value.
    Value,
    /// Values in the order of their appending.
    List,
    /// Values by a key of the map's own.
    Map,
    /// One value; the worker merges new elements into it. Kept like [`Kind::Value`].
    Reducing,
    /// One accumulator; the worker merges new elements into it. Kept like [`Kind::Value`].
    Aggregating,
    /// A map that belongs to the operator and not to a key: it lives in [`BROADCAST_GROUP`], every lane sees it, every snapshot holds all of it.
    Broadcast,
}

/// How the entries of a cell lie in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One entry per address.
    Single,
    /// Entries in the order of their appending.
    List,
    /// Entries by encoded map key, in the order of its bytes.
    Map,
}

/// The key group of broadcast state. No key hashes to it: max parallelism is at most [`MAX_PARALLELISM`].
pub const BROADCAST_GROUP: u16 = u16::MAX;

/// The largest max parallelism, as in Flink.
pub const MAX_PARALLELISM: u16 = 1 << 15;

impl Kind {
    /// How it is stored.
    pub const fn shape(self) -> Shape {
        match self {
            Kind::Value | Kind::Reducing | Kind::Aggregating => Shape::Single,
            Kind::List => Shape::List,
            Kind::Map | Kind::Broadcast => Shape::Map,
        }
    }

    /// The word in manifests and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::List => "list",
            Kind::Map => "map",
            Kind::Reducing => "reducing",
            Kind::Aggregating => "aggregating",
            Kind::Broadcast => "broadcast",
        }
    }

    /// The kind of a word.
    pub fn parse(word: &str) -> Option<Kind> {
        [Kind::Value, Kind::List, Kind::Map, Kind::Reducing, Kind::Aggregating, Kind::Broadcast]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// What renews an entry's time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Update {
    /// Writing it.
    #[default]
    OnCreateAndWrite,
    /// Writing or reading it; reads are reported as [`Op::Touch`](super::Op::Touch).
    OnReadAndWrite,
}

/// Whether expired entries are seen before they are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Never.
    #[default]
    NeverReturnExpired,
    /// Until something removes them.
    ReturnExpiredIfNotCleanedUp,
}

/// When expired entries are removed, beside when they are written, cleared or touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cleanup {
    /// Rows that each commit looks at; 0 = none.
    pub per_commit: u32,
    /// Snapshots leave expired entries out.
    pub on_snapshot: bool,
}

impl Default for Cleanup {
    fn default() -> Self {
        Cleanup { per_commit: 64, on_snapshot: true }
    }
}

/// The time to live of a cell's entries. Lists and maps count it per element. Only the `now_ms` of requests and commits decides what is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ttl {
    /// How long an entry lives after its last access.
    pub duration: Duration,
    /// What counts as access.
    pub update: Update,
    /// Whether expired entries are seen.
    pub visibility: Visibility,
    /// When expired entries are removed.
    pub cleanup: Cleanup,
}

impl Ttl {
    /// A time to live with the defaults of Flink: renewed by writes, expired entries are never seen.
    pub fn new(duration: Duration) -> Self {
        Ttl { duration, update: Update::default(), visibility: Visibility::default(), cleanup: Cleanup::default() }
    }

    /// Entries last accessed at this time or before are expired at `now_ms`.
    pub fn cutoff(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX))
    }

    /// True if an entry last accessed at `access_ms` is expired at `now_ms`.
    pub fn expired(&self, access_ms: i64, now_ms: i64) -> bool {
        access_ms <= self.cutoff(now_ms)
    }

    /// Entries at or before this access time are not returned by reads at `now_ms`.
    pub(crate) fn hidden(&self, now_ms: i64) -> i64 {
        match self.visibility {
            Visibility::NeverReturnExpired => self.cutoff(now_ms),
            Visibility::ReturnExpiredIfNotCleanedUp => i64::MIN,
        }
    }
}

/// One named state of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Unique among the function's cells.
    pub name: String,
    /// How it is shaped and merged.
    pub kind: Kind,
    /// The type of its values (of a list: of one element; of an aggregating cell: of the accumulator).
    pub value: DataType,
    /// The type of a map's keys.
    pub key: Option<DataType>,
    /// How long entries live; `None` = for ever.
    pub ttl: Option<Ttl>,
    /// Values are pickles: `value` is then binary, and only the worker understands it.
    pub pickled: bool,
}

impl Cell {
    /// A cell of one value.
    pub fn value(name: impl Into<String>, value: DataType) -> Self {
        Cell { name: name.into(), kind: Kind::Value, value, key: None, ttl: None, pickled: false }
    }

    /// A list.
    pub fn list(name: impl Into<String>, value: DataType) -> Self {
        Cell { kind: Kind::List, ..Cell::value(name, value) }
    }

    /// A map.
    pub fn map(name: impl Into<String>, key: DataType, value: DataType) -> Self {
        Cell { kind: Kind::Map, key: Some(key), ..Cell::value(name, value) }
    }

    /// The same cell with a time to live.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How it is stored.
    pub fn shape(&self) -> Shape {
        self.kind.shape()
    }

    /// The access time at or before which reads at `now_ms` hide entries.
    pub(crate) fn hidden(&self, now_ms: i64) -> i64 {
        self.ttl.map_or(i64::MIN, |ttl| ttl.hidden(now_ms))
    }

    /// The access time at or before which entries are expired at `now_ms`.
    pub(crate) fn cutoff(&self, now_ms: i64) -> i64 {
        self.ttl.map_or(i64::MIN, |ttl| ttl.cutoff(now_ms))
    }
}

/// The declared cells of a function, checked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cells(Arc<[Cell]>);

impl Cells {
    /// Checks a declaration.
    ///
    /// # Errors
    /// [`Code::DeclarationInvalid`] for names that stand twice, maps without a key type (and the other way round), and times to live of nothing;
    /// [`Code::KeyType`] for map keys that cannot be hashed.
    pub fn new(cells: Vec<Cell>) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(Code::DeclarationInvalid, message));
        if cells.len() > usize::from(CellId::MAX) {
            return invalid(format!("a function cannot have more than {} cells", CellId::MAX));
        }
        let mut names = HashSet::new();
        for cell in &cells {
            let name = &cell.name;
            if name.is_empty() {
                return invalid("a cell has no name".into());
            }
            if !names.insert(name.as_str()) {
                return invalid(format!("the cell `{name}` is declared twice"));
            }
            match (&cell.key, cell.shape()) {
                (None, Shape::Map) => return invalid(format!("the map `{name}` has no key type")),
                (Some(_), Shape::Single | Shape::List) => return invalid(format!("the cell `{name}` is no map, and has a key type")),
                (Some(key), Shape::Map) => super::encoding::check_type(key).map_err(|error| error.within(format!("the map `{name}`")))?,
                (None, _) => {}
            }
            if cell.ttl.is_some_and(|ttl| ttl.duration.is_zero()) {
                return invalid(format!("the time to live of the cell `{name}` is zero"));
            }
        }
        Ok(Cells(cells.into()))
    }

    /// The place of a cell.
    pub fn find(&self, name: &str) -> Option<CellId> {
        self.0.iter().position(|cell| cell.name == name).and_then(|id| CellId::try_from(id).ok())
    }

    /// A cell by its place.
    ///
    /// # Errors
    /// [`Code::StateUndeclared`] if there is none.
    pub fn at(&self, id: CellId) -> Result<&Cell> {
        self.0.get(usize::from(id)).ok_or_else(|| Error::new(Code::StateUndeclared, format!("the function declares no cell number {id}")))
    }
}

impl std::ops::Deref for Cells {
    type Target = [Cell];

    fn deref(&self) -> &[Cell] {
        &self.0
    }
}
