//! What a host asks for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use pillion_wire::proto;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

/// How workers come to life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Forked from a server that has the preloads imported: fast, and memory is shared.
    #[default]
    Fork,
    /// Each started anew: for preloads that do not survive a fork.
    Spawn,
}

impl Start {
    /// `fork` or `spawn`, as written in configuration and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Spawn => "spawn",
        }
    }
}

impl FromStr for Start {
    type Err = Error;

    /// # Errors
    /// `environment_invalid` for any other word. An empty text is the default, as on the wire.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" | "fork" => Ok(Self::Fork),
            "spawn" => Ok(Self::Spawn),
            other => {
                Err(Error::new(Code::EnvironmentInvalid, format!("`{other}` is no way to start workers")).hint("write `fork` or `spawn`"))
            }
        }
    }
}

/// Where functions run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In child processes: whatever a function does, the engine lives on.
    #[default]
    Process,
    /// In threads of an interpreter that is loaded into the engine's own process: no copy and no wire, and no protection. A crash ends the process, a hang cannot
    /// be ended. One process has room for one such environment.
    Thread,
}

impl Mode {
    /// `process` or `thread`, as written in configuration and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Thread => "thread",
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    /// # Errors
    /// `environment_invalid` for any other word.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "process" => Ok(Self::Process),
            "thread" => Ok(Self::Thread),
            other => {
                Err(Error::new(Code::EnvironmentInvalid, format!("`{other}` is no mode to run in")).hint("write `process` or `thread`"))
            }
        }
    }
}

/// Interpreter, packages, files and variables that a function needs; by name, or spelled out. The default asks for the sidecar's default
/// environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// An environment of the sidecar's configuration; then everything else is empty.
    pub name: Option<String>,
    /// A path to an interpreter, or a version such as `3.11`. None: that of the default environment, else `python3` on the `PATH`.
    pub python: Option<String>,
    /// Lines as in a `requirements.txt`; see [`super::read_requirements`]. If there are any, the function runs in a virtual environment that
    /// holds these packages only; otherwise the interpreter is used as it is.
    pub requirements: Vec<String>,
    /// Folders or zip files for `sys.path`, absolute. Their identity is their path: workers that run keep the modules they imported.
    pub paths: Vec<PathBuf>,
    /// Files that functions read, absolute; part of the identity by content.
    pub files: Vec<PathBuf>,
    /// Environment variables of the workers.
    pub variables: BTreeMap<String, String>,
    /// Modules imported once in the fork server; never user modules.
    pub preload: Vec<String>,
    pub start: Start,
    /// Where its functions run; may be given beside a name. None: as configured, else in processes.
    pub mode: Option<Mode>,
}

impl EnvironmentSpec {
    /// The configured environment `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// The interpreter `python`, a path or a version, as it is.
    pub fn python(python: impl Into<String>) -> Self {
        Self { python: Some(python.into()), ..Self::default() }
    }

    /// The same environment, its functions in threads of this process.
    #[must_use]
    pub fn in_threads(self) -> Self {
        Self { mode: Some(Mode::Thread), ..self }
    }

    /// Whether it asks for the default environment, in whatever mode.
    pub(crate) fn is_empty(&self) -> bool {
        Self { mode: None, ..self.clone() } == Self::default()
    }

    /// Whether it asks for a configured environment, in whatever mode.
    pub(crate) fn is_only_a_name(&self) -> bool {
        Self { name: None, ..self.clone() }.is_empty()
    }

    /// Refuses what could not work, before anything is built for it.
    pub(super) fn validate(&self) -> Result<(), Error> {
        let invalid = |message: String, hint: &str| Err(Error::new(Code::EnvironmentInvalid, message).hint(hint));
        for name in self.variables.keys() {
            let Some(hint) = variable_problem(name) else { continue };
            return invalid(format!("the variable `{name}` cannot be set for workers"), hint);
        }
        if let Some((name, _)) = self.variables.iter().find(|(_, value)| value.contains('\0')) {
            return invalid(format!("the value of the variable `{name}` holds a NUL character"), "leave it out");
        }
        if let Some(module) = self.preload.iter().find(|module| !is_module_name(module)) {
            return invalid(format!("`{module}` is no module name to preload"), "write names such as `numpy` or `sklearn.linear_model`");
        }
        if let Some(path) = self.paths.iter().chain(&self.files).find(|path| !path.is_absolute()) {
            return invalid(format!("`{}` is not an absolute path", path.display()), "give paths as the worker sees them, from the root");
        }
        if let Some(line) = self.requirements.iter().find(|line| line.contains(['\n', '\r', '\0'])) {
            return invalid(format!("the requirement {line:?} is more than one line"), "give one requirement per entry");
        }
        match refused_in_threads(self.start, &self.variables).filter(|_| self.mode == Some(Mode::Thread)) {
            Some((_, message, hint)) => invalid(message, hint),
            None => Ok(()),
        }
    }
}

