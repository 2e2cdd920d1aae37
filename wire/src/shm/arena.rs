//! Arenas: sealed pieces of shared memory, and the slots in them that hold one body each (DESIGN D2).
//!
//! An arena has one writer, its owner, which keeps the free list ([`OwnArena`]). Whoever else maps it is a borrower ([`PeerArena`]): it reads a slot while it
//! holds the [`Slot`], and with the last use of that the owner is told. Sizes are sealed, so that nobody's truncation can raise SIGBUS.

use super::{
    map::{Exclusive, Map, OutOfRange},
    memory_file::{check_sealed, forbid_writers, memory_file},
    slots::{Borrowed, FreeList, Place},
};
use crate::proto;
use arrow_buffer::Buffer;
use bytes::Bytes;
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// A piece of shared memory as this process sees it. The file stays open for as long, so that others can be given it.
#[derive(Debug)]
pub struct Arena {
    id: u32,
    file: OwnedFd,
    bytes: u64,
    map: OnceLock<Map>,
}

impl Arena {
    /// By which references name it; unique among the arenas that this process made or took in.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The mapping, made when it is first needed: who only passes references on needs none.
    fn map(&self) -> io::Result<&Map> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = Map::shared(&self.file, usize::try_from(self.bytes).map_err(|_| io::ErrorKind::OutOfMemory)?, false)?;
        Ok(self.map.get_or_init(|| map))
    }
}

/// Ids of arenas in this process.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// Who is told that a slot is not used any more.
pub trait Release: Send + Sync {
    /// Called with the last use of the slot, on whatever thread that was.
    fn release(&self, slot: proto::SlotRef);
}

/// The use of one slot. Cheap to clone; with the last clone the slot goes back to its owner.
#[derive(Clone)]
pub struct Slot(Arc<Use>);

/// A slot that may be in use no more.
#[derive(Clone)]
pub struct WeakSlot(Weak<Use>);

impl WeakSlot {
    /// The slot, if somebody still uses it.
    pub fn upgrade(&self) -> Option<Slot> {
        self.0.upgrade().map(Slot)
    }
}

struct Use {
    arena: Arc<Arena>,
    place: Place,
    owner: Arc<dyn Release>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.owner.release(reference(self.arena.id, self.place));
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.reference()).finish()
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.reference() == other.reference()
    }
}

fn reference(arena: u32, place: Place) -> proto::SlotRef {
    proto::SlotRef { arena, offset: place.offset, length: place.length, generation: place.generation }
}

/// The place that a reference names in its arena.
pub fn place(slot: &proto::SlotRef) -> Place {
    Place { offset: slot.offset, length: slot.length, generation: slot.generation }
}

impl Slot {
    /// As it travels.
    pub fn reference(&self) -> proto::SlotRef {
        reference(self.0.arena.id, self.0.place)
    }

    /// Where it lies.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.0.arena
    }

    /// Bytes in use.
    pub fn length(&self) -> u64 {
        self.0.place.length
    }

    /// Address of its first byte in this process; the arena is mapped if it was not.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn address(&self) -> io::Result<usize> {
        // Places lie in their arena, which is mapped as a whole.
        Ok(self.0.arena.map()?.address() + self.range()?.0)
    }

    /// The slot, without keeping it in use.
    pub fn downgrade(&self) -> WeakSlot {
        WeakSlot(Arc::downgrade(&self.0))
    }

    fn range(&self) -> io::Result<(usize, usize)> {
        let Place { offset, length, .. } = self.0.place;
        let narrow = |value: u64| usize::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok((narrow(offset)?, narrow(length)?))
    }

    /// Fills the slot with pieces one after the other; they must not be longer than it. For its owner only.
    ///
    /// # Errors
    /// If they are, or the arena is another's.
    pub fn fill<'a>(&self, pieces: impl IntoIterator<Item = &'a Bytes>) -> io::Result<()> {
        let map = self.0.arena.map()?;
        let (mut offset, length) = self.range()?;
        let end = offset + length;
        for piece in pieces {
            if piece.len() > end - offset {
                return Err(outside(OutOfRange));
            }
            map.write(offset, piece).map_err(outside)?;
            offset += piece.len();
        }
        Ok(())
    }

    /// Writes into the slot from byte `at` on. For its owner only.
    ///
    /// # Errors
    /// If that lies outside, or the arena is another's.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (offset, length) = self.range()?;
        let at = usize::try_from(at).ok().filter(|at| at.checked_add(bytes.len()).is_some_and(|end| end <= length));
        self.0.arena.map()?.write(offset + at.ok_or_else(|| outside(OutOfRange))?, bytes).map_err(outside)
    }

    /// A part of the slot to build in, see [`Map::exclusive`].
    pub(super) fn exclusive(&self, at: usize, length: usize) -> io::Result<Exclusive> {
        let (offset, room) = self.range()?;
        if at.checked_add(length).is_none_or(|end| end > room) {
            return Err(outside(OutOfRange));
        }
        self.0.arena.map()?.exclusive(offset + at, length, Arc::new(AssertUnwindSafe(self.clone()))).map_err(outside)
    }

    /// The bytes, copied into memory that nobody else can write to.
    ///
    /// # Errors
    /// If the arena cannot be mapped.
    pub fn copy(&self) -> io::Result<Buffer> {
        let (offset, length) = self.range()?;
        self.0.arena.map()?.copy(offset, length).map_err(outside)
    }

    /// The bytes in place, for whoever trusts the writer of the arena. The buffer holds the slot.
    ///
    /// # Errors
    /// If the arena cannot be mapped.
    pub fn view(&self) -> io::Result<Buffer> {
        let (offset, length) = self.range()?;
        self.0.arena.map()?.view(offset, length, Arc::new(AssertUnwindSafe(self.clone()))).map_err(outside)
    }
}

