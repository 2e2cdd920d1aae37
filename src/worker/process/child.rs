//! A child process with one owner, which kills it, reaps it and knows why it ended.
//!
//! The owner is a task that waits on the process's pidfd. When the process has ended, whoever is its parent kills what is left of
//! its process group while its number cannot yet name anything else, and reaps it: the fork server, which reports the status, or, if
//! the engine itself started the process or inherited it from a dead fork server, this task. Strays of the group become the engine's
//! children (it is a subreaper) and are reaped here. Only then the exit is published.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};

use super::exit::{Ended, Exit, Rusage};
use super::logs::{Output, OutputLimits, OutputPipes, Tail};
use super::memory;
use super::strays::{self, OwnedProcess};
use crate::worker::KillCause;

/// How long a fork server may take to report that its worker has ended before it counts as hung.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a process that is waited for is looked at, see [`Child::stopped`].
const LOOK: Duration = Duration::from_millis(500);

/// Who reaps a process.
pub(super) enum Parent {
    /// The engine.
    Engine,
    /// A fork server, which reports through the channel. If the channel closes, the fork server is reaped and the engine has inherited.
    ForkServer { report: oneshot::Receiver<Ended>, process: Weak<Child> },
}

/// A child process. Dropping it kills it; its owner task reaps it in any case.
#[derive(Debug)]
pub struct Child {
    shared: Arc<Shared>,
    exited: watch::Receiver<Option<Exit>>,
}

#[derive(Debug)]
struct Shared {
    id: String,
    pid: Pid,
    pidfd: Receiver,
    cause: OnceLock<KillCause>,
    stderr: Tail,
}

impl Child {
    /// Starts `command` as a child of the engine, with its output captured. Its standard input is the command's. Needs a tokio runtime.
    pub(super) fn spawn(mut command: Command, id: &str, limits: &OutputLimits) -> io::Result<Child> {
        let (output, [stdout, stderr]) = OutputPipes::new()?;
        let pid = command.stdout(stdout).stderr(stderr).spawn()?.id();
        // Dropping the command closes our ends of what the child has inherited.
        drop(command);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a child without a process id"))?;
        let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Not reaped yet, so the number is still its own.
                _ = rustix::process::kill_process(pid, Signal::KILL);
                std::thread::spawn(move || rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()));
                return Err(error.into());
            }
        };
        Self::adopt(id, pid, pidfd, output, limits, Parent::Engine)
    }

    /// Becomes the owner of process `pid`, which `pidfd` names. If that fails the process is killed.
    pub(super) fn adopt(
        id: &str,
        pid: Pid,
        pidfd: OwnedFd,
        output: OutputPipes,
        limits: &OutputLimits,
        parent: Parent,
    ) -> io::Result<Child> {
        let pidfd = watch_pidfd(pidfd)?;
        let output = output.capture(id, pid.as_raw_nonzero().get(), limits);
        let stderr = output.tail().clone();
        let shared = Arc::new(Shared { id: id.to_owned(), pid, pidfd, cause: OnceLock::new(), stderr });
        let (publish, exited) = watch::channel(None);
        let unreaped = Unreaped(Some((Arc::clone(&shared), OwnedProcess::new(pid, id))));
        tokio::spawn(own(unreaped, Arc::clone(&shared), parent, output, publish));
        Ok(Child { shared, exited })
    }

    /// The id it was launched with.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Its process id. It may name another process once the exit is published.
    pub fn pid(&self) -> i32 {
        self.shared.pid.as_raw_nonzero().get()
    }

    /// Kills it, and all processes of its group, with SIGKILL. The first cause is kept; it becomes the cause of the exit unless the
    /// process had already ended otherwise. Does nothing to a process that is reaped.
    pub fn kill(&self, cause: KillCause) {
        if self.exited.borrow().is_none() {
            self.shared.kill(cause);
        }
    }

    /// Whether a signal from outside has stopped it (SIGSTOP): it lives, but will not answer.
    pub fn is_stopped(&self) -> bool {
        self.exited.borrow().is_none() && memory::is_stopped(self.pid())
    }

    /// Resolves when something outside has stopped it and not let it go on until the next look, half a second later.
    pub async fn stopped(&self) {
        let mut looks = 0;
        while looks < 2 {
            tokio::time::sleep(LOOK).await;
            looks = if self.is_stopped() { looks + 1 } else { 0 };
        }
    }

    /// Watches for its end. Holds an `Exit` once the process is reaped, its group is gone and its output is read.
    pub fn exited(&self) -> watch::Receiver<Option<Exit>> {
        self.exited.clone()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        let mut exited = self.exited.clone();
        let exit = exited.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        // The channel closes without a value only when the runtime shuts down.
        exit.unwrap_or_else(|| Ended::default().explain(None))
    }

    /// The last 4 KiB of its stderr.
    pub fn stderr_tail(&self) -> String {
        self.shared.stderr.text()
    }

    /// Its private memory in bytes (see [`memory::private_bytes`]), or `None` if it has ended.
    pub fn private_bytes(&self) -> Option<u64> {
        if self.exited.borrow().is_some() { None } else { memory::private_bytes(self.pid()) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill(KillCause::Dropped);
    }
}

