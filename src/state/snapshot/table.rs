//! Rows of a snapshot as typed tables, and back: what the files of a checkpoint hold.

use super::manifest::damaged;
use crate::{
    error::{Code, Error, Result},
    state::{
        Cell, CellId, Kind, Part, Rows,
        codec::{self, Nulls},
        columns::broken,
        encoding::{self, KeyEncoder},
    },
    timer::Domain,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, RecordBatch, StringArray, TimestampMillisecondArray, UInt16Array,
    builder::BinaryBuilder,
    cast::AsArray,
    types::{TimestampMillisecondType, UInt16Type},
};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// What a file's columns are made from.
#[derive(Clone, Debug)]
pub struct Layout {
    keys: KeyEncoder,
    /// The cell and its place; `None` for timers.
    pub cell: Option<(CellId, Cell)>,
}

/// A type as it is stored: dictionaries as their values, which files of several batches could not have otherwise.
fn stored_type(data_type: &DataType) -> DataType {
    let field = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(stored_type(field.data_type())));
    match data_type {
        DataType::Dictionary(_, value) => stored_type(value),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        DataType::List(element) => DataType::List(field(element)),
        DataType::LargeList(element) => DataType::LargeList(field(element)),
        DataType::FixedSizeList(element, size) => DataType::FixedSizeList(field(element), *size),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

fn cast(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type { Ok(Arc::clone(array)) } else { arrow_cast::cast(array, data_type).map_err(broken) }
}

fn domain_name(domain: Domain) -> &'static str {
    match domain {
        Domain::EventTime => "event_time",
        Domain::ProcessingTime => "processing_time",
    }
}

impl Layout {
    /// Of a cell, or of timers, with keys of these columns.
    pub fn new(keys: KeyEncoder, cell: Option<(CellId, Cell)>) -> Self {
        Layout { keys, cell }
    }

    fn is_broadcast(&self) -> bool {
        self.cell.as_ref().is_some_and(|(_, cell)| cell.kind == Kind::Broadcast)
    }

    /// The columns: key group, `key.<name>` for each key column, namespace, and what the part has.
    pub fn schema(&self) -> SchemaRef {
        let milliseconds = || DataType::Timestamp(TimeUnit::Millisecond, None);
        let mut fields = vec![Field::new("key_group", DataType::UInt16, false)];
        if !self.is_broadcast() {
            fields.extend(
                self.keys.columns().iter().map(|(name, data_type)| Field::new(format!("key.{name}"), stored_type(data_type), true)),
            );
            fields.push(Field::new("namespace", DataType::Binary, false));
        }
        match &self.cell {
            Some((_, cell)) => {
                fields.extend(cell.key.iter().map(|key| Field::new("map_key", stored_type(key), true)));
                fields.push(Field::new("value", stored_type(&cell.value), true));
                if cell.ttl.is_some() {
                    fields.push(Field::new("last_access", milliseconds(), false));
                }
            }
            None => fields.extend([
                Field::new("domain", DataType::Utf8, false),
                Field::new("name", DataType::Utf8, false),
                Field::new("timestamp", milliseconds(), false),
                Field::new("single", DataType::Boolean, false),
            ]),
        }
        Arc::new(Schema::new(fields))
    }

