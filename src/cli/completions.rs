//! `pillion completions`.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::Cli;
use super::failure::Failure;

/// Print completions for a shell.
///
/// For bash: `pillion completions bash > ~/.local/share/bash-completion/completions/pillion`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(args: &CompletionsArgs) -> Result<(), Failure> {
    // In memory first: `generate` panics when it cannot write, as into `head`.
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "pillion", &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::data(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
