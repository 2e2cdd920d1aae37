use super::*;
use crate::environment::Start;
use crate::worker::process::fixture::{ENTRY, Fixture, exists};
use crate::worker::process::{ExitCause, LaunchLimits, LaunchSpec, Launcher};
use rustix::process::kill_process;

fn launcher(fixture: &Fixture, start: Start) -> Launcher {
    Launcher::new(LaunchSpec {
        environment_id: "test".into(),
        python: "python3".into(),
        package_dir: fixture.package(),
        paths: vec![],
        variables: [].into(),
        allow_pickled_functions: false,
        preload: vec![],
        start,
        limits: LaunchLimits::default(),
        entry: ENTRY.into(),
    })
}

const BOTH: [Start; 2] = [Start::Fork, Start::Spawn];

#[tokio::test]
async fn a_kill_has_its_first_cause() {
    for start in BOTH {
        let fixture = Fixture::new();
        let launcher = launcher(&fixture, start);
        let child = launcher.launch("w-1", &fixture.endpoint(), "stubborn").await.unwrap();
        let (mut voice, _) = fixture.accept().await;
        voice.next().await;
        child.kill(KillCause::Memory);
        child.kill(KillCause::Deadline);
        let exit = child.wait().await;
        assert_eq!((exit.cause, exit.signal), (ExitCause::Killed(KillCause::Memory), Some(9)));
        assert!(!exists(child.pid().into()));
        child.kill(KillCause::Deadline);
        assert_eq!((child.private_bytes(), child.is_stopped()), (None, false));
    }
}

#[tokio::test]
async fn signals_from_outside_and_crashes_are_told_apart() {
    for start in BOTH {
        let fixture = Fixture::new();
        let launcher = launcher(&fixture, start);
        for signal in [Signal::KILL, Signal::TERM] {
            let child = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
            let (_voice, _) = fixture.accept().await;
            kill_process(child.shared.pid, signal).unwrap();
            let exit = child.wait().await;
            assert_eq!((exit.cause, exit.signal), (ExitCause::OutsideSignal, Some(signal.as_raw())));
        }
        let child = launcher.launch("w-1", &fixture.endpoint(), "crash").await.unwrap();
        let (_voice, _) = fixture.accept().await;
        let exit = child.wait().await;
        assert_eq!((exit.cause, exit.signal), (ExitCause::Crashed, Some(11)));
        assert_eq!(exit.to_string(), "crashed with SIGSEGV");
    }
}

#[tokio::test]
async fn an_end_of_its_own_is_not_taken_for_a_later_kill() {
    let fixture = Fixture::new();
    let launcher = launcher(&fixture, Start::Spawn);
    let child = launcher.launch("w-1", &fixture.endpoint(), "leave:7").await.unwrap();
    let (_voice, _) = fixture.accept().await;
    // Until now nothing has let the owner run: the process ends, unseen.
    while memory::state(child.pid()) != Some('Z') {
        std::thread::yield_now();
    }
    child.kill(KillCause::Deadline);
    let exit = child.wait().await;
    assert_eq!((exit.cause, exit.status), (ExitCause::Exited, Some(7)));
}

#[tokio::test]
async fn a_stop_is_seen_and_a_stopped_process_can_be_killed() {
    let fixture = Fixture::new();
    let launcher = launcher(&fixture, Start::Fork);
    let child = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_voice, _) = fixture.accept().await;
    assert!(!child.is_stopped());
    assert!(child.private_bytes().unwrap() > 100 << 10);
    kill_process(child.shared.pid, Signal::STOP).unwrap();
    while !child.is_stopped() {
        tokio::task::yield_now().await;
    }
    child.kill(KillCause::Unresponsive);
    assert_eq!(child.wait().await.cause, ExitCause::Killed(KillCause::Unresponsive));
}

