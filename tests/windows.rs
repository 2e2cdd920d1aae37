//! State that a function asks for in mid-bundle, from end to end: windows, lists and maps too large to come along; in every mode, over every transport, through both doors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use pillion::{EnvironmentSpec, KeyedOptions, Session, state::host::Maps};
use std::{collections::BTreeMap, sync::Arc};
use support::{
    Mode, Rig, everywhere, in_mode,
    keyed::{Row, STORES, Seen, Step, by_key, keyed_in, main_rows, run, run_at_host, with},
};

async fn open(rig: &Rig, name: &str, options: KeyedOptions) -> Session {
    keyed_in("windows.py", rig, name, options).open().await.unwrap_or_else(|error| panic!("`{name}` did not open: {error:?}"))
}

/// Batches of rows over 40 keys, each followed by a watermark that lets windows fire.
fn events(batches: i64) -> Vec<Step> {
    let row = |batch: i64, row: i64| ((row * 7 + batch) % 40, row % 11, batch * 10 + row % 10);
    (0..batches).flat_map(|batch| [Step::Rows((0..200).map(|one| row(batch, one)).collect()), Step::Watermark(batch * 10 + 2)]).collect()
}

fn rows_of(steps: &[Step]) -> Vec<Row> {
    steps.iter().flat_map(|step| if let Step::Rows(rows) = step { rows.clone() } else { Vec::new() }).collect()
}

/// Rows of key, end, count and sum.
fn totals(rows: impl IntoIterator<Item = (i64, i64, i64)>) -> Vec<Vec<i64>> {
    let mut found: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for (key, end, value) in rows {
        let (count, sum) = found.entry((key, end)).or_default();
        (*count, *sum) = (*count + 1, *sum + value);
    }
    found.into_iter().map(|((key, end), (count, sum))| vec![key, end, count, sum]).collect()
}

/// What the windows that begin every `slide` give.
fn sliding(steps: &[Step], size: i64, slide: i64) -> Vec<Vec<i64>> {
    let windows = |(key, value, time): Row| {
        let last = time - time.rem_euclid(slide);
        (0..size / slide).map(move |back| (key, last - back * slide + size, value))
    };
    totals(rows_of(steps).into_iter().flat_map(windows))
}

/// What windows give that end when a key is quiet for so long.
fn sessions(steps: &[Step], gap: i64) -> Vec<Vec<i64>> {
    let mut by_key: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    rows_of(steps).into_iter().for_each(|(key, value, time)| by_key.entry(key).or_default().push((time, value)));
    let mut found = Vec::new();
    for (key, mut events) in by_key {
        events.sort_unstable();
        for session in events.chunk_by(|one, next| next.0 - one.0 <= gap) {
            let end = session.last().unwrap().0 + gap;
            found.push(vec![key, end, session.len() as i64, session.iter().map(|(_, value)| value).sum()]);
        }
    }
    found
}

/// What windows of three elements give.
fn counted(steps: &[Step]) -> Vec<Vec<i64>> {
    let mut by_key: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    rows_of(steps).into_iter().for_each(|(key, value, _)| by_key.entry(key).or_default().push(value));
    let sums = by_key
        .into_iter()
        .flat_map(|(key, values)| values.chunks_exact(3).map(|three| vec![key, -1, 3, three.iter().sum()]).collect::<Vec<_>>());
    let mut sums: Vec<_> = sums.collect();
    sums.sort();
    sums
}

fn sorted(seen: &[Seen]) -> Vec<Vec<i64>> {
    let mut rows = main_rows(seen);
    rows.sort();
    rows
}

#[test]
fn windows_give_what_they_should() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps = events(4);
        let expected = [
            ("tumbling", sliding(&steps, 10, 10)),
            ("sliding", sliding(&steps, 20, 5)),
            ("sessions", sessions(&steps, 4)),
            ("counted", counted(&steps)),
        ];
        for (name, mut expected) in expected {
            expected.sort();
            for name in [name.to_owned(), format!("{name}_rows")] {
                let session = open(&rig, &name, by_key()).await;
                let seen = run(&rig, session, &steps).await.unwrap_or_else(|error| panic!("`{name}`: {error:?}"));
                assert_eq!(sorted(&seen), expected, "{name}");
            }
        }
        rig.end().await;
    });
}

