//! Which parts of an arena are in use: the free list of its owner, and what a borrower knows of it.
//!
//! Both live in private memory. What the other process says is checked against them and never the other way round.

use std::collections::{BTreeMap, HashSet, VecDeque};

/// Slots begin and end at multiples of this, in bytes, as Arrow aligns buffers.
pub const ALIGNMENT: u64 = 64;

/// References given back that a borrower remembers, so that it notices when one comes again.
const REMEMBERED: usize = 1024;

/// A part of an arena. The generation tells uses of the same place apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// First byte.
    pub offset: u64,
    /// Bytes in use; the slot itself is padded to [`ALIGNMENT`].
    pub length: u64,
    /// Unique among the slots of its arena, ever.
    pub generation: u64,
}

impl Place {
    /// One past the last byte, or `None` beyond all numbers.
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// The owner's books: what is free and what is lent.
///
/// Allocation is first fit from the lowest address, so that a stream of batches keeps using the same few slots, which stay in the processors' caches;
/// neighbours grow together when they are freed.
#[derive(Debug)]
pub struct FreeList {
    /// Free ranges: where they begin, how long they are. No two touch.
    free: BTreeMap<u64, u64>,
    live: BTreeMap<u64, Place>,
    generation: u64,
}

impl FreeList {
    /// All of `bytes` bytes free.
    pub fn new(bytes: u64) -> Self {
        FreeList { free: BTreeMap::from([(0, bytes - bytes % ALIGNMENT)]), live: BTreeMap::new(), generation: 0 }
    }

    /// A place for `length` bytes, or `None` without room.
    pub fn allocate(&mut self, length: u64) -> Option<Place> {
        let padded = padded(length)?;
        let (&offset, &room) = self.free.iter().find(|&(_, &room)| room >= padded)?;
        self.free.remove(&offset);
        if room > padded {
            self.free.insert(offset + padded, room - padded);
        }
        self.generation += 1;
        let place = Place { offset, length, generation: self.generation };
        self.live.insert(offset, place);
        Some(place)
    }

    /// Frees a place; false, and nothing happens, if it is not in use or was used again since.
    pub fn release(&mut self, place: Place) -> bool {
        if self.live.get(&place.offset) != Some(&place) {
            return false;
        }
        self.live.remove(&place.offset);
        // It was padded when it was allocated.
        let (mut offset, mut length) = (place.offset, padded(place.length).unwrap_or_default());
        if let Some((&before, &room)) = self.free.range(..offset).next_back()
            && before + room == offset
        {
            self.free.remove(&before);
            (offset, length) = (before, length + room);
        }
        if let Some(room) = self.free.remove(&(offset + length)) {
            length += room;
        }
        self.free.insert(offset, length);
        true
    }

    /// Places in use.
    pub fn live(&self) -> usize {
        self.live.len()
    }
}

/// What a slot of `length` bytes takes; at least one unit, so that no two slots share an offset.
fn padded(length: u64) -> Option<u64> {
    length.max(1).checked_next_multiple_of(ALIGNMENT)
}

/// A borrower's books: what the owner of an arena has lent and not yet got back. References that make no sense are refused before anything is read.
#[derive(Debug)]
pub struct Borrowed {
    bytes: u64,
    live: BTreeMap<u64, Place>,
    back: HashSet<Place>,
    oldest: VecDeque<Place>,
}

impl Borrowed {
    /// Nothing borrowed yet of an arena of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Borrowed { bytes, live: BTreeMap::new(), back: HashSet::new(), oldest: VecDeque::new() }
    }

    /// Takes note of a reference; false if it lies outside of the arena, is not aligned, overlaps with one not yet given back, or was given back before.
    pub fn borrow(&mut self, place: Place) -> bool {
        let Some(end) = place.end().filter(|&end| end <= self.bytes) else { return false };
        let overlaps = self.live.range(..end.max(place.offset + 1)).next_back().is_some_and(|(&offset, other)| {
            // Empty slots take a unit, too.
            offset.saturating_add(other.length.max(1)) > place.offset
        });
        if !place.offset.is_multiple_of(ALIGNMENT) || place.offset >= self.bytes || overlaps || self.back.contains(&place) {
            return false;
        }
        self.live.insert(place.offset, place);
        true
    }

