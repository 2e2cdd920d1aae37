//! Drivers: each takes batches from its session's queue to a leased worker, bundle by bundle.
//!
//! A bundle keeps up to [`WINDOW`] batches in its worker, so that one crosses while another runs. It ends when there is nothing to do, or when other sessions wait
//! for the worker. Batches that a worker did not answer go back to the head of the queue; the one it was busy with has used up an attempt.

mod fetching;
mod timing;

pub(super) use timing::{nanos, timing, worker_span};

use super::{Job, Session, fetch::Unanswered};
use crate::{
    batch::Batch,
    error::Error,
    pool::{Assignment, Lease},
    worker::{Cost, FromWorker, KillCause, Lost, ToWorker},
};
use fetching::Fetching;
use pillion_wire::proto;
use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::Instrument;

/// Batches in a worker at once, unless the second would keep other sessions waiting, see [`Bundle::window`].
const WINDOW: usize = 2;

/// How often a long bundle counts as another one, and looks whether its worker has served enough.
const WORN_CHECK: Duration = Duration::from_secs(1);

/// How long a bundle goes on while other sessions wait for its worker.
const SLICE: Duration = Duration::from_millis(10);

/// Serves a session until it is over.
pub(super) async fn drive(session: Arc<Session>) {
    loop {
        let cancelled = session.cancelled.notified();
        if session.is_over() {
            return;
        }
        let lease = tokio::select! {
            lease = session.pool.lease(session.plan.id) => lease,
            () = cancelled => return,
        };
        match lease {
            Ok(lease) => {
                let span = tracing::debug_span!("bundle", worker = lease.id());
                Bundle::new(&session, lease).run().instrument(span).await;
            }
            Err(error) => {
                if let Some(job) = session.take(0, false) {
                    session.rest();
                    session.commit(&job, Err(error.function(&session.plan.functions)), proto::Timing::default(), vec![]);
                }
            }
        }
        if !session.wait_for_work().await {
            return;
        }
    }
}

impl Session {
    /// Waits until there is something in the queue; false once the session is over.
    async fn wait_for_work(&self) -> bool {
        {
            let mut state = self.lock();
            if state.over {
                return false;
            }
            if self.may_begin(&state) {
                return true;
            }
            state.idle += 1;
        }
        match self.work.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        true
    }
}

/// A batch in the worker.
struct Flight {
    job: Job,
    sent: Instant,
    /// When the worker could begin with it.
    begun: Instant,
    /// How long it has waited for state since then.
    waited: Duration,
    /// Why it got none: then it fails, whatever its answer.
    unanswered: Option<Error>,
    /// Ends with the answer.
    span: tracing::Span,
}

struct Bundle<'a> {
    session: &'a Arc<Session>,
    lease: Lease,
    flights: VecDeque<Flight>,
    begun: Instant,
    alarm: Pin<Box<Sleep>>,
    slow_logged: bool,
    /// The worker is loading the plan; that has its own deadline.
    preparing: bool,
    /// The front batch waits for state.
    fetching: Fetching,
    /// Counted among the session's busy drivers.
    busy: bool,
    worn_checked: Instant,
    worn_out: bool,
    window: usize,
}

enum Event {
    Received(Result<FromWorker, Lost>),
    Fetched(Result<Batch, Unanswered>),
    Alarm,
    More,
    Cancelled,
}

impl<'a> Bundle<'a> {
    fn new(session: &'a Arc<Session>, lease: Lease) -> Self {
        let now = Instant::now();
        Bundle {
            session,
            lease,
            flights: VecDeque::with_capacity(WINDOW),
            begun: now,
            alarm: Box::pin(sleep_until(now)),
            slow_logged: false,
            preparing: false,
            fetching: Fetching::default(),
            busy: false,
            worn_checked: now,
            worn_out: false,
            window: WINDOW,
        }
    }

    async fn run(mut self) {
        self.top_up();
        if self.flights.is_empty() {
            return;
        }
        self.lease.count_bundle();
        while !self.flights.is_empty() {
            let session = self.session;
            let cancelled = session.cancelled.notified();
            if session.is_over() {
                self.abandon().await;
                break;
            }
            let room = self.flights.len() < self.window;
            let event = tokio::select! {
                biased;
                received = self.lease.recv() => Event::Received(received),
                answer = self.fetching.answered(), if self.fetching.is_open() => Event::Fetched(answer),
                () = &mut self.alarm, if !self.fetching.is_open() => Event::Alarm,
                () = session.more.notified(), if room => Event::More,
                () = cancelled => Event::Cancelled,
            };
            match event {
                Event::Received(Ok(message)) => self.received(message).await,
                Event::Received(Err(lost)) => self.lost(lost),
                Event::Fetched(answer) => self.fetched(answer).await,
                Event::Alarm => self.alarm().await,
                Event::More => self.top_up(),
                Event::Cancelled => self.abandon().await,
            }
        }
        self.lease.assign(None);
        self.session.rest();
    }

