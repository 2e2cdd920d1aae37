//! Arrow batches to frames and back, over Arrow IPC.
//!
//! Encoding shares the array's buffers, it does not copy them; decoding gathers the body into one aligned buffer (one copy), validates it, and
//! hands out arrays over that buffer.

pub mod relocate;

use crate::frame::{Body, Frame};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::{
    MessageHeader, convert, reader,
    reader::RecordBatchDecoder,
    root_as_message,
    writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamEncoder},
};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use bytes::{Bytes, BytesMut};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Continuation marker and metadata length before each message of an IPC stream.
const PREFIX_BYTES: usize = 8;

/// How Arrow aligns buffers, in bytes.
const BODY_ALIGNMENT: usize = 64;

/// Encodes a schema as an IPC schema message (flatbuffer without the stream's length prefix).
pub fn schema_to_ipc(schema: &Schema) -> Bytes {
    let mut tracker = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options).ipc_message.into()
}

/// Decodes what [`schema_to_ipc`] made.
///
/// # Errors
/// [`ArrowError`] if the bytes are no IPC schema message.
pub fn schema_from_ipc(bytes: &[u8]) -> Result<SchemaRef, ArrowError> {
    let message = root_as_message(bytes).map_err(|error| ArrowError::IpcError(format!("not an ipc message: {error}")))?;
    let schema = message.header_as_schema().ok_or_else(|| ArrowError::IpcError("the message holds no schema".into()))?;
    convert::try_fb_to_schema(schema).map(Arc::new)
}

/// Turns the batches of one schema into frames.
pub struct Encoder {
    schema: SchemaRef,
    encoder: StreamEncoder,
    /// Frames carry their dictionaries in full, so the encoder must not remember them.
    has_dictionaries: bool,
}

impl Encoder {
    /// An encoder for batches of `schema`.
    ///
    /// # Errors
    /// [`ArrowError`] for a type that Arrow IPC cannot carry.
    pub fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let has_dictionaries = schema.fields().iter().any(|field| has_dictionary(field.data_type()));
        Ok(Encoder { encoder: fresh(&schema)?, schema, has_dictionaries })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Encodes one batch; its buffers are shared, not copied.
    ///
    /// # Errors
    /// [`ArrowError`] if the batch has another schema or cannot be encoded.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Frame, ArrowError> {
        if self.has_dictionaries {
            self.encoder = fresh(&self.schema)?;
        }
        let pieces = self.encoder.encode(batch)?;
        split(pieces, batch.num_rows() as u64)
    }
}

/// An encoder that has already said the schema, which travels once per stream.
fn fresh(schema: &SchemaRef) -> Result<StreamEncoder, ArrowError> {
    let options = IpcWriteOptions::try_new(64, false, arrow_ipc::MetadataVersion::V5)?;
    let mut encoder = StreamEncoder::try_new_with_options(schema, options)?;
    if schema.fields().iter().all(|field| !has_dictionary(field.data_type())) {
        encoder.encode(&RecordBatch::new_empty(schema.clone()))?;
    }
    Ok(encoder)
}

fn has_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => has_dictionary(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_dictionary(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| has_dictionary(field.data_type())),
        _ => false,
    }
}

/// Takes an IPC stream apart into headers and bodies.
fn split(pieces: Vec<Buffer>, rows: u64) -> Result<Frame, ArrowError> {
    let mut frame = Frame { rows, ..Default::default() };
    let mut body = Vec::new();
    let mut stream = Pieces { pieces: pieces.into_iter(), current: Buffer::default() };
    while let Some(prefix) = stream.gather(PREFIX_BYTES)? {
        let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        let header = stream.gather(length)?.ok_or_else(truncated)?;
        let message = root_as_message(&header).map_err(|error| ArrowError::IpcError(error.to_string()))?;
        let body_length = usize::try_from(message.bodyLength()).map_err(|_| truncated())?;
        let is_schema = message.header_type() == MessageHeader::Schema;
        stream.share(body_length, &mut body)?;
        if !is_schema {
            frame.body_lengths.push(body_length as u64);
            frame.headers.push(header);
        }
    }
    frame.body = Body::Inline(body);
    Ok(frame)
}

fn truncated() -> ArrowError {
    ArrowError::IpcError("the encoded batch ends early".into())
}

/// A cursor over the buffers of an encoded stream.
struct Pieces {
    pieces: std::vec::IntoIter<Buffer>,
    current: Buffer,
}

impl Pieces {
    /// Copies the next `length` bytes together; `None` at the end of the stream.
    fn gather(&mut self, length: usize) -> Result<Option<Bytes>, ArrowError> {
        let mut out = BytesMut::with_capacity(length);
        while out.len() < length {
            if self.current.is_empty() {
                match self.pieces.next() {
                    Some(piece) => self.current = piece,
                    None if out.is_empty() => return Ok(None),
                    None => return Err(truncated()),
                }
                continue;
            }
            let n = self.current.len().min(length - out.len());
            out.extend_from_slice(&self.current[..n]);
            self.current = self.current.slice(n);
        }
        Ok(Some(out.freeze()))
    }

    /// Hands out the next `length` bytes as they lie.
    fn share(&mut self, mut length: usize, out: &mut Vec<Bytes>) -> Result<(), ArrowError> {
        while length > 0 {
            if self.current.is_empty() {
                self.current = self.pieces.next().ok_or_else(truncated)?;
                continue;
            }
            let n = self.current.len().min(length);
            out.push(Bytes::from_owner(self.current.slice_with_length(0, n)));
            self.current = self.current.slice(n);
            length -= n;
        }
        Ok(())
    }
}

