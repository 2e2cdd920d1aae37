//! Types as SQL-like text; what [`parse`](crate::parse) reads back.

use arrow_schema::{DataType, Field, TimeUnit};

use crate::datatype::unit_text;

/// The text of a type; `not null` is appended where it applies.
pub fn text(data_type: &DataType, nullable: bool) -> String {
    let plain = plain_text(data_type);
    if nullable { plain } else { format!("{plain} not null") }
}

fn field_text(field: &Field) -> String {
    text(field.data_type(), field.is_nullable())
}

fn plain_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Decimal32(precision, scale) => format!("decimal32({precision}, {scale})"),
        DataType::Decimal64(precision, scale) => format!("decimal64({precision}, {scale})"),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::FixedSizeBinary(width) => format!("fixed_binary({width})"),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("time({})", digits(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp({})", digits(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp({}, '{zone}')", digits(*unit)),
        DataType::Duration(unit) => format!("duration({})", unit_text(*unit)),
        DataType::List(item) => format!("array<{}>", field_text(item)),
        DataType::LargeList(item) => format!("large_array<{}>", field_text(item)),
        DataType::FixedSizeList(item, size) => format!("fixed_array<{}, {size}>", field_text(item)),
        DataType::Map(entries, _) => format!("map<{}>", map_text(entries)),
        DataType::Struct(fields) => {
            let parts: Vec<String> = fields.iter().map(|field| format!("{} {}", name_text(field.name()), field_text(field))).collect();
            format!("row<{}>", parts.join(", "))
        }
        DataType::Dictionary(keys, values) => format!("dictionary<{}, {}>", plain_text(keys), plain_text(values)),
        other => simple(other).map_or_else(|| other.to_string(), str::to_owned),
    }
}

fn map_text(entries: &Field) -> String {
    match entries.data_type() {
        // The key of a map is never null, so it is not said.
        DataType::Struct(fields) if fields.len() == 2 => {
            format!("{}, {}", plain_text(fields[0].data_type()), field_text(&fields[1]))
        }
        other => other.to_string(),
    }
}

/// A field name, in backticks unless it is a plain word.
fn name_text(name: &str) -> String {
    let word = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.is_empty();
    if word { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}

fn digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Names of the types without parameters.
fn simple(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 => "tinyint",
        DataType::Int16 => "smallint",
        DataType::Int32 => "int",
        DataType::Int64 => "bigint",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 => "string",
        DataType::LargeUtf8 => "large_string",
        DataType::Utf8View => "string_view",
        DataType::Binary => "bytes",
        DataType::LargeBinary => "large_bytes",
        DataType::BinaryView => "bytes_view",
        DataType::Date32 => "date",
        DataType::Date64 => "date64",
        _ => return None,
    })
}

/// The kind of a type, for programs.
pub fn kind(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "null",
        DataType::Boolean => "bool",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Utf8 => "utf8",
        DataType::LargeUtf8 => "large_utf8",
        DataType::Utf8View => "utf8_view",
        DataType::Binary => "binary",
        DataType::LargeBinary => "large_binary",
        DataType::BinaryView => "binary_view",
        DataType::FixedSizeBinary(_) => "fixed_size_binary",
        DataType::Decimal32(..) => "decimal32",
        DataType::Decimal64(..) => "decimal64",
        DataType::Decimal128(..) => "decimal128",
        DataType::Decimal256(..) => "decimal256",
        DataType::Date32 => "date32",
        DataType::Date64 => "date64",
        DataType::Time32(_) => "time32",
        DataType::Time64(_) => "time64",
        DataType::Timestamp(..) => "timestamp",
        DataType::Duration(_) => "duration",
        DataType::Interval(_) => "interval",
        DataType::List(_) => "list",
        DataType::LargeList(_) => "large_list",
        DataType::ListView(_) => "list_view",
        DataType::LargeListView(_) => "large_list_view",
        DataType::FixedSizeList(..) => "fixed_size_list",
        DataType::Struct(_) => "struct",
        DataType::Map(..) => "map",
        DataType::Dictionary(..) => "dictionary",
        DataType::Union(..) => "union",
        DataType::RunEndEncoded(..) => "run_end_encoded",
    }
}
