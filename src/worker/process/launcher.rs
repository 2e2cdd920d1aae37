//! Starts the worker processes of one environment, and looks after its fork server.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::child::Child;
use super::exit::{Exit, ExitCause, start_counting_oom_kills};
use super::failure::Failure;
use super::fork_server::{Configuration, ForkError, ForkServer, StartError, WorkerSettings};
use super::logs::OutputLimits;
use super::strays;
use crate::environment::Start;
use crate::error::{Code, Error};
use crate::worker::KillCause;

/// Libraries with thread pools of their own, which would multiply with the workers and make forking unsafe.
const THREAD_VARIABLES: [&str; 5] =
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

/// Room in the fork server's arguments for the title of a worker, which is written over them.
const TITLE_ROOM: usize = 160;

/// How often a launch tries a fork server that dies under it before it spawns the worker.
const FORK_ATTEMPTS: u32 = 3;

/// Delay before the second fork server in a row that has not forked a worker; doubles with each.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The largest such delay.
const BACK_OFF_LIMIT: Duration = Duration::from_secs(5);

/// The longest delay that a launch waits for; rather than longer it spawns the worker.
const PATIENCE: Duration = Duration::from_millis(250);

/// Bounds on starting processes.
#[derive(Clone, Debug)]
pub struct LaunchLimits {
    /// For the fork server to import all preloads. Default 60 s.
    pub start_timeout: Duration,
    /// For one fork. Default 10 s.
    pub fork_timeout: Duration,
    /// Output that is handed on, per worker and stream.
    pub output: OutputLimits,
}

impl Default for LaunchLimits {
    fn default() -> Self {
        Self { start_timeout: Duration::from_secs(60), fork_timeout: Duration::from_secs(10), output: OutputLimits::default() }
    }
}

/// What the workers of an environment are started with.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The id of the environment, for logs and process titles.
    pub environment_id: String,
    /// The interpreter: a path, or a name to be found on `PATH`.
    pub python: PathBuf,
    /// The folder that holds the worker's package `pillion`; becomes the first entry of `sys.path`.
    pub package_dir: PathBuf,
    /// Folders with user modules; follow it on `sys.path`.
    pub paths: Vec<PathBuf>,
    /// Environment variables besides the engine's own; in both, those that begin with `PILLION_` are left out. Thread counts of OpenMP and
    /// BLAS libraries are 1 unless set here or in the engine's.
    pub variables: BTreeMap<String, String>,
    /// Whether workers load functions sent by value.
    pub allow_pickled_functions: bool,
    /// Modules that the fork server imports.
    pub preload: Vec<String>,
    /// Whether to fork or to spawn.
    pub start: Start,
    /// Bounds.
    pub limits: LaunchLimits,
    /// What a worker runs, as `module:function`; a spawned one runs the module as its main program. [`LaunchSpec::ENTRY`], but for tests of
    /// the process machinery.
    pub entry: String,
}

impl LaunchSpec {
    /// The entry of real workers.
    pub const ENTRY: &'static str = "pillion.worker:serve";
}

/// Starts the worker processes of one environment. Cheap to create: the fork server starts with the first launch.
pub struct Launcher {
    spec: LaunchSpec,
    state: Mutex<State>,
    must_spawn: AtomicBool,
}

#[derive(Default)]
struct State {
    server: Option<Arc<ForkServer>>,
    /// Fork servers started in a row of which none has forked a worker.
    fruitless: u32,
    not_before: Option<Instant>,
    failure: Option<Failure>,
    closed: bool,
}

#[derive(Serialize)]
struct SpawnSettings<'a> {
    #[serde(flatten)]
    worker: &'a WorkerSettings<'a>,
    cwd: &'a str,
    paths: &'a [String],
}

impl Launcher {
    /// A launcher for `spec`.
    pub fn new(spec: LaunchSpec) -> Self {
        start_counting_oom_kills();
        let must_spawn = AtomicBool::new(spec.start == Start::Spawn);
        Self { spec, state: Mutex::default(), must_spawn }
    }

