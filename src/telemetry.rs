//! Logs to standard error, metrics over HTTP: what is seen from outside (DESIGN D11).

use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use pillion::config::{self, LogConfig, LogFormat};
use pillion::{Code, Error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::cli::LogArgs;
use crate::cli::failure::Failure;
use crate::cli::progress::LogWriter;

/// What `serve` logs unless told otherwise.
const SERVE: &str = "info";
/// What the other commands log: trouble, and what functions print.
const COMMAND: &str = "warn,pillion::worker::output=info";

/// Upper bounds of the buckets of latencies, in seconds: from an Arrow call to a function that takes its time.
const SECONDS: [f64; 16] = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Starts logging as a daemon does: with time and origin.
///
/// # Errors
/// A filter that cannot be read.
pub fn for_daemon(log: &LogConfig) -> Result<(), Failure> {
    start(log, SERVE, true)
}

/// Starts logging for a command at a terminal: few lines, without time. Takes `PILLION_LOG_FILTER` and `PILLION_LOG_FORMAT` as `serve` does.
///
/// # Errors
/// A filter that cannot be read; a wrong variable.
pub fn for_command(args: &LogArgs) -> Result<(), Failure> {
    let mut flags = config::Flags::default();
    args.set(&mut flags);
    start(&config::load(None, &flags)?.log, COMMAND, false)
}

fn start(log: &LogConfig, default: &str, daemon: bool) -> Result<(), Failure> {
    let text = log.filter.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!("`{text}` is no log filter: {error}"))
            .hint("write a level such as `debug`, or directives such as `info,pillion::pool=debug`")
    })?;
    // While a progress bar is shown, lines go above it.
    let lines = layer().with_writer(LogWriter::default).with_ansi(stderr().is_terminal());
    let lines = match (log.format, daemon) {
        (LogFormat::Json, _) => lines.json().flatten_event(true).boxed(),
        (LogFormat::Text, true) => lines.boxed(),
        (LogFormat::Text, false) => lines.without_time().with_target(false).compact().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    Ok(())
}

/// Serves Prometheus text at `address` until the process ends. Needs the async runtime.
///
/// # Errors
/// `listen_failed` if the address is taken.
pub fn export_metrics(address: SocketAddr) -> Result<(), Error> {
    let failed = |error: BuildError| {
        Error::new(Code::ListenFailed, format!("cannot serve metrics at `{address}`: {error}")).hint("choose another `metrics.listen`")
    };
    let builder = PrometheusBuilder::new().with_http_listener(address);
    builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS).and_then(PrometheusBuilder::install).map_err(failed)?;
    pillion::metrics::describe();
    tracing::info!(endpoint = format!("http://{address}/metrics"), "metrics are served");
    Ok(())
}
