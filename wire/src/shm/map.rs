//! Memory that two processes map: the one place where it is touched.
//!
//! Whoever is at the other end may write to it at any time, so nothing here hands out a `&[u8]` over it. Bytes are copied in and out through raw
//! pointers, counters are atomics. The exceptions are [`Map::view`], by which a worker reads its inputs in place, and a host
//! the results of workers that it trusts, and [`Exclusive`], by which the owner of an arena builds in a slot that it has told nobody of.

use arrow_buffer::{ArrowNativeType, Buffer, MutableBuffer, alloc::Allocation};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{
    io,
    os::fd::AsFd,
    panic::RefUnwindSafe,
    ptr::{NonNull, null_mut},
    sync::Arc,
};

/// What counters in shared memory are made of.
pub mod atomic {
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};
}
use atomic::AtomicU64;

/// A mapping of a whole memory file, unmapped with the last use.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    bytes: usize,
    writable: bool,
    /// Memory of this process alone, for tests of what lies above and for interpreters that know no `mmap`.
    private: bool,
}

// SAFETY: the memory is not tied to a thread; all access is by atomics and by copies whose order the protocols above define.
unsafe impl Send for Map {}
// SAFETY: as above; no method hands out a reference to plain memory.
unsafe impl Sync for Map {}

/// A range that does not lie in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl Map {
    /// Maps `bytes` bytes of a file whose size is sealed.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn shared(file: impl AsFd, bytes: usize, writable: bool) -> io::Result<Map> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping at an address that the kernel picks overlaps with nothing.
        let start = unsafe { mmap(null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Map { start, bytes, writable, private: false })
    }

    /// Zeroed memory of this process alone.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for no bytes.
    pub fn private(bytes: usize) -> io::Result<Map> {
        let words: Box<[u128]> = vec![0; bytes.div_ceil(16)].into();
        let start = NonNull::new(Box::into_raw(words).cast::<u8>()).filter(|_| bytes > 0).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Map { start, bytes, writable: true, private: true })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins in this process.
    pub fn address(&self) -> usize {
        self.start.addr().get()
    }

    fn at(&self, offset: usize, length: usize) -> Result<NonNull<u8>, OutOfRange> {
        match offset.checked_add(length) {
            // SAFETY: the offset lies in the mapping or at its end.
            Some(end) if end <= self.bytes => Ok(unsafe { self.start.add(offset) }),
            _ => Err(OutOfRange),
        }
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`OutOfRange`], also if the mapping is read-only.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(offset, bytes.len())?;
        if !self.writable {
            return Err(OutOfRange);
        }
        // SAFETY: the range was checked; `bytes` is ordinary memory, or an input view in another mapping, or lies apart: a slot is filled before it is read.
        unsafe { to.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies from `offset` until `into` is full.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(offset, into.len())?;
        // SAFETY: the range was checked, and no reference to the mapping exists that `into` could be. What another process writes meanwhile may be read
        // half; nobody relies on these bytes before they are checked in the copy.
        unsafe { from.as_ptr().copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies a range to the end of a vector.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn append_to(&self, offset: usize, length: usize, into: &mut Vec<u8>) -> Result<(), OutOfRange> {
        let from = self.at(offset, length)?;
        into.reserve(length);
        // SAFETY: the source was checked, room was reserved, and what is then counted was written. As to other writers see `read`.
        unsafe {
            from.as_ptr().copy_to_nonoverlapping(into.as_mut_ptr().add(into.len()), length);
            into.set_len(into.len() + length);
        }
        Ok(())
    }

    /// Copies a range into a buffer of this process, aligned as Arrow likes it.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn copy(&self, offset: usize, length: usize) -> Result<Buffer, OutOfRange> {
        let from = self.at(offset, length)?;
        let mut buffer = MutableBuffer::with_capacity(length);
        // SAFETY: the source was checked, the buffer has the capacity, and what is then counted was written. As to other writers see `read`.
        unsafe {
            from.as_ptr().copy_to_nonoverlapping(buffer.as_mut_ptr(), length);
            buffer.set_len(length);
        }
        Ok(buffer.into())
    }

    /// A range in place, for as long as `owner` lives. Only for whoever trusts all that can write to it: a change under a validated array is undefined
    /// behaviour. `owner` must keep this mapping, and the range from being used again.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn view<T: RefUnwindSafe + Send + Sync + 'static>(
        &self,
        offset: usize,
        length: usize,
        owner: Arc<T>,
    ) -> Result<Buffer, OutOfRange> {
        let start = self.at(offset, length)?;
        // SAFETY: the range was checked and stays mapped while `owner` lives, by the contract above.
        Ok(unsafe { Buffer::from_custom_allocation(start, length, owner) })
    }

    /// A range to build in. Only for the owner of an arena, and a range of a slot that is handed out once, before anybody is told of the slot. `owner` must keep this
    /// mapping, and the range from being used again. Others may read it; that they cannot write is what the arena's seals are for (a sidecar that makes an arena for its
    /// host is trusted not to have mapped it before it was sealed).
    ///
    /// # Errors
    /// [`OutOfRange`], also if the mapping is read-only.
    pub fn exclusive<T: RefUnwindSafe + Send + Sync + 'static>(
        &self,
        offset: usize,
        length: usize,
        owner: Arc<T>,
    ) -> Result<Exclusive, OutOfRange> {
        let start = self.at(offset, length)?;
        if self.writable { Ok(Exclusive { start, length, owner }) } else { Err(OutOfRange) }
    }

    /// The counter at `offset`.
    ///
    /// # Errors
    /// [`OutOfRange`], also if it is not aligned.
    pub fn counter(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
        let at = self.at(offset, size_of::<AtomicU64>())?.cast::<AtomicU64>();
        if !at.is_aligned() {
            return Err(OutOfRange);
        }
        // SAFETY: in the mapping and aligned; every process reaches it by atomics only, and any value is one.
        Ok(unsafe { at.as_ref() })
    }
}

