//! `pillion state export`.

use super::{ExportArgs, find, open};
use crate::cli::failure::Failure;
use crate::cli::io::{Stop, Target};
use crate::cli::progress::{count, say};

/// Writes all rows of a part.
pub async fn export(args: ExportArgs) -> Result<(), Failure> {
    let checkpoints = open(&args.place)?;
    let manifest = find(&args.place, &checkpoints, &args.handle).await?;
    let Some(part) = args.part.of(&manifest)? else {
        return Err(Failure::usage("nothing is named to export")
            .hint("name a cell with `--cell NAME`, or `--timers`; `pillion state show` lists them"));
    };
    let (mut output, commit) = Target::reserve(&args.output)?.start(part.schema.clone())?;
    let write = async || {
        for file in &part.files {
            for batch in checkpoints.tables(file).await? {
                output.write(&batch)?;
            }
        }
        output.finish()
    };
    match write().await {
        Ok(()) => commit.commit()?,
        // Who read standard output has gone before the end.
        Err(Stop::ReaderGone) => return Ok(()),
        Err(Stop::Failed(failure)) => return Err(failure),
    }
    say(&format!("{} rows of {} in `{}`", count(part.rows()), part.shown(), manifest.handle));
    part.note().iter().for_each(|note| say(note));
    Ok(())
}
