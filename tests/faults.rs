//! Faults by name: whatever a function does to its worker, the engine lives on, other sessions notice nothing, and the error says what happened. In every mode, but for
//! what threads of the engine's own process cannot survive or refuse ([`NOT_IN_THREADS`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use pillion::{Code, SessionOptions};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use support::*;

/// The faults that are tried in process mode only, and why. `docs/modes.md` says the same to people.
const NOT_IN_THREADS: [(&str, &str); 8] = [
    ("crashes_are_tried_again_and_then_told", "a crash ends the process, and the engine with it"),
    ("a_worker_killed_by_its_own_hand_counts_as_killed_from_outside", "a crash ends the process, and the engine with it"),
    ("hangs_are_killed_at_their_deadline_with_the_line_they_hung_at", "a deadline is refused"),
    ("a_worker_over_its_memory_limit_is_killed", "a memory limit is refused"),
    ("a_fork_that_returns_into_the_worker_does_not_answer_twice", "a fork copies the engine, without its threads"),
    ("workers_killed_from_outside_lose_nothing", "there is no process to kill but the engine"),
    ("a_stopped_worker_is_noticed_by_its_deadline", "there is no process to stop but the engine"),
    ("a_killed_fork_server_is_replaced", "there is none"),
];

#[test]
fn every_fault_is_tried_in_threads_or_named() {
    let me = include_str!("faults.rs");
    let tests: Vec<_> = me.split("\n#[test]\nfn ").skip(1).map(|test| (test.split_once('(').unwrap().0, test)).collect();
    let processes: Vec<_> = tests.iter().filter(|(_, test)| test.contains("\n    both_doors(")).map(|(name, _)| *name).collect();
    assert_eq!(processes, NOT_IN_THREADS.map(|(name, _)| name));
    assert!(tests.iter().filter(|(_, test)| test.contains("\n    everywhere(")).count() >= 4);
    let page = include_str!("../docs/modes.md");
    for (name, why) in NOT_IN_THREADS {
        assert!(page.contains(&format!("`{name}`")), "`{name}` is not in docs/modes.md: {why}");
    }
}

/// Runs `name` over a batch that trips it between two that do not, beside a session that must notice nothing.
async fn tripped(rig: &Rig, name: &str, options: SessionOptions) -> pillion::Error {
    let mut beside = rig.open("identity").await;
    let session = rig.numbers(name).options(options).open().await.unwrap();
    let batches = [numbers([1, 2]), numbers([12, 13, 14]), numbers([3])];
    let (mut answers, other) = tokio::join!(exchange(session, batches), ask(&mut beside, numbers([5])));
    assert_eq!(values(&other.unwrap().batch), [Some(5)], "`{name}` disturbed another session");
    assert_eq!(answers.len(), 3, "`{name}`: {answers:?}");
    assert_eq!(values(&answers[2].as_ref().unwrap().batch), [Some(3)], "`{name}`: later batches are served");
    assert_eq!(values(&answers[0].as_ref().unwrap().batch), [Some(1), Some(2)]);
    let error = answers.remove(1).unwrap_err();
    assert_eq!(error.seq(), Some(2));
    error
}

#[test]
fn crashes_are_tried_again_and_then_told() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        for (name, cause, signal) in [("segfault_on_13", "signal", 11), ("abort_on_13", "signal", 6), ("exit_on_13", "exit", 0)] {
            let error = tripped(&rig, name, attempts(2)).await;
            let loss = error.worker_loss().unwrap();
            assert_eq!((error.code(), loss.cause.as_str(), loss.signal, loss.attempts), (Code::WorkerDied, cause, signal, 2), "{error:?}");
            match name {
                "exit_on_13" => assert_eq!(loss.exit_status, 7),
                "abort_on_13" => assert!(loss.stderr_tail.contains("last words"), "{loss:?}"),
                // faulthandler names the line that crashed.
                _ => assert!(loss.stderr_tail.contains("segfault_on_13"), "{loss:?}"),
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_worker_killed_by_its_own_hand_counts_as_killed_from_outside() {
    both_doors(async |door| {
        let rig = Rig::with(door, |config| config.limits.max_attempts_outside = 3).await;
        let error = tripped(&rig, "kill_self_on_13", attempts(1)).await;
        let loss = error.worker_loss().unwrap();
        assert_eq!((error.code(), loss.signal, loss.attempts), (Code::WorkerDied, 9, 3));
        rig.end().await;
    });
}

#[test]
fn hangs_are_killed_at_their_deadline_with_the_line_they_hung_at() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        for name in ["sleep_for_ever_on_13", "spin_for_ever_on_13"] {
            let options = SessionOptions { bundle_deadline: Some(Duration::from_millis(700)), ..attempts(1) };
            let error = tripped(&rig, name, options).await;
            assert_eq!(error.code(), Code::DeadlineExceeded);
            let stacks = &error.worker_loss().unwrap().stacks;
            assert!(stacks.contains("plain.py") && stacks.contains(name), "{stacks}");
        }
        rig.end().await;
    });
}

#[test]
fn a_worker_over_its_memory_limit_is_killed() {
    both_doors(async |door| {
        let rig = Rig::with(door, |config| config.pool.max_memory = Some(300 << 20)).await;
        let error = tripped(&rig, "eat_memory_on_13", attempts(1)).await;
        assert_eq!(error.code(), Code::MemoryExceeded, "{error:?}");
        rig.end().await;
    });
}

#[test]
fn a_fork_that_returns_into_the_worker_does_not_answer_twice() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let answers = exchange(rig.open("fork_on_13").await, [numbers([13]), numbers([1]), numbers([13, 2])]).await;
        let found: Vec<_> = answers.into_iter().map(|answer| values(&answer.unwrap().batch)).collect();
        assert_eq!(found, [vec![Some(13)], vec![Some(1)], vec![Some(13), Some(2)]]);
        rig.end().await;
    });
}

