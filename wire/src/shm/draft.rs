//! A slot that its owner builds a batch in, part by part (DESIGN D2).

use super::{
    arena::{Slot, WeakSlot},
    map::Exclusive,
    slots::ALIGNMENT,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Gives out each part of its slot once.
pub struct Draft {
    slot: Slot,
    bytes: usize,
    /// Where the next part begins.
    used: Arc<AtomicUsize>,
}

/// What is known of a draft while its parts are written: by this the slot is found again.
pub struct DraftParts {
    slot: WeakSlot,
    bytes: usize,
    used: Arc<AtomicUsize>,
}

impl Draft {
    /// For a slot that nobody else was told of.
    pub fn new(slot: Slot) -> Self {
        let bytes = usize::try_from(slot.length()).unwrap_or_default();
        Draft { slot, bytes, used: Arc::default() }
    }

    /// The next `length` bytes, aligned as slots are; `None` if so many are not left.
    pub fn take(&self, length: usize) -> Option<Exclusive> {
        let at = claim(&self.used, self.bytes, length)?;
        self.slot.exclusive(at, length).ok()
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// By which the slot is found when its batch is sent.
    pub fn parts(&self) -> DraftParts {
        DraftParts { slot: self.slot.downgrade(), bytes: self.bytes, used: self.used.clone() }
    }
}

impl DraftParts {
    /// The slot, if somebody still uses it.
    pub fn slot(&self) -> Option<Slot> {
        self.slot.upgrade()
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Claims the next `length` bytes, as [`Draft::take`] does; gives where they begin.
    pub fn claim(&self, length: usize) -> Option<usize> {
        claim(&self.used, self.bytes, length)
    }

    /// From now on nothing is given out any more.
    pub fn seal(&self) {
        self.used.store(self.bytes, Ordering::Relaxed);
    }
}

fn claim(used: &AtomicUsize, bytes: usize, length: usize) -> Option<usize> {
    // A slot ends at this alignment, too, so that the last part may be padded.
    let after = |at: usize| {
        let end = at.checked_add(length).filter(|&end| end <= bytes)?;
        end.checked_next_multiple_of(ALIGNMENT as usize)
    };
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::OwnArena;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is asked for, parts are aligned, apart from each other, inside the slot, and keep what was written.
        #[test]
        fn parts_are_given_out_once(lengths in prop::collection::vec(0..400usize, 1..40), room in 1..4096u64) {
            let arena = OwnArena::new("pillion-test", 1 << 16).unwrap();
            let slot = arena.allocate(room).unwrap();
            let (start, draft) = (slot.address().unwrap(), Draft::new(slot));
            let mut end = start;
            let mut parts = Vec::new();
            for (index, &length) in lengths.iter().enumerate() {
                let begin = end.next_multiple_of(64);
                match draft.take(length) {
                    Some(mut part) => {
                        let values = part.values_mut::<u8>();
                        let at = values.as_ptr().addr();
                        prop_assert!(at == begin && at + length <= start + room as usize);
                        end = at + length;
                        values.fill(index as u8);
                        parts.push((index as u8, part));
                    }
                    None => prop_assert!(begin + length > start + room as usize),
                }
            }
            drop(draft);
            for (index, part) in parts {
                let buffer = part.freeze();
                prop_assert!(buffer.iter().all(|&byte| byte == index));
                prop_assert_eq!(arena.live(), 1);
            }
            prop_assert_eq!(arena.live(), 0);
        }
    }

    #[test]
    fn a_sealed_draft_gives_nothing_out() {
        let arena = OwnArena::new("pillion-test", 1 << 16).unwrap();
        let draft = Draft::new(arena.allocate(1000).unwrap());
        let parts = draft.parts();
        assert_eq!((parts.claim(10), draft.left()), (Some(0), 936));
        parts.seal();
        assert!(draft.take(1).is_none() && parts.claim(1).is_none() && parts.slot().is_some());
        drop(draft);
        assert!(parts.slot().is_none());
    }

    #[test]
    fn values_are_those_of_the_type() {
        let arena = OwnArena::new("pillion-test", 1 << 16).unwrap();
        let draft = Draft::new(arena.allocate(1000).unwrap());
        let mut part = draft.take(80).unwrap();
        part.values_mut::<i64>().copy_from_slice(&[-7; 10]);
        assert_eq!((part.values::<i64>(), part.values::<i64>().len()), (&[-7; 10][..], 10));
        assert_eq!(part.freeze().typed_data::<i64>(), [-7; 10]);
    }
}
