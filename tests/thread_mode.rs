//! What thread mode adds, and what it refuses. What it shares with process mode is in `conformance.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use arrow_array::{Array, RecordBatch};
use pillion::{
    Code, Config, EnvironmentSpec, Pillion, Plan, SessionOptions,
    config::EnvironmentConfig,
    environment,
    host::{PlanCall, Source},
};
use std::{collections::HashSet, time::Duration};
use support::*;

const HERE: Setup = Setup { door: Door::Embedded, mode: Mode::Thread };
const BEHIND_A_DOOR: Setup = Setup { door: Door::ConnectUnix, mode: Mode::Thread };

/// Passes column 0 through, beside a call.
fn passing() -> Plan {
    Plan {
        calls: vec![PlanCall { function: function("identity"), arguments: vec![Source::Column(0)] }],
        outputs: vec![("a".into(), Source::Column(0)), ("r".into(), Source::Call(0))],
    }
}

fn address(batch: &RecordBatch) -> usize {
    batch.column(0).to_data().buffers()[0].as_ptr() as usize
}

#[test]
fn a_batch_crosses_without_a_copy() {
    run(async {
        let rig = Rig::new(HERE).await;
        let batch = numbers(0..50_000);
        let mut session = rig.pillion.session(passing()).input(batch.schema()).open().await.unwrap();
        let sliced = batch.slice(1000, 30_000);
        let sent = ask(&mut session, sliced.clone()).await.unwrap().batch;
        let here = session.call_here(batch.clone()).unwrap().batch;
        assert_eq!((address(&sent), address(&here)), (address(&sliced), address(&batch)), "a column that is passed through has moved");
        drop(session);
        rig.end().await;
        // The results outlive the engine.
        assert_eq!((values(&sent).len(), values(&here)), (30_000, values(&batch)));
    });
}

#[test]
fn the_callers_own_thread_runs_the_function() {
    run(async {
        let rig = Rig::new(HERE).await;
        let mut session = rig.open("thread").await;
        let elsewhere = values(&ask(&mut session, numbers([1])).await.unwrap().batch)[0].unwrap();
        let me = || i64::from(rustix::thread::gettid().as_raw_nonzero().get());
        assert_ne!(elsewhere, me());
        // From a thread that has nothing to do with any runtime, several times, so that its state for Python is used again.
        let joined = std::thread::spawn(move || {
            for seq in 2..5 {
                let output = session.call_here(numbers([1])).unwrap();
                assert_eq!((output.seq, values(&output.batch)), (seq, vec![Some(me())]));
                assert!(output.timing.user_ns > 0);
            }
            session
        });
        let mut session = joined.join().unwrap();
        // Both ways may be mixed.
        assert_eq!(ask(&mut session, numbers([1])).await.unwrap().seq, 5);
        session.send(numbers([1])).await.unwrap();
        assert_eq!(session.call_here(numbers([1])).unwrap_err().code(), Code::Unsupported, "a result is outstanding");
        assert_eq!(session.recv().await.unwrap().unwrap().seq, 6);
        assert_eq!(session.call_here(numbers([1])).unwrap().seq, 7);
        session.finish().await.unwrap();
        assert_eq!(session.call_here(numbers([1])).unwrap_err().code(), Code::SessionClosed);
        assert!(session.recv().await.is_none());
        rig.end().await;
    });
}

#[test]
fn failures_on_the_callers_thread_are_those_of_everywhere() {
    run(async {
        let rig = Rig::new(HERE).await;
        let mut session = rig.open("raise_on_13").await;
        let error = session.call_here(numbers([12, 13])).unwrap_err();
        assert_eq!((error.code(), error.seq()), (Code::FunctionRaised, Some(1)));
        assert_eq!(error.exception().unwrap().row.as_ref().unwrap().index, 1);
        assert_eq!(session.call_here(pairs(1)).unwrap_err().code(), Code::SchemaMismatch);
        assert_eq!(session.call_here(numbers([12])).unwrap().seq, 2, "a refused batch takes no number");
        rig.end().await;
        for setup in [BEHIND_A_DOOR, Setup::from(Door::Embedded)] {
            let rig = Rig::new(setup).await;
            let mut session = rig.open("identity").await;
            assert_eq!(session.call_here(numbers([1])).unwrap_err().code(), Code::Unsupported);
            assert_eq!(ask(&mut session, numbers([1])).await.unwrap().seq, 1);
            drop(session);
            rig.end().await;
        }
    });
}

#[test]
fn workers_share_no_globals() {
    in_mode(Mode::Thread, async |setup| {
        let rig = Rig::new(setup).await;
        let answers = exchange(rig.open("calls_of_this_worker").await, (0..8).map(|_| numbers([0, 0]))).await;
        let mut last: Vec<_> = answers.into_iter().flat_map(|answer| values(&answer.unwrap().batch)).flatten().collect();
        let calls = last.len();
        last.sort_unstable();
        // Two workers count to about eight each; one module for both would count to sixteen.
        assert_eq!((calls, last[0], last[1]), (16, 1, 1), "{last:?}");
        assert!(*last.last().unwrap() < 16, "{last:?}");
        rig.end().await;
    });
}

