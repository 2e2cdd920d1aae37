use std::fs;
use std::time::Duration;

use super::super::{Listen, LogFormat};
use super::*;

/// Composes from a file's text and variables.
fn from(file: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pillion.toml");
    fs::write(&path, file).unwrap();
    compose(Some(&path), variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), flags)
}

/// The message and hint of the error, without the folder of the file.
fn problem(file: &str, variables: &[(&str, &str)], flags: &Flags) -> (String, String) {
    let error = from(file, variables, flags).unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    let message = match error.message().split_once(" in `") {
        Some((before, after)) => format!("{before} in `{}", after.find("pillion.toml").map_or(after, |at| &after[at..])),
        None => error.message().to_owned(),
    };
    (message, error.hint_text().unwrap_or_default().to_owned())
}

#[test]
fn defaults_alone_are_a_configuration() {
    assert_eq!(compose(None, std::iter::empty(), &Flags::default()).unwrap(), Config::default());
    assert_eq!(Config::default().listen(), Listen::Unix(Config::default().runtime_dir.join("pillion.sock")));
}

#[test]
fn every_section_is_reached_by_variables() {
    let text = Config::default().to_toml();
    let sections: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')).collect();
    let sections: Vec<_> = sections.into_iter().filter(|name| *name != "environments").collect();
    assert_eq!(sections.len(), SECTIONS.len(), "{sections:?}");
    assert!(sections.iter().all(|section| SECTIONS.contains(section)), "{sections:?}");
    assert!(!from("", &[("PILLION_SHM_ENABLED", "false")], &Flags::default()).unwrap().shm.enabled);
}

#[test]
fn what_is_printed_reads_back() {
    let mut config = Config::default();
    config.pool.max_age = Some(Duration::from_secs(5400));
    config.metrics.listen = Some("127.0.0.1:9464".parse().unwrap());
    config.environments.insert("ml".into(), crate::config::EnvironmentConfig { python: Some("3.11".into()), ..Default::default() });
    let text = config.to_toml();
    assert!(text.contains("max_batch_bytes = \"256MiB\"") && text.contains("max_age = \"1h 30m\""), "{text}");
    assert_eq!(from(&text, &[], &Flags::default()).unwrap(), config);
    let threads = crate::config::EnvironmentConfig { mode: crate::environment::Mode::Thread, ..Default::default() };
    config.environments.insert("inside".into(), threads);
    assert_eq!(from(&config.to_toml(), &[], &Flags::default()).unwrap(), config);
}

#[test]
fn later_layers_win() {
    let file = "[pool]\nmax = 3\nmin = 1\nidle_timeout = \"5s\"\n[log]\nformat = \"json\"";
    let mut flags = Flags::default();
    flags.set("--workers", "pool.max", Some(8_usize));
    flags.set("--listen", "server.listen", None::<String>);
    flags.assign("limits.max_sessions=7").unwrap();
    let config = from(file, &[("PILLION_POOL_MAX", "6"), ("PILLION_POOL_MIN", "2"), ("OTHER_POOL_MIN", "9")], &flags).unwrap();
    assert_eq!((config.pool.max, config.pool.min), (8, 2));
    assert_eq!(config.pool.idle_timeout, Duration::from_secs(5));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.limits.max_sessions, 7);
}

#[test]
fn units_and_none_are_understood_everywhere() {
    let file = "[pool]\nmax_age = \"none\"\nmax_memory = \"1GiB\"\n[limits]\nmax_batch_bytes = 1048576\nmax_batch_rows = \"1Mi\"";
    let variables = [("PILLION_LIMITS_SLOW_BUNDLE", "250ms"), ("PILLION_POOL_MAX_MEMORY", "none"), ("PILLION_CACHE_DIR", "/0123")];
    let config = from(file, &variables, &Flags::default()).unwrap();
    assert_eq!((config.pool.max_age, config.pool.max_memory), (None, None));
    assert_eq!((config.limits.max_batch_bytes, config.limits.max_batch_rows), (1 << 20, 1 << 20));
    assert_eq!(config.limits.slow_bundle, Duration::from_millis(250));
    assert_eq!(config.cache_dir, Path::new("/0123"));
}

#[test]
fn unknown_keys_are_refused_with_their_source() {
    let none = Flags::default();
    let (message, hint) = problem("[pool]\nmxa = 3", &[], &none);
    assert_eq!((message.as_str(), hint.as_str()), ("`pool.mxa` in `pillion.toml` is no setting", "did you mean `max`?"));
    let (message, hint) = problem("colour = 3", &[], &none);
    assert_eq!(message, "`colour` in `pillion.toml` is no setting");
    assert!(hint.starts_with("known here: cache_dir, "), "{hint}");
    let (message, _) = problem("", &[("PILLION_POOL_SIZE", "3")], &none);
    assert_eq!(message, "`pool.size` (variable `PILLION_POOL_SIZE`) is no setting");
    let mut flags = Flags::default();
    flags.assign("limits.deadline=3s").unwrap();
    assert_eq!(problem("", &[], &flags).0, "`limits.deadline` (flag `--set limits.deadline`) is no setting");
    let (message, hint) = problem("[environments.ml]\nrequirement = []", &[], &none);
    assert_eq!(message, "`environments.ml.requirement` in `pillion.toml` is no setting");
    assert_eq!(hint, "did you mean `requirements`?");
}

