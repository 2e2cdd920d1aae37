//! Keyed sessions from end to end: state, timers, side outputs, retries, in every mode, over every transport, through both doors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, cast::AsArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use pillion::{Code, KeyedOptions, Plan, SessionOptions, host::OnError};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};
use support::{
    Mode, Rig, everywhere, in_mode,
    keyed::{Seen, Step, by_key, keyed, keyed_in, main_rows, open, per_key, rows, run, sums, table},
};

#[test]
fn state_is_kept_per_key() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps: Vec<_> = (0..20).map(|batch| Step::Rows((0..50).map(|row| ((row * 7 + batch) % 13, row, 0)).collect())).collect();
        let session = open(&rig, "Sum", by_key()).await;
        let seen = run(&rig, session, &steps).await.unwrap();
        assert_eq!(per_key(&main_rows(&seen)), sums(&steps));
        rig.end().await;
    });
}

#[test]
fn every_kind_of_cell_is_kept() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps =
            [Step::Rows(vec![(1, 5, 0), (2, 7, 0)]), Step::Rows(vec![(1, 5, 0), (1, 6, 0)]), Step::Rows(vec![(2, 7, 0), (1, 1, 0)])];
        let session = open(&rig, "Histories", by_key()).await;
        let seen = per_key(&main_rows(&run(&rig, session, &steps).await.unwrap()));
        assert_eq!(seen[&1], [vec![5, 1, 1], vec![10, 2, 1], vec![16, 3, 2], vec![17, 4, 3]]);
        assert_eq!(seen[&2], [vec![7, 1, 1], vec![14, 2, 1]]);
        rig.end().await;
    });
}

#[test]
fn a_function_written_for_pyflink_runs() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps = [Step::Rows(vec![(1, 4, 0), (2, 7, 0), (1, 8, 0)]), Step::Rows(vec![(1, 4, 0), (2, 1, 0)])];
        let session = keyed_in("pyflinked.py", &rig, "everything", by_key()).open().await.unwrap();
        let seen = per_key(&main_rows(&run(&rig, session, &steps).await.unwrap()));
        assert_eq!(seen[&1], [vec![4, 1, 4, 4, 1, 0], vec![12, 2, 8, 6, 2, 1], vec![16, 3, 8, 5, 2, 2]]);
        assert_eq!(seen[&2], [vec![7, 1, 7, 7, 1, 0], vec![8, 2, 7, 4, 2, 1]]);
        rig.end().await;
    });
}

#[test]
fn maps_and_lists_are_cleared() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps = [vec![1, 2, 2, 3], vec![0, 5], vec![1, 6], vec![0]].map(|values| {
            let row = |value| (7, value, 0);
            Step::Rows(values.into_iter().map(row).collect())
        });
        let session = open(&rig, "Purge", by_key()).await;
        let seen = per_key(&main_rows(&run(&rig, session, &steps).await.unwrap()));
        assert_eq!(seen[&7], [[1, 1], [2, 2], [2, 3], [3, 4], [0, 0], [1, 1], [2, 2], [3, 3], [0, 0]]);
        rig.end().await;
    });
}

#[test]
fn bundles_that_would_be_too_large_are_cut() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.limits.max_batch_bytes = 1 << 20).await;
        let batch = |letters: i64| Step::Rows((0..40).map(|key| (key, letters, 0)).collect());
        let steps = [batch(65_536), batch(1), batch(2), Step::Watermark(60)];
        let seen = per_key(&main_rows(&run(&rig, open(&rig, "Texts", by_key()).await, &steps).await.unwrap()));
        assert_eq!(seen.len(), 40);
        for (key, lengths) in seen {
            assert_eq!(lengths, [[65_536], [65_537], [65_539], [-65_539]], "of key {key}");
        }
        // What cannot be cut is refused.
        let session = open(&rig, "Texts", by_key()).await;
        let error = run(&rig, session, &[Step::Rows(vec![(1, 2 << 20, 0)])]).await.unwrap_err();
        assert_eq!(error.code(), Code::StateTooLarge, "{error:?}");
        rig.end().await;
    });
}

