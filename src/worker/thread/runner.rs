//! The calls of a worker of thread mode into the runtime.

use super::{
    table::{Handle, Question},
    worker::ThreadSettings,
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    worker::{Cost, FromWorker, ToWorker},
};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use pillion_wire::{
    bundle::Layout,
    ipc::{Decoder, schema_from_ipc},
    proto,
};
use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Gives the state that the function of a plan's batch asks for: plan, batch, question.
pub(super) type Fetch<'a> = &'a dyn Fn(u64, u64, RecordBatch) -> Result<Batch>;

/// The worker's functions and plans, on whatever thread calls them.
pub(super) struct Runner {
    pub handle: Arc<Handle>,
    plans: Mutex<HashMap<u64, Arc<Plan>>>,
    settings: ThreadSettings,
}

/// A plan that the runtime has prepared.
struct Plan {
    /// For batches that crossed a wire.
    decoder: Decoder,
    output: SchemaRef,
    /// Of a keyed plan.
    layout: Option<Layout>,
}

impl Runner {
    pub fn new(handle: Handle, settings: ThreadSettings) -> Self {
        Runner { handle: Arc::new(handle), plans: Mutex::default(), settings }
    }

    /// Does what the message asks.
    pub fn answer(&self, message: ToWorker, fetch: Option<Fetch<'_>>) -> Option<FromWorker> {
        Some(match message {
            ToWorker::Prepare { plan_id, prepare } => {
                self.forget(plan_id);
                match self.prepare(plan_id, &prepare) {
                    Ok(prepared) => FromWorker::Prepared(prepared),
                    Err(error) => FromWorker::Refused(error),
                }
            }
            ToWorker::Describe { function } => match self.handle.describe(&function) {
                Ok(described) => FromWorker::Described(Box::new(described)),
                Err(error) => FromWorker::Refused(error),
            },
            ToWorker::Batch { plan_id, seq, batch } => {
                let (result, cost) = self.execute(plan_id, seq, batch, fetch);
                let (result, metrics) =
                    result.map(|(batch, metrics)| (Ok(Batch::Arrow(batch)), metrics)).unwrap_or_else(|error| (Err(error), Vec::new()));
                FromWorker::Answer { seq, result, cost, metrics }
            }
            ToWorker::Release { plan_id } => {
                self.forget(plan_id);
                self.handle.release(plan_id);
                return None;
            }
            // Whoever asked has been given up.
            ToWorker::Fetched { .. } => return None,
        })
    }

    fn prepare(&self, plan_id: u64, prepare: &proto::Prepare) -> Result<proto::Prepared> {
        let prepared = self.handle.prepare(plan_id, prepare)?;
        let damaged =
            |error: arrow_schema::ArrowError| Error::new(Code::ProtocolViolation, "a schema is damaged").detail(error.to_string());
        let (mut input, mut output) =
            (schema_from_ipc(&prepare.input_schema).map_err(damaged)?, schema_from_ipc(&prepared.output_schema).map_err(damaged)?);
        let mut layout = None;
        if let (Some(keyed), Some(function)) = (&prepare.keyed, prepared.functions.first()) {
            let keyed = layout.insert(Layout::new(keyed, &output, function).map_err(damaged)?);
            (input, output) = (keyed.bundle.clone(), keyed.effects.clone());
        }
        let plan = Plan { decoder: Decoder::new(&input).map_err(damaged)?, output, layout };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).insert(plan_id, Arc::new(plan));
        Ok(prepared)
    }

    fn forget(&self, plan_id: u64) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(&plan_id);
    }

    fn execute(
        &self,
        plan_id: u64,
        seq: u64,
        batch: Batch,
        fetch: Option<Fetch<'_>>,
    ) -> (Result<(RecordBatch, Vec<proto::MetricDelta>)>, Cost) {
        let began = Instant::now();
        let plan = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&plan_id).cloned();
        let batch = match (batch, &plan) {
            (Batch::Arrow(batch), _) => batch,
            (Batch::Frame(frame), Some(plan)) => match plan.decoder.decode(&frame) {
                Ok(batch) => batch,
                Err(error) => {
                    let error = Error::new(Code::ProtocolViolation, format!("the batch cannot be decoded: {error}"));
                    return (Err(error), Cost::default());
                }
            },
            // The runtime answers with what was wrong with the plan, and looks at no rows.
            (Batch::Frame(_), None) => RecordBatch::new_empty(Arc::new(arrow_schema::Schema::empty())),
        };
        let empty = || Arc::new(arrow_schema::Schema::empty());
        let output = plan.as_ref().map_or_else(empty, |plan| plan.output.clone());
        let layout = plan.as_ref().and_then(|plan| plan.layout.as_ref());
        let waited = Cell::new(Duration::ZERO);
        let ask = fetch.zip(layout).map(|(fetch, layout)| {
            let waited = &waited;
            move |asked| {
                let asking = Instant::now();
                let answer = fetch(plan_id, seq, asked).and_then(|batch| arrays(batch, layout));
                waited.set(waited.get() + asking.elapsed());
                answer
            }
        });
        let question = ask.as_ref().zip(layout).map(|(ask, layout)| Question { layout, ask });
        let (result, mut cost) = self.handle.execute(plan_id, batch, &output, question.as_ref());
        let inside = u64::try_from((began.elapsed() - waited.get()).as_nanos()).unwrap_or(u64::MAX);
        cost.convert_ns = inside.saturating_sub(cost.user_ns);
        (result.and_then(|(result, metrics)| Ok((self.check_size(result)?, metrics))), cost)
    }

    /// What a worker process checks before it sends.
    fn check_size(&self, result: RecordBatch) -> Result<RecordBatch> {
        let (rows, bytes) = (result.num_rows() as u64, Batch::Arrow(result.clone()).bytes());
        let (what, value, limit) = if rows > self.settings.result_rows {
            ("rows", rows, self.settings.result_rows)
        } else if bytes > self.settings.result_bytes {
            ("bytes", bytes, self.settings.result_bytes)
        } else {
            return Ok(result);
        };
        Err(Error::new(Code::BatchTooLarge, format!("the result of {value} {what} is above the limit of {limit}"))
            .hint("send smaller batches, or return less for each"))
    }
}

/// State as it crosses to threads.
fn arrays(batch: Batch, layout: &Layout) -> Result<RecordBatch> {
    match batch {
        Batch::Arrow(batch) => Ok(batch),
        Batch::Frame(frame) => Decoder::new(&layout.fetched)
            .and_then(|decoder| decoder.decode(&frame))
            .map_err(|error| Error::new(Code::ProtocolViolation, "state cannot be decoded").detail(error.to_string())),
    }
}
