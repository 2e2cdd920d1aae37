//! Workers: places that run functions (hop 6).
//!
//! [`Worker`] is all that `session` and `pool` know of them; [`process`] implements it with child processes, [`thread`] with threads of
//! an interpreter inside this process.

#[cfg(test)]
pub mod fake;
pub mod log;
pub mod process;
pub mod thread;

use crate::{
    batch::Batch,
    error::{Code, Error, WorkerLoss},
};
use pillion_wire::proto;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// A boxed future, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a lease's holder tells its worker.
#[derive(Debug)]
pub enum ToWorker {
    /// Load the functions of a plan; answered by [`FromWorker::Prepared`] or [`FromWorker::Refused`].
    Prepare { plan_id: u64, prepare: Arc<proto::Prepare> },
    /// Execute a batch; answered, in order, by [`FromWorker::Answer`].
    Batch { plan_id: u64, seq: u64, batch: Batch },
    /// Forget a plan; not answered.
    Release { plan_id: u64 },
    /// Load and describe a function; answered by [`FromWorker::Described`] or [`FromWorker::Refused`].
    Describe { function: proto::FunctionSpec },
    /// The answer to [`FromWorker::Fetch`], or why there is none.
    Fetched { plan_id: u64, seq: u64, result: Result<Batch, Error> },
}

/// What a worker answers.
#[derive(Debug)]
pub enum FromWorker {
    /// The plan can be executed.
    Prepared(proto::Prepared),
    /// The function's description.
    Described(Box<proto::FunctionDescription>),
    /// Preparing or describing failed.
    Refused(Error),
    /// The answer to batch `seq`.
    Answer { seq: u64, result: Result<Batch, Error>, cost: Cost, metrics: Vec<proto::MetricDelta> },
    /// The function of batch `seq` asks for state, and waits for [`ToWorker::Fetched`].
    Fetch { seq: u64, asked: Batch },
}

/// Where a batch's time went inside the worker, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Converting columns to and from Python.
    pub convert_ns: u64,
    /// Inside user code.
    pub user_ns: u64,
}

/// Why the engine ends a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KillCause {
    /// A bundle was over its deadline.
    Deadline,
    /// The worker was over its memory limit.
    Memory,
    /// It broke the protocol.
    Protocol,
    /// Its connection broke while the process lived.
    Connection,
    /// The session whose bundle it ran was cancelled.
    Cancelled,
    /// It was idle too long, too old, or had served enough.
    Retired,
    /// It was not ready in time.
    StartTimeout,
    /// It did not answer although it lives.
    Unresponsive,
    /// Its owner let go of it.
    Dropped,
    /// The engine shuts down.
    Shutdown,
}

impl KillCause {
    /// The word in `WorkerLoss.cause` and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            KillCause::Deadline => "deadline",
            KillCause::Memory => "memory_limit",
            KillCause::Protocol => "protocol",
            KillCause::Connection => "connection",
            KillCause::Cancelled => "cancelled",
            KillCause::Retired => "retired",
            KillCause::StartTimeout => "start_timeout",
            KillCause::Unresponsive => "unresponsive",
            KillCause::Dropped => "dropped",
            KillCause::Shutdown => "shutdown",
        }
    }
}

/// A worker that is gone, and what is known about its end.
#[derive(Clone, Debug)]
pub struct Lost {
    /// As it is told to the host.
    pub loss: WorkerLoss,
    /// Killed by a signal that neither the engine nor the function's own crash explains: such deaths have their own, larger limit of attempts.
    pub outside: bool,
}

