//! Arenas that this process owns, made when they are needed.

use super::ring_door::{Memory, Reserved};
use pillion_wire::shm::{Arena, OwnArena, Slot, memory_file::MAX_ARENA_BYTES};
use std::sync::Arc;

/// One writer's arenas.
pub struct Arenas {
    memory: Arc<Memory>,
    /// Of the memory files.
    name: &'static str,
    own: Vec<(Arc<OwnArena>, Reserved)>,
}

/// An arena that nobody knows yet.
pub struct Fresh(Arc<OwnArena>, Reserved);

impl Fresh {
    /// The memory.
    pub fn arena(&self) -> &Arc<Arena> {
        self.0.arena()
    }
}

impl Arenas {
    /// None so far.
    pub fn new(memory: Arc<Memory>, name: &'static str) -> Self {
        Arenas { memory, name, own: Vec::new() }
    }

    /// The engine's settings.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// A slot in one of the arenas.
    pub fn find(&self, length: u64) -> Option<Slot> {
        self.own.iter().find_map(|(arena, _)| arena.allocate(length))
    }

    /// Another arena, with room for so much; `None` if it would be over the limits, or there is no memory.
    pub fn make(&mut self, length: u64) -> Option<Fresh> {
        // Those in which nothing is used are too small, and make room for one that is not.
        self.own.retain(|(arena, _)| arena.live() > 0);
        let bytes = length.checked_next_multiple_of(1 << 20)?.max(self.memory.config.arena_bytes).min(MAX_ARENA_BYTES);
        let reserved = self.memory.reserve(bytes)?;
        let arena = OwnArena::new(self.name, bytes).inspect_err(|error| tracing::debug!("no arena of {bytes} bytes: {error}")).ok()?;
        Some(Fresh(arena, reserved))
    }

    /// Takes in what was made, and gives a slot in it.
    pub fn keep(&mut self, Fresh(arena, reserved): Fresh, length: u64) -> Option<Slot> {
        let slot = arena.allocate(length);
        self.own.push((arena, reserved));
        slot
    }
}
