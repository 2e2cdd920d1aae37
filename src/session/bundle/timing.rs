//! Where the time of a batch goes.

use crate::{
    session::{Job, Session},
    worker::Cost,
};
use pillion_wire::proto;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

impl Session {
    /// How long a batch may be expected to take in a worker.
    pub(super) fn batch_time(&self) -> Duration {
        Duration::from_nanos(self.batch_ns.load(Ordering::Relaxed))
    }

    /// A batch took so long in a worker.
    pub(super) fn saw_batch_time(&self, time: Duration) {
        // Forgets slowly, so that one short batch among long ones does not deceive. A race between drivers loses a sample, no more.
        let before = match self.batch_ns.load(Ordering::Relaxed) {
            u64::MAX => 0,
            before => before - before / 8,
        };
        self.batch_ns.store(nanos(time).max(before), Ordering::Relaxed);
    }
}

/// What a batch in its worker is traced under, within the span that is current.
pub(in crate::session) fn worker_span(worker: &str, job: &Job) -> tracing::Span {
    let attempt = job.attempts + job.attempts_outside + 1;
    tracing::debug_span!("worker", worker, seq = job.seq, attempt, error = tracing::field::Empty)
}

pub(in crate::session) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Splits the time since a batch was queued into stages, of which it has `waited` for state; the wire gets what nobody else accounts for.
pub(in crate::session) fn timing(queued: Instant, sent: Instant, waited: Duration, cost: Cost) -> proto::Timing {
    let crossing = nanos(sent.elapsed());
    proto::Timing {
        queue_ns: nanos(sent.duration_since(queued)),
        wire_ns: crossing.saturating_sub(cost.convert_ns + cost.user_ns + nanos(waited)),
        convert_ns: cost.convert_ns,
        user_ns: cost.user_ns,
        state_ns: nanos(waited),
    }
}
