//! How a command that did not succeed ends: its exit status and what is printed.

use pillion::{Code, Error};

/// Why a command failed. Printed as `error: <message>`, then `hint: <hint>`.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something that cannot be: exit status 2, as for a wrong configuration.
    Usage(Text),
    /// A file or the data in it is at fault: exit status 1.
    Data(Text),
    /// The engine or the function failed: exit status 1.
    Engine {
        error: Error,
        /// Which rows of the input it was.
        place: Option<String>,
    },
    /// Stopped by this signal: exit status 128 plus its number, nothing to explain.
    Interrupted(i32),
}

/// A sentence for a person and what to do about it.
#[derive(Debug)]
pub struct Text {
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(Text { message: message.into(), hint: None })
    }

    /// A file or its content is at fault.
    pub fn data(message: impl Into<String>) -> Self {
        Failure::Data(Text { message: message.into(), hint: None })
    }

    /// Adds what to do about it; an engine's error has its own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        match &mut self {
            Failure::Usage(text) | Failure::Data(text) => text.hint = Some(hint.into()),
            Failure::Engine { .. } | Failure::Interrupted(_) => {}
        }
        self
    }

    /// The exit status: 1 the function or the data failed, 2 the command line is wrong, 128 plus a signal's number.
    pub fn status(&self) -> u8 {
        match self {
            // A wrong configuration is a mistake of whoever gave the command, wherever it was noticed.
            Failure::Engine { error, .. } if error.code() == Code::ConfigInvalid => 2,
            Failure::Usage(_) => 2,
            Failure::Data(_) | Failure::Engine { .. } => 1,
            Failure::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// The text for standard error, without `error: ` in front; empty if nothing is to be said.
    pub fn report(&self) -> String {
        match self {
            Failure::Usage(text) | Failure::Data(text) => match &text.hint {
                Some(hint) => format!("{}\nhint: {hint}", text.message),
                None => text.message.clone(),
            },
            Failure::Engine { error, place: None } => error.report(),
            Failure::Engine { error, place: Some(place) } => format!("{}\nwhere: {place}", error.report()),
            Failure::Interrupted(_) => String::new(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Engine { error, place: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_status() {
        assert_eq!(Failure::usage("x").status(), 2);
        assert_eq!(Failure::data("x").status(), 1);
        assert_eq!(Failure::Interrupted(2).status(), 130);
    }

    #[test]
    fn a_hint_stands_on_its_own_line() {
        assert_eq!(Failure::data("no such file").hint("check the path").report(), "no such file\nhint: check the path");
    }
}
