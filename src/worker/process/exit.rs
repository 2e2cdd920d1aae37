//! How a process ended, and why.

use std::fmt;
use std::time::Duration;

use super::memory;
use crate::worker::KillCause;

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitCause {
    /// The engine killed it.
    Killed(KillCause),
    /// It ended by itself, with an exit status.
    Exited,
    /// It crashed: a signal that a fault of its own raises (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP).
    Crashed,
    /// The kernel killed it for lack of memory, as far as the kernel's count tells.
    OutOfMemory,
    /// Somebody else sent it a signal.
    OutsideSignal,
    /// Its fork server died with the answer.
    Unknown,
}

impl ExitCause {
    /// The cause as a label of metrics and logs: finer than [`Exit::loss_cause`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Killed(cause) => cause.as_str(),
            Self::Exited => "exited",
            Self::Crashed => "crashed",
            Self::OutOfMemory => "out_of_memory",
            Self::OutsideSignal => "outside_signal",
            Self::Unknown => "unknown",
        }
    }
}

/// What a process has used in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rusage {
    /// Processor time in user code.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory that was resident at once, shared pages included. Known only of workers that their fork server reaped.
    pub max_resident_bytes: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub cause: ExitCause,
    /// The exit status, if it ended by itself.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it has used, where known.
    pub rusage: Option<Rusage>,
}

impl Exit {
    /// The word in `WorkerLoss.cause`.
    pub const fn loss_cause(&self) -> &'static str {
        match self.cause {
            ExitCause::Killed(cause) => cause.as_str(),
            ExitCause::Exited => "exit",
            ExitCause::Crashed | ExitCause::OutOfMemory | ExitCause::OutsideSignal => "signal",
            ExitCause::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.cause, self.status, self.signal) {
            (ExitCause::Killed(cause), ..) => write!(f, "was killed by the engine ({})", cause.as_str()),
            (ExitCause::OutOfMemory, ..) => write!(f, "was killed by the kernel, probably for lack of memory"),
            (_, Some(status), _) => write!(f, "exited with status {status}"),
            (ExitCause::Crashed, _, Some(signal)) => write!(f, "crashed with {}", signal_name(signal)),
            (_, _, Some(signal)) => write!(f, "was ended by {} from outside", signal_name(signal)),
            _ => write!(f, "ended for an unknown reason"),
        }
    }
}

/// The raw end of a process, as its parent learns it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    pub status: Option<i32>,
    pub signal: Option<i32>,
    pub rusage: Option<Rusage>,
}

impl Ended {
    /// Why it ended, given why the engine killed it, if it did. The kill may have come too late to be the cause.
    pub fn explain(self, killed: Option<KillCause>) -> Exit {
        let cause = match (self.status, self.signal, killed) {
            (None, Some(9), Some(cause)) | (None, None, Some(cause)) => ExitCause::Killed(cause),
            (Some(_), ..) => ExitCause::Exited,
            (_, Some(9), None) if oom::another() => ExitCause::OutOfMemory,
            (_, Some(4..=8 | 11 | 31), _) => ExitCause::Crashed,
            (_, Some(_), _) => ExitCause::OutsideSignal,
            (None, None, None) => ExitCause::Unknown,
        };
        Exit { cause, status: self.status, signal: self.signal, rusage: self.rusage }
    }
}

/// The name of a signal that may end a process, as in `kill -l`.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Tells deaths for lack of memory from other SIGKILLs by the kernel's count of them.
mod oom {
    use super::memory;
    use std::sync::Mutex;
    use std::sync::PoisonError;

    static SEEN: Mutex<Option<u64>> = Mutex::new(None);

    /// Takes note of the kills so far, which belong to none of our processes. Later calls change nothing.
    pub(in super::super) fn start() {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none() {
            *seen = memory::oom_kills();
        }
    }

    /// Whether the kernel has killed once more than we know of; counts it as known then.
    pub(super) fn another() -> bool {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        match (*seen, memory::oom_kills()) {
            (Some(before), Some(now)) if now > before => {
                *seen = Some(before + 1);
                true
            }
            _ => false,
        }
    }
}

pub(super) use oom::start as start_counting_oom_kills;

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(status: Option<i32>, signal: Option<i32>, killed: Option<KillCause>) -> (ExitCause, &'static str, String) {
        let exit = Ended { status, signal, rusage: None }.explain(killed);
        (exit.cause, exit.loss_cause(), exit.to_string())
    }

    #[test]
    fn each_end_has_its_cause() {
        let deadline = Some(KillCause::Deadline);
        let killed = ExitCause::Killed(KillCause::Deadline);
        let by_engine = "was killed by the engine (deadline)".to_owned();
        assert_eq!(explained(None, Some(9), deadline), (killed, "deadline", by_engine.clone()));
        assert_eq!(explained(None, None, deadline), (killed, "deadline", by_engine));
        assert_eq!(explained(Some(3), None, deadline), (ExitCause::Exited, "exit", "exited with status 3".into()));
        assert_eq!(explained(None, Some(11), deadline), (ExitCause::Crashed, "signal", "crashed with SIGSEGV".into()));
        assert_eq!(explained(None, Some(6), None), (ExitCause::Crashed, "signal", "crashed with SIGABRT".into()));
        assert_eq!(explained(None, Some(15), None), (ExitCause::OutsideSignal, "signal", "was ended by SIGTERM from outside".into()));
        assert_eq!(explained(None, Some(40), None).2, "was ended by signal 40 from outside");
        assert_eq!(explained(None, None, None), (ExitCause::Unknown, "unknown", "ended for an unknown reason".into()));
    }
}
