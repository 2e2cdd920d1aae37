//! Memory for results: the arenas that this worker owns. Results are copied into a slot, or were built in one that `pillion.empty` gave out.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pillion_wire::proto::{self, ring_packet::Packet};
use pillion_wire::shm::memory_file::MAX_ARENA_BYTES;
use pillion_wire::shm::packet::send;
use pillion_wire::shm::slots::ALIGNMENT;
use pillion_wire::shm::{OwnArena, Slot, WeakSlot};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The worker's arenas, and what was given out of them.
pub struct Outputs {
    socket: Arc<OwnedFd>,
    offer: proto::RingOffer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    own: Vec<Arc<OwnArena>>,
    /// Where slots begin that functions build results in.
    given: Vec<(usize, WeakSlot)>,
}

/// Those of this process, while it has rings.
static INSTALLED: Mutex<Option<Arc<Outputs>>> = Mutex::new(None);

fn installed() -> MutexGuard<'static, Option<Arc<Outputs>>> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outputs {
    /// Makes arenas when they are first needed, as the sidecar offered, and sends them over `socket`.
    pub fn install(socket: Arc<OwnedFd>, offer: proto::RingOffer) -> Arc<Self> {
        let outputs = Arc::new(Self { socket, offer, state: Mutex::default() });
        *installed() = Some(outputs.clone());
        outputs
    }

    /// Nothing is given out any more.
    pub fn uninstall() {
        installed().take();
    }

    /// Bodies of this many bytes and more go into slots.
    pub fn threshold(&self) -> u64 {
        self.offer.threshold_bytes.max(1)
    }

    /// A slot for `length` bytes, in a new arena if need be; `None` if there is no room or no memory.
    pub fn allocate(&self, length: u64) -> Option<Slot> {
        let mut state = self.state();
        if let Some(slot) = state.own.iter().find_map(|arena| arena.allocate(length)) {
            return Some(slot);
        }
        let used: u64 = state.own.iter().map(|arena| arena.arena().bytes()).sum();
        let bytes = length.checked_next_multiple_of(1 << 20)?.max(self.offer.arena_bytes).min(MAX_ARENA_BYTES);
        if used.checked_add(bytes)? > self.offer.max_arena_bytes {
            return None;
        }
        let arena = OwnArena::new("pillion-results", bytes).ok()?;
        let grant = proto::ArenaGrant { arena: arena.arena().id(), bytes };
        send(&self.socket, Packet::Arena(grant), &[arena.arena().file()]).ok()?;
        let slot = arena.allocate(length);
        state.own.push(arena);
        slot
    }

    /// The slot in which a body of `bytes` bytes was built, if it was: its first piece lies there, and the rest is padding.
    pub fn built(&self, pieces: &[Bytes], bytes: u64) -> Option<Slot> {
        let mut pieces = pieces.iter().filter(|piece| !piece.is_empty());
        let first = pieces.next()?;
        let padding: usize = pieces.map(Bytes::len).sum();
        let state = self.state();
        let (_, slot) = state.given.iter().find(|(address, _)| *address == first.as_ptr().addr())?;
        slot.upgrade().filter(|slot| slot.length() == bytes && padding < usize::try_from(ALIGNMENT).unwrap_or_default())
    }

    fn give(&self, bytes: u64) -> Option<(Slot, usize)> {
        let slot = self.allocate(bytes.checked_next_multiple_of(ALIGNMENT)?)?;
        let address = slot.address().ok()?;
        let mut state = self.state();
        state.given.retain(|(_, slot)| slot.upgrade().is_some());
        state.given.push((address, slot.downgrade()));
        Some((slot, address))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writable memory that the host will read, for `numpy.asarray`; in use for as long as an array over it lives, and then until the host has read it.
#[pyclass(frozen, name = "Space", module = "pillion._native")]
pub struct Space {
    /// Held for its memory.
    _slot: Slot,
    address: usize,
    typestr: String,
    rows: usize,
}

#[pymethods]
impl Space {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item(intern!(py, "version"), 3)?;
        interface.set_item(intern!(py, "shape"), (self.rows,))?;
        interface.set_item(intern!(py, "typestr"), &self.typestr)?;
        interface.set_item(intern!(py, "data"), (self.address, false))?;
        Ok(interface)
    }
}

/// Memory for `rows` values of `itemsize` bytes; `None` where none is shared, and where ordinary memory does as well.
#[pyfunction]
pub fn space(typestr: String, itemsize: u64, rows: usize) -> Option<Space> {
    let outputs = installed().clone()?;
    let bytes = itemsize.checked_mul(u64::try_from(rows).ok()?)?;
    if bytes == 0 || bytes < outputs.threshold() {
        return None;
    }
    let (slot, address) = outputs.give(bytes)?;
    Some(Space { _slot: slot, address, typestr, rows })
}
