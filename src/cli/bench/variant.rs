//! The ways to run a function that are compared: a mode, a transport and a door each. Shared with `benches/` and `examples/peer.rs`.
#![allow(dead_code, reason = "each of its users needs a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pillion::config::{self, EnvironmentConfig, Flags, Requirements, Spin};
use pillion::environment::{self, DEFAULT};
use pillion::{Code, Config, EnvironmentSpec, Error, Pillion};
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a sidecar may take to end after SIGTERM, before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// Where functions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Process,
    Thread,
}

/// How bodies cross to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Inline,
    Shm,
    /// Shared memory, and whoever waits sleeps at once.
    Asleep,
    /// Whatever the mode uses by default.
    Auto,
    /// None: on the caller's own thread (`Session::call_here`).
    Here,
}

/// Where the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// Inside the host.
    Embedded,
    /// In a sidecar.
    Connect,
}

/// One way to run a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Variant {
    pub mode: Mode,
    pub transport: Transport,
    pub door: Door,
}

const fn variant(mode: Mode, transport: Transport, door: Door) -> Variant {
    Variant { mode, transport, door }
}

/// Everything that is compared, in the order in which it is shown.
pub const ALL: [Variant; 6] = [
    variant(Mode::Process, Transport::Inline, Door::Embedded),
    variant(Mode::Process, Transport::Shm, Door::Embedded),
    variant(Mode::Thread, Transport::Auto, Door::Embedded),
    variant(Mode::Process, Transport::Inline, Door::Connect),
    variant(Mode::Process, Transport::Shm, Door::Connect),
    variant(Mode::Thread, Transport::Auto, Door::Connect),
];

/// What a host does that can block a thread of its own for as long as a batch takes: one batch at a time.
pub const HERE: Variant = variant(Mode::Thread, Transport::Here, Door::Embedded);

/// Variants that the design has budgets for, and nobody has to choose between.
pub const MORE: [Variant; 3] = [
    variant(Mode::Process, Transport::Asleep, Door::Embedded),
    variant(Mode::Process, Transport::Asleep, Door::Connect),
    variant(Mode::Thread, Transport::Asleep, Door::Embedded),
];

impl Variant {
    /// For people: `process shm, embedded`.
    pub fn name(self) -> String {
        format!("{}, {}", self.way(), self.door_name())
    }

    /// Mode and transport: `process shm`.
    pub fn way(self) -> &'static str {
        match (self.mode, self.transport) {
            (Mode::Process, Transport::Inline) => "process inline",
            (Mode::Process, Transport::Shm) => "process shm",
            (Mode::Process, Transport::Asleep) => "process shm asleep",
            (Mode::Process, Transport::Auto) => "process",
            (_, Transport::Here) => "thread here",
            (Mode::Thread, Transport::Asleep) => "thread asleep",
            (Mode::Thread, _) => "thread",
        }
    }

    /// `embedded` or `connect`.
    pub fn door_name(self) -> &'static str {
        match self.door {
            Door::Embedded => "embedded",
            Door::Connect => "connect",
        }
    }

    /// Writes the configuration of this variant into `folder`: `base`, changed. Gives the file, and the environment to ask for.
    fn configure(self, base: &Config, environment: &EnvironmentSpec, folder: &Path) -> Result<(PathBuf, EnvironmentSpec), Error> {
        let mut config = base.clone();
        config.runtime_dir = folder.join("run");
        // The mode belongs to the variant.
        let environment = EnvironmentSpec { mode: None, ..environment.clone() };
        let name = environment.name.clone().unwrap_or_else(|| DEFAULT.to_owned());
        if environment.name.is_none() && environment != EnvironmentSpec::default() {
            config.environments.insert(DEFAULT.to_owned(), configured(&environment, config.environments.get(DEFAULT)));
        }
        config.environments.entry(name.clone()).or_default().mode = match self.mode {
            Mode::Process => environment::Mode::Process,
            Mode::Thread => environment::Mode::Thread,
        };
        match self.transport {
            Transport::Inline => config.shm.enabled = false,
            Transport::Shm => config.shm.enabled = true,
            Transport::Asleep => {
                config.shm.enabled = true;
                config.shm.spin = Spin::OFF;
            }
            Transport::Auto | Transport::Here => {}
        }
        let file = folder.join("bench.toml");
        fs::write(&file, config.to_toml())
            .map_err(|error| Error::new(Code::SystemRefused, format!("the configuration cannot be written: {error}")))?;
        Ok((file, EnvironmentSpec::named(name)))
    }

    /// Starts an engine of this kind; `program` is the binary for sidecars. Workers come with the first session.
    ///
    /// # Errors
    /// A configuration that this build does not know or refuses; a sidecar that does not start.
    pub async fn start(self, base: &Config, environment: &EnvironmentSpec, program: &Path) -> Result<Running, Error> {
        let folder = tempfile::Builder::new()
            .prefix("pillion-bench-")
            .tempdir()
            .map_err(|error| Error::new(Code::SystemRefused, format!("no temporary folder can be made: {error}")))?;
        let (file, environment) = self.configure(base, environment, folder.path())?;
        // Read here in either case: what is wrong with it is then said in full.
        let config = config::load(Some(&file), &Flags::default())?;
        let (pillion, sidecar) = match self.door {
            Door::Embedded => (Pillion::embedded(config).await?, None),
            Door::Connect => {
                let (sidecar, endpoint) = serve(program, &file, folder.path()).await?;
                (Pillion::connect(&endpoint).await?, Some(sidecar))
            }
        };
        Ok(Running { variant: self, pillion, environment, sidecar, folder })
    }
}

