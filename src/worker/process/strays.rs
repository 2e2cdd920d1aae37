//! Finds processes that a worker has left outside its process group: daemons, and helpers started in a session of their own.
//!
//! They become the engine's children when the worker dies (the engine is a subreaper). Each is known by a variable that all descendants of
//! the engine's processes have in the environment they were started with. One that is still there, unowned, when it is looked at again
//! a moment later is killed and reaped: a replacement worker would only start another.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// The variable that marks descendants of this engine's processes; its value is [`mark`].
pub(super) const VARIABLE: &str = "PILLION_ENGINE_PID";

/// The variable that names the worker, set in it and so in the programs that it starts (see `pillion/fork_server.py`).
pub(super) const WORKER_VARIABLE: &str = "PILLION_WORKER_ID";

/// How long a worker of a dead fork server may take to get its owner. Reading one message takes no longer.
const PATIENCE: Duration = Duration::from_secs(2);

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct State {
    /// Processes that have an owner, with the ids of their workers.
    owned: Vec<(i32, String)>,
    sweeping: bool,
    again: bool,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that has an owner, for as long as this lives.
#[derive(Debug)]
pub(super) struct OwnedProcess(i32);

impl OwnedProcess {
    pub fn new(pid: Pid, worker: &str) -> Self {
        let pid = pid.as_raw_nonzero().get();
        state().owned.push((pid, worker.to_owned()));
        Self(pid)
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        let owned = &mut state().owned;
        if let Some(at) = owned.iter().position(|(pid, _)| *pid == self.0) {
            owned.remove(at);
        }
    }
}

/// The value of [`VARIABLE`].
pub(super) fn mark() -> String {
    rustix::process::getpid().as_raw_nonzero().to_string()
}

/// Looks for strays now and after a while, and ends those that are there both times. To be called when a worker has died.
pub(super) async fn sweep() {
    {
        let mut state = state();
        state.again = true;
        if std::mem::replace(&mut state.sweeping, true) {
            return;
        }
    }
    let _sweeping = Sweeping;
    while std::mem::take(&mut state().again) {
        let before = unowned();
        if before.is_empty() {
            continue;
        }
        tokio::time::sleep(PATIENCE).await;
        for stray in unowned_again(&before) {
            tracing::warn!(pid = stray.pid, "killing a process that a worker has left behind");
            stray.end().await;
            // It may have left some in its turn.
            state().again = true;
        }
    }
}

/// That a search runs; reset also if the runtime drops it.
struct Sweeping;

impl Drop for Sweeping {
    fn drop(&mut self) {
        state().sweeping = false;
    }
}

/// A child of this process. The start time tells it from a later process of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stray {
    pid: i32,
    started: u64,
}

impl Stray {
    /// Kills it and its group, and reaps it. It is our child, so that until then its id is its own.
    async fn end(self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        _ = rustix::process::kill_process(pid, Signal::KILL);
        let wait = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if rustix::process::waitid(WaitId::Pid(pid), options).is_ok() {
                // Only if it leads the group; another's group has another number.
                _ = rustix::process::kill_process_group(pid, Signal::KILL);
                _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            }
        };
        // A panic is not possible in there.
        _ = tokio::task::spawn_blocking(wait).await;
        super::child::reap_group(pid).await;
    }
}

/// Children of this process that bear the mark and have no owner, unless the worker that has started them lives: a daemon may be of use to it.
fn unowned() -> Vec<Stray> {
    let is_stray = |child: &Stray| {
        let environment = std::fs::read(format!("/proc/{}/environ", child.pid)).unwrap_or_default();
        let value = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        let state = state();
        let lives = |worker: &[u8]| state.owned.iter().any(|(_, id)| id.as_bytes() == worker);
        let is_owned = state.owned.iter().any(|(pid, _)| *pid == child.pid);
        !is_owned && value(VARIABLE) == Some(mark().as_bytes()) && !value(WORKER_VARIABLE).is_some_and(lives)
    };
    children().into_iter().filter(is_stray).collect()
}

/// Those of `before` that are still there and still have no owner, be they ended in the meantime.
fn unowned_again(before: &[Stray]) -> Vec<Stray> {
    let is_owned = |pid| state().owned.iter().any(|(owned, _)| *owned == pid);
    children().into_iter().filter(|child| before.contains(child) && !is_owned(child.pid)).collect()
}

fn children() -> Vec<Stray> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let of_thread = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).ok();
    let pids: Vec<String> = threads.flatten().filter_map(of_thread).collect();
    let stray = |pid: &str| {
        let pid = pid.parse().ok()?;
        Some(Stray { pid, started: super::memory::start_time(pid)? })
    };
    pids.iter().flat_map(|pids| pids.split_whitespace()).filter_map(stray).collect()
}
