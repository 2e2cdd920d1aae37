//! What a session promises, through both doors, `embedded` and `connect`, in processes and in threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, types::Int32Type};
use pillion::{
    Code, EnvironmentSpec, FunctionRef, Plan, SessionOptions,
    host::{OnError, PlanCall, Source},
};
use std::{sync::Arc, time::Duration};
use support::*;

#[test]
fn rows_in_rows_out_in_order() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let session = rig.numbers("identity").open().await.unwrap();
        let batches: Vec<_> = (0..50).map(|at| numbers(at * 100..at * 100 + at)).collect();
        let answers = exchange(session, batches.clone()).await;
        assert_eq!(answers.len(), 50);
        for (at, (answer, batch)) in answers.into_iter().zip(batches).enumerate() {
            let output = answer.unwrap();
            assert_eq!((output.seq, values(&output.batch)), (at as u64 + 1, values(&batch)));
        }
        rig.end().await;
    });
}

#[test]
fn nulls_and_several_arguments() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let batch = pairs(1000);
        let plan = Plan::scalar(function("add"), vec![0, 1], "sum");
        let mut session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        assert_eq!(session.output_schema().field(0).name(), "sum");
        let output = ask(&mut session, batch).await.unwrap();
        let expected: Vec<_> = (0..1000).map(|i| (i % 10 != 0).then_some(i * 3)).collect();
        assert_eq!(values(&output.batch), expected);
        assert!(output.timing.user_ns > 0 && output.timing.convert_ns > 0);
        rig.end().await;
    });
}

#[test]
fn chained_functions_take_one_trip() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        // sum = add(a, b); twice = add(sum, sum); both come back, sum is computed once.
        let call = |arguments| PlanCall { function: function("add"), arguments };
        let plan = Plan {
            calls: vec![call(vec![Source::Column(0), Source::Column(1)]), call(vec![Source::Call(0), Source::Call(0)])],
            outputs: vec![("sum".into(), Source::Call(0)), ("twice".into(), Source::Call(1)), ("a".into(), Source::Column(0))],
        };
        let batch = pairs(100);
        let mut session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        let output = ask(&mut session, batch.clone()).await.unwrap().batch;
        let of = |at: usize| values(&output.project(&[at]).unwrap());
        assert_eq!(of(1), of(0).into_iter().map(|value| value.map(|value| value * 2)).collect::<Vec<_>>());
        assert_eq!(of(2), values(&batch));
        rig.end().await;
    });
}

#[test]
fn dictionaries_and_slices_arrive_as_values() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let tags: DictionaryArray<Int32Type> =
            (0..100).map(|i| if i % 2 == 0 { r#"{"name": "even"}"# } else { r#"{"name": "odd"}"# }).collect();
        let batch = RecordBatch::try_from_iter([("text", Arc::new(tags) as ArrayRef)]).unwrap();
        let plan = Plan::scalar(function("name_of"), vec![0], "name");
        let session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        let answers = exchange(session, [batch.slice(1, 3), batch.slice(98, 2)]).await;
        let found: Vec<_> = answers.into_iter().flat_map(|answer| strings(&answer.unwrap().batch)).flatten().collect();
        assert_eq!(found, ["odd", "even", "odd", "even", "odd"]);
        rig.end().await;
    });
}

#[test]
fn empty_batches_and_sessions_without_input() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        assert!(exchange(rig.open("identity").await, []).await.is_empty());
        let answers = exchange(rig.open("identity").await, [numbers([])]).await;
        assert_eq!(answers[0].as_ref().unwrap().batch.num_rows(), 0);
        rig.end().await;
    });
}

#[test]
fn large_batches_cross_in_chunks() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let batch = texts((0..200_000).map(|i| format!(r#"{{"name": "someone {i}"}}"#)));
        let plan = Plan::scalar(function("name_of"), vec![0], "name");
        let mut session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        let output = ask(&mut session, batch).await.unwrap();
        let found = strings(&output.batch);
        assert!(found.iter().enumerate().all(|(i, name)| name.as_deref() == Some(&format!("someone {i}"))));
        rig.end().await;
    });
}