/// The environment that a host would spell out, as one of the configuration.
fn configured(spec: &EnvironmentSpec, default: Option<&EnvironmentConfig>) -> EnvironmentConfig {
    EnvironmentConfig {
        python: spec.python.clone().or_else(|| default.and_then(|default| default.python.clone())),
        requirements: Requirements::List(spec.requirements.clone()),
        paths: spec.paths.clone(),
        files: spec.files.clone(),
        variables: spec.variables.clone(),
        preload: spec.preload.clone(),
        start: spec.start,
        ..EnvironmentConfig::default()
    }
}

/// Starts a sidecar and waits until it says where it listens.
async fn serve(program: &Path, file: &Path, folder: &Path) -> Result<(Child, String), Error> {
    let refused = |text: String| Error::new(Code::SystemRefused, text);
    let log = folder.join("sidecar.log");
    let errors = fs::File::create(&log).map_err(|error| refused(format!("the sidecar's log cannot be made: {error}")))?;
    let listen = format!("unix:{}", folder.join("bench.sock").display());
    let mut sidecar = Command::new(program)
        .args(["serve", "--log", "error", "--listen", &listen, "--config"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| refused(format!("the sidecar `{}` cannot be started: {error}", program.display())))?;
    let mut first = String::new();
    if let Some(stdout) = sidecar.stdout.take() {
        // An end of the stream is an empty line, which the next check refuses.
        let _ = BufReader::new(stdout).read_line(&mut first).await;
    }
    match first.trim().strip_prefix("listening on ") {
        Some(endpoint) => Ok((sidecar, endpoint.to_owned())),
        None => {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let said = said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(refused(format!("the sidecar did not start: {said}")))
        }
    }
}

/// Whether a process maps a file whose name has one of these in it.
fn maps(pid: i32, names: &[&str]) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| names.iter().any(|name| maps.contains(name)))
}

/// An engine that was started for comparison.
pub struct Running {
    pub variant: Variant,
    pub pillion: Pillion,
    /// To be asked for.
    pub environment: EnvironmentSpec,
    sidecar: Option<Child>,
    #[allow(dead_code, reason = "holds sockets and configuration, and is removed at the end")]
    folder: TempDir,
}

impl Running {
    /// Why a variant over shared memory, whose session is `shared` with its host, is in truth none: then its figures would be those of another. Large bodies have
    /// crossed before, if `large`.
    ///
    /// # Errors
    /// If the engine does not say who its workers are.
    pub async fn unshared(&self, shared: bool, large: bool) -> Result<Option<&'static str>, Error> {
        if self.variant.mode == Mode::Thread || !matches!(self.variant.transport, Transport::Shm | Transport::Asleep) {
            return Ok(None);
        }
        if !shared {
            return Ok(Some("the host and its sidecar cannot share memory here"));
        }
        let status = self.pillion.status(false).await?;
        let pids: Vec<i32> = status.pools.iter().flat_map(|pool| &pool.workers).map(|worker| worker.pid).collect();
        let maps = |names: &[&str]| pids.iter().any(|&pid| maps(pid, names));
        Ok(match () {
            () if !maps(&["memfd:pillion-ring"]) => Some("the worker and its engine cannot share memory here"),
            () if large && !maps(&["memfd:pillion-inputs", "memfd:pillion-session"]) => Some("no memory could be had for bodies"),
            () => None,
        })
    }

    /// Ends the engine and its workers.
    pub async fn stop(mut self) {
        self.pillion.shutdown().await;
        if let Some(mut sidecar) = self.sidecar.take() {
            let pid = sidecar.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            // A sidecar that does not end is killed when the handle is dropped.
            let _ = timeout(STOP, sidecar.wait()).await;
        }
    }
}
