//! Byte strings of 24 bytes: short ones inline, long ones shared.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// What fits inline.
const INLINE: usize = 22;

/// An immutable byte string. Most keys and values of state are short: they cost no allocation and lie beside each other.
#[derive(Clone)]
pub enum Small {
    /// The first `.0` bytes of `.1`; the rest is zero.
    Inline(u8, [u8; INLINE]),
    /// A longer one.
    Shared(Arc<[u8]>),
}

impl Small {
    /// The empty one.
    pub const EMPTY: Small = Small::Inline(0, [0; INLINE]);

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Small::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Small::Shared(bytes) => bytes,
        }
    }

    /// Memory beside its own 24 bytes.
    pub fn heap(&self) -> usize {
        match self {
            Small::Inline(..) => 0,
            Small::Shared(bytes) => bytes.len() + 16,
        }
    }
}

impl From<&[u8]> for Small {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() <= INLINE {
            let mut inline = [0; INLINE];
            // A schema id and eight bytes, the most frequent value: a copy of a known width needs no call.
            match <&[u8; 9]>::try_from(bytes) {
                Ok(nine) => inline[..9].copy_from_slice(nine),
                Err(_) => inline[..bytes.len()].copy_from_slice(bytes),
            }
            Small::Inline(bytes.len() as u8, inline)
        } else {
            Small::Shared(bytes.into())
        }
    }
}

impl AsRef<[u8]> for Small {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Small {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Small {}

impl Hash for Small {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl PartialOrd for Small {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Small {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Debug for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::Small;

    #[test]
    fn is_as_large_as_it_says_and_keeps_its_bytes() {
        assert_eq!(size_of::<Small>(), 24);
        assert_eq!(size_of::<Option<Small>>(), 24);
        for len in [0, 1, 21, 22, 23, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert_eq!(Small::from(&bytes[..]).as_slice(), bytes);
        }
        assert!(Small::from(&b"a"[..]) < Small::from(&b"aa"[..]));
    }
}
