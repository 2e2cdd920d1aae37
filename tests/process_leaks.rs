//! Workers come and go, their fork server is killed under them, and nothing is left: no descriptor, no process.
//!
//! A test program of its own, with one test, because it counts what the whole process has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../src/worker/process/fixture.rs"]
mod fixture;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fixture::{ENTRY, Fixture, exists};
use pillion::environment::Start;
use pillion::worker::KillCause;
use pillion::worker::process::{LaunchLimits, LaunchSpec, Launcher};
use rustix::process::{Pid, Signal, kill_process};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The children of this process, zombies included.
fn children() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of_thread = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    of_thread.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Launches workers, half of which leave and half are killed; every few, the fork server is killed too.
async fn launch_many(launcher: &Launcher, fixture: &Fixture, count: usize) {
    for n in 0..count {
        let child = launcher.launch(&format!("w-{n}"), &fixture.endpoint(), ["leave:0", "wait"][n % 2]).await.unwrap();
        let (_voice, _) = fixture.accept().await;
        if n % 7 == 0
            && let Some(server) = launcher.fork_server_pid().await
        {
            kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
        }
        if n % 2 == 1 {
            child.kill(KillCause::Retired);
        }
        child.wait().await;
        assert!(!exists(child.pid().into()), "it is reaped when its exit is published");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left() {
    let fixture = Fixture::new();
    let spec = |start| LaunchSpec {
        environment_id: "test".into(),
        python: "python3".into(),
        package_dir: fixture.package(),
        paths: vec![],
        variables: BTreeMap::new(),
        allow_pickled_functions: false,
        preload: vec![],
        start,
        limits: LaunchLimits::default(),
        entry: ENTRY.into(),
    };
    // What the runtime opens once is open after the first launch.
    let launcher = Launcher::new(spec(Start::Spawn));
    let child = launcher.launch("w-0", &fixture.endpoint(), "leave:0").await.unwrap();
    let (voice, _) = fixture.accept().await;
    child.wait().await;
    drop((child, voice));
    let before = descriptors();

    for (start, count) in [(Start::Fork, 50), (Start::Spawn, 10)] {
        let launcher = Launcher::new(spec(start));
        launch_many(&launcher, &fixture, count).await;
        launcher.shutdown().await;
    }

    // The last owners close their descriptors just after they have published the exit.
    let deadline = Instant::now() + Duration::from_secs(10);
    while descriptors() > before && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = descriptors();
    assert!(after <= before, "{before} descriptors before, {after} after");
    assert_eq!(children(), Vec::<String>::new());
}
