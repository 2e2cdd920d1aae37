use super::*;
use crate::worker::process::fixture::{ENTRY, Fixture, exists};
use rustix::process::{Pid, Signal, kill_process};

fn spec(fixture: &Fixture, start: Start) -> LaunchSpec {
    LaunchSpec {
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
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn own_pid() -> i64 {
    i64::from(rustix::process::getpid().as_raw_nonzero().get())
}

#[tokio::test]
async fn a_worker_is_forked_and_its_end_reported() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Fork));
    let child = launcher.launch("w-1", &fixture.endpoint(), "leave:3").await.unwrap();
    let (_voice, hello) = fixture.accept().await;
    assert_eq!((hello["id"].as_str(), hello["pid"].as_i64()), (Some("w-1"), Some(i64::from(child.pid()))));
    assert_eq!(hello["session"], hello["pid"], "it leads a session");
    assert_eq!(hello["parent"].as_i64(), launcher.fork_server_pid().await.map(i64::from));
    let exit = child.wait().await;
    assert_eq!((exit.cause, exit.status, exit.signal), (ExitCause::Exited, Some(3), None));
    assert!(exit.rusage.unwrap().max_resident_bytes.unwrap() > 1 << 20);
    assert!(!exists(child.pid().into()), "it is reaped");
    launcher.shutdown().await;
}

#[tokio::test]
async fn a_worker_is_spawned_and_its_end_seen() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Spawn));
    let child = launcher.launch("w-1", &fixture.endpoint(), "leave:4").await.unwrap();
    let (_voice, hello) = fixture.accept().await;
    assert_eq!(hello["parent"], own_pid());
    let exit = child.wait().await;
    assert_eq!((exit.cause, exit.status), (ExitCause::Exited, Some(4)));
    assert!(exit.rusage.is_some());
    assert!(!exists(child.pid().into()));
    assert_eq!(launcher.fork_server_pid().await, None);
}

#[tokio::test]
async fn both_ways_give_a_worker_the_same_surroundings() {
    let fixture = Fixture::new();
    let paths = tempfile::tempdir().unwrap();
    fixture.module("preloaded", "");
    for start in [Start::Fork, Start::Spawn] {
        let mut spec = spec(&fixture, start);
        spec.paths = vec![paths.path().into()];
        spec.preload = vec!["preloaded".into()];
        spec.variables = BTreeMap::from([("GIVEN".into(), "yes".into()), ("PILLION_SECRET".into(), "leaked".into())]);
        let launcher = Launcher::new(spec);
        let _child = launcher.launch("w-1", &fixture.endpoint(), "describe").await.unwrap();
        let (mut voice, _) = fixture.accept().await;
        let seen = voice.next().await;
        assert_eq!(seen["path"][0], fixture.package().to_str().unwrap());
        assert_eq!(seen["path"][1], paths.path().to_str().unwrap());
        assert_eq!(seen["cwd"], std::env::current_dir().unwrap().to_str().unwrap());
        assert_eq!((&seen["variables"]["GIVEN"], &seen["variables"]["PILLION_SECRET"]), (&"yes".into(), &serde_json::Value::Null));
        assert_eq!(seen["variables"]["OMP_NUM_THREADS"], std::env::var("OMP_NUM_THREADS").unwrap_or("1".into()));
        assert_eq!(seen["default_sigchld"], true);
        assert!(!seen["arguments"].to_string().contains("describe"), "the token is on no command line");
        if start == Start::Fork {
            assert_eq!(seen["descriptors"], 4, "three standard ones and its connection");
            assert_eq!(seen["stdin"], "/dev/null");
            assert_eq!(seen["modules"], serde_json::json!(["preloaded"]));
        }
    }
}

