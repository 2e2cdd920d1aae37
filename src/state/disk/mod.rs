//! State and timers on disk: an LSM store (fjall) with a bounded cache of values in front.
//!
//! A live store is a cache of what checkpoints hold, never resumed: nothing is synced, and its folder goes with it. A commit is one write batch. Before a batch is written the store
//! looks whether there is room, and refuses it whole if not; should the disk fill all the same, it opens its folder anew, which leaves the batches that were whole.

mod cleaning;
mod keys;
mod place;
mod read;
mod stage;
#[cfg(test)]
mod tests;
mod timers;
mod view;

use super::{Cells, Commit, Rows, Sizes, StateBackend, View, local::answers_at_once, memory, small::Small};
use crate::{
    error::{Code, Error, Result},
    timer::Domain,
};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use place::Place;
use quick_cache::{Weighter, sync::Cache};
use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

/// Where and how large.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Stores make folders of their own here.
    pub root: PathBuf,
    /// Memory for the values that were read or written last.
    pub cache_bytes: u64,
    /// Commits are refused when less than this would be left on the file system.
    pub reserve_bytes: u64,
}

impl DiskOptions {
    /// In this folder, with 256 MiB of cache and 256 MiB of reserve.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        DiskOptions { root: root.into(), cache_bytes: 256 << 20, reserve_bytes: 256 << 20 }
    }
}

/// An open database.
struct Open {
    database: Database,
    entries: Keyspace,
    timers: Keyspace,
}

/// Cached: the stored value, or that there is none.
type Values = Cache<Small, Option<Small>, Weigh, BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>>;

/// An entry of the cache weighs what it takes.
#[derive(Clone)]
struct Weigh;

impl Weighter<Small, Option<Small>> for Weigh {
    fn weight(&self, key: &Small, value: &Option<Small>) -> u64 {
        (80 + key.heap() + value.as_ref().map_or(0, Small::heap)) as u64
    }
}

/// The disk backend.
pub struct Disk {
    cells: Cells,
    slots: usize,
    reserve: AtomicU64,
    open: RwLock<Option<Open>>,
    values: Values,
    /// Commits share it; a view has it alone.
    barrier: RwLock<()>,
    /// The key of the next list element.
    appended: AtomicU64,
    /// Pending timers.
    pending: AtomicU64,
    /// The latest time of a commit, which compactions go by.
    now_ms: Arc<AtomicI64>,
    expired: Arc<AtomicU64>,
    /// Changes so far, by group and cell, or `None` for timers.
    versions: Mutex<HashMap<(u16, Option<u16>), u64>>,
    /// By domain and group a key of the timers before which there is none: scans need not pass over what fired.
    fronts: Mutex<HashMap<(Domain, u16), Vec<u8>>>,
    origin: u64,
    /// Last, so that files are closed before they are deleted.
    place: Place,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the store's library says, in our words.
fn failed(error: &fjall::Error) -> Error {
    let full = matches!(error, fjall::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull);
    match full {
        true => full_disk().detail(error.to_string()),
        false => Error::new(Code::StateFailed, "the store of state on disk failed").detail(error.to_string()),
    }
}

fn full_disk() -> Error {
    Error::new(Code::StateFull, "the disk with the state is full")
        .hint("make room there, or give cells a time to live; the bundle can be sent again")
        .retryable()
}

impl Open {
    fn new(place: &Place, cells: &Cells, now_ms: &Arc<AtomicI64>, expired: &Arc<AtomicU64>) -> Result<Self> {
        let assigner = cleaning::assigner(cells, Arc::clone(now_ms), Arc::clone(expired));
        let builder = Database::builder(place.folder()).worker_threads(2).journal_compression(fjall::CompressionType::None);
        let database = builder.with_compaction_filter_factories(assigner).open().map_err(|error| failed(&error))?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).map_err(|error| failed(&error));
        let (entries, timers) = (keyspace(cleaning::ENTRIES)?, keyspace("timers")?);
        Ok(Open { database, entries, timers })
    }
}

