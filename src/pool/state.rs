//! What a pool knows about its workers, behind one lock that is never held across an await.

use super::{
    Assignment, Lease,
    line::{Line, Waiter},
};
use crate::{
    error::Result,
    worker::{Control, ToWorker, Worker},
};
use pillion_wire::proto;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

impl Waiter for oneshot::Sender<Result<Lease>> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Most recently used last, so that the others can grow old and end.
    pub idle: Vec<Slot>,
    pub starting: usize,
    pub members: BTreeMap<String, Member>,
    pub line: Line<oneshot::Sender<Result<Lease>>>,
    pub closed: bool,
    /// Plans of open sessions.
    pub plans: HashSet<u64>,
}

impl State {
    pub fn take_idle(&mut self, plan_id: u64) -> Option<Slot> {
        let at = self.idle.iter().rposition(|slot| slot.prepared.contains(&plan_id)).or(self.idle.len().checked_sub(1))?;
        let slot = self.idle.remove(at);
        self.mark_busy(slot.worker.id(), true);
        Some(slot)
    }

    /// True if there are more waiters than workers on their way, and room for one more.
    pub fn wants_worker(&mut self, max: usize) -> bool {
        !self.closed && self.line.len(Instant::now()) > self.starting && self.members.len() + self.starting < max
    }

    /// Workers that are not ending.
    pub fn staying(&self) -> usize {
        self.members.values().filter(|member| !member.ending).count()
    }

    /// The worker was asked to end, and is of no further use.
    pub fn mark_ending(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.ending = true;
            member.assignment = None;
        }
    }

    /// The least number that no member has.
    pub fn free_number(&self) -> u32 {
        let taken: HashSet<u32> = self.members.values().map(|member| member.number).collect();
        (0..).find(|number| !taken.contains(number)).unwrap_or_default()
    }

    pub fn mark_busy(&mut self, id: &str, busy: bool) {
        if let Some(member) = self.members.get_mut(id) {
            member.busy = busy;
            if !busy {
                member.assignment = None;
            }
        }
    }
}

/// A worker that nobody uses, with what the pool remembers about it.
pub(super) struct Slot {
    pub worker: Box<dyn Worker>,
    /// Among the members of the pool; whoever replaces a worker may get its number.
    pub number: u32,
    /// Plans that it has loaded.
    pub prepared: HashSet<u64>,
    pub bundles: u64,
    pub born: Instant,
    pub idle_since: Instant,
}

impl Slot {
    pub fn new(worker: Box<dyn Worker>, number: u32) -> Self {
        let now = Instant::now();
        Slot { worker, number, prepared: HashSet::new(), bundles: 0, born: now, idle_since: now }
    }

    pub fn release(&mut self, plan_id: u64) {
        self.prepared.remove(&plan_id);
        self.worker.send(ToWorker::Release { plan_id });
    }
}

/// A living worker, busy or not, as the status call sees it.
pub(super) struct Member {
    pub control: Arc<dyn Control>,
    pub number: u32,
    pub busy: bool,
    pub ending: bool,
    pub born: Instant,
    pub batches: u64,
    pub assignment: Option<Assignment>,
}

impl Member {
    pub fn new(control: Arc<dyn Control>, number: u32) -> Self {
        Member { control, number, busy: true, ending: false, born: Instant::now(), batches: 0, assignment: None }
    }

    pub fn status(&self, id: &str) -> proto::WorkerStatus {
        let mut status = proto::WorkerStatus {
            worker_id: id.to_owned(),
            pid: self.control.pid(),
            state: match (self.ending, self.busy) {
                (true, _) => "ending",
                (_, true) => "busy",
                _ => "idle",
            }
            .to_owned(),
            age_ms: self.born.elapsed().as_millis() as u64,
            batches: self.batches,
            ..Default::default()
        };
        if let Some(assignment) = &self.assignment {
            status.session_id.clone_from(&assignment.session_id);
            status.bundle_seq = assignment.seq;
            status.bundle_age_ms = assignment.since.elapsed().as_millis() as u64;
            status.function.clone_from(&assignment.function);
        }
        status
    }
}
