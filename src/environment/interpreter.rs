//! Finding and probing Python interpreters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Code, Error};

/// The oldest CPython whose stable ABI the worker is built for.
const OLDEST: (u32, u32) = (3, 10);
/// An interpreter that starts takes some 20 ms; on a cold disk or a loaded machine, seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// Prints what the sidecar must know, as JSON. Runs on any Python back to 2.7, so that old ones can be told apart from broken ones.
const PROBE: &str = r#"
import json, struct, sys, sysconfig
var = sysconfig.get_config_var
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "executable": sys.executable,
    "prefix": sys.prefix,
    "base_prefix": getattr(sys, "base_prefix", sys.prefix),
    "base_executable": getattr(sys, "_base_executable", None) or sys.executable,
    "implementation": getattr(getattr(sys, "implementation", None), "name", "cpython"),
    "abi": var("SOABI") or "",
    "free_threaded": bool(var("Py_GIL_DISABLED")),
    "pointer_bytes": struct.calcsize("P"),
}))
"#;

/// What an interpreter says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interpreter {
    /// `major.minor.patch`.
    pub version: String,
    /// The interpreter itself, not a shim that leads to it. In a virtual environment this is the environment's own path, which must not be
    /// resolved further: it is what makes the environment's packages visible.
    pub executable: PathBuf,
    /// The installation that a virtual environment builds on; otherwise the same as `prefix`.
    pub base_prefix: PathBuf,
    pub prefix: PathBuf,
    /// The interpreter that a virtual environment builds on; otherwise the same as `executable`.
    pub base_executable: PathBuf,
    implementation: String,
    abi: String,
    free_threaded: bool,
    pointer_bytes: u32,
}

impl Interpreter {
    /// Whether it belongs to a virtual environment.
    pub fn is_virtual(&self) -> bool {
        self.prefix != self.base_prefix
    }

    /// The interpreter of the virtual environment in `prefix` that was built on this one.
    pub(super) fn inside(&self, prefix: &Path, executable: PathBuf) -> Self {
        Self { executable, prefix: prefix.to_owned(), ..self.clone() }
    }

    /// Major and minor version.
    fn release(&self) -> (u32, u32) {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Refuses an interpreter that cannot load the worker.
    fn supported(self) -> Result<Self, Error> {
        let (major, minor) = OLDEST;
        let newer = format!("use CPython {major}.{minor} or newer");
        let (problem, hint) = if self.implementation != "cpython" {
            (format!("it is {}, and the worker is an extension of CPython", self.implementation), newer)
        } else if self.release() < OLDEST {
            (format!("it is Python {}", self.version), newer)
        } else if self.free_threaded {
            (
                format!("Python {} without the global lock has another binary interface than the worker", self.version),
                format!("use the ordinary build of CPython {}.{}", self.release().0, self.release().1),
            )
        } else if self.abi.contains("musl") {
            ("it is built for musl, and the worker for glibc".into(), "use an image with glibc, such as one based on Debian".into())
        } else if self.pointer_bytes != (usize::BITS / 8) {
            (format!("it is a {}-bit build", self.pointer_bytes * 8), format!("use a {}-bit build", usize::BITS))
        } else {
            return Ok(self);
        };
        Err(Error::new(
            Code::InterpreterUnsupported,
            format!("the interpreter `{}` cannot run workers: {problem}", self.executable.display()),
        )
        .hint(hint))
    }
}

/// Finds interpreters, and remembers what each said about itself.
#[derive(Default)]
pub struct Finder {
    probed: Mutex<HashMap<PathBuf, Interpreter>>,
}

impl Finder {
    /// The interpreter for `wanted`: a path, a version such as `3.11` or `3.11.7`, a name on the `PATH` such as `python3.11`, or `python3`.
    ///
    /// # Errors
    /// `interpreter_not_found` (the hint lists those there are) or `interpreter_unsupported`.
    pub async fn find(&self, wanted: Option<&str>) -> Result<Interpreter, Error> {
        match wanted.map(|wanted| (wanted, version(wanted))) {
            None => self.first_of_path(&["python3", "python"]).await,
            Some((wanted, Some(version))) => self.of_version(wanted, &version).await,
            Some((path, None)) if path.contains('/') => self.probe(Path::new(path)).await?.supported(),
            Some((name, None)) => self.first_of_path(&[name]).await,
        }
    }

