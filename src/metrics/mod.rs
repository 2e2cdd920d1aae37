//! What is seen from outside (DESIGN D11): counters and latencies by stage, through the `metrics` facade. The binary exports them; an embedded engine's host
//! installs a recorder of its choice, or none.

use crate::batch::Batch;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use pillion_wire::proto;
use std::time::Duration;

/// Seconds that a batch spent in a stage: `queue`, `wire`, `convert` or `user`; by function.
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

/// Threads of functions that hang, or run on although their session was cancelled, in thread mode.
pub const ABANDONED_THREADS: &str = "pillion_abandoned_threads";

/// Tells the recorder what the metrics mean. Call once after installing one.
pub fn describe() {
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "time of a batch in a stage: queue, wire, convert or user");
    describe_counter!(BATCHES, "batches answered, by outcome");
    describe_counter!(RETRIES, "times a batch was tried again after its worker was lost");
    describe_counter!(ROWS, "rows taken in and given out");
    describe_counter!(BYTES, Unit::Bytes, "bytes taken in and given out");
    describe_gauge!(SESSIONS, "open sessions");
    describe_gauge!(WORKERS, "living workers, by state");
    describe_counter!(WORKER_ENDS, "workers that ended, by cause");
    describe_counter!(WORKER_STARTS, "worker starts, by outcome");
    describe_gauge!(ABANDONED_THREADS, "threads of functions that nobody waits for any more, in thread mode");
    describe_histogram!(WORKER_START_SECONDS, Unit::Seconds, "time until a new worker was ready");
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
}

impl BatchMetrics {
    pub fn new(function: &str) -> Self {
        let label = || function.to_owned();
        let directions = ["in", "out"];
        BatchMetrics {
            ok: counter!(BATCHES, "function" => label(), "outcome" => "ok"),
            failed: counter!(BATCHES, "function" => label(), "outcome" => "failed"),
            retries: counter!(RETRIES, "function" => label()),
            rows: directions.map(|direction| counter!(ROWS, "function" => label(), "direction" => direction)),
            bytes: directions.map(|direction| counter!(BYTES, "function" => label(), "direction" => direction)),
            stages: ["queue", "wire", "convert", "user"].map(|stage| histogram!(STAGE_SECONDS, "function" => label(), "stage" => stage)),
        }
    }

    /// A batch was answered; `output` is its result, unless it failed.
    pub fn done(&self, timing: &proto::Timing, input: &Batch, output: Option<&Batch>) {
        for (direction, batch) in [Some(input), output].into_iter().enumerate() {
            let Some(batch) = batch else { continue };
            self.rows[direction].increment(batch.rows());
            self.bytes[direction].increment(batch.bytes());
        }
        if output.is_none() {
            self.failed.increment(1);
            return;
        }
        self.ok.increment(1);
        let nanos = [timing.queue_ns, timing.wire_ns, timing.convert_ns, timing.user_ns];
        for (stage, ns) in self.stages.iter().zip(nanos) {
            stage.record(Duration::from_nanos(ns));
        }
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
