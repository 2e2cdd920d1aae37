//! Memory files: what arenas and rings lie in. Their size is sealed; they are gone with the last process that holds them.

use super::endpoint::NONCE_BYTES;
use crate::proto;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// Largest arena, in bytes.
pub const MAX_ARENA_BYTES: u64 = 1 << 30;

/// A new memory file of `bytes` bytes, zeroed, all of it there, its size sealed.
///
/// # Errors
/// Without space, or where memory files cannot be had; then bodies go inline.
pub fn memory_file(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    if bytes == 0 || bytes > MAX_ARENA_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    // Now rather than at the first write, where it would be a signal.
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

/// Allows no further writable mapping, and no change to the seals. Best effort: kernels before 5.1 cannot.
pub fn forbid_writers(file: impl AsFd) {
    let sealed = fcntl_add_seals(&file, SealFlags::FUTURE_WRITE | SealFlags::SEAL);
    // Then the borrower is merely trusted not to write what it has no reason to write.
    let _ = sealed.or_else(|_| fcntl_add_seals(&file, SealFlags::SEAL));
}

/// Checks that a file that somebody else made has at least `bytes` bytes and can never have fewer.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if not.
pub fn check_sealed(file: impl AsFd, bytes: u64) -> io::Result<()> {
    let size = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
    // Only memory files have seals.
    let seals = fcntl_get_seals(&file)?;
    if bytes == 0 || bytes > MAX_ARENA_BYTES || size < bytes || !seals.contains(SealFlags::SHRINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory file is not sealed, or has another size than was said"));
    }
    Ok(())
}

/// Opens a memory file that another process holds, by `/proc`. Not for writing unless `write`.
///
/// # Errors
/// If it is another user's, or there is no such process here; [`io::ErrorKind::InvalidData`] if it is no memory file whose size is sealed.
pub fn open_foreign(offer: &proto::ArenaOffer, write: bool) -> io::Result<OwnedFd> {
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let path = format!("/proc/{}/fd/{}", offer.pid, offer.fd);
    // Whatever it is, opening it must not wait.
    let file = rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    check_sealed(&file, offer.bytes)?;
    Ok(file)
}

/// A memory file by which another process can prove that it sees the same memory: its first bytes are the nonce.
///
/// # Errors
/// As [`memory_file`].
pub fn nonce_file(nonce: &[u8]) -> io::Result<OwnedFd> {
    let file = memory_file("pillion-nonce", NONCE_FILE_BYTES)?;
    rustix::io::pwrite(&file, nonce, 0)?;
    forbid_writers(&file);
    Ok(file)
}

/// Size of a [`nonce_file`].
pub const NONCE_FILE_BYTES: u64 = 4096;

/// Reads the nonce in a [`nonce_file`] of another process.
///
/// # Errors
/// As [`open_foreign`].
pub fn read_nonce(offer: &proto::ArenaOffer) -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    let count = rustix::io::pread(open_foreign(offer, false)?, &mut nonce, 0)?;
    if count == NONCE_BYTES { Ok(nonce) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
