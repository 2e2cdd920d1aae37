use super::{fixture::*, manifest::FORMAT, *};
use crate::state::{Addresses, BROADCAST_GROUP, Cell, Commit, Entries, Get, Op, Prefetch, Ttl, encoding::KeyEncoder};
use crate::timer::{Domain, TimerOp, TimerWrites};
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array};
use arrow_schema::DataType;
use std::time::Duration;

#[tokio::test]
async fn two_sessions_become_three_of_another_kind() {
    everywhere(async |checkpoints| {
        let scratch = tempfile::tempdir().unwrap();
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
    })
    .await;
}

#[tokio::test]
async fn unchanged_ranges_are_referred_to_and_deleted_with_the_last() {
    everywhere(async |checkpoints| {
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
        let json = format!("{}.json", second.handle);
        let text = String::from_utf8(read(checkpoints, &json).await).unwrap();
        write(checkpoints, &json, text.replacen("\"format\": 1", "\"format\": 9", 1)).await;
        checkpoints.delete(&third.handle).await.unwrap();
        write(checkpoints, &json, text).await;
        checkpoints.delete(&first.handle).await.unwrap();
        assert_eq!(checkpoints.list().await.unwrap(), std::slice::from_ref(&second));
        let target = memory(cells());
        checkpoints.restore(restoring(&[&second], 0..8), Arc::clone(&target)).await.unwrap();
        let all: Vec<u16> = (0..8).collect();
        assert_eq!(dump(&*store, &all, 2000).await, dump(&*target, &all, 2000).await);
        assert_eq!(checkpoints.restore(restoring(&[&first], 0..8), target).await.unwrap_err().code(), Code::SnapshotUnknown);
        checkpoints.delete(&second.handle).await.unwrap();
        assert_eq!(files(checkpoints, DATA).await, 0);
    })
    .await;
}

#[tokio::test]
async fn whoever_dies_while_it_writes_leaves_the_one_before_whole() {
    everywhere(async |checkpoints| {
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
            while files(checkpoints, DATA).await != first.files.len() {
                checkpoints.sweep(i64::MAX).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), swept).await.expect("files of abandoned checkpoints stay");
    })
    .await;
}

#[tokio::test]
async fn checkpoints_that_do_not_fit_are_refused() {
    everywhere(async |checkpoints| {
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
    })
    .await;
}

#[tokio::test]
async fn cells_may_come_and_go() {
    everywhere(async |checkpoints| {
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
    })
    .await;
}

#[tokio::test]
async fn damage_is_noticed() {
    everywhere(async |checkpoints| {
        let store = memory(cells());
        fill(&*store, &[0], 1).await;
        let (manifest, _) = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap();
        let (json, file) = (format!("{}.json", manifest.handle), &manifest.files[0].path);
        let refused = async |code: Code, message: &str| {
            let error = checkpoints.restore(restoring(&[&manifest], 0..1), memory(cells())).await.unwrap_err();
            assert!(error.code() == code && error.message().contains(message), "{}: {error}", error.code());
        };
        let whole = read(checkpoints, file).await;
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        write(checkpoints, file, flipped).await;
        refused(Code::SnapshotDamaged, "is not what was written").await;
        checkpoints.remove(vec![checkpoints.at(file)]).await.unwrap();
        refused(Code::SnapshotDamaged, "is missing").await;
        write(checkpoints, file, whole).await;
        let text = String::from_utf8(read(checkpoints, &json).await).unwrap();
        for (from, to, code, message) in [
            ("\"format\": 1", format!("\"format\": {}", FORMAT + 1), Code::SnapshotVersion, "has `format` 2; this build reads up to 1"),
            ("\"key_encoding\": 1", "\"key_encoding\": 9".into(), Code::SnapshotVersion, "has `key_encoding` 9"),
            ("\"format\": 1,", String::new(), Code::SnapshotDamaged, "says no `format`"),
            ("{", "[".into(), Code::SnapshotDamaged, "is no JSON"),
            ("\"handle\": \"", "\"handle\": \"x".into(), Code::SnapshotDamaged, "has another name"),
            ("\"arrow\": \"f", "\"arrow\": \"0".into(), Code::SnapshotDamaged, "cannot be read"),
        ] {
            assert!(text.contains(from), "{from}");
            write(checkpoints, &json, text.replacen(from, &to, 1)).await;
            refused(code, message).await;
        }
        assert_eq!(checkpoints.sweep(i64::MAX).await.unwrap_or_else(|error| panic!("{error}")), 0);
        write(checkpoints, &json, "{}").await;
        assert_eq!(checkpoints.sweep(i64::MAX).await.unwrap_err().code(), Code::SnapshotDamaged, "nobody knows what it needs");
        assert!(checkpoints.list().await.unwrap().is_empty());
        checkpoints.delete(&manifest.handle).await.unwrap();
        assert_eq!(checkpoints.delete(&manifest.handle).await.unwrap_err().code(), Code::SnapshotUnknown);
    })
    .await;
}

/// The files are ordinary Arrow: typed keys and values, names of columns as documented.
#[tokio::test]
async fn files_are_tables() {
    everywhere(async |checkpoints| {
        let store = memory(cells());
        fill(&*store, &[0], 1).await;
        let (manifest, _) = checkpoints.write(take(&*store, 1, vec![0]), &Base::default()).await.unwrap();
        let columns = async |cell: Option<&str>| {
            let file = manifest.files.iter().find(|file| file.cell.as_deref() == cell).unwrap();
            let bytes = read(checkpoints, &file.path).await;
            let schema = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes), None).unwrap().schema();
            schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(columns(Some("count")).await, "key_group: UInt16, key.user: Int64, namespace: Binary, value: Int64");
        assert_eq!(
            columns(Some("name")).await,
            "key_group: UInt16, key.user: Int64, namespace: Binary, value: Utf8, last_access: Timestamp(ms)"
        );
        assert_eq!(columns(Some("seen")).await, "key_group: UInt16, key.user: Int64, namespace: Binary, map_key: Int32, value: Int64");
        assert_eq!(columns(Some("rules")).await, "key_group: UInt16, map_key: Utf8, value: Utf8");
        assert_eq!(
            columns(None).await,
            "key_group: UInt16, key.user: Int64, namespace: Binary, domain: Utf8, name: Utf8, timestamp: Timestamp(ms), single: Boolean"
        );
        let table = checkpoints.tables(manifest.files.iter().find(|file| file.cell.as_deref() == Some("count")).unwrap()).await.unwrap();
        assert_eq!(table.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>(), addresses(&[0]).1.len());
    })
    .await;
}
