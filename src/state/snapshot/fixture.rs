//! For tests of checkpoints: places, a function's cells, and stores with something in each.

use super::*;
use crate::state::{
    Addresses, BROADCAST_GROUP, Cell, Cells, Commit, Get, Kind, Op, Prefetch, Sizes, StateBackend, Ttl, Writes,
    codec::{self, Nulls},
    disk::{Disk, DiskOptions},
    encoding::{self, Groups, KeyEncoder},
    memory::Memory,
};
use crate::timer::{Domain, DueOrder, DueRequest, TimerOp, TimerWrites};
use arrow_array::{ArrayRef, BinaryArray, DictionaryArray, Int32Array, Int64Array, StringArray, types::Int8Type};
use arrow_schema::DataType;
use object_store::memory::InMemory;
use std::{path::Path as FilePath, time::Duration};

pub const GROUPS: u16 = 8;
pub const KEYS: i64 = 200;

pub fn cells() -> Vec<Cell> {
    vec![
        Cell::value("count", DataType::Int64),
        Cell::value("name", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)))
            .with_ttl(Ttl::new(Duration::from_secs(60))),
        Cell::list("history", DataType::Utf8),
        Cell::map("seen", DataType::Int32, DataType::Int64),
        Cell { kind: Kind::Broadcast, ..Cell::map("rules", DataType::Utf8, DataType::Utf8) },
    ]
}

pub fn keys() -> KeyEncoder {
    KeyEncoder::new(vec![("user".into(), DataType::Int64)], false).unwrap()
}

pub fn memory(cells: Vec<Cell>) -> Arc<dyn StateBackend> {
    Arc::new(Memory::new(Cells::new(cells).unwrap(), GROUPS, None).unwrap())
}

pub fn disk(root: &FilePath) -> Arc<dyn StateBackend> {
    Arc::new(Disk::new(Cells::new(cells()).unwrap(), GROUPS, &DiskOptions { reserve_bytes: 0, ..DiskOptions::new(root) }).unwrap())
}

/// The addresses of keys `0..KEYS` in some groups, and which keys these are.
pub fn addresses(groups: &[u16]) -> (Arc<Addresses>, Vec<i64>) {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..KEYS));
    let distinct = keys().distinct(&[column], Groups::Computed(GROUPS)).unwrap();
    let chosen: Vec<usize> = (0..KEYS as usize).filter(|&key| groups.contains(&distinct.groups[key])).collect();
    let bytes = BinaryArray::from_iter_values(chosen.iter().map(|&key| distinct.keys.value(key)));
    let of = chosen.iter().map(|&key| distinct.groups[key]).collect();
    (Arc::new(Addresses::new(of, bytes, None).unwrap()), chosen.into_iter().map(|key| key as i64).collect())
}

pub fn writes(cell: u16, at: Vec<u32>, op: Op, map_keys: Option<&ArrayRef>, values: &ArrayRef) -> Writes {
    let declared = &cells()[usize::from(cell)];
    let map_keys = map_keys.map(|keys| encoding::encode_map_keys(keys).unwrap());
    Writes { cell, ops: vec![op; at.len()], at, map_keys, values: codec::encode(declared, values, Nulls::Stored).unwrap() }
}

/// Something in every cell, and timers.
pub async fn fill(store: &dyn StateBackend, groups: &[u16], add: i64) {
    let (addresses, chosen) = addresses(groups);
    let at = || (0..chosen.len() as u32).collect::<Vec<_>>();
    let of = |of: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values(chosen.iter().map(|&key| of(key)))) as ArrayRef;
    let counts: ArrayRef = Arc::new(Int64Array::from_iter_values(chosen.iter().map(|key| key + add)));
    let texts: Vec<String> = chosen.iter().map(|key| format!("n{}", key % 5)).collect();
    let names: DictionaryArray<Int8Type> = texts.iter().map(|text| Some(text.as_str())).collect();
    let history: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().enumerate().map(|(i, text)| (i % 3 > 0).then_some(text))));
    let subs: ArrayRef = Arc::new(Int32Array::from_iter_values(chosen.iter().map(|key| -(*key as i32))));
    let mut timers = TimerWrites::default();
    for &place in &at() {
        timers.push(place, Domain::EventTime, TimerOp::Set, i64::from(place) % 7).unwrap();
        timers.push(place, Domain::ProcessingTime, TimerOp::Replace, 5).unwrap();
    }
    let mut all = vec![
        writes(0, at(), Op::Put, None, &counts),
        writes(1, at(), Op::Put, None, &(Arc::new(names) as ArrayRef)),
        writes(2, at(), Op::Append, None, &history),
        writes(2, at(), Op::Append, None, &history),
        writes(3, at(), Op::Put, Some(&subs), &of(|key| key * 2)),
    ];
    store.apply(&Commit { seq: 1, addresses, writes: std::mem::take(&mut all), timers, now_ms: 1000 }).await.unwrap();
    let rule: ArrayRef = Arc::new(StringArray::from(vec!["rule"]));
    let everywhere = Arc::new(Addresses::new(vec![BROADCAST_GROUP], BinaryArray::from_iter_values([b""]), None).unwrap());
    let commit = Commit {
        seq: 2,
        addresses: everywhere,
        writes: vec![writes(4, vec![0], Op::Put, Some(&rule), &rule)],
        timers: TimerWrites::default(),
        now_ms: 1000,
    };
    store.apply(&commit).await.unwrap();
}

