use super::{manifest::FORMAT, *};
use crate::state::{
    Addresses, BROADCAST_GROUP, Cell, Cells, Commit, Entries, Get, Kind, Op, Prefetch, Sizes, StateBackend, Ttl, Writes,
    codec::{self, Nulls},
    disk::{Disk, DiskOptions},
    encoding::{self, Groups, KeyEncoder},
    memory::Memory,
};
use crate::timer::{Domain, DueOrder, DueRequest, TimerOp, TimerWrites};
use arrow_array::{Array, ArrayRef, BinaryArray, DictionaryArray, Int32Array, Int64Array, StringArray, types::Int8Type};
use arrow_schema::DataType;
use std::{path::Path as FilePath, time::Duration};

const GROUPS: u16 = 8;
const KEYS: i64 = 200;

fn cells() -> Vec<Cell> {
    vec![
        Cell::value("count", DataType::Int64),
        Cell::value("name", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)))
            .with_ttl(Ttl::new(Duration::from_secs(60))),
        Cell::list("history", DataType::Utf8),
        Cell::map("seen", DataType::Int32, DataType::Int64),
        Cell { kind: Kind::Broadcast, ..Cell::map("rules", DataType::Utf8, DataType::Utf8) },
    ]
}

fn keys() -> KeyEncoder {
    KeyEncoder::new(vec![("user".into(), DataType::Int64)], false).unwrap()
}

fn memory(cells: Vec<Cell>) -> Arc<dyn StateBackend> {
    Arc::new(Memory::new(Cells::new(cells).unwrap(), GROUPS, None).unwrap())
}

fn disk(root: &FilePath) -> Arc<dyn StateBackend> {
    Arc::new(Disk::new(Cells::new(cells()).unwrap(), GROUPS, &DiskOptions { reserve_bytes: 0, ..DiskOptions::new(root) }).unwrap())
}

/// The addresses of keys `0..KEYS` in some groups, and which keys these are.
fn addresses(groups: &[u16]) -> (Arc<Addresses>, Vec<i64>) {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..KEYS));
    let distinct = keys().distinct(&[column], Groups::Computed(GROUPS)).unwrap();
    let chosen: Vec<usize> = (0..KEYS as usize).filter(|&key| groups.contains(&distinct.groups[key])).collect();
    let bytes = BinaryArray::from_iter_values(chosen.iter().map(|&key| distinct.keys.value(key)));
    let of = chosen.iter().map(|&key| distinct.groups[key]).collect();
    (Arc::new(Addresses::new(of, bytes, None).unwrap()), chosen.into_iter().map(|key| key as i64).collect())
}

fn writes(cell: u16, at: Vec<u32>, op: Op, map_keys: Option<&ArrayRef>, values: &ArrayRef) -> Writes {
    let declared = &cells()[usize::from(cell)];
    let map_keys = map_keys.map(|keys| encoding::encode_map_keys(keys).unwrap());
    Writes { cell, ops: vec![op; at.len()], at, map_keys, values: codec::encode(declared, values, Nulls::Stored).unwrap() }
}

