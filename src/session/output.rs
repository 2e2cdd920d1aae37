//! What comes out of a session.

use super::{Answer, Session, credit::Amount};
use crate::error::{Error, Result};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

impl Session {
    /// The next answer; `None` after [`Answer::Ended`] or an error. One task reads.
    pub fn poll_answer(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Answer>>> {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        if state.over {
            return Poll::Ready(None);
        }
        if state.aside.front().is_some_and(|(seq, _)| *seq <= state.barrier)
            && let Some((_, answer)) = state.aside.pop_front()
        {
            return Poll::Ready(Some(Ok(answer)));
        }
        if let Some(answer) = state.order.pop() {
            if self.intake.is_some() {
                self.more.notify_waiters();
            }
            if let Answer::Snapshotted { seq, .. } = &answer {
                state.barrier = *seq;
            }
            if let Answer::Batch { result: Ok(batch), .. } = &answer {
                state.held = state.held.minus(Amount::of(batch.bytes(), batch.rows()));
                // There may be room again for what could not be begun.
                if !state.queue.is_empty() {
                    self.summon_driver(&mut state);
                }
            }
            return Poll::Ready(Some(Ok(answer)));
        }
        if state.finished && state.order.is_done(state.last_seq) {
            state.over = true;
            let last = match state.draining.take() {
                Some(why) => Err(why),
                None => Ok(Answer::Ended(state.stats)),
            };
            drop(state);
            self.work.close();
            // Drivers in the line for a worker.
            self.cancelled.notify_waiters();
            self.count_closed();
            return Poll::Ready(Some(last));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the session was ended from outside, for a reader that cannot take an answer now: as [`Session::poll_answer`], but takes none.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<Option<Error>> {
        let mut state = self.lock();
        if state.over {
            return Poll::Ready(state.failure.take());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Resolves when the session is over.
    pub async fn ended(&self) {
        let ended = self.cancelled.notified();
        if !self.is_over() {
            ended.await;
        }
    }
}