/// A range that only its holder reads and writes, until it is frozen: see [`Map::exclusive`].
pub struct Exclusive {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the memory.
    owner: Arc<dyn Allocation>,
}

// SAFETY: as a box of bytes would be: it alone refers to its range.
unsafe impl Send for Exclusive {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Exclusive {}

impl Exclusive {
    /// The values in the range; none if it is not aligned for them.
    pub fn values<T: ArrowNativeType>(&self) -> &[T] {
        // SAFETY: the range is mapped while `owner` lives, nobody else writes to it, and mapped memory is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) };
        // SAFETY: Arrow's native types are plain numbers, for which every pattern of bits is a value.
        let (before, values, _) = unsafe { bytes.align_to::<T>() };
        if before.is_empty() { values } else { &[] }
    }

    /// The values in the range, to be written; none if it is not aligned for them.
    pub fn values_mut<T: ArrowNativeType>(&mut self) -> &mut [T] {
        // SAFETY: as in `values`; this is the only reference, because `self` is borrowed mutably and no other range overlaps.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) };
        // SAFETY: as in `values`.
        let (before, values, _) = unsafe { bytes.align_to_mut::<T>() };
        if before.is_empty() { values } else { &mut [] }
    }

    /// No more writing: the range as a buffer, which keeps the memory.
    pub fn freeze(self) -> Buffer {
        // SAFETY: the range stays mapped while `owner` lives, and nobody writes to it any more.
        unsafe { Buffer::from_custom_allocation(self.start, self.length, self.owner) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.private {
            let words = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr().cast::<u128>(), self.bytes.div_ceil(16));
            // SAFETY: made by `private` as a box of this many words.
            drop(unsafe { Box::from_raw(words) });
            return;
        }
        // SAFETY: nothing refers to the mapping any more. It cannot fail for a range that was mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