/// Something in every cell, and timers.
async fn fill(store: &dyn StateBackend, groups: &[u16], add: i64) {
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

fn take(store: &dyn StateBackend, id: u64, groups: Vec<u16>) -> Take {
    let all: Vec<u16> = groups.iter().copied().chain([BROADCAST_GROUP]).collect();
    let origin = Origin { id, attempt: 1, function: "count.py:count".into(), max_parallelism: GROUPS, created_ms: 1000 + id as i64 };
    Take { origin, keys: keys(), groups, view: store.view(&all, 1000).unwrap() }
}

fn restoring(handles: &[&Manifest], groups: std::ops::Range<u16>) -> Restore {
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
async fn dump(store: &dyn StateBackend, groups: &[u16], now_ms: i64) -> String {
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

fn without_caches(sizes: Sizes) -> (u64, u64) {
    (sizes.entries, sizes.timers)
}

#[tokio::test]
async fn two_sessions_become_three_of_another_kind() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let (left, right) = (memory(cells()), disk(scratch.path()));
    fill(&*left, &[0, 1, 2, 3], 1).await;
    fill(&*right, &[4, 5, 6, 7], 1).await;
    let (one, _) = checkpoints.write(take(&*left, 7, (0..4).collect()), &Base::default()).await.unwrap();
    let (two, _) = checkpoints.write(take(&*right, 7, (4..8).collect()), &Base::default()).await.unwrap();
    for (groups, target) in [(0..3, disk(scratch.path())), (3..6, memory(cells())), (6..8, disk(scratch.path()))] {
        let restored = checkpoints.restore(restoring(&[&one, &two], groups.clone()), Arc::clone(&target)).await.unwrap();
        let groups: Vec<u16> = groups.collect();
        let (before_left, before_right): (Vec<u16>, Vec<u16>) = groups.iter().partition(|&&group| group < 4);
        let keys = addresses(&groups).1.len() as u64;
        assert_eq!((restored.entries, restored.timers), (keys * 5 + 1, keys * 2));
        for (source, part) in [(&left, before_left), (&right, before_right)] {
            assert_eq!(dump(&**source, &part, 2000).await, dump(&*target, &part, 2000).await);
            assert_eq!(dump(&**source, &part, 61_001).await, dump(&*target, &part, 61_001).await, "times of last access are kept");
        }
        let rules = Get {
            cells: vec![4],
            addresses: Arc::new(Addresses::new(vec![BROADCAST_GROUP], BinaryArray::from_iter_values([b""]), None).unwrap()),
            now_ms: 0,
            prefetch: Prefetch::default(),
        };
        let Entries::Maps { keys, .. } = target.get(&rules).await.unwrap().remove(0) else { panic!() };
        assert_eq!(keys.len(), 1, "broadcast state is in each");
    }
    // Single timers are still single.
    let target = memory(cells());
    checkpoints.restore(restoring(&[&one, &two], 0..8), Arc::clone(&target)).await.unwrap();
    let (at, _) = addresses(&[0]);
    let mut timers = TimerWrites::default();
    timers.push(0, Domain::ProcessingTime, TimerOp::Replace, 9).unwrap();
    let before = without_caches(target.sizes());
    target.apply(&Commit { seq: 9, addresses: at, writes: vec![], timers, now_ms: 2000 }).await.unwrap();
    assert_eq!(without_caches(target.sizes()), before);
}

#[tokio::test]
async fn unchanged_ranges_are_referred_to_and_deleted_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0, 1, 2, 3, 4, 5, 6, 7], 1).await;
    let (first, base) = checkpoints.write(take(&*store, 1, (0..8).collect()), &Base::default()).await.unwrap();
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![-5]));
    let (at, _) = addresses(&[3]);
    let commit = Commit {
        seq: 3,
        addresses: at,
        writes: vec![writes(0, vec![0], Op::Put, None, &counts)],
        timers: TimerWrites::default(),
        now_ms: 1000,
    };
    store.apply(&commit).await.unwrap();
    let (second, base) = checkpoints.write(take(&*store, 2, (0..8).collect()), &base).await.unwrap();
    let new: Vec<&str> = second.files.iter().filter(|file| !first.files.contains(file)).map(|file| file.path.as_str()).collect();
    assert_eq!(new, [format!("data/{}/cell0-3-3-0.arrow", second.handle)]);
    let (third, _) = checkpoints.write(take(&*store, 3, (0..8).collect()), &base).await.unwrap();
    assert_eq!(third.files, second.files);

    // What one needs that this build cannot read nobody knows: nothing that it may share is deleted.
    let json = folder.path().join(format!("{}.json", second.handle));
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, text.replacen("\"format\": 1", "\"format\": 9", 1)).unwrap();
    checkpoints.delete(&third.handle).await.unwrap();
    std::fs::write(&json, text).unwrap();
    checkpoints.delete(&first.handle).await.unwrap();
    assert_eq!(checkpoints.list().await.unwrap(), std::slice::from_ref(&second));
    let target = memory(cells());
    checkpoints.restore(restoring(&[&second], 0..8), Arc::clone(&target)).await.unwrap();
    let all: Vec<u16> = (0..8).collect();
    assert_eq!(dump(&*store, &all, 2000).await, dump(&*target, &all, 2000).await);
    assert_eq!(checkpoints.restore(restoring(&[&first], 0..8), target).await.unwrap_err().code(), Code::SnapshotUnknown);
    checkpoints.delete(&second.handle).await.unwrap();
    assert_eq!(files(&folder.path().join(DATA)), 0);
}

fn files(folder: &FilePath) -> usize {
    let count = |entry: std::fs::DirEntry| if entry.path().is_dir() { files(&entry.path()) } else { 1 };
    std::fs::read_dir(folder).map_or(0, |entries| entries.map(|entry| count(entry.unwrap())).sum())
}