/// What of an environment nothing could do in threads of this process: the field, what is wrong, and a hint.
pub(crate) fn refused_in_threads(start: Start, variables: &BTreeMap<String, String>) -> Option<(&'static str, String, &'static str)> {
    if start == Start::Spawn {
        return Some(("start", "in thread mode no process is started".to_owned(), "leave `start` out"));
    }
    let name = variables.keys().find(|name| name.starts_with("PYTHON"))?;
    let message = format!("in thread mode the variable `{name}` cannot be set: Python reads it when it starts");
    Some(("variables", message, "set it for the process that runs the engine"))
}

/// Why a variable may not be set; the text is a hint.
fn variable_problem(name: &str) -> Option<&'static str> {
    match name {
        "PYTHONPATH" => Some("use `paths`"),
        "PYTHONHOME" | "PYTHONEXECUTABLE" => Some("use `python`"),
        _ if name.is_empty() || name.contains(['=', '\0']) => Some("a name has at least one character, and no `=`"),
        _ => None,
    }
}

/// Whether `text` is a dotted name. Identifiers may hold any letters, not only ASCII.
fn is_module_name(text: &str) -> bool {
    let is_identifier = |part: &str| {
        part.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    text.split('.').all(is_identifier)
}

impl TryFrom<proto::EnvironmentSpec> for EnvironmentSpec {
    type Error = Error;

    /// # Errors
    /// `environment_invalid` for an unknown `start`.
    fn try_from(spec: proto::EnvironmentSpec) -> Result<Self, Error> {
        Ok(Self {
            start: spec.start.parse()?,
            mode: if spec.mode.is_empty() { None } else { Some(spec.mode.parse()?) },
            name: (!spec.name.is_empty()).then_some(spec.name),
            python: (!spec.python.is_empty()).then_some(spec.python),
            requirements: spec.requirements,
            paths: spec.paths.into_iter().map(PathBuf::from).collect(),
            files: spec.files.into_iter().map(PathBuf::from).collect(),
            variables: spec.variables.into_iter().collect(),
            preload: spec.preload,
        })
    }
}

impl From<EnvironmentSpec> for proto::EnvironmentSpec {
    /// Paths that are not UTF-8 cannot travel and are replaced as by [`std::path::Path::to_string_lossy`]; they are then not found.
    fn from(spec: EnvironmentSpec) -> Self {
        let lossy = |paths: Vec<PathBuf>| paths.into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
        Self {
            // The default is left unsaid, so that a named spec has its other fields empty.
            start: if spec.start == Start::default() { String::new() } else { spec.start.as_str().to_owned() },
            mode: spec.mode.map_or_else(String::new, |mode| mode.as_str().to_owned()),
            name: spec.name.unwrap_or_default(),
            python: spec.python.unwrap_or_default(),
            requirements: spec.requirements,
            paths: lossy(spec.paths),
            files: lossy(spec.files),
            variables: spec.variables.into_iter().collect(),
            preload: spec.preload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> EnvironmentSpec {
        EnvironmentSpec {
            name: None,
            python: Some("3.11".into()),
            requirements: vec!["six==1.16.0".into()],
            paths: vec!["/srv/code".into()],
            files: vec!["/srv/model.bin".into()],
            variables: BTreeMap::from([("A".into(), "1".into())]),
            preload: vec!["numpy".into()],
            start: Start::Spawn,
            mode: Some(Mode::Process),
        }
    }

    #[test]
    fn survives_the_wire() {
        for spec in [EnvironmentSpec::default(), EnvironmentSpec::named("ml"), EnvironmentSpec::named("ml").in_threads(), full()] {
            let there = proto::EnvironmentSpec::from(spec.clone());
            assert_eq!(EnvironmentSpec::try_from(there).unwrap(), spec);
        }
        for (start, mode) in [("thread", ""), ("", "spawn")] {
            let odd = proto::EnvironmentSpec { start: start.into(), mode: mode.into(), ..Default::default() };
            assert_eq!(EnvironmentSpec::try_from(odd).unwrap_err().code(), Code::EnvironmentInvalid);
        }
    }

    #[test]
    fn refuses_what_cannot_work() {
        full().validate().unwrap();
        let broken: [fn(&mut EnvironmentSpec); 8] = [
            |s| s.mode = Some(Mode::Thread),
            |s| {
                *s = EnvironmentSpec::default().in_threads();
                s.variables.insert("PYTHONHASHSEED".into(), "0".into());
            },
            |s| drop(s.variables.insert("PYTHONPATH".into(), "/x".into())),
            |s| drop(s.variables.insert("A=B".into(), String::new())),
            |s| drop(s.variables.insert("A".into(), "\0".into())),
            |s| s.preload.push("os; print()".into()),
            |s| s.paths.push("relative".into()),
            |s| s.requirements.push("six\n--index-url=x".into()),
        ];
        for (i, break_it) in broken.iter().enumerate() {
            let mut spec = full();
            break_it(&mut spec);
            assert_eq!(spec.validate().unwrap_err().code(), Code::EnvironmentInvalid, "case {i}");
        }
    }

    #[test]
    fn module_names_are_dotted_identifiers() {
        for name in ["numpy", "sklearn.linear_model", "_x1", "größe"] {
            assert!(is_module_name(name), "{name}");
        }
        for name in ["", ".", "a.", "1a", "a b", "a-b"] {
            assert!(!is_module_name(name), "{name}");
        }
    }
}
