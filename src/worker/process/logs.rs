//! Captures what a process prints: read at once, so that it never blocks on a full pipe, and handed on bounded.
//!
//! Every line becomes a tracing event with target `pillion::worker::output` and the fields `worker`, `pid`, `stream` (`stdout`
//! or `stderr`) and, if the line was cut, `cut` (bytes left out). Bytes that are not UTF-8 are replaced. Lines beyond the rate are
//! dropped and counted: one event with the fields `dropped_lines` and `dropped_bytes` follows when the rate allows events again, or
//! at the end. The last bytes of stderr are kept as they came, dropped or not, for error messages.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Bounds of what is handed on of a process's output, for each of its two streams.
#[derive(Clone, Debug)]
pub struct OutputLimits {
    /// Longest line in bytes; the rest of a line is cut. Default 16 KiB.
    pub line_bytes: usize,
    /// Lines per second on average, and at once after a quiet time. Default 1,000.
    pub lines_per_second: u32,
    /// Bytes per second on average, and at once after a quiet time. Default 1 MiB.
    pub bytes_per_second: u32,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { line_bytes: 16 << 10, lines_per_second: 1_000, bytes_per_second: 1 << 20 }
    }
}

/// How much of stderr is kept for error messages, in bytes.
const TAIL_BYTES: usize = 4 << 10;

/// How much is still read of a pipe after its process has ended: more than a pipe holds by default.
const REST_BYTES: usize = 1 << 20;

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;

