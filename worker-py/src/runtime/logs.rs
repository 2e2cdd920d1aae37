//! Log records on their way to the sidecar: a bounded queue that never blocks the function that logs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pillion_wire::proto::{LogBatch, LogRecord};
use pyo3::prelude::*;
use tokio::sync::Notify;
use tokio::sync::mpsc;

/// Most records that wait.
const MOST_RECORDS: usize = 10_000;

/// Most bytes that wait.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Records sent at once, in bytes; small, because a batch is one message.
const BATCH_BYTES: usize = 256 * 1024;

/// Longest message, in bytes.
const MESSAGE_BYTES: usize = 16 * 1024;

/// Which session and function are running.
#[derive(Default, Clone)]
pub struct Running {
    /// Id of the worker, where several share a queue.
    pub worker: Arc<str>,
    /// Id of the session.
    pub session: Arc<str>,
    /// Name of the function.
    pub function: Arc<str>,
}

#[derive(Default)]
struct State {
    records: VecDeque<LogRecord>,
    bytes: usize,
    /// Left out since the last batch.
    dropped: u64,
    closed: bool,
    least_level: u32,
    running: Running,
}

/// The records of this process.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// The same for a thread that waits.
    arrived: Condvar,
    /// Several workers run in this process, each on a thread of its own.
    shared: bool,
}

thread_local! {
    /// What runs on this thread, if the queue is shared.
    static RUNNING: RefCell<Running> = RefCell::default();
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue for all the workers of thread mode: records belong to what runs on the thread that logs.
    pub fn shared() -> Self {
        Self { shared: true, ..Self::default() }
    }

    /// Records below this level are not wanted.
    pub fn set_least_level(&self, level: u32) {
        self.state().least_level = level;
    }

    /// Whose records the next ones are.
    pub fn set_running(&self, running: Running) {
        if self.shared {
            RUNNING.set(running);
        } else {
            self.state().running = running;
        }
    }

    /// No more records; what waits is still sent.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    fn push(&self, mut record: LogRecord) {
        let mut state = self.state();
        if state.closed || record.level < state.least_level {
            return;
        }
        let bytes = size_of_record(&record);
        if state.records.len() >= MOST_RECORDS || state.bytes + bytes > MOST_BYTES {
            state.dropped += 1;
            return;
        }
        let running = if self.shared { RUNNING.with_borrow(Clone::clone) } else { state.running.clone() };
        record.worker_id = running.worker.to_string();
        record.session_id = running.session.to_string();
        record.function = running.function.to_string();
        state.bytes += bytes;
        state.records.push_back(record);
        drop(state);
        self.changed.notify_one();
        self.arrived.notify_one();
    }

    /// The next records; waits for them at most so long.
    pub fn wait(&self, at_most: Duration) -> Option<LogBatch> {
        let is_empty = |state: &mut State| state.records.is_empty() && state.dropped == 0;
        drop(self.arrived.wait_timeout_while(self.state(), at_most, is_empty));
        self.take()
    }

    /// The next records, at most [`BATCH_BYTES`]; `None` if there are none.
    fn take(&self) -> Option<LogBatch> {
        let mut state = self.state();
        if state.records.is_empty() && state.dropped == 0 {
            return None;
        }
        let mut batch = LogBatch { dropped: std::mem::take(&mut state.dropped), ..LogBatch::default() };
        let mut bytes = 0;
        while let Some(record) = state.records.pop_front() {
            bytes += size_of_record(&record);
            batch.records.push(record);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        Some(batch)
    }

    /// Moves records to the log stream until the queue is closed and empty, or the stream is gone.
    pub async fn feed(&self, stream: mpsc::Sender<LogBatch>) {
        loop {
            while let Some(batch) = self.take() {
                if stream.send(batch).await.is_err() {
                    return;
                }
            }
            if self.state().closed {
                return;
            }
            self.changed.notified().await;
        }
    }
}

/// What a record costs of the queue's room. What `running` adds is left out on purpose: it must cost the same when it leaves.
fn size_of_record(record: &LogRecord) -> usize {
    size_of::<LogRecord>() + record.message.len() + record.logger.len() + record.file.len()
}

/// The queue of the worker in this process, while it runs.
static QUEUE: Mutex<Option<Arc<Queue>>> = Mutex::new(None);

/// Makes `log` use this queue, or none.
pub fn install(queue: Option<Arc<Queue>>) {
    *QUEUE.lock().unwrap_or_else(PoisonError::into_inner) = queue;
}

/// Queues one log record for the sidecar: never blocks, drops and counts when the queue is full, does nothing outside of `run`.
///
/// `time_ns` is nanoseconds since the epoch, `level` Python's number; the message is cut at 16 KiB.
#[pyfunction]
pub fn log(time_ns: i64, level: u32, logger: &str, message: &str, file: &str, line: u32) {
    let queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(queue) = queue {
        queue.push(LogRecord {
            time_ns,
            level,
            logger: logger.to_owned(),
            message: cut(message).to_owned(),
            file: file.to_owned(),
            line,
            ..LogRecord::default()
        });
    }
}

/// At most [`MESSAGE_BYTES`] of a text, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
