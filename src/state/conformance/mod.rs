//! One suite for all backends: what a session may rely on.

mod model;
mod program;

use super::*;
use crate::{
    error::Code,
    timer::{DueOrder, TimerOp, TimerWrites},
};
use arrow_array::{Array, BinaryArray, StringArray, cast::AsArray};
use futures_util::FutureExt;
use model::Address;
use std::{sync::LazyLock, time::Duration};
use tokio::runtime::Runtime;

/// A store under test.
pub struct Subject {
    pub backend: Arc<dyn StateBackend>,
    /// Makes a host apply what it was sent up to a bundle.
    pub settle: Box<dyn Fn(u64)>,
    /// Whether it can be viewed and loaded.
    pub snapshots: bool,
}

/// Makes empty stores with these cells and a max parallelism of [`GROUPS`].
pub type Make<'a> = &'a dyn Fn(Cells) -> Subject;

pub const GROUPS: u16 = 4;

pub fn cells() -> Cells {
    let ttl = Ttl::new(Duration::from_millis(10));
    let bytes = arrow_schema::DataType::Binary;
    Cells::new(vec![
        Cell::value("value", bytes.clone()),
        Cell::value("value_ttl", bytes.clone()).with_ttl(ttl),
        Cell::list("list", bytes.clone()),
        Cell::list("list_ttl", bytes.clone()).with_ttl(Ttl { update: Update::OnReadAndWrite, ..ttl }),
        Cell::map("map", bytes.clone(), bytes.clone()),
        Cell::map("map_ttl", bytes.clone(), bytes.clone()).with_ttl(Ttl { update: Update::OnReadAndWrite, ..ttl }),
        Cell::value("value_seen", bytes.clone()).with_ttl(Ttl { visibility: Visibility::ReturnExpiredIfNotCleanedUp, ..ttl }),
        Cell { kind: Kind::Broadcast, ..Cell::map("rules", bytes.clone(), bytes) },
    ])
    .unwrap()
}

/// Runs the whole suite, with so many random programs.
pub fn run(make: Make<'_>, programs: u32) {
    commits_are_all_or_nothing(make);
    large_lists_and_maps_are_deferred_and_paged(make);
    timers_fire_in_order(make);
    single_timers_move(make);
    expired_entries_go(make);
    wrong_requests_are_refused(make);
    if make(cells()).snapshots {
        views_do_not_change(make);
    }
    program::run(make, programs);
}

/// Where hosts answer, and time goes on.
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap());

pub fn now<T>(future: impl Future<Output = T>) -> T {
    let _inside = RUNTIME.enter();
    let mut future = std::pin::pin!(future);
    // Most stores answer at once.
    future.as_mut().now_or_never().unwrap_or_else(|| RUNTIME.block_on(future))
}

pub fn addresses(addresses: &[Address]) -> Arc<Addresses> {
    let keys = BinaryArray::from_iter_values(addresses.iter().map(|address| &address.1));
    let namespaces = BinaryArray::from_iter_values(addresses.iter().map(|address| &address.2));
    Arc::new(Addresses::new(addresses.iter().map(|address| address.0).collect(), keys, Some(namespaces)).unwrap())
}

pub fn address(group: u16, key: &str) -> Address {
    (group, key.as_bytes().to_vec(), Vec::new())
}

/// Position, operation, map key, value.
pub type Row<'a> = (u32, Op, Option<&'a [u8]>, Option<&'a [u8]>);

/// Changes of one cell.
pub fn writes(cell: u16, rows: &[Row<'_>]) -> Writes {
    Writes {
        cell,
        at: rows.iter().map(|row| row.0).collect(),
        ops: rows.iter().map(|row| row.1).collect(),
        map_keys: Some(BinaryArray::from_iter(rows.iter().map(|row| row.2))),
        values: BinaryArray::from_iter(rows.iter().map(|row| row.3)),
    }
}

pub fn commit(seq: u64, at: &[Address], writes: Vec<Writes>, now_ms: i64) -> Commit {
    Commit { seq, addresses: addresses(at), writes, timers: TimerWrites::default(), now_ms }
}

pub fn get(backend: &dyn StateBackend, cell: u16, at: &[Address], now_ms: i64) -> Entries {
    let get = Get { cells: vec![cell], addresses: addresses(at), now_ms, prefetch: Prefetch::default() };
    now(backend.get(&get)).unwrap().remove(0)
}

pub fn value(backend: &dyn StateBackend, cell: u16, at: &Address, now_ms: i64) -> Option<Vec<u8>> {
    let Entries::Values(values) = get(backend, cell, std::slice::from_ref(at), now_ms) else { panic!("no values") };
    values.is_valid(0).then(|| values.value(0).to_vec())
}

fn put(value: &[u8]) -> Row<'_> {
    (0, Op::Put, None, Some(value))
}

