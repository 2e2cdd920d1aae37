//! `pillion serve` as a process: what it prints, what signals do, what its exit status says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use pillion::{Code, EnvironmentSpec, FunctionRef, Pillion, Plan};
use pillion_wire::proto::{DrainRequest, host_client::HostClient};
use rustix::process::{Pid, Signal, kill_process};

/// A sidecar with folders of its own; killed when dropped.
struct Sidecar {
    process: Child,
    folder: tempfile::TempDir,
    endpoint: String,
}

fn serve(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.arg("serve").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("PILLION_RUNTIME_DIR", folder.join("run")).env_remove("PILLION_CONFIG");
    command
}

impl Sidecar {
    /// Starts one and waits until it says where it listens.
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = serve(folder.path(), arguments).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let endpoint = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("it said {line:?}")).to_owned();
        Self { process, folder, endpoint }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for its end; gives its log too.
    fn ended(&mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap(), log)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs `serve` with arguments that it must refuse.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = serve(folder.path(), arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn numbers() -> RecordBatch {
    RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]).unwrap()
}

/// A function that waits for a file, so that its bundle is open for as long as a test wants.
fn waiting(folder: &Path) -> FunctionRef {
    let file = folder.join("waiting.py");
    let source = "import pathlib, time\nfrom pillion import udf\n\n\n@udf(result_type=\"bigint\")\ndef wait(x: int) -> int:\n    here = pathlib.Path(__file__).parent\n    (here / \"begun\").touch()\n    while not (here / \"go\").exists():\n        time.sleep(0.01)\n    return x + 1\n";
    fs::write(&file, source).unwrap();
    FunctionRef::file(file, "wait")
}

