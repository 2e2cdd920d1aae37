//! Rings: byte streams of one producer and one consumer in shared memory, for messages that are too small for a slot.
//!
//! Each side keeps its own position in private memory, and checks the other's before it uses it: whatever the other process writes, nothing is read
//! or written outside of the ring. Positions only grow; a position's place is its remainder by the capacity.
//!
//! Sleeping follows one rule on both sides (Dekker's): say that you sleep, then look once more; make your change, then look whether the other sleeps.
//! Whichever of the two comes second sees the other, so that no wake-up is lost.

// Memory and atomics come from one place, so that a model of both can stand in for them (`tests/ring_model.rs`).
use super::map::{
    Map,
    atomic::{AtomicU64, Ordering, fence},
};
use std::{fmt, sync::Arc};

/// Each counter has a cache line pair of its own, since different cores write them.
const LINE: usize = 128;
pub(super) const WRITTEN: usize = 0;
pub(super) const READ: usize = LINE;
const CONSUMER_SLEEPS: usize = 2 * LINE;
const PRODUCER_SLEEPS: usize = 3 * LINE;
/// Where the bytes begin.
const DATA: usize = 4 * LINE;

/// Memory that a ring of `capacity` bytes takes.
pub const fn ring_bytes(capacity: usize) -> usize {
    DATA + capacity
}

/// The other side wrote what no correct peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is damaged")
    }
}

impl std::error::Error for Broken {}

/// What both sides know.
#[derive(Clone)]
struct Ring {
    map: Arc<Map>,
    base: usize,
    capacity: u64,
}

impl Ring {
    /// The ring of `capacity` bytes, a power of two, at `base`; `None` if it does not fit there.
    fn new(map: Arc<Map>, base: usize, capacity: usize) -> Option<Ring> {
        let end = base.checked_add(ring_bytes(capacity))?;
        let fits = capacity.is_power_of_two() && base.is_multiple_of(LINE) && end <= map.bytes();
        fits.then_some(Ring { map, base, capacity: capacity as u64 })
    }

    fn counter(&self, which: usize) -> Result<&AtomicU64, Broken> {
        self.map.counter(self.base + which).map_err(|_| Broken)
    }

    /// Where a position lies, and how many bytes follow it before the ring begins anew.
    fn locate(&self, position: u64) -> (usize, usize) {
        let at = position & (self.capacity - 1);
        (self.base + DATA + at as usize, (self.capacity - at) as usize)
    }

    /// Whether the other side has to be woken after a change that it may wait for; it is told only once.
    fn must_wake(&self, sleeps: usize) -> Result<bool, Broken> {
        fence(Ordering::SeqCst);
        let sleeps = self.counter(sleeps)?;
        Ok(sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0)
    }

