//! How durations, sizes and optional limits are written in configuration: `"30s"`, `"256MiB"`, `"none"`.
//!
//! Each module is used through `#[serde(with = "...")]`, so that the fields of [`super::Config`] stay plain [`Duration`]s and integers.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

/// The word that lifts an optional limit.
const NONE: &str = "none";

/// Reads `"30s"`, `"5m"`, `"1h 30m"`.
///
/// # Errors
/// A text that names the accepted form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no duration; write a number with a unit, such as `30s`, `5m` or `250ms`"))
}

/// Reads `"256MiB"` (binary), `"256MB"` (decimal) or a plain number of bytes.
///
/// # Errors
/// A text that names the accepted form.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match text.parse::<bytesize::ByteSize>() {
        Ok(size) => Ok(size.as_u64()),
        Err(_) => Err(format!("`{text}` is no size; write a number of bytes, or one with a unit, such as `256MiB`")),
    }
}

/// Reads a whole number, with an optional binary factor: `"16Mi"`.
///
/// # Errors
/// A text that names the accepted form.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.trim() {
        t if t.ends_with("Ki") => (&t[..t.len() - 2], 1 << 10),
        t if t.ends_with("Mi") => (&t[..t.len() - 2], 1 << 20),
        t if t.ends_with("Gi") => (&t[..t.len() - 2], 1 << 30),
        t => (t, 1_u64),
    };
    let number = digits.replace('_', "").parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    number.ok_or_else(|| format!("`{text}` is no whole number"))
}

/// The shortest form that [`parse_size`] reads back unchanged.
fn format_size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Reads text or a whole number; `T` decides what they mean.
struct Reader<T> {
    expected: &'static str,
    text: fn(&str) -> Result<T, String>,
    number: fn(u64) -> Option<T>,
}

impl<T> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

fn or_none<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == NONE { Ok(None) } else { parse(text).map(Some) }
}

pub(crate) mod duration {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(Reader { expected: "a duration such as `\"30s\"`", text: parse_duration, number: |_| None })
    }

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }
}

pub(crate) mod duration_or_none {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        from.deserialize_any(Reader {
            expected: "a duration such as `\"30s\"`, or `\"none\"`",
            text: |t| or_none(t, parse_duration),
            number: |_| None,
        })
    }

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(d) => super::duration::serialize(d, to),
            None => to.serialize_str(NONE),
        }
    }
}

pub(crate) mod size {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        from.deserialize_any(Reader { expected: "a size such as `\"256MiB\"`", text: parse_size, number: Some })
    }

    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_size(*value))
    }
}

pub(crate) mod size_or_none {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        from.deserialize_any(Reader {
            expected: "a size such as `\"256MiB\"`, or `\"none\"`",
            text: |t| or_none(t, parse_size),
            number: |n| Some(Some(n)),
        })
    }

    pub fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(bytes) => super::size::serialize(bytes, to),
            None => to.serialize_str(NONE),
        }
    }
}

pub(crate) mod count {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        from.deserialize_any(Reader { expected: "a whole number such as `1000` or `\"16Mi\"`", text: parse_count, number: Some })
    }

    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(*value)
    }
}

pub(crate) mod count_or_none {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        from.deserialize_any(Reader {
            expected: "a whole number, or `\"none\"`",
            text: |t| or_none(t, parse_count),
            number: |n| Some(Some(n)),
        })
    }

    pub fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(n) => to.serialize_u64(*n),
            None => to.serialize_str(NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_what_they_write() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 256 << 20, 3 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes), "{bytes}");
        }
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("256MB"), Ok(256_000_000));
        assert!(parse_size("many").unwrap_err().contains("`256MiB`"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("30").unwrap_err().contains("`30s`"));
    }

    #[test]
    fn counts_take_binary_factors() {
        assert_eq!(parse_count("16Mi"), Ok(16 << 20));
        assert_eq!(parse_count("1_000"), Ok(1000));
        assert!(parse_count("-1").is_err());
        assert!(parse_count("18446744073709551615Gi").is_err());
    }
}