#[tokio::test]
async fn whoever_dies_while_it_writes_leaves_the_one_before_whole() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0, 1], 1).await;
    let (first, _) = checkpoints.write(take(&*store, 1, vec![0, 1]), &Base::default()).await.unwrap();
    // Polled only a few times: some files are there, the manifest is not.
    for polls in 1..12 {
        let base = Base::default();
        let mut writing = Box::pin(checkpoints.write(take(&*store, 2, vec![0, 1]), &base));
        for _ in 0..polls {
            if futures_util::poll!(writing.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    for manifest in checkpoints.list().await.unwrap().into_iter().filter(|manifest| manifest.handle != first.handle) {
        checkpoints.delete(&manifest.handle).await.unwrap();
    }
    let target = memory(cells());
    checkpoints.restore(restoring(&[&first], 0..2), Arc::clone(&target)).await.unwrap();
    assert_eq!(dump(&*store, &[0, 1], 2000).await, dump(&*target, &[0, 1], 2000).await);
    // What an abandoned write has handed to another thread may still be on its way; a later sweep finds it.
    let swept = async {
        while files(&folder.path().join(DATA)) != first.files.len() {
            checkpoints.sweep(i64::MAX).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), swept).await.expect("files of abandoned checkpoints stay");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATA), "a file where a folder should be").unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0], 1).await;
    let error = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Code::SnapshotFailed, true));
    assert_eq!(Checkpoints::open(folder.path().join(DATA).to_str().unwrap()).unwrap_err().code(), Code::SnapshotFailed);
    assert_eq!(Checkpoints::open("s3://bucket/x").unwrap_err().code(), Code::Unsupported);
}

#[tokio::test]
async fn checkpoints_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0, 1], 1).await;
    let (one, _) = checkpoints.write(take(&*store, 1, vec![0, 1]), &Base::default()).await.unwrap();
    let (two, _) = checkpoints.write(take(&*store, 1, vec![1]), &Base::default()).await.unwrap();
    let good = restoring(&[&one], 0..2);
    let texts = KeyEncoder::new(vec![("user".into(), DataType::Utf8)], false).unwrap();
    let wrong: Vec<(Restore, Code, &str)> = vec![
        (
            Restore { function: "other.py:f".into(), ..good.clone() },
            Code::SnapshotMismatch,
            "is of the function `count.py:count`, not of `other.py:f`",
        ),
        (Restore { max_parallelism: 16, ..good.clone() }, Code::SnapshotMismatch, "a max parallelism of 8, the session of 16"),
        (Restore { keys: texts, ..good.clone() }, Code::KeyType, "have type `Int64`, those of the session `Utf8`"),
        (restoring(&[&one], 0..3), Code::SnapshotMismatch, "no checkpoint covers key group 2"),
        (restoring(&[&one, &two], 0..2), Code::SnapshotMismatch, "cover key group 1"),
        (Restore { handles: vec!["../secrets".into()], ..good.clone() }, Code::SnapshotUnknown, "no checkpoint `../secrets`"),
        (Restore { handles: vec![], ..good.clone() }, Code::SnapshotMismatch, "no checkpoint covers key group 0"),
    ];
    for (restore, code, message) in wrong {
        let error = checkpoints.restore(restore, memory(cells())).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(message), "{}: {error}", error.code());
    }
    let mut changed = cells();
    changed[0] = Cell::value("count", DataType::Utf8);
    let error = checkpoints.restore(good.clone(), memory(changed.clone())).await.unwrap_err();
    assert_eq!(error.code(), Code::StateTypeChanged);
    assert!(error.message().ends_with("the cell `count` is a value of Int64 in the checkpoint, and a value of Utf8 now"), "{error}");
    // What the message advises.
    assert!(error.hint_text().is_some_and(|hint| hint.starts_with("give the cell another name")), "{error:?}");
    changed[0].name = "count_as_text".into();
    let restored = checkpoints.restore(good, memory(changed)).await.unwrap();
    assert_eq!((restored.dropped, restored.added), (vec!["count".to_owned()], vec!["count_as_text".to_owned()]));
}

