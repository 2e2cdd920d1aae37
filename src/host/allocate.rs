//! Memory in which a host builds its batches, so that their bodies need not be copied on their way (DESIGN D2).

use super::{input::SessionInput, remote::RemoteSession, session::Session};
use crate::worker::process::{arenas::Arenas, ring_door::Memory};
use arrow_buffer::{ArrowNativeType, Buffer, MutableBuffer, ScalarBuffer};
use pillion_wire::{
    frame::{Body, Frame},
    ipc::relocate::into_slot,
    shm::{Draft, DraftParts, Slot, map::Exclusive, slots::ALIGNMENT},
};
use std::{
    collections::BTreeMap,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

impl Session {
    /// Room for a batch of so many bytes that a worker can read where it lies, see [`Allocation`].
    pub fn allocate(&self, bytes: usize) -> Allocation {
        self.allocator().allocate(bytes)
    }
}

impl SessionInput {
    /// Room for a batch of so many bytes that a worker can read where it lies, see [`Allocation`].
    pub fn allocate(&self, bytes: usize) -> Allocation {
        self.allocator().allocate(bytes)
    }
}

/// Room in which a host builds a batch, column by column: a slot of shared memory where workers or the sidecar read it in place, else ordinary memory, which is used the
/// same way. A batch whose buffers lie in one allocation is sent without copying them; smaller buffers that lie elsewhere (a validity bitmap, say) are
/// copied into what the allocation has left. A batch that is cut, mixed from several allocations, sent a second time, or has dictionaries, arrives like any other.
///
/// The slot is used again once everything that refers to it is dropped, here and in the engine. Shared memory is bounded: what an operator holds, others cannot have.
/// Connected, the first calls give ordinary memory, until the sidecar's arena has come with some answer.
///
/// ```no_run
/// # async fn example(session: &mut pillion::Session) -> pillion::Result<()> {
/// use arrow_array::{ArrayRef, Int64Array, RecordBatch};
/// use pillion::host::Allocation;
/// use std::sync::Arc;
///
/// let rows = 100_000;
/// let mut room = session.allocate(2 * Allocation::room::<i64>(rows));
/// let (Some(mut a), Some(mut b)) = (room.part::<i64>(rows), room.part::<i64>(rows)) else { unreachable!("it was asked for") };
/// for row in 0..rows {
///     (a[row], b[row]) = (row as i64, 1);
/// }
/// let column = |part| Arc::new(Int64Array::new(part, None)) as ArrayRef;
/// let batch = RecordBatch::try_from_iter([("a", column(a.freeze())), ("b", column(b.freeze()))]).expect("columns of one length");
/// session.send(batch).await?;
/// # Ok(())
/// # }
/// ```
pub struct Allocation {
    room: Room,
}

enum Room {
    Slot(Draft),
    /// Each part is memory of its own; so much may still be asked for.
    Ordinary(usize),
}

impl Allocation {
    /// Bytes that a part of `count` values takes: each begins at a multiple of 64 bytes.
    pub const fn room<T: ArrowNativeType>(count: usize) -> usize {
        count.saturating_mul(size_of::<T>()).next_multiple_of(ALIGNMENT as usize)
    }

    /// Whether it is shared memory.
    pub fn is_shared(&self) -> bool {
        matches!(self.room, Room::Slot(_))
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        match &self.room {
            Room::Slot(draft) => draft.left(),
            Room::Ordinary(left) => *left,
        }
    }

    /// The next `count` values, to be written; what they are at first means nothing. `None` if so many are not left.
    pub fn part<T: ArrowNativeType>(&mut self, count: usize) -> Option<Part<T>> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let memory = match &mut self.room {
            Room::Slot(draft) => PartMemory::Slot(draft.take(bytes)?),
            Room::Ordinary(left) => {
                *left = left.checked_sub(Self::room::<T>(count))?;
                PartMemory::Ordinary(MutableBuffer::from_len_zeroed(bytes))
            }
        };
        Some(Part { memory, values: PhantomData })
    }
}

/// Values of one buffer, while they are written.
pub struct Part<T> {
    memory: PartMemory,
    values: PhantomData<T>,
}

enum PartMemory {
    Slot(Exclusive),
    Ordinary(MutableBuffer),
}

