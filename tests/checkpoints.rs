//! Checkpoints of keyed sessions from end to end: barrier, restore, rescale, what is incremental, fencing, failures; with every store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use pillion::{
    Checkpoint, Code, Event, KeyedOptions, Store,
    state::encoding::{Groups, KeyEncoder},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use support::{
    Door, Rig, everywhere,
    keyed::{
        STORES, Step, by_key, checkpointed, main_rows, open, per_key, restoring, rig_with_folders, rig_with_places, rows, run, sums, table,
        up_to_barrier, with,
    },
};

fn before() -> Vec<Step> {
    vec![Step::Rows((0..40).map(|row| (row % 10, row, 100 + row)).collect()), Step::Watermark(120)]
}

fn after() -> Vec<Step> {
    vec![Step::Watermark(121), Step::Rows((0..40).map(|row| (row % 10, row, 130 + row)).collect()), Step::Watermark(160)]
}

#[test]
fn what_was_checkpointed_is_restored() {
    everywhere(async |setup| {
        let rig = rig_with_places(setup).await;
        for store in STORES {
            let undisturbed = run(&rig, open(&rig, "Remind", with(store)).await, &[before(), after()].concat()).await.unwrap();
            let mut session = open(&rig, "Remind", with(store)).await;
            let (first, checkpoint) = checkpointed(&mut session, 1, &before()).await;
            // What comes behind the barrier belongs to nobody.
            session.send(rows(&[(1, 1000, 121)])).await.unwrap();
            drop(session);
            let session = open(&rig, "Remind", restoring(store, &[&checkpoint.handle])).await;
            let second = run(&rig, session, &after()).await.unwrap();
            let both = [main_rows(&first), main_rows(&second)].concat();
            assert_eq!(per_key(&both), per_key(&main_rows(&undisturbed)), "{store:?}");
        }
        rig.end().await;
    });
}

#[test]
fn timers_in_processing_time_wait_for_the_session_that_is_restored() {
    everywhere(async |setup| {
        let rig = rig_with_places(setup).await;
        for store in STORES {
            let options = KeyedOptions { host_clock: true, ..with(store) };
            let mut session = open(&rig, "Alarm", options).await;
            session.halves().0.processing_time(1000).await.unwrap();
            let (_, checkpoint) = checkpointed(&mut session, 1, &[Step::Rows(vec![(1, 1, 0)])]).await;
            drop(session);
            // By the system's clock they are long due; nothing else happens in the session.
            let mut session = open(&rig, "Alarm", restoring(store, &[&checkpoint.handle])).await;
            let fired = session.recv().await.unwrap().unwrap();
            assert_eq!(table(&fired.batch), [[1, 1010]], "{store:?}");
        }
        rig.end().await;
    });
}

/// Timers in processing time fire on their own: what they give stands on the side of the barrier on which what they write does.
#[test]
fn nothing_fires_across_a_barrier() {
    support::run(async {
        let rig = rig_with_places(Door::Embedded).await;
        let mut session = open(&rig, "Ticker", with(Store::Memory)).await;
        let (input, output) = session.halves();
        input.send(rows(&(0..8).map(|key| (key, 0, 0)).collect::<Vec<_>>())).await.unwrap();
        let mut counts = [0; 8];
        let mut handles = Vec::new();
        for id in 1..=60 {
            input.barrier(id).await.unwrap();
            let mut before = None;
            let handle = loop {
                match output.next().await.unwrap().unwrap() {
                    Event::Output(result) => table(&result.batch).iter().for_each(|row| counts[row[0] as usize] = row[1]),
                    Event::Snapshotted { .. } => before = Some(counts),
                    Event::Checkpointed { result, .. } => break result.unwrap().handle,
                    _ => {}
                }
            };
            handles.push((handle, before.unwrap()));
        }
        drop(session);
        for (handle, before) in handles {
            let options = KeyedOptions { host_clock: true, ..restoring(Store::Memory, &[&handle]) };
            let asked = Step::Rows((0..8).map(|key| (key, 1, 0)).collect());
            let seen = per_key(&main_rows(&run(&rig, open(&rig, "Ticker", options).await, &[asked]).await.unwrap()));
            let kept: Vec<_> = seen.values().map(|rows| -rows[0][0]).collect();
            assert_eq!(kept, before, "what came out before the barrier is not what the checkpoint says");
        }
        rig.end().await;
    });
}