#[test]
fn large_lists_are_fetched_in_parts() {
    everywhere(async |setup| {
        // An answer holds a quarter of a message, so that a list of 600 KiB comes in several.
        let rig = Rig::with(setup, |config| config.limits.max_batch_bytes = 1 << 20).await;
        let steps: Vec<_> = (1..=6).map(|batch| Step::Rows(vec![(1, 100, batch % 2), (2, 1, batch % 2)])).collect();
        let session = open(&rig, "History", by_key()).await;
        let seen = run(&rig, session, &steps).await.unwrap();
        let mut expected: Vec<_> = (1..=6).flat_map(|batch| [vec![1, batch * 100, 1], vec![2, batch, 1]]).collect();
        expected.sort();
        assert_eq!(sorted(&seen), expected);
        rig.end().await;
    });
}

#[test]
fn large_maps_are_looked_up_and_iterated() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.limits.max_batch_bytes = 4 << 20).await;
        let row = |value, how| Step::Rows(vec![(1, value, how)]);
        // What is looked up stands in no page that was read; what is removed is not found again.
        let steps = [row(0, 0), row(9_999, 0), row(5, 1), row(9_999, 0), row(123_456, 1)];
        let session = open(&rig, "Inventory", by_key()).await;
        let seen = run(&rig, session, &steps).await.unwrap();
        assert_eq!(main_rows(&seen), [[1, -1, 10_000], [1, 9_999, 9_999], [1, 5, 9_998], [1, -1, 9_998], [1, -1, 9_998]]);
        rig.end().await;
    });
}

#[test]
fn a_prefix_of_maps_is_cleared() {
    everywhere(async |setup| {
        // An answer holds a quarter of a message, so that the large map comes in several.
        let rig = Rig::with(setup, |config| {
            config.limits.max_batch_bytes = 1 << 20;
            config.state.dir = config.runtime_dir.parent().unwrap().join("state");
        })
        .await;
        let rows = |values: &[i64]| Step::Rows(values.iter().map(|&value| (1, value, 0)).collect());
        let steps = [rows(&[0]), rows(&[1]), rows(&[3, 3]), rows(&[1, 12])];
        let expected = [[2200, 11, 1], [2001, 8, 1], [1802, 7, 1], [1802, 7, 1], [1802, 7, 1], [1803, 7, 0]];
        let expected = expected.map(|[large, small, found]| [1, large, small, found]);
        for store in STORES {
            let seen = run(&rig, open(&rig, "Paths", with(store)).await, &steps).await.unwrap();
            assert_eq!(main_rows(&seen), expected, "{store:?}");
        }
        // A host that is behind with applying: the last prefix lies over what it answers.
        let maps = Arc::new(Maps::default());
        let session = keyed_in("windows.py", &rig, "Paths", by_key()).state_host(maps.clone()).open().await.unwrap();
        assert_eq!(main_rows(&run_at_host(&rig, session, &steps, &maps, 2).await.unwrap()), expected);
        rig.end().await;
    });
}

#[test]
fn reads_renew_what_lives_on_by_reads() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let row = |value| Step::Rows(vec![(1, value, 0)]);
        let nothing = i64::MIN;
        // Written at 1000, read at 1090 and 1180; not read until 1290.
        let steps = [Step::Clock(1000), row(7), Step::Clock(1090), row(0), Step::Clock(1180), row(0), Step::Clock(1290), row(0)];
        let options = KeyedOptions { host_clock: true, ..by_key() };
        let seen = run(&rig, open(&rig, "Remembered", options).await, &steps).await.unwrap();
        assert_eq!(main_rows(&seen), [[1, 7, 7, 7], [1, 7, 7, 7], [1, nothing, nothing, nothing]]);
        rig.end().await;
    });
}

#[test]
fn a_worker_that_dies_while_it_waits_for_state_costs_nothing() {
    in_mode(Mode::Process, async |setup| {
        let rig = Rig::new(setup).await;
        let steps = events(4);
        let mark = rig.folder().join("died");
        let mut environment = EnvironmentSpec::default();
        environment.variables.insert("TEST_MARK".into(), mark.display().to_string());
        let session = keyed_in("windows.py", &rig, "sliding", by_key()).environment(environment).open().await.unwrap();
        let seen = run(&rig, session, &steps).await.unwrap();
        assert!(mark.exists(), "no worker has died");
        assert_eq!(sorted(&seen), sliding(&steps, 20, 5));
        rig.end().await;
    });
}

#[test]
fn windows_are_right_whenever_workers_are_killed() {
    in_mode(Mode::Process, async |setup| {
        let rig = Rig::new(setup).await;
        let mut steps = events(8);
        for at in [13, 9, 6, 3] {
            steps.insert(at, Step::Kill);
        }
        let session = open(&rig, "sliding", by_key()).await;
        assert_eq!(sorted(&run(&rig, session, &steps).await.unwrap()), sliding(&steps, 20, 5));
        rig.end().await;
    });
}
