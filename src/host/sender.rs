//! The sending end of a session: checks batches, makes them ready for the engine, numbers them and passes them on.

use super::{allocate::Allocator, link::Link, session::Limits};
use crate::{
    batch::{Batch, sendable},
    error::{Code, Error, Result},
    session::{Input, check_batch},
};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use pillion_wire::ipc::Encoder;
use std::sync::Arc;

/// Numbers its inputs from 1.
pub(super) struct Sender {
    link: Link,
    limits: Limits,
    encoder: Encoder,
    /// Of the inputs beside the first.
    others: Vec<Encoder>,
    last_seq: u64,
    /// The workers are threads of this process, which need no frames.
    keeps_arrays: bool,
    allocator: Arc<Allocator>,
}

impl Sender {
    pub fn new(link: Link, limits: Limits, inputs: Vec<SchemaRef>, allocator: Arc<Allocator>) -> Result<Self> {
        let encoder = |schema: SchemaRef| {
            Encoder::new(schema).map_err(|error| Error::new(Code::UnsupportedType, format!("the input cannot be sent: {error}")))
        };
        let mut encoders = inputs.into_iter().map(encoder).collect::<Result<Vec<_>>>()?;
        let others = encoders.split_off(1.min(encoders.len()));
        let missing = || Error::new(Code::InvariantBroken, "a session has no input");
        let encoder = encoders.pop().ok_or_else(missing)?;
        let keeps_arrays = matches!(&link, Link::Embedded(session) if session.shares_process());
        Ok(Sender { link, limits, encoder, others, last_seq: 0, keeps_arrays, allocator })
    }

    /// The way to the engine.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The number of the next input.
    pub fn next_seq(&self) -> u64 {
        self.last_seq + 1
    }

    /// The engine has taken input `seq` by another way than [`Sender::push`].
    pub fn advance(&mut self, seq: u64) {
        self.last_seq = seq;
    }

    /// The schema of the input.
    pub fn schema(&self) -> &SchemaRef {
        self.encoder.schema()
    }

    /// The largest batch.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Refuses a batch of another schema, or with too many rows.
    pub fn check(&self, batch: &RecordBatch) -> Result<()> {
        self.check_for(self.schema(), batch)
    }

    fn check_for(&self, schema: &SchemaRef, batch: &RecordBatch) -> Result<()> {
        if batch.schema_ref().fields() != schema.fields() {
            return Err(Error::new(Code::SchemaMismatch, "the batch has another schema than the session was opened with")
                .hint("open a session per schema")
                .detail(format!("expected {schema:?}, got {:?}", batch.schema_ref())));
        }
        let Limits { max_batch_bytes, max_batch_rows } = self.limits;
        check_batch(0, batch.num_rows() as u64, max_batch_bytes, max_batch_rows)
    }

    /// The batch in the form that the engine takes.
    pub fn prepared(&mut self, batch: &RecordBatch) -> Result<Batch> {
        self.prepared_for(0, batch)
    }

    /// The batch of an input in the form that the engine takes.
    pub fn prepared_for(&mut self, input: u32, batch: &RecordBatch) -> Result<Batch> {
        let other = input.checked_sub(1).map(|at| at as usize);
        let missing = || Error::new(Code::Unsupported, format!("the session has no input {input}"));
        let encoder = match other {
            None => &self.encoder,
            Some(at) => self.others.get(at).ok_or_else(missing)?,
        };
        self.check_for(encoder.schema(), batch)?;
        let Limits { max_batch_bytes, max_batch_rows } = self.limits;
        if self.keeps_arrays {
            let batch = Batch::Arrow(batch.clone());
            check_batch(batch.bytes(), batch.rows(), max_batch_bytes, max_batch_rows)?;
            return Ok(batch);
        }
        let encoder = match other {
            None => &mut self.encoder,
            Some(at) => self.others.get_mut(at).ok_or_else(missing)?,
        };
        let frame =
            encoder.encode(batch).map_err(|error| Error::new(Code::UnsupportedType, format!("the batch cannot be sent: {error}")))?;
        check_batch(frame.bytes(), frame.rows, max_batch_bytes, max_batch_rows)?;
        let frame = self.allocator.placed(frame);
        check_batch(frame.bytes(), frame.rows, max_batch_bytes, max_batch_rows)?;
        Ok(sendable(frame)?.into())
    }

    /// Passes the next input on; gives its number.
    pub fn push(&mut self, input: Input) -> Result<u64> {
        let seq = self.last_seq + 1;
        match &self.link {
            Link::Embedded(session) => session.push(seq, input)?,
            Link::Remote(remote) => remote.push(seq, input)?,
        }
        self.last_seq = seq;
        Ok(seq)
    }

    /// No more input.
    pub fn finish(&self) -> Result<()> {
        match &self.link {
            Link::Embedded(session) => {
                session.finish();
                Ok(())
            }
            Link::Remote(remote) => remote.finish(self.last_seq + 1),
        }
    }
}
