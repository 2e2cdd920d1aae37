//! A worker's data over rings and slots, in place of its data stream.
//!
//! What a batch has inline is copied into a slot of an arena that the link owns, when it is sent; so the slots in use are as few as the batches in the worker, and stay in
//! the caches. Slots that came from elsewhere are passed on as they are: the worker is given their arena first. What the worker was lent stays in use until it gives it
//! back, or is reaped.

use super::{arenas::Arenas, ring_door::Memory};
use pillion_wire::{
    frame::{Body, Frame, FrameError},
    proto::{self, ring_packet::Packet, sidecar_data},
    shm::{
        Arena, Endpoint, PeerArena, Returns, Slot, Spin,
        packet::{receive, send},
        ring::Broken,
    },
};
use prost::Message;
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::net::unix::pipe;

/// Arenas that one worker may bring.
const MAX_ARENAS: usize = 64;

/// What the worker uses of ours.
pub(super) type Lent = HashMap<(u32, u64), Slot>;

/// This end of the link.
pub struct RingLink {
    end: Endpoint,
    /// An eventfd; reading it is all that tokio's pipe does.
    bell: pipe::Receiver,
    /// Carries the files of arenas.
    socket: OwnedFd,
    spin: Spin,
    /// Since when there was nothing to receive, and whether this end has slept since.
    waiting: Option<(Instant, bool)>,
    memory: Arc<Memory>,
    /// For bodies that came inline; made when they are first needed.
    own: Arenas,
    /// What the worker was given.
    given: HashMap<u32, Weak<Arena>>,
    lent: Lent,
    /// What the worker brought, by its names.
    theirs: HashMap<u32, Arc<PeerArena>>,
    /// The worker's slots that are not used any more.
    returns: Arc<Returns>,
}

impl RingLink {
    /// A link over rings that both ends have.
    ///
    /// # Errors
    /// Without descriptors.
    pub fn new(end: Endpoint, socket: OwnedFd, memory: Arc<Memory>) -> io::Result<Self> {
        let bell = pipe::Receiver::from_owned_fd_unchecked(end.bell().try_clone_to_owned()?)?;
        send(&socket, Packet::Opened(proto::RingOpened {}), &[])?;
        let spin = Spin::new(memory.config.spin.limit());
        let own = Arenas::new(memory.clone(), "pillion-inputs");
        let (given, lent, theirs, returns) = (HashMap::new(), Lent::new(), HashMap::new(), Arc::default());
        Ok(RingLink { end, bell, socket, spin, waiting: None, memory, own, given, lent, theirs, returns })
    }

    /// Sends a message without a frame.
    pub fn tell(&mut self, seq: u64, plan_id: u64, message: sidecar_data::Message) -> Result<(), Broken> {
        let (released, closed_arenas) = (self.returns.take(), self.closed());
        self.end.send(&proto::SidecarData { seq, plan_id, message: Some(message), released, closed_arenas })
    }

    /// Sends a frame, in a slot if that pays and can be had; `kind` makes what its messages are.
    pub fn send_frame(
        &mut self,
        (seq, plan_id): (u64, u64),
        frame: Frame,
        kind: fn(proto::Frame) -> sidecar_data::Message,
    ) -> Result<(), Broken> {
        let frame = self.place(frame).map_err(|_| Broken)?;
        if let Body::Slot(slot) = &frame.body {
            let reference = slot.reference();
            self.lent.insert((reference.arena, reference.offset), slot.clone());
        }
        frame.into_messages().try_for_each(|message| self.tell(seq, plan_id, kind(message)))
    }

    fn place(&mut self, frame: Frame) -> io::Result<Frame> {
        match &frame.body {
            Body::Slot(slot) => {
                let again = slot.reference();
                // A worker that still has a slot of an earlier try gets the bytes; the books allow one use at a time.
                let fresh = !self.lent.contains_key(&(again.arena, again.offset));
                if fresh && self.give(slot.arena().clone()) { Ok(frame) } else { frame.into_inline() }
            }
            Body::Inline(pieces) if frame.body_bytes() >= self.memory.config.threshold.max(1) => match self.allocate(frame.body_bytes()) {
                Some(slot) if slot.fill(pieces).is_ok() => Ok(Frame { body: Body::Slot(slot), ..frame }),
                _ => Ok(frame),
            },
            Body::Inline(_) => Ok(frame),
        }
    }

