//! What goes into a session and comes out of it.

use super::{credit::Amount, fetch::Fetcher};
use crate::{batch::Batch, config::Limits, error::Result, metrics::BatchMetrics};
use bytes::Bytes;
use pillion_wire::proto;
use std::{sync::Arc, time::Duration};

/// One input of a session.
#[derive(Debug)]
pub enum Input {
    /// A batch for the function.
    Batch(Batch),
    /// Passed on behind the answers to what came before.
    Watermark(proto::Watermark),
    /// Noted; a stateless function has no use for it.
    Idle(proto::Idle),
    /// Answered by [`Answer::Snapshotted`]; a stateless function has nothing to write.
    Barrier(proto::Barrier),
    /// The processing time of a keyed session whose host is its clock, in ms.
    ProcessingTime(i64),
    /// A batch for another input of a keyed session than the first.
    Other(u32, Batch),
    /// A checkpoint of a keyed session is not needed any more.
    Discard(String),
}

/// What comes out of a session, in input order.
#[derive(Debug)]
pub enum Answer {
    /// The answer to batch `seq`: a result, or why it failed and had no effect. Of a keyed session one of any number of results; `output` 0 is the main one.
    Batch { seq: u64, output: u32, result: Result<Batch>, timing: proto::Timing, metrics: Vec<proto::MetricDelta>, refund: Amount },
    /// Of a keyed session: batch `seq` has taken effect, its results are complete.
    Sealed { seq: u64, refund: Amount },
    /// Of a session whose host keeps the state: behind the results of a bundle, which the host now applies. `seq` is of the input that it belongs to.
    Committed { seq: u64, bundle: u64 },
    /// A watermark, after everything it covers.
    Watermark { seq: u64, watermark: proto::Watermark },
    /// What precedes it belongs to the checkpoint, nothing after.
    Snapshotted { seq: u64, checkpoint_id: u64 },
    /// What became of a checkpoint. Comes when it is known, wherever the session is then.
    Checkpointed { checkpoint_id: u64, result: Result<proto::Checkpoint> },
    /// The last answer.
    Ended(proto::Ended),
}

/// The largest weight of a session.
pub const MAX_WEIGHT: u32 = 1000;

/// How a session behaves, with the defaults filled in.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Results keep the input order.
    pub ordered: bool,
    /// Longest time a batch may take in a worker.
    pub deadline: Duration,
    /// Tries of a batch that itself kills or hangs its worker.
    pub max_attempts: u32,
    /// Most workers at once.
    pub max_workers: usize,
    /// Share of the workers, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// The rest of the limits.
    pub limits: Limits,
}

/// What a worker must load to serve a session.
pub struct SessionPlan {
    /// Unique in the engine.
    pub id: u64,
    /// As sent to workers.
    pub prepare: Arc<proto::Prepare>,
    /// The functions, for people.
    pub functions: String,
    /// Answers what they ask in the middle of a batch; without it they may not.
    pub fetcher: Option<Arc<dyn Fetcher>>,
}

/// What opening a session found out.
#[derive(Clone, Debug)]
pub struct Described {
    /// IPC schema message of the results.
    pub output_schema: Bytes,
    /// The functions of the plan.
    pub functions: Vec<proto::FunctionDescription>,
    /// Where they run.
    pub environment: proto::EnvironmentDescription,
    /// Whether hosts may read results in place, in memory that the functions could still write.
    pub trusted: bool,
}

/// How a session is seen from outside.
pub(super) struct Seen {
    pub id: String,
    pub name: String,
    pub span: tracing::Span,
    pub metrics: BatchMetrics,
}
