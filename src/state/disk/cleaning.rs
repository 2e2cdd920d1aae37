//! Expired entries go when the store compacts its files anyway.

use super::keys;
use crate::state::{CellId, Cells};
use fjall::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// The keyspace with entries of cells.
pub const ENTRIES: &str = "entries";

/// A factory of filters for a keyspace.
type Assigner = Arc<dyn Fn(&str) -> Option<Arc<dyn Factory>> + Send + Sync>;

struct Cleaning {
    cells: Cells,
    now_ms: Arc<AtomicI64>,
    expired: Arc<AtomicU64>,
}

/// Says which keyspaces are cleaned: entries, if a cell has a time to live.
pub fn assigner(cells: &Cells, now_ms: Arc<AtomicI64>, expired: Arc<AtomicU64>) -> Assigner {
    let cells = cells.clone();
    let some = cells.iter().any(|cell| cell.ttl.is_some());
    Arc::new(move |keyspace| {
        let cleaning =
            || Arc::new(Cleaning { cells: cells.clone(), now_ms: Arc::clone(&now_ms), expired: Arc::clone(&expired) }) as Arc<dyn Factory>;
        (some && keyspace == ENTRIES).then(cleaning)
    })
}

impl Factory for Cleaning {
    fn name(&self) -> &str {
        "time to live"
    }

    fn make_filter(&self, _context: &Context) -> Box<dyn CompactionFilter> {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let cutoffs = self.cells.iter().map(|cell| cell.ttl.map(|ttl| ttl.cutoff(now_ms)));
        Box::new(Filter { cutoffs: cutoffs.collect(), expired: Arc::clone(&self.expired) })
    }
}

struct Filter {
    /// By cell.
    cutoffs: Vec<Option<i64>>,
    expired: Arc<AtomicU64>,
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _context: &Context) -> fjall::compaction::filter::CompactionFilterResult {
        let cell = item.key().first_chunk::<2>().map(|cell| CellId::from_be_bytes(*cell));
        let Some(cutoff) = cell.and_then(|cell| self.cutoffs.get(usize::from(cell)).copied().flatten()) else { return Ok(Verdict::Keep) };
        let stale = keys::value(&item.value()?, true).is_ok_and(|(access, _)| access <= cutoff);
        if stale {
            self.expired.fetch_add(1, Ordering::Relaxed);
            return Ok(Verdict::Remove);
        }
        Ok(Verdict::Keep)
    }
}
