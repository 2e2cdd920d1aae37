//! `pillion state`: looks at checkpoints offline, without an engine or the function.

mod export;
mod list;
mod part;
mod show;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pillion::state::snapshot::{self, Checkpoints, Manifest};
use pillion::{Code, Error};

use self::part::PartArgs;
use super::failure::Failure;
use super::signals::Signals;

/// The checkpoint that was taken last.
const LATEST: &str = "latest";

/// Look at checkpoints: list them, show or export what they hold, delete them.
///
/// Works on the files alone: neither an engine nor the function is needed. They are in a folder, or in an object store that speaks S3, whose region, endpoint and credentials stand in the
/// usual variables (`AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on).
#[derive(Debug, Args)]
pub struct StateArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints of a place, the oldest first
    ///
    /// Sizes count all files that a checkpoint refers to; `new` are those that it does not share with an earlier one. Exits with 1 if a checkpoint cannot be read, after those that can.
    Ls {
        /// Where checkpoints are: a folder, or `s3://BUCKET/PREFIX`
        place: PathBuf,
    },
    /// Show what a checkpoint is of and which cells it holds; with `--cell` or `--timers` the rows themselves
    Show(ShowArgs),
    /// Write a cell or the timers of a checkpoint to a file
    Export(ExportArgs),
    /// Delete checkpoints, and the files that no other one refers to
    Delete {
        /// Where checkpoints are: a folder, or `s3://BUCKET/PREFIX`
        place: PathBuf,

        /// Names of checkpoints, as `pillion state ls` lists them
        #[arg(required = true)]
        handle: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Where checkpoints are: a folder, or `s3://BUCKET/PREFIX`
    place: PathBuf,

    /// Name of a checkpoint, or `latest`, the one that was taken last
    #[arg(default_value = LATEST)]
    handle: String,

    #[command(flatten)]
    part: PartArgs,

    /// Most rows shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Where checkpoints are: a folder, or `s3://BUCKET/PREFIX`
    place: PathBuf,

    /// Name of a checkpoint, or `latest`, the one that was taken last
    #[arg(default_value = LATEST)]
    handle: String,

    #[command(flatten)]
    part: PartArgs,

    /// Output: .csv, .parquet, .arrow, .feather, .arrows, .jsonl, .ndjson, .json, or `-` for an Arrow IPC stream on standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command; what it found goes to standard output.
///
/// # Errors
/// A place without checkpoints, a checkpoint or cell that there is not, damaged or newer files.
pub async fn state(args: StateArgs) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let work = async {
        match args.command {
            Command::Ls { place } => list::list(&place, &open(&place)?).await,
            Command::Show(args) => {
                let checkpoints = open(&args.place)?;
                let manifest = find(&args.place, &checkpoints, &args.handle).await?;
                match args.part.of(&manifest)? {
                    Some(part) => show::rows(&checkpoints, &part, args.limit).await,
                    None => show::manifest(&manifest),
                }
            }
            Command::Export(args) => export::export(args).await,
            Command::Delete { place, handle } => delete(&open(&place)?, &handle).await,
        }
    };
    tokio::select! {
        caught = signals.caught() => Err(caught),
        outcome = work => outcome,
    }
}

/// The checkpoints of a place. Looking at a folder that does not exist must not make it.
fn open(place: &Path) -> Result<Checkpoints, Failure> {
    let text = place.to_string_lossy();
    let parsed = snapshot::Place::parse(&text)?;
    if let snapshot::Place::Folder(folder) = parsed {
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Failure::data(format!("`{text}` is no folder")).hint("name the folder in which checkpoints are kept")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::data(format!("the folder `{text}` does not exist")).hint("check the path"));
            }
            Err(error) => return Err(Failure::data(format!("the folder `{text}` cannot be read: {error}"))),
        }
    }
    Ok(parsed.open()?)
}

/// The manifest of a checkpoint, or of the latest one.
async fn find(place: &Path, checkpoints: &Checkpoints, handle: &str) -> Result<Manifest, Failure> {
    if handle != LATEST {
        return Ok(checkpoints.manifest(handle).await?);
    }
    let (readable, unreadable) = checkpoints.all().await?;
    let latest = readable.into_iter().next_back();
    // Of one that cannot be read only the name says how late it is.
    let later = unreadable.into_iter().rfind(|(handle, _)| latest.as_ref().is_none_or(|latest| *handle > latest.handle));
    match (latest, later) {
        (_, Some((_, error))) => Err(error.into()),
        (Some(latest), None) => Ok(latest),
        (None, None) => Err(Error::new(Code::SnapshotUnknown, format!("there are no checkpoints in `{}`", place.display())).into()),
    }
}

async fn delete(checkpoints: &Checkpoints, handles: &[String]) -> Result<(), Failure> {
    for handle in handles {
        checkpoints.delete(handle).await?;
    }
    Ok(())
}
