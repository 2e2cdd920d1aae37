//! Keyed sessions with several inputs: their watermarks and idleness, broadcasts, and table functions; in every mode, over every transport, through both doors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use pillion::{Code, Event, KeyedInput, KeyedOptions, Session, SessionOptions, state::host::Maps};
use std::sync::Arc;
use support::{
    Door, Rig, Setup, everywhere,
    keyed::{by_key, keyed_in, main_rows, per_key, rows, table},
};

/// Rows of (key, factor, event time), or without a key of (limit, event time).
fn second<const N: usize>(names: [&str; N], rows: &[[i64; N]]) -> RecordBatch {
    let column = |at: usize| Arc::new(rows.iter().map(|row| row[at]).collect::<Int64Array>()) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable(names.iter().enumerate().map(|(at, name)| (*name, column(at), true))).unwrap()
}

fn factors(rows: &[[i64; 3]]) -> RecordBatch {
    second(["key", "factor", "time"], rows)
}

fn limits(rows: &[[i64; 1]]) -> RecordBatch {
    second(["limit"], rows)
}

fn with(input: KeyedInput) -> KeyedOptions {
    KeyedOptions { more_inputs: vec![input], ..by_key() }
}

fn of_factors() -> KeyedInput {
    KeyedInput {
        schema: factors(&[]).schema(),
        keys: vec!["key".into()],
        event_time: Some("time".into()),
        key_group: None,
        broadcast: false,
    }
}

fn of_limits() -> KeyedInput {
    KeyedInput { schema: limits(&[]).schema(), keys: vec![], event_time: None, key_group: None, broadcast: true }
}

async fn open(rig: &Rig, name: &str, options: KeyedOptions) -> Session {
    keyed_in("inputs.py", rig, name, options).open().await.unwrap_or_else(|error| panic!("`{name}` did not open: {error:?}"))
}

/// All rows, and the watermarks among them with how many rows stand before each.
async fn rest(session: &mut Session) -> (Vec<Vec<i64>>, Vec<(i64, usize)>) {
    let (input, output) = session.halves();
    input.finish().await.unwrap();
    let (mut found, mut marks) = (Vec::new(), Vec::new());
    while let Some(event) = output.next().await {
        match event.unwrap() {
            Event::Output(result) => found.extend(table(&result.batch)),
            Event::Watermark { timestamp_ms, .. } => marks.push((timestamp_ms, found.len())),
            _ => {}
        }
    }
    (found, marks)
}

#[test]
fn two_inputs_share_the_state_of_a_key() {
    everywhere(async |setup: Setup| {
        let rig = Rig::new(setup).await;
        let mut session = open(&rig, "Join", with(of_factors())).await;
        let (input, _) = session.halves();
        input.send(rows(&[(1, 5, 0), (2, 6, 0)])).await.unwrap();
        input.send_to(1, factors(&[[1, 10, 0], [2, 20, 5]])).await.unwrap();
        input.send(rows(&[(1, 7, 0), (2, 8, 0), (1, 9, 0)])).await.unwrap();
        input.send_to(1, factors(&[[1, 100, 3]])).await.unwrap();
        input.send(rows(&[(1, 1, 0)])).await.unwrap();
        let (found, _) = rest(&mut session).await;
        let found = per_key(&found);
        let none = i64::MIN;
        assert_eq!(found[&1], [[0, none], [70, 10], [90, 10], [100, 100], [-10, 100], [-13, 100]]);
        assert_eq!(found[&2], [[0, none], [160, 20], [-15, 20]]);
        rig.end().await;
    });
}

#[test]
fn event_time_is_that_of_the_slowest_input_that_is_not_idle() {
    everywhere(async |setup: Setup| {
        let rig = Rig::new(setup).await;
        let mut session = open(&rig, "Join", with(of_factors())).await;
        let (input, _) = session.halves();
        input.send_to(1, factors(&[[1, 10, 0], [1, 20, 20]])).await.unwrap();
        input.watermark_of(1, 50).await.unwrap();
        input.watermark_of(0, 12).await.unwrap();
        input.idle(0, true).await.unwrap();
        input.idle(0, false).await.unwrap();
        input.watermark_of(0, 60).await.unwrap();
        let (found, marks) = rest(&mut session).await;
        // The first input lets the timer at 10 fire; when it is idle the second one lets go the one at 30; 60 is behind both.
        assert_eq!(found, [[1, -10, 20], [1, -30, 20]]);
        assert_eq!(marks, [(12, 1), (50, 2)]);
        rig.end().await;
    });
}

