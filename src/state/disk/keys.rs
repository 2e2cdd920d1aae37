//! Keys of the LSM store, and what stands in values.
//!
//! Entries: `cell (u16, big-endian) | key group (u16) | key | namespace | sub-key`, key and namespace with their lengths before them. Values: the last access (8 bytes) if the cell has a
//! time to live, then the value. Timers: `0 or 1 by domain | key group | timestamp, ordered | identity`; those with a name or single again as `2 or 3 | key group | identity |
//! timestamp`, so that they are found by name.

use crate::{
    error::{Code, Error, Result},
    state::address::{push_len, split_len},
    timer::Domain,
};

/// The bytes before an address: cell and key group.
pub const HEAD: usize = 4;

/// The longest key that the store takes.
pub const MAX: usize = 60_000;

/// What all keys of a cell in a group begin with.
pub fn head(out: &mut Vec<u8>, cell: u16, group: u16) {
    out.extend_from_slice(&cell.to_be_bytes());
    out.extend_from_slice(&group.to_be_bytes());
}

/// What all entries of a cell at an address begin with, and no others.
pub fn prefix(out: &mut Vec<u8>, cell: u16, group: u16, key: &[u8], namespace: &[u8]) {
    head(out, cell, group);
    push_len(out, key.len());
    out.extend_from_slice(key);
    push_len(out, namespace.len());
    out.extend_from_slice(namespace);
}

/// Key, namespace and sub-key of an entry.
pub fn split(entry: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let parts = || {
        let (key, rest) = split_len(entry.get(HEAD..)?)?;
        let (namespace, sub) = split_len(rest)?;
        Some((key, namespace, sub))
    };
    parts().ok_or_else(damaged)
}

/// Last access and value of a stored value.
pub fn value(stored: &[u8], ttl: bool) -> Result<(i64, &[u8])> {
    if !ttl {
        return Ok((i64::MIN, stored));
    }
    let (access, value) = stored.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok((i64::from_be_bytes(*access), value))
}

/// A value to be stored.
pub fn stored(value: &[u8], access: Option<i64>) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + 8);
    stored.extend(access.iter().flat_map(|access| access.to_be_bytes()));
    stored.extend_from_slice(value);
    stored
}

/// Bytes that order like the timestamp.
pub fn ordered(timestamp: i64) -> [u8; 8] {
    (timestamp as u64 ^ 1 << 63).to_be_bytes()
}

fn domain_of(domain: Domain) -> u8 {
    match domain {
        Domain::EventTime => 0,
        Domain::ProcessingTime => 1,
    }
}

/// What the timers of a domain and group begin with.
pub fn queue(domain: Domain, group: u16) -> [u8; 3] {
    let [high, low] = group.to_be_bytes();
    [domain_of(domain), high, low]
}

/// A timer in its queue.
pub fn timer(domain: Domain, group: u16, timestamp: i64, identity: &[u8]) -> Vec<u8> {
    [&queue(domain, group)[..], &ordered(timestamp), identity].concat()
}

/// Timestamp and identity of a timer in its queue.
pub fn split_timer(key: &[u8]) -> Result<(i64, &[u8])> {
    let (timestamp, identity) = key.get(3..).and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(damaged)?;
    Ok(((u64::from_be_bytes(*timestamp) ^ 1 << 63) as i64, identity))
}

/// What the timers that are found by name begin with: an identity, or the beginning of some.
pub fn named(domain: Domain, group: u16, identity: &[u8]) -> Vec<u8> {
    let [domain, high, low] = queue(domain, group);
    [&[domain + 2, high, low], identity].concat()
}

/// A timer that is found by name.
pub fn named_at(domain: Domain, group: u16, identity: &[u8], timestamp: i64) -> Vec<u8> {
    [&named(domain, group, identity)[..], &ordered(timestamp)].concat()
}

/// Identity and timestamp of a timer that is found by name.
pub fn split_named(key: &[u8]) -> Result<(&[u8], i64)> {
    let (identity, timestamp) = key.get(3..).and_then(|rest| rest.split_last_chunk::<8>()).ok_or_else(damaged)?;
    Ok((identity, (u64::from_be_bytes(*timestamp) ^ 1 << 63) as i64))
}

fn damaged() -> Error {
    Error::new(Code::StateDamaged, "an entry of the store on disk is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_and_order() {
        let mut key = Vec::new();
        prefix(&mut key, 3, 7, b"key", b"name");
        key.extend_from_slice(b"sub");
        assert_eq!(split(&key).unwrap(), (&b"key"[..], &b"name"[..], &b"sub"[..]));
        let times = [i64::MIN, -5, 0, 9, i64::MAX].map(|at| timer(Domain::EventTime, 1, at, b"x"));
        assert!(times.is_sorted() && split_timer(&times[1]).unwrap() == (-5, &b"x"[..]));
        assert_eq!(split_named(&named_at(Domain::EventTime, 1, b"id", -3)).unwrap(), (&b"id"[..], -3));
        assert_eq!(value(&stored(b"v", Some(-9)), true).unwrap(), (-9, &b"v"[..]));
        assert!(value(b"short", true).is_err() && split(b"abcd\x09x").is_err() && split_timer(b"abc").is_err());
    }
}
