//! Why a fork server did not start, as an error for the person who can act on it.

use std::path::Path;
use std::time::Duration;

use super::exit::Exit;
use super::fork_server::StartError;
use crate::error::{Code, Error, WorkerLoss};

/// Why the last fork server did not start, kept for launches that come before the next try.
#[derive(Clone)]
pub(super) struct Failure {
    message: String,
    hint: &'static str,
    /// What it printed, or the traceback that it sent.
    printed: String,
    /// How it ended, if it was created at all.
    exit: Option<Exit>,
}

impl Failure {
    /// From `error`, for interpreter `python`, which had `timeout` to be ready.
    pub fn new(error: StartError, python: &Path, timeout: Duration) -> Self {
        let python = python.display();
        match error {
            StartError::System(error) => Self {
                message: format!("the interpreter `{python}` could not be started: {error}"),
                hint: "check the interpreter's path; `pillion check` shows which environment is used",
                printed: String::new(),
                exit: None,
            },
            StartError::Failed { message, traceback, exit, stderr } => Self {
                message: format!("the environment's fork server failed: {message}"),
                hint: "a module named in `preload` cannot be imported in this environment",
                printed: if stderr.is_empty() { traceback } else { format!("{stderr}\n{traceback}") },
                exit: Some(exit),
            },
            StartError::Died { exit, stderr } => Self {
                message: match stderr.lines().last() {
                    Some(last) => format!("the environment's fork server {exit} while it started: {last}"),
                    None => format!("the environment's fork server {exit} while it started"),
                },
                hint: "a module named in `preload` may have crashed it, or the interpreter cannot run the worker's package",
                printed: stderr,
                exit: Some(exit),
            },
            StartError::TimedOut { exit, stderr } => Self {
                message: format!("the environment's fork server was not ready within {} s", timeout.as_secs_f64()),
                hint: "a module named in `preload` may hang while it is imported",
                printed: stderr,
                exit: Some(exit),
            },
        }
    }

    /// As `environment_start_failed`.
    pub fn error(&self) -> Error {
        let error = Error::new(Code::EnvironmentStartFailed, self.message.clone()).hint(self.hint);
        let Some(exit) = self.exit else { return error };
        error.worker(WorkerLoss {
            cause: exit.loss_cause().to_owned(),
            exit_status: exit.status.unwrap_or_default(),
            signal: exit.signal.unwrap_or_default(),
            stderr_tail: last_words(&self.printed).to_owned(),
            ..WorkerLoss::default()
        })
    }
}

/// The end of `text`, at most as much as `WorkerLoss` carries.
fn last_words(text: &str) -> &str {
    let mut start = text.len().saturating_sub(4 << 10);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
