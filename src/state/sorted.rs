//! An ordered map in chunks behind `Arc`: cheap to share, copied chunk by chunk where it is written after that.

use std::{cmp::Ordering, sync::Arc};

/// A chunk that grows beyond this is split.
const CHUNK: usize = 256;

/// Entries in the order of their keys. A clone shares the chunks.
#[derive(Clone, Debug)]
pub struct Sorted<K, V> {
    /// None is empty.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Sorted { chunks: Vec::new(), len: 0 }
    }
}

/// Where an entry is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    chunk: usize,
    index: usize,
}

impl<K: Clone, V: Clone> Sorted<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first place whose key is not `Less`, as `order` says, and whether it is `Equal`. `order` compares a key with what is searched.
    pub fn seek(&self, order: impl Fn(&K) -> Ordering) -> (Place, bool) {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(key, _)| order(key).is_lt()));
        match self.chunks.get(chunk).map(|entries| entries.binary_search_by(|(key, _)| order(key))) {
            Some(Ok(index)) => (Place { chunk, index }, true),
            Some(Err(index)) => (Place { chunk, index }, false),
            None => (Place { chunk, index: 0 }, false),
        }
    }

    /// The entry with this key.
    pub fn get(&self, order: impl Fn(&K) -> Ordering) -> Option<&V> {
        match self.seek(order) {
            (place, true) => self.chunks.get(place.chunk)?.get(place.index).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The entry at a place, to be changed.
    pub fn value_at(&mut self, place: Place) -> Option<&mut V> {
        Arc::make_mut(self.chunks.get_mut(place.chunk)?).get_mut(place.index).map(|(_, value)| value)
    }

    /// Adds an entry at the place that [`Self::seek`] gave for its key.
    pub fn insert_at(&mut self, place: Place, key: K, value: V) {
        self.len += 1;
        // What comes in order fills chunks one after the other; what would begin a chunk ends the one before.
        let (at, index) = match place {
            Place { chunk, index: 0 } if chunk > 0 => (chunk - 1, self.chunks[chunk - 1].len()),
            Place { chunk, index } => (chunk, index),
        };
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            return;
        };
        if chunk.len() < CHUNK {
            Arc::make_mut(chunk).insert(index, (key, value));
        } else if index == CHUNK {
            self.chunks.insert(at + 1, Arc::new(vec![(key, value)]));
        } else {
            let entries = Arc::make_mut(chunk);
            let mut upper = entries.split_off(CHUNK / 2);
            if index <= CHUNK / 2 {
                entries.insert(index, (key, value));
            } else {
                upper.insert(index - CHUNK / 2, (key, value));
            }
            self.chunks.insert(at + 1, Arc::new(upper));
        }
    }

    /// Removes the entry at a place.
    pub fn remove_at(&mut self, place: Place) -> Option<(K, V)> {
        let chunk = self.chunks.get_mut(place.chunk)?;
        if place.index >= chunk.len() {
            return None;
        }
        self.len -= 1;
        if chunk.len() == 1 {
            let chunk = self.chunks.remove(place.chunk);
            return Arc::unwrap_or_clone(chunk).pop();
        }
        Some(Arc::make_mut(chunk).remove(place.index))
    }

    /// The entries from a place on.
    pub fn from(&self, place: Place) -> impl Iterator<Item = &(K, V)> {
        let chunks = self.chunks.get(place.chunk..).unwrap_or_default();
        chunks.iter().enumerate().flat_map(move |(i, chunk)| chunk.get(if i == 0 { place.index } else { 0 }..).unwrap_or_default())
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Keeps the entries that `keep` says, after it may have changed them. Chunks without a change stay shared: `look` says first whether an entry changes or goes.
    pub fn retain(&mut self, look: impl Fn(&K, &V) -> bool, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for chunk in &mut self.chunks {
            if chunk.iter().any(|(key, value)| look(key, value)) {
                Arc::make_mut(chunk).retain_mut(|(key, value)| keep(key, value));
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len = self.chunks.iter().map(|chunk| chunk.len()).sum();
    }

    /// Memory for the entries themselves, without what they refer to.
    pub fn memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<(K, V)>() + 48).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Sorted;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn put(sorted: &mut Sorted<u32, u32>, key: u32, value: u32) {
        match sorted.seek(|other| other.cmp(&key)) {
            (place, true) => *sorted.value_at(place).unwrap() = value,
            (place, false) => sorted.insert_at(place, key, value),
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0u32..2000, 0u32..4), 0..4000)) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeMap::new());
            let (mut frozen, mut model_then) = (sorted.clone(), model.clone());
            for (i, (key, step)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => {
                        put(&mut sorted, key, i as u32);
                        model.insert(key, i as u32);
                    }
                    _ if key < 10 => {
                        sorted.retain(|k, _| k % 3 == 0, |k, _| k % 3 != 0);
                        model.retain(|k, _| k % 3 != 0);
                    }
                    _ => {
                        let (place, found) = sorted.seek(|other| other.cmp(&key));
                        prop_assert_eq!(found, model.remove(&key).is_some());
                        if found {
                            sorted.remove_at(place);
                        }
                    }
                }
                if i % 700 == 0 {
                    (frozen, model_then) = (sorted.clone(), model.clone());
                }
            }
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert!(sorted.iter().map(|(k, v)| (*k, *v)).eq(model.iter().map(|(k, v)| (*k, *v))));
            prop_assert!(frozen.iter().map(|(k, v)| (*k, *v)).eq(model_then.into_iter()));
            let (place, _) = sorted.seek(|other| other.cmp(&1000));
            prop_assert!(sorted.from(place).map(|(k, _)| *k).eq(model.range(1000..).map(|(k, _)| *k)));
        }
    }

    #[test]
    fn what_comes_in_order_fills_chunks() {
        let mut sorted = Sorted::default();
        for key in 0..10_000 {
            put(&mut sorted, key, key);
        }
        assert_eq!(sorted.chunks.len(), 10_000usize.div_ceil(super::CHUNK));
    }
}