#[test]
fn a_state_moves_from_one_kind_of_store_to_another() {
    support::run(async {
        let rig = rig_with_places(Door::Embedded).await;
        let steps = before();
        let mut session = open(&rig, "Sum", with(Store::Memory)).await;
        let (_, checkpoint) = checkpointed(&mut session, 1, &steps).await;
        let mut session = open(&rig, "Sum", restoring(Store::Disk, &[&checkpoint.handle])).await;
        let (_, checkpoint) = checkpointed(&mut session, 2, &steps).await;
        let seen = run(&rig, open(&rig, "Sum", restoring(Store::Memory, &[&checkpoint.handle])).await, &steps).await.unwrap();
        let expected = sums(&[steps.clone(), steps.clone(), steps].concat());
        for (key, sums) in per_key(&main_rows(&seen)) {
            assert_eq!(sums, expected[&key][expected[&key].len() - sums.len()..], "of key {key}");
        }
        rig.end().await;
    });
}

/// The rows of these key groups.
fn of_groups(steps: &[Step], groups: &std::ops::RangeInclusive<u16>) -> Vec<Step> {
    let encoder = KeyEncoder::new(vec![("key".into(), arrow_schema::DataType::Int64)], false).unwrap();
    let only = |step: &Step| match step {
        Step::Rows(given) => {
            let distinct = encoder.distinct(&[rows(given).column(0).clone()], Groups::Computed(128)).unwrap();
            let here = |row: usize| groups.contains(&distinct.groups[distinct.index[row] as usize]);
            Step::Rows(given.iter().enumerate().filter(|(row, _)| here(*row)).map(|(_, given)| *given).collect())
        }
        other => other.clone(),
    };
    steps.iter().map(only).collect()
}

#[test]
fn operators_become_more_and_fewer() {
    support::run(async {
        let rig = rig_with_places(Door::ConnectUnix).await;
        let undisturbed =
            run(&rig, open(&rig, "Remind", by_key()).await, &[before(), after(), vec![Step::Rows(vec![(3, 1, 170)])]].concat())
                .await
                .unwrap();
        let mut session = open(&rig, "Remind", by_key()).await;
        let (mut seen, whole) = checkpointed(&mut session, 1, &before()).await;
        drop(session);
        let mut handles = Vec::new();
        for (store, groups) in [(Store::Memory, 0..=41), (Store::Disk, 42..=127)] {
            let options = KeyedOptions { key_groups: Some(groups.clone()), ..restoring(store, &[&whole.handle]) };
            let mut session = open(&rig, "Remind", options).await;
            let (more, part) = checkpointed(&mut session, 2, &of_groups(&after(), &groups)).await;
            seen.extend(more);
            handles.push(part.handle);
        }
        // One alone does not cover all.
        let code = async |options| support::keyed::keyed(&rig, "Remind", options).open().await.err().unwrap().code();
        assert_eq!(code(restoring(Store::Memory, &[&handles[0]])).await, Code::SnapshotMismatch);
        let session = open(&rig, "Remind", restoring(Store::Memory, &[&handles[0], &handles[1]])).await;
        seen.extend(run(&rig, session, &[Step::Rows(vec![(3, 1, 170)])]).await.unwrap());
        assert_eq!(per_key(&main_rows(&seen)), per_key(&main_rows(&undisturbed)));
        rig.end().await;
    });
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    support::run(async {
        let (rig, place) = rig_with_folders(Door::Embedded).await;
        for store in STORES {
            let mut session = open(&rig, "Sum", with(store)).await;
            let (_, first) = checkpointed(&mut session, 1, &before()).await;
            assert!(first.new_bytes == first.bytes && first.rows == 10, "{first:?}");
            let (_, second) = checkpointed(&mut session, 2, &[]).await;
            assert_eq!((second.new_bytes, second.bytes, second.rows), (0, first.bytes, 10));
            let (_, third) = checkpointed(&mut session, 3, &[Step::Rows(vec![(1, 1, 0)])]).await;
            assert!(0 < third.new_bytes && third.new_bytes < third.bytes, "{third:?}");
            // Of one that is deleted stays what others refer to.
            let (input, output) = session.halves();
            input.discard_checkpoint(&first.handle).await.unwrap();
            input.discard_checkpoint(&third.handle).await.unwrap();
            input.finish().await.unwrap();
            while output.next().await.is_some() {}
            let manifest = |checkpoint: &Checkpoint| place.join(format!("{}.json", checkpoint.handle)).exists();
            assert!(!manifest(&first) && manifest(&second) && !manifest(&third));
            let session = open(&rig, "Sum", restoring(store, &[&second.handle])).await;
            let seen = run(&rig, session, &before()).await.unwrap();
            let expected = sums(&[before(), before()].concat());
            assert!(per_key(&main_rows(&seen)).iter().all(|(key, sums)| *sums == expected[key][4..]));
        }
        rig.end().await;
    });
}

