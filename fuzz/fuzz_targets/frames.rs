//! Any messages, in the form in which they arrive: frames within the limits or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_wire::{
    frame::{Assembler, FrameError, FrameLimits},
    proto,
    shm::{OwnArena, PeerArena, Returns},
};
use prost::Message;
use std::sync::{Arc, OnceLock};

const LIMITS: FrameLimits = FrameLimits { bytes: 1 << 20, rows: 1000 };

fn arena() -> &'static Arc<OwnArena> {
    static ARENA: OnceLock<Arc<OwnArena>> = OnceLock::new();
    ARENA.get_or_init(|| OwnArena::new("pillion-fuzz", 1 << 16).expect("memory"))
}

fuzz_target!(|data: &[u8]| {
    let own = arena();
    let file = own.arena().file().try_clone_to_owned().expect("a descriptor");
    let peer = PeerArena::new(file, 1, 1 << 16, Arc::new(Returns::default())).expect("an arena");
    let mut assembler = Assembler::new(LIMITS);
    let mut rest = data;
    let mut held = Vec::new();
    while let Some((&length, after)) = rest.split_first() {
        let (message, after) = after.split_at(after.len().min(usize::from(length)));
        rest = after;
        let Ok(message) = proto::Frame::decode(message) else { continue };
        match assembler.push_shared(message, |slot| peer.borrow(slot).ok_or(FrameError::SlotInvalid)) {
            Ok(Some(frame)) => {
                assert!(frame.bytes() <= LIMITS.bytes && frame.rows <= LIMITS.rows);
                held.push(frame.clone().into_inline().expect("a mapping"));
                held.push(frame);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
});
