//! What a joint batch took, shared out among its parts.

use pillion_wire::proto;
use std::time::Duration;

/// The part of the rows from `done`, `count` of `rows`, in the time of all: work is shared out by rows, without loss; all have waited as long as the whole.
pub(super) fn shared_out(timing: &proto::Timing, (done, count, rows): (usize, usize, usize), gathered: Duration) -> proto::Timing {
    let upto = |ns: u64, row: usize| if rows == 0 { 0 } else { (u128::from(ns) * row as u128 / rows as u128) as u64 };
    let share = |ns| upto(ns, done + count) - upto(ns, done);
    proto::Timing {
        queue_ns: timing.queue_ns.saturating_add(nanos(gathered)),
        wire_ns: share(timing.wire_ns),
        convert_ns: share(timing.convert_ns),
        user_ns: share(timing.user_ns),
        state_ns: share(timing.state_ns),
    }
}

/// In nanoseconds.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
