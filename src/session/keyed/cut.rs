//! Bundles that are too large, with the state of their keys or what their function makes of them, are cut.

use crate::error::{Code, Error, Result};
use arrow_array::RecordBatch;

/// Rows of a bundle that was too large, cut in two.
pub(super) fn halves(rows: &RecordBatch, error: &Error) -> Result<[RecordBatch; 2]> {
    match rows.num_rows() / 2 {
        0 => Err(too_large(error)),
        half => Ok([rows.slice(0, half), rows.slice(half, rows.num_rows() - half)]),
    }
}

/// A bundle that cannot be cut any more.
pub(super) fn too_large(error: &Error) -> Error {
    Error::new(Code::StateTooLarge, "one row with its state, or what the function makes of it, is larger than a batch may be")
        .hint("keep what is large in maps and lists, which are read in parts, or raise `limits.max_batch_bytes`")
        .detail(error.message())
}
