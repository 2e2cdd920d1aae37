//! Where a run keeps its state, and how it goes on after it was stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use pillion::config::Flags;
use pillion::config::units::parse_duration;
use pillion::{KeyedOptions, Store};

use super::commits::{Barriers, Commits};
use super::ledger::{self, Ledger, Record, Restore};
use crate::cli::engine_args::EngineArgs;
use crate::cli::failure::Failure;
use crate::cli::io::Folder;
use crate::cli::progress::count;

/// Options about stores and checkpoints.
#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub struct DurableArgs {
    /// Where the state is kept while the function runs: `memory`, `disk:PATH` for state larger than memory, or `disk` in the folder of the configuration [default: memory]
    #[arg(long, value_name = "memory|disk[:PATH]", value_parser = StateStore::parse)]
    state: Option<StateStore>,

    /// Key groups in all: to how many operators the state can ever be spread; must stay the same [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_parallelism: Option<u16>,

    /// Take checkpoints into this folder of this machine. The output becomes a folder of parts, which are committed together with their checkpoint and the position in the input
    #[arg(long, value_name = "DIR", value_parser = folder)]
    checkpoint_dir: Option<PathBuf>,

    /// Time between two checkpoints; `0s` takes one as soon as the one before is over
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s", requires = "checkpoint_dir")]
    checkpoint_every: Duration,

    /// Checkpoints that are kept; older ones are deleted
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..), default_value_t = 1, requires = "checkpoint_dir")]
    checkpoint_keep: usize,

    /// Go on behind a checkpoint of an earlier run: `latest`, or a name from `pillion state ls`
    #[arg(long, value_name = "latest|HANDLE", requires = "checkpoint_dir")]
    restore: Option<String>,
}

/// A store, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StateStore(Store, Option<PathBuf>);

impl StateStore {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self(Store::Memory, None)),
            None if text == "disk" => Ok(Self(Store::Disk, None)),
            Some(("disk", path)) if !path.is_empty() => Ok(Self(Store::Disk, Some(path.into()))),
            _ => Err("write `memory`, `disk` or `disk:PATH`".to_owned()),
        }
    }
}

/// The folder of a run, which holds a lock and its record of commits beside the checkpoints.
fn folder(text: &str) -> Result<PathBuf, String> {
    if text.contains("://") {
        return Err("a run keeps its record of commits beside its checkpoints, so it needs the path of a local folder; \
            URLs such as `s3://...` are for `state.checkpoints` of hosts that keep their own record"
            .to_owned());
    }
    Ok(PathBuf::from(text))
}

impl DurableArgs {
    /// What was asked for that only functions with state have.
    pub fn flag(&self) -> Option<&'static str> {
        let flags = [
            ("--state", self.state.is_some()),
            ("--max-parallelism", self.max_parallelism.is_some()),
            ("--checkpoint-dir", self.checkpoint_dir.is_some()),
        ];
        flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag)
    }

    /// Tells an engine inside this process where stores and checkpoints are.
    ///
    /// # Errors
    /// Places for a sidecar, which has its own.
    pub fn set(&self, engine: &EngineArgs, flags: &mut Flags) -> Result<(), Failure> {
        let disk = self.state.as_ref().and_then(|StateStore(_, path)| path.as_ref());
        for (flag, key, path) in [("--state", "state.dir", disk), ("--checkpoint-dir", "state.checkpoints", self.checkpoint_dir.as_ref())] {
            let Some(path) = path else { continue };
            if let Some(endpoint) = engine.sidecar() {
                let text = format!("`{flag}` does not say to the sidecar at `{endpoint}` where to keep anything");
                let hint = format!("its own `{key}` does; leave `--connect` out (and unset `PILLION_ENDPOINT`) to run the function here");
                return Err(Failure::usage(text).hint(hint));
            }
            let path = absolute(path)?;
            let Some(text) = path.to_str() else {
                return Err(Failure::usage(format!("`{flag}` needs a path in UTF-8, not `{}`", path.display())));
            };
            flags.set(flag, key, Some(text.to_owned()));
        }
        Ok(())
    }

    /// Whether outputs are written in parts.
    pub fn in_parts(&self) -> bool {
        self.checkpoint_dir.is_some()
    }

    /// Adds what was asked for to the options of a session.
    pub fn add_to(&self, options: &mut KeyedOptions) {
        options.store = self.state.as_ref().map_or(Store::Memory, |StateStore(store, _)| *store);
        options.max_parallelism = self.max_parallelism;
    }

    /// Finds where the run goes on; `None` if it takes no checkpoints.
    ///
    /// # Errors
    /// See [`Ledger::open`] and [`Ledger::choose`].
    pub async fn open(&self, job: ledger::Job, outputs: Vec<(Option<String>, Folder)>) -> Result<Option<Durable>, Failure> {
        let Some(dir) = &self.checkpoint_dir else { return Ok(None) };
        let ledger = Ledger::open(&absolute(dir)?, self.checkpoint_keep)?;
        let restore = match self.restore.as_deref() {
            None => Restore::No,
            Some("latest") => Restore::Latest,
            Some(handle) => Restore::Handle(handle),
        };
        let record = ledger.choose(restore, job, &outputs).await?;
        Ok(Some(Durable { ledger, record, outputs, every: self.checkpoint_every, restores: self.restore.is_some() }))
    }
}

/// What a run is of that must not change when it is restored.
///
/// # Errors
/// An input that cannot be looked at.
pub fn job(input: &Path, key_by: &[String], event_time: Option<&str>) -> Result<ledger::Job, Failure> {
    let (path, bytes) = if crate::cli::io::is_standard_stream(input) {
        (PathBuf::from("-"), None)
    } else {
        let size = std::fs::metadata(input).map(|metadata| metadata.len());
        (absolute(input)?, Some(size.map_err(|error| Failure::data(format!("`{}` cannot be read: {error}", input.display())))?))
    };
    Ok(ledger::Job { input: path, input_bytes: bytes, key_by: key_by.to_vec(), event_time: event_time.map(str::to_owned) })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("`{}` is no path: {error}", path.display())))
}

/// A run with checkpoints, before it begins.
pub struct Durable {
    ledger: Ledger,
    record: Record,
    outputs: Vec<(Option<String>, Folder)>,
    every: Duration,
    restores: bool,
}

impl Durable {
    /// Rows of the input that were worked off before.
    pub fn rows(&self) -> u64 {
        self.record.rows
    }

    /// The watermark behind them.
    pub fn watermark_ms(&self) -> Option<i64> {
        self.record.watermark_ms
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.record.finished
    }

    /// What a person who has asked to go on wants to know.
    pub fn text(&self) -> Option<String> {
        let rows = count(self.record.rows);
        match &self.record.checkpoint {
            _ if self.record.finished => Some(format!("the run had finished: its output has been complete since row {rows}, the last one")),
            Some(handle) => Some(format!("going on behind row {rows}, with `{handle}`")),
            None => self.restores.then(|| "there is no checkpoint yet: starting from the beginning".to_owned()),
        }
    }

    /// Adds the checkpoint to the options of a session.
    pub fn add_to(&self, options: &mut KeyedOptions) {
        options.attempt = self.ledger.next_attempt();
        options.restore = self.record.checkpoint.iter().cloned().collect();
    }

    /// Undoes what was not committed. From here on the run counts as begun.
    ///
    /// # Errors
    /// As [`Ledger::begin`].
    pub async fn begin(mut self) -> Result<(Commits, Barriers), Failure> {
        self.ledger.begin(&self.record, &self.outputs).await?;
        Ok(Commits::new(self.ledger, self.record, self.outputs, self.every))
    }
}