#[test]
fn while_many_timers_fire_earlier_watermarks_say_how_far_it_is() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.limits.timers_at_once = 4).await;
        let rows = Step::Rows((0..60).map(|at| (at % 7, 1, at * 10)).collect());
        let seen = run(&rig, open(&rig, "Remind", by_key()).await, &[rows, Step::Watermark(700)]).await.unwrap();
        let (mut reached, mut marks) = (i64::MIN, Vec::new());
        for seen in &seen {
            match seen {
                Seen::Row(_, row) => assert!(row[1] > reached, "the timer at {} fires behind the watermark {reached}", row[1]),
                Seen::Watermark(timestamp_ms) => {
                    reached = *timestamp_ms;
                    marks.push(reached);
                }
            }
        }
        assert!(marks.len() > 2 && marks.is_sorted() && marks.last() == Some(&700), "{marks:?}");
        assert_eq!(main_rows(&seen).len(), 60 + 7);
        rig.end().await;
    });
}

#[test]
fn side_outputs_come_with_their_tags() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let session = open(&rig, "Split", by_key()).await;
        assert_eq!(session.functions()[0].side_outputs[0].0, "large");
        let mut seen = run(&rig, session, &[Step::Rows(vec![(1, 100, 0), (1, 99, 0), (1, 101, 0)])]).await.unwrap();
        seen.retain(|seen| matches!(seen, Seen::Row(..)));
        let large = |row: Vec<i64>| Seen::Row("large".into(), row);
        assert!(seen.contains(&large(vec![1, 100])) && seen.contains(&large(vec![1, 101])) && seen.len() == 3, "{seen:?}");
        assert_eq!(main_rows(&seen), [[1, 99]]);
        rig.end().await;
    });
}

#[test]
fn event_timers_fire_at_the_watermark_and_stand_before_it() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps = [
            Step::Rows(vec![(1, 1, 100), (2, 2, 105), (1, 4, 103)]),
            Step::Watermark(109),
            Step::Watermark(112),
            Step::Rows(vec![(1, 8, 120)]),
            Step::Watermark(116),
        ];
        let session = open(&rig, "Remind", by_key()).await;
        let seen = run(&rig, session, &steps).await.unwrap();
        let marks: Vec<_> = seen.iter().filter(|seen| matches!(seen, Seen::Watermark(_))).cloned().collect();
        assert_eq!(marks, [109, 112, 116].map(Seen::Watermark));
        let place = |wanted: &Seen| seen.iter().position(|seen| seen == wanted).unwrap();
        let row = |key, at, sum| Seen::Row(String::new(), vec![key, at, sum]);
        // Rows before a watermark see the old one, and its timers stand before it.
        assert!((place(&Seen::Watermark(109))..place(&Seen::Watermark(112))).contains(&place(&row(1, 110, 5))));
        let second = place(&Seen::Watermark(112))..place(&Seen::Watermark(116));
        assert!([row(1, 113, 13), row(1, 115, 13), row(2, 115, 2)].iter().all(|wanted| second.contains(&place(wanted))), "{seen:?}");
        // The end fires what is left, timers of timers included.
        let end = place(&Seen::Watermark(116))..seen.len();
        assert!([row(2, 120, 2), row(1, 130, 13)].iter().all(|wanted| end.contains(&place(wanted))), "{seen:?}");
        let fired = per_key(&main_rows(&seen));
        assert_eq!(fired[&1].iter().map(|row| row[0]).collect::<Vec<_>>(), [110, 113, 115, 130], "in the order of their times");
        rig.end().await;
    });
}

#[test]
fn processing_timers_fire_by_the_hosts_clock() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let options = KeyedOptions { host_clock: true, ..by_key() };
        let session = open(&rig, "Alarm", options).await;
        let steps = [Step::Clock(1000), Step::Rows(vec![(1, 0, 0)]), Step::Clock(1005), Step::Rows(vec![(2, 0, 0)]), Step::Clock(1012)];
        let seen = run(&rig, session, &steps).await.unwrap();
        // The end drops those that are not due.
        assert_eq!(main_rows(&seen), [[1, 1010]]);
        rig.end().await;
    });
}

#[test]
fn values_expire_by_the_clock() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let options = KeyedOptions { host_clock: true, ..by_key() };
        let session = open(&rig, "Forget", options).await;
        let row = |value| Step::Rows(vec![(1, value, 0)]);
        let steps = [Step::Clock(1000), row(1), Step::Clock(1099), row(2), Step::Clock(1198), row(3), Step::Clock(1298), row(4)];
        let seen = run(&rig, session, &steps).await.unwrap();
        assert_eq!(main_rows(&seen), [[1, i64::MIN], [1, 1], [1, 2], [1, i64::MIN]]);
        rig.end().await;
    });
}