/// Turns the frames of one schema back into batches.
pub struct Decoder {
    schema: SchemaRef,
}

impl Decoder {
    /// A decoder for frames of `schema`.
    ///
    /// # Errors
    /// [`ArrowError`] for a type that Arrow IPC cannot carry.
    pub fn new(schema: &Schema) -> Result<Self, ArrowError> {
        // Dictionaries are found by ids, which a schema has only after it was on the wire.
        Ok(Decoder { schema: schema_from_ipc(&schema_to_ipc(schema))? })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes a frame into a batch over one aligned buffer.
    ///
    /// Everything is validated: offsets, UTF-8, lengths. The frame may come from an untrusted peer.
    ///
    /// # Errors
    /// [`ArrowError`] if headers and body do not describe a batch of this schema.
    pub fn decode(&self, frame: &Frame) -> Result<RecordBatch, ArrowError> {
        self.decode_body(frame, gather(frame)?)
    }

    /// As [`Decoder::decode`], but arrays lie in the frame's slot, if it has one, and keep that in use. Only for whoever trusts the owner of the arena: what it
    /// changes after the validation is not noticed.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_in_place(&self, frame: &Frame) -> Result<RecordBatch, ArrowError> {
        let body = match &frame.body {
            Body::Slot(slot) => checked(frame, slot.view()?)?,
            Body::Inline(_) => gather(frame)?,
        };
        self.decode_body(frame, body)
    }

    fn decode_body(&self, frame: &Frame, body: Buffer) -> Result<RecordBatch, ArrowError> {
        // `check` refuses what the reader is known to panic on; what it may still assert about damaged input must not take its caller down.
        catch_unwind(AssertUnwindSafe(|| decode_parts(frame, &self.schema, &body)))
            .unwrap_or_else(|_| Err(ArrowError::IpcError("the batch is damaged".into())))
    }
}

fn decode_parts(frame: &Frame, schema: &SchemaRef, body: &Buffer) -> Result<RecordBatch, ArrowError> {
    let mut dictionaries: HashMap<i64, ArrayRef> = HashMap::new();
    let mut at = 0usize;
    let mut batch = None;
    for (header, &length) in frame.headers.iter().zip(&frame.body_lengths) {
        let length = usize::try_from(length).map_err(|_| truncated())?;
        let part = body.slice_with_length(at, length);
        at += length;
        let message = root_as_message(header).map_err(|error| ArrowError::IpcError(format!("not an ipc message: {error}")))?;
        let version = message.version();
        match message.header_type() {
            MessageHeader::DictionaryBatch => {
                let dictionary = message.header_as_dictionary_batch().ok_or_else(|| wrong("dictionary batch"))?;
                check(dictionary.data().ok_or_else(|| wrong("dictionary data"))?, length)?;
                reader::read_dictionary(&part, dictionary, schema, &mut dictionaries, &version)?;
            }
            MessageHeader::RecordBatch if batch.is_none() => {
                let record_batch = message.header_as_record_batch().ok_or_else(|| wrong("record batch"))?;
                if u64::try_from(record_batch.length()) != Ok(frame.rows) {
                    return Err(ArrowError::IpcError("the frame's row count differs from its batch's".into()));
                }
                check(record_batch, length)?;
                let decoder = RecordBatchDecoder::try_new(&part, record_batch, schema.clone(), &dictionaries, &version)?;
                batch = Some(decoder.read_record_batch()?);
            }
            _ => return Err(ArrowError::IpcError("a frame holds dictionaries and one record batch only".into())),
        }
    }
    batch.ok_or_else(|| ArrowError::IpcError("the frame holds no record batch".into()))
}

/// Refuses buffers outside the body, and compression, by which a small body could ask for any amount of memory.
fn check(batch: arrow_ipc::RecordBatch, body_length: usize) -> Result<(), ArrowError> {
    if batch.compression().is_some() {
        return Err(ArrowError::IpcError("a frame is not compressed".into()));
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let end =
            u64::try_from(buffer.offset()).ok().zip(u64::try_from(buffer.length()).ok()).and_then(|(at, length)| at.checked_add(length));
        if end.is_none_or(|end| end > body_length as u64) {
            return Err(ArrowError::IpcError("a buffer lies outside the body".into()));
        }
    }
    Ok(())
}

fn wrong(what: &str) -> ArrowError {
    ArrowError::IpcError(format!("the header holds no {what}"))
}

/// Copies the body into one 64-byte aligned buffer; one piece of memory that is aligned is taken as it is.
fn gather(frame: &Frame) -> Result<Buffer, ArrowError> {
    let pieces = match &frame.body {
        Body::Slot(slot) => return checked(frame, slot.copy()?),
        Body::Inline(pieces) => pieces,
    };
    if let [only] = pieces.as_slice()
        && only.as_ptr().addr().is_multiple_of(BODY_ALIGNMENT)
    {
        return checked(frame, only.clone().into());
    }
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut body = MutableBuffer::with_capacity(length);
    for piece in pieces {
        body.extend_from_slice(piece);
    }
    checked(frame, body.into())
}

fn checked(frame: &Frame, body: Buffer) -> Result<Buffer, ArrowError> {
    if body.len() as u64 != frame.body_bytes() || frame.headers.len() != frame.body_lengths.len() {
        return Err(ArrowError::IpcError("the body of the frame has another length than announced".into()));
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
