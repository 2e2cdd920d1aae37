//! The memory that a connected session shares with its sidecar, host side (`host.proto`).

use pillion_wire::{
    frame::{Body, Frame, FrameError},
    proto,
    shm::{
        OwnArena, PeerArena, Returns, Slot,
        memory_file::{open_foreign, read_nonce},
    },
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Smaller bodies go inline, in bytes.
const THRESHOLD: u64 = 32 << 10;

/// What one session shares with its sidecar.
pub(super) struct Sharing {
    /// Results' slots that are not used any more.
    returns: Arc<Returns>,
    state: Mutex<State>,
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
    pub fn begin(offer: &proto::ArenaOffer) -> Option<(Sharing, proto::SharingProof)> {
        let nonce = read_nonce(offer).inspect_err(|error| tracing::debug!("no memory is shared with the sidecar: {error}")).ok()?;
        let sharing = Sharing { returns: Arc::default(), state: Mutex::default() };
        Some((sharing, proto::SharingProof { nonce: nonce.to_vec() }))
    }

    /// Puts a large body into a slot if there is room; else gives what to ask for.
    pub fn place(&self, frame: Frame) -> (Frame, Option<proto::ArenaWanted>) {
        let bytes = frame.body_bytes();
        if bytes < THRESHOLD {
            return (frame, None);
        }
        let slot = self.lock().own.iter().find_map(|arena| arena.allocate(bytes));
        let Some(slot) = slot else {
            let wanted = !std::mem::replace(&mut self.lock().asked, true);
            return (frame, wanted.then_some(proto::ArenaWanted { bytes }));
        };
        if slot.fill(frame.body.pieces()).is_err() {
            return (frame, None);
        }
        let reference = slot.reference();
        self.lock().lent.insert((reference.arena, reference.offset), slot.clone());
        (Frame { body: Body::Slot(slot), ..frame }, None)
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
        let arena = PeerArena::new(open_foreign(offer, false)?, offer.arena, offer.bytes, self.returns.clone())?;
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

    /// Results that are not used any more, for the next message.
    pub fn released(&self) -> Vec<proto::SlotRef> {
        self.returns.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
