//! One composed [`Config`]: every limit of the sidecar in one place.
//!
//! Four layers, later ones win: built-in defaults, a TOML file, environment variables (`PILLION_<SECTION>_<KEY>`, for example
//! `PILLION_POOL_MAX=4`), command-line flags. Unknown keys are refused. [`Config::default`] alone is right for an embedded engine; [`load`] composes the rest.
//!
//! In files, durations are written `"30s"`, sizes `"256MiB"`, and limits that may be absent take `"none"`.

mod listen;
mod load;
mod modes;
mod places;
mod shm;
mod state;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use listen::Listen;
pub use load::{Flags, load, unknown_variables};
pub use places::{private_dir, session_dir};
pub use shm::{ShmConfig, Spin};
pub use state::StateConfig;

use crate::environment::{Mode, Start};

/// Everything that can be set, with its default. See the module's documentation for where values come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder for virtual environments and the unpacked worker package; safe to share between sidecars of one user, safe to delete while none
    /// runs. Default: the platform's cache folder for the user (`~/.cache/pillion`).
    pub cache_dir: PathBuf,
    /// Private folder (0700) for sockets. Kept short: a socket's path has room for about 100 bytes. Default: `pillion` in `XDG_RUNTIME_DIR`, else
    /// `pillion-<uid>` in the temporary folder.
    pub runtime_dir: PathBuf,
    pub server: ServerConfig,
    pub pool: PoolConfig,
    pub limits: Limits,
    pub shm: ShmConfig,
    pub state: StateConfig,
    pub functions: FunctionsConfig,
    pub metrics: MetricsConfig,
    pub telemetry: TelemetryConfig,
    pub log: LogConfig,
    /// Named environments. `default` is used by whoever names none; without it, `python3` on the `PATH` as it is.
    pub environments: BTreeMap<String, EnvironmentConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_dir: places::default_cache_dir(),
            runtime_dir: places::default_runtime_dir(),
            server: ServerConfig::default(),
            pool: PoolConfig::default(),
            limits: Limits::default(),
            shm: ShmConfig::default(),
            state: StateConfig::default(),
            functions: FunctionsConfig::default(),
            metrics: MetricsConfig::default(),
            telemetry: TelemetryConfig::default(),
            log: LogConfig::default(),
            environments: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Where the sidecar listens: as configured, else `pillion.sock` in the runtime folder.
    pub fn listen(&self) -> Listen {
        self.server.listen.clone().unwrap_or_else(|| Listen::Unix(self.runtime_dir.join("pillion.sock")))
    }

    /// The configuration in effect as TOML; read back by [`load`], it gives the same.
    pub fn to_toml(&self) -> String {
        // Every field is a table, text, number, boolean or list of them, so this cannot fail; a comment would say so if it did.
        let text = toml::to_string_pretty(self).unwrap_or_else(|error| format!("# {error}\n"));
        if !self.has_threads() || self.limits.bundle_deadline != Limits::default().bundle_deadline {
            return text;
        }
        // Nobody has set it, and read back it would be refused.
        text.lines().filter(|line| !line.starts_with("bundle_deadline = ")).map(|line| format!("{line}\n")).collect()
    }
}

/// `[server]`: the door of `pillion serve`. An embedded engine has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// `unix:/path/to.sock` (made with mode 0600), or a loopback address such as `127.0.0.1:7070` or `[::1]:7070`. Other addresses are refused.
    /// Default: `pillion.sock` in the runtime folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// How long open bundles may take to finish after SIGTERM or a drain call. Default 30s.
    #[serde(with = "units::duration")]
    pub drain_deadline: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: None, drain_deadline: Duration::from_secs(30) }
    }
}