#[tokio::test]
async fn forked_workers_draw_different_random_numbers() {
    let fixture = Fixture::new();
    fixture.module("numpy", "import sys, types\nrandom = types.ModuleType('numpy.random')\nsys.modules['numpy.random'] = random\nrandom.seeds = 0\ndef seed():\n    random.seeds += 1\nrandom.seed = seed\nrandom.random = lambda: random.seeds\n");
    let mut spec = spec(&fixture, Start::Fork);
    spec.preload = vec!["numpy".into()];
    let launcher = Launcher::new(spec);
    let mut drawn = vec![];
    for id in ["w-1", "w-2"] {
        let _child = launcher.launch(id, &fixture.endpoint(), "describe").await.unwrap();
        let (mut voice, _) = fixture.accept().await;
        let seen = voice.next().await;
        assert_eq!(seen["numpy_random"], 1, "numpy's global generator is seeded once after the fork");
        drawn.push(seen["random"].as_f64().unwrap());
    }
    assert_ne!(drawn[0], drawn[1]);
}

#[tokio::test]
async fn workers_outlive_their_fork_server_and_the_next_launch_starts_another() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Fork));
    let first = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_first_voice, _) = fixture.accept().await;
    let server = launcher.fork_server_pid().await.unwrap();
    signal(server, Signal::KILL);
    let second = launcher.launch("w-2", &fixture.endpoint(), "wait").await.unwrap();
    let (_second_voice, hello) = fixture.accept().await;
    assert_ne!(hello["parent"].as_i64(), Some(i64::from(server)));
    assert!(!exists(server.into()), "the dead fork server is reaped");
    assert!(first.exited().borrow().is_none(), "the first worker lives on");
    assert_eq!(memory_parent(first.pid()), own_pid(), "and is the engine's now");

    first.kill(KillCause::Deadline);
    let exit = first.wait().await;
    assert_eq!((exit.cause, exit.signal), (ExitCause::Killed(KillCause::Deadline), Some(9)));
    assert!(!exists(first.pid().into()));
    second.kill(KillCause::Retired);
    assert_eq!(second.wait().await.cause, ExitCause::Killed(KillCause::Retired));
    assert!(!exists(second.pid().into()));
}

fn memory_parent(pid: i32) -> i64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_stopped_fork_server_is_replaced() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Fork));
    let first = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_first_voice, _) = fixture.accept().await;
    signal(launcher.fork_server_pid().await.unwrap(), Signal::STOP);
    let _second = launcher.launch("w-2", &fixture.endpoint(), "wait").await.unwrap();
    let (_second_voice, hello) = fixture.accept().await;
    assert_eq!(hello["id"], "w-2");
    assert!(first.exited().borrow().is_none());
}

#[tokio::test]
async fn a_launch_survives_fork_servers_that_are_killed_while_they_start() {
    let fixture = Fixture::new();
    fixture.module("deadly", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n");
    let mut spec = spec(&fixture, Start::Fork);
    spec.preload = vec!["deadly".into()];
    let launcher = Launcher::new(spec);
    let _child = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_voice, hello) = fixture.accept().await;
    assert_eq!(hello["parent"], own_pid(), "it was spawned in the end");
}

#[tokio::test]
async fn a_launch_survives_fork_servers_that_are_stopped_while_they_start() {
    let fixture = Fixture::new();
    fixture.module("stopping", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n");
    let mut spec = spec(&fixture, Start::Fork);
    spec.preload = vec!["stopping".into()];
    let _child = Launcher::new(spec).launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_voice, hello) = fixture.accept().await;
    assert_eq!(hello["parent"], own_pid(), "it was spawned in the end");
}

#[tokio::test]
async fn a_preload_that_raises_is_an_error_with_its_traceback() {
    let fixture = Fixture::new();
    fixture.module("broken", "def load():\n    raise KeyError('no such thing')\nload()\n");
    let mut spec = spec(&fixture, Start::Fork);
    spec.preload = vec!["broken".into()];
    let launcher = Launcher::new(spec);
    // The second answer is the first one remembered: no endless loop of fork servers.
    for _ in 0..2 {
        let error = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap_err();
        assert_eq!(error.code(), Code::EnvironmentStartFailed);
        assert_eq!(error.message(), "the environment's fork server failed: KeyError: 'no such thing'");
        assert!(error.report().contains("broken.py\", line 2, in load"), "{}", error.report());
        assert!(!error.report().contains("importlib"), "only frames of the module itself: {}", error.report());
    }
}

