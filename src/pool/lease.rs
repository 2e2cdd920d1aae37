//! The exclusive use of a worker for one bundle.

use super::{Assignment, Pool, line::Charge, state::Slot};
use crate::worker::{Control, FromWorker, KillCause, Lost, ToWorker};
use pillion_wire::proto::metric_delta::Value;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::Instant;

/// A leased worker. Dropping it gives the worker back, unless it was lost or poisoned.
pub struct Lease {
    pool: Arc<Pool>,
    slot: Option<Slot>,
    lost: Option<Lost>,
    /// Messages that the worker has not answered.
    unanswered: usize,
    /// What it is charged to; none once that is settled.
    charge: Option<Charge>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, slot: Slot, charge: Charge) -> Self {
        Lease { pool, slot: Some(slot), lost: None, unanswered: 0, charge: Some(charge) }
    }

    /// The worker without its lease, for the pool, which settles the charge.
    pub(super) fn into_parts(mut self) -> Option<(Slot, Charge)> {
        self.slot.take().zip(self.charge.take())
    }

    /// The id of the worker; empty once it is lost.
    pub fn id(&self) -> &str {
        self.slot.as_ref().map_or("", |slot| slot.worker.id())
    }

    /// Queues a message to the worker; never blocks.
    pub fn send(&mut self, message: ToWorker) {
        let Some(slot) = &mut self.slot else { return };
        match &message {
            ToWorker::Release { plan_id } => drop(slot.prepared.remove(plan_id)),
            // An answer itself.
            ToWorker::Fetched { .. } => {}
            _ => self.unanswered += 1,
        }
        slot.worker.send(message);
    }

    /// Has a message done on the calling thread, see [`Worker::call_here`](crate::worker::Worker::call_here); `None` if the worker cannot, or is lost.
    pub fn call_here(&mut self, message: ToWorker) -> Option<FromWorker> {
        let slot = self.slot.as_mut()?;
        let mut answer = slot.worker.call_here(message).ok().flatten()?;
        sign(&mut answer, slot.number);
        Some(answer)
    }

    /// The worker's next answer, or how it was lost. After a loss it answers the same for ever.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromWorker, Lost>> {
        let received = match (&self.lost, &mut self.slot) {
            (Some(lost), _) => return Poll::Ready(Err(lost.clone())),
            (None, Some(slot)) => std::task::ready!(slot.worker.poll_recv(cx)).map(|mut answer| {
                sign(&mut answer, slot.number);
                answer
            }),
            (None, None) => return Poll::Pending,
        };
        // A question is no answer.
        if !matches!(received, Ok(FromWorker::Fetch { .. })) {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if let Err(lost) = &received {
            self.lost = Some(lost.clone());
            self.slot = None;
        }
        Poll::Ready(received)
    }

    /// See [`Lease::poll_recv`]; may be cancelled without loss.
    ///
    /// # Errors
    /// How the worker was lost.
    pub async fn recv(&mut self) -> Result<FromWorker, Lost> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Whether the worker has loaded this plan.
    pub fn has_prepared(&self, plan_id: u64) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.prepared.contains(&plan_id))
    }

    /// Remembers that the worker has loaded this plan.
    pub fn set_prepared(&mut self, plan_id: u64) {
        if let Some(slot) = &mut self.slot {
            slot.prepared.insert(plan_id);
        }
    }

    /// Counts a bundle for the worker's request limit.
    pub fn count_bundle(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.bundles += 1;
        }
    }

    /// Says what the worker is doing, for the status call.
    pub fn assign(&self, assignment: Option<Assignment>) {
        let Some(slot) = &self.slot else { return };
        if let Some(member) = self.pool.lock().members.get_mut(slot.worker.id()) {
            member.assignment = assignment;
        }
    }

    /// Counts an answered batch, for the status call.
    pub fn count_batch(&self) {
        let Some(slot) = &self.slot else { return };
        if let Some(member) = self.pool.lock().members.get_mut(slot.worker.id()) {
            member.batches += 1;
        }
    }

    /// Whether the worker should be replaced once it is given back.
    pub fn is_worn_out(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| self.pool.worn_out(slot).is_some())
    }

    /// What can be done with the worker beside the lease; `None` once it is lost.
    pub fn control(&self) -> Option<Arc<dyn Control>> {
        self.slot.as_ref().map(|slot| slot.worker.control())
    }

    /// Kills the worker and waits until it is reaped: the lease is poisoned.
    pub async fn kill(&mut self, cause: KillCause) -> Lost {
        if let Some(control) = self.control() {
            // Even if the wait is given up, the worker is not given back.
            self.unanswered += 1;
            control.kill(cause);
            self.lost = Some(control.gone().await);
            self.slot = None;
        }
        match &self.lost {
            Some(lost) => lost.clone(),
            None => Lost { loss: Default::default(), outside: false },
        }
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Says whose the values of gauges are: each worker has its own.
fn sign(answer: &mut FromWorker, number: u32) {
    let FromWorker::Answer { metrics, .. } = answer else { return };
    for delta in metrics {
        delta.worker = if matches!(delta.value, Some(Value::Gauge(_))) { number } else { 0 };
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.pool.lock().line.end(charge, Instant::now());
        }
        let Some(slot) = self.slot.take() else { return };
        if self.unanswered == 0 {
            self.pool.give_back(slot);
        } else {
            // Whoever held the lease gave up in the middle: the next holder must not get answers meant for this one.
            slot.worker.control().kill(KillCause::Cancelled);
        }
    }
}
