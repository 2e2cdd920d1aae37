//! Reads types from text: SQL names as Flink writes them, and Arrow's own as pyarrow prints them.

mod names;
mod token;

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};

use crate::datatype::Type;
use names::{simple, unit_of};
use token::{Token, tokens};

/// Why a text is no type.
#[derive(Debug)]
pub struct ParseError {
    text: String,
    problem: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "invalid type `{}`: {}", self.text, self.problem)
    }
}

/// Deepest nesting; the text comes from users and the parser recurses.
const MAX_DEPTH: usize = 64;

/// Reads one type.
///
/// # Errors
/// [`ParseError`] naming the token that does not fit.
pub fn parse(text: &str) -> Result<Type, ParseError> {
    let fail = |problem: String| ParseError { text: text.to_owned(), problem };
    let tokens = tokens(text).map_err(fail)?;
    let mut parser = Parser { tokens, position: 0, depth: 0 };
    let parsed = parser.typed().map_err(fail)?;
    match parser.peek() {
        None => Ok(parsed),
        Some(token) => Err(fail(format!("unexpected `{token}` after the type"))),
    }
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.position)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or_else(|| String::from("unexpected end"))?;
        self.position += 1;
        Ok(token)
    }

    fn take(&mut self, symbol: char) -> bool {
        let found = self.peek() == Some(&Token::Symbol(symbol));
        self.position += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word));
        self.position += usize::from(found);
        found
    }

    /// Takes all of `words` or none.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let start = self.position;
        let found = words.iter().all(|word| self.take_word(word));
        if !found {
            self.position = start;
        }
        found
    }

    fn expect(&mut self, symbol: char) -> Result<(), String> {
        if self.take(symbol) {
            return Ok(());
        }
        match self.peek() {
            Some(token) => Err(format!("expected `{symbol}`, found `{token}`")),
            None => Err(format!("expected `{symbol}` at the end")),
        }
    }

    /// A type with its optional `not null`.
    fn typed(&mut self) -> Result<Type, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let data_type = self.data_type()?;
        self.depth -= 1;
        let nullable = !self.take_words(&["not", "null"]);
        if nullable && data_type != DataType::Null {
            self.take_word("null");
        }
        Ok(Type { data_type, nullable })
    }

    fn data_type(&mut self) -> Result<DataType, String> {
        let name = match self.next()? {
            Token::Word(word) => word.to_ascii_lowercase(),
            token => return Err(format!("expected a type, found `{token}`")),
        };
        if let Some(simple) = simple(&name) {
            if name == "double" {
                self.take_word("precision");
            }
            return Ok(simple);
        }
        match name.as_str() {
            "string" | "varchar" | "char" | "character" | "text" | "utf8" | "str" => {
                self.length()?;
                Ok(DataType::Utf8)
            }
            "bytes" | "binary" | "varbinary" => {
                let width = self.length()?;
                Ok(if name == "bytes" { width.map_or(DataType::Binary, DataType::FixedSizeBinary) } else { DataType::Binary })
            }
            "fixed_binary" | "fixed_size_binary" => {
                self.length()?.map(DataType::FixedSizeBinary).ok_or_else(|| format!("`{name}` needs a width"))
            }
            "date32" | "date64" => {
                // pyarrow prints the unit, which the name has said already.
                if self.take('[') {
                    self.next()?;
                    self.expect(']')?;
                }
                Ok(if name == "date32" { DataType::Date32 } else { DataType::Date64 })
            }
            "decimal" | "numeric" | "dec" | "decimal128" => self.decimal(38, DataType::Decimal128),
            "decimal32" => self.decimal(9, DataType::Decimal32),
            "decimal64" => self.decimal(18, DataType::Decimal64),
            "decimal256" => self.decimal(76, DataType::Decimal256),
            "time" | "time32" | "time64" => self.time(),
            "timestamp" | "datetime" => self.timestamp(None),
            "timestamp_ltz" => self.timestamp(Some("UTC")),
            "duration" => Ok(DataType::Duration(self.unit()?.unwrap_or(TimeUnit::Microsecond))),
            "array" | "list" => Ok(DataType::List(self.item()?)),
            "large_array" | "large_list" => Ok(DataType::LargeList(self.item()?)),
            "fixed_array" | "fixed_size_list" => self.fixed_list(),
            "map" => self.map(),
            "row" | "struct" => self.fields(),
            "dictionary" => self.dictionary(),
            _ => Err(format!("unknown type `{name}`")),
        }
    }

    /// An optional number in parentheses or brackets.
    fn length(&mut self) -> Result<Option<i32>, String> {
        let close = if self.take('(') {
            ')'
        } else if self.take('[') {
            ']'
        } else {
            return Ok(None);
        };
        let length = self.number::<i32>()?;
        if length < 0 {
            return Err(format!("negative length `{length}`"));
        }
        self.expect(close)?;
        Ok(Some(length))
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let token = self.next()?;
        match &token {
            Token::Word(word) => word.parse().map_err(|_| format!("expected a number, found `{word}`")),
            _ => Err(format!("expected a number, found `{token}`")),
        }
    }

    fn decimal(&mut self, most: u8, make: impl Fn(u8, i8) -> DataType) -> Result<DataType, String> {
        // SQL's default, as in Flink.
        let (mut precision, mut scale) = (10.min(most), 0);
        if self.take('(') {
            precision = self.number()?;
            if self.take(',') {
                scale = self.number()?;
            }
            self.expect(')')?;
        }
        if precision == 0 || precision > most {
            return Err(format!("precision `{precision}` is not between 1 and {most}"));
        }
        if i16::from(scale) > i16::from(precision) {
            return Err(format!("scale `{scale}` is above the precision `{precision}`"));
        }
        Ok(make(precision, scale))
    }

    /// `[us]` or `(us)`.
    fn unit(&mut self) -> Result<Option<TimeUnit>, String> {
        let close = if self.take('(') {
            ')'
        } else if self.take('[') {
            ']'
        } else {
            return Ok(None);
        };
        let token = self.next()?;
        let unit = unit_of(&token)?;
        self.expect(close)?;
        Ok(Some(unit))
    }

    fn time(&mut self) -> Result<DataType, String> {
        let unit = self.unit()?.unwrap_or(TimeUnit::Microsecond);
        self.take_words(&["without", "time", "zone"]);
        Ok(match unit {
            TimeUnit::Second | TimeUnit::Millisecond => DataType::Time32(unit),
            TimeUnit::Microsecond | TimeUnit::Nanosecond => DataType::Time64(unit),
        })
    }

    fn timestamp(&mut self, default_zone: Option<&str>) -> Result<DataType, String> {
        let mut unit = TimeUnit::Microsecond;
        let mut zone: Option<Arc<str>> = default_zone.map(Arc::from);
        let close = if self.take('(') {
            Some(')')
        } else if self.take('[') {
            Some(']')
        } else {
            None
        };
        if let Some(close) = close {
            let token = self.next()?;
            unit = unit_of(&token)?;
            if self.take(',') {
                if self.take_word("tz") {
                    self.expect('=')?;
                }
                zone = Some(self.zone()?);
            }
            self.expect(close)?;
        }
        if self.take_words(&["with", "local", "time", "zone"]) || self.take_words(&["with", "time", "zone"]) {
            zone = zone.or_else(|| Some(Arc::from("UTC")));
        } else {
            self.take_words(&["without", "time", "zone"]);
        }
        Ok(DataType::Timestamp(unit, zone))
    }

    /// A time zone, quoted or not; an offset such as `+01:00` is three tokens.
    fn zone(&mut self) -> Result<Arc<str>, String> {
        match self.next()? {
            Token::Text(zone) | Token::Name(zone) => Ok(zone.into()),
            Token::Word(hours) if self.take(':') => {
                let minutes = self.next()?;
                Ok(format!("{hours}:{minutes}").into())
            }
            Token::Word(zone) => Ok(zone.into()),
            token @ Token::Symbol(_) => Err(format!("expected a time zone, found `{token}`")),
        }
    }

    /// `<T>` or `<item: T>`.
    fn item(&mut self) -> Result<FieldRef, String> {
        self.expect('<')?;
        let field = self.item_field()?;
        self.expect('>')?;
        Ok(field)
    }

    fn item_field(&mut self) -> Result<FieldRef, String> {
        let named = matches!(self.tokens.get(self.position + 1), Some(Token::Symbol(':')));
        if named {
            self.position += 2;
        }
        let item = self.typed()?;
        // The name of a list's item carries no meaning; one spelling makes types comparable.
        Ok(item.field(Field::LIST_FIELD_DEFAULT_NAME))
    }

    fn fixed_list(&mut self) -> Result<DataType, String> {
        self.expect('<')?;
        let item = self.item_field()?;
        let size = if self.take(',') {
            let size = self.number()?;
            self.expect('>')?;
            size
        } else {
            self.expect('>')?;
            self.length()?.ok_or_else(|| String::from("`fixed_array` needs a size"))?
        };
        if size < 0 { Err(format!("negative size `{size}`")) } else { Ok(DataType::FixedSizeList(item, size)) }
    }

    fn map(&mut self) -> Result<DataType, String> {
        self.expect('<')?;
        let key = self.typed()?.data_type;
        self.expect(',')?;
        let value = self.typed()?;
        self.expect('>')?;
        Ok(map_of(Field::new("key", key, false), Field::new("value", value.data_type, value.nullable)))
    }

    /// `<a T, b T>`, `<a: T>` or with parentheses.
    fn fields(&mut self) -> Result<DataType, String> {
        let close = if self.take('(') {
            ')'
        } else {
            self.expect('<')?;
            '>'
        };
        let mut fields: Vec<Field> = Vec::new();
        if self.take(close) {
            return Ok(DataType::Struct(Fields::empty()));
        }
        loop {
            let name = match self.next()? {
                Token::Word(name) | Token::Name(name) => name,
                token => return Err(format!("expected a field name, found `{token}`")),
            };
            self.take(':');
            if self.peek().is_none_or(|token| matches!(token, Token::Symbol(_))) {
                return Err(format!("field `{name}` has no type"));
            }
            let typed = self.typed()?;
            if fields.iter().any(|field| *field.name() == name) {
                return Err(format!("field `{name}` is there twice"));
            }
            fields.push(Field::new(name, typed.data_type, typed.nullable));
            if !self.take(',') {
                break;
            }
        }
        self.expect(close)?;
        Ok(DataType::Struct(fields.into()))
    }

    /// `<keys, values>`, or as pyarrow prints it.
    fn dictionary(&mut self) -> Result<DataType, String> {
        self.expect('<')?;
        let (keys, values) = if self.take_word("values") {
            self.expect('=')?;
            let values = self.typed()?.data_type;
            self.expect(',')?;
            self.take_word("indices");
            self.expect('=')?;
            let keys = self.typed()?.data_type;
            if self.take(',') {
                self.take_word("ordered");
                self.expect('=')?;
                self.number::<u8>()?;
            }
            (keys, values)
        } else {
            let keys = self.typed()?.data_type;
            self.expect(',')?;
            (keys, self.typed()?.data_type)
        };
        self.expect('>')?;
        if keys.is_dictionary_key_type() {
            Ok(DataType::Dictionary(Box::new(keys), Box::new(values)))
        } else {
            Err(String::from("the keys of a dictionary must be integers"))
        }
    }
}

/// A map with the field names of the Arrow specification.
pub fn map_of(key: Field, value: Field) -> DataType {
    let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
    DataType::Map(Arc::new(entries), false)
}
