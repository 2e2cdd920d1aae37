//! What this process asks of the C library directly: its title, its allocator, its end. With [`buffers`](crate::buffers) the only place of
//! `unsafe`.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// Blocks up to this size come from the heap and stay there, in bytes; the largest value that glibc takes.
///
/// Bodies of batches are of this kind: with glibc's default each would be mapped, zeroed by the kernel and unmapped again.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: i32 = 32 * 1024 * 1024;

/// Free memory at the end of the heap beyond this goes back to the kernel, in bytes.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 64 * 1024 * 1024;

/// Keeps freed bodies of batches for the next ones. No effect with other C libraries than glibc.
pub fn keep_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` only sets parameters of the allocator, which does its own locking.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Ends this process at once: nothing is flushed, no destructor and no exit handler runs.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// A thread of this process that signals can be sent to.
#[derive(Clone, Copy)]
pub struct Thread(libc::pthread_t);

impl Thread {
    /// The calling thread, which must live as long as the process.
    pub fn current() -> Self {
        // SAFETY: has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Sends a signal; true if it was sent.
    pub fn signal(self, signal: i32) -> bool {
        // SAFETY: the thread is the one that called `run`, the process's main thread, which has not ended.
        unsafe { libc::pthread_kill(self.0, signal) == 0 }
    }
}

/// Takes over a descriptor that Python opened for this purpose and does not use itself; `None` if it is negative.
pub fn take_descriptor(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: the caller of `run` hands over the reading end of the pipe, of which it keeps no other use.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Where the arguments of this process lie, as the kernel shows them: the first address and the one past the end.
fn argument_area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold spaces; fields 48 and 49 are the addresses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let (start, end): (usize, usize) = (fields.get(45)?.parse().ok()?, fields.get(46)?.parse().ok()?);
    (start != 0 && start < end).then_some((start, end))
}

/// Shows `title` as this process's command line. It is cut to fit the area of the original arguments.
///
/// Raises `OSError` if the kernel does not say where that is.
#[pyfunction]
pub fn set_process_title(title: &str) -> PyResult<()> {
    static WRITING: Mutex<()> = Mutex::new(());
    let _guard = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (start, end) = argument_area().ok_or_else(|| PyOSError::new_err("the arguments of this process cannot be found"))?;
    let mut area = vec![0_u8; end - start];
    // The last byte stays zero: with another there the kernel would show the environment, too.
    let shown = title.len().min(area.len() - 1);
    area[..shown].copy_from_slice(&title.as_bytes()[..shown]);
    // SAFETY: the kernel put the arguments into this range of this process's own stack, writable; CPython works on copies of them. The lock
    // keeps two callers apart.
    unsafe { std::ptr::copy_nonoverlapping(area.as_ptr(), start as *mut u8, area.len()) };
    Ok(())
}
