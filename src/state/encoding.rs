//! The encoding of keys (`docs/state-format.md`): our own, so that it never changes under a stored key.
//!
//! Equal keys have equal bytes, whatever their layout (a dictionary is its values; -0 is 0; there is one NaN), and bytes order as keys do. The key group of a key is
//! `xxh3_64(bytes) % max_parallelism`.

use super::{
    MAX_PARALLELISM,
    columns::{self, Bytes},
    physical::{self, Key, Reader, Writer, damaged},
};
use crate::error::{Code, Error, Result};
use arrow_array::{Array, ArrayRef, BinaryArray};
use arrow_schema::DataType;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// The version of the encoding, which checkpoints record.
pub const KEY_VERSION: u32 = 1;

/// The longest encoded key, namespace or map key. Stores index them whole.
pub const MAX_KEY_BYTES: usize = 16 << 10;

/// Checks that keys of a type can be encoded.
///
/// # Errors
/// [`Code::KeyType`] for types that have no equality: maps, unions, and what contains them.
pub fn check_type(data_type: &DataType) -> Result<()> {
    physical::check_type(data_type, true)
}

/// The key group of an encoded key.
pub fn key_group(encoded: &[u8], max_parallelism: u16) -> u16 {
    group_of(xxh3_64(encoded), max_parallelism)
}

fn group_of(hash: u64, max_parallelism: u16) -> u16 {
    (hash % u64::from(max_parallelism.max(1))) as u16
}

/// Where key groups come from.
#[derive(Clone, Copy, Debug)]
pub enum Groups<'a> {
    /// Computed, for this max parallelism.
    Computed(u16),
    /// Given by the host, per row. Never recomputed: the host's hash is its own.
    Given(&'a [u16]),
}

/// Encodes key columns of given types, and decodes them.
#[derive(Clone, Debug)]
pub struct KeyEncoder {
    columns: Vec<(String, DataType)>,
    nulls: bool,
}

/// The distinct keys of a batch, in the order of their first appearance.
#[derive(Clone, Debug)]
pub struct Distinct {
    /// Encoded keys.
    pub keys: BinaryArray,
    /// Their key groups.
    pub groups: Vec<u16>,
    /// The row where each appears first.
    pub first: Vec<u32>,
    /// For each row of the batch the place of its key in `keys`.
    pub index: Vec<u32>,
}

impl KeyEncoder {
    /// For columns of these names and types. The names are for messages.
    ///
    /// # Errors
    /// [`Code::KeyType`] for types without equality.
    pub fn new(columns: Vec<(String, DataType)>, nulls: bool) -> Result<Self> {
        for (name, data_type) in &columns {
            check_type(data_type).map_err(|error| error.within(format_args!("the key column `{name}`")))?;
        }
        Ok(KeyEncoder { columns, nulls })
    }

    /// The columns' names and types.
    pub fn columns(&self) -> &[(String, DataType)] {
        &self.columns
    }

    /// The keys of all rows.
    ///
    /// # Errors
    /// [`Code::SchemaMismatch`] for columns of other types, [`Code::KeyNull`] for nulls where none may be, [`Code::StateTooLarge`] for keys beyond [`MAX_KEY_BYTES`].
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<BinaryArray> {
        self.check(columns)?;
        let rows = columns.first().map_or(0, |column| column.len());
        let writers = columns.iter().map(|column| Writer::new(column)).collect::<Result<Vec<_>>>()?;
        if let [writer] = &writers[..]
            && let (Some((values, 8)), DataType::Int64 | DataType::Timestamp(..)) = (writer.as_fixed(), &self.columns[0].1)
        {
            return long_keys(values, rows);
        }
        let mut encoded = Bytes::new(rows, rows * 9 * writers.len());
        for row in 0..rows {
            let start = encoded.bytes();
            for writer in &writers {
                writer.write::<Key>(row, encoded.open());
            }
            if encoded.bytes() - start > MAX_KEY_BYTES {
                return Err(Error::new(Code::StateTooLarge, format!("the key in row {row} has more than {MAX_KEY_BYTES} bytes")));
            }
            encoded.end()?;
        }
        Ok(encoded.finish())
    }

