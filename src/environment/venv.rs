//! Virtual environments, built once and cached by content.
//!
//! A virtual environment cannot be moved: its scripts and some of its packages hold its path. So each is built in place, in
//! `environments/<hash>/`, and two things make that safe. A lock on `<hash>.lock` lets one process build at a time. A marker inside the folder,
//! written last, says that it is whole; a folder without it is what a crash left, and is built anew.
//!
//! The lock is held by the builder's children too: they get it as their standard input. If the sidecar is killed while pip runs, nobody else
//! touches the folder until pip is gone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, timeout_at};

use super::identity::Identity;
use super::interpreter::Interpreter;
use super::{blocking, requirements, unwritable};
use crate::error::{Code, Error};

/// Written last. Its content is for people: what was installed, for which interpreter.
const MARKER: &str = "pillion-environment.txt";
/// How much of pip's output an error carries at most, in bytes.
const DETAIL_BYTES: usize = 4096;
/// How much of the end of pip's output is searched for errors, in bytes.
const TAIL_BYTES: u64 = 256 << 10;

/// Builds virtual environments below a cache folder.
pub struct Builder<'a> {
    pub cache_dir: &'a Path,
    /// For one build, waiting for another process's build included.
    pub deadline: Duration,
}

impl Builder<'_> {
    /// The virtual environment of `base` with `lines` installed; from the cache, or built now. Dropping the future stops the build, and leaves
    /// nothing that could be taken for a whole one.
    ///
    /// An interpreter that is itself in a virtual environment lends its base: the packages of that environment are not seen.
    ///
    /// # Errors
    /// `requirements_failed` with pip's reason, or `cache_unwritable`.
    pub async fn ensure(&self, base: &Interpreter, lines: Vec<String>) -> Result<Interpreter, Error> {
        let mut identity = Identity::new("virtual environment 1");
        identity.path(&base.base_executable).text(&base.version);
        let named = lines.clone();
        let hash = blocking(move || {
            requirements::identify(&named, &mut identity);
            Ok(identity.finish())
        })
        .await?;
        let site = Site::new(&self.cache_dir.join("environments"), &hash);
        if !site.is_whole() {
            let deadline = Instant::now() + self.deadline;
            match timeout_at(deadline, site.build(base, &lines)).await {
                Ok(built) => built?,
                Err(_) => return Err(site.too_slow(self.deadline)),
            }
        }
        Ok(base.inside(&site.folder, site.python()))
    }
}

/// The places of one virtual environment.
struct Site {
    folder: PathBuf,
    lock: PathBuf,
    log: PathBuf,
}

