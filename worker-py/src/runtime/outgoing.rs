//! The worker's half of the data stream: answers on their way out.
//!
//! Connection and Python share a thread, so nothing is sent while Python runs. [`Outgoing::flush`] therefore lets the connection work until
//! an answer has reached the kernel, as far as flow control allows, before the next call begins.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pillion_wire::proto::WorkerData;
use tokio::sync::Notify;
use tokio::task;
use tokio_stream::Stream;

use super::connect::Pressure;

#[derive(Default)]
struct State {
    messages: VecDeque<WorkerData>,
    /// The stream was asked for more when it had nothing: all messages are encoded.
    drained: bool,
    /// Nothing more will be queued.
    finished: bool,
    /// The stream was dropped: the connection is gone.
    closed: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// `drained` or `closed` became true.
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where answers are put.
pub struct Outgoing {
    shared: Arc<Shared>,
    pressure: Arc<Pressure>,
}

/// What the connection takes them from.
pub struct Messages {
    shared: Arc<Shared>,
}

/// Both ends, for a connection with this `pressure`.
pub fn channel(pressure: Arc<Pressure>) -> (Outgoing, Messages) {
    let shared = Arc::new(Shared::default());
    (Outgoing { shared: shared.clone(), pressure }, Messages { shared })
}

impl Outgoing {
    /// Queues messages; they share the memory of the batch.
    pub fn send(&self, messages: impl IntoIterator<Item = WorkerData>) {
        let mut state = self.shared.state();
        state.messages.extend(messages);
        state.drained = false;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Ends the stream after what is queued.
    pub fn finish(&self) {
        let mut state = self.shared.state();
        state.finished = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Waits until everything queued was written to the socket, or the connection is gone.
    pub async fn flush(&self) {
        loop {
            // One yield runs all tasks that are ready, the connection's among them, until none is: tokio wakes the one who yields last.
            task::yield_now().await;
            let (drained, closed) = {
                let state = self.shared.state();
                (state.drained, state.closed)
            };
            if closed || (drained && !self.pressure.is_blocked()) {
                return;
            }
            // Both, whatever is awaited: a connection that dies while the socket is full closes `shared` without another write.
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = self.pressure.changed() => {}
            }
        }
    }
}

impl Stream for Messages {
    type Item = WorkerData;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WorkerData>> {
        let mut state = self.shared.state();
        if let Some(message) = state.messages.pop_front() {
            return Poll::Ready(Some(message));
        }
        if state.finished {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        if !state.drained {
            state.drained = true;
            self.shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
    }
}
