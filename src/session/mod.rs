//! Sessions: one operator's conversation with the engine (hops 4 and 8).
//!
//! Inputs queue up in order; drivers ([`bundle`]) take them to leased workers; answers are released in input order ([`order`]). The functions of this kind of session
//! are stateless, so a bundle commits batch by batch: [`Session::commit`] is the one place where an answer takes effect.

mod bundle;
pub mod claims;
pub mod credit;
mod fetch;
mod here;
mod input;
mod keyed;
mod load;
mod open;
mod order;
mod output;
mod types;

pub use input::check_batch;
pub use keyed::Stores;
pub(crate) use load::describe;
pub use open::{Ids, OpenRequest, check_schema, open};
pub(crate) use order::Order;
use types::Seen;
pub use types::{Answer, Behaviour, Described, Input, MAX_WEIGHT, SessionPlan};

use crate::{
    batch::Batch,
    config::Limits,
    error::{Error, Result},
    metrics::{self, BatchMetrics},
    pool::Pool,
};
use credit::Amount;
use pillion_wire::proto;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    task::Waker,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::Instrument;

/// An open session.
pub struct Session {
    id: String,
    name: String,
    plan: SessionPlan,
    behaviour: Behaviour,
    described: Described,
    pool: Arc<Pool>,
    /// Where the inputs of a keyed session go; without, drivers take batches from the queue.
    intake: Option<keyed::Intake>,
    state: Mutex<State>,
    /// One permit per batch that an idle driver was promised.
    work: Semaphore,
    /// Wakes a driver whose bundle has room for one more batch.
    more: Notify,
    cancelled: Notify,
    /// How long batches take in a worker, in nanoseconds: the longest of late. As good as for ever until it is known.
    batch_ns: AtomicU64,
    metrics: BatchMetrics,
    /// What everything that is done for the session is traced under.
    span: tracing::Span,
    /// Where its drivers run.
    runtime: Handle,
}

struct State {
    queue: VecDeque<Job>,
    order: Order<Answer>,
    /// What comes at any time after the mark of this input.
    aside: VecDeque<(u64, Answer)>,
    /// The last barrier whose mark was taken.
    barrier: u64,
    last_seq: u64,
    finished: bool,
    /// Set once the session is over before its end; taken by the reader.
    failure: Option<Error>,
    over: bool,
    /// Set while the session finishes what it has because the engine drains; what ends it instead of [`Answer::Ended`].
    draining: Option<Error>,
    /// Drivers: all, those that wait for work, those with batches in a worker.
    drivers: usize,
    idle: usize,
    busy: usize,
    reader: Option<Waker>,
    stats: proto::Ended,
    pending_bytes: i64,
    /// Batches taken in.
    taken: u64,
    /// Results that the host has not taken.
    held: Amount,
}

/// Answers and marks that may wait for what comes before them; credit bounds the batches among them, nothing else bounds the marks.
const MAX_HELD: usize = 1 << 20;

/// A batch on its way.
#[derive(Debug)]
struct Job {
    seq: u64,
    batch: Batch,
    /// What `batch` costs.
    cost: Amount,
    queued: Instant,
    attempts: u32,
    attempts_outside: u32,
}

impl Session {
    fn new(
        Seen { id, name, span, metrics }: Seen,
        plan: SessionPlan,
        behaviour: Behaviour,
        described: Described,
        pool: Arc<Pool>,
        intake: Option<keyed::Intake>,
    ) -> Arc<Self> {
        let state = State {
            queue: VecDeque::new(),
            order: Order::new(behaviour.ordered),
            aside: VecDeque::new(),
            barrier: 0,
            last_seq: 0,
            finished: false,
            failure: None,
            over: false,
            draining: None,
            drivers: 0,
            idle: 0,
            busy: 0,
            reader: None,
            stats: proto::Ended { total: Some(proto::Timing::default()), ..Default::default() },
            pending_bytes: 0,
            taken: 0,
            held: Amount::default(),
        };
        let (work, more, cancelled) = (Semaphore::new(0), Notify::new(), Notify::new());
        if intake.is_none() {
            metrics::session_opened();
        }
        let (state, batch_ns, runtime) = (Mutex::new(state), AtomicU64::new(u64::MAX), Handle::current());
        Arc::new(Session {
            id,
            name,
            plan,
            behaviour,
            described,
            pool,
            intake,
            state,
            work,
            more,
            cancelled,
            batch_ns,
            metrics,
            span,
            runtime,
        })
    }

