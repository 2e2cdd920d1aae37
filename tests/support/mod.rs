//! What the end-to-end suites share: engines behind both doors, batches, functions.
#![allow(dead_code, reason = "each suite uses a part")]

pub mod keyed;
pub mod model;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type};
use pillion::{
    Config, Error, FunctionRef, Pillion, Plan, Session, SessionOptions,
    config::{EnvironmentConfig, Listen, PoolConfig, ShmConfig},
    engine::Engine,
    environment,
    host::{Output, SessionBuilder},
    server::Server,
};
use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

/// The two doors: every suite runs through both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Embedded,
    ConnectUnix,
    ConnectTcp,
}

/// Where functions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Process,
    Thread,
}

/// One way to an engine and its workers: every suite runs through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub door: Door,
    pub mode: Mode,
}

impl From<Door> for Setup {
    fn from(door: Door) -> Self {
        Setup { door, mode: Mode::Process }
    }
}

/// How bodies cross to workers and hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In messages.
    Inline,
    /// In slots of shared memory, down to the smallest.
    Shm,
}

thread_local! {
    /// Of the engines that this test makes; each test runs on a thread of its own.
    static TRANSPORT: std::cell::Cell<Transport> = const { std::cell::Cell::new(Transport::Shm) };
}

/// The transport under test.
pub fn transport() -> Transport {
    TRANSPORT.get()
}

/// An engine of a test's own, with everything it leaves behind.
pub struct Rig {
    pub pillion: Pillion,
    pub endpoint: Option<String>,
    served: Option<(oneshot::Sender<()>, JoinHandle<()>, Arc<Engine>)>,
    folder: TempDir,
}

/// A configuration for tests: two workers, own sockets, the cache that all tests share.
pub fn config(folder: &TempDir) -> Config {
    let shm = ShmConfig { enabled: transport() == Transport::Shm, threshold: 1, arena_bytes: 8 << 20, ..Default::default() };
    Config { runtime_dir: folder.path().join("run"), pool: PoolConfig { max: 2, ..Default::default() }, shm, ..Default::default() }
}

impl Rig {
    pub async fn new(setup: impl Into<Setup>) -> Rig {
        Rig::with(setup, |_| {}).await
    }

    pub async fn with(setup: impl Into<Setup>, change: impl FnOnce(&mut Config)) -> Rig {
        let Setup { door, mode } = setup.into();
        let folder = TempDir::new().unwrap();
        let mut config = config(&folder);
        if mode == Mode::Thread {
            // The engines of a test binary share one interpreter, which is all that a process has room for.
            let threads = EnvironmentConfig { mode: environment::Mode::Thread, ..Default::default() };
            config.environments.insert(environment::DEFAULT.into(), threads);
        }
        change(&mut config);
        if door == Door::Embedded {
            return Rig { pillion: Pillion::embedded(config).await.unwrap(), endpoint: None, served: None, folder };
        }
        config.server.listen = Some(match door {
            Door::ConnectTcp => "127.0.0.1:0".parse().unwrap(),
            _ => Listen::Unix(folder.path().join("host.sock")),
        });
        let engine = Engine::start(config).await.unwrap();
        let server = Server::bind(engine.clone()).await.unwrap();
        let endpoint = server.endpoint();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            server
                .serve(async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
        });
        let pillion = Pillion::connect(&endpoint).await.unwrap();
        Rig { pillion, endpoint: Some(endpoint), served: Some((stop, serving, engine)), folder }
    }

    /// Where its sockets are.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The engine behind a served door.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.served.as_ref().expect("embedded").2
    }

    /// Ends everything; no child may be left.
    pub async fn end(self) {
        match self.served {
            None => self.pillion.shutdown().await,
            Some((stop, serving, engine)) => {
                engine.shutdown().await;
                let _ = stop.send(());
                drop(self.pillion);
                tokio::time::timeout(Duration::from_secs(20), serving).await.expect("the server did not stop").unwrap();
            }
        }
    }

    /// A session over one `bigint` column `a`.
    pub fn numbers(&self, name: &str) -> SessionBuilder {
        self.pillion.session(Plan::scalar(function(name), vec![0], "r")).input(numbers([1]).schema())
    }

    pub async fn open(&self, name: &str) -> Session {
        self.numbers(name).open().await.unwrap_or_else(|error| panic!("`{name}` did not open: {error:?}"))
    }
}

