//! The worker runtime: [`execute`] calls Python; around it the main loop of a worker process, and what thread mode (`table`) shares with it.
//!
//! Two threads (DESIGN D3). The *Python thread*, which called `run`, drives the data connection on a runtime of its own, so that between a
//! frame and the call into Python no other thread has to wake up. The *control thread* drives control and logs and never takes the GIL, so
//! that it answers even while a function hangs.

mod connect;
mod control;
mod data;
pub mod execute;
pub mod failure;
mod frames;
mod line;
pub mod logs;
pub mod message;
pub mod metrics;
mod outgoing;
mod outputs;
mod plans;
mod ring;
mod stacks;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pillion_wire::proto;
use pyo3::prelude::*;
use rustix::event::EventfdFlags;
use tokio::sync::oneshot;

pub use frames::nanoseconds;
pub use logs::log;
pub use outputs::{Space, space};

use crate::process::{self, Thread};
use connect::Identity;
use control::{Control, End, EndSignal};

/// How long the last log records may take on their way at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Why the worker cannot go on: a text for the sidecar's log.
#[derive(Debug)]
pub struct Broken(String);

impl Broken {
    /// `what` failed because of `why`.
    fn new(what: &str, why: impl fmt::Display) -> Self {
        // Messages of flatbuffers end in empty lines.
        Self(format!("{what}: {}", why.to_string().trim_end()))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What the two threads say to each other, once each.
struct Wires {
    /// Control to data: what the sidecar asks of workers.
    provision: oneshot::Receiver<proto::ProvisionInfo>,
    /// Data to control: the data stream is open.
    open: oneshot::Sender<()>,
    /// Control to data: stop.
    end: oneshot::Receiver<End>,
    /// Rung when there is something in `end`, for a data side that waits without a runtime.
    end_bell: Arc<OwnedFd>,
}

/// Connects to the sidecar and executes its batches until it says to stop or is gone; returns the exit status.
///
/// Calls `runtime` (a `pillion._runtime.Runtime`) on this thread, and holds the GIL only for that. `endpoint` is `unix:/path` or
/// `http://host:port`. `stacks_fd` is the reading end of the pipe that `faulthandler` writes to when this thread gets `stacks_signal`.
/// Must be called on the main thread, once.
#[pyfunction]
#[pyo3(signature = (*, endpoint, worker_id, token, runtime, stacks_fd, stacks_signal))]
pub fn run(
    py: Python<'_>,
    endpoint: String,
    worker_id: &str,
    token: &str,
    runtime: Py<PyAny>,
    stacks_fd: Option<i32>,
    stacks_signal: i32,
) -> PyResult<i32> {
    // Before the first thread starts, which inherits it.
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        // Kernel and sandbox may refuse; a worker that runs no set-user-id program does not need it.
        eprintln!("pillion worker: new privileges cannot be ruled out: {error}");
    }
    process::keep_large_blocks();
    let environment = message::environment(runtime.bind(py).call_method0("environment")?.as_any())?;
    let identity = Identity::new(endpoint, worker_id, token).map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))?;
    let queue = Arc::new(logs::Queue::default());
    logs::install(Some(queue.clone()));

    let (provision_in, provision) = oneshot::channel();
    let (open, open_out) = oneshot::channel();
    let (end_in, end) = oneshot::channel();
    let end_bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
    let (done, done_out) = oneshot::channel();
    let (flushed_in, flushed) = mpsc::channel();
    let control = Control {
        identity: identity.clone(),
        environment,
        queue: queue.clone(),
        stacks: stacks::Stacks::new(stacks_fd.and_then(process::take_descriptor), Thread::current(), stacks_signal),
        provision: provision_in,
        open: open_out,
        end: EndSignal::new(end_in, end_bell.clone()),
        done: done_out,
    };
    thread::Builder::new().name("pillion-control".into()).spawn(move || {
        control::serve(control, || {
            // The receiver is gone if the Python thread has stopped waiting.
            let _ = flushed_in.send(());
        });
    })?;

    let outcome = py.detach(|| data::serve(&identity, &runtime, &queue, Wires { provision, open, end, end_bell }));
    runtime.bind(py).call_method0("close")?;
    drop(runtime);
    logs::install(None);
    queue.close();
    // Both may have ended before; then there is nothing to wait for.
    let _ = done.send(());
    let _ = py.detach(move || flushed.recv_timeout(FLUSH));
    match outcome {
        Ok(()) => Ok(0),
        Err(broken) => {
            eprintln!("pillion worker: {broken}");
            Ok(1)
        }
    }
}
