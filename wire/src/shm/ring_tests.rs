use super::{
    map::{Map, atomic::Ordering},
    ring::*,
};
use proptest::prelude::*;
use std::{collections::VecDeque, hint, sync::Arc, thread};

const CAPACITY: usize = 64;

fn ring(capacity: usize) -> (Arc<Map>, Producer, Consumer) {
    let map = Arc::new(Map::private(ring_bytes(capacity)).unwrap());
    (map.clone(), Producer::new(map.clone(), 0, capacity).unwrap(), Consumer::new(map, 0, capacity).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 500 }))]

    /// Against a queue of bytes.
    #[test]
    fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((any::<bool>(), 0..100usize), 1..200)) {
        let (_, mut producer, mut consumer) = ring(CAPACITY);
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0u8;
        for (writes, count) in steps {
            if writes {
                let bytes: Vec<u8> = (0..count).map(|at| next.wrapping_add(at as u8)).collect();
                let written = producer.write(&bytes).unwrap();
                producer.publish().unwrap();
                prop_assert_eq!(written, count.min(CAPACITY - model.len()));
                model.extend(&bytes[..written]);
                next = next.wrapping_add(written as u8);
            } else {
                let mut out = Vec::new();
                let read = consumer.read(count, &mut out).unwrap();
                consumer.publish().unwrap();
                prop_assert_eq!(read, out.len());
                prop_assert!(read <= count && model.drain(..read).eq(out));
            }
        }
    }

    /// Any position that a hostile peer writes is refused or harmless.
    #[test]
    fn garbage_in_the_counters_is_refused(written in any::<u64>(), read in any::<u64>()) {
        let (map, mut producer, mut consumer) = ring(CAPACITY);
        map.counter(WRITTEN).unwrap().store(written, Ordering::Relaxed);
        map.counter(READ).unwrap().store(read, Ordering::Relaxed);
        let mut out = Vec::new();
        match consumer.read(usize::MAX, &mut out) {
            Ok(count) => prop_assert!(count as u64 == written && count <= CAPACITY),
            Err(Broken) => prop_assert!(written > CAPACITY as u64),
        }
        match producer.write(&[1; 2 * CAPACITY]) {
            Ok(count) => prop_assert!(read == 0 && count == CAPACITY),
            Err(Broken) => prop_assert!(read > 0),
        }
    }
}

#[test]
fn a_ring_must_fit_its_memory() {
    let map = Arc::new(Map::private(ring_bytes(64)).unwrap());
    assert!(Producer::new(map.clone(), 0, 128).is_none());
    assert!(Producer::new(map.clone(), 0, 63).is_none());
    assert!(Producer::new(map.clone(), 128, 64).is_none());
    assert!(Consumer::new(map, usize::MAX - 127, 64).is_none());
}

/// Both sides sleep for real whenever they may: a lost wake-up would hang. Parking stands for the eventfd.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const BYTES: usize = if cfg!(miri) { 300 } else { 200_000 };
    let (_, mut producer, mut consumer) = ring(CAPACITY);
    let main = thread::current();
    let (send, receive) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let producer_thread = main;
        let mut out = Vec::new();
        send.send(()).unwrap();
        while out.len() < BYTES {
            if consumer.read(1 + out.len() % 50, &mut out).unwrap() > 0 {
                if consumer.publish().unwrap() {
                    producer_thread.unpark();
                }
            } else if consumer.doze().unwrap() {
                thread::park();
                consumer.wake().unwrap();
            }
        }
        out
    });
    receive.recv().unwrap();
    let mut written = 0;
    while written < BYTES {
        let bytes: Vec<u8> = (written..BYTES.min(written + 40)).map(|at| at as u8).collect();
        match producer.write(&bytes).unwrap() {
            0 => {
                if producer.doze().unwrap() {
                    thread::park();
                }
            }
            count => written += count,
        }
        if producer.publish().unwrap() {
            reader.thread().unpark();
        }
        hint::spin_loop();
    }
    let out = reader.join().unwrap();
    assert!(out.iter().enumerate().all(|(at, &byte)| byte == at as u8));
}