    /// Starts worker `id`, which will connect to `endpoint` (`unix:/path`) and present `token`. It is created, not yet ready: readiness is a
    /// handshake on its control stream. Drop the child to kill it.
    ///
    /// # Errors
    /// `environment_start_failed` if the interpreter or the fork server cannot be started, with the traceback of a preload that raises
    /// as its last words; `worker_start_failed` if the process cannot be created. A fork server that is killed or stopped from outside is no error: another is
    /// started, and if they keep dying the worker is spawned.
    pub async fn launch(&self, id: &str, endpoint: &str, token: &str) -> Result<Child, Error> {
        become_subreaper()?;
        let settings = WorkerSettings { id, environment: &self.spec.environment_id, endpoint, token };
        for _ in 0..FORK_ATTEMPTS {
            if self.must_spawn.load(Ordering::Relaxed) {
                return self.spawn(&settings);
            }
            let Some(server) = self.server().await? else { continue };
            match server.fork(&settings, self.spec.limits.fork_timeout).await {
                Ok(child) => {
                    self.bore_fruit().await;
                    return Ok(child);
                }
                Err(ForkError::Refused(threads)) => self.give_up_forking(&threads).await,
                Err(ForkError::Failed(reason)) => {
                    return Err(Error::new(Code::WorkerStartFailed, "the fork server could not create a worker process")
                        .detail(reason)
                        .retryable());
                }
                Err(ForkError::Gone) => tracing::debug!(pid = server.pid(), "fork server ended while it was asked for a worker"),
            }
        }
        if !self.must_spawn.load(Ordering::Relaxed) {
            tracing::warn!(
                environment = self.spec.environment_id,
                worker = id,
                "fork servers keep being killed, spawning the worker instead"
            );
        }
        self.spawn(&settings)
    }

    /// Ends the fork server and refuses further launches. Workers live on; they belong to their children. Idempotent.
    pub async fn shutdown(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        if let Some(server) = state.server.take() {
            server.stop().await;
        }
    }

    /// The process id of the fork server, if one runs.
    pub async fn fork_server_pid(&self) -> Option<i32> {
        self.state.lock().await.server.as_ref().filter(|server| !server.is_gone()).map(|server| server.pid())
    }

    /// The running fork server, or a new one. `None` if the new one was killed or stopped from outside, or if it is too early to start one.
    async fn server(&self) -> Result<Option<Arc<ForkServer>>, Error> {
        loop {
            let mut state = self.state.lock().await;
            if state.closed {
                return Err(Error::new(Code::Draining, "the engine is shutting down"));
            }
            if let Some(server) = state.server.take_if(|server| server.is_gone()) {
                let how = server.exit().map_or_else(|| "is ending".to_owned(), |exit| exit.to_string());
                tracing::warn!(environment = self.spec.environment_id, pid = server.pid(), "fork server {how}; another is started");
            }
            if let Some(server) = &state.server {
                return Ok(Some(Arc::clone(server)));
            }
            let Some(not_before) = state.not_before.filter(|at| *at > Instant::now()) else {
                return self.start_server_into(&mut state).await;
            };
            if let Some(failure) = &state.failure {
                return Err(failure.error());
            }
            drop(state);
            if not_before > Instant::now() + PATIENCE {
                return Ok(None);
            }
            tokio::time::sleep_until(not_before).await;
        }
    }

    async fn start_server_into(&self, state: &mut State) -> Result<Option<Arc<ForkServer>>, Error> {
        let result = self.start_server().await;
        let delay = BACK_OFF.saturating_mul(1 << state.fruitless.min(16)).min(BACK_OFF_LIMIT);
        // The first retry comes at once, unless it would only repeat a failure.
        state.not_before = (state.fruitless > 0).then(|| Instant::now() + delay);
        state.fruitless = state.fruitless.saturating_add(1);
        state.failure = None;
        match result {
            Ok(server) => {
                tracing::debug!(environment = self.spec.environment_id, pid = server.pid(), "fork server is ready");
                let server = Arc::new(server);
                state.server = Some(Arc::clone(&server));
                Ok(Some(server))
            }
            Err(StartError::Died {
                exit: Exit { cause: ExitCause::OutsideSignal | ExitCause::Killed(KillCause::Unresponsive), .. },
                ..
            }) => Ok(None),
            Err(error) => {
                let failure = Failure::new(error, &self.spec.python, self.spec.limits.start_timeout);
                state.not_before = Some(Instant::now() + delay);
                state.failure = Some(failure.clone());
                Err(failure.error())
            }
        }
    }

