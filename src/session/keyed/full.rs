//! Waiting for room in a store that is full.

use crate::error::Error;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How soon a store that was full is tried again: at first, and at most.
const TRIED_AFTER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The waits of one commit.
pub(super) struct Waits {
    patience: Duration,
    since: Option<Instant>,
    next: Duration,
}

impl Waits {
    /// No longer than this in all.
    pub fn new(patience: Duration) -> Self {
        Waits { patience, since: None, next: TRIED_AFTER.0 }
    }

    /// Waits; false if it has been enough. The first wait is said.
    pub async fn go_on(&mut self, full: &Error) -> bool {
        let since = *self.since.get_or_insert_with(|| {
            if !self.patience.is_zero() {
                tracing::warn!(error = %full, "a bundle waits for room in the store; its session goes on when there is some, or ends after {:?}", self.patience);
            }
            Instant::now()
        });
        if since.elapsed() + self.next > self.patience {
            return false;
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(TRIED_AFTER.1);
        true
    }
}
