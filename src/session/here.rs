//! A batch on its caller's own thread: where the workers are threads of this process, the function can as well run where its caller waits. Leases, order and
//! commit are those of every other batch.

use super::{
    Answer, Job, Session,
    bundle::{timing, worker_span},
    check_batch,
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    pool::Assignment,
    session::credit::Amount,
    worker::{FromWorker, ToWorker},
};
use pillion_wire::proto;
use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};
use tokio::time::Instant;

impl Session {
    /// Executes input `seq` on the calling thread, and gives its answer. Waits for a worker if all are leased.
    ///
    /// # Errors
    /// [`Code::Unsupported`] if the workers are processes, or if earlier inputs are not answered and taken; otherwise as [`Session::push`] and
    /// [`Session::poll_answer`]. Then nothing has been executed.
    pub fn call_here(self: &Arc<Self>, seq: u64, batch: Batch) -> Result<Answer> {
        let _runtime = self.runtime.enter();
        let job = self.admit_here(seq, batch)?;
        let (result, timing, metrics) = match block_on(self.pool.lease(self.plan.id)) {
            Ok(mut lease) => {
                lease.count_bundle();
                let _bundle = tracing::debug_span!(parent: &self.span, "bundle", worker = lease.id()).entered();
                let span = worker_span(lease.id(), &job);
                let function = self.plan.functions.clone();
                lease.assign(Some(Assignment { session_id: self.id.clone(), seq, since: Instant::now(), function }));
                let outcome = self.execute_here(&mut lease, &job);
                if let Err(error) = &outcome.0 {
                    span.record("error", error.code().as_str());
                }
                lease.count_batch();
                lease.assign(None);
                outcome
            }
            Err(error) => (Err(error.function(&self.plan.functions)), proto::Timing::default(), vec![]),
        };
        self.commit(&job, result, timing, metrics);
        match self.poll_answer(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(answer)) => answer,
            Poll::Ready(None) => Err(Error::new(Code::SessionClosed, "the session is over")),
            // Cannot be: nothing is before this answer.
            Poll::Pending => Err(Error::new(Code::InvariantBroken, "an answer is missing")),
        }
    }

    /// Takes the input in, as [`Session::push`] does.
    fn admit_here(self: &Arc<Self>, seq: u64, batch: Batch) -> Result<Job> {
        if !self.pool.shares_process() {
            return Err(Error::new(Code::Unsupported, "only an environment in thread mode runs functions on their caller's thread")
                .hint("send the batch and receive its result, or open the session with `EnvironmentSpec::in_threads`"));
        }
        let mut state = self.lock();
        if state.finished || state.over || state.draining.is_some() {
            return Err(Error::new(Code::SessionClosed, "the session takes no more input"));
        }
        if !state.order.is_done(state.last_seq) {
            return Err(Error::new(Code::Unsupported, "results of earlier batches are outstanding").hint("receive them first"));
        }
        if seq != state.last_seq + 1 {
            return Err(Error::new(Code::ProtocolViolation, format!("input {seq} does not follow input {}", state.last_seq)));
        }
        let (bytes, rows) = (batch.bytes(), batch.rows());
        let limits = &self.behaviour.limits;
        check_batch(bytes, rows, limits.max_batch_bytes, limits.max_batch_rows)?;
        let cost = Amount::of(bytes, rows);
        state.last_seq = seq;
        state.taken += 1;
        state.pending_bytes += cost.bytes;
        Ok(Job { seq, batch, cost, queued: Instant::now(), attempts: 0, attempts_outside: 0 })
    }

    fn execute_here(&self, lease: &mut crate::pool::Lease, job: &Job) -> (Result<Batch>, proto::Timing, Vec<proto::MetricDelta>) {
        let plan = &self.plan;
        // Another worker has loaded the plan when the session was opened. One that cannot load it answers its batches with the reason.
        let refused = if lease.has_prepared(plan.id) {
            false
        } else {
            let prepared = lease.call_here(ToWorker::Prepare { plan_id: plan.id, prepare: plan.prepare.clone() });
            lease.set_prepared(plan.id);
            !matches!(prepared, Some(FromWorker::Prepared(_)))
        };
        let sent = Instant::now();
        let answer = lease.call_here(ToWorker::Batch { plan_id: plan.id, seq: job.seq, batch: job.batch.clone() });
        if refused {
            lease.send(ToWorker::Release { plan_id: plan.id });
        }
        match answer {
            Some(FromWorker::Answer { result, cost, metrics, .. }) => (result, timing(job.queued, sent, Duration::ZERO, cost), metrics),
            _ => (Err(Error::new(Code::InvariantBroken, "the worker did not answer on this thread")), proto::Timing::default(), vec![]),
        }
    }
}

/// Waits on this thread. Not tokio's: that refuses to block a thread that it thinks it owns, and the caller may know better.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
