//! What is seen from outside (DESIGN D11): counters and latencies by stage, through the `metrics` facade. The binary exports them; an embedded engine's host
//! installs a recorder of its choice, or none, before its first session.

mod series;
mod state;
mod totals;
mod user;

pub use pillion_wire::metrics::SECONDS;
pub use series::PREFIX as USER_PREFIX;
pub(crate) use state::StateMetrics;
pub use state::{CHECKPOINT_BYTES, CHECKPOINT_SECONDS, CHECKPOINTS, STATE_BYTES, STATE_CACHE, STATE_ENTRIES, STATE_EXPIRED, TIMERS};
pub use totals::{MetricId, MetricTotal, MetricTotals};

use crate::batch::Batch;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use pillion_wire::proto;
use std::{sync::OnceLock, time::Duration};
use user::UserMetrics;

/// Seconds that a batch spent in a stage: `queue`, `wire`, `convert`, `user`, and for stateful functions `state`; by function.
pub const STAGE_SECONDS: &str = "pillion_batch_stage_seconds";
/// Batches answered, by function and outcome (`ok`, `failed`).
pub const BATCHES: &str = "pillion_batches_total";
/// Times that a batch was tried again after its worker was lost, by function.
pub const RETRIES: &str = "pillion_batch_retries_total";
/// Rows taken in and given out, by function and direction.
pub const ROWS: &str = "pillion_rows_total";
/// Bytes taken in and given out, by function and direction.
pub const BYTES: &str = "pillion_bytes_total";
/// Open sessions.
pub const SESSIONS: &str = "pillion_sessions";
/// Living workers, by environment and state (`idle`, `busy`).
pub const WORKERS: &str = "pillion_workers";
/// Workers that ended, by environment and cause.
pub const WORKER_ENDS: &str = "pillion_worker_ends_total";
/// Worker starts, by environment and outcome.
pub const WORKER_STARTS: &str = "pillion_worker_starts_total";
/// Seconds from the wish for a worker to its readiness, by environment.
pub const WORKER_START_SECONDS: &str = "pillion_worker_start_seconds";
/// Deltas of user metrics that were left out because something is wrong with them, or beyond a limit; by function.
pub const USER_METRICS_REFUSED: &str = "pillion_metrics_refused_total";
/// Threads of functions that hang, or run on although their session was cancelled, in thread mode.
pub const ABANDONED_THREADS: &str = "pillion_abandoned_threads";

/// Tells the recorder what the metrics mean. Call once after installing one.
pub fn describe() {
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "time of a batch in a stage: queue, wire, convert, user or state");
    describe_counter!(BATCHES, "batches answered, by outcome");
    describe_counter!(RETRIES, "times a batch was tried again after its worker was lost");
    describe_counter!(ROWS, "rows taken in and given out");
    describe_counter!(BYTES, Unit::Bytes, "bytes taken in and given out");
    describe_gauge!(SESSIONS, "open sessions");
    describe_gauge!(WORKERS, "living workers, by state");
    describe_counter!(WORKER_ENDS, "workers that ended, by cause");
    describe_counter!(WORKER_STARTS, "worker starts, by outcome");
    describe_counter!(USER_METRICS_REFUSED, "deltas of user metrics that were left out");
    describe_gauge!(ABANDONED_THREADS, "threads of functions that nobody waits for any more, in thread mode");
    describe_histogram!(WORKER_START_SECONDS, Unit::Seconds, "time until a new worker was ready");
    state::describe();
}

pub(crate) fn session_opened() {
    gauge!(SESSIONS).increment(1);
}

pub(crate) fn session_closed() {
    gauge!(SESSIONS).decrement(1);
}

/// The metrics of one session's functions, looked up once.
pub(crate) struct BatchMetrics {
    ok: Counter,
    failed: Counter,
    retries: Counter,
    rows: [Counter; 2],
    bytes: [Counter; 2],
    stages: [Histogram; 4],
    /// Of functions with state only.
    state: OnceLock<Histogram>,
    functions: String,
    /// None for calls.
    user: Option<UserMetrics>,
}

