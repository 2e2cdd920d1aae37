//! The pool: the workers of one environment, leased to one bundle at a time (hop 5).
//!
//! A lease takes an idle worker, else starts one, else waits its turn, which comes to the session that has used least worker time for its weight
//! ([`line`]); a session that holds a lease gives it back between bundles when it [is due](Pool::is_due) to somebody else. Whoever loses a worker just
//! drops its lease; the pool starts another one when somebody asks.

mod keeper;
mod lease;
mod line;
mod state;

pub use lease::Lease;

use crate::{
    config::PoolConfig,
    error::{Code, Error, Result},
    metrics,
    worker::{Control, KillCause, Worker, WorkerFactory},
};
use line::LOADING;
use pillion_wire::proto;
use state::{Member, Slot, State};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// The limits of a pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// From `[pool]`.
    pub pool: PoolConfig,
    /// Time a worker has to end by itself.
    pub shutdown_grace: Duration,
}

/// The workers of one environment.
pub struct Pool {
    environment_id: String,
    factory: Arc<dyn WorkerFactory>,
    limits: PoolLimits,
    state: Mutex<State>,
    closing: Notify,
}

/// What a worker is doing for whom, for the status call.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The session that holds the lease.
    pub session_id: String,
    /// Its oldest unanswered batch.
    pub seq: u64,
    /// When the worker could begin with it.
    pub since: Instant,
    /// The function, for people.
    pub function: String,
}

impl Pool {
    /// A pool that makes its workers with `factory`; starts `min` of them in the background.
    pub fn new(environment_id: String, factory: Arc<dyn WorkerFactory>, limits: PoolLimits) -> Arc<Self> {
        let pool = Arc::new(Pool { environment_id, factory, limits, state: Mutex::default(), closing: Notify::new() });
        keeper::start(&pool);
        pool
    }

    /// Most workers at once.
    pub fn max(&self) -> usize {
        self.limits.pool.max
    }

    /// Whether the workers are threads of this process, see [`WorkerFactory::shares_process`].
    pub fn shares_process(&self) -> bool {
        self.factory.shares_process()
    }

    /// The id of the environment.
    pub fn environment_id(&self) -> &str {
        &self.environment_id
    }

    /// A new plan, whose session has this weight in the line: workers keep it until [`Pool::retire_plan`].
    pub fn keep_plan(&self, plan_id: u64, weight: u32) {
        let mut state = self.lock();
        state.plans.insert(plan_id);
        state.line.open(plan_id, weight);
    }

    /// The plan's session is over: workers forget it, leased ones when they come back.
    pub fn retire_plan(&self, plan_id: u64) {
        let mut state = self.lock();
        state.plans.remove(&plan_id);
        state.line.close(plan_id);
        for slot in state.idle.iter_mut().filter(|slot| slot.prepared.contains(&plan_id)) {
            slot.release(plan_id);
        }
    }

    /// True if somebody waits for the worker that the session of `plan_id` uses, and has used less.
    pub fn is_due(&self, plan_id: u64) -> bool {
        self.lock().line.is_due(plan_id, Instant::now())
    }

    /// True if several sessions may want workers.
    pub fn is_shared(&self) -> bool {
        self.lock().plans.len() > 1
    }

    /// The exclusive use of a worker for the session of `plan_id`, preferably of one that has prepared the plan. Dropping the future gives up the place in the line.
    ///
    /// # Errors
    /// What kept a new worker from starting; [`Code::Draining`] after [`Pool::shutdown`].
    pub async fn lease(self: &Arc<Self>, plan_id: u64) -> Result<Lease> {
        self.lease_for(plan_id, plan_id).await
    }

    /// The same for what is not a session's work: loading a plan, describing a function.
    ///
    /// # Errors
    /// As [`Pool::lease`].
    pub async fn lease_to_load(self: &Arc<Self>, plan_id: u64) -> Result<Lease> {
        self.lease_for(LOADING, plan_id).await
    }

