//! The manifest of a checkpoint: what it holds, in JSON, written last (`docs/state-format.md`).

use crate::{
    error::{Code, Error, Result},
    state::{Cell, Cells, Cleanup, Kind, Ttl, Update, Visibility, encoding::KEY_VERSION},
};
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use std::{fmt::Write, io::Cursor, time::Duration};

/// The version of the format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The number of the checkpoint, given by the host.
    pub id: u64,
    /// The attempt of the session.
    pub attempt: u32,
    /// The function; a checkpoint is restored to a function of the same name.
    pub function: String,
    /// Stored, since key groups mean nothing without it.
    pub max_parallelism: u16,
    /// When it was taken, in milliseconds since 1970.
    pub created_ms: i64,
}

/// A checkpoint of one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The version of the encoding of keys, from which key groups are computed.
    pub key_encoding: u32,
    /// What it is of.
    #[serde(flatten)]
    pub origin: Origin,
    /// Its name: this file is `<handle>.json`.
    pub handle: String,
    /// The key groups that it covers, as ranges of first and last.
    pub groups: Vec<(u16, u16)>,
    /// The key columns.
    pub key: Vec<Column>,
    /// The cells.
    pub cells: Vec<StoredCell>,
    /// The files, those of earlier checkpoints that are still right included.
    pub files: Vec<FileEntry>,
}

/// A name and a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type as text, for people.
    pub r#type: String,
    /// The type as an Arrow IPC stream with a schema of one field, in hexadecimal digits.
    pub arrow: String,
}

/// A cell as it was declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCell {
    /// What [`Kind::as_str`] says.
    pub kind: String,
    /// Name and type of its values.
    #[serde(flatten)]
    pub value: Column,
    /// Type of its map keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_key: Option<Column>,
    /// Values are pickles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pickled: bool,
    /// The time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<StoredTtl>,
}

/// A time to live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTtl {
    /// How long, in milliseconds.
    pub duration_ms: u64,
    /// Reads renew it, too.
    pub on_read: bool,
    /// Expired entries are seen until something removes them.
    pub seen_expired: bool,
}

/// A file with rows of one cell, or with timers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where it is, relative to the manifests.
    pub path: String,
    /// The cell's name; absent for timers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// First and last key group of the range that it belongs to.
    pub groups: (u16, u16),
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its xxh3 hash of 128 bits, in hexadecimal digits.
    pub xxh3: String,
}

impl Column {
    /// Of a name and type.
    ///
    /// # Errors
    /// [`Code::InvariantBroken`] if Arrow cannot write the type.
    pub fn new(name: &str, data_type: &DataType) -> Result<Self> {
        let schema = Schema::new(vec![Field::new(name, data_type.clone(), true)]);
        let stream =
            StreamWriter::try_new(Vec::new(), &schema).and_then(StreamWriter::into_inner).map_err(crate::state::columns::broken)?;
        let mut arrow = String::with_capacity(stream.len() * 2);
        for byte in stream {
            let _ = write!(arrow, "{byte:02x}");
        }
        Ok(Column { name: name.into(), r#type: data_type.to_string(), arrow })
    }

    /// The type.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`] if it cannot be read.
    pub fn data_type(&self) -> Result<DataType> {
        let digits = |i: usize| self.arrow.get(i..i + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let stream: Option<Vec<u8>> = (0..self.arrow.len()).step_by(2).map(digits).collect();
        let read = stream.and_then(|stream| StreamReader::try_new(Cursor::new(stream), None).ok());
        let field = read.and_then(|reader| reader.schema().fields().first().cloned());
        field.map(|field| field.data_type().clone()).ok_or_else(|| damaged(format!("the type of `{}` cannot be read", self.name)))
    }
}

/// A checkpoint is damaged.
pub fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(Code::SnapshotDamaged, format!("the checkpoint is damaged: {what}"))
}

impl StoredCell {
    /// Of a declared cell.
    ///
    /// # Errors
    /// As [`Column::new`].
    pub fn new(cell: &Cell) -> Result<Self> {
        let ttl = cell.ttl.map(|ttl| StoredTtl {
            duration_ms: u64::try_from(ttl.duration.as_millis()).unwrap_or(u64::MAX),
            on_read: ttl.update == Update::OnReadAndWrite,
            seen_expired: ttl.visibility == Visibility::ReturnExpiredIfNotCleanedUp,
        });
        let map_key = cell.key.as_ref().map(|key| Column::new("map_key", key)).transpose()?;
        Ok(StoredCell {
            kind: cell.kind.as_str().into(),
            value: Column::new(&cell.name, &cell.value)?,
            map_key,
            pickled: cell.pickled,
            ttl,
        })
    }

    /// The declared cell.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`].
    pub fn cell(&self) -> Result<Cell> {
        let kind = Kind::parse(&self.kind).ok_or_else(|| damaged(format!("the cell `{}` has no known kind", self.value.name)))?;
        let ttl = self.ttl.as_ref().map(|ttl| Ttl {
            duration: Duration::from_millis(ttl.duration_ms),
            update: if ttl.on_read { Update::OnReadAndWrite } else { Update::OnCreateAndWrite },
            visibility: if ttl.seen_expired { Visibility::ReturnExpiredIfNotCleanedUp } else { Visibility::NeverReturnExpired },
            cleanup: Cleanup::default(),
        });
        let key = self.map_key.as_ref().map(Column::data_type).transpose()?;
        Ok(Cell { name: self.value.name.clone(), kind, value: self.value.data_type()?, key, ttl, pickled: self.pickled })
    }
}

impl Manifest {
    /// As it is written.
    ///
    /// # Errors
    /// [`Code::InvariantBroken`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(Code::InvariantBroken, "a manifest cannot be written").detail(error.to_string()))
    }

    /// From what was written.
    ///
    /// # Errors
    /// [`Code::SnapshotVersion`] for newer formats; [`Code::SnapshotDamaged`].
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| damaged(format_args!("its manifest is no JSON: {error}")))?;
        let version = |name: &str| json.get(name).and_then(serde_json::Value::as_u64);
        for (name, known) in [("format", FORMAT), ("key_encoding", KEY_VERSION)] {
            match version(name) {
                Some(found) if found > u64::from(known) => {
                    return Err(Error::new(
                        Code::SnapshotVersion,
                        format!("the checkpoint has `{name}` {found}; this build reads up to {known}"),
                    )
                    .hint("use the version of pillion that wrote it, or a later one"));
                }
                Some(found) if found > 0 => {}
                _ => return Err(damaged(format_args!("its manifest says no `{name}`"))),
            }
        }
        serde_json::from_value(json).map_err(|error| damaged(format_args!("its manifest: {error}")))
    }

    /// The cells as they were declared.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`].
    pub fn cells(&self) -> Result<Cells> {
        Cells::new(self.cells.iter().map(StoredCell::cell).collect::<Result<_>>()?)
    }

    /// Names and types of the key columns.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`].
    pub fn key_columns(&self) -> Result<Vec<(String, DataType)>> {
        self.key.iter().map(|column| Ok((column.name.clone(), column.data_type()?))).collect()
    }

    /// True if it covers a key group.
    pub fn covers(&self, group: u16) -> bool {
        self.groups.iter().any(|&(first, last)| (first..=last).contains(&group))
    }

    /// The size of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Sorted key groups as ranges.
pub fn ranges(groups: &[u16]) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &group in groups {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(group) => *last = group,
            _ => ranges.push((group, group)),
        }
    }
    ranges
}
