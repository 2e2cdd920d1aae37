//! The engine's side of a fork server (`pillion/fork_server.py`, which documents the messages).
//!
//! One task listens to it. When the fork server has ended and is reaped, the task answers all that still wait, and closes the
//! report channels of its workers, by which their owners know that the engine has inherited them.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::child::{Child, Parent, kill_and_forget};
use super::exit::{Ended, Exit, Rusage};
use super::logs::{OutputLimits, OutputPipes};
use super::memory;
use super::socket::{Message, Socket};
use crate::worker::KillCause;

/// How long a fork server may take to end by itself when its socket is closed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a fork server is told at its start.
#[derive(Serialize)]
pub(super) struct Configuration<'a> {
    pub op: &'static str,
    pub cwd: &'a str,
    pub paths: &'a [String],
    pub preload: &'a [String],
    pub entry: &'a str,
}

/// What a worker is told at its start.
#[derive(Serialize)]
pub(super) struct WorkerSettings<'a> {
    pub id: &'a str,
    pub environment: &'a str,
    pub endpoint: &'a str,
    pub token: &'a str,
}

#[derive(Serialize)]
struct ForkRequest<'a> {
    op: &'static str,
    request: u64,
    #[serde(flatten)]
    settings: &'a WorkerSettings<'a>,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Ready,
    Failed { message: String, traceback: String },
    Forked { request: u64, pid: i32 },
    Refused { request: u64, threads: Vec<String> },
    ForkFailed { request: u64, message: String },
    Exited { pid: i32, status: i32, user_seconds: f64, system_seconds: f64, max_resident_bytes: u64 },
}

/// Why a fork server did not become ready.
#[derive(Debug)]
pub(super) enum StartError {
    /// The process could not be created or talked to.
    System(io::Error),
    /// An import failed.
    Failed { message: String, traceback: String, exit: Exit, stderr: String },
    /// It ended before it was ready.
    Died { exit: Exit, stderr: String },
    /// It was not ready in time.
    TimedOut { exit: Exit, stderr: String },
}

/// Why a fork server did not fork.
#[derive(Debug)]
pub(super) enum ForkError {
    /// It has threads, of these names, that would not survive.
    Refused(Vec<String>),
    /// The operating system refused, or the message could not be sent.
    Failed(String),
    /// It died, or did not answer and was killed.
    Gone,
}

/// A running fork server. Dropping it kills it; its workers live on.
pub(super) struct ForkServer {
    process: Arc<Child>,
    shared: Arc<Shared>,
}

struct Shared {
    socket: Socket,
    limits: OutputLimits,
    requests: Mutex<Requests>,
}

#[derive(Default)]
struct Requests {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    reports: HashMap<i32, oneshot::Sender<Ended>>,
    closed: bool,
}

/// A request for a worker that is not answered yet.
struct Waiting {
    id: String,
    output: OutputPipes,
    reply: oneshot::Sender<Result<Child, ForkError>>,
}

impl ForkServer {
    /// Starts `command` as a fork server and waits until its imports are done, for at most `timeout`.
    pub async fn start(
        mut command: Command,
        id: &str,
        configuration: &Configuration<'_>,
        limits: &OutputLimits,
        timeout: Duration,
    ) -> Result<Self, StartError> {
        let configuration = serde_json::to_vec(configuration).map_err(|error| StartError::System(error.into()))?;
        let (socket, theirs) = Socket::pair().map_err(StartError::System)?;
        command.stdin(Stdio::from(theirs));
        let process = Child::spawn(command, id, limits).map_err(StartError::System)?;
        let configured = tokio::select! {
            configured = tokio::time::timeout(timeout, Self::configure(&socket, &process, &configuration)) => configured,
            () = process.stopped() => {
                process.kill(KillCause::Unresponsive);
                Ok(Err(StartError::Died { exit: process.wait().await, stderr: process.stderr_tail() }))
            }
        };
        match configured {
            Ok(result) => result?,
            Err(_) => {
                process.kill(KillCause::StartTimeout);
                let exit = process.wait().await;
                return Err(StartError::TimedOut { exit, stderr: process.stderr_tail() });
            }
        }
        let process = Arc::new(process);
        let shared = Arc::new(Shared { socket, limits: limits.clone(), requests: Mutex::default() });
        tokio::spawn(listen(Arc::clone(&process), Arc::clone(&shared)));
        Ok(Self { process, shared })
    }

