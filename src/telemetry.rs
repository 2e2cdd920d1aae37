//! Logs to standard error, metrics over HTTP, both as OpenTelemetry has them: what is seen from outside (DESIGN D11).

mod otlp;

use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use metrics_util::layers::FanoutBuilder;
use pillion::config::{self, LogConfig, LogFormat};
use pillion::metrics::SECONDS;
use pillion::{Code, Error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::cli::LogArgs;
use crate::cli::failure::Failure;
use crate::cli::progress::LogWriter;

pub use otlp::Otlp;

/// What `serve` logs unless told otherwise.
const SERVE: &str = "info,opentelemetry=warn";
/// What the other commands log: trouble, and what functions print.
const COMMAND: &str = "warn,pillion::worker::output=info";

/// Starts logging as a daemon does: with time and origin; and traces for a collector.
///
/// # Errors
/// A filter that cannot be read.
pub fn for_daemon(log: &LogConfig, otlp: Option<&Otlp>) -> Result<(), Failure> {
    start(log, SERVE, true, otlp)
}

/// Starts logging for a command at a terminal: few lines, without time. Takes `PILLION_LOG_FILTER` and `PILLION_LOG_FORMAT` as `serve` does.
///
/// # Errors
/// A filter that cannot be read; a wrong variable.
pub fn for_command(args: &LogArgs) -> Result<(), Failure> {
    let mut flags = config::Flags::default();
    args.set(&mut flags);
    start(&config::load(None, &flags)?.log, COMMAND, false, None)
}

fn start(log: &LogConfig, default: &str, daemon: bool, otlp: Option<&Otlp>) -> Result<(), Failure> {
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
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(otlp.map(Otlp::layer)).init();
    Ok(())
}

/// Records metrics for whoever wants them: Prometheus text is served at `address`, a collector is sent the same. Needs the async runtime; ends with the process.
///
/// # Errors
/// `listen_failed` if the address is taken.
pub fn export_metrics(address: Option<SocketAddr>, otlp: Option<&Otlp>) -> Result<(), Error> {
    let mut recorders = FanoutBuilder::default();
    if let Some(address) = address {
        let failed = |error: BuildError| {
            Error::new(Code::ListenFailed, format!("cannot serve metrics at `{address}`: {error}")).hint("choose another `metrics.listen`")
        };
        let builder = PrometheusBuilder::new().with_http_listener(address);
        let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS);
        let (recorder, serving) = builder.and_then(PrometheusBuilder::build).map_err(failed)?;
        tokio::spawn(serving);
        recorders = recorders.add_recorder(recorder);
        tracing::info!(endpoint = format!("http://{address}/metrics"), "metrics are served");
    }
    if let Some(otlp) = otlp {
        recorders = recorders.add_recorder(otlp.recorder());
    }
    if (address.is_some() || otlp.is_some()) && metrics::set_global_recorder(recorders.build()).is_err() {
        // Cannot be: this is called once.
        return Err(Error::new(Code::InvariantBroken, "the process has a recorder of metrics already"));
    }
    pillion::metrics::describe();
    Ok(())
}
