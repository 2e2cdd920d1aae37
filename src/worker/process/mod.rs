//! Worker processes: started by forking a warm interpreter or anew, watched, killed and reaped.
//!
//! [`Launcher`] starts the workers of one environment. It forks them from a fork server (`pillion/fork_server.py`) whose life it looks
//! after, or spawns them where forking is not wanted or not safe. What it hands out is a [`Child`]: one owner that kills, reaps and
//! knows the cause. What a process prints comes back as tracing events (target `pillion::worker::output`).
//!
//! The engine becomes a child subreaper, so that workers whose fork server has died, and what workers leave behind, are reaped by it.

pub mod arenas;
mod child;
mod exit;
mod failure;
#[cfg(test)]
mod fixture;
mod fork_server;
mod launcher;
pub mod link;
mod logs;
mod loss;
mod memory;
pub mod registry;
pub mod ring_door;
mod ring_link;
mod socket;
mod strays;

pub use child::Child;
pub use exit::{Exit, ExitCause, Rusage};
pub use launcher::{LaunchLimits, LaunchSpec, Launcher};
pub use logs::OutputLimits;