    fn allocate(&mut self, length: u64) -> Option<Slot> {
        if let Some(slot) = self.own.find(length) {
            return Some(slot);
        }
        let fresh = self.own.make(length)?;
        if self.give(fresh.arena().clone()) { self.own.keep(fresh, length) } else { None }
    }

    /// Sees to it that the worker has an arena; false if it cannot be given.
    fn give(&mut self, arena: Arc<Arena>) -> bool {
        let id = arena.id();
        if self.given.contains_key(&id) {
            return true;
        }
        let grant = proto::ArenaGrant { arena: id, bytes: arena.bytes() };
        let given = send(&self.socket, Packet::Arena(grant), &[arena.file()]).is_ok();
        if given {
            self.given.insert(id, Arc::downgrade(&arena));
        }
        given
    }

    /// Arenas that are gone on this side.
    fn closed(&mut self) -> Vec<u32> {
        if self.given.values().all(|arena| arena.strong_count() > 0) {
            return Vec::new();
        }
        let mut closed = Vec::new();
        self.given.retain(|id, arena| {
            arena.strong_count() > 0 || {
                closed.push(*id);
                false
            }
        });
        closed
    }

    /// The next message of the worker.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<proto::WorkerData, Broken>> {
        loop {
            if let Some(message) = self.try_recv()? {
                if let Some((since, slept)) = self.waiting.take() {
                    self.spin.learn(since.elapsed(), !slept);
                }
                return Poll::Ready(Ok(message));
            }
            self.end.flush()?;
            if self.waiting.is_none() {
                self.waiting = Some((Instant::now(), false));
                let limit = self.spin.limit();
                if limit > Duration::ZERO && self.end.spin(limit, || false)? {
                    continue;
                }
            }
            if let Some((_, slept)) = &mut self.waiting {
                *slept = true;
            }
            match self.bell.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {
                    // Until it would block, which is when tokio waits for the next ring.
                    while self.bell.try_read(&mut [0; 8]).is_ok() {}
                    self.end.wake()?;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
                Poll::Pending => {
                    if self.end.doze()? {
                        return Poll::Pending;
                    }
                    self.end.wake()?;
                }
            }
        }
    }

    /// The next message of the worker if it is there.
    pub fn try_recv(&mut self) -> Result<Option<proto::WorkerData>, Broken> {
        while let Some(bytes) = self.end.receive()? {
            let mut message = proto::WorkerData::decode(bytes).map_err(|_| Broken)?;
            for slot in std::mem::take(&mut message.released) {
                let key = (slot.arena, slot.offset);
                if self.lent.get(&key).is_none_or(|lent| lent.reference() != slot) {
                    return Err(Broken);
                }
                self.lent.remove(&key);
            }
            if message.message.is_some() {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The worker's slot that a reference names.
    pub fn resolve(&mut self, slot: &proto::SlotRef) -> Result<Slot, FrameError> {
        while !self.theirs.contains_key(&slot.arena) {
            self.take_arena().ok_or(FrameError::SlotInvalid)?;
        }
        self.theirs.get(&slot.arena).and_then(|arena| arena.borrow(slot)).ok_or(FrameError::SlotInvalid)
    }

    /// Takes in an arena that the worker brought; it was sent before the first message that refers to it.
    fn take_arena(&mut self) -> Option<()> {
        let (Packet::Arena(grant), mut files) = receive(&self.socket, true).ok()?? else { return None };
        let sum: u64 = self.theirs.values().map(|arena| arena.arena().bytes()).sum();
        if self.theirs.len() >= MAX_ARENAS || sum.saturating_add(grant.bytes) > self.memory.config.max_bytes {
            return None;
        }
        let arena = PeerArena::new(files.pop()?, grant.arena, grant.bytes, self.returns.clone()).ok()?;
        self.theirs.insert(grant.arena, arena).is_none().then_some(())
    }

    /// What the worker uses; to be kept until it is reaped.
    pub fn take_lent(&mut self) -> Lent {
        std::mem::take(&mut self.lent)
    }
}
