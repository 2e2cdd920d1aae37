//! A batch on its way through the engine.
//!
//! What crosses a wire is a [`Frame`]; what never leaves the process, between a host that links the engine and a worker of thread mode, stays the
//! arrays that the host made. Session and pool pass on either without looking inside.

use crate::error::{Code, Error, Result};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, cast::AsArray};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, TimeUnit};
use pillion_wire::{frame::Frame, ipc::Encoder};

/// One batch, in the form in which it arrived.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Encoded.
    Frame(Frame),
    /// As the host or the function made it.
    Arrow(RecordBatch),
}

impl Batch {
    /// What it costs in credit: bytes of headers and body, or of the arrays.
    pub fn bytes(&self) -> u64 {
        match self {
            Batch::Frame(frame) => frame.bytes(),
            // An array that cannot tell the size of its slice counts with all that it keeps alive.
            Batch::Arrow(batch) => batch
                .columns()
                .iter()
                .map(|column| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_buffer_memory_size()) as u64)
                .sum(),
        }
    }

    /// As it crosses a wire. `encoder` is kept from batch to batch; a batch of another schema makes a new one.
    ///
    /// # Errors
    /// [`Code::UnsupportedType`] for a type that Arrow IPC cannot carry; [`Code::BatchTooLarge`] for headers that fit in no message.
    pub fn into_frame(self, encoder: &mut Option<Encoder>) -> Result<Frame> {
        let batch = match self {
            Batch::Frame(frame) => return Ok(frame),
            Batch::Arrow(batch) => batch,
        };
        let unsupported = |error| Error::new(Code::UnsupportedType, format!("the batch cannot be sent: {error}"));
        let fitting = encoder.take_if(|encoder| encoder.schema().fields() == batch.schema_ref().fields());
        let encoder = match fitting {
            Some(fitting) => encoder.insert(fitting),
            None => encoder.insert(Encoder::new(batch.schema()).map_err(unsupported)?),
        };
        sendable(encoder.encode(&batch).map_err(unsupported)?)
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        match self {
            Batch::Frame(frame) => frame.rows,
            Batch::Arrow(batch) => batch.num_rows() as u64,
        }
    }
}

/// The frame, unless its headers fit in no message.
///
/// # Errors
/// [`Code::BatchTooLarge`].
pub fn sendable(frame: Frame) -> Result<Frame> {
    frame.sendable().map_err(|error| {
        Error::new(Code::BatchTooLarge, format!("the batch cannot be sent: {error}"))
            .hint("send fewer columns: each takes room in the header")
    })
}

/// Event times in milliseconds since the epoch, null where a row has none: of timestamps, dates, or integers, which are milliseconds already.
///
/// # Errors
/// [`Code::SchemaMismatch`] for a column of another type, or a time that does not fit.
pub fn event_times(name: &str, column: &ArrayRef) -> Result<Int64Array> {
    let unfit = |error: ArrowError| {
        Error::new(Code::SchemaMismatch, format!("a time in column `{name}` does not fit milliseconds since the epoch"))
            .detail(error.to_string())
    };
    let millis = match column.data_type() {
        integer if integer.is_integer() => column.clone(),
        DataType::Timestamp(_, zone) => cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone())).map_err(unfit)?,
        DataType::Date32 | DataType::Date64 => cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(unfit)?,
        other => {
            return Err(Error::new(Code::SchemaMismatch, format!("column `{name}` of type `{other}` cannot be the event time"))
                .hint("give a timestamp, a date, or integer milliseconds since the epoch"));
        }
    };
    Ok(cast(&millis, &DataType::Int64).map_err(unfit)?.as_primitive().clone())
}

impl From<Frame> for Batch {
    fn from(frame: Frame) -> Self {
        Batch::Frame(frame)
    }
}

impl From<RecordBatch> for Batch {
    fn from(batch: RecordBatch) -> Self {
        Batch::Arrow(batch)
    }
}