#[test]
fn a_failed_row_names_itself_and_the_session_goes_on() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let plan = Plan::scalar(function("divide"), vec![0, 1], "quotient");
        let batch = |b: &[f64]| doubles(&[1.0, 2.0, 3.0], b);
        let mut session = rig.pillion.session(plan).input(batch(&[1.0; 3]).schema()).open().await.unwrap();
        let error = ask(&mut session, batch(&[1.0, 2.0, 0.0])).await.unwrap_err();
        assert_eq!((error.code(), error.seq()), (Code::FunctionRaised, Some(1)));
        let exception = error.exception().unwrap();
        assert_eq!((exception.r#type.as_str(), exception.message.as_str()), ("ZeroDivisionError", "float division by zero"));
        let frame = exception.frames.last().unwrap();
        assert!(frame.file.ends_with("plain.py") && frame.function == "divide" && frame.source == "return a / b", "{frame:?}");
        let row = exception.row.as_ref().unwrap();
        let shown: Vec<_> = row.values.iter().map(|value| format!("{}={}", value.name, value.repr)).collect();
        assert_eq!((row.index, shown), (2, vec!["a=3.0".to_owned(), "b=0.0".to_owned()]));
        assert!(ask(&mut session, batch(&[1.0; 3])).await.is_ok());
        rig.end().await;
    });
}

#[test]
fn a_failed_row_may_become_null() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let options = SessionOptions { on_error: OnError::Null, ..Default::default() };
        let mut session = rig.numbers("raise_on_13").options(options).open().await.unwrap();
        let output = ask(&mut session, numbers(12..15)).await.unwrap();
        assert_eq!(values(&output.batch), [Some(12), None, Some(14)]);
        rig.end().await;
    });
}

#[test]
fn wrong_results_are_explained() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        for (name, code) in [("text_instead", Code::ResultType), ("null_on_13", Code::ResultNull), ("sys_exit_on_13", Code::FunctionRaised)]
        {
            let mut session = rig.open(name).await;
            let error = ask(&mut session, numbers([1, 13])).await.unwrap_err();
            assert_eq!(error.code(), code, "`{name}`: {error:?}");
        }
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_opened_is_explained() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let cases = [
            (function("nothing_here"), Code::FunctionNotFound, "nothing_here"),
            (function("NOT_A_FUNCTION"), Code::NotAFunction, "is no function"),
            (function_in("absent.py", "f"), Code::ModuleNotFound, "absent.py"),
            (FunctionRef::module("no_such_module", "f"), Code::ModuleNotFound, "no_such_module"),
            (function_in("syntax_error.py", "f"), Code::ImportFailed, "SyntaxError"),
            (function_in("import_error.py", "f"), Code::ImportFailed, "LookupError"),
            (function("unopenable"), Code::OpenFailed, "no model here"),
            (function("add"), Code::ArgumentCount, "add"),
        ];
        for (function, code, says) in cases {
            let plan = Plan::scalar(function.clone(), vec![0], "r");
            let error = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.err().unwrap();
            assert_eq!(error.code(), code, "{function}: {error:?}");
            assert!(error.report().contains(says), "{function}: {}", error.report());
        }
        rig.end().await;
    });
}

#[test]
fn plans_and_batches_that_do_not_fit_are_refused() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.limits.max_batch_rows = 100).await;
        let plan = Plan::scalar(function("identity"), vec![3], "r");
        let error = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.err().unwrap();
        assert_eq!(error.code(), Code::PlanInvalid);
        let mut session = rig.open("identity").await;
        assert_eq!(session.send(numbers(0..101)).await.unwrap_err().code(), Code::BatchTooLarge);
        assert_eq!(session.send(pairs(1)).await.unwrap_err().code(), Code::SchemaMismatch);
        assert!(ask(&mut session, numbers(0..100)).await.is_ok(), "a refused batch must not harm the session");
        rig.end().await;
    });
}