fn appears(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is alive, in the sense that it is not waiting to be reaped.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn listens_privately_and_ends_cleanly() {
    let mut sidecar = Sidecar::start(&[]);
    let socket = sidecar.folder.path().join("run/pillion.sock");
    assert_eq!(sidecar.endpoint, format!("unix:{}", socket.display()));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!Pillion::connect(&sidecar.endpoint).await.unwrap().status(false).await.unwrap().draining);

    let listen = sidecar.endpoint.clone();
    let (status, log) = refused(&["--listen", &listen]);
    assert_eq!(status, Some(1));
    assert!(log.contains("error: cannot listen on") && log.contains("hint: another sidecar listens there"), "{log}");

    sidecar.signal(Signal::TERM);
    let (status, log) = sidecar.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(fs::read_dir(socket.parent().unwrap()).unwrap().count(), 0, "something is left in the runtime folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_open_bundles_finish_and_refuses_new_sessions() {
    let mut sidecar = Sidecar::start(&["--listen", "127.0.0.1:0", "--drain-deadline", "60s"]);
    let pillion = Pillion::connect(&sidecar.endpoint).await.unwrap();
    let function = waiting(sidecar.folder.path());
    let plan = Plan::scalar(function.clone(), vec![0], "y");
    let mut session = pillion.session(plan.clone()).environment(EnvironmentSpec::default()).input(numbers().schema()).open().await.unwrap();
    session.send(numbers()).await.unwrap();
    appears(&sidecar.folder.path().join("begun"));
    sidecar.signal(Signal::TERM);
    let refused = loop {
        // Until the signal has arrived, sessions are taken.
        if let Err(error) = pillion.session(plan.clone()).input(numbers().schema()).open().await {
            break error;
        }
    };
    assert_eq!(refused.code(), Code::Draining, "{refused:?}");
    fs::write(sidecar.folder.path().join("go"), "").unwrap();
    let output = session.recv().await.unwrap().unwrap();
    assert_eq!(output.batch.column(0).as_ref(), &Int64Array::from(vec![2, 3, 4]) as &dyn Array);
    // Then the sidecar ends the session, and says why.
    let end = session.recv().await.expect("an end that is said").unwrap_err();
    assert_eq!(end.code(), Code::Draining, "{end:?}");
    let (status, log) = sidecar.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_leaves_no_worker() {
    let mut sidecar = Sidecar::start(&["--listen", "127.0.0.1:0", "--drain-deadline", "1h"]);
    let pillion = Pillion::connect(&sidecar.endpoint).await.unwrap();
    let plan = Plan::scalar(waiting(sidecar.folder.path()), vec![0], "y");
    let mut session = pillion.session(plan).input(numbers().schema()).open().await.unwrap();
    session.send(numbers()).await.unwrap();
    appears(&sidecar.folder.path().join("begun"));
    let status = pillion.status(false).await.unwrap();
    let worker = status.pools[0].workers[0].pid;
    assert!(lives(worker));

    sidecar.signal(Signal::TERM);
    while !pillion.status(false).await.unwrap().draining {}
    let asked = Instant::now();
    sidecar.signal(Signal::TERM);
    let (status, log) = sidecar.ended();
    assert_eq!(status.code().or(status.signal()), Some(128 + 15), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    while lives(worker) {
        assert!(asked.elapsed() < Duration::from_secs(20), "the worker outlives its sidecar");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_call_does_what_the_signal_does() {
    let mut sidecar = Sidecar::start(&["--listen", "127.0.0.1:0"]);
    let channel = tonic::transport::Endpoint::from_shared(sidecar.endpoint.clone()).unwrap().connect().await.unwrap();
    let drained = HostClient::new(channel).drain(DrainRequest { deadline_ms: 0 }).await.unwrap().into_inner();
    assert_eq!(drained.sessions, 0);
    assert_eq!(sidecar.ended().0.code(), Some(0));
}

#[test]
fn metrics_are_text_on_a_port_of_their_own() {
    // Taken and given back: the exporter does not say which port it got.
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Sidecar::start(&["--metrics", &address.to_string()]);
    let mut connection = TcpStream::connect(address).unwrap();
    write!(connection, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    drop(sidecar);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, log) = refused(&["--metrics", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(status, Some(1));
    assert!(log.contains("cannot serve metrics at"), "{log}");
}

#[test]
fn logs_are_json_if_asked() {
    let mut sidecar = Sidecar::start(&["--log-format", "json", "--log", "info"]);
    sidecar.signal(Signal::TERM);
    let (_, log) = sidecar.ended();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"] == "serving" && line["endpoint"] == sidecar.endpoint), "{log}");
}

#[test]
fn wrong_configuration_is_a_usage_error_that_names_its_source() {
    for (arguments, expected) in [
        (&["--listen", "0.0.0.0:1"][..], "error: `server.listen` (flag `--listen`): `0.0.0.0:1` can be reached from other machines"),
        (&["--set", "pool.mx=1"], "error: `pool.mx` (flag `--set pool.mx`) is no setting\nhint: did you mean `max`?"),
        (&["--config", "/no/such.toml"], "error: the configuration file `/no/such.toml` cannot be read"),
        (&["--log", "x=loud"], "error: `x=loud` is no log filter"),
        (&["--nonsense"], "error: unexpected argument '--nonsense'"),
    ] {
        let (status, log) = refused(arguments);
        assert_eq!(status, Some(2), "{log}");
        assert!(log.starts_with(expected), "{log}");
    }
}

#[test]
fn the_configuration_in_effect_can_be_printed_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let print = |arguments: &[&str]| {
        let output = serve(folder.path(), arguments).arg("--print-config").env("PILLION_POOL_MAX", "7").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = print(&["--set", "limits.slow_bundle=3s"]);
    assert!(printed.contains("max = 7\n") && printed.contains("slow_bundle = \"3s\"\n"), "{printed}");
    let file = folder.path().join("pillion.toml");
    fs::write(&file, &printed).unwrap();
    assert_eq!(print(&["--config", file.to_str().unwrap()]), printed);
}

/// Whom the next test kills.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Host,
    Service,
    Worker,
}

/// Descendants of a process.
fn descendants(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    children.iter().copied().chain(children.iter().flat_map(|&child| descendants(child))).collect()
}

fn is_worker(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("pillion.worker"))
}

/// Open files and mappings of a process that are shared memory of this kind.
fn shared(pid: u32, kind: &str) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let files = files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().contains(kind)));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    files.count() + maps.lines().filter(|line| line.contains(kind)).count()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never was so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Not a test of its own: the host of the next one, in a process that can be killed. Calls a function until that fails, then lets go of everything and waits.
#[tokio::test]
async fn a_host_in_a_process_of_its_own() {
    let Some(endpoint) = std::env::var("PILLION_TEST_HOST_OF").ok() else { return };
    let pillion = Pillion::connect(&endpoint).await.unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/plain.py");
    let plan = Plan::scalar(FunctionRef::file(file, "identity"), vec![0], "r");
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let batch = RecordBatch::try_from_iter_with_nullable([("a", numbers, true)]).unwrap();
    let mut session = pillion.session(plan).input(batch.schema()).open().await.unwrap();
    loop {
        let Ok(_) = session.send(batch.clone()).await else { break };
        let Some(Ok(answer)) = session.recv().await else { break };
        assert_eq!(answer.batch.column(0), batch.column(0));
    }
    drop((session, pillion));
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Shared memory and whoever uses it are gone, whichever of the three processes that share it are killed, in whatever order.
#[test]
fn nothing_stays_whoever_is_killed_first() {
    use Victim::*;
    const MEMORY: &str = "memfd:pillion";
    for order in [
        [Host, Service, Worker],
        [Host, Worker, Service],
        [Service, Host, Worker],
        [Service, Worker, Host],
        [Worker, Host, Service],
        [Worker, Service, Host],
    ] {
        let sidecar = Sidecar::start(&["--log", "error", "--workers", "1"]);
        let me = std::env::current_exe().unwrap();
        let mut host = Command::new(me);
        host.args(["--exact", "a_host_in_a_process_of_its_own"]).env("PILLION_TEST_HOST_OF", &sidecar.endpoint);
        let mut host = host.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (the_host, the_sidecar) = (host.id(), sidecar.process.id());
        // Both kinds of arenas are in use.
        wait_until("the host shares memory", || {
            ["memfd:pillion-session", "memfd:pillion-results"].iter().all(|kind| shared(the_host, kind) > 0)
        });
        let mut killed = Vec::new();
        let mut all = vec![the_host, the_sidecar];
        for victim in order {
            all.extend(descendants(the_sidecar));
            let pids: Vec<u32> = match victim {
                Host => vec![the_host],
                Service => vec![the_sidecar],
                Worker => all.iter().copied().filter(|&pid| is_worker(pid)).collect(),
            };
            for pid in pids {
                // A worker whose sidecar is gone may have ended by itself.
                let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
            }
            killed.push(victim);
            // What is left lets go of what it shared with who is gone.
            if killed.contains(&Host) && !killed.contains(&Service) {
                wait_until(&format!("{order:?}: the sidecar forgets the session"), || shared(the_sidecar, "memfd:pillion-session") == 0);
            }
            if killed.contains(&Service) && !killed.contains(&Host) {
                wait_until(&format!("{order:?}: the host forgets the sidecar"), || shared(the_host, MEMORY) == 0);
            }
        }
        let _ = host.wait();
        drop(sidecar);
        wait_until(&format!("{order:?}: nothing is left of {all:?}"), || {
            all.iter().all(|&pid| shared(pid, MEMORY) == 0 && !is_worker(pid))
        });
    }
}
