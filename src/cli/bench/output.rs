//! Files for the figures: refused early, and whole when they appear.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::cli::failure::Failure;
use crate::cli::io::is_standard_stream;

/// Where a text goes.
pub enum Place {
    Stdout,
    File { path: PathBuf, part: NamedTempFile },
}

impl Place {
    /// `-` or a file in a folder that can be written.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written.
    pub fn reserve(path: &Path) -> Result<Self, Failure> {
        if is_standard_stream(path) {
            return Ok(Place::Stdout);
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What the umask leaves, as for any file; a temporary one would be for its owner only.
        let permissions = Permissions::from_mode(0o666);
        let part = tempfile::Builder::new().prefix(".pillion-").suffix(".part").permissions(permissions).tempfile_in(folder);
        let part = part.map_err(|error| {
            Failure::data(format!("the file `{}` cannot be written: {error}", path.display()))
                .hint(format!("check the folder `{}`", folder.display()))
        })?;
        Ok(Place::File { path: path.to_owned(), part })
    }

    /// Whether this takes standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Place::Stdout)
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The disk is full, the folder has gone.
    pub fn write(self, text: &str) -> Result<(), Failure> {
        let (path, mut part) = match self {
            Place::Stdout => return print(text),
            Place::File { path, part } => (path, part),
        };
        let written = part.write_all(text.as_bytes()).and_then(|()| part.persist(&path).map_err(|error| error.error));
        written.map(drop).map_err(|error| Failure::data(format!("the file `{}` cannot be written: {error}", path.display())))
    }
}

/// Writes to standard output; a reader that has gone is nobody's concern.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::data(format!("standard output cannot be written: {error}"))),
        _ => Ok(()),
    }
}
