//! Arrow columns by their layout, row by row: what the encodings of keys and of values have in common.
//!
//! [`Writer`] looks at a column once and then writes any of its rows; [`Reader`] reads rows into a column. A [`Form`] says how numbers, strings and ends are written: [`Key`] so that
//! bytes order as values do, [`Value`] as quick as can be. Layouts without equality or order of their own (dictionaries, views) are written as their values.

mod read;
mod write;

pub use read::Reader;
pub use write::Writer;

use crate::error::{Code, Error, Result};
use arrow_schema::{DataType, IntervalUnit};

/// What the bytes of a fixed-width value mean, as far as it matters for order and equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Unsigned integers.
    Unsigned,
    /// Signed integers, and times and decimals, which are kept as such.
    Signed,
    /// Floating point.
    Float,
    /// Bytes.
    Raw,
    /// Two or three signed integers one after the other.
    Fields(&'static [usize]),
}

/// How values are written.
pub trait Form {
    /// A number of `native` bytes, as in an Arrow buffer.
    fn fixed(out: &mut Vec<u8>, native: &[u8], class: Class);
    /// The other way round; `None` if `input` is too short. Advances `input`.
    fn read_fixed(input: &mut &[u8], out: &mut Vec<u8>, width: usize, class: Class) -> Option<()>;
    /// A byte string.
    fn bytes(out: &mut Vec<u8>, value: &[u8]);
    /// The other way round.
    fn read_bytes(input: &mut &[u8], out: &mut Vec<u8>) -> Option<()>;
}

/// Written before each value.
pub const NULL: u8 = 0;
/// Written before each value.
pub const PRESENT: u8 = 1;

/// Written behind a string that is a key, or a part of one.
pub const END: [u8; 2] = [0, 0];

/// Takes bytes off the front.
pub fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(len)?;
    *input = tail;
    Some(head)
}

/// Bytes whose order is that of the values, and that are equal exactly if these are: -0 is 0, and there is one NaN, the largest.
#[derive(Debug)]
pub struct Key;

/// Flips what must be flipped so that big-endian bytes order like the number.
fn ordered(big: &mut [u8], class: Class) {
    match class {
        Class::Signed => big[0] ^= 0x80,
        Class::Float if big[0] & 0x80 != 0 => big.iter_mut().for_each(|byte| *byte = !*byte),
        Class::Float => big[0] |= 0x80,
        Class::Unsigned | Class::Raw | Class::Fields(_) => {}
    }
}

/// One NaN and one zero, in big-endian bytes.
fn normalise(big: &mut [u8]) {
    let exponent = match big.len() {
        2 => 5,
        4 => 8,
        _ => 11,
    };
    // Sign, exponent and mantissa, from the left.
    let (mut bits, rest) = (0u64, 64 - 8 * big.len() as u32);
    for byte in big.iter() {
        bits = bits << 8 | u64::from(*byte);
    }
    bits <<= rest;
    let (high, mantissa) = (bits << 1 >> (64 - exponent), bits << (exponent + 1));
    if bits << 1 == 0 {
        big.fill(0);
    } else if high == (1 << exponent) - 1 && mantissa != 0 {
        let quiet = ((1u64 << (exponent + 1)) - 1) << (63 - exponent - 1);
        big.copy_from_slice(&quiet.to_be_bytes()[..big.len()]);
    }
}

impl Form for Key {
    fn fixed(out: &mut Vec<u8>, native: &[u8], class: Class) {
        let start = out.len();
        match class {
            Class::Raw => return out.extend_from_slice(native),
            Class::Fields(widths) => {
                let mut rest = native;
                for &width in widths {
                    if let Some(field) = take(&mut rest, width) {
                        Key::fixed(out, field, Class::Signed);
                    }
                }
                return;
            }
            Class::Unsigned | Class::Signed | Class::Float => out.extend(native.iter().rev()),
        }
        let big = &mut out[start..];
        if class == Class::Float {
            normalise(big);
        }
        ordered(big, class);
    }

    fn read_fixed(input: &mut &[u8], out: &mut Vec<u8>, width: usize, class: Class) -> Option<()> {
        if let Class::Fields(widths) = class {
            return widths.iter().try_for_each(|&width| Key::read_fixed(input, out, width, Class::Signed));
        }
        let start = out.len();
        out.extend_from_slice(take(input, width)?);
        let big = &mut out[start..];
        match class {
            Class::Float if big[0] & 0x80 == 0 => big.iter_mut().for_each(|byte| *byte = !*byte),
            Class::Float | Class::Signed => big[0] ^= 0x80,
            _ => {}
        }
        if class != Class::Raw {
            big.reverse();
        }
        Some(())
    }

