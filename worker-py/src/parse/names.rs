//! Words that name types and units.

use arrow_schema::{DataType, TimeUnit};

use super::token::Token;

/// The unit of a time: by name, or as a number of digits after the second.
///
/// # Errors
/// Names what is no unit.
pub fn unit_of(token: &Token) -> Result<TimeUnit, String> {
    let Token::Word(word) = token else { return Err(format!("expected a unit, found `{token}`")) };
    Ok(match word.to_ascii_lowercase().as_str() {
        "0" | "s" | "second" => TimeUnit::Second,
        "1" | "2" | "3" | "ms" => TimeUnit::Millisecond,
        "4" | "5" | "6" | "us" => TimeUnit::Microsecond,
        "7" | "8" | "9" | "ns" => TimeUnit::Nanosecond,
        _ => return Err(format!("unknown unit `{word}`: use `s`, `ms`, `us`, `ns` or 0 to 9 digits")),
    })
}

/// The types without parameters.
pub fn simple(name: &str) -> Option<DataType> {
    Some(match name {
        "null" => DataType::Null,
        "boolean" | "bool" => DataType::Boolean,
        "tinyint" | "int8" | "byte" => DataType::Int8,
        "smallint" | "int16" | "short" => DataType::Int16,
        "int" | "integer" | "int32" => DataType::Int32,
        "bigint" | "int64" | "long" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" | "half" | "halffloat" => DataType::Float16,
        "float" | "real" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "large_string" | "large_utf8" => DataType::LargeUtf8,
        "string_view" | "utf8_view" => DataType::Utf8View,
        "large_bytes" | "large_binary" => DataType::LargeBinary,
        "bytes_view" | "binary_view" => DataType::BinaryView,
        "date" => DataType::Date32,
        _ => return None,
    })
}