#[test]
fn the_checkpoint_after_a_discarded_one_is_whole() {
    support::run(async {
        let rig = rig_with_places(Door::Embedded).await;
        let mut session = open(&rig, "Sum", by_key()).await;
        let (_, first) = checkpointed(&mut session, 1, &before()).await;
        session.halves().0.discard_checkpoint(first.handle).await.unwrap();
        let (_, second) = checkpointed(&mut session, 2, &[]).await;
        assert_eq!(second.new_bytes, second.bytes);
        drop(session);
        open(&rig, "Sum", restoring(Store::Memory, &[&second.handle])).await;
        rig.end().await;
    });
}

#[test]
fn a_checkpoint_that_fails_ends_nothing() {
    support::run(async {
        let (rig, place) = rig_with_folders(Door::ConnectUnix).await;
        let mut session = open(&rig, "Sum", by_key()).await;
        let (_, first) = checkpointed(&mut session, 1, &before()).await;
        // Nothing can be made in a file.
        let aside = place.with_extension("aside");
        fs::rename(&place, &aside).unwrap();
        fs::write(&place, "").unwrap();
        let (_, failed) = up_to_barrier(&mut session, 2, &[Step::Rows(vec![(1, 1, 0)])]).await;
        assert_eq!(failed.unwrap_err().code(), Code::SnapshotFailed);
        fs::remove_file(&place).unwrap();
        fs::rename(&aside, &place).unwrap();
        let (_, third) = checkpointed(&mut session, 3, &[]).await;
        assert_ne!(third.new_bytes, 0, "what the failed one did not write is still to be written");
        drop(session);
        for handle in [first.handle, third.handle] {
            open(&rig, "Sum", restoring(Store::Memory, &[&handle])).await;
        }
        rig.end().await;
    });
}

#[test]
fn a_full_disk_ends_the_session_and_its_checkpoint_goes_on_when_there_is_room() {
    support::run(async {
        let (roomy, place) = rig_with_folders(Door::Embedded).await;
        let mut session = open(&roomy, "Sum", with(Store::Disk)).await;
        let (_, checkpoint) = checkpointed(&mut session, 1, &before()).await;
        drop(session);
        let full = Rig::with(Door::Embedded, |config| {
            config.state.dir = config.runtime_dir.with_file_name("state");
            config.state.checkpoints = Some(place.display().to_string());
            // More than any disk has.
            config.state.disk_reserve_bytes = 1 << 60;
            config.state.full_wait = Duration::from_millis(50);
        })
        .await;
        let refused = support::keyed::keyed(&full, "Sum", restoring(Store::Disk, &[&checkpoint.handle])).open().await.err().unwrap();
        assert!(refused.code() == Code::StateFull && refused.is_retryable(), "{refused:?}");
        let mut session = open(&full, "Sum", with(Store::Disk)).await;
        session.send(rows(&[(1, 1, 0)])).await.unwrap();
        let error = session.recv().await.unwrap().unwrap_err();
        assert!(error.code() == Code::StateFull && error.is_retryable(), "{error:?}");
        full.end().await;
        let seen = run(&roomy, open(&roomy, "Sum", restoring(Store::Disk, &[&checkpoint.handle])).await, &before()).await.unwrap();
        let expected = sums(&[before(), before()].concat());
        assert!(per_key(&main_rows(&seen)).iter().all(|(key, sums)| *sums == expected[key][4..]));
        roomy.end().await;
    });
}

/// A real file takes the room of the file system for a moment, no more of it than others can spare.
#[test]
fn a_bundle_waits_for_room_on_the_disk() {
    let size = |room: u64| (room / 4).min(1 << 30);
    support::run(async {
        let mut room = 0;
        let rig = Rig::with(Door::ConnectUnix, |config| {
            config.state.dir = config.runtime_dir.with_file_name("state");
            let disk = rustix::fs::statvfs(config.runtime_dir.parent().unwrap()).unwrap();
            room = disk.f_bavail * disk.f_frsize;
            config.state.disk_reserve_bytes = room - size(room) / 2;
            config.state.full_wait = Duration::from_secs(60);
        })
        .await;
        let mut session = open(&rig, "Sum", with(Store::Disk)).await;
        let (input, output) = session.halves();
        input.send(rows(&[(1, 1, 0)])).await.unwrap();
        assert_eq!(table(&output.recv().await.unwrap().unwrap().batch), [[1, 1]]);
        let file = tempfile::NamedTempFile::new_in(rig.folder()).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size(room)).unwrap();
        input.send(rows(&[(1, 2, 0)])).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(300), output.recv()).await;
        assert!(waits.is_err(), "a bundle was committed that has no room: {waits:?}");
        drop(file);
        assert_eq!(table(&output.recv().await.unwrap().unwrap().batch), [[1, 3]]);
        drop(session);
        rig.end().await;
    });
}