    /// Zeros are escaped as `00 ff`; `00 00` ends the string.
    fn bytes(out: &mut Vec<u8>, value: &[u8]) {
        for (i, piece) in value.split(|&byte| byte == 0).enumerate() {
            if i > 0 {
                out.extend_from_slice(&[0, 0xff]);
            }
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&END);
    }

    fn read_bytes(input: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
        loop {
            let zero = input.iter().position(|&byte| byte == 0)?;
            out.extend_from_slice(&input[..zero]);
            let (after, rest) = (*input.get(zero + 1)?, &input[zero + 2..]);
            *input = rest;
            match after {
                0 => return Some(()),
                0xff => out.push(0),
                _ => return None,
            }
        }
    }
}

/// Bytes as in Arrow's buffers (little-endian), strings with their length before them.
#[derive(Debug)]
pub struct Value;

impl Form for Value {
    fn fixed(out: &mut Vec<u8>, native: &[u8], _class: Class) {
        out.extend_from_slice(native);
    }

    fn read_fixed(input: &mut &[u8], out: &mut Vec<u8>, width: usize, _class: Class) -> Option<()> {
        out.extend_from_slice(take(input, width)?);
        Some(())
    }

    fn bytes(out: &mut Vec<u8>, value: &[u8]) {
        super::address::push_len(out, value.len());
        out.extend_from_slice(value);
    }

    fn read_bytes(input: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (value, rest) = super::address::split_len(input)?;
        out.extend_from_slice(value);
        *input = rest;
        Some(())
    }
}

/// Width and class of types of fixed width.
pub fn fixed(data_type: &DataType) -> Option<(usize, Class)> {
    Some(match data_type {
        DataType::UInt8 => (1, Class::Unsigned),
        DataType::UInt16 => (2, Class::Unsigned),
        DataType::UInt32 => (4, Class::Unsigned),
        DataType::UInt64 => (8, Class::Unsigned),
        DataType::Int8 => (1, Class::Signed),
        DataType::Int16 => (2, Class::Signed),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) | DataType::Decimal32(..) => (4, Class::Signed),
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Decimal64(..) => (8, Class::Signed),
        DataType::Decimal128(..) => (16, Class::Signed),
        DataType::Decimal256(..) => (32, Class::Signed),
        DataType::Float16 => (2, Class::Float),
        DataType::Float32 => (4, Class::Float),
        DataType::Float64 => (8, Class::Float),
        DataType::Interval(IntervalUnit::YearMonth) => (4, Class::Signed),
        DataType::Interval(IntervalUnit::DayTime) => (8, Class::Fields(&[4, 4])),
        DataType::Interval(IntervalUnit::MonthDayNano) => (16, Class::Fields(&[4, 4, 8])),
        DataType::FixedSizeBinary(width) => (usize::try_from(*width).ok()?, Class::Raw),
        _ => return None,
    })
}

/// Types whose values are written as those of another type.
pub fn plain(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Dictionary(_, value) => Some(value.as_ref().clone()),
        DataType::Utf8View => Some(DataType::LargeUtf8),
        DataType::BinaryView => Some(DataType::LargeBinary),
        _ => None,
    }
}

/// Checks that a type can be written; `hashable` refuses what has no equality.
pub fn check_type(data_type: &DataType, hashable: bool) -> Result<()> {
    if fixed(data_type).is_some() {
        return Ok(());
    }
    if let Some(plain) = plain(data_type) {
        return check_type(&plain, hashable);
    }
    match data_type {
        DataType::Null | DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Ok(()),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check_type(field.data_type(), hashable)),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => check_type(field.data_type(), hashable),
        DataType::Map(field, _) if !hashable => check_type(field.data_type(), hashable),
        other if hashable => Err(Error::new(Code::KeyType, format!("values of type `{other}` cannot be keys"))
            .hint("use a key of numbers, strings, binaries, times, or structs and lists of those")),
        other => Err(Error::new(Code::StateType, format!("values of type `{other}` cannot be kept as state"))),
    }
}

/// Stored bytes do not mean what they should.
pub fn damaged(what: &str, data_type: &DataType) -> Error {
    Error::new(Code::StateDamaged, format!("a stored {what} is damaged, or not of type `{data_type}`"))
}
