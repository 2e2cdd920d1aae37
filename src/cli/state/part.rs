//! What of a checkpoint is looked at: one of its cells, or its timers.

use arrow_schema::SchemaRef;
use clap::Args;
use pillion::state::encoding::KeyEncoder;
use pillion::state::snapshot::{FileEntry, Manifest, table::Layout};

use crate::cli::failure::Failure;

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct PartArgs {
    /// A cell of the function: its values, by key
    #[arg(long, value_name = "NAME")]
    cell: Option<String>,

    /// The pending timers
    #[arg(long)]
    timers: bool,
}

impl PartArgs {
    /// What was asked for, if anything was.
    ///
    /// # Errors
    /// A cell that the checkpoint does not have.
    pub fn of(&self, manifest: &Manifest) -> Result<Option<Part>, Failure> {
        let cells = manifest.cells()?;
        let (name, cell) = match &self.cell {
            None if !self.timers => return Ok(None),
            None => (None, None),
            Some(name) => {
                let Some(id) = cells.find(name) else {
                    let known: Vec<_> = cells.iter().map(|cell| format!("`{}`", cell.name)).collect();
                    let hint = if known.is_empty() { "it has no cells".to_owned() } else { format!("its cells: {}", known.join(", ")) };
                    return Err(Failure::usage(format!("the checkpoint `{}` has no cell `{name}`", manifest.handle)).hint(hint));
                };
                (Some(name.clone()), Some((id, cells.at(id)?.clone())))
            }
        };
        let pickled = cell.as_ref().is_some_and(|(_, cell)| cell.pickled);
        let schema = Layout::new(KeyEncoder::new(manifest.key_columns()?, true)?, cell).schema();
        let files = manifest.files.iter().filter(|file| file.cell == name).cloned().collect();
        Ok(Some(Part { name, pickled, schema, files }))
    }
}

/// A cell or the timers of a checkpoint.
pub struct Part {
    /// Of the cell; `None` for timers.
    name: Option<String>,
    pickled: bool,
    /// Of its rows.
    pub schema: SchemaRef,
    /// With its rows, in the order of key groups.
    pub files: Vec<FileEntry>,
}

impl Part {
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// As in a sentence.
    pub fn shown(&self) -> String {
        self.name.as_ref().map_or_else(|| "the timers".to_owned(), |name| format!("the cell `{name}`"))
    }

    /// What a person must know of its values.
    pub fn note(&self) -> Option<String> {
        self.pickled.then(|| format!("the values of {} are pickles, which only Python can read: they stand here as bytes", self.shown()))
    }
}
