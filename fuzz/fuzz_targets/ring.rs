//! Any bytes in the counters and the data of a ring: messages within the limit or an error, and never a read outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_wire::shm::{
    map::Map,
    ring::{Consumer, Producer, ring_bytes},
};
use std::sync::Arc;

const CAPACITY: usize = 256;

fuzz_target!(|data: &[u8]| {
    let map = Arc::new(Map::private(ring_bytes(CAPACITY)).expect("memory"));
    let mut producer = Producer::new(map.clone(), 0, CAPACITY).expect("a ring");
    let mut consumer = Consumer::new(map.clone(), 0, CAPACITY).expect("a ring");
    let mut out = Vec::new();
    for step in data.chunks(12) {
        match step {
            [0, low, high, bytes @ ..] => {
                let at = (usize::from(*low) | usize::from(*high) << 8) % ring_bytes(CAPACITY);
                let _ = map.write(at, &bytes[..bytes.len().min(ring_bytes(CAPACITY) - at)]);
            }
            [1, most, ..] => {
                let before = out.len();
                if consumer.look().is_ok_and(|unread| unread <= CAPACITY) {
                    let read = consumer.read(usize::from(*most), &mut out).unwrap_or_default();
                    assert!(read <= CAPACITY && out.len() == before + read);
                    let _ = consumer.publish();
                }
                out.clear();
            }
            [_, bytes @ ..] => {
                assert!(producer.write(bytes).map_or(0, |written| written) <= bytes.len());
                let _ = producer.publish();
            }
            [] => {}
        }
    }
});
