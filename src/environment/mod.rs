//! Environments: the interpreter, packages, files and variables that a function needs.
//!
//! [`Environments::resolve`] turns what a host asks for ([`EnvironmentSpec`]) into an [`Environment`] that workers can be started in: it finds the
//! interpreter, builds a virtual environment once if there are requirements, unpacks the worker package once, and gives the whole an id by
//! content, so that equal environments share a pool.
//!
//! Below the cache folder: `environments/<hash>/` (virtual environments), `package/<hash>/pillion/` (the worker package).

mod identity;
mod interpreter;
mod package;
mod requirements;
mod spec;
mod venv;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::config::{Config, EnvironmentConfig, Requirements};
use crate::error::{Code, Error};

pub use interpreter::Interpreter;
pub use requirements::read_requirements;
pub(crate) use spec::refused_in_threads;
pub use spec::{EnvironmentSpec, Mode, Start};

use identity::{Files, Identity};

/// The name of the environment that is used when none is named.
pub const DEFAULT: &str = "default";

/// An environment ready for workers. Equal ids mean interchangeable environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// A hash over everything below, and over the contents of the spec's `files`.
    pub id: String,
    /// The interpreter, of a virtual environment if there are requirements.
    pub python: PathBuf,
    /// For example `3.11.7`.
    pub python_version: String,
    /// A folder for the front of `sys.path`; it holds the worker package `pillion` and nothing else.
    pub package_dir: PathBuf,
    /// Folders and zip files for `sys.path`, behind `package_dir` and before the standard ones.
    pub paths: Vec<PathBuf>,
    pub variables: BTreeMap<String, String>,
    /// Modules for the fork server to import.
    pub preload: Vec<String>,
    pub start: Start,
    /// Where its functions run.
    pub mode: Mode,
    /// Whether hosts may read results in place (DESIGN D2).
    pub trusted: bool,
}

/// Resolves environments, and remembers what it learned about interpreters and files.
pub struct Environments {
    cache_dir: PathBuf,
    configured: BTreeMap<String, EnvironmentConfig>,
    allow_inline: bool,
    build_deadline: Duration,
    interpreters: interpreter::Finder,
    files: Arc<Files>,
}

impl Environments {
    /// Takes the configured environments. Reads nothing yet but makes the cache folder.
    ///
    /// # Errors
    /// `cache_unwritable` if the cache folder cannot be made, or others could write it; `config_invalid` if modes and limits contradict each other.
    pub fn new(config: &Config) -> Result<Self, Error> {
        config.check_modes()?;
        make_cache_dir(&config.cache_dir)?;
        Ok(Self {
            cache_dir: config.cache_dir.clone(),
            configured: config.environments.clone(),
            allow_inline: config.functions.allow_inline_environments,
            build_deadline: config.limits.environment_deadline,
            interpreters: interpreter::Finder::default(),
            files: Arc::default(),
        })
    }

    /// Makes the environment ready. The first time this may take minutes, if packages must be installed; dropping the future stops that.
    ///
    /// # Errors
    /// `environment_not_found`, `environment_invalid`, `environment_refused`, `environment_file_missing`, `interpreter_not_found`,
    /// `interpreter_unsupported`, `requirements_failed`, `cache_unwritable` or `worker_package_missing`, each with what to do.
    pub async fn resolve(&self, spec: &EnvironmentSpec) -> Result<Arc<Environment>, Error> {
        let wanted = self.wanted(spec)?;
        wanted.spec.validate()?;
        let EnvironmentSpec { python, requirements, paths, files, variables, preload, start, mode, .. } = wanted.spec;
        let mode = mode.unwrap_or_default();

        let base = self.interpreters.find(python.as_deref()).await?;
        let interpreter = match requirements::normalize(&requirements) {
            none if none.is_empty() => base,
            lines => venv::Builder { cache_dir: &self.cache_dir, deadline: self.build_deadline }.ensure(&base, lines).await?,
        };
        let cache_dir = self.cache_dir.clone();
        let package_dir = blocking(move || package::ensure(&cache_dir)).await?;

        let known = Arc::clone(&self.files);
        let mut identity = Identity::new("environment 1");
        identity.path(&interpreter.executable).text(&interpreter.version).path(&package_dir).text(start.as_str());
        identity.texts(variables.iter().flat_map(|(name, value)| [name, value])).texts(&preload);
        identity.flag(wanted.trusted).text(mode.as_str());
        let (id, paths) = blocking(move || {
            for path in &paths {
                identity.path(path);
                known.check_path(path)?;
            }
            for file in &files {
                identity.path(file).text(&known.digest(file)?);
            }
            Ok((identity.finish(), paths))
        })
        .await?;

        Ok(Arc::new(Environment {
            id,
            python: interpreter.executable,
            python_version: interpreter.version,
            package_dir,
            paths,
            variables,
            preload,
            start,
            mode,
            trusted: wanted.trusted,
        }))
    }

