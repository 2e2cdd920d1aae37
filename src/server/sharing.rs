//! The memory that a session shares with its host (`host.proto`). The sidecar passes references on without touching the bytes; only for a
//! host that has not proven that it sees the memory they are copied into messages.

use crate::{
    error::{Code, Error, Result},
    worker::process::ring_door::{Memory, Reserved},
};
use pillion_wire::{
    frame::{Body, Frame, FrameError},
    proto::{self, execute_response as response},
    shm::{Arena, PeerArena, Release, Slot, endpoint::NONCE_BYTES, memory_file::MAX_ARENA_BYTES},
};
use std::{
    collections::{HashMap, VecDeque},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// What one session shares with its host.
pub(super) struct Sharing {
    memory: Arc<Memory>,
    /// Most bytes of arenas for inputs.
    most: u64,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The host can give nothing back any more.
    gone: bool,
    /// Who waits for [`State::gone`] or the last of `lent`.
    waker: Option<Waker>,
    /// The host has proven that it sees our memory.
    proven: bool,
    /// What the host writes to.
    inputs: HashMap<u32, (Arc<PeerArena>, Reserved)>,
    /// What the host was told of; open here, so that it can open it, until its worker is gone or the stream ends.
    told: HashMap<u32, Arc<Arena>>,
    /// Results that the host uses.
    lent: HashMap<(u32, u64), Slot>,
}

/// What waits for a response to travel with.
#[derive(Default)]
struct Outbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    released: Vec<proto::SlotRef>,
    closed_arenas: Vec<u32>,
    arenas: VecDeque<proto::ArenaOffer>,
    waker: Option<Waker>,
}

impl State {
    /// Arenas of workers that are no more, in which the host uses nothing.
    fn forget_arenas(&mut self) -> Vec<u32> {
        self.told.extract_if(|_, arena| Arc::strong_count(arena) == 1).map(|(id, _)| id).collect()
    }

    fn wake(&mut self) {
        if (self.gone || self.lent.is_empty())
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Release for Outbox {
    fn release(&self, slot: proto::SlotRef) {
        let mut waiting = self.lock();
        waiting.released.push(slot);
        waiting.wake();
    }
}

impl Sharing {
    /// Nothing shared yet; the host may have up to `most` bytes in flight.
    pub fn new(memory: Arc<Memory>, most: u64) -> Self {
        Sharing { memory, most, outbox: Arc::default(), state: Mutex::default() }
    }

    /// The host's proof.
    pub fn prove(&self, nonce: &[u8]) {
        let ours = self.memory.nonce().is_some_and(|(_, ours)| nonce.len() == NONCE_BYTES && nonce == ours);
        self.lock().proven |= ours;
    }

    /// The host wants room for a body of so many bytes.
    pub fn want(&self, bytes: u64) {
        let offer = self.make(bytes).unwrap_or(proto::ArenaOffer { yours: true, ..Default::default() });
        let mut waiting = self.outbox.lock();
        waiting.arenas.push_back(offer);
        waiting.wake();
    }

    fn make(&self, bytes: u64) -> Option<proto::ArenaOffer> {
        let mut state = self.lock();
        let sum: u64 = state.inputs.values().map(|(arena, _)| arena.arena().bytes()).sum();
        let size = bytes.checked_next_multiple_of(1 << 20)?.max(self.memory.config.arena_bytes).min(MAX_ARENA_BYTES);
        if !state.proven || bytes > self.memory.max_batch_bytes || sum >= self.most.saturating_add(bytes) {
            return None;
        }
        let reserved = self.memory.reserve(size)?;
        let arena = PeerArena::make("pillion-session", size, self.outbox.clone()).ok()?;
        let offer = offer(arena.arena(), true);
        state.inputs.insert(offer.arena, (arena, reserved));
        Some(offer)
    }

    /// The host's slot that a reference names.
    pub fn resolve(&self, slot: &proto::SlotRef) -> Result<Slot, FrameError> {
        let state = self.lock();
        let (arena, _) = state.inputs.get(&slot.arena).ok_or(FrameError::SlotInvalid)?;
        arena.borrow(slot).ok_or(FrameError::SlotInvalid)
    }

    /// The host does not use these results any more.
    pub fn take_back(&self, slots: &[proto::SlotRef]) -> Result<()> {
        let mut state = self.lock();
        let mut freed = Vec::with_capacity(slots.len());
        for slot in slots {
            let key = (slot.arena, slot.offset);
            if state.lent.get(&key).is_none_or(|lent| lent.reference() != *slot) {
                return Err(Error::new(Code::ProtocolViolation, "the host gave back a slot that it does not have"));
            }
            freed.extend(state.lent.remove(&key));
        }
        state.wake();
        drop(state);
        Ok(())
    }

    /// The host has closed its half of the stream, or broken it.
    pub fn gone(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.wake();
    }

    /// Waits until the host uses no results, or is gone: before, their slots must not be used again.
    pub fn poll_returned(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.gone || state.lent.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A result as this host can read it, and the arena that it must be told of first.
    pub fn lend(&self, frame: Frame) -> std::io::Result<(Frame, Option<proto::ArenaOffer>)> {
        let Body::Slot(slot) = &frame.body else { return Ok((frame, None)) };
        let mut state = self.lock();
        if !state.proven {
            drop(state);
            return Ok((frame.into_inline()?, None));
        }
        let reference = slot.reference();
        state.lent.insert((reference.arena, reference.offset), slot.clone());
        let fresh = state.told.insert(reference.arena, slot.arena().clone()).is_none();
        let offer = fresh.then(|| {
            self.outbox.lock().closed_arenas.extend(state.forget_arenas());
            offer(slot.arena(), false)
        });
        drop(state);
        Ok((frame, offer))
    }

    /// Adds to a response what has gathered for the host.
    pub fn complete(&self, response: &mut proto::ExecuteResponse) {
        let mut waiting = self.outbox.lock();
        response.released.append(&mut waiting.released);
        response.closed_arenas.append(&mut waiting.closed_arenas);
    }

    /// A response that only shared memory needs; the task is woken when there is another.
    pub fn poll_response(&self, cx: &Context<'_>) -> Option<proto::ExecuteResponse> {
        let mut waiting = self.outbox.lock();
        if let Some(arena) = waiting.arenas.pop_front() {
            return Some(proto::ExecuteResponse { message: Some(response::Message::Arena(arena)), ..Default::default() });
        }
        if waiting.released.is_empty() {
            waiting.waker = Some(cx.waker().clone());
            return None;
        }
        let released = std::mem::take(&mut waiting.released);
        Some(proto::ExecuteResponse { released, ..Default::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offer(arena: &Arena, yours: bool) -> proto::ArenaOffer {
    let pid = std::process::id().cast_signed();
    proto::ArenaOffer { arena: arena.id(), pid, fd: arena.file().as_raw_fd(), bytes: arena.bytes(), yours }
}
