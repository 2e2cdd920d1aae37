//! Folders on this machine: where caches and sockets live unless configured.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Code, Error};

/// `~/.cache/pillion`, or what the platform uses in its place; without a home folder, one of this user's in the temporary folder.
pub(super) fn default_cache_dir() -> PathBuf {
    match directories::ProjectDirs::from("", "", "pillion") {
        Some(dirs) => dirs.cache_dir().to_path_buf(),
        None => std::env::temp_dir().join(format!("pillion-cache-{}", uid())),
    }
}

/// `$XDG_RUNTIME_DIR/pillion`, else `pillion-<uid>` in the temporary folder.
pub(super) fn default_runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("pillion"),
        None => std::env::temp_dir().join(format!("pillion-{}", uid())),
    }
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Makes sure that `path` is a folder of this user that nobody else can enter (0700), and creates it, parents included, if it is not there.
///
/// # Errors
/// `system_refused` if it cannot be created, belongs to someone else, or is open to others: a folder with a guessable name in a shared
/// temporary folder may have been made by anyone.
pub fn private_dir(path: &Path) -> Result<(), Error> {
    let refused = |error: &io::Error| {
        Error::new(Code::SystemRefused, format!("the folder `{}` cannot be made: {error}", path.display()))
            .hint("set `runtime_dir` to a folder that you can write")
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| refused(&e))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(refused(&e)),
    }
    let found = fs::symlink_metadata(path).map_err(|e| refused(&e))?;
    let problem = if !found.is_dir() {
        "it is not a folder"
    } else if found.uid() != uid() {
        "it belongs to another user"
    } else if found.mode() & 0o077 != 0 {
        "other users can enter it"
    } else {
        return Ok(());
    };
    Err(Error::new(Code::SystemRefused, format!("the folder `{}` is not private: {problem}", path.display()))
        .hint("make it yours with mode 0700, or set `runtime_dir` to another folder"))
}

/// A fresh private folder (0700) below `runtime_dir` for the sockets of one engine, removed when dropped.
///
/// # Errors
/// As [`private_dir`].
pub fn session_dir(runtime_dir: &Path) -> Result<TempDir, Error> {
    private_dir(runtime_dir)?;
    sweep(runtime_dir);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(4)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(runtime_dir)
        .map_err(|e| Error::new(Code::SystemRefused, format!("no folder can be made in `{}`: {e}", runtime_dir.display())))
}

/// How the folders of [`session_dir`] begin; the process id follows.
const PREFIX: &str = "e";

/// Removes the folders of engines that were killed before they could do so themselves.
fn sweep(runtime_dir: &Path) {
    let Ok(entries) = fs::read_dir(runtime_dir) else { return };
    for entry in entries.flatten() {
        if let Some(pid) = owner(&entry.file_name())
            && rustix::process::Pid::from_raw(pid)
                .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
        {
            // Another engine may sweep at the same time; whoever comes second finds nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process id in the name of an engine's folder.
fn owner(name: &OsStr) -> Option<i32> {
    let (pid, _) = name.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_folder_is_made_and_accepted_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        private_dir(&path).unwrap();
    }

    #[test]
    fn an_open_folder_or_a_link_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&open).unwrap_err().to_string().contains("other users can enter it"));

        let link = base.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(private_dir(&link).unwrap_err().to_string().contains("not a folder"));
    }

    #[test]
    fn folders_of_dead_engines_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let runtime = base.path().join("r");
        private_dir(&runtime).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = runtime.join(format!("e{}-abcd", child.id()));
        child.wait().unwrap();
        fs::create_dir(&gone).unwrap();
        let other = runtime.join("elsewhere");
        fs::create_dir(&other).unwrap();

        let first = session_dir(&runtime).unwrap();
        let second = session_dir(&runtime).unwrap();
        assert!(!gone.exists());
        assert!(other.exists() && first.path().exists() && second.path().exists());
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o777, 0o700);
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists());
    }
}
