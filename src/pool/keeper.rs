//! The pool's housekeeping: keeps `min` workers, ends idle and stopped ones, watches memory.

use super::Pool;
use crate::worker::KillCause;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the keeper looks.
const PERIOD: Duration = Duration::from_millis(500);

/// Starts the keeper; it ends with its pool.
pub(super) fn start(pool: &Arc<Pool>) {
    tokio::spawn(keep(Arc::downgrade(pool)));
}

async fn keep(pool: Weak<Pool>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        if pool.lock().closed {
            return;
        }
        pool.fill();
        pool.end_idle();
        pool.end_stopped();
        pool.watch_memory();
    }
}

impl Pool {
    /// Starts workers up to `min`.
    fn fill(self: &Arc<Self>) {
        let mut state = self.lock();
        let limits = &self.limits.pool;
        // Those that are ending still take up room, but are not kept ready.
        while state.staying() + state.starting < limits.min && state.members.len() + state.starting < self.max() {
            // Started one at a time after a failure, so that a broken environment is not hammered.
            if state.starting > 0 {
                return;
            }
            self.start_worker(&mut state);
        }
    }

    /// Ends idle workers beyond `min` that were idle for long enough, the longest idle first.
    fn end_idle(&self) {
        let limits = &self.limits.pool;
        let retired = {
            let mut state = self.lock();
            let mut spare = state.staying().saturating_sub(limits.min);
            let now = Instant::now();
            let mut retired = Vec::new();
            while spare > 0
                && let Some(at) = state.idle.iter().position(|slot| now.duration_since(slot.idle_since) >= limits.idle_timeout)
            {
                let slot = state.idle.remove(at);
                state.mark_ending(slot.worker.id());
                retired.push(slot);
                spare -= 1;
            }
            retired
        };
        for slot in retired {
            self.retire(slot);
        }
    }

    /// Kills idle workers that something outside has stopped: whoever leases them would wait until a deadline. Busy ones have that deadline.
    fn end_stopped(&self) {
        let idle: Vec<_> = self.lock().idle.iter().map(|slot| slot.worker.control()).collect();
        for control in idle.iter().filter(|control| control.is_stopped()) {
            tracing::warn!(pid = control.pid(), "an idle worker was stopped from outside, and is replaced");
            control.kill(KillCause::Retired);
        }
    }

    /// Kills workers that are over the memory limit within a bundle, or while they load a function. Idle ones retire when they are given back or leased next.
    fn watch_memory(&self) {
        let Some(max) = self.limits.pool.max_memory else { return };
        let busy: Vec<_> =
            self.lock().members.values().filter(|member| member.busy && !member.ending).map(|member| member.control.clone()).collect();
        for control in busy {
            if control.private_bytes().is_some_and(|bytes| bytes > max) {
                tracing::warn!(pid = control.pid(), max, "worker over its memory limit is killed");
                control.kill(KillCause::Memory);
            }
        }
    }
}
