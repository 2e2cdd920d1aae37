//! Newline-delimited JSON: one object per line.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_json::reader::infer_json_schema_from_iterator;
use arrow_json::writer::{LineDelimited, Writer};
use arrow_json::{ReaderBuilder, WriterBuilder};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::output::Sink;
use super::{Opened, ReadOptions, counted, file_size, in_utc, rewind, text_for_unknown};

pub(super) fn read(mut file: File, options: ReadOptions) -> Result<Opened, ArrowError> {
    let total = file_size(&file)?;
    let mut peek = BufReader::new(&file);
    if first_byte(&mut peek)? == Some(b'[') {
        let text = "it is one JSON array, but one object per line is expected (`jq -c '.[]'` makes that)";
        return Err(ArrowError::JsonError(text.into()));
    }
    let schema = infer_json_schema_from_iterator(values(peek, options.infer_rows))?;
    rewind(&mut file)?;
    let schema = text_for_unknown(&in_order(&schema, BufReader::new(&file), options.infer_rows)?);
    rewind(&mut file)?;
    let (file, size) = counted(file, total);
    let lines = Lines { reader: BufReader::new(file), schema: schema.clone(), batch_rows: options.batch_rows, line: 0 };
    Ok(Opened { schema, size, has_batches: false, batches: Box::new(lines) })
}

/// The first byte that is no white space, which stays unread.
fn first_byte(reader: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => {
                let byte = buffer[at];
                reader.consume(at);
                return Ok(Some(byte));
            }
            None => {
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
}

/// The first lines that are not blank, parsed; an error names its line.
fn values(lines: impl BufRead, rows: usize) -> impl Iterator<Item = Result<Value, ArrowError>> {
    let parse = |(index, line): (usize, std::io::Result<String>)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(serde_json::from_str(&line).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            ArrowError::JsonError(format!("line {}, column {}: {reason}", index + 1, error.column()))
        })),
        Err(error) => Some(Err(error.into())),
    };
    lines.lines().enumerate().filter_map(parse).take(rows)
}

/// Inference forgets the order of columns: here they come as in the lines, and the fields of nested objects by name.
fn in_order(schema: &Schema, lines: impl BufRead, rows: usize) -> Result<Schema, ArrowError> {
    let mut fields: Vec<Field> = Vec::new();
    let mut seen = HashSet::new();
    for line in lines.lines().take(rows) {
        if seen.len() == schema.fields().len() {
            break;
        }
        // What is no object was refused by inference; blank lines are allowed.
        let Ok(Names(names)) = serde_json::from_str(&line?) else { continue };
        for name in names {
            if let Ok(field) = schema.field_with_name(&name)
                && seen.insert(name)
            {
                fields.push(field.clone().with_data_type(sorted(field.data_type())));
            }
        }
    }
    Ok(Schema::new(fields))
}

/// A type whose objects have their fields in the order of their names.
fn sorted(kind: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(Field::clone(field).with_data_type(sorted(field.data_type())));
    match kind {
        DataType::Struct(fields) => {
            let mut fields: Vec<FieldRef> = fields.iter().map(inner).collect();
            fields.sort_by(|one, other| one.name().cmp(other.name()));
            DataType::Struct(fields.into())
        }
        DataType::List(item) => DataType::List(inner(item)),
        other => other.clone(),
    }
}

/// The names in a JSON object, in order.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Object)
    }
}

/// Decodes batches of whole lines, so that an error can name its line.
struct Lines<R> {
    reader: R,
    schema: SchemaRef,
    batch_rows: usize,
    /// Lines read before the current batch.
    line: u64,
}

impl<R: BufRead> Lines<R> {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        loop {
            let mut text = Vec::new();
            let mut lines = 0;
            while lines < self.batch_rows && self.reader.read_until(b'\n', &mut text)? > 0 {
                lines += 1;
            }
            if lines == 0 {
                return Ok(None);
            }
            let batch = decode(&self.schema, &text, lines).map_err(|error| self.locate(&text, error))?;
            self.line += lines as u64;
            // Nothing but empty lines: go on.
            if let Some(batch) = batch {
                return Ok(Some(batch));
            }
        }
    }

    /// Finds the line of `text` that cannot be decoded, and names it.
    fn locate(&self, text: &[u8], error: ArrowError) -> ArrowError {
        let found = text.split_inclusive(|byte| *byte == b'\n').enumerate().find_map(|(index, line)| {
            let error = decode(&self.schema, line, 1).err()?;
            Some((index, error))
        });
        let Some((index, error)) = found else { return error };
        let reason = match &error {
            ArrowError::JsonError(text) => text.clone(),
            other => other.to_string(),
        };
        ArrowError::JsonError(format!("line {}: {reason}", self.line + index as u64 + 1))
    }
}

/// Decodes whole lines. A column that was not seen during inference is an error: it would be lost.
fn decode(schema: &SchemaRef, text: &[u8], rows: usize) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = ReaderBuilder::new(schema.clone()).with_strict_mode(true).with_batch_size(rows).build_decoder()?;
    let read = decoder.decode(text)?;
    let batch = decoder.flush()?;
    if text[read..].iter().any(|byte| !byte.is_ascii_whitespace()) {
        return Err(ArrowError::JsonError("a line holds more than one object".into()));
    }
    Ok(batch)
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

pub(super) struct JsonSink<W: Write>(Writer<W, LineDelimited>);

impl<W: Write> JsonSink<W> {
    pub(super) fn new(writer: W) -> Self {
        // Every line has every column, so that reading it back finds them all.
        Self(WriterBuilder::new().with_explicit_nulls(true).build(writer))
    }
}

impl<W: Write + Send> Sink for JsonSink<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.0.write(&in_utc(batch)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), ArrowError> {
        self.0.finish()?;
        Ok(self.0.into_inner().flush()?)
    }
}
