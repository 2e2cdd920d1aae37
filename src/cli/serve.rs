//! `pillion serve`: the life of the sidecar.

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pillion::config::units::parse_duration;
use pillion::config::{self, Config, Flags};
use pillion::engine::Engine;
use pillion::server::Server;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::LogArgs;
use super::failure::Failure;
use super::signals::Signals;
use crate::telemetry::{self, Otlp};

/// Time for calls to end after the sessions are over.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Run the sidecar: hosts connect, their batches go to pooled Python workers.
///
/// Settings come from a TOML file, from variables `PILLION_<SECTION>_<KEY>`, and from flags; later ones win. SIGTERM drains: open bundles finish,
/// new sessions are refused. A second signal stops at once.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE", env = "PILLION_CONFIG")]
    config: Option<PathBuf>,

    /// Where to listen: `unix:/path/to.sock` or a loopback address such as `127.0.0.1:7070`
    /// [default: pillion.sock in a private folder of this user]
    #[arg(long, short, value_name = "ADDRESS")]
    listen: Option<String>,

    /// Most workers of one environment [default: the number of cores]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Serve Prometheus metrics at this loopback address, such as `127.0.0.1:9464` [default: off]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,

    /// How long open bundles may take to finish when the sidecar is asked to stop [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_duration(text).map(|_| text.to_owned()))]
    drain_deadline: Option<String>,

    /// Folder for virtual environments [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Any setting by its name, such as `limits.bundle_deadline=30s`; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Print the configuration in effect and exit
    #[arg(long)]
    print_config: bool,
}

impl ServeArgs {
    fn config(&self, log: &LogArgs) -> Result<Config, Failure> {
        let mut flags = Flags::default();
        for assignment in &self.set {
            flags.assign(assignment)?;
        }
        flags.set("--listen", "server.listen", self.listen.clone());
        flags.set("--workers", "pool.max", self.workers);
        flags.set("--metrics", "metrics.listen", self.metrics.clone());
        flags.set("--drain-deadline", "server.drain_deadline", self.drain_deadline.clone());
        let cache_dir = self.cache_dir.as_ref().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        flags.set("--cache-dir", "cache_dir", cache_dir.map(|dir| dir.to_string_lossy().into_owned()));
        log.set(&mut flags);
        Ok(config::load(self.config.as_deref(), &flags)?)
    }
}

/// Serves until a signal or a drain call.
///
/// # Errors
/// A wrong configuration, an address that is taken; a second signal.
pub async fn serve(args: ServeArgs, log: &LogArgs) -> Result<(), Failure> {
    let config = args.config(log)?;
    if args.print_config {
        return print(&config.to_toml());
    }
    let otlp = Otlp::new(&config.telemetry)?;
    telemetry::for_daemon(&config.log, otlp.as_ref())?;
    for variable in config::unknown_variables() {
        tracing::warn!(variable, "the variable begins like a setting but is none");
    }
    telemetry::export_metrics(config.metrics.listen, otlp.as_ref())?;
    let mut signals = Signals::catch()?;
    let drain_deadline = config.server.drain_deadline;

    let engine = Engine::start(config).await?;
    let server = Server::bind(engine.clone()).await?;
    let endpoint = server.endpoint();
    // Sent once by this function, when everything is drained; the server then closes its listener.
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.serve(async {
        // Dropped without a word when this function has failed: stop as well.
        let _ = stopped.await;
    }));
    tracing::info!(endpoint, version = env!("CARGO_PKG_VERSION"), "serving");
    // For whoever started the sidecar and waits for it; with port 0 this names the port.
    print(&format!("listening on {endpoint}\n"))?;

    let deadline = tokio::select! {
        _ = signals.caught() => drain_deadline,
        deadline = engine.drain_asked() => deadline,
        ended = &mut serving => return Err(broken(ended)),
    };
    tracing::info!(deadline = %humantime::format_duration(deadline), "draining; a second signal stops at once");
    unless_again(&mut signals, async {
        if !engine.drain(deadline).await {
            tracing::warn!("sessions were still open at the deadline and have been cancelled");
        }
        let _ = stop.send(());
        engine.shutdown().await;
        // Status calls and the like; their hosts may hold them for ever.
        let _ = timeout(LAST_CALLS, serving).await;
        if let Some(otlp) = otlp {
            otlp.end().await;
        }
    })
    .await?;
    tracing::info!("stopped");
    Ok(())
}

/// Does `work`, or gives it up at a signal.
async fn unless_again(signals: &mut Signals, work: impl Future<Output = ()>) -> Result<(), Failure> {
    tokio::select! {
        () = work => Ok(()),
        again = signals.caught() => {
            tracing::warn!("stopping at once");
            Err(again)
        }
    }
}

/// Why the server ended by itself.
fn broken(ended: Result<pillion::Result<()>, tokio::task::JoinError>) -> Failure {
    match ended {
        Ok(Ok(())) => Failure::data("the listener was closed"),
        Ok(Err(error)) => error.into(),
        Err(panic) => Failure::data(format!("the server failed: {panic}")),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::data(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
