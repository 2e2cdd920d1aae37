use super::*;
use crate::state::conformance::{self, Row, Subject, address, addresses, cells, commit, value, writes};
use crate::state::{BROADCAST_GROUP, Commit, Get, Op, Prefetch};
use proptest::prelude::*;

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
        conformance::now(store.apply(&commit(seq, &[address(0, key)], vec![rows], 0)))
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
    conformance::now(store.apply(&commit(seq, &[address(0, "k1")], vec![clear], 0))).unwrap();
    put(seq + 1, "again").unwrap();
    // Neither does more come in by a checkpoint.
    let view = store.view(&[0], 0).unwrap();
    let load = |into: &Memory| view.read(0, Some(0), &mut |rows| into.load(rows));
    load(&Memory::new(cells(), 2, Some(100_000)).unwrap()).unwrap();
    assert_eq!(load(&Memory::new(cells(), 2, Some(50_000)).unwrap()).unwrap_err().code(), Code::StateFull);
}

#[test]
fn commits_clean_up_what_nobody_asks_for() {
    let store = Memory::new(cells(), 2, None).unwrap();
    for i in 0..100u64 {
        let rows = writes(1, &[(0, Op::Put, None, Some(b"x"))]);
        conformance::now(store.apply(&commit(i, &[address(u16::from(i % 2 == 0), &i.to_string())], vec![rows], 0))).unwrap();
    }
    assert_eq!(store.sizes().entries, 100);
    for i in 0..3 {
        conformance::now(store.apply(&commit(100 + i, &[], vec![], 1000))).unwrap();
    }
    assert_eq!((store.sizes().entries, store.sizes().expired), (0, 100));
}

#[test]
fn the_max_parallelism_has_bounds() {
    for wrong in [0, BROADCAST_GROUP] {
        assert_eq!(Memory::new(cells(), wrong, None).unwrap_err().code(), Code::OptionsInvalid);
    }
}

proptest! {
    /// What a multi-get has found is used by the commit of the same addresses, and not when rows have moved since.
    #[test]
    fn a_commit_finds_its_rows_whatever_came_after_its_get(
        bundles in prop::collection::vec((prop::collection::btree_map(0u8..12, (0u16..2, any::<bool>()), 1..8), any::<bool>()), 1..40)
    ) {
        let (store, plain) = (Memory::new(cells(), 2, None).unwrap(), Memory::new(cells(), 2, None).unwrap());
        let at = |key: &u8| address(u16::from(key % 2), &key.to_string());
        let read = |bundle: &std::collections::BTreeMap<u8, (u16, bool)>| {
            let addresses = addresses(&bundle.keys().map(at).collect::<Vec<_>>());
            let get = Get { cells: vec![0, 6], addresses: Arc::clone(&addresses), now_ms: 0, prefetch: Prefetch::default() };
            conformance::now(store.get(&get)).unwrap();
            addresses
        };
        // A bundle is read before the one before it is applied, or after.
        let mut early = None;
        for (n, (bundle, ahead)) in bundles.iter().enumerate() {
            let addresses = early.take().unwrap_or_else(|| read(bundle));
            early = bundles.get(n + 1).filter(|_| *ahead).map(|(next, _)| read(next));
            let text = n.to_string();
            let row = |(place, (_, put)): (u32, &(u16, bool))| -> Row<'_> {
                if *put { (place, Op::Put, None, Some(text.as_bytes())) } else { (place, Op::Clear, None, None) }
            };
            let of = |cell: u16| (0..).zip(bundle.values()).filter(|(_, (of, _))| *of == cell).map(row).collect::<Vec<_>>();
            let changes = vec![writes(0, &of(0)), writes(6, &of(1))];
            let commit = Commit { addresses, ..commit(n as u64, &[], changes.clone(), 0) };
            conformance::now(store.apply(&commit)).unwrap();
            let apart = Arc::new((*commit.addresses).clone());
            conformance::now(plain.apply(&Commit { addresses: apart, ..commit })).unwrap();
            for key in 0..12 {
                for cell in [0, 6] {
                    prop_assert_eq!(value(&store, cell, &at(&key), 0), value(&plain, cell, &at(&key), 0));
                }
            }
        }
        prop_assert_eq!(store.sizes().entries, plain.sizes().entries);
    }
}
