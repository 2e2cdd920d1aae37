//! Typed values as opaque bytes.