#[test]
fn wrong_values_are_refused_with_their_source() {
    let none = Flags::default();
    let cases = [
        ("[limits]\nbundle_deadline = \"30\"", "`limits.bundle_deadline` in `pillion.toml`: `30` is no duration"),
        ("[limits]\nbundle_deadline = 30", "`limits.bundle_deadline` in `pillion.toml`: expected a duration such as `\"30s\"`"),
        ("[pool]\nmax = -1", "`pool.max` in `pillion.toml`"),
        ("[pool]\nmax = \"many\"", "`pool.max` in `pillion.toml`: expected a whole number, found string \"many\""),
        ("[pool]\nmax = 0", "`pool.max` in `pillion.toml`: a pool needs at least one worker"),
        ("[limits]\nmax_attempts = 0", "`limits.max_attempts` in `pillion.toml`: zero leaves no room"),
        ("[limits]\nmax_batch_bytes = \"2GiB\"", "`limits.max_batch_bytes` in `pillion.toml`: the most is just under 2GiB"),
        ("[server]\nlisten = \"0.0.0.0:1\"", "`server.listen` in `pillion.toml`: `0.0.0.0:1` can be reached from other machines"),
        ("[metrics]\nlisten = \"0.0.0.0:1\"", "`metrics.listen` in `pillion.toml`: `0.0.0.0:1` can be reached from other machines"),
        ("[telemetry]\notlp_endpoint = \"collector:1\"", "`telemetry.otlp_endpoint` in `pillion.toml`: `collector:1` is no `http` address"),
        ("[telemetry]\notlp_endpoint = \"https:a\"", "`telemetry.otlp_endpoint` in `pillion.toml`: `https:a` is no `http` address"),
        ("[limits]\nmetric_series = 0", "`limits.metric_series` in `pillion.toml`: zero leaves no room"),
        ("[environments.ml]\npython = 3.11", "`environments.ml.python` in `pillion.toml`: expected a string, found float `3.11`"),
        (
            "[limits]\nbundle_deadline = \"30s\"\n[environments.a]\nmode = \"thread\"",
            "`limits.bundle_deadline` in `pillion.toml`: thread mode has no",
        ),
        ("[environments.a]\nmode = \"thread\"\nstart = \"spawn\"", "`environments.a.start` in `pillion.toml`: in thread mode no process"),
        (
            "[environments.a]\nmode = \"thread\"\nvariables.PYTHONUTF8 = \"1\"",
            "`environments.a.variables` in `pillion.toml`: in thread mode",
        ),
        ("[environments.ml]\nstart = \"thread\"", "`environments.ml.start` in `pillion.toml`"),
        ("[state]\ncheckpoints = \"gs://bucket\"", "`state.checkpoints` in `pillion.toml`: checkpoints cannot go to `gs://`"),
        ("[state]\ncheckpoints = \"s3:///x\"", "`state.checkpoints` in `pillion.toml`: a place for checkpoints in S3 is not"),
        ("cache_dir = \"relative\"", "`cache_dir` in `pillion.toml`: `relative` is not an absolute path"),
    ];
    for (file, expected) in cases {
        let (message, _) = problem(file, &[], &none);
        assert!(message.starts_with(expected), "{message}\nexpected {expected}");
    }
    let (message, _) = problem("", &[("PILLION_POOL_MIN", "1000000")], &none);
    assert!(message.starts_with("`pool.min` (variable `PILLION_POOL_MIN`): 1000000 is more than `pool.max`"), "{message}");
    let mut flags = Flags::default();
    flags.set("--listen", "server.listen", Some("nowhere"));
    assert!(problem("", &[], &flags).0.starts_with("`server.listen` (flag `--listen`): `nowhere` is no address"));
    assert!(flags.assign("pool.max").is_err());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let error = compose(Some(Path::new("/no/such.toml")), std::iter::empty(), &Flags::default()).unwrap_err();
    assert!(error.message().contains("`/no/such.toml` cannot be read: No such file"), "{error}");
    let (message, hint) = problem("[pool\nmax = 3", &[], &Flags::default());
    assert!(message.contains("no valid TOML"), "{message}");
    assert!(hint.contains("line 1"), "{hint}");
}

#[test]
fn paths_of_environments_are_taken_from_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pillion.toml");
    let text = "[environments.ml]\nrequirements = \"r.txt\"\npaths = [\"code\", \"/abs\"]\npython = \"venv/bin/python\"\n[environments.plain]\npython = \"3.11\"\nrequirements = [\"six\"]";
    fs::write(&path, text).unwrap();
    let config = compose(Some(&path), std::iter::empty(), &Flags::default()).unwrap();
    let ml = &config.environments["ml"];
    assert_eq!(ml.requirements, Requirements::File(folder.path().join("r.txt")));
    assert_eq!(ml.paths, [folder.path().join("code"), "/abs".into()]);
    assert_eq!(ml.python.as_deref(), folder.path().join("venv/bin/python").to_str());
    assert_eq!(config.environments["plain"].python.as_deref(), Some("3.11"));
}

#[test]
fn variables_of_a_cluster_set_nothing() {
    let variables = [("PILLION_SERVER_PORT", "tcp://10.0.0.1:80"), ("PILLION_SERVICE_HOST", "10.0.0.1"), ("PILLION_PORT_80_TCP", "x")];
    assert_eq!(from("", &variables, &Flags::default()).unwrap(), Config::default());
    assert_eq!(key_of("PILLION_LIMITS_MAX_BATCH_BYTES").as_deref(), Some("limits.max_batch_bytes"));
    assert_eq!(key_of("PILLION_POL_MAX"), None);
}