#[test]
fn functions_say_what_they_are() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let described = rig.pillion.describe(&function("add"), &EnvironmentSpec::default()).await.unwrap();
        let function = described.function;
        assert_eq!((function.kind.as_str(), function.func_type.as_str(), function.result_type.as_str()), ("scalar", "general", "bigint"));
        let parameters: Vec<_> = function.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(parameters, ["a", "b"]);
        assert!(described.environment.python_version.starts_with("3."));
        rig.end().await;
    });
}

#[test]
fn a_model_is_opened_once_per_worker_and_closed_at_the_end() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.pool.max = 1).await;
        for _ in 0..2 {
            let answers = exchange(rig.open("counter").await, (0..5).map(|_| numbers([0]))).await;
            assert!(answers.into_iter().all(|answer| values(&answer.unwrap().batch) == [Some(1)]));
        }
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("closed");
        let batch = texts([path.to_str().unwrap().to_owned()]);
        let plan = Plan::scalar(function("closing"), vec![0], "path");
        let mut session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        ask(&mut session, batch).await.unwrap();
        drop(session);
        rig.end().await;
        assert_eq!(std::fs::read_to_string(path).unwrap(), "closed\n");
    });
}

#[test]
fn watermarks_pass_and_forked_workers_draw_different_numbers() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let plan = Plan::scalar(function("random_number"), vec![0], "r");
        let session = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.unwrap();
        let (mut input, mut output) = session.split();
        input.send(numbers(0..3)).await.unwrap();
        assert_eq!(input.watermark(5).await.unwrap(), 2);
        input.send(numbers(0..3)).await.unwrap();
        input.finish().await.unwrap();
        let mut seqs = Vec::new();
        while let Some(answer) = output.recv().await {
            seqs.push(answer.unwrap().seq);
        }
        assert_eq!(seqs, [1, 3]);
        rig.end().await;
    });
}

#[test]
fn a_slow_consumer_slows_the_producer() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            config.limits.session_input_rows = 1000;
            config.limits.session_output_rows = 1000;
        })
        .await;
        let session = rig.open("identity").await;
        let (mut input, mut output) = session.split();
        let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = sent.clone();
        let producer = tokio::spawn(async move {
            for _ in 0..100 {
                input.send(numbers(0..100_000)).await.unwrap();
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            input.finish().await.unwrap();
        });
        // Nothing is received: what was sent must stop growing at the credit of both directions.
        let mut last = usize::MAX;
        while last != sent.load(std::sync::atomic::Ordering::SeqCst) {
            last = sent.load(std::sync::atomic::Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        assert!(last < 60, "{last} batches were taken in although none was received");
        let mut received = 0;
        while let Some(answer) = output.recv().await {
            answer.unwrap();
            received += 1;
        }
        producer.await.unwrap();
        assert_eq!(received, 100);
        rig.end().await;
    });
}

#[test]
fn cancelling_ends_a_session_and_leaves_the_others() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let mut hanging = rig.open("sleep_for_ever_on_13").await;
        let mut other = rig.open("identity").await;
        hanging.send(numbers([13])).await.unwrap();
        assert!(rig.pillion.cancel(hanging.id()).await.unwrap());
        assert_eq!(hanging.recv().await.unwrap().unwrap_err().code(), Code::Cancelled);
        assert!(hanging.recv().await.is_none());
        assert!(!rig.pillion.cancel("s-999").await.unwrap());
        assert!(ask(&mut other, numbers([1])).await.is_ok());
        rig.end().await;
    });
}

