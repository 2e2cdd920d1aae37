//! An output in parts: a folder of files, of which those appear that somebody has committed.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::{Format, Output, Stop, is_standard_stream};
use crate::cli::failure::Failure;

/// A folder of parts. `part-00000007.csv` is committed; until then it is `.part-00000007.csv.part`, which tools that read folders leave out.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    format: Format,
    extension: String,
}

impl Folder {
    /// The folder for an output of this name; nothing is made yet.
    ///
    /// # Errors
    /// Standard output, which nobody can take back; an unsupported extension; a file of that name; a missing parent.
    pub fn new(path: &Path) -> Result<Self, Failure> {
        if is_standard_stream(path) {
            let text = "with checkpoints the output is written in parts, and standard output cannot be";
            return Err(Failure::usage(text).hint("name an output such as `out.parquet`: a folder with parts in that format"));
        }
        let format = Format::of(path)?;
        let shown = path.display();
        if path.exists() && !path.is_dir() {
            let text = format!("the output `{shown}` is a file, but with checkpoints an output is a folder of parts");
            return Err(Failure::data(text).hint("name another output, or remove the file"));
        }
        let path = std::path::absolute(path).map_err(|error| Failure::usage(format!("`{shown}` is no path: {error}")))?;
        if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
            let text = format!("the folder `{}` of the output does not exist", parent.display());
            return Err(Failure::data(text).hint(format!("create it with `mkdir -p {}`", parent.display())));
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path, format, extension })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if it holds nothing, or does not exist.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.path).map_or(true, |mut entries| entries.next().is_none())
    }

    fn committed(&self, number: u64) -> PathBuf {
        self.path.join(format!("part-{number:08}.{}", self.extension))
    }

    fn pending(&self, number: u64) -> PathBuf {
        self.path.join(format!(".part-{number:08}.{}.part", self.extension))
    }

    /// Leaves exactly these parts: those that were committed but could not appear any more do, and all others go. Makes the folder.
    ///
    /// # Errors
    /// A part that is missing; a folder that cannot be written.
    pub fn settle(&self, parts: &[u64]) -> Result<(), Failure> {
        fs::create_dir_all(&self.path).map_err(|error| self.failed(&error))?;
        for &number in parts {
            if !self.committed(number).exists() {
                fs::rename(self.pending(number), self.committed(number)).map_err(|_| self.missing(number))?;
            }
        }
        let kept: Vec<PathBuf> = parts.iter().map(|&number| self.committed(number)).collect();
        for entry in fs::read_dir(&self.path).map_err(|error| self.failed(&error))? {
            let path = entry.map_err(|error| self.failed(&error))?.path();
            if self.is_part(&path) && !kept.contains(&path) {
                fs::remove_file(&path).map_err(|error| self.failed(&error))?;
            }
        }
        self.sync()
    }

    /// A part that was committed appears.
    ///
    /// # Errors
    /// It is missing, or the folder cannot be written.
    pub fn publish(&self, number: u64) -> Result<(), Failure> {
        fs::rename(self.pending(number), self.committed(number)).map_err(|error| self.failed(&error))?;
        self.sync()
    }

    fn is_part(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(name) = name.strip_suffix(".part").map_or_else(|| Some(&*name), |name| name.strip_prefix('.')) else { return false };
        name.strip_prefix("part-").is_some_and(|rest| rest.ends_with(&format!(".{}", self.extension)))
    }

    fn sync(&self) -> Result<(), Failure> {
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::data(format!("the output folder `{}` cannot be written: {error}", self.path.display()))
    }

    fn missing(&self, number: u64) -> Failure {
        let text = format!("part {number} of the output `{}` is missing, which an earlier run has committed", self.path.display());
        Failure::data(text).hint("bring it back, or start anew with other folders for output and checkpoints")
    }

    /// Starts writing: the first part is made with its first row.
    ///
    /// # Errors
    /// A schema that the format has no form for.
    pub fn start(self, schema: SchemaRef) -> Result<Parts, Failure> {
        // Found before any work is done.
        Output::new(self.path.display().to_string(), self.format, Box::new(io::sink()), schema.clone())?;
        Ok(Parts { folder: self, schema, open: None, rows: 0 })
    }
}

/// Writes the parts of a folder, one after the other.
pub struct Parts {
    folder: Folder,
    schema: SchemaRef,
    /// The part that is being written, under no name of its own yet.
    open: Option<(Output, File, tempfile::TempPath)>,
    rows: u64,
}

impl Parts {
    /// Writes one batch to the open part.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Stop> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        self.opened()?.write(batch)
    }

    /// Ends the open part, and brings it to disk as number `number`. Without rows there is none, unless `always`. True if there is one.
    ///
    /// # Errors
    /// As [`Output::finish`].
    pub fn cut(&mut self, number: u64, always: bool) -> Result<bool, Stop> {
        if std::mem::take(&mut self.rows) == 0 && !always {
            return Ok(false);
        }
        self.opened()?;
        let Some((output, file, path)) = self.open.take() else { return Ok(false) };
        output.finish()?;
        let failed = |error: io::Error| Stop::Failed(self.folder.failed(&error));
        file.sync_all().map_err(failed)?;
        path.persist(self.folder.pending(number)).map_err(|error| failed(error.error))?;
        Ok(true)
    }

    fn opened(&mut self) -> Result<&mut Output, Stop> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.begin().map_err(Stop::Failed)?,
        };
        Ok(&mut self.open.insert(open).0)
    }

    fn begin(&self) -> Result<(Output, File, tempfile::TempPath), Failure> {
        let folder = &self.folder;
        // Named as parts are, so that whoever goes on after a crash finds and removes it.
        let file = tempfile::Builder::new()
            .prefix(".part-")
            .suffix(&format!(".{}.part", folder.extension))
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(&folder.path)
            .map_err(|error| folder.failed(&error))?;
        let (file, path) = file.into_parts();
        let copy = file.try_clone().map_err(|error| folder.failed(&error))?;
        let output = Output::new(folder.path.display().to_string(), folder.format, Box::new(BufWriter::new(file)), self.schema.clone())?;
        Ok((output, copy, path))
    }
}