fn commits_are_all_or_nothing(make: Make<'_>) {
    let subject = make(cells());
    let (here, there) = (address(1, "a"), address(GROUPS - 1, "b"));
    now(subject.backend.apply(&commit(1, std::slice::from_ref(&here), vec![writes(0, &[put(b"one")])], 0))).unwrap();
    let wrong = [
        // A map key for a value, an append to a map, a value for a key group that there is not, a cell that there is not.
        (vec![there.clone()], writes(0, &[(0, Op::Put, Some(b"k"), Some(b"v"))]), Code::StateType),
        (vec![there.clone()], writes(4, &[(0, Op::Append, None, Some(b"v"))]), Code::StateType),
        (vec![address(GROUPS, "c")], writes(0, &[put(b"v")]), Code::InvariantBroken),
        (vec![there.clone()], writes(99, &[put(b"v")]), Code::StateUndeclared),
        (vec![there.clone()], writes(0, &[(7, Op::Clear, None, None)]), Code::InvariantBroken),
    ];
    for (seq, (at, bad, code)) in wrong.into_iter().enumerate() {
        let mut at = at;
        at.push(here.clone());
        let good = writes(0, &[(1, Op::Put, None, Some(b"two"))]);
        let error = now(subject.backend.apply(&commit(2 + seq as u64, &at, vec![good, bad], 0))).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(value(&*subject.backend, 0, &here, 0).as_deref(), Some(&b"one"[..]));
        assert_eq!(value(&*subject.backend, 0, &there, 0), None);
    }
}

fn large_lists_and_maps_are_deferred_and_paged(make: Make<'_>) {
    let subject = make(cells());
    let at = address(0, "a");
    let value = [7u8; 100];
    let keys: Vec<[u8; 2]> = (0..600u16).map(u16::to_be_bytes).collect();
    let elements: Vec<_> = keys.iter().map(|_| (0, Op::Append, None, Some(&value[..]))).collect();
    let entries: Vec<_> = keys.iter().map(|key| (0, Op::Put, Some(&key[..]), Some(&value[..]))).collect();
    now(subject.backend.apply(&commit(1, std::slice::from_ref(&at), vec![writes(2, &elements), writes(4, &entries)], 0))).unwrap();
    let prefetch = Prefetch { entry_bytes: 10_000, total_bytes: 1 << 20 };
    let request = Get { cells: vec![2, 4], addresses: addresses(&[at.clone(), address(0, "b")]), now_ms: 0, prefetch };
    let answer = now(subject.backend.get(&request)).unwrap();
    let (Entries::Lists { lists, deferred }, Entries::Maps { offsets, deferred: of_maps, .. }) = (&answer[0], &answer[1]) else { panic!() };
    assert_eq!((lists.value_length(0), offsets[1], deferred.value(0), of_maps.value(0), of_maps.value(1)), (0, 0, true, true, false));

    for (cell, prefix, expected) in [(2, vec![], 600), (4, vec![], 600), (4, vec![1], 256), (4, vec![9], 0)] {
        let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let request = PageRequest {
                cell,
                group: 0,
                key: at.1.clone(),
                namespace: vec![],
                prefix: prefix.clone(),
                after,
                max_bytes: 5000,
                now_ms: 0,
            };
            let page = now(subject.backend.page(&request)).unwrap();
            assert!(page.keys.len() <= 50 && page.keys.len() == page.values.len());
            seen.extend(page.keys.iter().map(|key| key.unwrap().to_vec()));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(seen.len() == expected && seen.is_sorted() && pages * 50 >= expected, "{} of {expected} in {pages} pages", seen.len());
        assert!(cell == 2 || seen.iter().all(|key| key.starts_with(&prefix)));
    }
    let map_keys = BinaryArray::from_iter_values([&keys[5][..], b"none", &keys[0]]);
    let found = now(subject.backend.lookup(&Lookup {
        cell: 4,
        at: vec![1, 1, 0],
        addresses: addresses(&[address(0, "b"), at]),
        map_keys,
        now_ms: 0,
    }))
    .unwrap();
    assert_eq!((found.is_valid(0), found.is_null(1), found.is_null(2)), (true, true, true));
}

