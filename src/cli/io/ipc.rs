//! Arrow IPC: files with a footer, and streams.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader, read_footer_length};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_ipc::{root_as_footer, root_as_message};
use arrow_schema::{ArrowError, Schema};

use super::output::Sink;
use super::recast::without_dictionaries;
use super::{Opened, Size, counted, file_size, rewind};

const MAGIC: &[u8] = b"ARROW1";
/// Bytes at the end of an IPC file: the footer's length and the magic.
const TRAILER: i64 = 10;
/// Precedes a message's length since format version 5.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Reads an IPC file; a stream in a file is recognized too, since both go by the same extension in practice.
pub(super) fn read_file(mut file: File) -> Result<Opened, ArrowError> {
    let mut start = Vec::new();
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut start)?;
    rewind(&mut file)?;
    let total = file_size(&file)?;
    if start != MAGIC {
        let (file, size) = counted(file, total);
        return read_stream(file, size);
    }
    // Without a readable count there is still the file itself to read, whose reader says what is wrong.
    let size = count_rows(&mut file).map_or(Size::Unknown, Size::Rows);
    rewind(&mut file)?;
    let reader = FileReader::try_new_buffered(file, None)?;
    Ok(Opened { schema: reader.schema(), size, has_batches: true, batches: Box::new(reader) })
}

/// Reads an IPC stream, whose batches come as they are written.
pub(super) fn read_stream(stream: impl Read + Send + 'static, size: Size) -> Result<Opened, ArrowError> {
    let reader = StreamReader::try_new(BufReader::new(stream), None)?;
    Ok(Opened { schema: reader.schema(), size, has_batches: true, batches: Box::new(reader) })
}

/// Rows in the file, from the headers of its batches alone.
fn count_rows(file: &mut File) -> Option<u64> {
    let mut trailer = [0; TRAILER as usize];
    let end = file.seek(SeekFrom::End(-TRAILER)).ok()?;
    file.read_exact(&mut trailer).ok()?;
    let length = read_footer_length(trailer).ok()? as u64;
    file.seek(SeekFrom::Start(end.checked_sub(length)?)).ok()?;
    let footer = read_bytes(file, length)?;
    let blocks = root_as_footer(&footer).ok()?.recordBatches()?;
    let mut rows = 0;
    for block in blocks {
        file.seek(SeekFrom::Start(u64::try_from(block.offset()).ok()?)).ok()?;
        let header = read_bytes(file, u64::try_from(block.metaDataLength()).ok()?)?;
        let prefix = if header.starts_with(&CONTINUATION) { 8 } else { 4 };
        let message = root_as_message(header.get(prefix..)?).ok()?;
        rows += u64::try_from(message.header_as_record_batch()?.length()).ok()?;
    }
    Some(rows)
}

/// Exactly `length` bytes; the file's size bounds what is allocated.
fn read_bytes(file: &mut File, length: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(length).read_to_end(&mut bytes).ok()?;
    (read as u64 == length).then_some(bytes)
}

pub(super) struct FileSink<W: Write>(FileWriter<W>);

impl<W: Write> FileSink<W> {
    pub(super) fn new(writer: W, schema: &Schema) -> Result<Self, ArrowError> {
        let plain = without_dictionaries(&RecordBatch::new_empty(schema.clone().into()))?;
        Ok(Self(FileWriter::try_new(writer, plain.schema_ref())?))
    }
}

impl<W: Write + Send> Sink for FileSink<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.0.write(&without_dictionaries(batch)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), ArrowError> {
        self.0.finish()?;
        Ok(self.0.into_inner()?.flush()?)
    }
}

pub(super) struct StreamSink<W: Write>(StreamWriter<W>);

impl<W: Write> StreamSink<W> {
    pub(super) fn new(writer: W, schema: &Schema) -> Result<Self, ArrowError> {
        let mut writer = StreamWriter::try_new(writer, schema)?;
        // Who reads the other end learns the schema now, not with the first batch.
        writer.flush()?;
        Ok(Self(writer))
    }
}

impl<W: Write + Send> Sink for StreamSink<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.0.write(batch)?;
        self.0.flush()
    }

    fn finish(mut self: Box<Self>) -> Result<(), ArrowError> {
        self.0.finish()?;
        Ok(self.0.into_inner()?.flush()?)
    }
}