    /// The first of `names` that is on the `PATH` and works. A shim of a version manager may be there and lead nowhere, so a failure moves on.
    async fn first_of_path(&self, names: &[&str]) -> Result<Interpreter, Error> {
        let mut first_failure = None;
        for candidate in names.iter().flat_map(|name| on_path(name)) {
            match self.probe(&candidate).await {
                Ok(found) => return found.supported(),
                Err(error) => drop(first_failure.get_or_insert(error)),
            }
        }
        Err(first_failure.unwrap_or_else(|| {
            Error::new(Code::InterpreterNotFound, format!("there is no `{}` on the `PATH`", names[0])).hint(installed_hint())
        }))
    }

    async fn of_version(&self, wanted: &str, version: &[u32]) -> Result<Interpreter, Error> {
        let mut found = None;
        for candidate in candidates(version) {
            // One that does not start, or is another version than its name says, is no reason to give up: the next may do.
            if let Ok(interpreter) = self.probe(&candidate).await
                && matches(&interpreter.version, version)
            {
                found = Some(interpreter);
                break;
            }
        }
        match found {
            Some(interpreter) => interpreter.supported(),
            None => Err(Error::new(Code::InterpreterNotFound, format!("there is no Python {wanted}")).hint(installed_hint())),
        }
    }

    /// Runs the interpreter once and asks it.
    async fn probe(&self, path: &Path) -> Result<Interpreter, Error> {
        let known = self.probed.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(known) = known.filter(|known| is_executable(path) && is_executable(&known.executable)) {
            return Ok(known);
        }
        let found = run_probe(path).await?;
        self.probed.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), found.clone());
        Ok(found)
    }
}

async fn run_probe(path: &Path) -> Result<Interpreter, Error> {
    let not_found = |reason: String| Error::new(Code::InterpreterNotFound, format!("the interpreter `{}` {reason}", path.display()));
    if !path.exists() {
        return Err(not_found("does not exist".into()).hint(installed_hint()));
    }
    let mut command = Command::new(path);
    // `-I`: neither the folder we stand in nor the user's variables and packages have a say. Python 2 does not know it, and says so.
    command.args(["-I", "-c", PROBE]).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PROBE_DEADLINE, command.output()).await {
        Err(_) => return Err(not_found(format!("did not answer within {} s", PROBE_DEADLINE.as_secs()))),
        Ok(Err(error)) => return Err(not_found(format!("cannot be run: {error}")).hint("give the path of a Python interpreter")),
        Ok(Ok(output)) => output,
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("Unknown option: -I") {
        let message = format!("the interpreter `{}` cannot run workers: it is Python 2", path.display());
        return Err(Error::new(Code::InterpreterUnsupported, message).hint(format!("use CPython {}.{} or newer", OLDEST.0, OLDEST.1)));
    }
    // A start-up hook of the installation may print; the answer is the last line.
    let answer = String::from_utf8_lossy(&output.stdout);
    let answer = answer.lines().rfind(|line| line.starts_with('{')).and_then(|line| serde_json::from_str::<Interpreter>(line).ok());
    answer.filter(|_| output.status.success()).ok_or_else(|| {
        not_found("is no working Python interpreter".into())
            .hint("give the path of a Python interpreter")
            .detail(format!("{}\n{errors}", output.status))
    })
}

/// `3`, `3.11` or `3.11.7` as numbers; None for anything else.
fn version(text: &str) -> Option<Vec<u32>> {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    parts.filter(|parts| parts.len() <= 3)
}

/// Whether `found` begins with the parts of `wanted`.
fn matches(found: &str, wanted: &[u32]) -> bool {
    version(found).is_some_and(|found| found.starts_with(wanted))
}

/// Where a version may be: on the `PATH` by its name, else among those of pyenv, newest first.
fn candidates(version: &[u32]) -> Vec<PathBuf> {
    let name = match version {
        [major] => format!("python{major}"),
        [major, minor, ..] => format!("python{major}.{minor}"),
        [] => return Vec::new(),
    };
    let mut found: Vec<PathBuf> = on_path(&name).chain(on_path("python3")).collect();
    let pyenv = pyenv_versions();
    found.extend(pyenv.into_iter().rev().filter(|(installed, _)| installed.starts_with(version)).map(|(_, python)| python));
    found
}

/// Every executable `name` on the `PATH`, in its order.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found: Vec<_> =
        env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).filter(|path| is_executable(path)).collect();
    found.into_iter()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The interpreters that pyenv keeps, by version.
fn pyenv_versions() -> BTreeMap<Vec<u32>, PathBuf> {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    let entries = root.into_iter().flat_map(|root| fs::read_dir(root.join("versions"))).flatten().flatten();
    entries
        .filter_map(|entry| Some((version(entry.file_name().to_str()?)?, entry.path().join("bin/python"))))
        .filter(|(_, python)| is_executable(python))
        .collect()
}