    async fn lease_for(self: &Arc<Self>, account: u64, plan_id: u64) -> Result<Lease> {
        let waiting = {
            let mut state = self.lock();
            let now = Instant::now();
            if state.closed {
                return Err(Error::new(Code::Draining, "the engine is shutting down").retryable());
            }
            if let Some(slot) = state.take_idle(plan_id) {
                state.line.arrive(account, now);
                let charge = state.line.begin(account, now);
                return Ok(Lease::new(self.clone(), slot, charge));
            }
            let (tell, waiting) = oneshot::channel();
            state.line.join(account, tell, now);
            if state.wants_worker(self.max()) {
                self.start_worker(&mut state);
            }
            waiting
        };
        match waiting.await {
            Ok(leased) => leased,
            Err(_) => Err(Error::new(Code::Draining, "the engine is shutting down").retryable()),
        }
    }

    /// What the workers are doing.
    pub async fn status(&self, stacks: bool) -> proto::PoolStatus {
        let controls: Vec<_> = self.lock().members.iter().map(|(id, member)| (id.clone(), member.control.clone())).collect();
        // All at once, since one that does not answer takes its time.
        let asked: Vec<_> = controls
            .into_iter()
            .map(|(id, control)| {
                tokio::spawn(async move {
                    let answer = if stacks { control.stacks().await } else { Some(String::new()) };
                    (id, control.private_bytes().unwrap_or_default(), answer)
                })
            })
            .collect();
        let mut answers = BTreeMap::new();
        for asked in asked {
            if let Ok((id, private_bytes, answer)) = asked.await {
                answers.insert(id, (private_bytes, answer));
            }
        }
        // Looked at after the stacks, so that a worker whose stacks show a bundle is not called idle.
        let mut state = self.lock();
        let waiting = state.line.len(Instant::now()) as u32;
        let worker = |(id, member): (&String, &Member)| {
            let (private_bytes, answer) = answers.remove(id).unwrap_or_default();
            let stacks = answer.unwrap_or_else(|| "the worker does not answer".into());
            proto::WorkerStatus { private_bytes, stacks, ..member.status(id) }
        };
        proto::PoolStatus {
            environment: self.environment_id.clone(),
            min: self.limits.pool.min as u32,
            max: self.limits.pool.max as u32,
            waiting,
            workers: state.members.iter().map(worker).collect(),
        }
    }

