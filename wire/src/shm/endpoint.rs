//! One end of a pair of rings: whole messages in both directions, and the doorbells behind them.
//!
//! A message is its length in four bytes and then itself, encoded. Messages may be larger than a ring; they cross in pieces. Sending never waits: what finds no room
//! is kept and written by [`Endpoint::flush`]. An end that sleeps waits for its eventfd, which the other end rings only if it was told of the sleep.

use super::{
    map::Map,
    memory_file::{check_sealed, memory_file},
    ring::{Broken, Consumer, Producer, ring_bytes},
};
use bytes::Bytes;
use prost::Message;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    hint, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes of the nonce by which an end proves that it sees the same memory.
pub const NONCE_BYTES: usize = 16;

/// The page of the nonce; the rings come after it.
const FIRST_RING: usize = 4096;

/// Looks at the ring between two looks at the clock while spinning.
const LOOKS: u32 = 32;

/// What the other process needs to become the other end.
pub struct Offer {
    /// The memory of both rings.
    pub memory: OwnedFd,
    /// Rung for the joining end.
    pub their_bell: OwnedFd,
    /// Rung for the offering end.
    pub our_bell: OwnedFd,
    /// Of each ring, in bytes.
    pub capacity: usize,
}

/// One end.
pub struct Endpoint {
    map: Arc<Map>,
    producer: Producer,
    consumer: Consumer,
    /// What found no room yet, from `flushed` on.
    pending: Vec<u8>,
    flushed: usize,
    /// Room for encoding.
    scratch: Vec<u8>,
    /// The message that is being put together, and its length once that is known.
    partial: Vec<u8>,
    wanted: Option<usize>,
    most: usize,
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Endpoint {
    /// A new pair of rings of `capacity` bytes each, a power of two, with a nonce to read; this end of it, and what the other needs. Messages above
    /// `most` bytes are refused.
    ///
    /// # Errors
    /// Without memory or descriptors.
    pub fn offer(capacity: usize, nonce: &[u8; NONCE_BYTES], most: usize) -> io::Result<(Endpoint, Offer)> {
        let bytes = FIRST_RING + 2 * ring_bytes(capacity);
        let memory = memory_file("pillion-ring", bytes as u64)?;
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (ours, theirs) = (bell()?, bell()?);
        let offer = Offer { memory: memory.try_clone()?, their_bell: theirs.try_clone()?, our_bell: ours.try_clone()?, capacity };
        let map = Arc::new(Map::shared(&memory, bytes, true)?);
        map.write(0, nonce).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok((Self::over(map, capacity, true, most, ours, theirs)?, offer))
    }

    /// The other end of an offer, and the nonce in its memory.
    ///
    /// # Errors
    /// If the memory is not what was said.
    pub fn join(offer: Offer, most: usize) -> io::Result<(Endpoint, [u8; NONCE_BYTES])> {
        let Offer { memory, their_bell, our_bell, capacity } = offer;
        let bytes = capacity.checked_mul(2).map_or(usize::MAX, |both| both.saturating_add(FIRST_RING + 2 * ring_bytes(0)));
        check_sealed(&memory, bytes as u64)?;
        let map = Arc::new(Map::shared(&memory, bytes, true)?);
        let mut nonce = [0; NONCE_BYTES];
        map.read(0, &mut nonce).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok((Self::over(map, capacity, false, most, their_bell, our_bell)?, nonce))
    }

    fn over(map: Arc<Map>, capacity: usize, offering: bool, most: usize, ours: OwnedFd, theirs: OwnedFd) -> io::Result<Endpoint> {
        let second = FIRST_RING + ring_bytes(capacity);
        let (out, inbound) = if offering { (FIRST_RING, second) } else { (second, FIRST_RING) };
        let producer = Producer::new(map.clone(), out, capacity).ok_or(io::ErrorKind::InvalidInput)?;
        let consumer = Consumer::new(map.clone(), inbound, capacity).ok_or(io::ErrorKind::InvalidInput)?;
        let (pending, scratch, partial) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Endpoint { map, producer, consumer, pending, flushed: 0, scratch, partial, wanted: None, most, ours, theirs })
    }

