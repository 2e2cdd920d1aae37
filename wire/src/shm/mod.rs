//! Shared memory (DESIGN D2): arenas with slots for large bodies, rings for small messages.
//!
//! [`map`] is the only place that touches memory which another process can write. [`slots`] keeps the books of an arena in private memory, [`arena`] puts
//! both together, [`draft`] is how a batch is built in a slot; [`ring`] and [`endpoint`] are the way of messages between the sidecar and a worker, [`packet`] how descriptors get across.

pub mod arena;
pub mod draft;
pub mod endpoint;
#[expect(unsafe_code, reason = "memory that another process writes to")]
pub mod map;
pub mod memory_file;
pub mod packet;
pub mod ring;
#[cfg(test)]
mod ring_tests;
pub mod slots;
pub mod spin;

pub use arena::{Arena, OwnArena, PeerArena, Release, Returns, Slot, WeakSlot};
pub use draft::{Draft, DraftParts};
pub use endpoint::{Endpoint, Offer};
pub use spin::Spin;