#[test]
fn functions_that_raise_or_exit_fail_alone() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        for name in ["raise_on_13", "sys_exit_on_13", "ask_for_too_much_on_13"] {
            let error = tripped(&rig, name, SessionOptions::default()).await;
            assert_eq!(error.code(), Code::FunctionRaised, "`{name}`: {error:?}");
            assert_eq!(error.exception().unwrap().row.as_ref().unwrap().index, 1, "`{name}`");
        }
        rig.end().await;
    });
}

#[test]
fn a_hang_that_nobody_waits_for_any_more_holds_up_nobody() {
    everywhere(async |setup| {
        let rig = Rig::with(setup, |config| {
            config.pool.max = 1;
            config.limits.kill_grace = Duration::from_millis(50);
        })
        .await;
        for name in ["sleep_for_ever_on_13", "spin_for_ever_on_13"] {
            let mut session = rig.open(name).await;
            session.send(numbers([13])).await.unwrap();
            while !rig.pillion.status(true).await.unwrap().pools.iter().flat_map(|pool| &pool.workers).any(|w| w.stacks.contains(name)) {}
            drop(session);
            // The only worker is killed, or abandoned; another takes its place.
            assert_eq!(values(&ask(&mut rig.open("identity").await, numbers([1])).await.unwrap().batch), [Some(1)], "`{name}`");
        }
        rig.end().await;
    });
}

#[test]
fn megabytes_of_output_do_not_block() {
    // In threads a function writes where this process does.
    if std::env::var_os("PILLION_TEST_ALONE").is_none() {
        let me = std::env::current_exe().unwrap();
        let mut again = std::process::Command::new(me);
        again.args(["--exact", "megabytes_of_output_do_not_block", "--nocapture"]).env("PILLION_TEST_ALONE", "1");
        let output = again.output().unwrap();
        let end = output.stderr.len().saturating_sub(2000);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr[end..]));
        return;
    }
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let answers = exchange(rig.open("print_a_lot").await, (0..3).map(|at| numbers(at * 10..at * 10 + 10))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        rig.end().await;
    });
}

#[test]
fn workers_killed_from_outside_lose_nothing() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let session = rig.open("slow").await;
        let pillion = rig.pillion.clone();
        let killer = tokio::spawn(async move {
            let mut kills = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(150)).await;
                if let Some(&pid) = worker_pids(&pillion).await.get(kills % 2) {
                    // It may have ended on its own in between.
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                    kills += 1;
                }
            }
        });
        let answers = exchange(session, (0..60).map(|at| numbers(at * 10..at * 10 + 10))).await;
        killer.abort();
        let found: Vec<_> = answers.into_iter().flat_map(|answer| values(&answer.unwrap().batch)).flatten().collect();
        assert_eq!(found, (0..600).collect::<Vec<_>>());
        rig.end().await;
    });
}

#[test]
fn a_stopped_worker_is_noticed_by_its_deadline() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let options = SessionOptions { bundle_deadline: Some(Duration::from_millis(500)), ..attempts(1) };
        let session = rig.numbers("slow").options(options).open().await.unwrap();
        let pillion = rig.pillion.clone();
        let stopper = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for pid in worker_pids(&pillion).await {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP);
            }
        });
        let answers = exchange(session, (0..40).map(|at| numbers(at * 10..at * 10 + 10))).await;
        stopper.await.unwrap();
        let found: Vec<_> = answers.into_iter().flat_map(|answer| values(&answer.unwrap().batch)).flatten().collect();
        assert_eq!(found, (0..400).collect::<Vec<_>>());
        rig.end().await;
    });
}

#[test]
fn a_killed_fork_server_is_replaced() {
    both_doors(async |door| {
        let rig = Rig::new(door).await;
        let mut session = rig.open("pid").await;
        let first = values(&ask(&mut session, numbers([0])).await.unwrap().batch)[0].unwrap() as i32;
        let parent = |pid: i32| -> i32 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        kill_process(Pid::from_raw(parent(first)).unwrap(), Signal::KILL).unwrap();
        // The worker goes on, and when it is gone too a new fork server makes the next.
        assert_eq!(values(&ask(&mut session, numbers([0])).await.unwrap().batch), [Some(i64::from(first))]);
        kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
        let second = values(&ask(&mut session, numbers([0])).await.unwrap().batch)[0].unwrap();
        assert_ne!(second, i64::from(first));
        rig.end().await;
    });
}

#[test]
fn a_status_call_shows_where_workers_are() {
    everywhere(async |setup| {
        let rig = Rig::new(setup).await;
        let mut session = rig.open("sleep_for_ever_on_13").await;
        session.send(numbers([13])).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = rig.pillion.status(true).await.unwrap();
            let workers: Vec<_> = status.pools.iter().flat_map(|pool| &pool.workers).collect();
            if let Some(worker) = workers.iter().find(|worker| worker.stacks.contains("sleep_for_ever_on_13")) {
                assert_eq!((worker.state.as_str(), worker.bundle_seq, worker.session_id.as_str()), ("busy", 1, session.id()));
                // Threads share their memory with the whole process.
                let has_memory = worker.private_bytes > 0;
                assert!(worker.function.ends_with("sleep_for_ever_on_13") && has_memory == (setup.mode == Mode::Process), "{worker:?}");
                break;
            }
            assert!(Instant::now() < deadline, "the stacks do not show where it sleeps: {workers:?}");
        }
        rig.end().await;
    });
}