#[test]
fn a_broadcast_is_seen_by_all_keys_from_its_place_on() {
    everywhere(async |setup: Setup| {
        let rig = Rig::new(setup).await;
        for at_host in [false, true] {
            let builder = keyed_in("inputs.py", &rig, "Limits", with(of_limits()));
            let builder = if at_host { builder.state_host(Arc::new(Maps::default())) } else { builder };
            let mut session = builder.open().await.unwrap();
            let all = |value: i64| rows(&(0..40).map(|key| (key, value, 0)).collect::<Vec<_>>());
            let (input, _) = session.halves();
            input.send(all(1)).await.unwrap();
            input.send_to(1, limits(&[[7], [8]])).await.unwrap();
            input.send(all(2)).await.unwrap();
            input.send_to(1, limits(&[[9]])).await.unwrap();
            input.send(all(3)).await.unwrap();
            let (found, _) = rest(&mut session).await;
            let mut found = per_key(&found);
            let none = i64::MIN;
            assert_eq!(found.remove(&none).unwrap(), [[none, 7], [none, 8], [none, 9]], "what the broadcast itself gave");
            assert_eq!(found.len(), 40);
            for (key, rows) in found {
                assert_eq!(rows, [[1, none], [3, 8], [6, 9]], "of key {key}");
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_broadcast_state_is_restored_to_every_operator() {
    support::run(async {
        let rig = Rig::with(Door::Embedded, |config| {
            config.state.checkpoints = Some(config.runtime_dir.with_file_name("checkpoints").display().to_string());
        })
        .await;
        let mut session = open(&rig, "Limits", with(of_limits())).await;
        let (input, output) = session.halves();
        input.send_to(1, limits(&[[7]])).await.unwrap();
        input.barrier(1).await.unwrap();
        let handle = loop {
            if let Event::Checkpointed { result, .. } = output.next().await.unwrap().unwrap() {
                break result.unwrap().handle;
            }
        };
        let mut seen = Vec::new();
        for groups in [0..=63, 64..=127] {
            let options = KeyedOptions { key_groups: Some(groups.clone()), restore: vec![handle.clone()], ..with(of_limits()) };
            let mut session = open(&rig, "Limits", options).await;
            // Key 1 belongs to one of them; a row of another operator's is refused.
            let _ = session.send(rows(&[(1, 1, 0)])).await;
            let _ = session.finish().await;
            if let Some(Ok(result)) = session.recv().await {
                seen.extend(table(&result.batch));
            }
        }
        assert_eq!(seen, [[1, 1, 7]]);
        rig.end().await;
    });
}

#[test]
fn a_named_timer_moves() {
    everywhere(async |setup: Setup| {
        let rig = Rig::new(setup).await;
        let mut session = open(&rig, "Counts", by_key()).await;
        let (input, _) = session.halves();
        input.send(rows(&[(1, 0, 0), (2, 0, 1), (1, 0, 8)])).await.unwrap();
        input.watermark(12).await.unwrap();
        input.send(rows(&[(1, 0, 16)])).await.unwrap();
        input.watermark(30).await.unwrap();
        input.send(rows(&[(1, 0, 40)])).await.unwrap();
        let (found, marks) = rest(&mut session).await;
        assert_eq!(found, [[2, 1], [1, 3], [1, 1]]);
        assert_eq!(marks, [(12, 1), (30, 2)]);
        rig.end().await;
    });
}

#[test]
fn what_a_second_input_cannot_be_is_refused() {
    support::run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        let refused = async |name: &str, options: KeyedOptions| {
            keyed_in("inputs.py", &rig, name, options).open().await.err().map(|error| error.code())
        };
        assert_eq!(refused("Join", with(KeyedInput { keys: vec!["nobody".into()], ..of_factors() })).await, Some(Code::OptionsInvalid));
        assert!(refused("Join", by_key()).await.is_some(), "the function has two inputs");
        let text = RecordBatch::try_from_iter([("key", Arc::new(arrow_array::StringArray::from(vec!["1"])) as ArrayRef)]).unwrap();
        let other_type = KeyedInput { schema: text.schema(), event_time: None, ..of_factors() };
        assert_eq!(refused("Join", with(other_type)).await, Some(Code::SchemaMismatch));
        let keyed_broadcast = KeyedInput { broadcast: true, ..of_factors() };
        assert_eq!(refused("Join", with(keyed_broadcast)).await, Some(Code::OptionsInvalid));
        let mut session = open(&rig, "Join", with(of_factors())).await;
        assert_eq!(session.halves().0.send_to(2, factors(&[])).await.unwrap_err().code(), Code::Unsupported);
        rig.end().await;
    });
}

/// The groups of an engine with a hash of its own: they are taken as they are, kept with the state, and found again by whoever restores them.
#[test]
fn key_groups_are_the_hosts_if_it_gives_them() {
    support::run(async {
        let rig = Rig::with(Door::ConnectUnix, |config| {
            config.state.checkpoints = Some(config.runtime_dir.with_file_name("checkpoints").display().to_string());
        })
        .await;
        // The column `time` holds the groups: ten times the key.
        let given = |groups: std::ops::RangeInclusive<u16>, restore: Vec<String>| KeyedOptions {
            key_group: Some("time".into()),
            key_groups: Some(groups),
            restore,
            ..KeyedOptions::by(["key"])
        };
        let sum = async |options| keyed_in("stateful.py", &rig, "Sum", options).open().await.unwrap();
        let mut session = sum(given(0..=127, vec![])).await;
        let (input, output) = session.halves();
        input.send(rows(&[(1, 5, 10), (2, 6, 20), (12, 7, 120), (1, 1, 10)])).await.unwrap();
        input.barrier(1).await.unwrap();
        let handle = loop {
            if let Event::Checkpointed { result, .. } = output.next().await.unwrap().unwrap() {
                break result.unwrap().handle;
            }
        };
        let mut found = Vec::new();
        for (groups, mine) in [(0..=19, vec![(1, 1, 10)]), (20..=127, vec![(2, 1, 20), (12, 1, 120)])] {
            let mut session = sum(given(groups, vec![handle.clone()])).await;
            session.send(rows(&mine)).await.unwrap();
            found.extend(rest(&mut session).await.0);
        }
        found.sort();
        assert_eq!(found, [[1, 7], [2, 7], [12, 8]]);
        for (wrong, said) in
            [((1, 1, 128), "below the max parallelism"), ((1, 1, -1), "below the max parallelism"), ((1, 1, i64::MIN), "null")]
        {
            let mut session = sum(given(0..=127, vec![])).await;
            session.send(rows(&[(1, 1, 10), wrong])).await.unwrap();
            let error = session.recv().await.unwrap().unwrap_err();
            assert!(error.code() == Code::ProtocolViolation && error.message().contains(said), "{error:?}");
        }
        let mut session = sum(given(0..=127, vec![])).await;
        session.send(rows(&[(1, 1, 10), (1, 1, 11)])).await.unwrap();
        assert!(session.recv().await.unwrap().unwrap_err().message().contains("had 10"), "equal keys have equal groups");
        rig.end().await;
    });
}

#[test]
fn results_of_two_inputs_do_not_depend_on_the_number_of_workers() {
    support::run(async {
        let rig = Rig::new(Door::Embedded).await;
        let mut answers = Vec::new();
        for max_workers in [1, 2] {
            let options = SessionOptions { max_workers: Some(max_workers), ..Default::default() };
            let mut session = keyed_in("inputs.py", &rig, "Join", with(of_factors())).options(options).open().await.unwrap();
            let (input, output) = session.halves();
            for batch in 0..20 {
                let keys = (0..50).map(|row| (row * 7 + batch) % 23);
                input.send(rows(&keys.clone().map(|key| (key, batch, batch)).collect::<Vec<_>>())).await.unwrap();
                input.send_to(1, factors(&keys.map(|key| [key, key + batch, batch]).collect::<Vec<_>>())).await.unwrap();
            }
            input.finish().await.unwrap();
            let mut found = Vec::new();
            while let Some(event) = output.next().await {
                if let Event::Output(result) = event.unwrap() {
                    found.extend(table(&result.batch).into_iter().map(|row| support::keyed::Seen::Row(String::new(), row)));
                }
            }
            answers.push(per_key(&main_rows(&found)));
        }
        assert_eq!(answers[0], answers[1]);
        rig.end().await;
    });
}