    /// The distinct keys, and which of them each row has.
    ///
    /// # Errors
    /// As [`Self::encode`]; [`Code::OptionsInvalid`] for an impossible max parallelism; [`Code::ProtocolViolation`] if the host gives one key two groups.
    pub fn distinct(&self, columns: &[ArrayRef], groups: Groups<'_>) -> Result<Distinct> {
        let encoded = self.encode(columns)?;
        let rows = encoded.len();
        match groups {
            Groups::Computed(max) if max == 0 || max > MAX_PARALLELISM => {
                return Err(Error::new(Code::OptionsInvalid, format!("the max parallelism is {max}, not between 1 and {MAX_PARALLELISM}")));
            }
            Groups::Given(given) if given.len() != rows => {
                return Err(Error::new(Code::ProtocolViolation, format!("there are {} key groups for {rows} rows", given.len())));
            }
            _ => {}
        }
        let (offsets, data) = (encoded.value_offsets(), encoded.value_data());
        let key = |row: u32| &data[offsets[row as usize] as usize..offsets[row as usize + 1] as usize];
        // The whole hash is kept: neither growing nor comparing looks at keys without need.
        let mut table: HashTable<(u64, u32)> = HashTable::with_capacity(rows / 8);
        let (mut first, mut index, mut of): (Vec<u32>, Vec<u32>, Vec<u16>) = (Vec::new(), Vec::with_capacity(rows), Vec::new());
        for row in 0..rows as u32 {
            let hash = match <&[u8; 9]>::try_from(key(row)) {
                // Of a width that is known here: 64-bit integers, the most frequent kind.
                Ok(nine) => xxh3_64(nine),
                Err(_) => xxh3_64(key(row)),
            };
            if table.len() == table.capacity() {
                // As many more as there would be if it went on like this: grown once, not again and again.
                let all = first.len() * rows / (row as usize).max(1);
                table.reserve((all + all / 8).min(rows).saturating_sub(table.len()).max(1), |(known, _)| *known);
            }
            let same = |(known, id): &(u64, u32)| *known == hash && key(first[*id as usize]) == key(row);
            let entry = table.entry(hash, same, |(known, _)| *known);
            let id = entry.or_insert((hash, first.len() as u32)).get().1;
            if id as usize == first.len() {
                first.push(row);
                of.push(match groups {
                    Groups::Computed(max) => group_of(hash, max),
                    Groups::Given(given) => given[row as usize],
                });
            } else if let Groups::Given(given) = groups
                && given[row as usize] != of[id as usize]
            {
                let message = format!(
                    "the key in row {row} has key group {}, in row {} it had {}",
                    given[row as usize], first[id as usize], of[id as usize]
                );
                return Err(Error::new(Code::ProtocolViolation, message));
            }
            index.push(id);
        }
        let mut keys = Bytes::new(first.len(), first.len() * data.len().checked_div(rows).unwrap_or(0));
        for &row in &first {
            keys.push(key(row))?;
        }
        Ok(Distinct { keys: keys.finish(), groups: of, first, index })
    }

    /// Typed columns of encoded keys.
    ///
    /// # Errors
    /// [`Code::StateDamaged`] if they are no keys of these types.
    pub fn decode(&self, keys: &BinaryArray) -> Result<Vec<ArrayRef>> {
        let mut readers = self.columns.iter().map(|(_, data_type)| Reader::new(data_type)).collect::<Result<Vec<_>>>()?;
        for row in 0..keys.len() {
            let mut input = keys.value(row);
            for reader in &mut readers {
                reader.read::<Key>(&mut input)?;
            }
            if !input.is_empty() {
                let types: Vec<String> = self.columns.iter().map(|(_, data_type)| data_type.to_string()).collect();
                return Err(Error::new(Code::StateDamaged, format!("a stored key is damaged, or not of type `{}`", types.join(", "))));
            }
        }
        readers.into_iter().map(Reader::finish).collect()
    }

    fn check(&self, columns: &[ArrayRef]) -> Result<()> {
        if columns.len() != self.columns.len() {
            return Err(Error::new(Code::SchemaMismatch, format!("there are {} key columns, not {}", columns.len(), self.columns.len())));
        }
        for (column, (name, data_type)) in columns.iter().zip(&self.columns) {
            if column.data_type() != data_type {
                return Err(Error::new(
                    Code::SchemaMismatch,
                    format!("the key column `{name}` has type `{}`, not `{data_type}`", column.data_type()),
                ));
            }
            if !self.nulls && column.logical_null_count() > 0 {
                let row = (0..column.len()).find(|&row| column.logical_nulls().is_some_and(|nulls| nulls.is_null(row))).unwrap_or(0);
                return Err(Error::new(Code::KeyNull, format!("the key column `{name}` is null in row {row}"))
                    .hint("filter such rows out, or give them a key of their own"));
            }
        }
        Ok(())
    }
}

/// Keys of one column of 64-bit integers, the most frequent kind.
fn long_keys(values: &[u8], rows: usize) -> Result<BinaryArray> {
    let mut encoded = Vec::with_capacity(rows * 9);
    for native in values.chunks_exact(8) {
        let mut long = [0; 8];
        long.copy_from_slice(native);
        let ordered = (i64::from_ne_bytes(long) as u64 ^ 1 << 63).to_be_bytes();
        let mut key = [physical::PRESENT; 9];
        key[1..].copy_from_slice(&ordered);
        encoded.extend_from_slice(&key);
    }
    columns::of_width(encoded, 9, rows)
}

/// Map keys: one column, whose nulls are keys like others.
///
/// # Errors
/// As [`KeyEncoder::encode`].
pub fn encode_map_keys(keys: &ArrayRef) -> Result<BinaryArray> {
    KeyEncoder::new(vec![("map key".into(), keys.data_type().clone())], true)?.encode(std::slice::from_ref(keys))
}

/// Whether keys of a type have beginnings: strings and binaries of any layout.
pub fn has_prefixes(data_type: &DataType) -> bool {
    match physical::plain(data_type) {
        Some(plain) => has_prefixes(&plain),
        None => matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary),
    }
}

/// What the bytes of all keys begin with that begin with this one, a string or binary: its bytes without the mark that ends it.
pub fn prefix_of(encoded: &[u8]) -> &[u8] {
    encoded.strip_suffix(&physical::END).unwrap_or(encoded)
}

/// Typed map keys.
///
/// # Errors
/// [`Code::StateDamaged`] if they are no keys of this type.
pub fn decode_map_keys(keys: &BinaryArray, data_type: &DataType) -> Result<ArrayRef> {
    let decoder = KeyEncoder { columns: vec![("map key".into(), data_type.clone())], nulls: true };
    decoder.decode(keys)?.pop().ok_or_else(|| damaged("map key", data_type))
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
