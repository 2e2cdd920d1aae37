//! `pillion state ls`.

use std::path::Path;

use pillion::state::snapshot::{Checkpoints, FileEntry, Manifest};

use crate::cli::failure::Failure;
use crate::cli::progress::{count, size};
use crate::cli::table::{print, text_table};

/// Lists what can be read, and then says what cannot.
pub async fn list(place: &Path, checkpoints: &Checkpoints) -> Result<(), Failure> {
    let (readable, unreadable) = checkpoints.all().await?;
    if readable.is_empty() && unreadable.is_empty() {
        return print(&format!("no checkpoints in `{}`", place.display()));
    }
    if !readable.is_empty() {
        let rows: Vec<_> = readable.iter().map(row).collect();
        print(&text_table(["checkpoint", "taken", "function", "key groups", "entries", "timers", "size", "new"], &rows)?)?;
    }
    let Some((handle, error)) = unreadable.first() else { return Ok(()) };
    let more = match unreadable.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let failure = Failure::data(format!("{error}{more}"));
    Err(failure
        .hint(error.hint_text().map_or_else(|| format!("`pillion state delete {} {handle}` removes it", place.display()), str::to_owned)))
}

fn row(manifest: &Manifest) -> [String; 8] {
    let rows = |timers: bool| count(manifest.files.iter().filter(|file| file.cell.is_none() == timers).map(|file| file.rows).sum());
    [
        manifest.handle.clone(),
        taken(manifest),
        manifest.origin.function.clone(),
        groups(manifest),
        rows(false),
        rows(true),
        size(manifest.bytes()),
        size(new_files(manifest).map(|file| file.bytes).sum()),
    ]
}

/// The files that were written for this checkpoint.
pub fn new_files(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    manifest.files.iter().filter(|file| file.path.split('/').any(|folder| folder == manifest.handle))
}

/// When it was taken, in UTC.
pub fn taken(manifest: &Manifest) -> String {
    let since_1970 = u64::try_from(manifest.origin.created_ms).ok().map(std::time::Duration::from_millis);
    let time = since_1970.and_then(|since| std::time::UNIX_EPOCH.checked_add(since));
    time.map_or_else(|| "?".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// The key groups that it covers.
pub fn groups(manifest: &Manifest) -> String {
    let one = |&(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    let ranges: Vec<_> = manifest.groups.iter().map(one).collect();
    format!("{} of {}", ranges.join(", "), manifest.origin.max_parallelism)
}