    /// Unique in the engine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What opening found out.
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// Whether its functions run in threads of this process.
    pub fn shares_process(&self) -> bool {
        self.pool.shares_process()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.behaviour.limits
    }

    /// Room for inputs to begin with.
    pub fn input_credit(&self) -> Amount {
        let limits = &self.behaviour.limits;
        Amount::of(limits.session_input_bytes, limits.session_input_rows)
    }

    /// For the status call.
    pub fn status(&self) -> proto::SessionStatus {
        let state = self.lock();
        proto::SessionStatus {
            session_id: self.id.clone(),
            name: self.name.clone(),
            pending_batches: state.taken.saturating_sub(state.stats.batches + state.stats.failed),
            pending_bytes: state.pending_bytes.max(0) as u64,
            done_batches: state.stats.batches + state.stats.failed,
            retries: state.stats.retries,
        }
    }

    /// True once nothing of it is open.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that some driver takes the batch that was just queued.
    fn summon_driver(self: &Arc<Self>, state: &mut State) {
        if !self.may_begin(state) {
            return;
        }
        if state.idle > 0 {
            state.idle -= 1;
            self.work.add_permits(1);
        } else if state.drivers < self.behaviour.max_workers {
            state.drivers += 1;
            tokio::spawn(bundle::drive(self.clone()).instrument(self.span.clone()));
        } else {
            self.more.notify_one();
        }
    }

    /// Whether the batch at the head of the queue may be begun: while the host leaves too many results untaken, only the one that all others wait for.
    fn may_begin(&self, state: &State) -> bool {
        let limits = &self.behaviour.limits;
        let room = Amount::of(limits.session_output_bytes, limits.session_output_rows).minus(state.held);
        state.queue.front().is_some_and(|job| room.is_open() || state.order.is_awaited(job.seq))
    }

    /// The next batch for a driver that has `in_flight` batches in its worker. A second batch is given out only when every other driver that could take it
    /// has one, so that two long batches run on two workers.
    fn take(&self, in_flight: usize, counted: bool) -> Option<Job> {
        let mut state = self.lock();
        let others = self.behaviour.max_workers.saturating_sub(state.busy);
        if in_flight > 0 && state.queue.len() <= others {
            return None;
        }
        if !self.may_begin(&state) {
            return None;
        }
        let job = state.queue.pop_front()?;
        state.busy += usize::from(!counted);
        Some(job)
    }

    /// A driver's worker has nothing to do any more.
    fn rest(&self) {
        self.lock().busy -= 1;
    }

    /// The one place where an answer takes effect: its batch is done with, and what may be released goes to the host.
    fn commit(&self, job: &Job, result: Result<Batch>, timing: proto::Timing, deltas: Vec<proto::MetricDelta>) {
        let refund = job.cost;
        let deltas = self.metrics.done(&timing, &job.batch, result.as_ref().ok(), deltas);
        let mut state = self.lock();
        state.pending_bytes -= refund.bytes;
        if let Ok(batch) = &result {
            state.held = state.held.plus(Amount::of(batch.bytes(), batch.rows()));
        }
        match &result {
            Ok(_) => state.stats.batches += 1,
            Err(_) => state.stats.failed += 1,
        }
        state.add_timing(&timing);
        let result = result.map_err(|error| error.at(job.seq));
        state.order.answer(job.seq, Answer::Batch { seq: job.seq, output: 0, result, timing, metrics: deltas, refund });
        wake(&mut state);
    }

    /// Puts batches back that their worker did not answer, in order, before everything that waits.
    fn put_back(self: &Arc<Self>, jobs: impl DoubleEndedIterator<Item = Job>) {
        let mut state = self.lock();
        if state.over {
            return;
        }
        for job in jobs.rev() {
            state.queue.push_front(job);
            self.summon_driver(&mut state);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_over() {
            self.count_closed();
        }
        if self.intake.is_none() {
            self.pool.retire_plan(self.plan.id);
        }
    }
}

impl State {
    fn add_timing(&mut self, timing: &proto::Timing) {
        if let Some(total) = &mut self.stats.total {
            total.queue_ns += timing.queue_ns;
            total.wire_ns += timing.wire_ns;
            total.convert_ns += timing.convert_ns;
            total.user_ns += timing.user_ns;
            total.state_ns += timing.state_ns;
        }
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod share_tests;