impl Disk {
    /// An empty store in a new folder under `options.root`.
    ///
    /// # Errors
    /// [`Code::StateFailed`] or [`Code::StateFull`] if the file system refuses; [`Code::OptionsInvalid`] for an impossible max parallelism.
    pub fn new(cells: Cells, max_parallelism: u16, options: &DiskOptions) -> Result<Self> {
        let slots = memory::slots(max_parallelism)?;
        let place = Place::create(&options.root)?;
        let (now_ms, expired) = (Arc::new(AtomicI64::new(i64::MIN)), Arc::new(AtomicU64::new(0)));
        let open = Open::new(&place, &cells, &now_ms, &expired)?;
        let items = (options.cache_bytes / 128).clamp(1024, 1 << 24) as usize;
        let values = Cache::with(items, options.cache_bytes, Weigh, BuildHasherDefault::default(), Default::default());
        Ok(Disk {
            cells,
            slots,
            reserve: AtomicU64::new(options.reserve_bytes),
            open: RwLock::new(Some(open)),
            values,
            barrier: RwLock::new(()),
            appended: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            now_ms,
            expired,
            versions: Mutex::default(),
            fronts: Mutex::default(),
            origin: memory::origin(),
            place,
        })
    }

    fn open(&self) -> Opened<'_> {
        Opened(self.open.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn apply_now(&self, commit: &Commit) -> Result<()> {
        let _shared = self.barrier.read().unwrap_or_else(PoisonError::into_inner);
        self.now_ms.fetch_max(commit.now_ms, Ordering::Relaxed);
        let written = {
            let opened = self.open();
            let open = opened.get()?;
            let stage = stage::Stage::of(self, open, commit)?;
            self.make_room(stage.bytes())?;
            stage.write(open, &self.values).map(|done| done.publish(self, commit))
        };
        written.map_err(|error| self.recover(&error))
    }

    /// Refuses what would not leave the reserve.
    fn make_room(&self, bytes: usize) -> Result<()> {
        // Once in the journal and once in a table.
        let needs = self.reserve.load(Ordering::Relaxed).saturating_add(2 * bytes as u64);
        if bytes > 0 && self.place.free() < needs {
            return Err(full_disk());
        }
        Ok(())
    }

    /// After a failed write the library takes no more: the folder is opened anew, with what was whole.
    fn recover(&self, error: &fjall::Error) -> Error {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        self.values.clear();
        match Open::new(&self.place, &self.cells, &self.now_ms, &self.expired) {
            Ok(anew) => *open = Some(anew),
            Err(again) => return failed(error).detail(format!("{error}; then {}", again.message())),
        }
        failed(error)
    }

    fn load_now(&self, rows: &Rows) -> Result<()> {
        let opened = self.open();
        let open = opened.get()?;
        let stage = stage::Stage::load(self, rows)?;
        self.make_room(stage.bytes())?;
        stage.write(open, &self.values).map(|done| done.publish_loaded(self)).map_err(|error| failed(&error))
    }
}

/// The database, as long as it is open.
struct Opened<'a>(RwLockReadGuard<'a, Option<Open>>);

impl Opened<'_> {
    fn get(&self) -> Result<&Open> {
        self.0.as_ref().ok_or_else(|| Error::new(Code::StateFailed, "the store of state on disk is closed"))
    }
}

impl StateBackend for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn cells(&self) -> &Cells {
        &self.cells
    }

    answers_at_once!();

    fn sizes(&self) -> Sizes {
        let opened = self.open();
        let open = opened.get().ok();
        Sizes {
            entries: open.map_or(0, |open| open.entries.approximate_len() as u64),
            timers: self.pending.load(Ordering::Relaxed),
            memory_bytes: self.values.weight() + open.map_or(0, |open| open.database.write_buffer_size()),
            disk_bytes: open.map_or(0, |open| open.database.disk_space().unwrap_or(0)),
            cache_hits: self.values.hits(),
            cache_misses: self.values.misses(),
            expired: self.expired.load(Ordering::Relaxed),
            overlay: 0,
        }
    }

    fn view(&self, groups: &[u16], now_ms: i64) -> Result<Arc<dyn View>> {
        let _alone = self.barrier.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(view::DiskView::new(self, groups, now_ms)?))
    }

    fn load(&self, rows: Rows) -> Result<()> {
        self.load_now(&rows)
    }

    fn close(&self) -> Result<()> {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.values.clear();
        self.place.delete()
    }
}

/// Leaves what is written to the operating system, so that a batch is whole or not there when the folder is opened anew.
const HANDED_OVER: Option<PersistMode> = Some(PersistMode::Buffer);