    /// What `spec` stands for: a configured environment by name, the default one, or the spec itself.
    fn wanted(&self, spec: &EnvironmentSpec) -> Result<Wanted, Error> {
        let mut wanted = self.meant(spec)?;
        wanted.spec.mode = spec.mode.or(wanted.spec.mode);
        Ok(wanted)
    }

    fn meant(&self, spec: &EnvironmentSpec) -> Result<Wanted, Error> {
        if let Some(name) = &spec.name {
            if !spec.is_only_a_name() {
                return Err(Error::new(Code::EnvironmentInvalid, format!("the environment `{name}` is named and described at once"))
                    .hint("give either the name of a configured environment or a description"));
            }
            return match self.configured.get(name) {
                Some(configured) => Wanted::configured(configured),
                // The default needs no configuration.
                None if name == DEFAULT => Ok(Wanted::default()),
                None => Err(self.not_found(name)),
            };
        }
        let default = self.configured.get(DEFAULT);
        if spec.is_empty() {
            return default.map_or_else(|| Ok(Wanted::default()), Wanted::configured);
        }
        if !self.allow_inline {
            return Err(Error::new(Code::EnvironmentRefused, "this sidecar takes configured environments only, by name")
                .hint("name one of them, or have `functions.allow_inline_environments` turned on"));
        }
        let mut spec = spec.clone();
        if spec.python.is_none() {
            spec.python = default.and_then(|d| d.python.clone());
        }
        Ok(Wanted { spec, trusted: false })
    }

    fn not_found(&self, name: &str) -> Error {
        let known: Vec<_> = self.configured.keys().map(|name| format!("`{name}`")).collect();
        let error = Error::new(Code::EnvironmentNotFound, format!("no environment `{name}` is configured"));
        if known.is_empty() {
            error.hint(format!("add a table `[environments.{name}]` to the configuration of the sidecar"))
        } else {
            error.hint(format!("configured are {}", known.join(", ")))
        }
    }
}

/// A spec with every name replaced by what it stands for.
#[derive(Default)]
struct Wanted {
    spec: EnvironmentSpec,
    trusted: bool,
}

impl Wanted {
    fn configured(config: &EnvironmentConfig) -> Result<Self, Error> {
        let requirements = match &config.requirements {
            Requirements::List(lines) => lines.clone(),
            Requirements::File(path) => read_requirements(path)?,
        };
        let spec = EnvironmentSpec {
            name: None,
            python: config.python.clone(),
            requirements,
            paths: config.paths.clone(),
            files: config.files.clone(),
            variables: config.variables.clone(),
            preload: config.preload.clone(),
            start: config.start,
            mode: Some(config.mode),
        };
        Ok(Self { spec, trusted: config.trusted })
    }
}

/// Runs file work off the async runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::new(Code::Cancelled, "the engine is shutting down").detail(error.to_string())),
    }
}

/// Makes the cache folder (0700), and refuses one in which others could plant code that workers would run.
fn make_cache_dir(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| std::fs::metadata(path));
    let found = made.map_err(|error| unwritable(path, &error))?;
    let me = rustix::process::getuid().as_raw();
    if found.uid() != me && found.uid() != 0 || found.mode() & 0o002 != 0 {
        return Err(Error::new(Code::CacheUnwritable, format!("other users can write the cache folder `{}`", path.display()))
            .hint("set `cache_dir` to a folder that only you can write"));
    }
    Ok(())
}

/// The error for a cache folder that cannot be written.
fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::CacheUnwritable, format!("the cache folder `{}` cannot be written: {error}", path.display()))
        .hint("set `cache_dir` (`PILLION_CACHE_DIR`) to a folder that you can write")
}

#[cfg(test)]
mod tests;