/// `[pool]`: the workers of each environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Workers kept ready even when idle, once the environment is in use. Default 0.
    pub min: usize,
    /// Most workers at once. Default: the number of cores.
    pub max: usize,
    /// An idle worker beyond `min` ends after this time. Default 60s.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// A worker older than this is replaced between bundles. Default none.
    #[serde(with = "units::duration_or_none")]
    pub max_age: Option<Duration>,
    /// A worker is replaced after this many bundles. Default none.
    #[serde(with = "units::count_or_none")]
    pub max_requests: Option<u64>,
    /// Private memory of a worker, in bytes: between bundles it is replaced, within a bundle killed. Default none.
    #[serde(with = "units::size_or_none")]
    pub max_memory: Option<u64>,
    /// A new worker must be ready within this time; its preloads count. Default 30s.
    #[serde(with = "units::duration")]
    pub start_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            min: 0,
            max: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            idle_timeout: Duration::from_secs(60),
            max_age: None,
            max_requests: None,
            max_memory: None,
            start_timeout: Duration::from_secs(30),
        }
    }
}

/// `[limits]`: what one batch, bundle, session or log stream may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest batch, header and body, in bytes. Default 256MiB.
    #[serde(with = "units::size")]
    pub max_batch_bytes: u64,
    /// Largest batch, in rows. Default 16Mi.
    #[serde(with = "units::count")]
    pub max_batch_rows: u64,
    /// Inputs that a session may have sent and that are not yet answered, in bytes. A larger batch goes alone. Default 64MiB.
    #[serde(with = "units::size")]
    pub session_input_bytes: u64,
    /// The same in rows. Default 4Mi.
    #[serde(with = "units::count")]
    pub session_input_rows: u64,
    /// Results that the engine holds because the host has not taken them, in bytes; above, only the batch that the others wait for is begun. Default 64MiB.
    #[serde(with = "units::size")]
    pub session_output_bytes: u64,
    /// The same in rows. Default 4Mi.
    #[serde(with = "units::count")]
    pub session_output_rows: u64,
    /// Sessions open at once; further ones are refused with `session_limit`. Default 1024.
    pub max_sessions: usize,
    /// Share of the workers of a session that names none, 1 to 1000: while several sessions want workers, these are shared in proportion. Default 1.
    pub session_weight: u32,
    /// A host must say what it wants within this time from opening a session's stream. Default 10s.
    #[serde(with = "units::duration")]
    pub open_deadline: Duration,
    /// Timers that fire in one bundle at most; after so many, progress is said as an earlier watermark. Default 65536.
    pub timers_at_once: usize,
    /// A host that keeps the state must answer a question within this time. Default 30s.
    #[serde(with = "units::duration")]
    pub state_deadline: Duration,
    /// Longest time one bundle may take in a worker; waiting for state or credit does not count. Default 5m.
    #[serde(with = "units::duration")]
    pub bundle_deadline: Duration,
    /// A bundle that lasts longer is logged once, with its worker's stacks. Default 10s.
    #[serde(with = "units::duration")]
    pub slow_bundle: Duration,
    /// Longest time to import a function's module, run `open` and check the plan in a worker. Default 2m.
    #[serde(with = "units::duration")]
    pub prepare_deadline: Duration,
    /// Longest time to build a virtual environment. Default 15m.
    #[serde(with = "units::duration")]
    pub environment_deadline: Duration,
    /// Times a bundle that itself kills or hangs its worker is tried. Default 3.
    pub max_attempts: u32,
    /// Times a bundle is tried whose workers were killed from outside. Default 10.
    pub max_attempts_outside: u32,
    /// Time between asking a worker to interrupt or end and killing it. Default 1s.
    #[serde(with = "units::duration")]
    pub kill_grace: Duration,
    /// Time for workers to run `close` when the engine shuts down. Default 5s.
    #[serde(with = "units::duration")]
    pub shutdown_grace: Duration,
    /// Longest line taken from a worker's stdout or stderr, in bytes; longer ones are cut. Default 16KiB.
    #[serde(with = "units::size")]
    pub log_line_bytes: u64,
    /// Lines per second taken from one worker's stdout, stderr and `logging`, each; further ones are dropped and counted. Default 1000.
    pub log_lines_per_second: u32,
    /// Series of user metrics that one session may have: a counter is one, a histogram as many as it has buckets, and 3. Further ones are left out, with a warning. Default 1000.
    pub metric_series: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch_bytes: 256 << 20,
            max_batch_rows: 16 << 20,
            session_input_bytes: 64 << 20,
            session_input_rows: 4 << 20,
            session_output_bytes: 64 << 20,
            session_output_rows: 4 << 20,
            max_sessions: 1024,
            session_weight: 1,
            open_deadline: Duration::from_secs(10),
            timers_at_once: 65_536,
            state_deadline: Duration::from_secs(30),
            bundle_deadline: Duration::from_secs(300),
            slow_bundle: Duration::from_secs(10),
            prepare_deadline: Duration::from_secs(120),
            environment_deadline: Duration::from_secs(900),
            max_attempts: 3,
            max_attempts_outside: 10,
            kill_grace: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(5),
            log_line_bytes: 16 << 10,
            log_lines_per_second: 1000,
            metric_series: pillion_wire::metrics::DEFAULT_SERIES,
        }
    }
}

