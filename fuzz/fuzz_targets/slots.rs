//! Any order of allocation, release and wild references: the owner's and the borrower's books stay consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_wire::shm::slots::{Borrowed, FreeList, Place};

const BYTES: u64 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let (mut owner, mut borrower) = (FreeList::new(BYTES), Borrowed::new(BYTES));
    let mut live: Vec<Place> = Vec::new();
    for step in data.chunks_exact(4) {
        let number = u64::from(u16::from_le_bytes([step[1], step[2]]));
        match step[0] % 3 {
            0 => {
                if let Some(place) = owner.allocate(number) {
                    let end = place.offset + place.length;
                    assert!(end <= BYTES);
                    assert!(live.iter().all(|other| end <= other.offset || other.offset + other.length <= place.offset));
                    assert!(borrower.borrow(place));
                    live.push(place);
                }
            }
            1 if !live.is_empty() => {
                let place = live.swap_remove(number as usize % live.len());
                assert!(owner.release(place) && !owner.release(place));
                borrower.give_back(place);
                assert!(!borrower.borrow(place));
            }
            _ => {
                let wild = Place { offset: number * 64, length: u64::from(step[3]) << 8, generation: u64::MAX };
                if borrower.borrow(wild) {
                    assert!(wild.offset + wild.length <= BYTES);
                    borrower.give_back(wild);
                }
                assert!(!owner.release(wild));
            }
        }
        assert_eq!((owner.live(), borrower.live()), (live.len(), live.len()));
    }
});
