//! State that a function asks for in the middle of its batch (DESIGN D7): who answers.

use crate::{batch::Batch, error::Error, worker::BoxFuture};
use std::sync::Arc;

/// Answers what the batches of a session ask.
pub trait Fetcher: Send + Sync {
    /// Answers a question of batch `seq`; the same for every try. It may take as long as the state takes.
    fn fetch(self: Arc<Self>, seq: u64, asked: Batch) -> BoxFuture<'static, Result<Batch, Unanswered>>;
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// No worker that keeps to the protocol asks this.
    Breach(String),
    /// The state cannot be had: the batch fails.
    Failed(Error),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Unanswered::Failed(error)
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
