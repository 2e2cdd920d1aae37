//! Errors are data (DESIGN D10): a stable code, a text for the person who can act on it, a hint, and the internal detail apart.
//!
//! [`Error`] mirrors `proto/pillion/v1/error.proto`. This is the only place that makes a [`tonic::Status`].

use pillion_wire::{metadata, proto};
use prost::Message;
use std::fmt::{self, Write};
use tonic::{Status, metadata::MetadataValue};

pub use pillion_wire::{
    error::Code,
    proto::{FailedRow, PythonException, StackFrame, WorkerLoss},
};

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, with everything that is known about it. Displays as its message alone; see [`Error::report`] for all of it.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    seq: Option<u64>,
    data: proto::Error,
}

impl Error {
    /// An error of `code`, with one sentence for a person: lower case, no final period, names in backticks.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let data = proto::Error { code: code.as_str().into(), message: message.into(), ..Default::default() };
        Error(Box::new(Inner { code, seq: None, data }))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.data.hint = hint.into();
        self
    }

    /// Adds detail for a bug report.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.data.detail = detail.into();
        self
    }

    /// Puts the place where it happened before the message.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.0.data.message = format!("{place}: {}", self.0.data.message);
        self
    }

    /// Adds what is known about the end of a worker.
    #[must_use]
    pub fn worker(mut self, loss: WorkerLoss) -> Self {
        self.0.data.worker = Some(loss);
        self
    }

    /// Adds the function concerned.
    #[must_use]
    pub fn function(mut self, name: impl Into<String>) -> Self {
        self.0.data.function = name.into();
        self
    }

    /// Says that the same request may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.0.data.retryable = true;
        self
    }

    /// Says which batch of a session failed.
    #[must_use]
    pub fn at(mut self, seq: u64) -> Self {
        self.0.seq = Some(seq);
        self
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence for a person.
    pub fn message(&self) -> &str {
        &self.0.data.message
    }

    /// What to do, if something useful can be said.
    pub fn hint_text(&self) -> Option<&str> {
        Some(self.0.data.hint.as_str()).filter(|hint| !hint.is_empty())
    }

    /// Internal detail, not needed to act.
    pub fn detail_text(&self) -> Option<&str> {
        Some(self.0.data.detail.as_str()).filter(|detail| !detail.is_empty())
    }

    /// The exception, if user code raised one.
    pub fn exception(&self) -> Option<&PythonException> {
        self.0.data.exception.as_ref()
    }

    /// How the worker ended, if that is what failed.
    pub fn worker_loss(&self) -> Option<&WorkerLoss> {
        self.0.data.worker.as_ref()
    }

    /// The function concerned, if one is.
    pub fn function_name(&self) -> Option<&str> {
        Some(self.0.data.function.as_str()).filter(|name| !name.is_empty())
    }

    /// True if the same request may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        self.0.data.retryable
    }

    /// The sequence number of the batch that failed; `None` if the whole session (or call) did.
    pub fn seq(&self) -> Option<u64> {
        self.0.seq
    }

    /// The whole error for a terminal: message, traceback in Python's style, the failing row, the worker's last words, the hint.
    pub fn report(&self) -> String {
        let mut text = self.message().to_owned();
        if let Some(exception) = self.exception() {
            text.push('\n');
            traceback(&mut text, exception, 0);
            if let Some(row) = &exception.row {
                let values: Vec<String> = row.values.iter().map(|value| format!("{}={}", value.name, value.repr)).collect();
                let _ = write!(text, "\nrow {} of the batch: {}", row.index, values.join(", "));
            }
        }
        if let Some(loss) = self.worker_loss() {
            for (title, body) in [("where it was", &loss.stacks), ("last lines of its stderr", &loss.stderr_tail)] {
                if !body.trim().is_empty() {
                    let _ = write!(text, "\n{title}:\n{}", indent(body.trim_end()));
                }
            }
        }
        if let Some(hint) = self.hint_text() {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }

    /// A call's failure as a gRPC status: a fitting gRPC code for generic clients, the error itself in the trailers, without its longest parts
    /// if it would not fit there.
    pub fn to_status(&self) -> Status {
        let mut status = Status::new(grpc_code(self.code()), cut(self.message(), TRAILER_BYTES / 8));
        let encoded = for_trailers(self.into()).encode_to_vec();
        status.metadata_mut().insert_bin(metadata::ERROR, MetadataValue::from_bytes(&encoded));
        status
    }

    /// The error inside a status, or what its gRPC code means for this connection.
    pub fn from_status(status: &Status) -> Self {
        let encoded = status.metadata().get_bin(metadata::ERROR).and_then(|value| value.to_bytes().ok());
        if let Some(data) = encoded.and_then(|bytes| proto::Error::decode(bytes).ok()) {
            return Error::from(data);
        }
        let detail = format!("{status:?}");
        match status.code() {
            tonic::Code::Unimplemented => Error::new(Code::NotASidecar, "what listens at the endpoint is not a pillion sidecar")
                .hint("check the endpoint; `pillion serve` prints where it listens"),
            tonic::Code::Cancelled => Error::new(Code::Cancelled, "the call was cancelled"),
            _ => Error::new(Code::ConnectionLost, format!("the connection to the sidecar broke: {}", status.message())).retryable(),
        }
        .detail(detail)
    }
}

