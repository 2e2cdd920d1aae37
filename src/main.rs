//! The `pillion` program: read the command line, run the command, say how it ended.

mod cli;
mod telemetry;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::failure::Failure;
use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads that still read or write files may take when everything else is over.
const LEAVE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let report = failure.report();
            if !report.is_empty() {
                // With standard error closed there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "error: {report}");
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Threads of the runtime: half the cores, since the others are for workers and the host. More of them mostly wake each other up: with two on two cores a row took 304 µs
/// to a sidecar and back over shared memory, with one 112 (`pillion bench`). `TOKIO_WORKER_THREADS` overrides it, as it does for every program that uses tokio.
fn runtime_threads() -> usize {
    let wanted = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|text| text.parse().ok()).filter(|&threads| threads > 0);
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)))
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, log } = cli;
    if let Command::Completions(args) = command {
        return cli::completions::print(&args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime_threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::data(format!("the system refuses the threads of the runtime: {error}")))?;
    let ended = runtime.block_on(async {
        match command {
            Command::Serve(args) => cli::serve::serve(args, &log).await,
            Command::Run(args) => {
                telemetry::for_command(&log)?;
                cli::run::run(*args).await
            }
            Command::Check(args) => {
                telemetry::for_command(&log)?;
                cli::check::check(args).await
            }
            Command::Bench(args) => {
                telemetry::for_command(&log)?;
                cli::bench::bench(args).await
            }
            Command::State(args) => {
                telemetry::for_command(&log)?;
                cli::state::state(args).await
            }
            Command::Completions(_) => Ok(()),
        }
    });
    // A thread that waits in a read of standard input cannot be interrupted, and must not keep the process.
    runtime.shutdown_timeout(LEAVE);
    ended
}