#[tokio::test]
async fn what_a_worker_leaves_in_its_group_is_killed_and_reaped() {
    for start in BOTH {
        for end in ["exit", "stay"] {
            let fixture = Fixture::new();
            let launcher = launcher(&fixture, start);
            let child = launcher.launch("w-1", &fixture.endpoint(), &format!("grandchildren:{end}")).await.unwrap();
            let (mut voice, _) = fixture.accept().await;
            let said = voice.next().await;
            let strays: Vec<i64> = said["children"].as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect();
            assert_eq!(strays.len(), 2);
            if end == "stay" {
                child.kill(KillCause::Deadline);
            }
            child.wait().await;
            for pid in strays {
                assert!(!exists(pid), "{start:?} {end}: {pid} is left");
            }
        }
    }
}

#[tokio::test]
async fn strays_are_reaped_when_the_fork_server_is_gone() {
    let fixture = Fixture::new();
    let launcher = launcher(&fixture, Start::Fork);
    let child = launcher.launch("w-1", &fixture.endpoint(), "grandchildren:stay").await.unwrap();
    let (mut voice, _) = fixture.accept().await;
    let said = voice.next().await;
    launcher.shutdown().await;
    child.kill(KillCause::Deadline);
    assert_eq!(child.wait().await.cause, ExitCause::Killed(KillCause::Deadline));
    for pid in said["children"].as_array().unwrap() {
        assert!(!exists(pid.as_i64().unwrap()));
    }
}

#[tokio::test]
async fn what_a_worker_leaves_in_another_session_is_killed_and_reaped() {
    for start in BOTH {
        let fixture = Fixture::new();
        let launcher = launcher(&fixture, start);
        let child = launcher.launch("left-1", &fixture.endpoint(), "daemon:leave").await.unwrap();
        let (mut voice, _) = fixture.accept().await;
        let stray = voice.next().await["child"].as_i64().unwrap();
        // A daemon of a worker that lives may be in use.
        let other = launcher.launch("left-2", &fixture.endpoint(), "daemon:wait").await.unwrap();
        let (mut voice, _) = fixture.accept().await;
        let in_use = voice.next().await["child"].as_i64().unwrap();

        assert_eq!(child.wait().await.status, Some(0));
        assert!(exists(stray), "it is not in the worker's group");
        gone(stray).await;
        assert!(exists(in_use));
        other.kill(KillCause::Retired);
        gone(in_use).await;
    }
}

async fn gone(pid: i64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while exists(pid) {
        assert!(tokio::time::Instant::now() < deadline, "{pid} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_exception_in_the_entry_is_status_one_with_its_traceback_on_stderr() {
    for start in BOTH {
        let fixture = Fixture::new();
        let launcher = launcher(&fixture, start);
        let child = launcher.launch("w-1", &fixture.endpoint(), "raise_error").await.unwrap();
        let (_voice, _) = fixture.accept().await;
        assert_eq!(child.wait().await.status, Some(1));
        assert!(child.stderr_tail().ends_with("ValueError: raised on purpose"), "{}", child.stderr_tail());
    }
}

#[tokio::test]
async fn megabytes_on_stdout_do_not_block_a_worker() {
    let fixture = Fixture::new();
    let launcher = launcher(&fixture, Start::Fork);
    // 32 MiB without a single line's end, then 32 MiB of short lines.
    for block in ["6161616161616161", "616161616161610a"] {
        let child = launcher.launch("w-1", &fixture.endpoint(), &format!("emit:stdout,{block},4194304")).await.unwrap();
        let (_voice, _) = fixture.accept().await;
        assert_eq!(child.wait().await.status, Some(0));
    }
}

#[tokio::test]
async fn stderr_has_a_tail() {
    let fixture = Fixture::new();
    let launcher = launcher(&fixture, Start::Fork);
    let line = "0a".to_owned() + &"62".repeat(99);
    let child = launcher.launch("w-1", &fixture.endpoint(), &format!("emit:stderr,{line},1000")).await.unwrap();
    let (_voice, _) = fixture.accept().await;
    child.wait().await;
    let tail = child.stderr_tail();
    assert!(tail.len() > 3900 && tail.len() <= 4096, "{}", tail.len());
    assert!(tail.lines().all(|line| line == "b".repeat(99)), "it begins with a whole line");
}
