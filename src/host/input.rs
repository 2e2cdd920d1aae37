//! The sending half of a session.

use super::{allocate::Allocator, coalesce::Coalescer, link::Shared, sender::Sender};
use crate::{
    error::{Code, Error, Result},
    session::{Input, credit::Amount},
};
use arrow_array::RecordBatch;
use pillion_wire::proto;
use std::sync::Arc;

/// The sending half of a session.
pub struct SessionInput {
    pub(super) shared: Arc<Shared>,
    pub(super) way: Way,
    pub(super) finished: bool,
}

/// How inputs go to the engine.
pub(super) enum Way {
    Straight(Box<Sender>),
    Coalesced(Arc<Coalescer>),
}

impl SessionInput {
    /// Sends a batch; waits while the engine has no room, so that a slow function slows its producer. Gives the sequence number of the batch.
    /// The batch's buffers are shared, not copied. Cancelling the call sends nothing.
    ///
    /// # Errors
    /// [`Code::SchemaMismatch`], [`Code::BatchTooLarge`]: nothing was sent and the session goes on. [`Code::SessionClosed`] after the end;
    /// what ended the session is said by [`SessionOutput::recv`](super::SessionOutput::recv).
    pub async fn send(&mut self, batch: RecordBatch) -> Result<u64> {
        if self.finished {
            return Err(Error::new(Code::SessionClosed, "the input of the session was finished"));
        }
        let sender = match &mut self.way {
            Way::Straight(sender) => sender,
            Way::Coalesced(coalescer) => return coalescer.send(batch).await,
        };
        let batch = sender.prepared(&batch)?;
        if !self.shared.admitted(Amount::of(batch.bytes(), batch.rows())).await {
            return Err(Error::new(Code::SessionClosed, "the session is over"));
        }
        sender.push(Input::Batch(batch))
    }

    /// Sends a watermark, in milliseconds since the epoch. It comes out behind the results of everything sent before it.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn watermark(&mut self, timestamp_ms: i64) -> Result<u64> {
        self.watermark_of(0, timestamp_ms).await
    }

    /// Sends a batch to another input of a keyed session than the first, see [`KeyedOptions::more_inputs`](super::KeyedOptions). As [`SessionInput::send`].
    ///
    /// # Errors
    /// As [`SessionInput::send`]; [`Code::Unsupported`] if the session has no such input.
    pub async fn send_to(&mut self, input: u32, batch: RecordBatch) -> Result<u64> {
        if input == 0 {
            return self.send(batch).await;
        }
        let closed = || Error::new(Code::SessionClosed, "the session is over");
        let batch = self.direct()?.prepared_for(input, &batch)?;
        if self.finished || !self.shared.admitted(Amount::of(batch.bytes(), batch.rows())).await {
            return Err(closed());
        }
        self.direct()?.push(Input::Other(input, batch))
    }

    /// Sends the watermark of one of several inputs; the event time of the session is the least of them.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn watermark_of(&mut self, input: u32, timestamp_ms: i64) -> Result<u64> {
        self.mark(Input::Watermark(proto::Watermark { timestamp_ms, input }))
    }

    /// Says that an input has nothing to say for a while, so that the others' watermarks need not wait for it; or that it has again.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn idle(&mut self, input: u32, idle: bool) -> Result<u64> {
        self.mark(Input::Idle(proto::Idle { idle, input }))
    }

    /// Says what time it is, in milliseconds since the epoch, if the host is the session's clock ([`KeyedOptions::host_clock`](super::KeyedOptions)). Timers up to it fire.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn processing_time(&mut self, timestamp_ms: i64) -> Result<u64> {
        self.mark(Input::ProcessingTime(timestamp_ms))
    }

    /// Sends a barrier: [`Event::Snapshotted`](super::Event::Snapshotted) comes out behind all that belongs to the checkpoint, and at any later time [`Event::Checkpointed`](super::Event::Checkpointed).
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn barrier(&mut self, checkpoint_id: u64) -> Result<u64> {
        self.mark(Input::Barrier(proto::Barrier { checkpoint_id }))
    }

    /// Deletes a checkpoint that this session has taken and nobody needs any more, with the files that no other one refers to. What cannot be deleted is said in the log.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn discard_checkpoint(&mut self, handle: impl Into<String>) -> Result<u64> {
        self.mark(Input::Discard(handle.into()))
    }

    fn mark(&mut self, mark: Input) -> Result<u64> {
        match &mut self.way {
            Way::Straight(sender) => sender.push(mark),
            Way::Coalesced(coalescer) => coalescer.mark(mark),
        }
    }

    fn direct(&mut self) -> Result<&mut Sender> {
        self.straight().ok_or_else(|| Error::new(Code::Unsupported, "only a keyed session has several inputs"))
    }

    /// No more input: the other half ends after the last result.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] if the session is over.
    pub async fn finish(&mut self) -> Result<()> {
        self.finished = true;
        match &self.way {
            Way::Straight(sender) => sender.finish(),
            Way::Coalesced(coalescer) => coalescer.finish(),
        }
    }

    pub(super) fn allocator(&self) -> &Allocator {
        &self.shared.allocator
    }

    /// The sender, unless small batches travel together.
    pub(super) fn straight(&mut self) -> Option<&mut Sender> {
        match &mut self.way {
            Way::Straight(sender) => Some(sender),
            Way::Coalesced(_) => None,
        }
    }
}