impl<T: ArrowNativeType> Part<T> {
    /// No more writing: the values as a buffer for an array.
    pub fn freeze(self) -> ScalarBuffer<T> {
        ScalarBuffer::from(self.into_buffer())
    }

    /// As [`Part::freeze`], for arrays that are made of bytes.
    pub fn into_buffer(self) -> Buffer {
        match self.memory {
            PartMemory::Slot(exclusive) => exclusive.freeze(),
            PartMemory::Ordinary(buffer) => buffer.into(),
        }
    }
}

impl<T: ArrowNativeType> Deref for Part<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.memory {
            PartMemory::Slot(exclusive) => exclusive.values(),
            PartMemory::Ordinary(buffer) => buffer.typed_data(),
        }
    }
}

impl<T: ArrowNativeType> DerefMut for Part<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            PartMemory::Slot(exclusive) => exclusive.values_mut(),
            PartMemory::Ordinary(buffer) => buffer.typed_data_mut(),
        }
    }
}

/// What a session's allocations lie in, and which of them a frame was built in.
pub(super) struct Allocator {
    source: Source,
    /// By the address of their slots, until they are sent.
    drafts: Mutex<BTreeMap<usize, DraftParts>>,
}

enum Source {
    Ordinary,
    /// Arenas of this process, which workers are given.
    Embedded(Mutex<Arenas>),
    /// The arenas that the session got from its sidecar.
    Remote(Arc<RemoteSession>),
}

impl Allocator {
    /// For workers that read the host's arrays, or share nothing.
    pub fn ordinary() -> Self {
        Self::of(Source::Ordinary)
    }

    /// For an engine in this process, with worker processes.
    pub fn embedded(memory: &Arc<Memory>) -> Self {
        if memory.config.enabled {
            Self::of(Source::Embedded(Mutex::new(Arenas::new(memory.clone(), "pillion-session"))))
        } else {
            Self::ordinary()
        }
    }

    /// For a session with a sidecar.
    pub fn remote(session: Arc<RemoteSession>) -> Self {
        Self::of(Source::Remote(session))
    }

    fn of(source: Source) -> Self {
        Allocator { source, drafts: Mutex::default() }
    }

    fn allocate(&self, bytes: usize) -> Allocation {
        let Some(slot) = self.slot(bytes.checked_next_multiple_of(ALIGNMENT as usize).unwrap_or(bytes) as u64) else {
            return Allocation { room: Room::Ordinary(bytes) };
        };
        let draft = Draft::new(slot.clone());
        if let Ok(address) = slot.address() {
            let mut drafts = self.drafts();
            // Some are never sent.
            drafts.retain(|_, draft| draft.slot().is_some());
            drafts.insert(address, draft.parts());
        }
        Allocation { room: Room::Slot(draft) }
    }

    fn slot(&self, bytes: u64) -> Option<Slot> {
        match &self.source {
            Source::Ordinary => None,
            Source::Embedded(arenas) => {
                let mut arenas = arenas.lock().unwrap_or_else(PoisonError::into_inner);
                if bytes < arenas.memory().config.threshold.max(1) {
                    return None;
                }
                arenas.find(bytes).or_else(|| {
                    let fresh = arenas.make(bytes)?;
                    arenas.keep(fresh, bytes)
                })
            }
            Source::Remote(session) => session.allocate(bytes),
        }
    }

    /// The frame with its body in the slot that it was built in, if it was.
    pub fn placed(&self, frame: Frame) -> Frame {
        self.draft_of(&frame).and_then(|draft| into_slot(&frame, &draft)).unwrap_or(frame)
    }

    /// The draft in which one of the frame's pieces lies. Whether it succeeds or not, a slot is sent once: who has had it may not be told of it again.
    fn draft_of(&self, frame: &Frame) -> Option<DraftParts> {
        let Body::Inline(pieces) = &frame.body else { return None };
        let mut drafts = self.drafts();
        if drafts.is_empty() {
            return None;
        }
        let found = pieces.iter().find_map(|piece| {
            let at = piece.as_ptr().addr();
            drafts.range(..=at).next_back().filter(|(start, draft)| at < *start + draft.bytes()).map(|(start, _)| *start)
        })?;
        drafts.remove(&found)
    }

    fn drafts(&self) -> MutexGuard<'_, BTreeMap<usize, DraftParts>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