#[tokio::test]
async fn cells_may_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0], 1).await;
    let (manifest, _) = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap();
    // Another order, one cell less, one more, and a time to live where there was none.
    let now = vec![
        Cell::list("history", DataType::Utf8),
        Cell::value("new", DataType::Int8),
        Cell::value("count", DataType::Int64).with_ttl(Ttl::new(Duration::from_millis(10))),
    ];
    let target = memory(now.clone());
    let restored = checkpoints.restore(restoring(&[&manifest], 0..1), Arc::clone(&target)).await.unwrap();
    assert_eq!((restored.dropped.len(), restored.added), (3, vec!["new".to_owned()]));
    let (at, chosen) = addresses(&[0]);
    for (now_ms, nulls) in [(2009, 0), (2010, chosen.len())] {
        let get = Get { cells: vec![2], addresses: Arc::clone(&at), now_ms, prefetch: Prefetch::default() };
        let Entries::Values(values) = target.get(&get).await.unwrap().remove(0) else { panic!() };
        assert_eq!(values.null_count(), nulls);
    }
}

#[tokio::test]
async fn damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0], 1).await;
    let (manifest, _) = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap();
    let (json, file) = (folder.path().join(format!("{}.json", manifest.handle)), folder.path().join(&manifest.files[0].path));
    let refused = async |code: Code, message: &str| {
        let error = checkpoints.restore(restoring(&[&manifest], 0..1), memory(cells())).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(message), "{}: {error}", error.code());
    };
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&file, flipped).unwrap();
    refused(Code::SnapshotDamaged, "is not what was written").await;
    std::fs::remove_file(&file).unwrap();
    refused(Code::SnapshotDamaged, "is missing").await;
    std::fs::write(&file, whole).unwrap();
    let text = std::fs::read_to_string(&json).unwrap();
    for (from, to, code, message) in [
        ("\"format\": 1", format!("\"format\": {}", FORMAT + 1), Code::SnapshotVersion, "has `format` 2; this build reads up to 1"),
        ("\"key_encoding\": 1", "\"key_encoding\": 9".into(), Code::SnapshotVersion, "has `key_encoding` 9"),
        ("\"format\": 1,", String::new(), Code::SnapshotDamaged, "says no `format`"),
        ("{", "[".into(), Code::SnapshotDamaged, "is no JSON"),
        ("\"handle\": \"", "\"handle\": \"x".into(), Code::SnapshotDamaged, "has another name"),
        ("\"arrow\": \"f", "\"arrow\": \"0".into(), Code::SnapshotDamaged, "cannot be read"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&json, text.replacen(from, &to, 1)).unwrap();
        refused(code, message).await;
    }
    assert_eq!(checkpoints.sweep(i64::MAX).await.unwrap_or_else(|error| panic!("{error}")), 0);
    std::fs::write(&json, "{}").unwrap();
    assert_eq!(checkpoints.sweep(i64::MAX).await.unwrap_err().code(), Code::SnapshotDamaged, "nobody knows what it needs");
    assert!(checkpoints.list().await.unwrap().is_empty());
    checkpoints.delete(&manifest.handle).await.unwrap();
    assert_eq!(checkpoints.delete(&manifest.handle).await.unwrap_err().code(), Code::SnapshotUnknown);
}

/// The files are ordinary Arrow: typed keys and values, names of columns as documented.
#[tokio::test]
async fn files_are_tables() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path().to_str().unwrap()).unwrap();
    let store = memory(cells());
    fill(&*store, &[0], 1).await;
    let (manifest, _) = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap();
    let columns = |cell: Option<&str>| {
        let file = manifest.files.iter().find(|file| file.cell.as_deref() == cell).unwrap();
        let path = std::fs::File::open(folder.path().join(&file.path)).unwrap();
        let schema = arrow_ipc::reader::FileReader::try_new(path, None).unwrap().schema();
        schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(columns(Some("count")), "key_group: UInt16, key.user: Int64, namespace: Binary, value: Int64");
    assert_eq!(columns(Some("name")), "key_group: UInt16, key.user: Int64, namespace: Binary, value: Utf8, last_access: Timestamp(ms)");
    assert_eq!(columns(Some("seen")), "key_group: UInt16, key.user: Int64, namespace: Binary, map_key: Int32, value: Int64");
    assert_eq!(columns(Some("rules")), "key_group: UInt16, map_key: Utf8, value: Utf8");
    assert_eq!(
        columns(None),
        "key_group: UInt16, key.user: Int64, namespace: Binary, domain: Utf8, name: Utf8, timestamp: Timestamp(ms), single: Boolean"
    );
    let table = checkpoints.tables(manifest.files.iter().find(|file| file.cell.as_deref() == Some("count")).unwrap()).await.unwrap();
    assert_eq!(table.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>(), addresses(&[0]).1.len());
}
