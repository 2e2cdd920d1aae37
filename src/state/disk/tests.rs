use super::*;
use crate::state::Op;
use crate::state::conformance::{self, Subject, address, cells, commit, now, value, writes};

fn store(root: &tempfile::TempDir) -> Disk {
    Disk::new(cells(), conformance::GROUPS, &DiskOptions { cache_bytes: 1 << 20, reserve_bytes: 0, ..DiskOptions::new(root.path()) })
        .unwrap()
}

#[test]
fn conforms() {
    let root = tempfile::tempdir().unwrap();
    conformance::run(
        &|cells| {
            let options = DiskOptions { cache_bytes: 1 << 20, reserve_bytes: 0, ..DiskOptions::new(root.path()) };
            Subject {
                backend: Arc::new(Disk::new(cells, conformance::GROUPS, &options).unwrap()),
                settle: Box::new(|_| {}),
                snapshots: true,
            }
        },
        30,
    );
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "stores delete their folders");
}

#[test]
fn a_full_disk_refuses_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root);
    let put =
        |seq, value: &[u8]| now(store.apply(&commit(seq, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(value))])], 0)));
    put(1, b"one").unwrap();
    store.reserve.store(u64::MAX / 2, Ordering::Relaxed);
    let error = put(2, b"two").unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::StateFull, true));
    assert_eq!(value(&store, 0, &address(0, "a"), 0).as_deref(), Some(&b"one"[..]));
    store.reserve.store(0, Ordering::Relaxed);
    put(2, b"two").unwrap();
    assert_eq!(value(&store, 0, &address(0, "a"), 0).as_deref(), Some(&b"two"[..]));
}

#[test]
fn after_a_failed_write_it_goes_on_with_what_was_whole() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root);
    now(store.apply(&commit(1, &[address(0, "a")], vec![writes(0, &[(0, Op::Put, None, Some(b"one"))])], 0))).unwrap();
    let error = store.recover(&fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
    assert_eq!(error.code(), Code::StateFull);
    assert_eq!(value(&store, 0, &address(0, "a"), 0).as_deref(), Some(&b"one"[..]));
    now(store.apply(&commit(2, &[address(0, "b")], vec![writes(0, &[(0, Op::Put, None, Some(b"two"))])], 0))).unwrap();
}

#[test]
fn values_beyond_the_cache_are_read_from_disk() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root);
    let large = vec![3u8; 10_000];
    for i in 0..500u64 {
        now(store.apply(&commit(i, &[address(0, &i.to_string())], vec![writes(0, &[(0, Op::Put, None, Some(&large))])], 0))).unwrap();
    }
    assert!((0..500).all(|i| value(&store, 0, &address(0, &i.to_string()), 0).as_deref() == Some(&large[..])));
    let sizes = store.sizes();
    assert!(sizes.cache_misses > 100 && sizes.entries >= 500 && sizes.disk_bytes > 0, "{sizes:?}");
}

#[test]
fn a_closed_store_says_so() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root);
    store.close().unwrap();
    let error = now(store.apply(&commit(1, &[address(0, "a")], vec![], 0))).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::StateFailed, "the store of state on disk is closed"));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
