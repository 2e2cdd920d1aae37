//! Rows that a multi-get has found, for the commit of the same bundle: it asks for the same addresses, mostly before anything has moved.

use crate::state::{Addresses, address::ByGroup};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// As many are kept as there may be bundles between their get and their commit; a bundle beyond only looks again.
const KEPT: usize = 64;

/// Where addresses are.
#[derive(Debug)]
pub struct Resolved {
    /// The addresses by key group.
    pub by_group: ByGroup,
    /// By address.
    pub rows: Vec<u32>,
    /// [`super::group::Group::moves`] of each group of `by_group` when it was looked at.
    pub moves: Vec<u64>,
}

/// What was found lately.
#[derive(Debug, Default)]
pub struct Known(Mutex<Vec<(Weak<Addresses>, Resolved)>>);

impl Known {
    /// Keeps what was found until somebody takes it, or the addresses are gone.
    pub fn keep(&self, addresses: &Arc<Addresses>, resolved: Resolved) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| other.strong_count() > 0);
        if known.len() >= KEPT {
            known.remove(0);
        }
        known.push((Arc::downgrade(addresses), resolved));
    }

    /// What was found of these very addresses.
    pub fn take(&self, addresses: &Arc<Addresses>) -> Option<Resolved> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.iter().position(|(other, _)| std::ptr::eq(other.as_ptr(), Arc::as_ptr(addresses)))?;
        Some(known.swap_remove(at).1)
    }
}