impl Shared {
    fn kill(&self, cause: KillCause) {
        _ = self.cause.set(cause);
        // Its group follows when it is reaped. The only error is that it has been reaped already.
        _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits until the process has ended; it may or may not be reaped then.
    async fn wait_for_end(&self) {
        let ended = || {
            let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        };
        // An error means that the runtime shuts down.
        while self.pidfd.readable().await.is_ok() {
            if self.pidfd.try_io(ended).is_ok() {
                return;
            }
        }
    }

    /// Reaps the process, which has ended, if it is the engine's child. Kills its group first.
    async fn reap(self: &Arc<Self>) -> Ended {
        let wait = |options| waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
        match wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG) {
            Ok(Some(_)) => {}
            // Ended but not yet waitable: a debugger holds it.
            Ok(None) => {
                let this = Arc::clone(self);
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let waited = tokio::task::spawn_blocking(move || waitid(WaitId::PidFd(this.pidfd.as_fd()), options)).await;
                if !matches!(waited, Ok(Ok(Some(_)))) {
                    return Ended::default();
                }
            }
            Err(_) => return Ended::default(),
        }
        let times = memory::cpu_times(self.pid.as_raw_nonzero().get());
        // As long as the leader is not reaped its number cannot name a stranger's group.
        _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let rusage = times.map(|(user, system)| Rusage { user, system, max_resident_bytes: None });
        match wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => Ended { status: status.exit_status(), signal: status.terminating_signal(), rusage },
            _ => Ended { rusage, ..Ended::default() },
        }
    }
}

/// Owns the process until it is reaped. Dropped before that, with the runtime, it kills the process all the same.
struct Unreaped(Option<(Arc<Shared>, OwnedProcess)>);

impl Drop for Unreaped {
    fn drop(&mut self) {
        if let Some((shared, _owned)) = self.0.take()
            && let Ok(pidfd) = shared.pidfd.as_fd().try_clone_to_owned()
        {
            kill_and_forget(pidfd);
        }
    }
}

async fn own(mut unreaped: Unreaped, shared: Arc<Shared>, parent: Parent, output: Output, publish: watch::Sender<Option<Exit>>) {
    shared.wait_for_end().await;
    let reported = match parent {
        Parent::Engine => None,
        Parent::ForkServer { mut report, process } => match tokio::time::timeout(REPORT_TIMEOUT, &mut report).await {
            Ok(reported) => reported.ok(),
            Err(_) => {
                if let Some(process) = process.upgrade() {
                    process.kill(KillCause::Unresponsive);
                }
                report.await.ok()
            }
        },
    };
    let ended = match reported {
        Some(ended) => ended,
        None => shared.reap().await,
    };
    reap_group(shared.pid).await;
    unreaped.0 = None;
    output.finish().await;
    publish.send_replace(Some(ended.explain(shared.cause.get().copied())));
    strays::sweep().await;
}

/// Reaps the processes of group `group` that have become the engine's children. All of them are killed already.
pub(super) async fn reap_group(group: Pid) {
    loop {
        match waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let wait = move || waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED);
                if !matches!(tokio::task::spawn_blocking(wait).await, Ok(Ok(Some(_)))) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Registers a pidfd with the runtime; kills its process if that fails. A pidfd becomes readable, as a pipe does, when its process ends;
/// of tokio's types that watch a descriptor with safe code alone the pipe is the one that asks no more of it.
fn watch_pidfd(pidfd: OwnedFd) -> io::Result<Receiver> {
    let spare = match pidfd.try_clone() {
        Ok(spare) => spare,
        Err(error) => {
            kill_and_forget(pidfd);
            return Err(error);
        }
    };
    Receiver::from_owned_fd_unchecked(pidfd).inspect_err(|_| kill_and_forget(spare))
}

/// Kills a process for which there is no task, and reaps it if it is the engine's child.
pub(super) fn kill_and_forget(pidfd: OwnedFd) {
    _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    std::thread::spawn(move || waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
}

fn waitid(id: WaitId<'_>, options: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
    loop {
        match rustix::process::waitid(id.clone(), options) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