#[test]
fn an_operator_may_have_one_key_group() {
    support::run(async {
        for door in [Door::Embedded, Door::ConnectUnix] {
            let rig = rig_with_places(door).await;
            let of = |groups| KeyedOptions { key_groups: Some(groups), operator: "one".into(), attempt: 1, ..by_key() };
            let _first = open(&rig, "Sum", of(0..=0)).await;
            let others = open(&rig, "Sum", of(1..=127)).await;
            let error = run(&rig, others, &[Step::Rows((0..2000).map(|key| (key, 1, 0)).collect())]).await.unwrap_err();
            assert_eq!(error.code(), Code::ProtocolViolation, "a row of group 0 is not its own: {error:?}");
            rig.end().await;
        }
    });
}

#[test]
fn without_a_place_a_barrier_saves_nothing_and_says_so() {
    support::run(async {
        let rig = Rig::new(Door::Embedded).await;
        let mut session = open(&rig, "Sum", by_key()).await;
        let (_, failed) = up_to_barrier(&mut session, 1, &before()).await;
        assert_eq!(failed.unwrap_err().code(), Code::OptionsInvalid);
        let refused = support::keyed::keyed(&rig, "Sum", restoring(Store::Memory, &["chk-1"])).open().await;
        assert_eq!(refused.err().unwrap().code(), Code::OptionsInvalid);
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_restored_is_refused() {
    support::run(async {
        let (rig, place) = rig_with_folders(Door::ConnectUnix).await;
        let mut session = open(&rig, "Sum", by_key()).await;
        let (_, checkpoint) = checkpointed(&mut session, 1, &before()).await;
        drop(session);
        let code = async |name: &str, options| support::keyed::keyed(&rig, name, options).open().await.err().unwrap().code();
        let restoring = |handle: &str| restoring(Store::Memory, &[handle]);
        assert_eq!(code("Sum", restoring("chk-nobody")).await, Code::SnapshotUnknown);
        assert_eq!(code("Sum", restoring("../elsewhere")).await, Code::SnapshotUnknown);
        assert_eq!(code("Histories", restoring(&checkpoint.handle)).await, Code::SnapshotMismatch, "of another function");
        let narrower = KeyedOptions { max_parallelism: Some(64), ..restoring(&checkpoint.handle) };
        assert_eq!(code("Sum", narrower).await, Code::SnapshotMismatch);
        let by_two = KeyedOptions { keys: vec!["key".into(), "value".into()], ..restoring(&checkpoint.handle) };
        assert_eq!(code("Sum", by_two).await, Code::KeyType);

        let manifest = place.join(format!("{}.json", checkpoint.handle));
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        assert_eq!(code("Sum", restoring(&checkpoint.handle)).await, Code::SnapshotVersion);
        fs::write(&manifest, &text[..text.len() / 2]).unwrap();
        assert_eq!(code("Sum", restoring(&checkpoint.handle)).await, Code::SnapshotDamaged);
        fs::write(&manifest, text).unwrap();
        let file = files(&place.join("data")).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(code("Sum", restoring(&checkpoint.handle)).await, Code::SnapshotDamaged);
        rig.end().await;
    });
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    fs::read_dir(folder).unwrap().flat_map(|entry| below(entry.unwrap().path())).collect()
}

#[test]
fn a_higher_attempt_fences_a_lower_one() {
    everywhere(async |setup| {
        let rig = rig_with_places(setup).await;
        let attempt = |attempt, key_groups| KeyedOptions { operator: "op-1".into(), attempt, key_groups, ..by_key() };
        let refused = async |options| support::keyed::keyed(&rig, "Sum", options).open().await.err().unwrap().code();
        let mut low = open(&rig, "Sum", attempt(1, Some(0..=63))).await;
        let mut beside = open(&rig, "Sum", attempt(1, Some(64..=127))).await;
        assert_eq!(refused(attempt(1, Some(50..=70))).await, Code::Fenced);
        let mut high = open(&rig, "Sum", attempt(2, Some(0..=63))).await;
        let end = loop {
            // What a fenced session still sends is not answered.
            let _ = low.send(rows(&[(1, 1, 0)])).await;
            match low.recv().await {
                Some(Ok(_)) => {}
                other => break other.unwrap().unwrap_err(),
            }
        };
        assert_eq!(end.code(), Code::Fenced);
        assert_eq!(refused(attempt(1, Some(0..=63))).await, Code::Fenced);
        let here = of_groups(&before(), &(0..=63));
        let there = of_groups(&before(), &(64..=127));
        let (first, _) = checkpointed(&mut high, 1, &here).await;
        let (second, _) = checkpointed(&mut beside, 1, &there).await;
        assert_eq!(per_key(&[main_rows(&first), main_rows(&second)].concat()), sums(&before()));
        rig.end().await;
    });
}