#[test]
fn a_bundle_whose_worker_dies_takes_effect_once() {
    in_mode(Mode::Process, async |setup| {
        let rig = Rig::new(setup).await;
        let mark = rig.folder().join("died");
        let mut environment = pillion::EnvironmentSpec::default();
        environment.variables.insert("TEST_MARK".into(), mark.display().to_string());
        let session = keyed(&rig, "DieOnce", by_key()).environment(environment).open().await.unwrap();
        let steps: Vec<_> = (0..10).map(|batch| Step::Rows((0..30).map(|row| (row % 3, row + batch, 0)).collect())).collect();
        let seen = run(&rig, session, &steps).await.unwrap();
        assert!(mark.exists());
        assert_eq!(per_key(&main_rows(&seen)), sums(&steps));
        rig.end().await;
    });
}

#[test]
fn a_function_that_raises_ends_the_session_with_its_row() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let session = open(&rig, "Raise", by_key()).await;
        let error = run(&rig, session, &[Step::Rows(vec![(1, 1, 0), (1, 13, 0)])]).await.unwrap_err();
        assert_eq!(error.code(), Code::FunctionRaised, "{error:?}");
        assert_eq!(error.exception().unwrap().message, "thirteen");
        rig.end().await;
    });
}

#[test]
fn a_row_may_fail_alone() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let steps = [Step::Rows(vec![(1, 1, 0), (1, 13, 5), (2, 13, 0), (1, 2, 0)]), Step::Rows(vec![(2, 3, 0), (1, 13, 7)])];
        let without = [Step::Rows(vec![(1, 1, 0), (1, 2, 0), (2, 3, 0)])];
        for on_error in [OnError::Skip, OnError::Side] {
            let options = SessionOptions { on_error, ..Default::default() };
            let (mut input, mut output) = keyed(&rig, "Raise", by_key()).options(options).open().await.unwrap().split();
            for step in &steps {
                let Step::Rows(given) = step else { continue };
                input.send(rows(given)).await.unwrap();
            }
            input.finish().await.unwrap();
            let (mut sums_seen, mut aside) = (Vec::new(), Vec::new());
            while let Some(result) = output.recv().await {
                let result = result.unwrap();
                match result.tag.as_deref() {
                    None => sums_seen.extend(table(&result.batch)),
                    Some(tag) => {
                        assert_eq!(tag, "pillion.errors");
                        let text = |column: usize, row| result.batch.column(column).as_string::<i32>().value(row).to_owned();
                        let numbers = table(&result.batch.project(&[0, 1, 2]).unwrap());
                        aside.extend(numbers.into_iter().enumerate().map(|(row, numbers)| (numbers, text(3, row), text(4, row))));
                    }
                }
            }
            assert_eq!(per_key(&sums_seen), sums(&without), "nothing is left of the rows that raised");
            let mut expected: Vec<_> =
                [[1, 13, 5], [2, 13, 0], [1, 13, 7]].map(|row| (row.to_vec(), "ValueError".to_owned(), "thirteen".to_owned())).into();
            if on_error == OnError::Skip {
                expected.clear();
            }
            aside.sort();
            expected.sort();
            assert_eq!(aside, expected);
        }
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_keyed_is_refused() {
    support::run(async {
        let rig = Rig::new(support::Door::Embedded).await;
        let refused = async |name: &str, options: KeyedOptions| keyed(&rig, name, options).open().await.err().unwrap().code();
        assert_eq!(refused("Sum", KeyedOptions::default()).await, Code::PlanInvalid, "a keyed function needs a key");
        assert_eq!(refused("Sum", KeyedOptions::by(["nobody"])).await, Code::OptionsInvalid);
        assert_eq!(refused("Sum", KeyedOptions { key_groups: Some(100..=200), ..by_key() }).await, Code::OptionsInvalid);
        assert_eq!(refused("Sum", KeyedOptions { max_parallelism: Some(40_000), ..by_key() }).await, Code::OptionsInvalid);
        // A list is a key like others; what has no equality is none.
        let keyed_by = async |data_type: DataType| {
            let mut fields: Vec<_> = rows(&[]).schema().fields().iter().map(|field| field.as_ref().clone()).collect();
            fields[0] = Field::new("key", data_type, true);
            let session =
                rig.pillion.session(Plan::map(support::function_in("stateful.py", "Listed"))).input(Arc::new(Schema::new(fields)));
            session.keyed(by_key()).open().await
        };
        keyed_by(DataType::new_list(DataType::Int64, true)).await.unwrap();
        let entry = Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int64, true)]);
        let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false);
        for unhashable in [map.clone(), DataType::new_list(map, true)] {
            let error = keyed_by(unhashable).await.err().unwrap();
            assert!(error.code() == Code::KeyType && error.message().contains("`key`") && error.hint_text().is_some(), "{error:?}");
        }
        let stateless = rig.pillion.session(Plan::map(support::function("identity"))).input(rows(&[]).schema()).keyed(by_key());
        assert!(stateless.open().await.is_err());
        let back = run(&rig, open(&rig, "Sum", by_key()).await, &[Step::Watermark(5), Step::Watermark(4)]).await.unwrap_err();
        assert!(back.code() == Code::ProtocolViolation && back.message().contains("a watermark of 4 follows one of 5"), "{back:?}");
        let clock = run(&rig, open(&rig, "Sum", by_key()).await, &[Step::Clock(5)]).await.unwrap_err();
        assert_eq!(clock.code(), Code::ProtocolViolation);
        let hosts = KeyedOptions { host_clock: true, ..by_key() };
        let clock = run(&rig, open(&rig, "Sum", hosts).await, &[Step::Clock(5), Step::Clock(5), Step::Clock(4)]).await.unwrap_err();
        assert!(clock.code() == Code::ProtocolViolation && clock.message().contains("processing time went back"), "{clock:?}");
        rig.end().await;
    });
}

