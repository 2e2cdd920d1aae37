//! CSV with a header line; an empty value is null.

use std::fs::File;
use std::io::{BufReader, Write};

use arrow_array::RecordBatch;
use arrow_csv::reader::Format;
use arrow_csv::{ReaderBuilder, Writer, WriterBuilder};
use arrow_schema::{ArrowError, Schema};

use super::output::Sink;
use super::{Opened, ReadOptions, counted, file_size, in_utc, rewind, text_for_unknown};

pub(super) fn read(mut file: File, options: ReadOptions) -> Result<Opened, ArrowError> {
    let total = file_size(&file)?;
    let format = Format::default().with_header(true);
    let (schema, _) = format.infer_schema(BufReader::new(&file), Some(options.infer_rows))?;
    rewind(&mut file)?;
    let schema = text_for_unknown(&schema);
    let (file, size) = counted(file, total);
    let reader = ReaderBuilder::new(schema.clone()).with_header(true).with_batch_size(options.batch_rows).build(file)?;
    let batches = reader.map(|batch| batch.map_err(count_header));
    Ok(Opened { schema, size, has_batches: false, batches: Box::new(batches) })
}

/// Where a value does not fit its column, the reader tells the line without counting the header.
fn count_header(error: ArrowError) -> ArrowError {
    const PLACE: &str = " at line ";
    let ArrowError::ParseError(text) = error else { return error };
    let counted = text.split_once(PLACE).and_then(|(before, after)| {
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let line: u64 = after[..digits].parse().ok()?;
        Some(format!("{before}{PLACE}{}{}", line + 1, &after[digits..]))
    });
    ArrowError::ParseError(counted.unwrap_or(text))
}

pub(super) struct CsvSink<W: Write>(Writer<W>);

impl<W: Write> CsvSink<W> {
    /// # Errors
    /// The name and type of a column that CSV has no form for.
    pub(super) fn new(writer: W, schema: &Schema) -> Result<Self, ArrowError> {
        for field in schema.fields() {
            if field.data_type().is_nested() {
                let (name, kind) = (field.name(), field.data_type());
                return Err(ArrowError::NotYetImplemented(format!("the column `{name}` has the type `{kind}`, for which CSV has no form")));
            }
        }
        let mut writer = WriterBuilder::new().with_header(true).build(writer);
        // A file without rows has its header all the same.
        writer.write(&in_utc(&RecordBatch::new_empty(schema.clone().into()))?)?;
        Ok(Self(writer))
    }
}

impl<W: Write + Send> Sink for CsvSink<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.0.write(&in_utc(batch)?)
    }

    fn finish(self: Box<Self>) -> Result<(), ArrowError> {
        Ok(self.0.into_inner().flush()?)
    }
}