    /// Ends all workers: by themselves within the grace time, else by force. Afterwards nothing of them is left.
    pub async fn shutdown(&self) {
        // Idle workers are kept until they have ended: dropping one breaks its connection, and it could not run `close`.
        let (idle, controls) = {
            let mut state = self.lock();
            state.closed = true;
            state.line.clear(Instant::now());
            self.closing.notify_waiters();
            let controls: Vec<_> = state.members.values().map(|member| member.control.clone()).collect();
            (std::mem::take(&mut state.idle), controls)
        };
        let grace = self.limits.shutdown_grace;
        let ends: Vec<_> = controls.into_iter().map(|control| tokio::spawn(end(control, grace, KillCause::Shutdown))).collect();
        for end in ends {
            // A panic in there would have been reported; nothing is left to do about it here.
            let _ = end.await;
        }
        drop(idle);
        self.factory.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more worker in the background; it goes to whoever's turn it is.
    fn start_worker(self: &Arc<Self>, state: &mut State) {
        state.starting += 1;
        let pool = self.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let closing = pool.closing.notified();
            if pool.lock().closed {
                return;
            }
            // Dropping the future ends a worker that is on its way.
            let launched = tokio::select! {
                launched = pool.factory.launch() => launched,
                () = closing => return,
            };
            metrics::worker_started(&pool.environment_id, started.elapsed(), launched.is_ok());
            let mut state = pool.lock();
            state.starting -= 1;
            match launched {
                Ok(worker) if state.closed => drop(worker),
                Ok(worker) => pool.admit(&mut state, worker),
                // One failure answers one waiter; the others get their own attempt, so that a passing fault does not fail them all.
                Err(error) => {
                    tracing::warn!(environment = pool.environment_id, code = %error.code(), "a worker could not be started: {error}");
                    if let Some((_, waiter)) = state.line.next(Instant::now()) {
                        let _ = waiter.send(Err(error));
                    }
                    if state.wants_worker(pool.max()) {
                        pool.start_worker(&mut state);
                    }
                }
            }
        });
    }

    fn admit(self: &Arc<Self>, state: &mut State, worker: Box<dyn Worker>) {
        let (id, control) = (worker.id().to_owned(), worker.control());
        tracing::debug!(environment = self.environment_id, worker = id, pid = control.pid(), "worker ready");
        let number = state.free_number();
        state.members.insert(id.clone(), Member::new(control.clone(), number));
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let lost = control.gone().await;
            let Some(pool) = pool.upgrade() else { return };
            metrics::worker_ended(&pool.environment_id, &lost.loss.cause);
            tracing::debug!(
                worker = id,
                cause = lost.loss.cause,
                status = lost.loss.exit_status,
                signal = lost.loss.signal,
                "worker ended"
            );
            let mut state = pool.lock();
            state.members.remove(&id);
            state.idle.retain(|slot| slot.worker.id() != id);
            if state.wants_worker(pool.max()) {
                pool.start_worker(&mut state);
            }
            metrics::workers(&pool.environment_id, state.idle.len(), state.members.len());
        });
        self.hand_out(state, Slot::new(worker, number));
    }

    /// Gives a worker to whoever's turn it is, else keeps it idle.
    fn hand_out(self: &Arc<Self>, state: &mut State, mut slot: Slot) {
        let now = Instant::now();
        while let Some((account, waiter)) = state.line.next(now) {
            state.mark_busy(slot.worker.id(), true);
            let charge = state.line.begin(account, now);
            // Sent as a lease, so that a receiver that goes away at this moment gives the worker back.
            match waiter.send(Ok(Lease::new(self.clone(), slot, charge))).map_err(|unsent| unsent.map(Lease::into_parts)) {
                Err(Ok(Some((back, charge)))) => {
                    state.line.end(charge, now);
                    slot = back;
                }
                _ => return,
            }
        }
        state.mark_busy(slot.worker.id(), false);
        slot.idle_since = now;
        state.idle.push(slot);
        metrics::workers(&self.environment_id, state.idle.len(), state.members.len());
    }

    /// Takes a worker back from a lease.
    fn give_back(self: &Arc<Self>, mut slot: Slot) {
        let mut state = self.lock();
        if !state.members.contains_key(slot.worker.id()) {
            return;
        }
        if state.closed {
            state.mark_ending(slot.worker.id());
            drop(state);
            // [`Pool::shutdown`] ends it; dropping it now would not let it run `close`.
            self.retire(slot);
            return;
        }
        let retired: Vec<u64> = slot.prepared.difference(&state.plans).copied().collect();
        retired.into_iter().for_each(|plan_id| slot.release(plan_id));
        match self.worn_out(&slot) {
            None => self.hand_out(&mut state, slot),
            Some(why) => {
                tracing::debug!(worker = slot.worker.id(), why, "worker retires");
                state.mark_ending(slot.worker.id());
                drop(state);
                self.retire(slot);
            }
        }
    }

    fn worn_out(&self, slot: &Slot) -> Option<&'static str> {
        let limits = &self.limits.pool;
        if limits.max_requests.is_some_and(|max| slot.bundles >= max) {
            return Some("requests");
        }
        if limits.max_age.is_some_and(|max| slot.born.elapsed() >= max) {
            return Some("age");
        }
        let over = limits.max_memory.is_some_and(|max| slot.worker.control().private_bytes().is_some_and(|bytes| bytes > max));
        over.then_some("memory")
    }

    /// Lets a worker end by itself, then by force. The worker itself is kept until then, since dropping it would break its connection.
    fn retire(&self, slot: Slot) {
        let grace = self.limits.shutdown_grace;
        tokio::spawn(async move {
            end(slot.worker.control(), grace, KillCause::Retired).await;
            drop(slot);
        });
    }
}

async fn end(control: Arc<dyn Control>, grace: Duration, cause: KillCause) {
    control.shutdown();
    // One that something outside has stopped will not hear of it.
    if control.is_stopped() {
        control.kill(cause);
    }
    if tokio::time::timeout(grace, control.gone()).await.is_err() {
        control.kill(cause);
        control.gone().await;
    }
}

#[cfg(test)]
mod tests;