#[test]
fn a_dropped_session_frees_its_worker() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| config.pool.max = 1).await;
        let mut hanging = rig.open("sleep_for_ever_on_13").await;
        hanging.send(numbers([13])).await.unwrap();
        drop(hanging);
        assert!(ask(&mut rig.open("identity").await, numbers([1])).await.is_ok());
        rig.end().await;
    });
}

#[test]
fn ten_sessions_at_once_do_not_mix() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let mut tasks = Vec::new();
        for at in 0..10 {
            let session = rig.open("identity").await;
            tasks.push(tokio::spawn(async move {
                let answers = exchange(session, (0..20).map(|batch| numbers([at * 1000 + batch]))).await;
                let found: Vec<_> = answers.into_iter().flat_map(|answer| values(&answer.unwrap().batch)).flatten().collect();
                assert_eq!(found, (0..20).map(|batch| at * 1000 + batch).collect::<Vec<_>>());
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        rig.end().await;
    });
}

#[test]
fn an_edited_file_is_read_again() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("edited.py");
        for number in [1, 2] {
            std::fs::write(&path, format!("def f(a: int) -> int:\n    return {number}\n")).unwrap();
            let plan = Plan::scalar(FunctionRef::file(&path, "f"), vec![0], "r");
            let mut session = rig.pillion.session(plan).input(numbers([1]).schema()).open().await.unwrap();
            assert_eq!(values(&ask(&mut session, numbers([1])).await.unwrap().batch), [Some(number)]);
        }
        rig.end().await;
    });
}

#[test]
fn nothing_is_left_after_the_end() {
    // In a process of its own would be cleaner; here other tests have children too, so only ours are looked for.
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        exchange(rig.open("identity").await, [numbers([1])]).await;
        let pids = worker_pids(&rig.pillion).await;
        assert!(!pids.is_empty());
        rig.end().await;
        let left: Vec<_> = children().into_iter().filter(|(pid, _)| pids.contains(pid)).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_drain_answers_what_was_sent_and_refuses_the_rest() {
    run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        let mut session = rig.open("slow").await;
        for at in 0..5 {
            session.send(numbers(at * 10..at * 10 + 10)).await.unwrap();
        }
        // A drain ignores what arrives after it, so all of them must have arrived.
        loop {
            let status = &rig.pillion.status(false).await.unwrap().sessions[0];
            if status.pending_batches + status.done_batches == 5 {
                break;
            }
        }
        let engine = rig.engine().clone();
        let draining = tokio::spawn(async move { engine.drain(Duration::from_secs(20)).await });
        for seq in 1..=5 {
            assert_eq!(session.recv().await.unwrap().unwrap().seq, seq);
        }
        let end = session.recv().await.unwrap().unwrap_err();
        assert_eq!((end.code(), end.is_retryable()), (Code::Draining, true));
        assert!(draining.await.unwrap(), "nothing had to be cancelled");
        assert_eq!(rig.numbers("slow").open().await.err().unwrap().code(), Code::Draining);
        rig.end().await;
    });
}

#[test]
fn a_probe_is_answered_while_the_data_stream_is_full_and_unread() {
    run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        let (mut input, output) = rig.open("identity").await.split();
        // Fill both directions: results wait unread, inputs wait for credit.
        let filling = tokio::spawn(async move { while input.send(numbers(0..500_000)).await.is_ok() {} });
        let mut taken = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let done = rig.pillion.status(false).await.unwrap().sessions[0].done_batches;
            if done == taken && done > 0 {
                break;
            }
            taken = done;
        }
        let mut times = Vec::new();
        for _ in 0..50 {
            let begun = std::time::Instant::now();
            rig.pillion.status(false).await.unwrap();
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        println!("a status call beside a full stream: p50 {:?}, max {:?}", times[25], times[49]);
        // Blocked behind the unread stream it would not come back at all.
        assert!(rig.pillion.cancel(output.id()).await.unwrap());
        // The sender waits for credit that nobody will ever give.
        drop(output);
        filling.await.unwrap();
        rig.end().await;
    });
}