/// What clients are sure to take in trailers: 8 KiB in Java by default, of which base64 takes a quarter.
const TRAILER_BYTES: usize = 5 * 1024;

/// Leaves out what is longest and least needed until the error fits.
fn for_trailers(mut error: proto::Error) -> proto::Error {
    let shorten: [fn(&mut proto::Error); 4] = [
        |error| error.detail = cut(&error.detail, TRAILER_BYTES / 8),
        |error| {
            if let Some(worker) = &mut error.worker {
                worker.stacks = cut(&worker.stacks, TRAILER_BYTES / 4);
                worker.stderr_tail = cut(&worker.stderr_tail, TRAILER_BYTES / 8);
            }
        },
        |error| {
            if let Some(exception) = &mut error.exception {
                exception.cause = None;
                exception.message = cut(&exception.message, TRAILER_BYTES / 8);
                // The outermost and innermost frames say most.
                let inner = exception.frames.len().saturating_sub(4);
                exception.frames =
                    exception.frames.iter().enumerate().filter(|(at, _)| *at < 2 || *at >= inner).map(|(_, f)| f.clone()).collect();
            }
        },
        |error| {
            error.message = cut(&error.message, TRAILER_BYTES / 8);
            error.hint = cut(&error.hint, TRAILER_BYTES / 8);
            error.exception = None;
            error.worker = None;
        },
    ];
    for shorten in shorten {
        if error.encoded_len() <= TRAILER_BYTES {
            break;
        }
        shorten(&mut error);
    }
    error
}

/// The first `bytes` of a text, cut between characters.
fn cut(text: &str, bytes: usize) -> String {
    match text.len() <= bytes {
        true => text.to_owned(),
        false => format!("{} ...", &text[..text.floor_char_boundary(bytes)]),
    }
}

/// The nearest standard code, for clients that know only those.
fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::FunctionNotFound | Code::ModuleNotFound | Code::EnvironmentNotFound | Code::SessionNotFound | Code::SnapshotUnknown => {
            tonic::Code::NotFound
        }
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::Unsupported | Code::ProtocolVersion => tonic::Code::FailedPrecondition,
        Code::Cancelled => tonic::Code::Cancelled,
        Code::Draining | Code::ConnectionLost => tonic::Code::Unavailable,
        Code::SessionLimit | Code::BatchTooLarge | Code::StateFull | Code::StateTooLarge => tonic::Code::ResourceExhausted,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::WorkerDied | Code::WorkerStartFailed | Code::EnvironmentStartFailed | Code::SystemRefused => tonic::Code::Aborted,
        Code::Fenced | Code::StateFailed | Code::StateHostFailed | Code::SnapshotFailed => tonic::Code::Aborted,
        Code::StateDamaged | Code::SnapshotDamaged => tonic::Code::DataLoss,
        Code::InvariantBroken => tonic::Code::Internal,
        _ => tonic::Code::InvalidArgument,
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Deepest chain of causes that is printed; deeper ones do not come from our own workers.
const MAX_CAUSES: usize = 8;