/// `[functions]`: what hosts may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionsConfig {
    /// Run functions sent by value. Whoever reaches the sidecar can then run any code. Default false.
    pub allow_pickled: bool,
    /// Take environments spelled out by hosts; if false, only the configured ones by name. Default true.
    pub allow_inline_environments: bool,
    /// Run functions inside the sidecar's own process when a host asks for it. Without it only environments configured with `mode = "thread"` do. Such a function
    /// can take the sidecar down. Has no effect on an embedded engine. Default false.
    pub allow_inline_threads: bool,
}

impl Default for FunctionsConfig {
    fn default() -> Self {
        Self { allow_pickled: false, allow_inline_environments: true, allow_inline_threads: false }
    }
}

/// `[metrics]`: Prometheus text over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// A loopback address for `GET /metrics`, such as `127.0.0.1:9464`. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// `[telemetry]`: metrics and traces for an OpenTelemetry collector. An embedded engine leaves this to its host, as it does the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where a collector takes OTLP over gRPC, such as `http://127.0.0.1:4317`. Default: the variable `OTEL_EXPORTER_OTLP_ENDPOINT`, else off. The other `OTEL_` variables
    /// count, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// `[log]`: what the binary writes to standard error. An embedded engine leaves this to its host's `tracing` subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Directives such as `info` or `info,pillion::pool=debug`. Default `info` for `serve`, `warn` for the other commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// `text` or `json`. Default text.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: None, format: LogFormat::Text }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[environments.<name>]`: what a function needs around it. Relative paths are taken from the folder of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnvironmentConfig {
    /// A path to an interpreter, or a version such as `"3.11"`. Default: `python3` on the `PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// A list of requirements, or the path of a `requirements.txt`. Default: none, the interpreter is used as it is.
    pub requirements: Requirements,
    /// Folders or zip files for `sys.path`, before the standard ones.
    pub paths: Vec<PathBuf>,
    /// Files that functions read; they must exist and are part of the environment's identity by content.
    pub files: Vec<PathBuf>,
    /// Environment variables of the workers, beside those the sidecar passes on.
    pub variables: BTreeMap<String, String>,
    /// Modules imported once before workers are forked; never modules of users.
    pub preload: Vec<String>,
    /// `fork` (default) or `spawn`.
    pub start: Start,
    /// `process` (default), or `thread`: in the engine's own process, which has room for one such environment. Then `pool.max_memory` and
    /// `limits.bundle_deadline` cannot be set: nothing could enforce them.
    pub mode: Mode,
    /// Whether hosts may read results in place, in memory that the functions could still write. Default false.
    pub trusted: bool,
}

/// Requirements as a list, or as the path of a file with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of requirements, or the path of a requirements file")]
pub enum Requirements {
    List(Vec<String>),
    File(PathBuf),
}

impl Default for Requirements {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}