impl Site {
    fn new(parent: &Path, hash: &str) -> Self {
        Self { folder: parent.join(hash), lock: parent.join(format!("{hash}.lock")), log: parent.join(format!("{hash}.log")) }
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Built to the end, and its base interpreter is still there (`bin/python` is a link to it).
    fn is_whole(&self) -> bool {
        self.folder.join(MARKER).exists() && self.python().exists()
    }

    async fn build(&self, base: &Interpreter, lines: &[String]) -> Result<(), Error> {
        let lock = self.acquire().await?;
        // Whoever held the lock before may have built it.
        if self.is_whole() {
            return Ok(());
        }
        tracing::info!(folder = %self.folder.display(), python = %base.version, requirements = ?lines, "building a virtual environment");
        let started = Instant::now();
        self.clear().await?;
        let built = self.install(base, lines, &lock).await;
        if let Err(error) = built {
            self.clear().await?;
            return Err(error);
        }
        tracing::info!(folder = %self.folder.display(), seconds = started.elapsed().as_secs_f32(), "built a virtual environment");
        Ok(())
    }

    /// Takes the lock. It is polled, because a thread that waits in `flock` could not be called back when the session that asked is gone.
    async fn acquire(&self) -> Result<File, Error> {
        let open = || {
            fs::create_dir_all(self.folder.parent().unwrap_or(Path::new("/")))?;
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&self.lock)
        };
        let lock = open().map_err(|error| unwritable(&self.lock, &error))?;
        let mut tick = interval(Duration::from_millis(50));
        let mut waiting = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(unwritable(&self.lock, &error)),
                Err(TryLockError::WouldBlock) if !waiting => {
                    waiting = true;
                    tracing::info!(folder = %self.folder.display(), "waiting for another process that builds this virtual environment");
                }
                Err(TryLockError::WouldBlock) => {}
            }
            tick.tick().await;
        }
    }

    /// Removes what is there. Only under the lock, and only what is not whole: nobody uses it.
    async fn clear(&self) -> Result<(), Error> {
        let folder = self.folder.clone();
        blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(&folder, &error)),
            _ => Ok(()),
        })
        .await
    }

    async fn install(&self, base: &Interpreter, lines: &[String], lock: &File) -> Result<(), Error> {
        let log = File::create(&self.log).map_err(|error| unwritable(&self.log, &error))?;
        let mut venv = Command::new(&base.base_executable);
        venv.args(["-I", "-m", "venv"]).arg(&self.folder);
        if !run(venv, lock, &log).await?.success() {
            return Err(self.venv_failed(base));
        }
        let list = self.folder.join("requirements.txt");
        fs::write(&list, lines.join("\n") + "\n").map_err(|error| unwritable(&list, &error))?;
        let mut pip = Command::new(self.python());
        pip.args(["-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar=off", "-r"]).arg(&list);
        if !run(pip, lock, &log).await?.success() {
            return Err(self.pip_failed());
        }
        self.mark(base, lines).map_err(|error| unwritable(&self.folder, &error))
    }

    /// Declares the folder whole. What pip wrote reaches the disk before the marker does.
    fn mark(&self, base: &Interpreter, lines: &[String]) -> io::Result<()> {
        let mut marker = tempfile::NamedTempFile::new_in(&self.folder)?;
        writeln!(marker, "Python {} ({})\n\n{}", base.version, base.base_executable.display(), lines.join("\n"))?;
        rustix::fs::syncfs(&marker)?;
        marker.persist(self.folder.join(MARKER)).map(drop).map_err(Into::into)
    }

    /// The last lines written while building.
    fn output(&self) -> String {
        let read = || {
            let mut log = File::open(&self.log)?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut tail = Vec::new();
            log.read_to_end(&mut tail)?;
            io::Result::Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        read().unwrap_or_default()
    }

    fn detail(&self) -> String {
        let output = self.output();
        let output = output.trim_end();
        let least = output.len().saturating_sub(DETAIL_BYTES);
        let start = (least..=output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(least);
        format!("{}\n(all of it: {})", &output[start..], self.log.display())
    }

    fn venv_failed(&self, base: &Interpreter) -> Error {
        let output = self.output();
        let message = format!("`{} -m venv` failed", base.base_executable.display());
        let hint = if output.contains("ensurepip") {
            "the `venv` module of this interpreter is incomplete; install it (`python3-venv` on Debian and Ubuntu) or use another interpreter"
        } else {
            "see the detail for what it printed"
        };
        Error::new(Code::RequirementsFailed, message).hint(hint).detail(self.detail())
    }

    fn pip_failed(&self) -> Error {
        let output = self.output();
        let hint = if UNREACHABLE.iter().any(|sign| output.contains(sign)) {
            "the package index cannot be reached; check the network, or the variables `PIP_INDEX_URL` and `PIP_PROXY` of the sidecar"
        } else {
            "check the spelling and the versions asked for; the detail holds the end of pip's output"
        };
        Error::new(Code::RequirementsFailed, format!("the requirements cannot be installed: {}", reason(&output)))
            .hint(hint)
            .detail(self.detail())
    }

    fn too_slow(&self, deadline: Duration) -> Error {
        let message = format!("the requirements were not installed within {}", humantime::format_duration(deadline));
        Error::new(Code::RequirementsFailed, message)
            .hint("raise `limits.environment_deadline`, or build the environment yourself and give its path as `python`")
            .detail(self.detail())
    }
}

/// Signs in pip's output that the network is at fault, although its last word is that a package does not exist.
const UNREACHABLE: [&str; 5] = ["NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "ReadTimeoutError"];

/// What pip says is wrong: its `ERROR:` lines, without repetition.
fn reason(output: &str) -> String {
    let mut errors: Vec<&str> = Vec::new();
    for line in output.lines().filter_map(|line| line.trim_start().strip_prefix("ERROR: ")) {
        let line = line.trim().trim_end_matches('.');
        if !errors.contains(&line) {
            errors.push(line);
        }
    }
    // The last ones are the verdict; what comes before may be attempts that pip got over.
    let verdict = errors.split_off(errors.len().saturating_sub(3));
    if verdict.is_empty() { "pip failed".to_owned() } else { verdict.join("; ") }
}

/// Runs one step to its end: in a process group of its own, output to `log`, holding `lock`.
async fn run(mut command: Command, lock: &File, log: &File) -> Result<ExitStatus, Error> {
    let program = PathBuf::from(command.as_std().get_program());
    let failed = |error: io::Error| {
        Error::new(Code::RequirementsFailed, format!("`{}` cannot be run: {error}", program.display()))
            .hint("check that the interpreter can be executed")
    };
    let mut start = || {
        command.stdin(Stdio::from(lock.try_clone()?)).stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log.try_clone()?));
        // Settings meant for the sidecar's own interpreter would lead pip to other packages.
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env_remove("VIRTUAL_ENV").env("PYTHONUNBUFFERED", "1");
        command.process_group(0).kill_on_drop(true).spawn()
    };
    let mut step = Step(start().map_err(failed)?);
    step.0.wait().await.map_err(failed)
}

/// A step of a build, which ends with its owner: pip starts compilers and other processes, so the whole group is killed.
struct Step(Child);

impl Drop for Step {
    fn drop(&mut self) {
        // No id: it has been waited for, and its number may belong to someone else by now.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Fails only if the group is gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
#[path = "venv_tests.rs"]
mod tests;
