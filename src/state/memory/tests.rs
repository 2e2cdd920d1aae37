use super::*;
use crate::state::conformance::{self, Subject, address, cells, commit, value, writes};
use crate::state::{BROADCAST_GROUP, Op};

#[test]
fn conforms() {
    conformance::run(
        &|cells| Subject {
            backend: Arc::new(Memory::new(cells, conformance::GROUPS, None).unwrap()),
            settle: Box::new(|_| {}),
            snapshots: true,
        },
        300,
    );
}

#[test]
fn a_full_store_refuses_and_goes_on() {
    let store = Memory::new(cells(), 2, Some(100_000)).unwrap();
    let large = vec![1u8; 30_000];
    let put = |seq, key: &str| {
        let rows = writes(0, &[(0, Op::Put, None, Some(&large))]);
        conformance::now(store.apply(commit(seq, &[address(0, key)], vec![rows], 0)))
    };
    let mut seq = 0;
    let error = loop {
        seq += 1;
        if let Err(error) = put(seq, &format!("k{seq}")) {
            break error;
        }
    };
    assert_eq!((error.code(), error.is_retryable()), (Code::StateFull, true));
    assert_eq!(value(&store, 0, &address(0, &format!("k{seq}")), 0), None);
    let clear = writes(0, &[(0, Op::Clear, None, None)]);
    conformance::now(store.apply(commit(seq, &[address(0, "k1")], vec![clear], 0))).unwrap();
    put(seq + 1, "again").unwrap();
}

#[test]
fn commits_clean_up_what_nobody_asks_for() {
    let store = Memory::new(cells(), 2, None).unwrap();
    for i in 0..100u64 {
        let rows = writes(1, &[(0, Op::Put, None, Some(b"x"))]);
        conformance::now(store.apply(commit(i, &[address(u16::from(i % 2 == 0), &i.to_string())], vec![rows], 0))).unwrap();
    }
    assert_eq!(store.sizes().entries, 100);
    for i in 0..3 {
        conformance::now(store.apply(commit(100 + i, &[], vec![], 1000))).unwrap();
    }
    assert_eq!((store.sizes().entries, store.sizes().expired), (0, 100));
}

#[test]
fn the_max_parallelism_has_bounds() {
    for wrong in [0, BROADCAST_GROUP] {
        assert_eq!(Memory::new(cells(), wrong, None).unwrap_err().code(), Code::OptionsInvalid);
    }
}
