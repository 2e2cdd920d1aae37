//! Credits: permission to send, in bytes and rows (DESIGN D1, `Credit` in `data.proto`).

use std::{
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// What a batch costs, or a grant gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes of headers and body.
    pub bytes: i64,
    /// Rows.
    pub rows: i64,
}

impl Amount {
    /// The cost of a batch.
    pub fn of(bytes: u64, rows: u64) -> Self {
        Amount { bytes: i64::try_from(bytes).unwrap_or(i64::MAX), rows: i64::try_from(rows).unwrap_or(i64::MAX) }
    }

    /// The sum, without overflow whatever a peer sends.
    #[must_use]
    pub fn plus(self, other: Amount) -> Self {
        Amount { bytes: self.bytes.saturating_add(other.bytes), rows: self.rows.saturating_add(other.rows) }
    }

    /// The difference, without overflow.
    #[must_use]
    pub fn minus(self, other: Amount) -> Self {
        Amount { bytes: self.bytes.saturating_sub(other.bytes), rows: self.rows.saturating_sub(other.rows) }
    }

    /// True while a batch may be sent.
    pub fn is_open(self) -> bool {
        self.bytes > 0 && self.rows > 0
    }
}

/// Whether so much credit is owed that it should be given back: an eighth of all, so that small batches do not cost a message each.
pub fn is_due(owed: i64, all: i64) -> bool {
    owed > 0 && owed >= (all / 8).max(1)
}

/// The sender's side of a credit: one task waits at it.
#[derive(Debug)]
pub struct Gate(Mutex<State>);

#[derive(Debug)]
struct State {
    left: Amount,
    waiter: Option<Waker>,
    closed: bool,
}

impl Gate {
    /// A gate with this much credit to begin with.
    pub fn new(left: Amount) -> Self {
        Gate(Mutex::new(State { left, waiter: None, closed: false }))
    }

    /// Takes `cost` once the gate is open (so credit may go negative by one batch). False if the gate was closed for good.
    pub fn poll_take(&self, cx: &mut Context<'_>, cost: Amount) -> Poll<bool> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(false);
        }
        if state.left.is_open() {
            state.left = state.left.minus(cost);
            return Poll::Ready(true);
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes `cost` if the gate is open now, whoever waits at it; for a second task, which has no place there.
    pub fn try_take(&self, cost: Amount) -> bool {
        let mut state = self.lock();
        let open = !state.closed && state.left.is_open();
        if open {
            state.left = state.left.minus(cost);
        }
        open
    }

    /// See [`Gate::poll_take`].
    pub async fn take(&self, cost: Amount) -> bool {
        poll_fn(|cx| self.poll_take(cx, cost)).await
    }

    /// Gives credit.
    pub fn give(&self, amount: Amount) {
        let mut state = self.lock();
        state.left = state.left.plus(amount);
        if state.left.is_open()
            && let Some(waiter) = state.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Lets waiters go, empty-handed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_batch_may_overdraw_and_the_next_waits() {
        let gate = Gate::new(Amount { bytes: 10, rows: 10 });
        assert!(gate.take(Amount { bytes: 1000, rows: 1 }).await);
        let mut waiting = Box::pin(gate.take(Amount { bytes: 1, rows: 1 }));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        gate.give(Amount { bytes: 990, rows: 0 });
        assert!(futures_util::poll!(&mut waiting).is_pending(), "credit of zero is not open");
        gate.give(Amount { bytes: 1, rows: 0 });
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn rows_alone_can_close_the_gate() {
        let gate = Gate::new(Amount { bytes: 1000, rows: 1 });
        assert!(gate.take(Amount { bytes: 1, rows: 1 }).await);
        let mut waiting = Box::pin(gate.take(Amount { bytes: 1, rows: 1 }));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        gate.close();
        assert!(!waiting.await);
    }

    #[test]
    fn absurd_grants_do_not_overflow() {
        let gate = Gate::new(Amount { bytes: i64::MAX, rows: i64::MAX });
        gate.give(Amount { bytes: i64::MAX, rows: i64::MAX });
        gate.give(Amount { bytes: i64::MIN, rows: i64::MIN });
    }
}
