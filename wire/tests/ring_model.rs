//! The rings' protocol in a model of memory (loom): whatever order the memory model allows, no byte is seen before it was written, and no wake-up is lost.
//!
//! It is the code itself that runs, over other memory and other atomics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

/// Memory that loom watches, with the layout of the real one: four counters, then bytes.
mod map {
    use loom::sync::atomic::AtomicU8;

    pub mod atomic {
        pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
    }
    use atomic::{AtomicU64, Ordering};

    const LINE: usize = 128;
    const DATA: usize = 4 * LINE;

    #[derive(Debug)]
    pub struct OutOfRange;

    pub struct Map {
        counters: [AtomicU64; 4],
        data: Vec<AtomicU8>,
    }

    impl Map {
        pub fn new(capacity: usize) -> Map {
            Map { counters: std::array::from_fn(|_| AtomicU64::new(0)), data: (0..capacity).map(|_| AtomicU8::new(0)).collect() }
        }

        pub fn bytes(&self) -> usize {
            DATA + self.data.len()
        }

        pub fn counter(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
            self.counters.get(offset / LINE).ok_or(OutOfRange)
        }

        /// Nothing orders the bytes but the counters.
        pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
            for (at, byte) in bytes.iter().enumerate() {
                self.data[offset - DATA + at].store(*byte, Ordering::Relaxed);
            }
            Ok(())
        }

        pub fn append_to(&self, offset: usize, length: usize, into: &mut Vec<u8>) -> Result<(), OutOfRange> {
            into.extend((0..length).map(|at| self.data[offset - DATA + at].load(Ordering::Relaxed)));
            Ok(())
        }
    }
}

#[allow(dead_code, reason = "the model needs a part")]
#[path = "../src/shm/ring.rs"]
mod ring;

use loom::{
    sync::{Condvar, Mutex},
    thread,
};
use map::Map;
use ring::{Consumer, Producer};
use std::sync::Arc;

/// Stands for the eventfd of an end: a ring counts until it is heard.
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn new() -> loom::sync::Arc<Bell> {
        loom::sync::Arc::new(Bell(Mutex::new(false), Condvar::new()))
    }

    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Both ends sleep whenever they may; a lost wake-up is a deadlock, which loom reports.
#[test]
fn bytes_arrive_and_no_wake_up_is_lost() {
    const SENT: [u8; 3] = [1, 2, 3];
    let mut model = loom::model::Builder::new();
    // Five preemptions take a second; each more takes ten times as long.
    model.preemption_bound = Some(5);
    model.check(|| {
        let capacity = 2;
        let map = Arc::new(Map::new(capacity));
        let mut producer = Producer::new(map.clone(), 0, capacity).unwrap();
        let mut consumer = Consumer::new(map, 0, capacity).unwrap();
        let (reader_bell, writer_bell) = (Bell::new(), Bell::new());
        let (heard, rung) = (reader_bell.clone(), writer_bell.clone());
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            while got.len() < SENT.len() {
                if consumer.read(SENT.len(), &mut got).unwrap() > 0 {
                    if consumer.publish().unwrap() {
                        rung.ring();
                    }
                } else if consumer.doze().unwrap() {
                    heard.wait();
                    consumer.wake().unwrap();
                }
            }
            got
        });
        let mut written = 0;
        while written < SENT.len() {
            match producer.write(&SENT[written..]).unwrap() {
                0 => {
                    if producer.doze().unwrap() {
                        writer_bell.wait();
                    }
                }
                count => {
                    written += count;
                    if producer.publish().unwrap() {
                        reader_bell.ring();
                    }
                }
            }
        }
        assert_eq!(reader.join().unwrap(), SENT);
    });
}