    async fn configure(socket: &Socket, process: &Child, configuration: &[u8]) -> Result<(), StartError> {
        let sent = socket.send(configuration, &[]).await;
        let received = match sent {
            Ok(()) => socket.receive().await,
            // It has ended before it has read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe || error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        };
        let event = match received {
            Ok(Some(message)) => serde_json::from_slice(&message.data).map_err(io::Error::from),
            Ok(None) => {
                let exit = process.wait().await;
                return Err(StartError::Died { exit, stderr: process.stderr_tail() });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                let exit = process.wait().await;
                return Err(StartError::Died { exit, stderr: process.stderr_tail() });
            }
            Err(error) => Err(error),
        };
        match event {
            Ok(Event::Ready) => Ok(()),
            Ok(Event::Failed { message, traceback }) => {
                let exit = process.wait().await;
                Err(StartError::Failed { message, traceback, exit, stderr: process.stderr_tail() })
            }
            Ok(_) => Err(StartError::System(io::Error::new(io::ErrorKind::InvalidData, "answer out of turn"))),
            Err(error) => Err(StartError::System(error)),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Whether it has ended or is about to.
    pub fn is_gone(&self) -> bool {
        self.process.exited().borrow().is_some() || self.shared.requests().closed
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.process.exited().borrow()
    }

    /// Forks a worker, within `timeout`.
    pub async fn fork(&self, settings: &WorkerSettings<'_>, timeout: Duration) -> Result<Child, ForkError> {
        let system = |error: io::Error| ForkError::Failed(error.to_string());
        let (output, writers) = OutputPipes::new().map_err(system)?;
        let (reply, answer) = oneshot::channel();
        let request = {
            let mut requests = self.shared.requests();
            if requests.closed {
                return Err(ForkError::Gone);
            }
            requests.next += 1;
            let request = requests.next;
            requests.waiting.insert(request, Waiting { id: settings.id.to_owned(), output, reply });
            request
        };
        let exchange = async {
            let message = serde_json::to_vec(&ForkRequest { op: "fork", request, settings }).map_err(|error| system(error.into()))?;
            let sent = self.shared.socket.send(&message, &[writers[0].as_fd(), writers[1].as_fd()]).await;
            drop(writers);
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(ForkError::Gone)),
                Err(error) => {
                    self.shared.requests().waiting.remove(&request);
                    Err(if error.kind() == io::ErrorKind::InvalidInput { system(error) } else { ForkError::Gone })
                }
            }
        };
        tokio::select! {
            result = exchange => return result,
            () = tokio::time::sleep(timeout) => {}
            () = self.process.stopped() => {}
        }
        self.process.kill(KillCause::Unresponsive);
        Err(ForkError::Gone)
    }

    /// Ends it and waits until it is reaped. Its workers live on.
    pub async fn stop(&self) {
        self.shared.socket.shutdown();
        if tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await.is_err() {
            self.process.kill(KillCause::Shutdown);
            self.process.wait().await;
        }
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        self.process.kill(KillCause::Dropped);
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, process: &Arc<Child>, message: Message) -> io::Result<()> {
        match serde_json::from_slice(&message.data)? {
            Event::Forked { request, pid } => self.forked(process, request, pid, message)?,
            Event::Refused { request, threads } => self.answer(request, ForkError::Refused(threads)),
            Event::ForkFailed { request, message } => self.answer(request, ForkError::Failed(message)),
            Event::Exited { pid, status, user_seconds, system_seconds, max_resident_bytes } => {
                let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
                let rusage =
                    Rusage { user: time(user_seconds), system: time(system_seconds), max_resident_bytes: Some(max_resident_bytes) };
                if let Some(report) = self.requests().reports.remove(&pid) {
                    // Nobody listens only while the runtime shuts down.
                    _ = report.send(wait_status(status, rusage));
                }
            }
            Event::Ready | Event::Failed { .. } => return Err(io::Error::new(io::ErrorKind::InvalidData, "answer out of turn")),
        }
        Ok(())
    }

    fn forked(&self, process: &Arc<Child>, request: u64, pid: i32, message: Message) -> io::Result<()> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a worker without a pidfd that fits its process id");
        let pidfd = message.descriptors.into_iter().next().ok_or_else(invalid)?;
        // The id will name a group to kill: the kernel's word for it is taken, not the fork server's.
        let fits = matches!(memory::pid_of(&pidfd), Some(known) if known == pid || known == memory::REAPED);
        let Some(process_id) = Pid::from_raw(pid).filter(|_| fits && pid > 1) else {
            kill_and_forget(pidfd);
            return Err(invalid());
        };
        let Some(Waiting { id, output, reply }) = self.requests().waiting.remove(&request) else {
            kill_and_forget(pidfd);
            return Ok(());
        };
        let (report, reported) = oneshot::channel();
        self.requests().reports.insert(pid, report);
        let parent = Parent::ForkServer { report: reported, process: Arc::downgrade(process) };
        let child = Child::adopt(&id, process_id, pidfd, output, &self.limits, parent);
        // If nobody waits any more the child is dropped here, which kills it.
        _ = reply.send(child.map_err(|error| ForkError::Failed(error.to_string())));
        Ok(())
    }

    fn answer(&self, request: u64, error: ForkError) {
        if let Some(waiting) = self.requests().waiting.remove(&request) {
            // The one who asked may have given up.
            _ = waiting.reply.send(Err(error));
        }
    }

    /// The fork server is reaped: no more answers and reports.
    fn close(&self) {
        let mut requests = self.requests();
        requests.closed = true;
        let (waiting, reports) = (std::mem::take(&mut requests.waiting), std::mem::take(&mut requests.reports));
        drop(requests);
        drop(reports);
        for waiting in waiting.into_values() {
            _ = waiting.reply.send(Err(ForkError::Gone));
        }
    }
}

async fn listen(process: Arc<Child>, shared: Arc<Shared>) {
    let mut exited = process.exited();
    loop {
        let message = tokio::select! {
            message = shared.socket.receive() => message,
            _ = exited.wait_for(Option::is_some) => break,
        };
        let broken = match message {
            Ok(Some(message)) => shared.handle(&process, message).err(),
            Ok(None) => break,
            Err(error) => Some(error),
        };
        if let Some(error) = broken {
            tracing::warn!(pid = process.pid(), %error, "fork server broke its protocol");
            process.kill(KillCause::Protocol);
            break;
        }
    }
    // The socket is closed a moment before the process can be reaped; one that only closed its socket is of no use.
    if tokio::time::timeout(STOP_TIMEOUT, process.wait()).await.is_err() {
        process.kill(KillCause::Unresponsive);
        process.wait().await;
    }
    while let Ok(Some(message)) = shared.socket.receive_now() {
        if shared.handle(&process, message).is_err() {
            break;
        }
    }
    shared.close();
}

fn wait_status(status: i32, rusage: Rusage) -> Ended {
    let rusage = Some(rusage);
    match status & 0x7f {
        0 => Ended { status: Some((status >> 8) & 0xff), signal: None, rusage },
        signal => Ended { status: None, signal: Some(signal), rusage },
    }
}