impl Lost {
    /// The error of a bundle that is not tried again after `attempts`.
    pub fn into_error(self, attempts: u32) -> Error {
        let WorkerLoss { ref cause, exit_status, signal, pid, .. } = self.loss;
        let (code, message, hint) = match cause.as_str() {
            "deadline" => (
                Code::DeadlineExceeded,
                "the function took longer than the deadline of its bundle".to_owned(),
                "the stacks show where it was; raise the deadline if the work is legitimate",
            ),
            "memory_limit" => (
                Code::MemoryExceeded,
                "the function used more memory than `pool.max_memory`".to_owned(),
                "send smaller batches, or raise the limit",
            ),
            "exit" => (
                Code::WorkerDied,
                format!("the worker process exited with status {exit_status} while it ran the function"),
                "user code must not end the process; return or raise instead",
            ),
            "signal" => (
                Code::WorkerDied,
                format!("the worker process was killed by signal {signal} ({}) while it ran the function", signal_name(signal)),
                signal_hint(signal),
            ),
            "protocol" => (Code::ProtocolViolation, "the worker broke the protocol".to_owned(), ""),
            other => (Code::WorkerDied, format!("the worker process was lost ({other}) while it ran the function"), ""),
        };
        let detail = format!("worker `{}`, pid {pid}, {attempts} attempts", self.loss.worker_id);
        Error::new(code, message).hint(hint).detail(detail).worker(WorkerLoss { attempts, ..self.loss })
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => "see `kill -l`",
    }
}

fn signal_hint(signal: i32) -> &'static str {
    match signal {
        9 => "something outside killed it; if it was the kernel for lack of memory, send smaller batches or run fewer workers",
        4 | 6 | 7 | 8 | 11 => "native code crashed; the worker's last stderr lines may name the library",
        _ => "",
    }
}

/// The exclusive use of one worker: what a lease gives.
pub trait Worker: Send {
    /// The id, unique in the engine.
    fn id(&self) -> &str;

    /// Queues a message; never blocks. The caller bounds what it has in flight. A lost worker is noticed by [`Worker::poll_recv`].
    fn send(&mut self, message: ToWorker);

    /// The next answer, or how the worker was lost; after a loss the worker is of no further use.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromWorker, Lost>>;

    /// Does what the message asks on the calling thread, which may take as long as the function does, and gives the answer, if the message has one. Only for a
    /// worker with nothing in flight, of a factory that [shares the process](WorkerFactory::shares_process); others give the message back.
    ///
    /// # Errors
    /// The message.
    fn call_here(&mut self, message: ToWorker) -> Result<Option<FromWorker>, Box<ToWorker>> {
        Err(Box::new(message))
    }

    /// What can be done with the worker beside its lease.
    fn control(&self) -> Arc<dyn Control>;
}

/// A worker seen from outside its lease.
pub trait Control: Send + Sync {
    /// The process id; 0 if it has none of its own.
    fn pid(&self) -> i32;

    /// Ends the worker at once; the first cause is kept. Returns before the worker is reaped.
    fn kill(&self, cause: KillCause);

    /// Asks the worker to end by itself: run `close`, `atexit`, exit. Kill it if it has not ended within a grace time.
    fn shutdown(&self);

    /// Resolves when the worker is gone and reaped.
    fn gone(&self) -> BoxFuture<'static, Lost>;

    /// The stacks of all its threads; `None` if it does not answer in time.
    fn stacks(&self) -> BoxFuture<'_, Option<String>>;

    /// True if something outside has stopped the process (SIGSTOP): then a missed deadline is not the function's fault.
    fn is_stopped(&self) -> bool;

    /// Private memory in bytes, if it can be read.
    fn private_bytes(&self) -> Option<u64>;

    /// Its interpreter and packages.
    fn environment(&self) -> &proto::EnvironmentDescription;
}

/// Makes the workers of one environment.
pub trait WorkerFactory: Send + Sync {
    /// Starts a worker and waits until it is ready.
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Worker>, Error>>;

    /// Whether the workers are threads of this process: they take and give arrays as they are, and nothing can end a call against its will.
    fn shares_process(&self) -> bool {
        false
    }

    /// Ends what the workers were made with. Idempotent.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