/// Sets timers without a name: position, timestamp.
fn set(at: &[(u32, i64)]) -> TimerWrites {
    let mut timers = TimerWrites::default();
    for &(position, timestamp) in at {
        timers.push(position, Domain::EventTime, TimerOp::Set, timestamp).unwrap();
    }
    timers
}

fn timers_fire_in_order(make: Make<'_>) {
    let subject = make(cells());
    let at = [address(0, "a"), address(3, "b"), address(1, "c")];
    let timers = set(&[(0, 5), (0, 5), (1, 3), (2, -7), (0, 9), (1, 9), (2, i64::MAX)]);
    now(subject.backend.apply(&Commit { timers, ..commit(1, &at, vec![], 0) })).unwrap();
    let groups = vec![0, 1, 2, 3];
    assert_eq!(now(subject.backend.next_timer(Domain::EventTime, &groups)).unwrap(), Some(-7));
    assert_eq!(now(subject.backend.next_timer(Domain::ProcessingTime, &groups)).unwrap(), None);
    let due = |order, limit| {
        let request = DueRequest { domain: Domain::EventTime, groups: groups.clone(), up_to_ms: 9, limit, order };
        let due = now(subject.backend.due(&request)).unwrap();
        let keys: Vec<String> = due.keys.iter().map(|key| String::from_utf8(key.unwrap().to_vec()).unwrap()).collect();
        (keys.join(""), due.timestamps, due.remaining_from)
    };
    assert_eq!(due(DueOrder::PerKey, 100), ("cba".into(), vec![-7, 3, 5], Some(9)));
    assert_eq!(due(DueOrder::Global, 100), ("cba".into(), vec![-7, 3, 5], Some(9)));
    assert_eq!(due(DueOrder::PerKey, 2), ("cb".into(), vec![-7, 3], Some(5)));
    let mut fired = TimerWrites::default();
    for (position, timestamp) in [(2, -7), (1, 3), (0, 5)] {
        fired.push(position, Domain::EventTime, TimerOp::Delete, timestamp).unwrap();
    }
    now(subject.backend.apply(&Commit { timers: fired, ..commit(2, &at, vec![], 0) })).unwrap();
    assert_eq!(due(DueOrder::PerKey, 100), ("ab".into(), vec![9, 9], None));
}

