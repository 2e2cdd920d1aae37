//! Mistakes that were found by reading, each with the sequence of events that showed it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pillion::{Code, FunctionRef, Plan, SessionOptions};
use std::time::Duration;
use support::*;
use tempfile::TempDir;

#[test]
fn an_open_given_up_in_the_middle_leaves_no_answer_for_the_next_one() {
    both_doors(async |door| {
        let rig = Rig::with(door, |config| config.pool.max = 1).await;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("slow_import.py");
        std::fs::write(&path, "import time\ntime.sleep(1.5)\n\ndef wrong(a: int) -> str:\n    return 'wrong'\n").unwrap();
        let plan = Plan::scalar(FunctionRef::file(&path, "wrong"), vec![0], "r");
        let opening = rig.pillion.session(plan).input(numbers([1]).schema()).open();
        assert!(tokio::time::timeout(Duration::from_millis(700), opening).await.is_err(), "the import was meant to be slow");
        let mut session = rig.open("identity").await;
        assert!(session.functions()[0].name.ends_with("identity"), "{:?}", session.functions());
        assert_eq!(values(&ask(&mut session, numbers([7])).await.unwrap().batch), [Some(7)]);
        rig.end().await;
    });
}

#[test]
fn a_plan_that_fails_to_load_on_another_worker_fails_batches_with_its_own_error() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("once.py");
        let marker = folder.path().join("marker").display().to_string();
        let text = format!(
            "import os, time\nfrom pillion import udf\nif os.path.exists({marker:?}):\n    raise RuntimeError('only once')\nopen({marker:?}, 'w').close()\n\n\
             @udf(result_type='bigint')\ndef f(a):\n    time.sleep(0.5)\n    return a\n"
        );
        std::fs::write(&path, text).unwrap();
        let plan = Plan::scalar(FunctionRef::file(&path, "f"), vec![0], "r");
        let session = rig.pillion.session(plan).input(numbers([1]).schema()).options(attempts(1)).open().await.unwrap();
        let answers = exchange(session, (0..4).map(|at| numbers([at]))).await;
        assert_eq!(answers.len(), 4);
        let failures: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(!failures.is_empty(), "a second worker was meant to be used");
        assert!(failures.iter().all(|error| error.code() == Code::ImportFailed), "{failures:?}");
        assert!(answers.iter().any(Result::is_ok), "the worker that could load it goes on");
        rig.end().await;
    });
}

#[test]
fn results_that_nobody_takes_stop_the_work() {
    both_doors(async |door| {
        let rig = Rig::with(door, |config| config.limits.session_output_bytes = 1 << 20).await;
        let plan = Plan::scalar(function("large"), vec![0], "r");
        let session = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.unwrap();
        // Ten numbers in, a megabyte out; the inputs alone would never use up their credit. The connection's own credit is 64 MiB.
        let (mut input, mut output) = session.split();
        for at in 0..200 {
            input.send(numbers(at..at + 10)).await.unwrap();
        }
        input.finish().await.unwrap();
        let mut done = u64::MAX;
        loop {
            let now = rig.pillion.status(false).await.unwrap().sessions[0].done_batches;
            if now == done {
                break;
            }
            done = now;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(done < 120, "{done} results were made although none was taken");
        let mut seqs = Vec::new();
        while let Some(answer) = output.recv().await {
            seqs.push(answer.unwrap().seq);
        }
        assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
        rig.end().await;
    });
}

#[test]
fn a_sender_that_waits_for_credit_hears_of_a_cancel() {
    run(async {
        let rig = Rig::with(Door::Embedded, |config| config.limits.session_input_rows = 10).await;
        let options = SessionOptions { max_workers: Some(1), ..Default::default() };
        let mut session = rig.numbers("sleep_for_ever_on_13").options(options).open().await.unwrap();
        let (pillion, id) = (rig.pillion.clone(), session.id().to_owned());
        let cancelling = tokio::spawn(async move {
            while pillion.status(false).await.unwrap().sessions[0].pending_batches == 0 {}
            pillion.cancel(&id).await.unwrap()
        });
        session.send(numbers(13..33)).await.unwrap();
        assert_eq!(session.send(numbers([1])).await.unwrap_err().code(), Code::SessionClosed);
        assert!(cancelling.await.unwrap());
        rig.end().await;
    });
}

#[test]
fn sessions_opened_at_once_stay_within_the_limit() {
    both_doors(|door| async move {
        let rig = Rig::with(door, |config| config.limits.max_sessions = 3).await;
        let opens: Vec<_> = (0..12).map(|_| tokio::spawn(rig.numbers("identity").open())).collect();
        let mut sessions = Vec::new();
        for open in opens {
            match open.await.unwrap() {
                Ok(session) => sessions.push(session),
                Err(error) => assert_eq!(error.code(), Code::SessionLimit),
            }
        }
        assert_eq!(sessions.len(), 3);
        rig.end().await;
    });
}

#[test]
fn a_served_engine_ends_with_its_server() {
    run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        let engine = std::sync::Arc::downgrade(rig.engine());
        rig.end().await;
        // Connections end on tasks of their own.
        while engine.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_schema_that_fits_in_no_message_is_refused_clearly() {
    use arrow_schema::{DataType, Field, Schema};
    both_doors(|door| async move {
        let rig = Rig::new(door).await;
        let schema = |columns: i32| {
            let fields: Vec<_> = (0..columns).map(|at| Field::new(at.to_string(), DataType::Int64, true)).collect();
            std::sync::Arc::new(Schema::new(fields))
        };
        let error = rig.numbers("identity").input(schema(80_000)).open().await.err().unwrap();
        assert_eq!(error.code(), Code::UnsupportedType);
        assert!(error.message().contains("schema") && error.hint_text().is_some(), "{error:?}");
        assert!(rig.numbers("identity").input(schema(20_000)).open().await.is_ok());
        rig.end().await;
    });
}
