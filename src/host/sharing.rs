//! The memory that a connected session shares with its sidecar, host side (`host.proto`).

use pillion_wire::{
    frame::{Body, Frame, FrameError},
    proto::{self, execute_request as request},
    shm::{
        OwnArena, PeerArena, Release, Slot,
        memory_file::{open_foreign, read_nonce},
    },
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;
use tonic::Streaming;

/// What one session shares with its sidecar.
pub(super) struct Sharing {
    outlet: Arc<Outlet>,
    /// Smaller bodies go inline, in bytes.
    threshold: u64,
    state: Mutex<State>,
}

/// This side's half of the session's stream. Results that are used where they lie hold it, too: the sidecar must not use their slots again before they are given back, and
/// takes a half that is closed for an end of their use.
#[derive(Default)]
pub(super) struct Outlet(Mutex<Half>);

#[derive(Default)]
struct Half {
    out: Option<mpsc::UnboundedSender<proto::ExecuteRequest>>,
    /// Results' slots that are not used any more, for the next message.
    released: Vec<proto::SlotRef>,
    /// No message will come to travel with.
    over: bool,
    /// The other half, once nobody reads it any more.
    rest: Option<Streaming<proto::ExecuteResponse>>,
}

impl Outlet {
    pub fn new(out: mpsc::UnboundedSender<proto::ExecuteRequest>) -> Arc<Self> {
        Arc::new(Outlet(Mutex::new(Half { out: Some(out), ..Default::default() })))
    }

    /// Sends a message; false if the stream is closed.
    pub fn send(&self, message: proto::ExecuteRequest) -> bool {
        self.lock().send(message)
    }

    /// Gives back what is not used any more, when there is nothing else to say.
    pub fn flush(&self) {
        self.lock().flush();
    }

    /// The session's last message has come: what is given back from now on is given back at once.
    pub fn end(&self) {
        let mut half = self.lock();
        half.over = true;
        half.flush();
    }

    /// Closes the stream. The sidecar then cancels what is open.
    pub fn close(&self) {
        self.lock().out = None;
    }

    /// Keeps the stream, of which nothing is wanted any more, for as long as results of it are used.
    fn keep(&self, rest: Option<Streaming<proto::ExecuteResponse>>) {
        let mut half = self.lock();
        half.send(proto::ExecuteRequest { message: Some(request::Message::End(proto::End { cancel: true })), ..Default::default() });
        half.over = true;
        half.rest = rest;
    }

    fn lock(&self) -> MutexGuard<'_, Half> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Half {
    fn send(&mut self, mut message: proto::ExecuteRequest) -> bool {
        message.released.append(&mut self.released);
        self.out.as_ref().is_some_and(|out| out.send(message).is_ok())
    }

    fn flush(&mut self) {
        if !self.released.is_empty() {
            // A closed stream is reported by the next response.
            self.send(proto::ExecuteRequest::default());
        }
    }
}

impl Release for Outlet {
    fn release(&self, slot: proto::SlotRef) {
        let mut half = self.lock();
        half.released.push(slot);
        if half.over {
            half.flush();
        }
    }
}

#[derive(Default)]
struct State {
    /// For inputs.
    own: Vec<Arc<OwnArena>>,
    /// Inputs that the sidecar uses.
    lent: HashMap<(u32, u64), Slot>,
    /// An arena was asked for and has not come; or none is to be had.
    asked: bool,
    /// Of workers.
    theirs: HashMap<u32, Arc<PeerArena>>,
}

impl Sharing {
    /// Looks at the memory that a sidecar offers; gives the proof to send, or `None` if it is not within reach.
    pub fn begin(opened: &proto::Opened, outlet: Arc<Outlet>) -> Option<(Sharing, proto::SharingProof)> {
        let offer = opened.sharing.as_ref()?;
        let nonce = read_nonce(offer).inspect_err(|error| tracing::debug!("no memory is shared with the sidecar: {error}")).ok()?;
        let sharing = Sharing { outlet, threshold: opened.slot_threshold_bytes, state: Mutex::default() };
        Some((sharing, proto::SharingProof { nonce: nonce.to_vec() }))
    }

    /// A slot for a large body if there is room; else asks for more.
    pub fn allocate(&self, bytes: u64) -> Option<Slot> {
        if bytes < self.threshold.max(1) {
            return None;
        }
        let mut state = self.lock();
        let slot = state.own.iter().find_map(|arena| arena.allocate(bytes));
        if slot.is_none() && !std::mem::replace(&mut state.asked, true) {
            drop(state);
            // A closed stream is reported by the next response.
            let wanted = request::Message::ArenaWanted(proto::ArenaWanted { bytes });
            self.outlet.send(proto::ExecuteRequest { message: Some(wanted), ..Default::default() });
        }
        slot
    }

    /// Puts a large body into a slot if there is room, and takes note of what the sidecar is given.
    pub fn place(&self, frame: Frame) -> Frame {
        let slot = match &frame.body {
            // Built there by the host.
            Body::Slot(slot) => slot.clone(),
            Body::Inline(pieces) => match self.allocate(frame.body_bytes()) {
                Some(slot) if slot.fill(pieces).is_ok() => slot,
                _ => return frame,
            },
        };
        let reference = slot.reference();
        self.lock().lent.insert((reference.arena, reference.offset), slot.clone());
        Frame { body: Body::Slot(slot), ..frame }
    }

    /// Takes in an arena that the sidecar made or passes on.
    pub fn take(&self, offer: &proto::ArenaOffer) -> io::Result<()> {
        if offer.yours {
            // If there is none to be had, or it cannot be used, `asked` stays, so that it is not asked for again.
            let arena = open_foreign(offer, true).and_then(|file| OwnArena::from_file(file, offer.arena, offer.bytes));
            if let Ok(arena) = arena {
                let mut state = self.lock();
                state.own.push(arena);
                state.asked = false;
            }
            return Ok(());
        }
        let arena = PeerArena::new(open_foreign(offer, false)?, offer.arena, offer.bytes, self.outlet.clone())?;
        self.lock().theirs.insert(offer.arena, arena);
        Ok(())
    }

    /// The slot of a result.
    pub fn resolve(&self, slot: &proto::SlotRef) -> Result<Slot, FrameError> {
        self.lock().theirs.get(&slot.arena).and_then(|arena| arena.borrow(slot)).ok_or(FrameError::SlotInvalid)
    }

    /// The sidecar does not use these inputs any more; false if it never had one of them.
    pub fn take_back(&self, slots: &[proto::SlotRef]) -> bool {
        let mut state = self.lock();
        slots.iter().all(|slot| {
            let key = (slot.arena, slot.offset);
            let known = state.lent.get(&key).is_some_and(|lent| lent.reference() == *slot);
            known && state.lent.remove(&key).is_some()
        })
    }

    /// No later result lies in these arenas of workers.
    pub fn forget(&self, arenas: &[u32]) {
        let mut state = self.lock();
        for arena in arenas {
            state.theirs.remove(arena);
        }
    }

    /// Gives the session up. If results are used where they lie, the stream lives for as long as they do; else it is closed.
    pub fn abandon(&self, responses: Option<Streaming<proto::ExecuteResponse>>) {
        if self.lock().theirs.values().any(|arena| arena.live() > 0) {
            self.outlet.keep(responses);
        } else {
            self.outlet.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