pub fn take(store: &dyn StateBackend, id: u64, groups: Vec<u16>) -> Take {
    let all: Vec<u16> = groups.iter().copied().chain([BROADCAST_GROUP]).collect();
    let origin = Origin { id, attempt: 1, function: "count.py:count".into(), max_parallelism: GROUPS, created_ms: 1000 + id as i64 };
    Take { origin, keys: keys(), groups, view: store.view(&all, 1000).unwrap() }
}

pub fn restoring(handles: &[&Manifest], groups: std::ops::Range<u16>) -> Restore {
    Restore {
        handles: handles.iter().map(|manifest| manifest.handle.clone()).collect(),
        groups: groups.collect(),
        function: "count.py:count".into(),
        max_parallelism: GROUPS,
        keys: keys(),
        now_ms: 2000,
    }
}

/// Everything that a store says of some groups, as text.
pub async fn dump(store: &dyn StateBackend, groups: &[u16], now_ms: i64) -> String {
    let (addresses, _) = addresses(groups);
    let mut text = String::new();
    let get = Get { cells: vec![0, 1, 2, 3], addresses, now_ms, prefetch: Prefetch::default() };
    for (entries, cell) in store.get(&get).await.unwrap().iter().zip(cells()) {
        text += &format!("{:?}\n", codec::typed(&cell, entries).unwrap());
    }
    for domain in [Domain::EventTime, Domain::ProcessingTime] {
        let request = DueRequest { domain, groups: groups.to_vec(), up_to_ms: 100, limit: 1000, order: DueOrder::PerKey };
        let due = store.due(&request).await.unwrap();
        text += &format!("{:?} {:?}\n", due.timestamps, due.keys.iter().collect::<Vec<_>>());
    }
    text
}

pub fn without_caches(sizes: Sizes) -> (u64, u64) {
    (sizes.entries, sizes.timers)
}

/// Runs a test in every kind of place: a folder, and a path of an object store, in which there are no folders and nothing is renamed.
pub async fn everywhere(test: impl AsyncFn(&Checkpoints)) {
    let folder = tempfile::tempdir().unwrap();
    test(&Checkpoints::open(folder.path().to_str().unwrap()).unwrap()).await;
    let store = Arc::new(InMemory::new());
    // Somebody else's objects, some of them with a name that begins alike.
    for path in ["chk-00000001-a1-g0-0000000000000000.json", "jobs/other.json", "jobs/counts/data/x", "jobs/count.json"] {
        store.put(&Path::from(path), "{".into()).await.unwrap();
    }
    test(&Checkpoints::with_store(store.clone(), Path::from("jobs/count"))).await;
    let others = Checkpoints::with_store(store, Path::default());
    assert_eq!((others.handles().await.unwrap().len(), files(&others, "jobs/counts").await), (1, 1), "objects of others are gone");
}

/// The content of an object.
pub async fn read(checkpoints: &Checkpoints, relative: &str) -> Vec<u8> {
    checkpoints.fetch(&checkpoints.at(relative)).await.unwrap().into()
}

/// Puts another content in its place.
pub async fn write(checkpoints: &Checkpoints, relative: &str, content: impl Into<Vec<u8>>) {
    checkpoints.put(&checkpoints.at(relative), content.into().into()).await.unwrap();
}

/// How many objects there are below a path.
pub async fn files(checkpoints: &Checkpoints, relative: &str) -> usize {
    let mut objects = checkpoints.store.list(Some(&checkpoints.at(relative)));
    let mut count = 0;
    while let Some(object) = objects.next().await {
        object.unwrap();
        count += 1;
    }
    count
}
