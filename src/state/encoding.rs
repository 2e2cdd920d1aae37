//! The encoding of keys: placeholder module text follows with the implementation.
use crate::error::Result;
use arrow_schema::DataType;

/// Checks that keys of a type can be encoded.
///
/// # Errors
/// [`crate::Code::KeyType`] for types that have no equality: maps, unions, and what contains them.
pub fn check_type(_data_type: &DataType) -> Result<()> {
    Ok(())
}
