//! Files of batches: CSV, Parquet, Arrow IPC and newline-delimited JSON, chosen by extension.
//!
//! Readers and writers block; `run` gives each a thread of its own.

mod csv;
mod ipc;
mod json;
mod output;
mod parquet;
mod parts;
mod recast;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use crate::cli::failure::Failure;

pub use output::{Commit, Output, Stop, Target};
pub use parts::{Folder, Parts};
pub use recast::in_utc;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Parquet,
    /// Arrow IPC with a footer; a stream under this extension is read too.
    IpcFile,
    IpcStream,
    JsonLines,
}

const EXTENSIONS: &str = "`.csv`, `.parquet`, `.arrow` or `.feather` (Arrow IPC file), `.arrows` (Arrow IPC stream), `.jsonl`, `.ndjson` or `.json` \
                          (newline-delimited JSON), or `-` (Arrow IPC stream)";

impl Format {
    /// The format that the extension of a path names.
    ///
    /// # Errors
    /// A usage failure that lists the extensions.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("csv") => Ok(Format::Csv),
            Some("parquet") => Ok(Format::Parquet),
            Some("arrow" | "feather" | "ipc") => Ok(Format::IpcFile),
            Some("arrows") => Ok(Format::IpcStream),
            Some("jsonl" | "ndjson" | "json") => Ok(Format::JsonLines),
            Some(other) => Err(Failure::usage(format!("`{}` has the unsupported extension `.{other}`", path.display()))),
            None => Err(Failure::usage(format!("`{}` has no extension that says its format", path.display()))),
        }
        .map_err(|failure| failure.hint(format!("use {EXTENSIONS}")))
    }
}

/// True for the paths that mean standard input or output.
pub fn is_standard_stream(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/stdout"].iter().any(|name| path == Path::new(name))
}

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Rows per batch, for formats that have no batches of their own.
    pub batch_rows: usize,
    /// Rows from which the types of CSV and JSON columns are inferred.
    pub infer_rows: usize,
}

/// How much there is to read, as far as it can be known beforehand.
#[derive(Clone)]
pub enum Size {
    Rows(u64),
    /// Bytes in all, and the bytes and rows read so far.
    Bytes {
        total: u64,
        read: Arc<AtomicU64>,
        rows: Arc<AtomicU64>,
    },
    Unknown,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// An opened input: its schema is known, its batches are read one by one.
pub struct Input {
    pub schema: SchemaRef,
    pub size: Size,
    /// True if the input comes in batches that somebody has cut: these are not joined.
    pub has_batches: bool,
    name: String,
    inferred: bool,
    rows: u64,
    /// Rows at the start that are not given.
    skip: u64,
    batches: Batches,
}

impl Input {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// Failures that name the file: missing, unreadable, of an unsupported extension, empty, corrupt.
    pub fn open(path: &Path, options: ReadOptions) -> Result<Self, Failure> {
        if is_standard_stream(path) {
            let opening = Opening { name: "standard input".into(), inferred: false };
            return opening.finish(guarded(|| ipc::read_stream(io::stdin(), Size::Unknown)));
        }
        let format = Format::of(path)?;
        let inferred = matches!(format, Format::Csv | Format::JsonLines);
        let opening = Opening { name: path.display().to_string(), inferred };
        let file = open_file(path)?;
        opening.finish(guarded(|| match format {
            Format::Csv => csv::read(file, options),
            Format::Parquet => parquet::read(file, options),
            Format::IpcFile => ipc::read_file(file),
            Format::IpcStream => file_size(&file).map_err(ArrowError::from).and_then(|total| {
                let (file, size) = counted(file, total);
                ipc::read_stream(file, size)
            }),
            Format::JsonLines => json::read(file, options),
        }))
    }

    /// The next batch, or None at the end.
    ///
    /// # Errors
    /// A failure that names the file and says how far it could be read.
    pub fn next_batch(&mut self) -> Option<Result<RecordBatch, Failure>> {
        loop {
            let batch = match self.read_batch()? {
                Ok(batch) => batch,
                Err(failure) => return Some(Err(failure)),
            };
            let skipped = self.skip.min(batch.num_rows() as u64) as usize;
            self.skip -= skipped as u64;
            if skipped < batch.num_rows() {
                return Some(Ok(batch.slice(skipped, batch.num_rows() - skipped)));
            } else if skipped == 0 {
                return Some(Ok(batch));
            }
        }
    }

    /// Leaves out so many rows at the start: they are read, and not given.
    pub fn skip(&mut self, rows: u64) {
        self.skip = rows;
    }

