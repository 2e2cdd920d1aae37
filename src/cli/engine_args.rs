//! Flags that `run`, `check` and `bench` share: which engine, which environment.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use pillion::config::{self, Config, Flags};
use pillion::environment::{Mode, read_requirements};
use pillion::{EnvironmentSpec, FunctionRef, Pillion};

use super::failure::Failure;

/// How batches cross to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// As configured.
    Auto,
    /// In messages.
    Inline,
    /// Through shared memory.
    Shm,
}

#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Use a running sidecar (`unix:/path/to.sock` or `http://127.0.0.1:7070`) instead of an engine inside this process
    #[arg(long, value_name = "ENDPOINT", env = "PILLION_ENDPOINT", help_heading = "Engine")]
    connect: Option<String>,

    /// Configuration file (TOML) of the engine inside this process
    #[arg(long, value_name = "FILE", env = "PILLION_CONFIG", help_heading = "Engine")]
    config: Option<PathBuf>,

    /// How batches cross to the workers of an engine inside this process: through shared memory where it can be had (`auto`, `shm`), or in messages (`inline`)
    #[arg(long, value_enum, help_heading = "Engine", conflicts_with = "connect")]
    transport: Option<Transport>,

    /// A named environment of the configuration
    #[arg(long, value_name = "NAME", help_heading = "Environment", conflicts_with_all = ["python", "requirements", "path", "preload"])]
    environment: Option<String>,

    /// Python interpreter: a version such as `3.12`, or a path [default: `python3` on the PATH]
    #[arg(long, value_name = "VERSION|PATH", help_heading = "Environment")]
    python: Option<String>,

    /// Packages the function needs, as a requirements.txt; they are installed once into an environment of their own and kept
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    requirements: Vec<PathBuf>,

    /// Folder or zip file to import from, before the standard ones; can be given several times
    #[arg(long, value_name = "DIR", help_heading = "Environment")]
    path: Vec<PathBuf>,

    /// Modules to import once, before workers are forked; can be given several times, or as a list
    #[arg(long, value_name = "MODULE", value_delimiter = ',', help_heading = "Environment")]
    preload: Vec<String>,

    /// Run the function in worker processes, or in threads of the engine's own process: faster, but a crash ends that process and a hang cannot be ended
    /// [default: as configured, else `process`]
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Environment")]
    mode: Option<Mode>,
}

impl EngineArgs {
    /// The engine: a connection, or one inside this process with at most `workers` workers, and with what `flags` set.
    ///
    /// # Errors
    /// A wrong configuration; an endpoint where no sidecar listens.
    pub async fn pillion(&self, workers: Option<usize>, mut flags: Flags) -> Result<Pillion, Failure> {
        if let Some(endpoint) = &self.connect {
            return Ok(Pillion::connect(endpoint).await?);
        }
        flags.set("--workers", "pool.max", workers);
        flags.set("--transport", "shm.enabled", self.transport().map(|transport| transport == Transport::Shm));
        Ok(Pillion::embedded(self.load(&flags)?).await?)
    }

    /// The configuration of an engine inside this process, for a command that starts its own.
    ///
    /// # Errors
    /// A wrong configuration; a sidecar that was asked for.
    pub fn config(&self, workers: usize) -> Result<Config, Failure> {
        if let Some(endpoint) = &self.connect {
            let text = format!("this command starts engines of its own and does not use the sidecar at `{endpoint}`");
            return Err(Failure::usage(text).hint("leave `--connect` out, and unset `PILLION_ENDPOINT`"));
        }
        let mut flags = Flags::default();
        flags.set("--workers", "pool.max", Some(workers));
        self.load(&flags)
    }

    /// The configuration; what it asks for that threads cannot give is refused here if they were asked for by flag.
    fn load(&self, flags: &Flags) -> Result<Config, Failure> {
        let config = config::load(self.config.as_deref(), flags)?;
        if self.mode == Some(Mode::Thread) {
            config.check_threads()?;
        }
        Ok(config)
    }

    /// The environment that the flags ask for.
    ///
    /// # Errors
    /// A requirements file that cannot be read, a path that does not exist.
    pub fn environment(&self) -> Result<EnvironmentSpec, Failure> {
        if let Some(name) = &self.environment {
            return Ok(EnvironmentSpec { mode: self.mode, ..EnvironmentSpec::named(name) });
        }
        let mut requirements = Vec::new();
        for file in &self.requirements {
            requirements.extend(read_requirements(file)?);
        }
        // A path is meant from here, wherever the engine runs; a version is not a path.
        let python = match &self.python {
            Some(python) if python.contains('/') => Some(absolute(Path::new(python))?.to_string_lossy().into_owned()),
            other => other.clone(),
        };
        let paths = self.path.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?;
        Ok(EnvironmentSpec { python, requirements, paths, preload: self.preload.clone(), mode: self.mode, ..EnvironmentSpec::default() })
    }

    /// The sidecar that is used in place of an engine inside this process.
    pub fn sidecar(&self) -> Option<&str> {
        self.connect.as_deref()
    }

    /// The transport that was asked for; `auto` leaves it to the configuration.
    pub fn transport(&self) -> Option<Transport> {
        self.transport.filter(|transport| *transport != Transport::Auto)
    }

    /// The mode that was asked for.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// Whether packages may have to be installed first.
    pub fn installs(&self) -> bool {
        !self.requirements.is_empty()
    }

    /// What a person may want to check when loading takes long.
    pub fn loading_text(&self, function: &FunctionRef) -> String {
        if self.requirements.is_empty() {
            format!("loading `{function}`")
        } else {
            format!("loading `{function}` (the first time its packages are installed)")
        }
    }
}

/// Reads FUNCTION.
///
/// # Errors
/// A usage failure that says how to write it.
pub fn function_ref(text: &str) -> Result<FunctionRef, Failure> {
    FunctionRef::parse(text).map_err(|error| {
        let failure = Failure::usage(error.message());
        match error.hint_text() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("`{}` is no path: {error}", path.display())))
}