#[test]
fn state_in_memory_has_the_limit_that_is_configured() {
    support::run(async {
        let rig = Rig::with(support::Door::Embedded, |config| {
            config.state.memory_bytes = Some(1 << 20);
            config.state.full_wait = Duration::from_millis(50);
        })
        .await;
        let batch = |letters: i64| Step::Rows((0..10).map(|key| (key, letters, 0)).collect());
        let fits = [batch(20_000), batch(20_000)];
        let seen = run(&rig, open(&rig, "Texts", by_key()).await, &fits).await.unwrap();
        assert_eq!(per_key(&main_rows(&seen)).values().filter(|lengths| lengths.contains(&vec![40_000])).count(), 10);
        // A bundle that would go beyond has no effect, and when no room was made for it the session ends. Another has a limit of its own.
        let (mut input, mut output) = open(&rig, "Texts", by_key()).await.split();
        let large = rows(&(0..10).map(|key| (key, 60_000, 0)).collect::<Vec<_>>());
        input.send(large.clone()).await.unwrap();
        let mut lengths = Vec::new();
        while lengths.len() < 10 {
            lengths.extend(table(&output.recv().await.unwrap().unwrap().batch).into_iter().map(|row| row[1]));
        }
        assert_eq!(lengths, [60_000; 10]);
        input.send(large).await.unwrap();
        let error = output.recv().await.unwrap().unwrap_err();
        assert!(error.code() == Code::StateFull && error.message().contains("1.0 MiB"), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("`state.memory_bytes`")), "{error:?}");
        run(&rig, open(&rig, "Texts", by_key()).await, &fits).await.unwrap();
        rig.end().await;
    });
}

#[test]
fn a_null_key_is_refused() {
    support::run(async {
        let rig = Rig::new(support::Door::Embedded).await;
        let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let nobody =
            RecordBatch::try_new(rows(&[]).schema(), vec![column(vec![None]), column(vec![Some(1)]), column(vec![Some(1)])]).unwrap();
        let mut session = open(&rig, "Sum", by_key()).await;
        session.send(nobody).await.unwrap();
        assert_eq!(session.recv().await.unwrap().unwrap_err().code(), Code::KeyNull);
        rig.end().await;
    });
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..8i64, 0..100i64, Just(0i64));
    let step = prop_oneof![
        6 => proptest::collection::vec(row, 1..20).prop_map(Step::Rows),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Whatever is sent, and whenever workers are killed: every key has the running sums of an undisturbed run.
#[test]
fn sums_are_right_whenever_workers_are_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rig = runtime.block_on(Rig::new(support::Door::Embedded));
    let cases = std::env::var("PILLION_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20);
    let cases = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(cases, |(steps in steps())| {
        let seen = runtime.block_on(async {
            let session = open(&rig, "Sum", by_key()).await;
            run(&rig, session, &steps).await.unwrap()
        });
        prop_assert_eq!(per_key(&main_rows(&seen)), sums(&steps));
    });
    runtime.block_on(rig.end());
}