    fn set_sleeping(&self, sleeps: usize, sleeping: bool) -> Result<(), Broken> {
        self.counter(sleeps)?.store(u64::from(sleeping), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// The writing side.
pub struct Producer {
    ring: Ring,
    written: u64,
    /// The consumer's position when it was last looked at.
    read: u64,
}

impl Producer {
    /// The writing side of a ring that was never used.
    pub fn new(map: Arc<Map>, base: usize, capacity: usize) -> Option<Producer> {
        Some(Producer { ring: Ring::new(map, base, capacity)?, written: 0, read: 0 })
    }

    /// Writes as much of `bytes` as there is room for, and gives how much that was. The consumer sees it after [`Producer::publish`].
    ///
    /// # Errors
    /// [`Broken`] if the consumer claims to have read what was not written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut room = self.room()?;
        if room < bytes.len() as u64 {
            self.look()?;
            room = self.room()?;
        }
        let count = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let (at, straight) = self.ring.locate(self.written);
        let (first, rest) = bytes[..count].split_at(count.min(straight));
        self.ring.map.write(at, first).map_err(|_| Broken)?;
        self.ring.map.write(self.ring.base + DATA, rest).map_err(|_| Broken)?;
        self.written += count as u64;
        Ok(count)
    }

    /// Shows the consumer what was written; true if it sleeps and must be woken.
    ///
    /// # Errors
    /// [`Broken`] never, for a ring that could be made.
    pub fn publish(&mut self) -> Result<bool, Broken> {
        self.ring.counter(WRITTEN)?.store(self.written, Ordering::Release);
        self.ring.must_wake(CONSUMER_SLEEPS)
    }

    /// Says that this side waits for room; false if there is room by now.
    ///
    /// # Errors
    /// As [`Producer::write`].
    pub fn doze(&mut self) -> Result<bool, Broken> {
        self.ring.set_sleeping(PRODUCER_SLEEPS, true)?;
        self.look()?;
        Ok(self.room()? == 0)
    }

    fn look(&mut self) -> Result<(), Broken> {
        self.read = self.ring.counter(READ)?.load(Ordering::Acquire);
        Ok(())
    }

    fn room(&self) -> Result<u64, Broken> {
        self.written.checked_sub(self.read).and_then(|unread| self.ring.capacity.checked_sub(unread)).ok_or(Broken)
    }
}

/// The reading side.
pub struct Consumer {
    ring: Ring,
    read: u64,
    /// The producer's position when it was last looked at.
    written: u64,
}

impl Consumer {
    /// The reading side of a ring that was never used.
    pub fn new(map: Arc<Map>, base: usize, capacity: usize) -> Option<Consumer> {
        Some(Consumer { ring: Ring::new(map, base, capacity)?, read: 0, written: 0 })
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    /// [`Broken`] if the producer claims to have written more than the ring holds.
    pub fn available(&mut self) -> Result<usize, Broken> {
        if self.written == self.read {
            self.written = self.ring.counter(WRITTEN)?.load(Ordering::Acquire);
        }
        self.unread()
    }

    /// As [`Consumer::available`], and looks even if something was there before.
    ///
    /// # Errors
    /// As [`Consumer::available`].
    pub fn look(&mut self) -> Result<usize, Broken> {
        self.written = self.ring.counter(WRITTEN)?.load(Ordering::Acquire);
        self.unread()
    }

    fn unread(&self) -> Result<usize, Broken> {
        let unread = self.written.checked_sub(self.read).filter(|&unread| unread <= self.ring.capacity).ok_or(Broken)?;
        usize::try_from(unread).map_err(|_| Broken)
    }

    /// Moves up to `most` bytes to the end of a vector; the producer may use their room again after [`Consumer::publish`]. Gives how many there were.
    ///
    /// # Errors
    /// As [`Consumer::available`].
    pub fn read(&mut self, most: usize, into: &mut Vec<u8>) -> Result<usize, Broken> {
        let count = self.available()?.min(most);
        let (at, straight) = self.ring.locate(self.read);
        let first = count.min(straight);
        self.ring.map.append_to(at, first, into).map_err(|_| Broken)?;
        self.ring.map.append_to(self.ring.base + DATA, count - first, into).map_err(|_| Broken)?;
        self.read += count as u64;
        Ok(count)
    }

    /// Gives the producer the room of what was read; true if it waits for room and must be woken.
    ///
    /// # Errors
    /// [`Broken`] never, for a ring that could be made.
    pub fn publish(&mut self) -> Result<bool, Broken> {
        self.ring.counter(READ)?.store(self.read, Ordering::Release);
        self.ring.must_wake(PRODUCER_SLEEPS)
    }

    /// Says that this side sleeps; false if there is something to read by now.
    ///
    /// # Errors
    /// As [`Consumer::available`].
    pub fn doze(&mut self) -> Result<bool, Broken> {
        self.ring.set_sleeping(CONSUMER_SLEEPS, true)?;
        Ok(self.look()? == 0)
    }

    /// Takes back what [`Consumer::doze`] said, so that the producer need not wake who does not sleep.
    ///
    /// # Errors
    /// [`Broken`] never, for a ring that could be made.
    pub fn wake(&self) -> Result<(), Broken> {
        self.ring.counter(CONSUMER_SLEEPS)?.store(0, Ordering::Relaxed);
        Ok(())
    }
}
