//! The command line: thin, over the public API of the library.

pub mod bench;
pub mod check;
pub mod completions;
pub mod engine_args;
pub mod failure;
pub mod io;
pub mod progress;
pub mod run;
pub mod serve;
pub mod signals;
pub mod state;
pub mod table;

use clap::{Args, Parser, Subcommand};
use pillion::config::{Flags, LogFormat};

/// What the numbers of an exit status mean, shown below the help of every command.
const EXIT_STATUS: &str = "Exit status: 0 all went well, 1 the function, its data or the engine failed, 2 the command line or the configuration \
    is wrong, 128+N ended by signal N.";

/// Runs user-defined Python functions over Arrow batches: as a sidecar for an engine, or over a file.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_STATUS, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(after_help = EXIT_STATUS)]
    Serve(serve::ServeArgs),
    #[command(after_help = EXIT_STATUS)]
    Run(Box<run::RunArgs>),
    #[command(after_help = EXIT_STATUS)]
    Check(check::CheckArgs),
    #[command(after_help = EXIT_STATUS)]
    Bench(bench::BenchArgs),
    #[command(after_help = EXIT_STATUS)]
    State(state::StateArgs),
    #[command(after_help = EXIT_STATUS)]
    Completions(completions::CompletionsArgs),
}

/// What is written to standard error while a command works.
#[derive(Debug, Default, Args)]
pub struct LogArgs {
    /// What to log: a level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,pillion::pool=debug`
    /// [default: `info` for `serve`, else `warn`]
    #[arg(long = "log", value_name = "FILTER", global = true, help_heading = "Log")]
    pub filter: Option<String>,

    /// How log lines are written [default: text]
    #[arg(long = "log-format", value_name = "FORMAT", global = true, help_heading = "Log")]
    pub format: Option<LogFormat>,
}

impl LogArgs {
    /// Adds what was given to `flags`.
    pub fn set(&self, flags: &mut Flags) {
        flags.set("--log", "log.filter", self.filter.clone());
        let format = self.format.map(|format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        });
        flags.set("--log-format", "log.format", format);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help() {
        let mut cli = Cli::command();
        cli.build();
        let mut commands = vec![&cli];
        while let Some(command) = commands.pop() {
            assert!(command.get_about().is_some() || command.get_name() == "help", "{} has no help", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            commands.extend(command.get_subcommands().filter(|sub| sub.get_name() != "help"));
        }
    }

    #[test]
    fn log_flags_stand_anywhere() {
        let cli = Cli::try_parse_from(["pillion", "completions", "bash", "--log", "debug", "--log-format", "json"]).unwrap();
        assert_eq!(cli.log.filter.as_deref(), Some("debug"));
        assert_eq!(cli.log.format, Some(LogFormat::Json));
    }
}