    /// Sends batches while the window has room. The plan goes first to a worker that does not have it.
    fn top_up(&mut self) {
        if self.should_end() {
            return;
        }
        self.window = self.window();
        while self.flights.len() < self.window {
            let Some(job) = self.session.take(self.flights.len(), self.busy) else { return };
            self.busy = true;
            let plan = &self.session.plan;
            if !self.lease.has_prepared(plan.id) {
                self.lease.send(ToWorker::Prepare { plan_id: plan.id, prepare: plan.prepare.clone() });
                self.lease.set_prepared(plan.id);
                self.preparing = true;
            }
            let span = worker_span(self.lease.id(), &job);
            let sent = Instant::now();
            let message = ToWorker::Batch { plan_id: plan.id, seq: job.seq, batch: job.batch.clone() };
            self.flights.push_back(Flight { job, sent, begun: sent, waited: Duration::ZERO, unanswered: None, span });
            // Before the worker can begin, so that nobody sees it at work on nothing.
            if self.flights.len() == 1 {
                self.watch_front();
            }
            self.lease.send(message);
        }
    }

    /// Whether the bundle takes no more: others wait for the worker, or it is due to be replaced.
    fn should_end(&mut self) -> bool {
        if !self.busy || self.begun.elapsed() < SLICE {
            return false;
        }
        if self.worn_checked.elapsed() > WORN_CHECK {
            self.worn_checked = Instant::now();
            self.lease.count_bundle();
            self.worn_out = self.lease.is_worn_out();
        }
        self.worn_out || self.lease.pool().is_due(self.session.plan.id)
    }

    /// Batches to keep in the worker. What is in there cannot be taken back, so while others may come for the worker a second batch waits there only if batches are
    /// short; a long one gains next to nothing from being there early.
    fn window(&self) -> usize {
        if self.session.batch_time() < SLICE || !self.lease.pool().is_shared() { WINDOW } else { 1 }
    }

    /// The first batch in flight is the one the worker is busy with: its clock starts now.
    fn watch_front(&mut self) {
        let Some(front) = self.flights.front_mut() else { return };
        front.begun = Instant::now();
        self.slow_logged = false;
        // A worker that is stopped from outside while it loads is not given the time for loading, see `alarm`.
        self.set_alarm(self.session.behaviour.deadline);
        let Some(front) = self.flights.front() else { return };
        self.lease.assign(Some(Assignment {
            session_id: self.session.id.clone(),
            seq: front.job.seq,
            since: front.begun,
            function: self.session.plan.functions.clone(),
        }));
    }

    /// When to look after the front batch: when it is slow, or late, at most after it had so long.
    fn set_alarm(&mut self, at_most: Duration) {
        let Some(front) = self.flights.front() else { return };
        let next = if self.slow_logged { self.deadline() } else { self.deadline().min(self.session.behaviour.limits.slow_bundle) };
        self.alarm.as_mut().reset(front.begun + front.waited + next.min(at_most));
    }

    /// What the front batch may take from its begin.
    fn deadline(&self) -> Duration {
        let behaviour = &self.session.behaviour;
        if self.preparing { behaviour.limits.prepare_deadline } else { behaviour.deadline }
    }

    async fn received(&mut self, message: FromWorker) {
        match message {
            // Another worker has loaded the plan when the session was opened; this one got it just ahead of its first batch.
            FromWorker::Prepared(_) if self.preparing => {
                self.preparing = false;
                self.watch_front();
            }
            // The worker answers the batches of a plan that it could not load with the same error.
            FromWorker::Refused(error) if self.preparing => {
                tracing::warn!(code = %error.code(), "a worker could not load the plan: {error}");
                self.preparing = false;
                self.lease.send(ToWorker::Release { plan_id: self.session.plan.id });
                self.watch_front();
            }
            FromWorker::Fetch { seq, asked } => {
                if let Err(why) = self.asked(seq, asked) {
                    tracing::warn!("a worker breaks the protocol: {why}");
                    let lost = self.lease.kill(KillCause::Protocol).await;
                    self.lost(lost);
                }
            }
            FromWorker::Answer { seq, result, cost, metrics }
                if !self.fetching.is_open() && self.flights.front().is_some_and(|front| front.job.seq == seq) =>
            {
                if let Some(flight) = self.flights.pop_front() {
                    self.answered(flight, result, cost, metrics);
                }
            }
            other => {
                tracing::warn!("a worker answered out of turn: {other:?}");
                let lost = self.lease.kill(KillCause::Protocol).await;
                self.lost(lost);
            }
        }
    }

