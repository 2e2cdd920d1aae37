//! The folder of a store: private to this process, unique, deleted at the end, or by the next process that starts there.

use crate::error::{Code, Error, Result};
use rustix::fs::{FlockOperation, flock, statvfs};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const PREFIX: &str = "store-";
const LOCK: &str = "lock";

/// A folder and the lock beside it, which is held as long as this lives.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    lock: PathBuf,
    _held: File,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let code = if error.kind() == std::io::ErrorKind::StorageFull { Code::StateFull } else { Code::StateFailed };
    Error::new(code, format!("cannot {what} `{}`: {error}", path.display()))
        .hint("check that the folder for state exists, is writable and has room")
}

impl Place {
    /// Deletes what dead processes left in `root`, and makes a new folder there.
    ///
    /// # Errors
    /// [`Code::StateFailed`] or [`Code::StateFull`] if the file system refuses.
    pub fn create(root: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| failed("make the folder", root, &error))?;
        sweep(root)?;
        loop {
            let mut nonce = [0; 8];
            getrandom::fill(&mut nonce).map_err(|error| Error::new(Code::SystemRefused, format!("no random numbers: {error}")))?;
            let name = format!("{PREFIX}{}-{:016x}", std::process::id(), u64::from_ne_bytes(nonce));
            let (folder, lock) = (root.join(&name), root.join(format!("{name}.{LOCK}")));
            let held = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&lock)
                .map_err(|error| failed("make", &lock, &error))?;
            // Somebody who sweeps may have been quicker; then the file is gone, or theirs.
            let ours = flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() && held.metadata().is_ok_and(|file| file.nlink() > 0);
            if ours {
                fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed("make the folder", &folder, &error))?;
                return Ok(Place { folder, lock, _held: held });
            }
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that can still be written there; everything, if the file system does not say.
    pub fn free(&self) -> u64 {
        statvfs(&self.folder).map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Deletes the folder.
    ///
    /// # Errors
    /// [`Code::StateFailed`] if the file system refuses.
    pub fn delete(&self) -> Result<()> {
        remove(&self.folder)?;
        let _ = fs::remove_file(&self.lock);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            tracing::warn!(%error, "a folder of state stays behind until the next start");
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("delete the folder", folder, &error)),
        _ => Ok(()),
    }
}

/// Deletes the folders whose owners are gone: their locks can be had.
fn sweep(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).map_err(|error| failed("read the folder", root, &error))?.flatten() {
        let lock = entry.path();
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(&format!(".{LOCK}"))) {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&lock.with_extension(""))?;
            let _ = fs::remove_file(&lock);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let root = tempfile::tempdir().unwrap();
        let living = Place::create(root.path()).unwrap();
        let dead = root.path().join(format!("{PREFIX}1-0"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("data"), "x").unwrap();
        fs::write(root.path().join(format!("{PREFIX}1-0.{LOCK}")), "").unwrap();
        fs::write(root.path().join("other"), "stays").unwrap();
        let second = Place::create(root.path()).unwrap();
        assert!(!dead.exists() && living.folder().exists() && root.path().join("other").exists());
        assert!(second.free() > 0);
        drop((living, second));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_root_that_is_no_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Place::create(file.path()).unwrap_err().code(), Code::StateFailed);
    }
}
