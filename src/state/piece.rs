//! Pieces of bounded size that views give out.

use super::{Cell, CellId, Part, Rows, columns, columns::Bytes};
use crate::{
    error::Result,
    timer::{Domain, identity},
};

/// A piece that a view gives out ends with so many rows or bytes.
const PIECE_ROWS: usize = 16 << 10;
const PIECE_BYTES: usize = 8 << 20;

/// Rows of a piece that is being collected.
pub struct EntryPiece {
    ttl: bool,
    keys: Bytes,
    namespaces: Bytes,
    map_keys: Bytes,
    values: Bytes,
    access: Vec<i64>,
}

impl EntryPiece {
    /// An empty piece.
    pub fn new(cell: &Cell) -> Self {
        let bytes = || Bytes::new(0, 0);
        EntryPiece { ttl: cell.ttl.is_some(), keys: bytes(), namespaces: bytes(), map_keys: bytes(), values: bytes(), access: Vec::new() }
    }

    /// Adds an entry unless it was last accessed at `cutoff` or before.
    pub fn push(&mut self, cutoff: i64, key: &[u8], namespace: &[u8], map_key: &[u8], value: &[u8], access: i64) -> Result<()> {
        if self.ttl && access <= cutoff {
            return Ok(());
        }
        self.keys.push(key)?;
        self.namespaces.push(namespace)?;
        self.map_keys.push(map_key)?;
        self.values.push(value)?;
        self.access.push(access);
        Ok(())
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// True if it is time to give it out.
    pub fn is_full(&self) -> bool {
        let bytes = self.keys.bytes() + self.namespaces.bytes() + self.map_keys.bytes() + self.values.bytes();
        self.keys.len() >= PIECE_ROWS || bytes >= PIECE_BYTES
    }

    /// The piece; an empty one takes its place.
    pub fn take(&mut self, group: u16, cell: CellId) -> Rows {
        let bytes = |bytes: &mut Bytes| std::mem::replace(bytes, Bytes::new(0, 0)).finish();
        let part = Part::Entries {
            cell,
            map_keys: bytes(&mut self.map_keys),
            values: bytes(&mut self.values),
            access: std::mem::take(&mut self.access),
        };
        Rows { group, keys: bytes(&mut self.keys), namespaces: bytes(&mut self.namespaces), part }
    }
}

/// Timers of a piece that is being collected.
pub struct TimerPiece {
    keys: Bytes,
    namespaces: Bytes,
    names: Bytes,
    domains: Vec<Domain>,
    timestamps: Vec<i64>,
    single: Vec<bool>,
}

impl TimerPiece {
    /// An empty piece.
    pub fn new() -> Self {
        let bytes = || Bytes::new(0, 0);
        TimerPiece { keys: bytes(), namespaces: bytes(), names: bytes(), domains: Vec::new(), timestamps: Vec::new(), single: Vec::new() }
    }

    /// Adds a timer.
    pub fn push(&mut self, domain: Domain, packed: &[u8], timestamp: i64, single: bool) -> Result<()> {
        let (key, namespace, name) = identity::unpack(packed)?;
        self.keys.push(key)?;
        self.namespaces.push(namespace)?;
        self.names.push(name.as_bytes())?;
        self.domains.push(domain);
        self.timestamps.push(timestamp);
        self.single.push(single);
        Ok(())
    }

    /// True if nothing was added.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// True if it is time to give it out.
    pub fn is_full(&self) -> bool {
        self.timestamps.len() >= PIECE_ROWS
    }

    /// The piece; an empty one takes its place.
    pub fn take(&mut self, group: u16) -> Result<Rows> {
        let piece = std::mem::replace(self, TimerPiece::new());
        let names = columns::strings(piece.names.finish())?;
        let part = Part::Timers { domains: piece.domains, names, timestamps: piece.timestamps, single: piece.single };
        Ok(Rows { group, keys: piece.keys.finish(), namespaces: piece.namespaces.finish(), part })
    }
}