/// The last bytes of a stream.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The last 4 KiB, from the beginning of a line if one begins there.
    pub fn text(&self) -> String {
        let bytes = self.lock();
        let full = bytes.len() >= TAIL_BYTES;
        let bytes: Vec<u8> = bytes.iter().copied().collect();
        let start = if full { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1) } else { 0 };
        let start = if start >= bytes.len() { 0 } else { start };
        String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned()
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let over = (kept.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        kept.drain(..over);
        kept.extend(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading ends of a process's stdout and stderr, before anybody reads them.
pub struct OutputPipes {
    stdout: Receiver,
    stderr: Receiver,
}

impl OutputPipes {
    /// Creates both pipes; the writing ends are for the process.
    pub fn new() -> io::Result<(Self, [OwnedFd; 2])> {
        let (stdout, stdout_writer) = pipe()?;
        let (stderr, stderr_writer) = pipe()?;
        Ok((Self { stdout, stderr }, [stdout_writer, stderr_writer]))
    }

    /// Starts to read on behalf of worker `worker`, process `pid`.
    pub fn capture(self, worker: &str, pid: i32, limits: &OutputLimits) -> Output {
        let tail = Tail::default();
        let start = |pipe, stream, tail| {
            let (ended, end) = oneshot::channel();
            let lines = Lines::new(worker.to_owned(), pid, stream, limits.clone());
            (ended, tokio::spawn(read(pipe, lines, tail, end)))
        };
        let streams = [start(self.stdout, "stdout", None), start(self.stderr, "stderr", Some(tail.clone()))];
        Output { tail, streams }
    }
}

/// A process's output while it is read.
pub struct Output {
    tail: Tail,
    streams: [(oneshot::Sender<()>, JoinHandle<()>); 2],
}

impl Output {
    /// The tail of stderr.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// To be called when the process has ended: reads what the pipes still hold, and closes them, even if some stray descendant still
    /// has the other end.
    pub async fn finish(self) {
        for (ended, reader) in self.streams {
            drop(ended);
            // A reader fails only by a panic; then there is nothing left to read.
            drop(reader.await);
        }
    }
}

fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((Receiver::from_owned_fd(reader)?, writer))
}

async fn read(pipe: Receiver, mut lines: Lines, tail: Option<Tail>, mut end: oneshot::Receiver<()>) {
    let mut buffer = vec![0; READ_BYTES];
    let mut rest: Option<usize> = None;
    loop {
        if rest.is_none() {
            tokio::select! {
                ready = pipe.readable() => if ready.is_err() { break },
                _ = &mut end => rest = Some(REST_BYTES),
            }
        }
        let read = match rest {
            None => pipe.try_read(&mut buffer),
            // `try_read` knows only of what the runtime has been told, which may be less than there is.
            Some(_) => rustix::io::read(&pipe, &mut buffer).map_err(io::Error::from),
        };
        match read {
            Ok(0) => break,
            Ok(n) => {
                if let Some(tail) = &tail {
                    tail.push(&buffer[..n]);
                }
                lines.push(&buffer[..n], Instant::now());
                match rest.as_mut().map(|rest| rest.checked_sub(n)) {
                    Some(Some(left)) => rest = Some(left),
                    Some(None) => break,
                    None => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && rest.is_none() => {}
            Err(_) => break,
        }
    }
    lines.finish(Instant::now());
}

/// Cuts a stream into lines and lets through as many as the rate allows.
struct Lines {
    worker: String,
    pid: i32,
    stream: &'static str,
    limits: OutputLimits,
    line: Vec<u8>,
    cut: u64,
    budget: Budget,
    dropped_lines: u64,
    dropped_bytes: u64,
}

impl Lines {
    fn new(worker: String, pid: i32, stream: &'static str, limits: OutputLimits) -> Self {
        let budget = Budget::new(&limits, Instant::now());
        Self { worker, pid, stream, limits, line: Vec::new(), cut: 0, budget, dropped_lines: 0, dropped_bytes: 0 }
    }

    fn push(&mut self, mut bytes: &[u8], now: Instant) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..at]);
            self.end_line(now);
            bytes = &bytes[at + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = self.limits.line_bytes.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.cut += (bytes.len() - room) as u64;
    }

    fn end_line(&mut self, now: Instant) {
        if self.budget.take(&self.limits, self.line.len(), now) {
            self.report_dropped();
            let text = String::from_utf8_lossy(&self.line);
            let text = text.trim_end_matches('\r');
            let (worker, pid, stream) = (self.worker.as_str(), self.pid, self.stream);
            match self.cut {
                0 => tracing::info!(target: "pillion::worker::output", worker, pid, stream, "{text}"),
                cut => tracing::info!(target: "pillion::worker::output", worker, pid, stream, cut, "{text}"),
            }
        } else {
            self.dropped_lines += 1;
            self.dropped_bytes += self.line.len() as u64 + self.cut;
        }
        self.line.clear();
        self.cut = 0;
    }

    fn report_dropped(&mut self) {
        if self.dropped_lines > 0 {
            let (worker, pid, stream) = (self.worker.as_str(), self.pid, self.stream);
            let (dropped_lines, dropped_bytes) = (self.dropped_lines, self.dropped_bytes);
            tracing::warn!(target: "pillion::worker::output", worker, pid, stream, dropped_lines, dropped_bytes, "output beyond the rate was dropped");
            (self.dropped_lines, self.dropped_bytes) = (0, 0);
        }
    }

    fn finish(&mut self, now: Instant) {
        if !self.line.is_empty() {
            self.end_line(now);
        }
        self.report_dropped();
    }
}

/// Two token buckets, each as deep as one second's supply.
struct Budget {
    lines: f64,
    bytes: f64,
    at: Instant,
}

impl Budget {
    fn new(limits: &OutputLimits, at: Instant) -> Self {
        Self { lines: f64::from(limits.lines_per_second), bytes: f64::from(limits.bytes_per_second), at }
    }

    fn take(&mut self, limits: &OutputLimits, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).min(Duration::from_secs(1)).as_secs_f64();
        self.at = now;
        let refill = |level: f64, rate: u32| (level + passed * f64::from(rate)).min(f64::from(rate));
        self.lines = refill(self.lines, limits.lines_per_second);
        self.bytes = refill(self.bytes, limits.bytes_per_second);
        // A line larger than the bucket passes when the bucket is full.
        let bytes = (bytes as f64).min(f64::from(limits.bytes_per_second));
        let allowed = self.lines >= 1.0 && self.bytes >= bytes;
        if allowed {
            self.lines -= 1.0;
            self.bytes -= bytes;
        }
        allowed
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
