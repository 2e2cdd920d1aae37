//! What thread mode cannot give, and who asks for it.

use super::{Config, Limits};
use crate::environment::{DEFAULT, EnvironmentSpec, Mode, refused_in_threads};
use crate::error::{Code, Error};

/// A setting that contradicts thread mode.
pub(crate) struct Contradiction {
    /// The setting.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

const HINT: &str = "leave it out, or run all environments in process mode";

impl Config {
    /// What the limits ask for that nothing could enforce in threads of this process.
    pub(crate) fn refused_by_threads(&self) -> Option<Contradiction> {
        if self.pool.max_memory.is_some() {
            let message = "thread mode cannot limit the memory of a function, which shares it with the whole process".to_owned();
            return Some(Contradiction { key: "pool.max_memory".to_owned(), message, hint: HINT });
        }
        (self.limits.bundle_deadline != Limits::default().bundle_deadline).then(no_deadline)
    }

    /// As an engine would refuse them when a host asks for threads: for a command that knows that it will.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`].
    pub fn check_threads(&self) -> Result<(), Error> {
        self.refused_by_threads().map_or(Ok(()), |found| Err(found.into()))
    }

    /// Whether some environment runs in threads.
    pub(super) fn has_threads(&self) -> bool {
        self.environments.values().any(|environment| environment.mode == Mode::Thread)
    }

    /// The first contradiction between the configured environments' modes, and between them and the limits.
    pub(super) fn contradiction(&self) -> Option<Contradiction> {
        let threads: Vec<_> = self.environments.iter().filter(|(_, one)| one.mode == Mode::Thread).collect();
        match threads[..] {
            [] => None,
            [(name, one)] => self.refused_by_threads().or_else(|| {
                let (field, message, hint) = refused_in_threads(one.start, &one.variables)?;
                Some(Contradiction { key: format!("environments.{name}.{field}"), message, hint })
            }),
            [(first, _), (second, _), ..] => Some(Contradiction {
                key: "environments".to_owned(),
                message: format!("`{first}` and `{second}` have `mode = \"thread\"`, and a process has room for one interpreter"),
                hint: "run all but one in process mode",
            }),
        }
    }

    /// Whether a host may ask for an environment in threads of this process: it is configured so, or hosts may choose.
    pub(crate) fn allows_threads(&self, spec: &EnvironmentSpec) -> bool {
        let name = if spec.is_empty() { Some(DEFAULT) } else { spec.name.as_deref() };
        let configured = name.and_then(|name| self.environments.get(name));
        self.functions.allow_inline_threads || configured.is_some_and(|environment| environment.mode == Mode::Thread)
    }

    /// Refuses a configuration whose modes cannot work.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`].
    pub(crate) fn check_modes(&self) -> Result<(), Error> {
        self.contradiction().map_or(Ok(()), |found| Err(found.into()))
    }
}

/// Of a deadline that was set, be it the default.
pub(super) fn no_deadline() -> Contradiction {
    let message = "thread mode has no deadline, because a function that hangs cannot be ended".to_owned();
    Contradiction { key: "limits.bundle_deadline".to_owned(), message, hint: HINT }
}

impl From<Contradiction> for Error {
    fn from(found: Contradiction) -> Self {
        Error::new(Code::ConfigInvalid, format!("`{}`: {}", found.key, found.message)).hint(found.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::EnvironmentConfig, environment::Start};
    use std::time::Duration;

    fn with_threads(names: &[&str]) -> Config {
        let environment = || EnvironmentConfig { mode: Mode::Thread, ..Default::default() };
        let mut config =
            Config { environments: names.iter().map(|name| (name.to_string(), environment())).collect(), ..Default::default() };
        config.environments.insert("beside".into(), EnvironmentConfig::default());
        config
    }

    #[test]
    fn one_environment_in_threads_beside_any_in_processes() {
        with_threads(&[]).check_modes().unwrap();
        with_threads(&["a"]).check_modes().unwrap();
        let error = with_threads(&["a", "b"]).check_modes().unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.message().contains("`a` and `b`"), "{error}");
    }

    #[test]
    fn hosts_do_not_choose_threads_unless_they_may() {
        let mut config = with_threads(&["a"]);
        let threads = |spec: EnvironmentSpec| spec.in_threads();
        assert!(config.allows_threads(&threads(EnvironmentSpec::named("a"))));
        let others = [EnvironmentSpec::named("beside"), EnvironmentSpec::default(), EnvironmentSpec::python("3.11")].map(threads);
        assert!(!others.iter().any(|spec| config.allows_threads(spec)));
        config.functions.allow_inline_threads = true;
        assert!(others.iter().all(|spec| config.allows_threads(spec)));
    }

    fn change(config: &mut Config, change: impl FnOnce(&mut EnvironmentConfig)) {
        config.environments.get_mut("a").map(change);
    }

    #[test]
    fn what_only_a_process_gives_is_refused_where_it_was_asked_for() {
        type Break = fn(&mut Config);
        let breaks: [(Break, &str); 4] = [
            (|config| change(config, |a| a.start = Start::Spawn), "`environments.a.start`"),
            (|config| change(config, |a| drop(a.variables.insert("PYTHONUTF8".into(), "1".into()))), "`environments.a.variables`"),
            (|config| config.pool.max_memory = Some(1 << 30), "`pool.max_memory`"),
            (|config| config.limits.bundle_deadline = Duration::from_secs(3), "`limits.bundle_deadline`"),
        ];
        for (break_it, key) in breaks {
            let mut config = with_threads(&["a"]);
            break_it(&mut config);
            assert!(config.check_modes().unwrap_err().message().contains(key));
            config.environments.clear();
            config.check_modes().unwrap();
            let of_the_engine = !key.contains("environments");
            assert_eq!(config.check_threads().is_err(), of_the_engine, "asked for by a host, it is refused as well");
        }
    }
}
