//! Addresses as one byte string, and rows in the order of their key groups.

use super::{Addresses, BROADCAST_GROUP};
use crate::error::{Code, Error, Result};

/// Appends a length in LEB128.
pub fn push_len(out: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

/// Splits a byte string with its length before it off the front.
pub fn split_len(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut len, mut shift) = (0usize, 0);
    for (i, &byte) in bytes.iter().enumerate().take(5) {
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return bytes.get(i + 1..)?.split_at_checked(len);
        }
        shift += 7;
    }
    None
}

/// Key and namespace as one string: the key with its length before it, then the namespace.
pub fn pack(out: &mut Vec<u8>, key: &[u8], namespace: &[u8]) {
    push_len(out, key.len());
    out.extend_from_slice(key);
    out.extend_from_slice(namespace);
}

/// What [`pack`] made.
pub fn unpack(packed: &[u8]) -> Result<(&[u8], &[u8])> {
    split_len(packed).ok_or_else(|| Error::new(Code::StateDamaged, "a stored address is damaged"))
}

/// Rows by key group: a stable counting sort, so that each group is visited once.
#[derive(Debug)]
pub struct ByGroup {
    /// The rows, those of one group together, in their order.
    pub order: Vec<u32>,
    /// (group, end in `order`), rising.
    pub ends: Vec<(u16, usize)>,
}

impl ByGroup {
    /// Sorts `rows` rows by the slot of their group; `slots` are as many as a store has.
    pub fn new(rows: usize, slots: usize, group: impl Fn(usize) -> u16) -> Result<Self> {
        let mut counts = vec![0u32; slots + 1];
        for row in 0..rows {
            counts[slot(group(row), slots)? + 1] += 1;
        }
        let mut ends = Vec::new();
        for at in 0..slots {
            if counts[at + 1] > 0 {
                let name = if at + 1 == slots { BROADCAST_GROUP } else { at as u16 };
                ends.push((name, (counts[at] + counts[at + 1]) as usize));
            }
            counts[at + 1] += counts[at];
        }
        let mut order = vec![0; rows];
        for row in 0..rows {
            let next = &mut counts[slot(group(row), slots)?];
            order[*next as usize] = row as u32;
            *next += 1;
        }
        Ok(ByGroup { order, ends })
    }

    /// Of the rows of addresses.
    pub fn of(addresses: &Addresses, slots: usize) -> Result<Self> {
        ByGroup::new(addresses.len(), slots, |row| addresses.groups[row])
    }

    /// (group, rows), one after the other.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u32])> {
        let mut start = 0;
        self.ends.iter().map(move |&(group, end)| (group, &self.order[std::mem::replace(&mut start, end)..end]))
    }
}

/// The place of a group among `slots`, of which the last is for broadcast state.
pub fn slot(group: u16, slots: usize) -> Result<usize> {
    match group {
        BROADCAST_GROUP => Ok(slots - 1),
        group if usize::from(group) < slots - 1 => Ok(usize::from(group)),
        group => Err(Error::new(Code::InvariantBroken, format!("key group {group} is not below the max parallelism of {}", slots - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_addresses_unpack(key in prop::collection::vec(any::<u8>(), 0..300), namespace in prop::collection::vec(any::<u8>(), 0..30)) {
            let mut packed = Vec::new();
            pack(&mut packed, &key, &namespace);
            prop_assert_eq!(unpack(&packed).unwrap(), (&key[..], &namespace[..]));
        }

        #[test]
        fn damaged_lengths_are_noticed(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some((head, tail)) = split_len(&bytes) {
                prop_assert!(head.len() + tail.len() < bytes.len());
            }
        }

        #[test]
        fn groups_are_visited_once_and_in_order(groups in prop::collection::vec(prop_oneof![0u16..8, Just(BROADCAST_GROUP)], 0..200)) {
            let sorted = ByGroup::new(groups.len(), 9, |row| groups[row]).unwrap();
            let mut seen = Vec::new();
            for (group, rows) in sorted.iter() {
                prop_assert!(!rows.is_empty() && rows.is_sorted() && rows.iter().all(|&row| groups[row as usize] == group));
                seen.push(group);
            }
            prop_assert!(seen.is_sorted());
            prop_assert_eq!(sorted.order.len(), groups.len());
        }
    }

    #[test]
    fn a_group_beyond_the_max_parallelism_is_refused() {
        assert_eq!(ByGroup::new(1, 9, |_| 8).unwrap_err().code(), Code::InvariantBroken);
    }
}