    /// Rows as a table.
    ///
    /// # Errors
    /// [`Code::StateDamaged`] if stored bytes are not of their types.
    pub fn to_batch(&self, rows: &Rows) -> Result<RecordBatch> {
        let schema = self.schema();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt16Array::from_value(rows.group, rows.keys.len()))];
        if !self.is_broadcast() {
            columns.extend(self.keys.decode(&rows.keys)?);
            columns.push(Arc::new(rows.namespaces.clone()));
        }
        match (&rows.part, &self.cell) {
            (Part::Entries { map_keys, values, access, .. }, Some((_, cell))) => {
                if let Some(key) = &cell.key {
                    columns.push(encoding::decode_map_keys(map_keys, key)?);
                }
                columns.push(codec::decode(cell, values)?);
                if cell.ttl.is_some() {
                    columns.push(Arc::new(TimestampMillisecondArray::from(access.clone())));
                }
            }
            (Part::Timers { domains, names, timestamps, single }, None) => {
                columns.push(Arc::new(StringArray::from_iter_values(domains.iter().map(|&domain| domain_name(domain)))));
                columns.push(Arc::new(names.clone()));
                columns.push(Arc::new(TimestampMillisecondArray::from(timestamps.clone())));
                columns.push(Arc::new(BooleanArray::from(single.clone())));
            }
            _ => return Err(Error::new(Code::InvariantBroken, "a view gave rows of another part")),
        }
        let stored =
            columns.iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(schema, stored).map_err(broken)
    }

    /// A table as rows, one piece per key group. `now_ms` is the last access where the file has none and the cell wants one.
    ///
    /// # Errors
    /// [`Code::SnapshotDamaged`] if the columns are not those of [`Self::schema`], [`Code::StateTypeChanged`] if the values do not fit the cell.
    pub fn rows(&self, batch: &RecordBatch, now_ms: i64) -> Result<Vec<Rows>> {
        let missing = |name: &str| damaged(format_args!("a file has no column `{name}` of the expected type"));
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| missing(name));
        let groups = column("key_group")?.as_primitive_opt::<UInt16Type>().ok_or_else(|| missing("key_group"))?;
        let (keys, namespaces) = if self.is_broadcast() {
            (empty(batch.num_rows()), empty(batch.num_rows()))
        } else {
            let typed = |(name, data_type): &(String, DataType)| cast(column(&format!("key.{name}"))?, data_type);
            let typed = self.keys.columns().iter().map(typed).collect::<Result<Vec<_>>>()?;
            let namespaces = column("namespace")?.as_binary_opt::<i32>().ok_or_else(|| missing("namespace"))?;
            (self.keys.encode(&typed)?, namespaces.clone())
        };
        let part = match &self.cell {
            Some((id, cell)) => {
                let map_keys = match &cell.key {
                    Some(key) => encoding::encode_map_keys(&cast(column("map_key")?, key)?)?,
                    None => empty(batch.num_rows()),
                };
                let values = codec::encode(cell, &cast(column("value")?, &cell.value)?, Nulls::Stored)?;
                let access = match (cell.ttl.is_some(), batch.column_by_name("last_access")) {
                    (false, _) => vec![i64::MIN; batch.num_rows()],
                    (true, None) => vec![now_ms; batch.num_rows()],
                    (true, Some(access)) => {
                        access.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(|| missing("last_access"))?.values().to_vec()
                    }
                };
                Part::Entries { cell: *id, map_keys, values, access }
            }
            None => timers(batch).ok_or_else(|| missing("domain`, `name`, `timestamp` or `single"))?,
        };
        let whole = Rows { group: 0, keys, namespaces, part };
        Ok(runs(groups.values()).into_iter().map(|(group, start, len)| slice(&whole, group, start, len)).collect())
    }
}

fn timers(batch: &RecordBatch) -> Option<Part> {
    let domain =
        |name: Option<&str>| [Domain::EventTime, Domain::ProcessingTime].into_iter().find(|domain| Some(domain_name(*domain)) == name);
    let domains = batch.column_by_name("domain")?.as_string_opt::<i32>()?.iter().map(domain).collect::<Option<Vec<_>>>()?;
    let names = batch.column_by_name("name")?.as_string_opt::<i32>()?.clone();
    let timestamps = batch.column_by_name("timestamp")?.as_primitive_opt::<TimestampMillisecondType>()?.values().to_vec();
    let single = batch.column_by_name("single")?.as_boolean_opt()?.values().iter().collect();
    Some(Part::Timers { domains, names, timestamps, single })
}

fn empty(rows: usize) -> BinaryArray {
    let mut builder = BinaryBuilder::with_capacity(rows, 0);
    for _ in 0..rows {
        builder.append_value([]);
    }
    builder.finish()
}

/// Neighbours of one group: group, start and length.
fn runs(groups: &[u16]) -> Vec<(u16, usize, usize)> {
    let mut runs: Vec<(u16, usize, usize)> = Vec::new();
    for (row, &group) in groups.iter().enumerate() {
        match runs.last_mut() {
            Some((last, _, len)) if *last == group => *len += 1,
            _ => runs.push((group, row, 1)),
        }
    }
    runs
}

fn slice(rows: &Rows, group: u16, start: usize, len: usize) -> Rows {
    let part = match &rows.part {
        Part::Entries { cell, map_keys, values, access } => Part::Entries {
            cell: *cell,
            map_keys: map_keys.slice(start, len),
            values: values.slice(start, len),
            access: access[start..start + len].to_vec(),
        },
        Part::Timers { domains, names, timestamps, single } => Part::Timers {
            domains: domains[start..start + len].to_vec(),
            names: names.slice(start, len),
            timestamps: timestamps[start..start + len].to_vec(),
            single: single[start..start + len].to_vec(),
        },
    };
    Rows { group, keys: rows.keys.slice(start, len), namespaces: rows.namespaces.slice(start, len), part }
}