#[test]
fn engines_of_one_process_share_no_globals() {
    run(async {
        // They call their workers alike.
        let rigs = [Rig::new(HERE).await, Rig::new(HERE).await];
        let mut sessions = vec![];
        for rig in &rigs {
            let mut session = rig.open("calls_of_this_worker").await;
            assert_eq!(values(&ask(&mut session, numbers([0])).await.unwrap().batch), [Some(1)]);
            sessions.push(session);
        }
        drop(sessions);
        for rig in rigs {
            rig.end().await;
        }
    });
}

#[test]
fn an_abandoned_function_is_told() {
    in_mode(Mode::Thread, async |setup| {
        let rig = Rig::with(setup, |config| {
            config.pool.max = 1;
            config.limits.kill_grace = Duration::from_millis(50);
        })
        .await;
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("told");
        let batch = texts([path.to_str().unwrap().to_owned()]);
        let plan = Plan::scalar(function("spin_until_abandoned"), vec![0], "r");
        let mut session = rig.pillion.session(plan).input(batch.schema()).open().await.unwrap();
        session.send(batch).await.unwrap();
        let runs = async || {
            let status = rig.pillion.status(true).await.unwrap();
            status.pools.iter().flat_map(|pool| &pool.workers).any(|worker| worker.stacks.contains("spin_until_abandoned"))
        };
        while !runs().await {}
        drop(session);
        // The only worker is replaced although its thread is still busy.
        assert!(ask(&mut rig.open("identity").await, numbers([1])).await.is_ok());
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.end().await;
    });
}

#[test]
fn what_threads_cannot_give_is_refused() {
    in_mode(Mode::Thread, async |setup| {
        let rig = Rig::new(setup).await;
        let options = SessionOptions { bundle_deadline: Some(Duration::from_secs(5)), ..Default::default() };
        let error = rig.numbers("identity").options(options).open().await.err().unwrap();
        assert_eq!(error.code(), Code::Unsupported);
        assert!(error.report().contains("process mode"), "{}", error.report());
        rig.end().await;
    });
    run(async {
        let threads = || EnvironmentConfig { mode: environment::Mode::Thread, ..Default::default() };
        let folder = tempfile::TempDir::new().unwrap();
        let two = Config { environments: [("a".into(), threads()), ("b".into(), threads())].into(), ..config(&folder) };
        assert_eq!(Pillion::embedded(two).await.err().unwrap().code(), Code::ConfigInvalid);
        let mut limited = Config { environments: [("a".into(), threads())].into(), ..config(&folder) };
        limited.pool.max_memory = Some(1 << 30);
        assert_eq!(Pillion::embedded(limited.clone()).await.err().unwrap().code(), Code::ConfigInvalid);
        // Asked for by a host.
        limited.environments.clear();
        let pillion = Pillion::embedded(limited).await.unwrap();
        let spec = EnvironmentSpec::default().in_threads();
        assert_eq!(pillion.describe(&function("add"), &spec).await.err().unwrap().code(), Code::Unsupported);
        pillion.shutdown().await;
    });
}

#[test]
fn a_process_has_room_for_one_interpreter_beside_processes() {
    in_mode(Mode::Thread, async |setup| {
        let rig = Rig::with(setup, |config| config.functions.allow_inline_threads = true).await;
        assert!(ask(&mut rig.open("identity").await, numbers([1])).await.is_ok());
        let other = EnvironmentSpec { variables: [("OTHER".to_owned(), "1".to_owned())].into(), ..Default::default() };
        let error = rig.numbers("identity").environment(other.clone().in_threads()).open().await.err().unwrap();
        assert_eq!(error.code(), Code::InterpreterTaken);
        assert!(error.report().contains("process mode"), "{}", error.report());
        let mut beside = rig.numbers("pid").environment(other).open().await.unwrap();
        let mut inside = rig.numbers("pid").open().await.unwrap();
        let mut pids = HashSet::new();
        for session in [&mut beside, &mut inside] {
            pids.insert(values(&ask(session, numbers([1])).await.unwrap().batch)[0].unwrap());
        }
        assert!(pids.len() == 2 && pids.contains(&i64::from(std::process::id())), "{pids:?}");
        drop((beside, inside));
        rig.end().await;
    });
}

#[test]
fn a_host_does_not_choose_threads_unless_it_may() {
    run(async {
        let rig = Rig::new(Door::ConnectUnix).await;
        let spec = EnvironmentSpec::default().in_threads();
        assert_eq!(rig.pillion.describe(&function("add"), &spec).await.err().unwrap().code(), Code::EnvironmentRefused);
        assert_eq!(rig.numbers("identity").environment(spec).open().await.err().unwrap().code(), Code::EnvironmentRefused);
        rig.end().await;
    });
}
