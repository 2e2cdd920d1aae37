//! Composing [`Config`] from its layers, and saying which of them is at fault.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::listen::loopback;
use super::modes::{Contradiction, no_deadline};
use super::{Config, Requirements};
use crate::error::{Code, Error};
use crate::session::MAX_WEIGHT;

/// Sections whose keys can be set by variables; `environments` belongs to the file, since its keys are names.
const SECTIONS: [&str; 9] = ["server", "pool", "limits", "shm", "state", "functions", "metrics", "telemetry", "log"];
/// Keys outside of any section.
const TOP_LEVEL: [&str; 2] = ["cache_dir", "runtime_dir"];
const PREFIX: &str = "PILLION_";

/// Settings given on the command line, each with the flag it came from.
#[derive(Debug, Clone, Default)]
pub struct Flags(Vec<Setting>);

#[derive(Debug, Clone)]
struct Setting {
    /// As a person would name the origin: `--listen`, `PILLION_POOL_MAX`.
    origin: String,
    /// `section.key`, or a top-level key.
    key: String,
    value: Value,
}

impl Flags {
    /// Sets `key` (`section.key`) to `value` if there is one, on behalf of `flag` (`--listen`).
    pub fn set(&mut self, flag: &str, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.push(Setting { origin: flag.to_owned(), key: key.to_owned(), value: value.into() });
        }
    }

    /// Sets from `section.key=value`, as given to `--set`. Numbers, booleans and lists (`[a, b]`) are understood.
    ///
    /// # Errors
    /// `config_invalid` if there is no `=`.
    pub fn assign(&mut self, assignment: &str) -> Result<(), Error> {
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Error::new(Code::ConfigInvalid, format!("`--set {assignment}` has no `=`")).hint("write `--set pool.max=4`"));
        };
        self.0.push(Setting { origin: format!("--set {key}"), key: key.trim().to_owned(), value: parse(text.trim()) });
        Ok(())
    }
}

/// A value as written in a variable or after `--set`: a number, boolean, list (`[a, b]`), else text.
fn parse(text: &str) -> Value {
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

/// A layer of single settings: variables or flags.
struct Layer<'a> {
    name: &'static str,
    settings: &'a [Setting],
}

impl Provider for Layer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.name, Source::Custom(self.name.to_owned()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut root = Dict::new();
        for setting in self.settings {
            match setting.key.split_once('.') {
                None => drop(root.insert(setting.key.clone(), setting.value.clone())),
                Some((section, key)) => {
                    let section = root.entry(section.to_owned()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
                    if let Value::Dict(_, keys) = section {
                        keys.insert(key.to_owned(), setting.value.clone());
                    }
                }
            }
        }
        Ok(Profile::Default.collect(root))
    }
}

const VARIABLES: &str = "variables";
const FLAGS: &str = "flags";

/// Composes the configuration: defaults, then `file`, then variables of this process, then `flags`.
///
/// # Errors
/// `config_invalid`: the message names the key and the file, variable or flag that set it.
pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Config, Error> {
    compose(file, std::env::vars_os(), flags)
}

/// Variables that begin with `PILLION_` but set nothing, perhaps for a typing error. Kubernetes makes such variables for a service of that name,
/// so they are worth a warning, not a refusal.
pub fn unknown_variables() -> Vec<String> {
    const OTHER: [&str; 3] = ["PILLION_CONFIG", "PILLION_PACKAGE_DIR", "PILLION_ENDPOINT"];
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names
        .filter(|name| name.starts_with(PREFIX) && key_of(name).is_none() && !OTHER.contains(&name.as_str()) && !is_service_link(name))
        .collect()
}

fn compose(file: Option<&Path>, variables: impl Iterator<Item = (OsString, OsString)>, flags: &Flags) -> Result<Config, Error> {
    let variables = settings_of(variables)?;
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(file) = file {
        // Read here and not by figment, whose error for a missing file names no reason.
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::new(Code::ConfigInvalid, format!("the configuration file `{}` cannot be read: {error}", file.display()))
        })?;
        let values = Toml::string(&text).data().map_err(|error| {
            Error::new(Code::ConfigInvalid, format!("the configuration file `{}` is no valid TOML", file.display()))
                .hint(first_line(&error.kind.to_string()))
                .detail(error.to_string())
        })?;
        figment = figment.merge(FileLayer { path: file, values });
    }
    figment = figment.merge(Layer { name: VARIABLES, settings: &variables }).merge(Layer { name: FLAGS, settings: &flags.0 });

    let origins = Origins { figment: &figment, file, variables: &variables, flags: &flags.0 };
    let mut config = figment.extract::<Config>().map_err(|error| origins.explain(error))?;
    check(&config).and_then(|()| origins.check_threads(&config)).map_err(|problem| {
        let source = origins.source_of(&problem.key).unwrap_or_default();
        Error::new(Code::ConfigInvalid, format!("`{}`{source}: {}", problem.key, problem.message)).hint(problem.hint)
    })?;
    if let Some(base) = file.and_then(Path::parent) {
        anchor(&mut config, base);
    }
    Ok(config)
}

