//! State and timers in memory.
//!
//! Each key group has an index over rows, one row per address, in chunks of 1,024: a column of addresses, and per cell one of slots. Chunks are shared with views and copied when
//! they are written after that, so a view costs as many pointers as there are chunks. A request resolves each address once for all its cells, group by group.

mod chunk;
mod group;
mod known;
pub(crate) mod read;
#[cfg(test)]
mod tests;
pub(crate) mod view;
pub(crate) mod write;

use super::{Cells, MAX_PARALLELISM, Rows, Sizes, StateBackend, View, address::slot, local::answers_at_once};
use crate::{
    error::{Code, Error, Result},
    timer::{Domain, DueRequest, DueTimers, due},
};
use group::Group;
use known::Known;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// The memory backend.
#[derive(Debug)]
pub struct Memory {
    cells: Cells,
    /// By key group; the last one is for broadcast state.
    groups: Vec<Mutex<Group>>,
    /// Where the addresses of open bundles are.
    known: Known,
    /// Commits share it; a view has it alone, so that it sees whole commits.
    barrier: RwLock<()>,
    /// Memory that may be in use.
    limit: usize,
    /// The group that is cleaned next.
    cleaning: AtomicUsize,
    /// Makes the versions of views unique to this store.
    origin: u64,
}

/// Numbers stores, so that versions of two of them are never taken for each other.
pub(super) fn origin() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 40
}

/// Checks a max parallelism and gives the number of groups that a store makes, that for broadcast state included.
pub(super) fn slots(max_parallelism: u16) -> Result<usize> {
    if max_parallelism == 0 || max_parallelism > MAX_PARALLELISM {
        return Err(Error::new(
            Code::OptionsInvalid,
            format!("the max parallelism is {max_parallelism}, not between 1 and {MAX_PARALLELISM}"),
        ));
    }
    Ok(usize::from(max_parallelism) + 1)
}

impl Memory {
    /// An empty store of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`Code::OptionsInvalid`] if the max parallelism is 0 or beyond [`MAX_PARALLELISM`].
    pub fn new(cells: Cells, max_parallelism: u16, limit_bytes: Option<usize>) -> Result<Self> {
        let groups = (0..slots(max_parallelism)?).map(|_| Mutex::new(Group::new(cells.len()))).collect();
        let limit = limit_bytes.unwrap_or(usize::MAX);
        let known = Known::default();
        Ok(Memory { cells, groups, known, barrier: RwLock::new(()), limit, cleaning: AtomicUsize::new(0), origin: origin() })
    }

    /// A group, locked. A panic inside leaves no half of a commit that the next would notice: sizes at worst.
    fn group(&self, group: u16) -> Result<MutexGuard<'_, Group>> {
        Ok(self.groups[slot(group, self.groups.len())?].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Group>> {
        self.groups.iter().map(|group| group.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn due_now(&self, request: &DueRequest) -> Result<DueTimers> {
        let mut queues = Vec::new();
        for &group in &request.groups {
            let queue = Arc::clone(self.group(group)?.timers.queue(request.domain));
            if queue.iter().next().is_some_and(|((timestamp, _), _)| *timestamp <= request.up_to_ms) {
                queues.push((group, queue));
            }
        }
        let fronts = queues.iter().map(|(group, queue)| {
            let due = queue.iter().take_while(|((timestamp, _), _)| *timestamp <= request.up_to_ms);
            (*group, due.map(|((timestamp, identity), _)| Ok((*timestamp, identity))))
        });
        due::merge(fronts.collect(), request.limit, request.order)
    }

    fn next_now(&self, domain: Domain, groups: &[u16]) -> Result<Option<i64>> {
        let mut earliest = None;
        for &group in groups {
            earliest = [earliest, self.group(group)?.timers.next(domain)].into_iter().flatten().min();
        }
        Ok(earliest)
    }
}

impl StateBackend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn cells(&self) -> &Cells {
        &self.cells
    }

    answers_at_once!();

    fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for group in self.all() {
            sizes.entries += group.entries;
            sizes.timers += group.timers.len() as u64;
            sizes.memory_bytes += group.memory() as u64;
            sizes.expired += group.expired;
        }
        sizes
    }

    fn view(&self, groups: &[u16], now_ms: i64) -> Result<Arc<dyn View>> {
        let _alone = self.barrier.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(view::MemoryView::new(self, groups, now_ms)?))
    }

    fn load(&self, rows: Rows) -> Result<()> {
        self.load_now(&rows)
    }

    fn close(&self) -> Result<()> {
        for mut group in self.all() {
            *group = Group::new(self.cells.len());
        }
        Ok(())
    }
}
