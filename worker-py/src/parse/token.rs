//! The tokens of a type's text.

use std::fmt;

/// A piece of a type's text.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A bare word; its case is kept for field names.
    Word(String),
    /// A name in backticks or double quotes.
    Name(String),
    /// A text in single quotes.
    Text(String),
    /// A bracket or separator.
    Symbol(char),
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => formatter.write_str(word),
            Self::Name(name) => write!(formatter, "\"{name}\""),
            Self::Text(text) => write!(formatter, "'{text}'"),
            Self::Symbol(symbol) => write!(formatter, "{symbol}"),
        }
    }
}

/// Cuts a text into tokens.
///
/// # Errors
/// Names the character that begins no token, or the quote that is not closed.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '<' | '>' | '(' | ')' | '[' | ']' | ',' | ':' | '=' => {
                tokens.push(Token::Symbol(c));
                chars.next();
            }
            '`' | '"' => tokens.push(Token::Name(quoted(&mut chars)?)),
            '\'' => tokens.push(Token::Text(quoted(&mut chars)?)),
            _ => {
                let mut word = String::new();
                while let Some(&c) = chars.peek() {
                    // `/`, `+` and `-` are there for time zones and scales written without quotes.
                    if c.is_alphanumeric() || "_-+/.".contains(c) {
                        word.push(c);
                        chars.next();
                    } else {
                        break;
                    }
                }
                if word.is_empty() {
                    return Err(format!("unexpected character `{c}`"));
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

/// A quoted token; the quote itself is written twice.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    let quote = chars.next().unwrap_or('`');
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.peek() == Some(&quote) {
            text.push(quote);
            chars.next();
        } else {
            return Ok(text);
        }
    }
    Err(format!("missing closing {quote}"))
}
