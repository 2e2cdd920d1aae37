//! What a session takes in, and how it ends.

use super::{Answer, Input, Job, MAX_HELD, Session, State, wake};
use crate::{
    error::{Code, Error, Result},
    metrics,
    session::credit::Amount,
};
use std::sync::Arc;
use tokio::time::Instant;

impl Session {
    /// Takes the next input. Never blocks: the sender's credit bounds what is queued.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] for a gap in the sequence; [`Code::SessionClosed`] after the end; [`Code::BatchTooLarge`].
    pub fn push(self: &Arc<Self>, seq: u64, input: Input) -> Result<()> {
        let from = if let Input::Other(from, _) = &input { *from } else { 0 };
        let mut state = self.lock();
        if state.draining.is_some() {
            // Not answered, so it has had no effect and may be sent to another sidecar.
            return Ok(());
        }
        if state.finished || state.over {
            return Err(Error::new(Code::SessionClosed, "the session takes no more input"));
        }
        if seq != state.last_seq + 1 {
            let message = format!("input {seq} does not follow input {}", state.last_seq);
            return Err(Error::new(Code::ProtocolViolation, message));
        }
        if state.order.held() >= MAX_HELD {
            return Err(Error::new(Code::ProtocolViolation, "too many inputs wait for the answers before them"));
        }
        match input {
            Input::Other(..) | Input::Discard(_) if self.intake.is_none() => {
                return Err(Error::new(Code::Unsupported, "only a keyed session has several inputs, and checkpoints"));
            }
            Input::Batch(batch) | Input::Other(_, batch) => {
                let (bytes, rows) = (batch.bytes(), batch.rows());
                let limits = &self.behaviour.limits;
                check_batch(bytes, rows, limits.max_batch_bytes, limits.max_batch_rows)?;
                let cost = Amount::of(bytes, rows);
                state.last_seq = seq;
                state.taken += 1;
                state.pending_bytes += cost.bytes;
                let job = Job { seq, batch, cost, queued: Instant::now(), attempts: 0, attempts_outside: 0 };
                match &self.intake {
                    Some(intake) => intake.batch(job, from),
                    None => {
                        state.queue.push_back(job);
                        self.summon_driver(&mut state);
                    }
                }
            }
            mark if let Some(intake) = &self.intake => {
                state.last_seq = seq;
                intake.mark(seq, mark);
            }
            Input::Watermark(watermark) => self.mark(&mut state, seq, Some(Answer::Watermark { seq, watermark })),
            Input::Barrier(barrier) => {
                self.mark(&mut state, seq, Some(Answer::Snapshotted { seq, checkpoint_id: barrier.checkpoint_id }));
            }
            Input::Idle(_) | Input::ProcessingTime(_) | Input::Discard(_) => self.mark(&mut state, seq, None),
        }
        Ok(())
    }

    fn mark(&self, state: &mut State, seq: u64, answer: Option<Answer>) {
        state.last_seq = seq;
        state.order.mark(seq, answer);
        wake(state);
    }

    /// No more input.
    pub fn finish(&self) {
        let mut state = self.lock();
        if let Some(intake) = &self.intake
            && !state.finished
        {
            // Timers that fire at the end are answers to it.
            state.last_seq += 1;
            intake.end(state.last_seq);
        }
        state.finished = true;
        wake(&mut state);
    }

    /// Answers what was taken in, ignores what comes after it, then ends with `why`. A session whose input is finished just ends.
    pub fn drain(&self, why: Error) {
        let mut state = self.lock();
        if !state.finished && !state.over {
            state.finished = true;
            state.draining = Some(why);
            wake(&mut state);
        }
    }

    /// Gives up everything that is open; the reader gets `why`, then the end.
    pub fn cancel(&self, why: Error) {
        let mut state = self.lock();
        if state.over {
            return;
        }
        state.over = true;
        state.failure = Some(why);
        state.queue.clear();
        wake(&mut state);
        drop(state);
        self.work.close();
        self.cancelled.notify_waiters();
        self.count_closed();
    }

    pub(super) fn count_closed(&self) {
        // A keyed session is counted by the one that it calls functions with.
        if self.intake.is_none() {
            metrics::session_closed();
        }
    }
}

/// Checks a batch against limits, before it is sent and when it arrives.
///
/// # Errors
/// [`Code::BatchTooLarge`].
pub fn check_batch(bytes: u64, rows: u64, max_bytes: u64, max_rows: u64) -> Result<()> {
    if bytes <= max_bytes && rows <= max_rows {
        return Ok(());
    }
    let message = format!("a batch of {rows} rows and {bytes} bytes is over the limit of {max_rows} rows and {max_bytes} bytes");
    Err(Error::new(Code::BatchTooLarge, message)
        .hint("send smaller batches, or raise `limits.max_batch_bytes` and `limits.max_batch_rows`"))
}