#[tokio::test]
async fn a_preload_that_crashes_or_hangs_is_an_error() {
    let fixture = Fixture::new();
    fixture.module("crashing", "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.abort()\n");
    fixture.module("hanging", "import signal\nwhile True:\n    signal.pause()\n");
    for (preload, message) in [("crashing", "crashed with SIGABRT while it started: last words"), ("hanging", "was not ready within 0.5 s")]
    {
        let mut spec = spec(&fixture, Start::Fork);
        spec.preload = vec![preload.into()];
        if preload == "hanging" {
            spec.limits.start_timeout = Duration::from_millis(500);
        }
        let error = Launcher::new(spec).launch("w-1", &fixture.endpoint(), "wait").await.unwrap_err();
        assert_eq!(error.code(), Code::EnvironmentStartFailed);
        assert!(error.message().ends_with(message), "{}", error.message());
        assert!(preload == "hanging" || error.report().contains("last words"), "{}", error.report());
    }
}

#[tokio::test]
async fn an_interpreter_that_is_missing_is_an_error_either_way() {
    let fixture = Fixture::new();
    for start in [Start::Fork, Start::Spawn] {
        let mut spec = spec(&fixture, start);
        spec.python = "/nowhere/python".into();
        let error = Launcher::new(spec).launch("w-1", &fixture.endpoint(), "wait").await.unwrap_err();
        assert_eq!(error.code(), Code::EnvironmentStartFailed);
        assert!(error.message().contains("`/nowhere/python`"), "{}", error.message());
    }
}

#[tokio::test]
async fn a_preload_that_starts_a_thread_means_spawning() {
    let fixture = Fixture::new();
    fixture.module("threaded", "import signal, threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n");
    let mut spec = spec(&fixture, Start::Fork);
    spec.preload = vec!["threaded".into()];
    let launcher = Launcher::new(spec);
    for id in ["w-1", "w-2"] {
        let _child = launcher.launch(id, &fixture.endpoint(), "wait").await.unwrap();
        let (_voice, hello) = fixture.accept().await;
        assert_eq!(hello["parent"], own_pid());
    }
    assert_eq!(launcher.fork_server_pid().await, None, "the useless fork server is gone");
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_no_worker() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Fork));
    let warm = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_voice, _) = fixture.accept().await;
    let server = launcher.fork_server_pid().await.unwrap();
    let endpoint = fixture.endpoint();
    {
        let launch = launcher.launch("w-2", &endpoint, "wait");
        let mut launch = std::pin::pin!(launch);
        // Polled once: the request is on its way.
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(launch.as_mut().poll(cx).is_pending())).await);
    }
    // It may or may not come as far as to connect; either way the fork server, which serves one request after the other, is done with it
    // when it has answered the next.
    let third = launcher.launch("w-3", &endpoint, "wait").await.unwrap();
    let living = || {
        let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while living() != [warm.pid(), third.pid()] {
        assert!(Instant::now() < deadline, "{:?}", living());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_launched_after_shutdown() {
    let fixture = Fixture::new();
    let launcher = Launcher::new(spec(&fixture, Start::Fork));
    let child = launcher.launch("w-1", &fixture.endpoint(), "wait").await.unwrap();
    let (_voice, _) = fixture.accept().await;
    let server = launcher.fork_server_pid().await.unwrap();
    launcher.shutdown().await;
    launcher.shutdown().await;
    assert!(!exists(server.into()));
    assert!(child.exited().borrow().is_none(), "workers are not the launcher's to end");
    assert_eq!(launcher.launch("w-2", &fixture.endpoint(), "wait").await.unwrap_err().code(), Code::Draining);
    let pid = child.pid();
    let mut exited = child.exited();
    drop(child);
    let exit = exited.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!(exit.cause, ExitCause::Killed(KillCause::Dropped));
    assert!(!exists(pid.into()));
}
