//! `pillion state show`.

use std::fmt::Write;
use std::time::Duration;

use arrow_array::{RecordBatch, cast::AsArray};
use arrow_select::concat::concat_batches;
use pillion::state::Cell;
use pillion::state::snapshot::{Checkpoints, FileEntry, Manifest};

use super::list::{groups, new_files, taken};
use super::part::Part;
use crate::cli::failure::Failure;
use crate::cli::progress::{count, size};
use crate::cli::table::{narrow_table, print, text_table};

/// Characters of a value that are shown.
const WIDTH: usize = 60;

/// What a checkpoint is of, and the parts that it has.
pub fn manifest(manifest: &Manifest) -> Result<(), Failure> {
    let mut text = format!("{}\n", manifest.handle);
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    let origin = &manifest.origin;
    fact("function", origin.function.clone());
    fact("checkpoint", format!("{}, attempt {}", origin.id, origin.attempt));
    fact("taken", taken(manifest));
    fact("key groups", groups(manifest));
    let keys: Vec<_> = manifest.key.iter().map(|column| format!("{} {}", column.name, column.r#type)).collect();
    fact("key", if keys.is_empty() { "none: all rows have the same".to_owned() } else { keys.join(", ") });
    let (all, new) = (manifest.files.len(), new_files(manifest));
    let new: u64 = new.map(|file| file.bytes).sum();
    fact("size", format!("{} in {all} file{}, {} of it new", size(manifest.bytes()), if all == 1 { "" } else { "s" }, size(new)));
    let mut rows = Vec::new();
    for cell in manifest.cells()?.iter() {
        let kind = if cell.pickled { format!("{}, pickled", cell.kind.as_str()) } else { cell.kind.as_str().to_owned() };
        rows.push(row(manifest, Some(&cell.name), [cell.name.clone(), kind, types(cell), lives(cell)]));
    }
    rows.push(row(manifest, None, ["(timers)".into(), String::new(), String::new(), String::new()]));
    print(&format!("{text}{}", text_table(["cell", "kind", "type", "time to live", "entries", "size"], &rows)?))
}

fn row(manifest: &Manifest, cell: Option<&str>, [name, kind, types, lives]: [String; 4]) -> [String; 6] {
    let sum = |of: fn(&FileEntry) -> u64| manifest.files.iter().filter(|file| file.cell.as_deref() == cell).map(of).sum();
    [name, kind, types, lives, count(sum(|file| file.rows)), size(sum(|file| file.bytes))]
}

fn types(cell: &Cell) -> String {
    match &cell.key {
        Some(key) => format!("{key} to {}", cell.value),
        None => cell.value.to_string(),
    }
}

fn lives(cell: &Cell) -> String {
    cell.ttl.map_or_else(String::new, |ttl| humantime::format_duration(Duration::from_millis(ttl.duration.as_millis() as u64)).to_string())
}

/// The first rows of a part.
pub async fn rows(checkpoints: &Checkpoints, part: &Part, limit: usize) -> Result<(), Failure> {
    let (mut batches, mut left) = (Vec::new(), limit);
    for file in &part.files {
        if left == 0 {
            break;
        }
        for batch in checkpoints.tables(file).await? {
            let rows = left.min(batch.num_rows());
            batches.push(batch.slice(0, rows));
            left -= rows;
        }
    }
    let shown = concat_batches(&part.schema, &batches).and_then(|all| without_empty(&all));
    let shown = shown.map_err(|error| Failure::data(format!("{} cannot be shown: {error}", part.shown())))?;
    let mut text = narrow_table(&shown, WIDTH)?;
    let (rows, all) = (shown.num_rows() as u64, part.rows());
    if rows < all {
        let _ = write!(text, "\n{} of {} rows; `--limit N` shows more", count(rows), count(all));
    } else {
        let _ = write!(text, "\n{} row{}", count(all), if all == 1 { "" } else { "s" });
    }
    if let Some(note) = part.note() {
        let _ = write!(text, "\n{note}");
    }
    print(&text)
}

/// Without namespaces if all are empty: only windows have some.
fn without_empty(batch: &RecordBatch) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let said = |at: &usize| {
        batch.schema_ref().field(*at).name() != "namespace"
            || batch.column(*at).as_binary::<i32>().iter().flatten().any(|namespace| !namespace.is_empty())
    };
    batch.project(&(0..batch.num_columns()).filter(said).collect::<Vec<_>>())
}
