//! Processing time: the system's, or what the host says.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The one clock of a session. It never goes back.
pub(super) struct Clock {
    /// The latest time that was seen, in ms.
    latest: AtomicI64,
    host: bool,
}

impl Clock {
    /// The system's, or the host's.
    pub fn new(host: bool) -> Self {
        Clock { latest: AtomicI64::new(0), host }
    }

    /// Whether the host sets it.
    pub fn is_hosts(&self) -> bool {
        self.host
    }

    /// Now, in ms since the epoch.
    pub fn now_ms(&self) -> i64 {
        if self.host {
            return self.latest.load(Ordering::SeqCst);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        self.latest.fetch_max(now, Ordering::SeqCst).max(now)
    }

    /// The host says what time it is; false if that would go back.
    pub fn advance(&self, now_ms: i64) -> bool {
        self.latest.fetch_max(now_ms, Ordering::SeqCst) <= now_ms
    }

    /// How long until then.
    pub fn until(&self, then_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(then_ms.saturating_sub(self.now_ms())).unwrap_or(0))
    }
}
