//! Parquet, snappy-compressed when written.

use std::fs::File;
use std::io::Write;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::output::Sink;
use super::{Opened, ReadOptions, Size};

pub(super) fn read(file: File, options: ReadOptions) -> Result<Opened, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let reader = builder.with_batch_size(options.batch_rows).build()?;
    Ok(Opened { schema: reader.schema(), size: Size::Rows(rows), has_batches: false, batches: Box::new(reader) })
}

pub(super) struct ParquetSink<W: Write + Send>(ArrowWriter<W>);

impl<W: Write + Send> ParquetSink<W> {
    pub(super) fn new(writer: W, schema: SchemaRef) -> Result<Self, ArrowError> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        Ok(Self(ArrowWriter::try_new(writer, schema, Some(properties))?))
    }
}

impl<W: Write + Send> Sink for ParquetSink<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        Ok(self.0.write(batch)?)
    }

    fn finish(self: Box<Self>) -> Result<(), ArrowError> {
        self.0.close()?;
        Ok(())
    }
}