fn outside(_: OutOfRange) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a slot lies outside of its arena")
}

/// An arena of this process, with its free list.
pub struct OwnArena {
    arena: Arc<Arena>,
    free: Mutex<FreeList>,
}

impl OwnArena {
    /// A new arena that only this process can ever write to.
    ///
    /// # Errors
    /// As [`memory_file`].
    pub fn new(name: &str, bytes: u64) -> io::Result<Arc<Self>> {
        Self::from_file(memory_file(name, bytes)?, NEXT_ID.fetch_add(1, Ordering::Relaxed), bytes)
    }

    /// Becomes the owner of an arena that somebody made for this process, under the id that they gave it.
    ///
    /// # Errors
    /// If its size is not sealed or it cannot be mapped.
    pub fn from_file(file: OwnedFd, id: u32, bytes: u64) -> io::Result<Arc<Self>> {
        check_sealed(&file, bytes)?;
        let map = Map::shared(&file, usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?, true)?;
        forbid_writers(&file);
        let arena = Arc::new(Arena { id, file, bytes, map: OnceLock::from(map) });
        Ok(Arc::new(OwnArena { arena, free: Mutex::new(FreeList::new(bytes)) }))
    }

    /// The memory.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// A slot for `length` bytes; `None` if there is no room now.
    pub fn allocate(self: &Arc<Self>, length: u64) -> Option<Slot> {
        let place = self.free().allocate(length)?;
        Some(Slot(Arc::new(Use { arena: self.arena.clone(), place, owner: self.clone() })))
    }

    /// Slots in use.
    pub fn live(&self) -> usize {
        self.free().live()
    }

    fn free(&self) -> MutexGuard<'_, FreeList> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Release for OwnArena {
    fn release(&self, slot: proto::SlotRef) {
        self.free().release(place(&slot));
    }
}

/// An arena of another process, with what it has lent.
pub struct PeerArena {
    arena: Arc<Arena>,
    /// By which its owner names it.
    theirs: u32,
    borrowed: Mutex<Borrowed>,
    owner: Arc<dyn Release>,
}

impl PeerArena {
    /// Takes in an arena that its owner calls `id`; `owner` is told of slots that are not used any more, by that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if its size is not sealed.
    pub fn new(file: OwnedFd, id: u32, bytes: u64, owner: Arc<dyn Release>) -> io::Result<Arc<Self>> {
        check_sealed(&file, bytes)?;
        let arena = Arc::new(Arena { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), file, bytes, map: OnceLock::new() });
        Ok(Arc::new(PeerArena { arena, theirs: id, borrowed: Mutex::new(Borrowed::new(bytes)), owner }))
    }

    /// Makes an arena for another process to own; both call it by this process's id.
    ///
    /// # Errors
    /// As [`memory_file`].
    pub fn make(name: &str, bytes: u64, owner: Arc<dyn Release>) -> io::Result<Arc<Self>> {
        let file = memory_file(name, bytes)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let arena = Arc::new(Arena { id, file, bytes, map: OnceLock::new() });
        Ok(Arc::new(PeerArena { arena, theirs: id, borrowed: Mutex::new(Borrowed::new(bytes)), owner }))
    }

    /// The memory. Its id is this process's, not the owner's.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The slot that its owner refers to; `None` for a reference that is stale, overlaps with another, or lies outside.
    pub fn borrow(self: &Arc<Self>, slot: &proto::SlotRef) -> Option<Slot> {
        let place = place(slot);
        if slot.arena != self.theirs || !self.borrowed().borrow(place) {
            return None;
        }
        Some(Slot(Arc::new(Use { arena: self.arena.clone(), place, owner: self.clone() })))
    }

    /// Slots not given back.
    pub fn live(&self) -> usize {
        self.borrowed().live()
    }

    fn borrowed(&self) -> MutexGuard<'_, Borrowed> {
        self.borrowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Release for PeerArena {
    fn release(&self, slot: proto::SlotRef) {
        self.borrowed().give_back(place(&slot));
        self.owner.release(proto::SlotRef { arena: self.theirs, ..slot });
    }
}

/// Slots to give back with the next message.
#[derive(Default)]
pub struct Returns(Mutex<Vec<proto::SlotRef>>);

impl Returns {
    /// Takes what has gathered.
    pub fn take(&self) -> Vec<proto::SlotRef> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Release for Returns {
    fn release(&self, slot: proto::SlotRef) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