    /// A worker was forked: fork servers are fine.
    async fn bore_fruit(&self) {
        let mut state = self.state.lock().await;
        state.fruitless = 0;
        state.not_before = None;
    }

    /// The fork server has threads that a fork would break: spawn from now on.
    async fn give_up_forking(&self, threads: &[String]) {
        if !self.must_spawn.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                environment = self.spec.environment_id,
                threads = threads.join(", "),
                "a preloaded module has started threads, which do not survive a fork: workers are spawned, and start more slowly"
            );
        }
        let server = self.state.lock().await.server.take();
        if let Some(server) = server {
            server.stop().await;
        }
    }

    async fn start_server(&self) -> Result<ForkServer, StartError> {
        let mut command = self.python().map_err(StartError::System)?;
        command.args(["-m", "pillion.fork_server", "--environment", &self.spec.environment_id]).arg("-".repeat(TITLE_ROOM));
        let (cwd, paths) = (working_directory(), text_of(&self.spec.paths));
        let configuration =
            Configuration { op: "configure", cwd: &cwd, paths: &paths, preload: &self.spec.preload, entry: &self.spec.entry };
        let id = format!("fork-server-{}", self.spec.environment_id);
        ForkServer::start(command, &id, &configuration, &self.spec.limits.output, self.spec.limits.start_timeout).await
    }

    /// Starts a worker anew. Its settings are its standard input, a file in memory: nobody sees them on a command line.
    fn spawn(&self, settings: &WorkerSettings<'_>) -> Result<Child, Error> {
        let spawn = || -> io::Result<Child> {
            let mut command = self.python()?;
            let module = self.spec.entry.split(':').next().unwrap_or_default();
            command.args(["-m", module, "--id", settings.id, "--environment", settings.environment]);
            command.env(strays::WORKER_VARIABLE, settings.id);
            let (cwd, paths) = (working_directory(), text_of(&self.spec.paths));
            let settings = SpawnSettings { worker: settings, cwd: &cwd, paths: &paths };
            command.stdin(Stdio::from(memory_file(&serde_json::to_vec(&settings)?)?));
            Child::spawn(command, settings.worker.id, &self.spec.limits.output)
        };
        spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Failure::new(StartError::System(error), &self.spec.python, self.spec.limits.start_timeout).error()
            }
            _ => Error::new(Code::WorkerStartFailed, "the worker process could not be created").detail(error.to_string()).retryable(),
        })
    }

    /// The interpreter with the environment's variables. It starts in the package's folder, which `-m` puts first on `sys.path`, and goes
    /// back to the engine's working directory by itself.
    fn python(&self) -> io::Result<Command> {
        let python = &self.spec.python;
        let by_path = python.components().count() > 1;
        let mut command = Command::new(if by_path { std::path::absolute(python)? } else { python.clone() });
        // They configure the engine and may hold secrets; and no environment may turn on what the engine's configuration leaves off.
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(b"PILLION_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        // It would keep `-m` from doing so.
        command.env_remove("PYTHONSAFEPATH");
        for variable in THREAD_VARIABLES {
            if std::env::var_os(variable).is_none() {
                command.env(variable, "1");
            }
        }
        command.envs(self.spec.variables.iter().filter(|(name, _)| !is_ours(name.as_ref())));
        if self.spec.allow_pickled_functions {
            command.env("PILLION_ALLOW_PICKLED_FUNCTIONS", "1");
        }
        command.env(strays::VARIABLE, strays::mark()).current_dir(&self.spec.package_dir);
        Ok(command)
    }
}

/// Makes this process the new parent of orphaned descendants. Idempotent.
fn become_subreaper() -> Result<(), Error> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| {
        Error::new(Code::SystemRefused, "this process may not become the reaper of its descendants").detail(error.to_string())
    })
}

/// A file in memory with `content`, to be read from its beginning.
fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("pillion-settings", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn working_directory() -> String {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")).to_string_lossy().into_owned()
}

fn text_of(paths: &[PathBuf]) -> Vec<String> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| Path::to_path_buf(path));
    paths.iter().map(|path| absolute(path).to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
#[path = "launcher_tests.rs"]
mod tests;
