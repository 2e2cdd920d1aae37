//! Faults by name, for tests: with `PILLION_TEST_FAULT=POINT:N` the process kills itself when it comes to that point for the N-th time, as if by SIGKILL from outside. Without the variable
//! a point costs the reading of one static.

use rustix::process::{Signal, getpid, kill_process};
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// The variable.
pub const VARIABLE: &str = "PILLION_TEST_FAULT";

/// Where a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A keyed bundle's state is about to be read.
    Read,
    /// Its function was called, and has not answered.
    Called,
    /// Its effects are there, and not committed.
    Answered,
    /// The store has taken a part of them.
    Committing,
    /// It has taken all, and no result was given out.
    Committed,
    /// Some files of a checkpoint are written.
    Checkpointing,
    /// Its manifest is written, and nobody was told.
    Checkpointed,
    /// A run's outputs of a checkpoint are in their place, and its record is not written.
    Recording,
    /// The record is written.
    Recorded,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 9] = [
        Point::Read,
        Point::Called,
        Point::Answered,
        Point::Committing,
        Point::Committed,
        Point::Checkpointing,
        Point::Checkpointed,
        Point::Recording,
        Point::Recorded,
    ];

    /// As the variable names it.
    pub const fn name(self) -> &'static str {
        match self {
            Point::Read => "read",
            Point::Called => "called",
            Point::Answered => "answered",
            Point::Committing => "committing",
            Point::Committed => "committed",
            Point::Checkpointing => "checkpointing",
            Point::Checkpointed => "checkpointed",
            Point::Recording => "recording",
            Point::Recorded => "recorded",
        }
    }

    fn parse(text: &str) -> Option<(Point, AtomicU64)> {
        let (name, times) = text.split_once(':')?;
        let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
        Some((point, AtomicU64::new(times.parse().ok()?)))
    }
}

static FAULT: LazyLock<Option<(Point, AtomicU64)>> = LazyLock::new(|| Point::parse(&std::env::var(VARIABLE).ok()?));

/// The process comes to a point.
#[inline]
pub fn reach(point: Point) {
    if let Some((at, left)) = &*FAULT
        && *at == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        // It cannot be refused, and nothing runs behind it.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named() {
        for point in Point::ALL {
            let (parsed, times) = Point::parse(&format!("{}:3", point.name())).unwrap();
            assert_eq!((parsed, times.into_inner()), (point, 3));
        }
        assert!(Point::parse("read").is_none() && Point::parse("nowhere:1").is_none() && Point::parse("read:often").is_none());
    }
}