/// Runs a test in processes, through both doors and with both transports.
pub fn both_doors<F: Future<Output = ()>>(test: impl Fn(Door) -> F) {
    in_mode(Mode::Process, |setup| test(setup.door));
}

/// Runs a test in every mode, with every transport, through both doors.
pub fn everywhere<F: Future<Output = ()>>(test: impl Fn(Setup) -> F) {
    for mode in [Mode::Process, Mode::Thread] {
        in_mode(mode, &test);
    }
}

/// Runs a test in one mode, with every transport, through both doors, each time in a runtime of its own.
pub fn in_mode<F: Future<Output = ()>>(mode: Mode, test: impl Fn(Setup) -> F) {
    for transport in [Transport::Inline, Transport::Shm] {
        TRANSPORT.set(transport);
        for door in [Door::Embedded, Door::ConnectUnix] {
            // Between an embedded host and its threads nothing is transported.
            if (mode, transport, door) != (Mode::Thread, Transport::Shm, Door::Embedded) {
                println!("{mode:?}, {transport:?}, {door:?}");
                run(test(Setup { door, mode }));
            }
        }
    }
}

/// Runs a test in a runtime of its own, bounded in time so that a hang is a failure with a name.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs") });
    runtime.shutdown_timeout(Duration::from_secs(5));
}

/// A function of `tests/functions/plain.py`.
pub fn function(name: &str) -> FunctionRef {
    function_in("plain.py", name)
}

pub fn function_in(file: &str, name: &str) -> FunctionRef {
    FunctionRef::file(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/functions").join(file), name)
}

pub fn numbers(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("a", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef, true)]).unwrap()
}

pub fn pairs(rows: i64) -> RecordBatch {
    let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let a = column((0..rows).map(|i| (i % 10 != 0).then_some(i)).collect());
    let b = column((0..rows).map(|i| Some(i * 2)).collect());
    RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap()
}

pub fn texts(values: impl IntoIterator<Item = String>) -> RecordBatch {
    RecordBatch::try_from_iter([("text", Arc::new(StringArray::from_iter_values(values)) as ArrayRef)]).unwrap()
}

pub fn doubles(a: &[f64], b: &[f64]) -> RecordBatch {
    let column = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    RecordBatch::try_from_iter([("a", column(a)), ("b", column(b))]).unwrap()
}

/// The values of a result's only column.
pub fn values(batch: &RecordBatch) -> Vec<Option<i64>> {
    batch.column(0).as_primitive::<Int64Type>().iter().collect()
}

pub fn strings(batch: &RecordBatch) -> Vec<Option<String>> {
    let column = arrow_cast::cast(batch.column(0), &arrow_schema::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

/// Sends all batches and collects all answers.
pub async fn exchange(session: Session, batches: impl IntoIterator<Item = RecordBatch> + Send) -> Vec<Result<Output, Error>> {
    let (mut input, mut output) = session.split();
    let batches: Vec<_> = batches.into_iter().collect();
    let sending = async move {
        for batch in batches {
            if input.send(batch).await.is_err() {
                return;
            }
        }
        let _ = input.finish().await;
    };
    let receiving = async move {
        let mut answers = Vec::new();
        while let Some(answer) = output.recv().await {
            answers.push(answer);
        }
        answers
    };
    tokio::join!(sending, receiving).1
}

/// Sends one batch and gives its answer.
pub async fn ask(session: &mut Session, batch: RecordBatch) -> Result<Output, Error> {
    session.send(batch).await?;
    session.recv().await.expect("the session ended")
}

pub fn attempts(max_attempts: u32) -> SessionOptions {
    SessionOptions { max_attempts: Some(max_attempts), ..Default::default() }
}

/// The child processes of this process, zombies included.
pub fn children() -> Vec<(i32, String)> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        if rest.split_whitespace().nth(1).and_then(|parent| parent.parse::<u32>().ok()) == Some(me) {
            found.push((pid, stat));
        }
    }
    found
}

/// The process ids of all workers, from the status call.
pub async fn worker_pids(pillion: &Pillion) -> Vec<i32> {
    let status = pillion.status(false).await.unwrap();
    status.pools.iter().flat_map(|pool| &pool.workers).map(|worker| worker.pid).collect()
}