    /// Where the rings lie in this process.
    pub fn address(&self) -> usize {
        self.map.address()
    }

    /// Sends a message, or keeps what finds no room.
    ///
    /// # Errors
    /// [`Broken`] if the other end damaged the ring.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Broken> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&u32::try_from(message.encoded_len()).map_err(|_| Broken)?.to_le_bytes());
        // A vector grows as needed.
        message.encode(&mut scratch).map_err(|_| Broken)?;
        let sent = self.write(&scratch);
        if scratch.capacity() <= 64 * 1024 {
            self.scratch = scratch;
        }
        sent
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let written = if self.flush()? { self.producer.write(bytes)? } else { 0 };
        self.pending.extend_from_slice(&bytes[written..]);
        self.publish()
    }

    fn publish(&mut self) -> Result<(), Broken> {
        if self.producer.publish()? {
            ring(&self.theirs);
        }
        Ok(())
    }

    /// Writes what was kept, as far as there is room; true if nothing is left.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn flush(&mut self) -> Result<bool, Broken> {
        if self.flushed < self.pending.len() {
            self.flushed += self.producer.write(&self.pending[self.flushed..])?;
            self.publish()?;
        }
        if self.flushed < self.pending.len() {
            return Ok(false);
        }
        if self.flushed > 0 {
            self.flushed = 0;
            // Large only after a large batch went inline.
            self.pending = Vec::new();
        }
        Ok(true)
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    /// As [`Endpoint::send`]; also for a message that is too long.
    pub fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        let wanted = match self.wanted {
            Some(wanted) => wanted,
            None => {
                // The producer makes its writes visible one by one, and a full ring may cut one anywhere.
                if self.consumer.available()? < 4 && self.consumer.look()? < 4 {
                    return Ok(None);
                }
                let mut length = Vec::with_capacity(4);
                self.consumer.read(4, &mut length)?;
                let length = length.try_into().map(u32::from_le_bytes).map_err(|_| Broken)?;
                let wanted = usize::try_from(length).ok().filter(|&wanted| wanted <= self.most).ok_or(Broken)?;
                self.partial = Vec::with_capacity(wanted);
                *self.wanted.insert(wanted)
            }
        };
        while self.partial.len() < wanted {
            self.consumer.look()?;
            if self.consumer.read(wanted - self.partial.len(), &mut self.partial)? == 0 {
                break;
            }
        }
        if self.consumer.publish()? {
            ring(&self.theirs);
        }
        if self.partial.len() < wanted {
            return Ok(None);
        }
        self.wanted = None;
        Ok(Some(std::mem::take(&mut self.partial).into()))
    }

    /// Watches the ring for at most `limit`; true if something came, or `stop` says to stop.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn spin(&mut self, limit: Duration, stop: impl Fn() -> bool) -> Result<bool, Broken> {
        let begun = Instant::now();
        let before = self.consumer.look()?;
        loop {
            for _ in 0..LOOKS {
                if self.consumer.look()? > before {
                    return Ok(true);
                }
                hint::spin_loop();
            }
            if stop() {
                return Ok(true);
            }
            if begun.elapsed() >= limit {
                return Ok(false);
            }
        }
    }

    /// Says that this end sleeps until its bell rings; false if there is something to do by now. Quiet the bell first: what rings afterwards counts.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn doze(&mut self) -> Result<bool, Broken> {
        // What was there was received, but for the first bytes of a length, whose rest is on its way.
        Ok(self.consumer.doze()? && (self.flushed == self.pending.len() || self.producer.doze()?))
    }

    /// Says that this end waits for room only; false if there is some by now.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn must_wait_for_room(&mut self) -> Result<bool, Broken> {
        Ok(self.flushed < self.pending.len() && self.producer.doze()?)
    }

    /// This end is awake again.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn wake(&mut self) -> Result<(), Broken> {
        self.consumer.wake()
    }

    /// What this end waits for when it sleeps.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

/// Rings a bell.
pub fn ring(bell: impl AsFd) {
    // It fails only if it was rung 2^64 times without being heard; then it rings anyway.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// Makes a bell that rang quiet again.
pub fn quiet(bell: impl AsFd) {
    // It fails if it did not ring.
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