    fn answered(&mut self, mut flight: Flight, result: Result<Batch, Error>, cost: Cost, metrics: Vec<proto::MetricDelta>) {
        let unanswered = flight.unanswered.take().map(|error| error.function(&self.session.plan.functions));
        let result = unanswered.map_or(result, Err);
        // A batch that waited in the worker behind another was queued until that was done.
        let timing = timing(flight.job.queued, flight.begun.max(flight.sent), flight.waited, cost);
        self.session.saw_batch_time(flight.begun.elapsed().saturating_sub(flight.waited));
        if let Err(error) = &result {
            flight.span.record("error", error.code().as_str());
        }
        self.session.commit(&flight.job, result, timing, metrics);
        self.lease.count_batch();
        self.top_up();
        self.watch_front();
    }

    /// The front batch is slow, or over its deadline.
    async fn alarm(&mut self) {
        let Some(front) = self.flights.front() else { return };
        let behaviour = &self.session.behaviour;
        let (seq, begun) = (front.job.seq, front.begun + front.waited);
        let Some(control) = self.lease.control() else { return };
        // Whoever stopped the process from outside also keeps it from answering; that must be seen before it is killed.
        let stopped = control.is_stopped();
        // It has none to show either.
        let stacks = match stopped {
            true => String::new(),
            false => timeout(behaviour.limits.kill_grace, control.stacks()).await.ok().flatten().unwrap_or_default(),
        };
        let over = begun.elapsed() >= self.deadline() || (stopped && begun.elapsed() >= behaviour.deadline);
        if !over {
            if !self.slow_logged && begun.elapsed() >= behaviour.limits.slow_bundle {
                self.slow_logged = true;
                tracing::warn!(seq, pid = control.pid(), "bundle lasts longer than {:?}; stacks:\n{stacks}", behaviour.limits.slow_bundle);
            }
            return self.set_alarm(Duration::MAX);
        }
        let mut lost = self.lease.kill(KillCause::Deadline).await;
        lost.loss.stacks = stacks;
        lost.outside |= stopped;
        self.lost(lost);
    }

    /// The worker is gone: the front batch has used up an attempt, all that were not answered go back.
    fn lost(&mut self, lost: Lost) {
        self.fetching.clear();
        let behaviour = &self.session.behaviour;
        if let Some(front) = self.flights.front() {
            front.span.record("error", lost.loss.cause.as_str());
        }
        let mut back: VecDeque<Job> = self.flights.drain(..).map(|flight| flight.job).collect();
        if let Some(front) = back.front_mut() {
            let (used, allowed) = match lost.outside {
                true => (&mut front.attempts_outside, behaviour.limits.max_attempts_outside),
                false => (&mut front.attempts, behaviour.max_attempts),
            };
            *used += 1;
            let given_up = *used >= allowed;
            let (seq, cause) = (front.seq, &lost.loss.cause);
            let attempts = front.attempts + front.attempts_outside;
            tracing::warn!(seq, cause, signal = lost.loss.signal, pid = lost.loss.pid, attempts, given_up, "lost the worker of a bundle");
            if given_up && let Some(front) = back.pop_front() {
                let error = lost.into_error(attempts).function(&self.session.plan.functions);
                self.session.commit(&front, Err(error), proto::Timing::default(), vec![]);
            } else {
                self.session.metrics.retried();
                self.session.lock().stats.retries += 1;
            }
        }
        self.session.put_back(back.into_iter());
    }

    /// The session is over: the worker gets a moment to finish what it has, so that it can be kept.
    async fn abandon(&mut self) {
        let grace = self.session.behaviour.limits.kill_grace;
        let waits = self.fetching.is_open().then(|| self.flights.front().map(|front| front.job.seq)).flatten();
        if let Some(seq) = waits {
            self.refuse(seq);
        }
        let answered = timeout(grace, async {
            while !self.flights.is_empty() {
                match self.lease.recv().await {
                    Ok(FromWorker::Answer { .. }) => drop(self.flights.pop_front()),
                    Ok(FromWorker::Fetch { seq, .. }) => self.refuse(seq),
                    Ok(_) => {}
                    Err(_) => self.flights.clear(),
                }
            }
        });
        if answered.await.is_err() {
            self.flights.clear();
            self.lease.kill(KillCause::Cancelled).await;
        }
    }
}
