//! Ids by content.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::error::{Code, Error};

/// Hashes a sequence of fields; each is preceded by its length, so that no two sequences run together to the same bytes.
pub struct Identity(Sha256);

impl Identity {
    /// Begins with what the id is of, and the version of how it is computed.
    pub fn new(kind: &str) -> Self {
        let mut identity = Self(Sha256::new());
        identity.text(kind);
        identity
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub fn path(&mut self, path: &Path) -> &mut Self {
        self.bytes(path.as_os_str().as_encoded_bytes())
    }

    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a String>) -> &mut Self {
        let texts: Vec<_> = texts.into_iter().collect();
        self.bytes(&(texts.len() as u64).to_le_bytes());
        for text in texts {
            self.text(text);
        }
        self
    }

    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.bytes(&[u8::from(flag)])
    }

    /// 128 bits in hexadecimal: short enough for paths, far too many to collide by chance.
    pub fn finish(self) -> String {
        let mut text = format!("{:x}", self.0.finalize());
        text.truncate(32);
        text
    }
}

/// What says that a file has not changed since it was read: length, modification time, inode.
type Stamp = (u64, i64, i64, u64);

fn stamp(found: &Metadata) -> Stamp {
    (found.len(), found.mtime(), found.mtime_nsec(), found.ino())
}

/// Digests of files, remembered for as long as the files look unchanged: models are large, and sessions open often.
#[derive(Default)]
pub struct Files(Mutex<HashMap<PathBuf, (Stamp, String)>>);

impl Files {
    /// The digest of a file's content.
    ///
    /// # Errors
    /// `environment_file_missing` if it is not a readable file.
    pub fn digest(&self, path: &Path) -> Result<String, Error> {
        let found = fs::metadata(path).map_err(|error| missing(path, &error))?;
        if !found.is_file() {
            return Err(missing(path, &io::Error::other("it is not a file")));
        }
        if let Some((known, digest)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path)
            && *known == stamp(&found)
        {
            return Ok(digest.clone());
        }
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(|error| missing(path, &error))?;
        io::copy(&mut file, &mut hash).map_err(|error| missing(path, &error))?;
        let digest = format!("{:x}", hash.finalize());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (stamp(&found), digest.clone()));
        Ok(digest)
    }

    /// Checks an entry of `sys.path`: a folder, or a zip file.
    ///
    /// # Errors
    /// `environment_file_missing` if it is not there.
    pub fn check_path(&self, path: &Path) -> Result<(), Error> {
        fs::metadata(path).map(drop).map_err(|error| missing(path, &error))
    }
}

fn missing(path: &Path, error: &io::Error) -> Error {
    let reason = if error.kind() == io::ErrorKind::NotFound { "it does not exist".to_owned() } else { error.to_string() };
    Error::new(Code::EnvironmentFileMissing, format!("the environment needs `{}`, which cannot be read: {reason}", path.display()))
        .hint("paths are those of the machine that the sidecar runs on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let id = |parts: &[&str]| {
            let mut identity = Identity::new("test");
            for part in parts {
                identity.text(part);
            }
            identity.finish()
        };
        assert_eq!(id(&["ab", "c"]), id(&["ab", "c"]));
        assert_ne!(id(&["ab", "c"]), id(&["a", "bc"]));
        assert_ne!(id(&["a"]), id(&["a", ""]));
        assert_eq!(id(&[]).len(), 32);
    }

    #[test]
    fn a_changed_file_has_another_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        let files = Files::default();
        assert_eq!(files.digest(&path).unwrap_err().code(), Code::EnvironmentFileMissing);
        assert_eq!(files.digest(folder.path()).unwrap_err().code(), Code::EnvironmentFileMissing);
        fs::write(&path, "one").unwrap();
        let one = files.digest(&path).unwrap();
        assert_eq!(files.digest(&path).unwrap(), one);
        // Another inode, as an editor or a copy leaves it.
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(files.digest(&path).unwrap(), one);
    }
}
