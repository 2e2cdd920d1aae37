//! The stacks of this process's threads, even while a call hangs: `faulthandler` writes them to a pipe on a signal.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout_at};

use crate::process::Thread;

/// How long the Python thread may take to begin; a thread in an uninterruptible system call never does.
const BEGIN: Duration = Duration::from_millis(500);

/// How long a pause means the end. `faulthandler` has no end mark, but writes without waiting for anything.
const PAUSE: Duration = Duration::from_millis(15);

/// Longest text, in bytes: as much as the pipe holds.
const MOST_BYTES: usize = 64 * 1024;

/// Asks for stacks.
pub struct Stacks {
    pipe: Option<OwnedFd>,
    thread: Thread,
    signal: i32,
}

impl Stacks {
    /// `pipe` is read after `signal` was sent to `thread`, the one that runs Python: a thread that is stopped in its own signal handler
    /// does not change its frames while they are read.
    pub fn new(pipe: Option<OwnedFd>, thread: Thread, signal: i32) -> Self {
        Self { pipe, thread, signal }
    }

    /// The reader, on the runtime of the calling task; `None` if there is no pipe.
    pub fn reader(self) -> io::Result<Option<Reader>> {
        let Self { pipe, thread, signal } = self;
        let Some(pipe) = pipe else { return Ok(None) };
        Ok(Some(Reader { pipe: Receiver::from_owned_fd(pipe)?, thread, signal }))
    }
}

/// Reads stacks, one request after the other.
pub struct Reader {
    pipe: Receiver,
    thread: Thread,
    signal: i32,
}

impl Reader {
    /// `faulthandler`'s text of all threads; empty if the Python thread does not react.
    pub async fn read(&self) -> String {
        let mut text = Vec::new();
        // What a late answer to an earlier request left behind.
        while self.take(&mut text) {
            text.clear();
        }
        text.clear();
        if !self.thread.signal(self.signal) {
            return String::new();
        }
        let mut deadline = Instant::now() + BEGIN;
        while text.len() < MOST_BYTES {
            match timeout_at(deadline, self.pipe.readable()).await {
                Ok(Ok(())) if self.take(&mut text) => deadline = Instant::now() + PAUSE,
                // Readiness may be reported when there is nothing left; the deadline stands.
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Takes what is in the pipe; false if it was empty.
    fn take(&self, text: &mut Vec<u8>) -> bool {
        let mut piece = [0_u8; 8 * 1024];
        let mut any = false;
        while let Ok(count @ 1..) = self.pipe.try_read(&mut piece) {
            any = true;
            let room = MOST_BYTES.saturating_sub(text.len());
            text.extend_from_slice(&piece[..count.min(room)]);
        }
        any
    }
}