impl BatchMetrics {
    /// For a session of these functions, with at most so many series of user metrics.
    pub fn new(function: &str, max_series: u32) -> Self {
        BatchMetrics { user: Some(UserMetrics::new(function, max_series)), ..BatchMetrics::of_calls(function) }
    }

    /// For the calls of a keyed session of these functions. Its bundles count when they are applied, not when the function has answered: of calls only what went wrong counts.
    pub fn of_calls(function: &str) -> Self {
        let label = || function.to_owned();
        let directions = ["in", "out"];
        BatchMetrics {
            ok: counter!(BATCHES, "function" => label(), "outcome" => "ok"),
            failed: counter!(BATCHES, "function" => label(), "outcome" => "failed"),
            retries: counter!(RETRIES, "function" => label()),
            rows: directions.map(|direction| counter!(ROWS, "function" => label(), "direction" => direction)),
            bytes: directions.map(|direction| counter!(BYTES, "function" => label(), "direction" => direction)),
            stages: ["queue", "wire", "convert", "user"].map(|stage| histogram!(STAGE_SECONDS, "function" => label(), "stage" => stage)),
            state: OnceLock::new(),
            functions: label(),
            user: None,
        }
    }

    /// A batch was answered; `output` is its result, unless it failed. Takes what user metrics gained with it, and gives what the host is told of them: a failed batch
    /// has had no effect, on them neither.
    pub fn done(
        &self,
        timing: &proto::Timing,
        input: &Batch,
        output: Option<&Batch>,
        deltas: Vec<proto::MetricDelta>,
    ) -> Vec<proto::MetricDelta> {
        let user = match (&self.user, output) {
            (Some(user), _) => user,
            (None, Some(_)) => return deltas,
            (None, None) => {
                self.failed.increment(1);
                return Vec::new();
            }
        };
        for (direction, batch) in [Some(input), output].into_iter().enumerate() {
            let Some(batch) = batch else { continue };
            self.rows[direction].increment(batch.rows());
            self.bytes[direction].increment(batch.bytes());
        }
        if output.is_none() {
            self.failed.increment(1);
            return Vec::new();
        }
        self.ok.increment(1);
        let nanos = [timing.queue_ns, timing.wire_ns, timing.convert_ns, timing.user_ns];
        for (stage, ns) in self.stages.iter().zip(nanos) {
            stage.record(Duration::from_nanos(ns));
        }
        if timing.state_ns > 0 {
            let state = self.state.get_or_init(|| histogram!(STAGE_SECONDS, "function" => self.functions.clone(), "stage" => "state"));
            state.record(Duration::from_nanos(timing.state_ns));
        }
        user.add(deltas)
    }

    /// A batch is tried again after its worker was lost.
    pub fn retried(&self) {
        self.retries.increment(1);
    }
}

pub(crate) fn worker_started(environment: &str, took: Duration, ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!(WORKER_STARTS, "environment" => environment.to_owned(), "outcome" => outcome).increment(1);
    if ok {
        histogram!(WORKER_START_SECONDS, "environment" => environment.to_owned()).record(took);
    }
}

pub(crate) fn worker_ended(environment: &str, cause: &str) {
    counter!(WORKER_ENDS, "environment" => environment.to_owned(), "cause" => cause.to_owned()).increment(1);
}

pub(crate) fn thread_abandoned() {
    gauge!(ABANDONED_THREADS).increment(1);
}

pub(crate) fn thread_came_back() {
    gauge!(ABANDONED_THREADS).decrement(1);
}

pub(crate) fn workers(environment: &str, idle: usize, all: usize) {
    gauge!(WORKERS, "environment" => environment.to_owned(), "state" => "idle").set(idle as f64);
    gauge!(WORKERS, "environment" => environment.to_owned(), "state" => "busy").set(all.saturating_sub(idle) as f64);
}

#[cfg(test)]
mod tests;