fn single_timers_move(make: Make<'_>) {
    let subject = make(cells());
    let at = [address(2, "a")];
    let names = |names: &[&str]| Some(StringArray::from(names.to_vec()));
    let change = |seq, ops: &[TimerOp], named: &[&str], timestamps: &[i64]| {
        let domains = vec![Domain::ProcessingTime; ops.len()];
        let timers =
            TimerWrites { at: vec![0; ops.len()], domains, ops: ops.to_vec(), names: names(named), timestamps: timestamps.to_vec() };
        now(subject.backend.apply(&Commit { timers, ..commit(seq, &at, vec![], 0) })).unwrap();
        let request =
            DueRequest { domain: Domain::ProcessingTime, groups: vec![2], up_to_ms: i64::MAX, limit: 10, order: DueOrder::Global };
        let due = now(subject.backend.due(&request)).unwrap();
        due.timestamps.into_iter().zip(due.names.iter().map(|name| name.unwrap().to_owned()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    use TimerOp::*;
    assert_eq!(change(1, &[Replace, Replace], &["x", "x"], &[5, 7]), [(7, "x".into())]);
    assert_eq!(change(2, &[Replace, Set, Set], &["x", "y", ""], &[3, 3, 3]), [(3, "".into()), (3, "x".into()), (3, "y".into())]);
    assert_eq!(change(3, &[DeleteName], &["x"], &[0]), [(3, "".into()), (3, "y".into())]);
    assert_eq!(change(4, &[DeleteName, Set], &["", "z"], &[0, 3]), [(3, "y".into()), (3, "z".into())]);
    assert_eq!(change(5, &[DeleteAll], &[""], &[0]), []);
}

fn expired_entries_go(make: Make<'_>) {
    let subject = make(cells());
    let at = address(0, "a");
    let all = |seq, value: &[u8], now_ms| {
        let lists = writes(3, &[(0, Op::Append, None, Some(value))]);
        let maps = writes(5, &[(0, Op::Put, Some(value), Some(value))]);
        now(subject.backend.apply(&commit(seq, std::slice::from_ref(&at), vec![writes(1, &[put(value)]), lists, maps], now_ms))).unwrap();
    };
    let seen = |now_ms| {
        let (Entries::Lists { lists, .. }, Entries::Maps { keys, .. }) =
            (get(&*subject.backend, 3, std::slice::from_ref(&at), now_ms), get(&*subject.backend, 5, std::slice::from_ref(&at), now_ms))
        else {
            panic!()
        };
        (value(&*subject.backend, 1, &at, now_ms), lists.values().as_binary::<i32>().len(), keys.len())
    };
    all(1, b"x", 100);
    all(2, b"y", 105);
    assert_eq!(seen(109), (Some(b"y".to_vec()), 2, 2));
    assert_eq!(seen(110), (Some(b"y".to_vec()), 1, 1), "the first is expired");
    assert_eq!(seen(115), (None, 0, 0));
    assert_eq!(seen(109), (Some(b"y".to_vec()), 2, 2), "reads are peeks");
    let touch = || {
        vec![writes(1, &[(0, Op::Touch, None, None)]), writes(3, &[(0, Op::Touch, None, None)]), writes(5, &[(0, Op::Touch, None, None)])]
    };
    now(subject.backend.apply(&commit(3, std::slice::from_ref(&at), touch(), 112))).unwrap();
    assert_eq!(seen(114), (Some(b"y".to_vec()), 1, 1));
    assert_eq!(seen(120), (None, 1, 1), "the value is renewed by writes only, the others by reads");
    now(subject.backend.apply(&commit(4, std::slice::from_ref(&at), touch(), 130))).unwrap();
    (subject.settle)(4);
    assert_eq!(seen(112), (None, 0, 0), "what is expired went");
}

fn wrong_requests_are_refused(make: Make<'_>) {
    let subject = make(cells());
    let page = PageRequest { cell: 0, group: 0, key: vec![], namespace: vec![], prefix: vec![], after: None, max_bytes: 10, now_ms: 0 };
    assert_eq!(now(subject.backend.page(&page)).unwrap_err().code(), Code::StateType);
    let lookup =
        Lookup { cell: 2, at: vec![], addresses: addresses(&[]), map_keys: BinaryArray::from_iter_values([] as [&[u8]; 0]), now_ms: 0 };
    assert_eq!(now(subject.backend.lookup(&lookup)).unwrap_err().code(), Code::StateType);
    let get = Get { cells: vec![8], addresses: addresses(&[]), now_ms: 0, prefetch: Prefetch::default() };
    assert_eq!(now(subject.backend.get(&get)).unwrap_err().code(), Code::StateUndeclared);
}

fn views_do_not_change(make: Make<'_>) {
    let subject = make(cells());
    let at: Vec<Address> = (0..3000).map(|i| address(1, &format!("key-{i}"))).collect();
    let rows = |value: &'static [u8]| (0..3000).map(|i| (i, Op::Put, None, Some(value))).collect::<Vec<_>>();
    now(subject.backend.apply(&commit(1, &at, vec![writes(0, &rows(b"before"))], 0))).unwrap();
    let view = subject.backend.view(&[0, 1], 0).unwrap();
    now(subject.backend.apply(&Commit {
        timers: set(&[(0, 1)]),
        ..commit(2, &at, vec![writes(0, &rows(b"after")), writes(2, &[(0, Op::Append, None, Some(b"x"))])], 0)
    }))
    .unwrap();
    let later = subject.backend.view(&[0, 1], 0).unwrap();
    let count = |view: &dyn View, part, wanted: &[u8]| {
        let mut count = 0;
        let mut sink = |rows: Rows| {
            if let Part::Entries { values, .. } = &rows.part {
                assert!(values.iter().all(|value| value.unwrap() == wanted));
            }
            count += rows.keys.len();
            Ok(())
        };
        view.read(1, part, &mut sink).unwrap();
        count
    };
    assert_eq!((count(&*view, Some(0), b"before"), count(&*view, Some(2), b""), count(&*view, None, b"")), (3000, 0, 0));
    assert_eq!((count(&*later, Some(0), b"after"), count(&*later, Some(2), b"x"), count(&*later, None, b"")), (3000, 1, 1));
    for part in [Some(0), Some(2), None] {
        assert_ne!(view.version(1, part), later.version(1, part));
    }
    assert_eq!((view.version(0, Some(0)), view.version(1, Some(1))), (later.version(0, Some(0)), later.version(1, Some(1))));
}