/// The values of a file, with its name for errors.
struct FileLayer<'a> {
    path: &'a Path,
    values: Map<Profile, Dict>,
}

impl Provider for FileLayer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", Source::File(self.path.to_owned()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(self.values.clone())
    }
}

/// The key that a variable sets: `PILLION_POOL_MAX` is `pool.max`. None for variables that are none of ours.
fn key_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?.to_ascii_lowercase();
    if TOP_LEVEL.contains(&name.as_str()) {
        return Some(name);
    }
    let (section, key) = name.split_once('_')?;
    (SECTIONS.contains(&section) && !is_service_link(variable)).then(|| format!("{section}.{key}"))
}

/// Variables that Kubernetes and Docker make for a service called `pillion` or `pillion-server`.
fn is_service_link(variable: &str) -> bool {
    variable.ends_with("_SERVICE_HOST") || variable.contains("_SERVICE_PORT") || variable.ends_with("_PORT") || variable.contains("_PORT_")
}

fn settings_of(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        let Some((origin, key)) = name.to_str().and_then(|name| Some((name.to_owned(), key_of(name)?))) else { continue };
        let Some(text) = value.to_str() else {
            return Err(Error::new(Code::ConfigInvalid, format!("the variable `{origin}` is not UTF-8")));
        };
        // Folders and filters are text even if they look like numbers.
        let text_only =
            !key.contains('.') || key.starts_with("log.") || [".listen", ".dir", ".checkpoints"].iter().any(|end| key.ends_with(end));
        let value = if text_only { Value::from(text) } else { parse(text) };
        settings.push(Setting { origin, key, value });
    }
    Ok(settings)
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Who set what, for errors.
struct Origins<'a> {
    figment: &'a Figment,
    file: Option<&'a Path>,
    variables: &'a [Setting],
    flags: &'a [Setting],
}

impl Origins<'_> {
    fn explain(&self, error: figment::Error) -> Error {
        // The first of several is enough to act on.
        let detail = error.to_string();
        let Some(error) = error.into_iter().last() else {
            return Error::new(Code::ConfigInvalid, "the configuration cannot be read").detail(detail);
        };
        let mut path = error.path.clone();
        if let Kind::UnknownField(field, _) = &error.kind
            && path.last() != Some(field)
        {
            path.push(field.clone());
        }
        let key = path.join(".");
        let source = self.source_of(&key).unwrap_or_default();
        let explained = match &error.kind {
            Kind::UnknownField(field, known) => {
                let message = format!("`{key}`{source} is no setting");
                Error::new(Code::ConfigInvalid, message).hint(match nearest(field, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.join(", ")),
                })
            }
            Kind::InvalidType(found, expected) => {
                // Rust's names of numbers mean nothing to the person who writes the file.
                let expected = if matches!(expected.as_str(), "usize" | "u32" | "u64") { "a whole number" } else { expected };
                Error::new(Code::ConfigInvalid, format!("`{key}`{source}: expected {expected}, found {found}"))
            }
            Kind::Message(text) => match text.split_once("; ") {
                Some((message, hint)) => Error::new(Code::ConfigInvalid, format!("`{key}`{source}: {message}")).hint(hint),
                None => Error::new(Code::ConfigInvalid, format!("`{key}`{source}: {text}")),
            },
            kind => Error::new(Code::ConfigInvalid, format!("`{key}`{source}: {kind}")),
        };
        explained.detail(detail)
    }

    /// Who sets a deadline wants one, even if it is as long as the default.
    fn check_threads(&self, config: &Config) -> Result<(), Problem> {
        let Contradiction { key, message, hint } = no_deadline();
        if config.has_threads() && self.source_of(&key).is_some() { Err(Problem { key, message, hint }) } else { Ok(()) }
    }

    /// Who set `key`, as a phrase that follows it: " in `pillion.toml`". None for defaults.
    fn source_of(&self, key: &str) -> Option<String> {
        let find = |settings: &[Setting]| settings.iter().rev().find(|s| s.key == key || key.starts_with(&format!("{}.", s.key))).cloned();
        if let Some(flag) = find(self.flags) {
            return Some(format!(" (flag `{}`)", flag.origin));
        }
        if let Some(variable) = find(self.variables) {
            return Some(format!(" (variable `{}`)", variable.origin));
        }
        let source = self.figment.find_metadata(key)?.source.as_ref()?.file_path()?;
        self.file.filter(|file| *file == source).map(|file| format!(" in `{}`", file.display()))
    }
}

