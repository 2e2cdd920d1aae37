//! Key, namespace and name of a timer as one byte string.

use crate::{
    error::{Code, Error, Result},
    state::address::{push_len, split_len},
};

/// Packs an identity: key and namespace with their lengths before them, then the name.
pub fn pack(out: &mut Vec<u8>, key: &[u8], namespace: &[u8], name: &str) {
    prefix(out, key, namespace);
    out.extend_from_slice(name.as_bytes());
}

/// What the identities of a key and namespace begin with, and no others.
pub fn prefix(out: &mut Vec<u8>, key: &[u8], namespace: &[u8]) {
    push_len(out, key.len());
    out.extend_from_slice(key);
    push_len(out, namespace.len());
    out.extend_from_slice(namespace);
}

/// Key, namespace and name of a packed identity.
pub fn unpack(packed: &[u8]) -> Result<(&[u8], &[u8], &str)> {
    let damaged = || Error::new(Code::StateDamaged, "a stored timer is damaged");
    let (key, rest) = split_len(packed).ok_or_else(damaged)?;
    let (namespace, name) = split_len(rest).ok_or_else(damaged)?;
    Ok((key, namespace, std::str::from_utf8(name).map_err(|_| damaged())?))
}