fn traceback(text: &mut String, exception: &PythonException, depth: usize) {
    if let Some(cause) = exception.cause.as_deref().filter(|_| depth < MAX_CAUSES) {
        traceback(text, cause, depth + 1);
        text.push_str("\n\nwhich led to:\n\n");
    }
    text.push_str("Traceback (most recent call last):");
    for frame in &exception.frames {
        let _ = write!(text, "\n  File \"{}\", line {}, in {}", frame.file, frame.line, frame.function);
        if !frame.source.is_empty() {
            let _ = write!(text, "\n    {}", frame.source);
        }
    }
    if !exception.caret.is_empty() {
        let _ = write!(text, "\n    {}", exception.caret);
    }
    let _ = match exception.message.as_str() {
        "" => write!(text, "\n{}", exception.r#type),
        message => write!(text, "\n{}: {message}", exception.r#type),
    };
}

impl From<&Error> for proto::Error {
    fn from(error: &Error) -> Self {
        error.0.data.clone()
    }
}

impl From<proto::Error> for Error {
    fn from(data: proto::Error) -> Self {
        // A newer peer may know codes that this build does not; its message still says what is wrong.
        let code = Code::parse(&data.code).unwrap_or(Code::Unsupported);
        Error(Box::new(Inner { code, seq: None, data }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.report())?;
        match self.detail_text() {
            Some(detail) => write!(f, "\ndetail: {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised() -> Error {
        let frame = StackFrame { file: "f.py".into(), line: 3, function: "add".into(), source: "return a / b".into() };
        let row = FailedRow { index: 7, values: vec![proto::FailedValue { name: "b".into(), repr: "0".into() }] };
        let exception = PythonException {
            r#type: "ZeroDivisionError".into(),
            message: "division by zero".into(),
            frames: vec![frame],
            row: Some(row),
            ..Default::default()
        };
        let mut error = Error::new(Code::FunctionRaised, "`add` raised `ZeroDivisionError`").hint("check `b`").detail("worker w-1");
        error.0.data.exception = Some(exception);
        error
    }

    #[test]
    fn a_report_reads_like_python() {
        let expected = "`add` raised `ZeroDivisionError`\nTraceback (most recent call last):\n  File \"f.py\", line 3, in add\n    return a / b\n\
                        ZeroDivisionError: division by zero\nrow 7 of the batch: b=0\nhint: check `b`";
        assert_eq!(raised().report(), expected);
    }

    #[test]
    fn a_status_carries_the_whole_error() {
        let back = Error::from_status(&raised().to_status());
        assert_eq!(proto::Error::from(&back), proto::Error::from(&raised()));
    }

    #[test]
    fn an_error_of_any_size_fits_into_trailers() {
        let mut error = raised();
        let exception = error.0.data.exception.as_mut().unwrap();
        exception.frames = vec![exception.frames[0].clone(); 64];
        exception.message = "é".repeat(8000);
        exception.cause = Some(Box::new(exception.clone()));
        error.0.data.detail = "x".repeat(16_000);
        let status = error.to_status();
        assert!(status.metadata().get_bin(metadata::ERROR).unwrap().as_encoded_bytes().len() < 7000);
        let back = Error::from_status(&status);
        assert_eq!((back.code(), back.hint_text()), (error.code(), error.hint_text()));
        assert_eq!(back.exception().unwrap().frames.len(), 6);
    }

    #[test]
    fn a_foreign_status_is_explained() {
        assert_eq!(Error::from_status(&Status::unimplemented("no such service")).code(), Code::NotASidecar);
        assert_eq!(Error::from_status(&Status::unavailable("gone")).code(), Code::ConnectionLost);
    }

    #[test]
    fn no_code_maps_to_internal_but_the_bug() {
        for &code in Code::ALL {
            let internal = matches!(Error::new(code, "x").to_status().code(), tonic::Code::Internal | tonic::Code::Unknown);
            assert_eq!(internal, code == Code::InvariantBroken, "`{code}`");
        }
    }
}