/// The known name that `word` was probably meant to be.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().map(|k| (distance(word, k), *k)).min().filter(|(d, k)| *d <= 2 + k.len() / 6 && *d < k.len()).map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A setting that reads well but cannot work.
struct Problem {
    key: String,
    message: String,
    hint: &'static str,
}

/// What no single type can check.
fn check(config: &Config) -> Result<(), Problem> {
    let (pool, limits) = (&config.pool, &config.limits);
    let problem = |key: &str, message: String, hint| Err(Problem { key: key.to_owned(), message, hint });
    if pool.max == 0 {
        return problem("pool.max", "a pool needs at least one worker".into(), "leave it out for one worker per core");
    }
    if pool.min > pool.max {
        return problem("pool.min", format!("{} is more than `pool.max`, {}", pool.min, pool.max), "lower `pool.min` or raise `pool.max`");
    }
    if pool.max_requests == Some(0) || pool.max_memory == Some(0) {
        let key = if pool.max_requests == Some(0) { "pool.max_requests" } else { "pool.max_memory" };
        return problem(key, "zero leaves no room for any work".into(), "write \"none\" for no limit");
    }
    for (key, value) in [
        ("limits.max_batch_bytes", limits.max_batch_bytes),
        ("limits.max_batch_rows", limits.max_batch_rows),
        ("limits.session_input_bytes", limits.session_input_bytes),
        ("limits.session_input_rows", limits.session_input_rows),
        ("limits.session_output_bytes", limits.session_output_bytes),
        ("limits.session_output_rows", limits.session_output_rows),
        ("limits.max_sessions", limits.max_sessions as u64),
        ("limits.session_weight", limits.session_weight.into()),
        ("limits.open_deadline", limits.open_deadline.as_nanos() as u64),
        ("limits.timers_at_once", limits.timers_at_once as u64),
        ("limits.state_deadline", limits.state_deadline.as_nanos() as u64),
        ("limits.max_attempts", limits.max_attempts.into()),
        ("limits.max_attempts_outside", limits.max_attempts_outside.into()),
        ("limits.bundle_deadline", limits.bundle_deadline.as_nanos() as u64),
        ("limits.prepare_deadline", limits.prepare_deadline.as_nanos() as u64),
        ("limits.environment_deadline", limits.environment_deadline.as_nanos() as u64),
        ("limits.log_line_bytes", limits.log_line_bytes),
        ("limits.metric_series", limits.metric_series.into()),
        ("pool.start_timeout", pool.start_timeout.as_nanos() as u64),
    ] {
        if value == 0 {
            return problem(key, "zero leaves no room for any work".into(), "leave it out for the default");
        }
    }
    if limits.session_weight > MAX_WEIGHT {
        return problem("limits.session_weight", format!("the most is {MAX_WEIGHT}"), "weights count only beside those of other sessions");
    }
    // A body of 2 GiB or more has offsets that Arrow's 32-bit types and the wire's messages cannot hold.
    if limits.max_batch_bytes > i32::MAX as u64 {
        return problem("limits.max_batch_bytes", "the most is just under 2GiB".into(), "send smaller batches");
    }
    if let Some(address) = config.metrics.listen
        && let Err(message) = loopback(address)
    {
        return problem("metrics.listen", message.split("; ").next().unwrap_or_default().to_owned(), "use a loopback address");
    }
    if let Some(endpoint) = &config.telemetry.otlp_endpoint
        && !endpoint.strip_prefix("http://").is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
    {
        let message = format!("`{endpoint}` is no `http` address of a host");
        return problem(
            "telemetry.otlp_endpoint",
            message,
            "name a collector near by, such as `http://127.0.0.1:4317`; it speaks TLS to others",
        );
    }
    if let Some(found) = config.contradiction() {
        return problem(&found.key, found.message, found.hint);
    }
    for (key, path) in [("cache_dir", &config.cache_dir), ("runtime_dir", &config.runtime_dir)] {
        if !path.is_absolute() {
            return problem(key, format!("`{}` is not an absolute path", path.display()), "write a path that begins with `/`");
        }
    }
    Ok(())
}

/// Takes relative paths of environments from the folder of the file they stand in.
fn anchor(config: &mut Config, base: &Path) {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    for environment in config.environments.values_mut() {
        let paths = environment.paths.iter_mut().chain(&mut environment.files);
        let requirements = match &mut environment.requirements {
            Requirements::File(path) => Some(path),
            Requirements::List(_) => None,
        };
        paths.chain(requirements).for_each(|path| *path = base.join(&path));
        // `3.11` and `python3.11` are looked up; only what has a slash is a path.
        if let Some(python) = environment.python.as_mut().filter(|python| python.contains('/')) {
            *python = base.join(PathBuf::from(&*python)).to_string_lossy().into_owned();
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
