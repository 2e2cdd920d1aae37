//! What `/proc` says about a process: its memory, its state, its processor time.
//!
//! All of these read small kernel files and are quick, but `private_bytes` walks the page tables (about a millisecond for a
//! worker with pandas): sample it, do not poll it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Private memory of process `pid` in bytes: what would be free if it alone ended, without the pages that it still shares with
/// its fork server. `None` if the process is gone or the kernel does not tell.
pub fn private_bytes(pid: i32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
    };
    Some((kib("Private_Clean:") + kib("Private_Dirty:") + kib("Private_Hugetlb:") + kib("Swap:")) * 1024)
}

/// The state letter of process `pid` (`R`, `S`, `D`, `T`, `Z`, ...), or `None` if it is gone.
pub fn state(pid: i32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// Whether a signal from outside has stopped process `pid` (state `T`).
pub fn is_stopped(pid: i32) -> bool {
    state(pid) == Some('T')
}

/// Processor time of process `pid` so far, in user and in kernel code. A process that has ended but is not reaped still has it.
pub fn cpu_times(pid: i32) -> Option<(Duration, Duration)> {
    let fields = stat_fields(pid)?;
    let ticks = rustix::param::clock_ticks_per_second();
    let time = |field: &String| field.parse().ok().map(|n: u64| Duration::from_nanos(n.saturating_mul(1_000_000_000 / ticks.max(1))));
    Some((time(fields.get(11)?)?, time(fields.get(12)?)?))
}

/// What [`pid_of`] gives for a process that is reaped.
pub const REAPED: i32 = -1;

/// The id of the process that `pidfd` names; `None` if the descriptor is something else.
pub fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// When process `pid` was started, in clock ticks since the machine was: with the id, a name that is never used again.
pub fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// How many processes the kernel has killed for lack of memory, in this process's cgroup if that keeps count, else anywhere.
pub fn oom_kills() -> Option<u64> {
    let count = |text: String| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok();
    let own = cgroup.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::")));
    let events = own.and_then(|path| std::fs::read_to_string(format!("/sys/fs/cgroup{}/memory.events", path.trim_end_matches('/'))).ok());
    events.and_then(count).or_else(|| std::fs::read_to_string("/proc/vmstat").ok().and_then(count))
}

/// The fields of `/proc/<pid>/stat` from the state on. The name before them may hold spaces and brackets.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_runs() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert!(private_bytes(pid).unwrap() > 64 * 1024);
        assert!(matches!(state(pid), Some('R' | 'S')));
        assert!(!is_stopped(pid));
        assert!(cpu_times(pid).is_some());
    }

    #[test]
    fn a_pidfd_names_its_process() {
        let pid = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(pid_of(&pidfd), Some(pid.as_raw_nonzero().get()));
        assert_eq!(pid_of(&rustix::pipe::pipe().unwrap().0), None);

        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert_eq!(pid_of(&pidfd), Some(REAPED));
    }

    #[test]
    fn a_process_that_is_gone_has_neither() {
        let pid = i32::MAX;
        assert_eq!((private_bytes(pid), state(pid), cpu_times(pid)), (None, None, None));
        assert!(!is_stopped(pid));
    }

    #[test]
    fn memory_that_is_touched_is_counted() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let before = private_bytes(pid).unwrap();
        // Built from a value that the compiler does not know, and kept until after the second look.
        let block = std::hint::black_box(vec![std::hint::black_box(1_u8); 64 << 20]);
        let after = private_bytes(pid).unwrap();
        assert!(after >= before + (48 << 20), "{before} {after}");
        std::hint::black_box(block);
    }
}