    fn read_batch(&mut self) -> Option<Result<RecordBatch, Failure>> {
        let next = guarded(|| self.batches.next().transpose()).transpose()?;
        Some(match next {
            Ok(batch) => {
                self.rows += batch.num_rows() as u64;
                if let Size::Bytes { rows, .. } = &self.size {
                    rows.store(self.rows, Ordering::Relaxed);
                }
                Ok(batch)
            }
            Err(error) => {
                let opening = Opening { name: std::mem::take(&mut self.name), inferred: self.inferred };
                // After an error there is nothing more to read.
                self.batches = Box::new(std::iter::empty());
                Err(opening.explain(&error, Some(self.rows)))
            }
        })
    }

    /// The name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a reader of one format gives.
struct Opened {
    schema: SchemaRef,
    size: Size,
    has_batches: bool,
    batches: Batches,
}

/// A file being opened or read, for its errors.
struct Opening {
    name: String,
    inferred: bool,
}

impl Opening {
    fn finish(self, opened: Result<Opened, ArrowError>) -> Result<Input, Failure> {
        let opened = opened.map_err(|error| self.explain(&error, None))?;
        if opened.schema.fields().is_empty() {
            return Err(Failure::data(format!("`{}` is empty: it has no columns", self.name)));
        }
        if let Some(twice) = first_duplicate(&opened.schema) {
            return Err(Failure::data(format!("`{}` has two columns named `{twice}`", self.name)).hint("rename one of them"));
        }
        let Opened { schema, size, has_batches, batches } = opened;
        Ok(Input { schema, size, has_batches, name: self.name, inferred: self.inferred, rows: 0, skip: 0, batches })
    }

    /// Says that the file is at fault, where and why; `rows` were read before.
    fn explain(&self, error: &ArrowError, rows: Option<u64>) -> Failure {
        let reason = reason_of(error);
        let place = match rows {
            None => "at its start".to_owned(),
            Some(rows) => format!("after {} rows", super::progress::count(rows)),
        };
        if let ArrowError::IoError(_, source) = error
            && source.kind() != io::ErrorKind::UnexpectedEof
        {
            return Failure::data(format!("`{}` cannot be read {place}: {source}", self.name));
        }
        let failure = Failure::data(format!("`{}` is corrupt or truncated {place}: {reason}", self.name));
        if self.inferred && rows.is_some() {
            return failure
                .hint("the types of columns are inferred from the first rows; if a later value does not fit, raise `--infer-rows`");
        }
        failure
    }
}

/// Runs a reader. Some panic on files that are damaged in ways their authors did not think of; for a person that is a damaged file as well.
fn guarded<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    outcome.unwrap_or_else(|_| Err(ArrowError::ParseError("its reader could not make sense of it".into())))
}

/// The text of an error without the name of the library's error kind.
fn reason_of(error: &ArrowError) -> String {
    match error {
        ArrowError::CsvError(text)
        | ArrowError::JsonError(text)
        | ArrowError::ParseError(text)
        | ArrowError::IpcError(text)
        | ArrowError::ParquetError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::SchemaError(text) => text.clone(),
        ArrowError::IoError(_, source) if source.kind() == io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        other => other.to_string(),
    }
}

fn open_file(path: &Path) -> Result<File, Failure> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::data(format!("the input file `{shown}` does not exist")).hint(nearby(path)),
        _ => Failure::data(format!("the input file `{shown}` cannot be opened: {error}")),
    })?;
    if !metadata.is_file() {
        return Err(
            Failure::data(format!("the input `{shown}` is no file")).hint("name a file, or `-` for an Arrow IPC stream on standard input")
        );
    }
    File::open(path).map_err(|error| Failure::data(format!("the input file `{shown}` cannot be opened: {error}")))
}

/// What to look at when a file is missing: its folder, or that the folder is missing too.
fn nearby(path: &Path) -> String {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if folder.is_dir() {
        format!("check the name; the folder `{}` exists", folder.display())
    } else {
        format!("check the path; the folder `{}` does not exist either", folder.display())
    }
}

fn file_size(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

/// The first name that two columns have.
fn first_duplicate(schema: &Schema) -> Option<&str> {
    let mut seen = std::collections::HashSet::new();
    schema.fields().iter().map(|field| field.name().as_str()).find(|name| !seen.insert(*name))
}

/// Columns in which no value was seen get text, which takes whatever comes later.
fn text_for_unknown(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => Field::new(field.name(), DataType::Utf8, true),
            _ => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// A reader that counts what it reads.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

/// `reader`, and the size that its progress is told by.
fn counted<R>(reader: R, total: u64) -> (Counted<R>, Size) {
    let read = Arc::new(AtomicU64::new(0));
    (Counted { inner: reader, read: Arc::clone(&read) }, Size::Bytes { total, read, rows: Arc::default() })
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Goes back to the start of a file that was looked at.
fn rewind(file: &mut File) -> io::Result<()> {
    file.seek(SeekFrom::Start(0)).map(drop)
}