/// A hint with the versions that could be asked for.
fn installed_hint() -> String {
    let names = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let names = names.into_iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.file_name());
    let on_path = names.filter_map(|name| python_name(&name));
    let found: BTreeSet<Vec<u32>> =
        on_path.chain(pyenv_versions().into_keys()).filter(|v| (v[0], v.get(1).copied().unwrap_or(0)) >= OLDEST).collect();
    if found.is_empty() {
        return format!("install CPython {}.{} or newer, or give the path of an interpreter", OLDEST.0, OLDEST.1);
    }
    let found: Vec<_> = found.iter().map(|v| v.iter().map(u32::to_string).collect::<Vec<_>>().join(".")).collect();
    format!("there are {}; a path does too", found.join(", "))
}

/// The version in a name such as `python3.11`.
fn python_name(name: &OsStr) -> Option<Vec<u32>> {
    version(name.to_str()?.strip_prefix("python")?).filter(|parts| parts.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Interpreter {
        Interpreter {
            version: "3.11.7".into(),
            executable: "/usr/bin/python3".into(),
            prefix: "/usr".into(),
            base_prefix: "/usr".into(),
            base_executable: "/usr/bin/python3".into(),
            implementation: "cpython".into(),
            abi: "cpython-311-x86_64-linux-gnu".into(),
            free_threaded: false,
            pointer_bytes: usize::BITS / 8,
        }
    }

    #[test]
    fn refuses_what_cannot_load_the_worker() {
        plain().supported().unwrap();
        type Break = fn(&mut Interpreter);
        let broken: [(Break, &str); 5] = [
            (|i| i.version = "3.9.18".into(), "Python 3.9.18"),
            (|i| i.implementation = "pypy".into(), "pypy"),
            (|i| i.abi = "cpython-311-x86_64-linux-musl".into(), "musl"),
            (|i| i.free_threaded = true, "without the global lock"),
            (|i| i.pointer_bytes = 4, "32-bit"),
        ];
        for (break_it, word) in broken {
            let mut interpreter = plain();
            break_it(&mut interpreter);
            let error = interpreter.supported().unwrap_err();
            assert_eq!(error.code(), Code::InterpreterUnsupported);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn versions_match_by_their_first_parts() {
        assert_eq!(version("3.11"), Some(vec![3, 11]));
        assert_eq!(version("python3"), None);
        assert_eq!(version("3.11.7.1"), None);
        assert!(matches("3.11.7", &[3, 11]) && matches("3.11.7", &[3]));
        assert!(!matches("3.11.7", &[3, 1]) && !matches("3.11.7", &[3, 11, 8]));
    }

    #[tokio::test]
    async fn the_default_is_a_real_interpreter_and_leads_to_itself() {
        let finder = Finder::default();
        let found = finder.find(None).await.unwrap();
        assert!(found.release() >= OLDEST);
        // A shim would be a script.
        assert!(fs::read(&found.executable).unwrap().starts_with(b"\x7fELF") || cfg!(not(target_os = "linux")));
        let again = finder.find(Some(found.executable.to_str().unwrap())).await.unwrap();
        assert_eq!(again, found);
        let (major, minor) = found.release();
        assert_eq!(finder.find(Some(&format!("{major}.{minor}"))).await.unwrap().release(), (major, minor));
    }

    #[tokio::test]
    async fn what_is_not_there_is_named_with_what_is() {
        let finder = Finder::default();
        let error = finder.find(Some("3.99")).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (Code::InterpreterNotFound, "there is no Python 3.99"));
        assert!(error.report().contains("there are 3."), "{}", error.report());
        for wanted in ["/no/such/python", "no-such-python"] {
            let error = finder.find(Some(wanted)).await.unwrap_err();
            assert_eq!(error.code(), Code::InterpreterNotFound);
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_python_is_refused() {
        for wanted in ["/bin/cat", "/etc/passwd"] {
            let error = Finder::default().find(Some(wanted)).await.unwrap_err();
            assert_eq!(error.code(), Code::InterpreterNotFound, "{wanted}");
        }
    }

    #[tokio::test]
    async fn an_old_python_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let script = |name: &str, body: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let python2 = script("python2", "echo 'Unknown option: -I' >&2; exit 2");
        let error = Finder::default().find(Some(&python2)).await.unwrap_err();
        assert_eq!(error.code(), Code::InterpreterUnsupported);
        let chatty =
            script("chatty", &format!("echo hello; exec '{}' \"$@\"", Finder::default().find(None).await.unwrap().executable.display()));
        Finder::default().find(Some(&chatty)).await.unwrap();
    }
}