    /// Takes note that a place goes back to its owner.
    pub fn give_back(&mut self, place: Place) {
        if self.live.get(&place.offset) != Some(&place) {
            return;
        }
        self.live.remove(&place.offset);
        if self.oldest.len() == REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.back.remove(&oldest);
        }
        self.oldest.push_back(place);
        self.back.insert(place);
    }

    /// Places not given back.
    pub fn live(&self) -> usize {
        self.live.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Allocate so many bytes, or free the n-th of what is live.
    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u64),
        Free(usize),
        FreeStale(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3000u64).prop_map(Step::Allocate),
            4 => any::<usize>().prop_map(Step::Free),
            1 => any::<usize>().prop_map(Step::FreeStale),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 500 }))]

        /// Against a map of bytes: nothing overlaps, nothing is lost, refusals are honest; a borrower who follows agrees with everything.
        #[test]
        fn books_agree_with_a_map_of_units(steps in prop::collection::vec(step(), 1..200)) {
            const UNITS: usize = 128;
            let mut list = FreeList::new(UNITS as u64 * ALIGNMENT + 13);
            let mut borrowed = Borrowed::new(UNITS as u64 * ALIGNMENT);
            let mut used = [false; UNITS];
            let mut live: Vec<Place> = Vec::new();
            let mut stale: Vec<Place> = Vec::new();
            let units = |place: &Place| {
                let first = (place.offset / ALIGNMENT) as usize;
                first..first + (place.length.max(1).div_ceil(ALIGNMENT)) as usize
            };
            for step in steps {
                match step {
                    Step::Allocate(length) => match list.allocate(length) {
                        Some(place) => {
                            prop_assert!(place.offset.is_multiple_of(ALIGNMENT) && place.length == length);
                            for unit in units(&place) {
                                prop_assert!(!std::mem::replace(&mut used[unit], true), "unit {} is used twice", unit);
                            }
                            prop_assert!(borrowed.borrow(place));
                            prop_assert!(!borrowed.borrow(place), "a slot was lent twice");
                            live.push(place);
                        }
                        None => {
                            let wanted = length.max(1).div_ceil(ALIGNMENT) as usize;
                            let longest = used.split(|&used| used).map(<[bool]>::len).max().unwrap_or_default();
                            prop_assert!(longest < wanted, "{} units are free in one piece, {} were asked for", longest, wanted);
                        }
                    },
                    Step::Free(at) if !live.is_empty() => {
                        let place = live.swap_remove(at % live.len());
                        prop_assert!(list.release(place));
                        borrowed.give_back(place);
                        prop_assert!(!borrowed.borrow(place), "a stale reference was taken");
                        units(&place).for_each(|unit| used[unit] = false);
                        stale.push(place);
                    }
                    Step::FreeStale(at) if !stale.is_empty() => prop_assert!(!list.release(stale[at % stale.len()])),
                    _ => {}
                }
                prop_assert_eq!((list.live(), borrowed.live()), (live.len(), live.len()));
            }
            live.into_iter().for_each(|place| assert!(list.release(place)));
            prop_assert_eq!(list.allocate(UNITS as u64 * ALIGNMENT).map(|place| place.offset), Some(0), "free ranges did not grow together");
        }

        #[test]
        fn wild_references_are_refused(offset in any::<u64>(), length in any::<u64>(), generation in any::<u64>()) {
            let mut borrowed = Borrowed::new(1 << 20);
            let taken = borrowed.borrow(Place { offset, length, generation });
            let fits = offset.is_multiple_of(ALIGNMENT) && offset < 1 << 20 && offset.checked_add(length).is_some_and(|end| end <= 1 << 20);
            prop_assert_eq!(taken, fits);
        }
    }

    #[test]
    fn the_lowest_place_is_used_again() {
        let mut list = FreeList::new(1 << 20);
        let first = list.allocate(1000).unwrap();
        let second = list.allocate(1000).unwrap();
        assert!(list.release(first));
        let again = list.allocate(900).unwrap();
        assert_eq!(again.offset, first.offset);
        assert!(again.generation > second.generation);
        assert!(!list.release(first), "the place was used again since");
        assert!(!list.release(Place { length: 901, ..again }), "another length");
    }
}
