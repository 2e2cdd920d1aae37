//! Where results go: a file that appears under its name only when it is whole, or standard output.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use tempfile::{NamedTempFile, TempPath};

use super::{Format, csv, ipc, is_standard_stream, json, parquet};
use crate::cli::failure::Failure;

/// Writes batches in one format.
pub(super) trait Sink: Send {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;

    /// Writes what is left, footers included, and flushes.
    fn finish(self: Box<Self>) -> Result<(), ArrowError>;
}

/// A place for an output, checked and reserved before any work is done. Dropping it leaves nothing behind.
pub struct Target {
    name: String,
    format: Format,
    file: Option<(NamedTempFile, PathBuf)>,
}

impl Target {
    /// Reserves `path`: makes a temporary file beside it. `-` is standard output.
    ///
    /// # Errors
    /// An unsupported extension, a folder that is missing or cannot be written, a path that is no file.
    pub fn reserve(path: &Path) -> Result<Self, Failure> {
        if is_standard_stream(path) {
            return Ok(Self { name: "standard output".into(), format: Format::IpcStream, file: None });
        }
        let format = Format::of(path)?;
        let shown = path.display().to_string();
        // Through a symbolic link the file behind it is replaced, not the link.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let existing = std::fs::metadata(&target).ok();
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            return Err(
                Failure::data(format!("the output `{shown}` exists and is no file")).hint("name another file, or `-` for standard output")
            );
        }
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            let text = format!("the folder `{}` of the output file does not exist", folder.display());
            return Err(Failure::data(text).hint(format!("create it with `mkdir -p {}`", folder.display())));
        }
        // The mode of the file that is replaced, else what the umask leaves.
        let permissions = existing.map_or_else(|| Permissions::from_mode(0o666), |existing| existing.permissions());
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .permissions(permissions)
            .tempfile_in(&folder)
            .map_err(|error| unwritable(&folder, &error))?;
        Ok(Self { name: shown, format, file: Some((file, target)) })
    }

    /// Starts the output: who writes it, and what makes it appear under its name afterwards.
    ///
    /// # Errors
    /// A schema that the format has no form for; a write that fails.
    pub fn start(self, schema: SchemaRef) -> Result<(Output, Commit), Failure> {
        let Self { name, format, file } = self;
        let (writer, reserved): (Box<dyn Write + Send>, _) = match file {
            None => (Box::new(BufWriter::new(results_only().map_err(|error| cannot_write(&name, &ArrowError::from(error)))?)), None),
            Some((file, target)) => {
                let (file, path) = file.into_parts();
                let copy = file.try_clone().map_err(|error| cannot_write(&name, &ArrowError::from(error)))?;
                (Box::new(BufWriter::new(file)), Some(Reserved { file: copy, path, target }))
            }
        };
        Ok((Output::new(name.clone(), format, writer, schema)?, Commit { name, reserved }))
    }
}

/// Standard output, for results alone: what functions in threads of this process print goes to standard error from now on.
fn results_only() -> io::Result<File> {
    let results = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(results))
}

/// Writes an output. A file that is not committed afterwards leaves nothing behind.
pub struct Output {
    name: String,
    sink: Box<dyn Sink>,
}

/// Why an output stopped.
#[derive(Debug)]
pub enum Stop {
    /// Who read the pipe has gone: nothing is wrong, and nobody is left to write to.
    ReaderGone,
    Failed(Failure),
}

impl From<pillion::Error> for Stop {
    fn from(error: pillion::Error) -> Self {
        Stop::Failed(error.into())
    }
}

impl Output {
    /// Writes this format; `name` is for messages.
    ///
    /// # Errors
    /// A schema that the format has no form for; a write that fails.
    pub(super) fn new(name: String, format: Format, writer: Box<dyn Write + Send>, schema: SchemaRef) -> Result<Self, Failure> {
        let sink: Result<Box<dyn Sink>, ArrowError> = match format {
            Format::Csv => csv::CsvSink::new(writer, &schema).map(|sink| Box::new(sink) as _),
            Format::Parquet => parquet::ParquetSink::new(writer, schema).map(|sink| Box::new(sink) as _),
            Format::IpcFile => ipc::FileSink::new(writer, &schema).map(|sink| Box::new(sink) as _),
            Format::IpcStream => ipc::StreamSink::new(writer, &schema).map(|sink| Box::new(sink) as _),
            Format::JsonLines => Ok(Box::new(json::JsonSink::new(writer))),
        };
        let sink = sink.map_err(|error| cannot_write(&name, &error))?;
        Ok(Output { name, sink })
    }

    /// Writes one batch.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Stop> {
        self.sink.write(batch).map_err(|error| stop(&self.name, &error))
    }

    /// Writes what is left, and flushes.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn finish(self) -> Result<(), Stop> {
        let Self { name, sink } = self;
        sink.finish().map_err(|error| stop(&name, &error))
    }
}

/// Makes a finished file appear. Dropping it removes what was written so far.
pub struct Commit {
    name: String,
    reserved: Option<Reserved>,
}

struct Reserved {
    file: File,
    path: TempPath,
    target: PathBuf,
}

impl Commit {
    /// Brings the file to disk and gives it its name; nothing to do for standard output.
    ///
    /// # Errors
    /// The disk is full or the folder has changed; no file is then left.
    pub fn commit(self) -> Result<(), Failure> {
        let Some(Reserved { file, path, target }) = self.reserved else { return Ok(()) };
        file.sync_all().map_err(|error| cannot_write(&self.name, &ArrowError::from(error)))?;
        path.persist(&target).map_err(|error| cannot_write(&self.name, &ArrowError::from(error.error)))
    }
}

fn stop(name: &str, error: &ArrowError) -> Stop {
    if let Some(source) = io_error(error)
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return Stop::ReaderGone;
    }
    Stop::Failed(cannot_write(name, error))
}

/// The input/output error inside; libraries wrap it differently, one keeps only its text.
fn io_error(error: &ArrowError) -> Option<&io::Error> {
    match error {
        ArrowError::IoError(_, source) => Some(source),
        ArrowError::ExternalError(source) => source.downcast_ref(),
        _ => None,
    }
}

fn cannot_write(name: &str, error: &ArrowError) -> Failure {
    match error {
        ArrowError::NotYetImplemented(text) => {
            Failure::data(format!("`{name}` cannot be written: {text}")).hint("write Parquet, Arrow IPC or JSON instead")
        }
        other => Failure::data(format!("`{name}` cannot be written: {}", super::reason_of(other))),
    }
}

fn unwritable(folder: &Path, error: &io::Error) -> Failure {
    let text = format!("the folder `{}` of the output file cannot be written: {error}", folder.display());
    Failure::data(text).hint("choose another folder, or change its permissions")
}
