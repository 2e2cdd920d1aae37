use super::*;
use crate::proto;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};
use std::{collections::VecDeque, thread};

const NONCE: [u8; NONCE_BYTES] = *b"0123456789abcdef";

fn pair(capacity: usize) -> (Endpoint, Endpoint) {
    let (one, offer) = Endpoint::offer(capacity, &NONCE, 1 << 20).unwrap();
    let (other, nonce) = Endpoint::join(offer, 1 << 20).unwrap();
    assert_eq!(nonce, NONCE);
    (one, other)
}

fn message(length: usize) -> proto::StatePage {
    proto::StatePage { key: (0..length).map(|at| at as u8).collect(), ..Default::default() }
}

fn decode(bytes: Bytes) -> usize {
    let decoded = proto::StatePage::decode(bytes).unwrap();
    assert!(decoded.key.iter().enumerate().all(|(at, &byte)| byte == at as u8));
    decoded.key.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Messages of any size, larger than the ring too, whatever the order of sending, flushing and receiving.
    #[test]
    fn messages_arrive_whole_and_in_order(steps in prop::collection::vec((0..3u8, 0..3000usize), 1..60)) {
        let (mut one, mut other) = pair(1024);
        let mut sent = VecDeque::new();
        let take = |other: &mut Endpoint, sent: &mut VecDeque<usize>| {
            if let Some(bytes) = other.receive().unwrap() {
                assert_eq!(sent.pop_front(), Some(decode(bytes)));
            }
        };
        for (step, length) in steps {
            match step {
                0 => {
                    one.send(&message(length)).unwrap();
                    sent.push_back(length);
                }
                1 => take(&mut other, &mut sent),
                _ => drop(one.flush().unwrap()),
            }
        }
        while !sent.is_empty() {
            one.flush().unwrap();
            take(&mut other, &mut sent);
        }
        prop_assert!(one.flush().unwrap() && other.receive().unwrap().is_none());
    }

    /// Whatever bytes a peer puts into the rings and their counters.
    #[test]
    fn garbage_is_refused_or_waited_for(garbage in prop::collection::vec((0..3000usize, any::<[u8; 8]>()), 0..20), looks in 1..5usize) {
        let (one, mut other) = pair(1024);
        one.map.write(FIRST_RING, &2000u64.to_ne_bytes().map(|byte| byte & 0x7f)).unwrap();
        for (offset, bytes) in garbage {
            one.map.write(FIRST_RING + offset.min(2 * ring_bytes(1024) - 8), &bytes).unwrap();
        }
        for _ in 0..looks {
            match other.receive() {
                Ok(Some(bytes)) => prop_assert!(bytes.len() <= 1 << 20),
                Ok(None) => {}
                Err(Broken) => break,
            }
            let _ = other.send(&message(100));
            let _ = other.doze();
        }
    }
}

#[test]
fn a_length_above_the_limit_is_refused_before_anything_is_allocated() {
    let (mut one, mut other) = pair(1024);
    one.write(&u32::MAX.to_le_bytes()).unwrap();
    assert_eq!(other.receive(), Err(Broken));
}

#[test]
fn an_offer_of_the_wrong_size_is_refused() {
    let (_, offer) = Endpoint::offer(1024, &NONCE, 1).unwrap();
    assert!(Endpoint::join(Offer { capacity: 4096, ..offer }, 1).is_err());
    let (_, offer) = Endpoint::offer(1024, &NONCE, 1).unwrap();
    assert!(Endpoint::join(Offer { capacity: usize::MAX, ..offer }, 1).is_err());
}

/// Both ends sleep at their bells whenever they may; a lost wake-up is a hang.
#[test]
fn ends_that_sleep_are_woken() {
    const ROUNDS: usize = 2000;
    let (mut one, mut other) = pair(1024);
    fn next(end: &mut Endpoint) -> Bytes {
        loop {
            end.flush().unwrap();
            if let Some(bytes) = end.receive().unwrap() {
                return bytes;
            }
            quiet(&end.ours);
            if end.doze().unwrap() {
                poll(&mut [PollFd::new(&end.ours, PollFlags::IN)], None).unwrap();
            }
            end.wake().unwrap();
        }
    }
    let echo = thread::spawn(move || {
        for _ in 0..ROUNDS {
            let bytes = next(&mut other);
            other.send(&proto::StatePage::decode(bytes).unwrap()).unwrap();
        }
        while !other.flush().unwrap() {
            thread::yield_now();
        }
    });
    let mut sent = VecDeque::new();
    for round in 0..ROUNDS {
        let length = if round % 100 == 99 { 5000 } else { round % 300 };
        one.send(&message(length)).unwrap();
        sent.push_back(length);
        if round % 3 == 0 {
            assert_eq!(sent.pop_front(), Some(decode(next(&mut one))));
        }
    }
    while let Some(length) = sent.pop_front() {
        assert_eq!(length, decode(next(&mut one)));
    }
    echo.join().unwrap();
}
