//! The worker package, carried inside this binary.
//!
//! It is unpacked once to `<cache>/package/<hash>/pillion/`, and that folder is put in front of the workers' `sys.path`: nothing is installed
//! into a user's environment, and each build of the sidecar uses the very worker it was built with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::identity::Identity;
use super::unwritable;
use crate::error::{Code, Error};

// `FILES`: relative path and content of every file, sorted. Written by `build.rs`.
include!(concat!(env!("OUT_DIR"), "/package.rs"));

/// Uses a folder with a package `pillion` in place of the one carried: for work on the worker itself.
const OVERRIDE: &str = "PILLION_PACKAGE_DIR";
/// The compiled half of the worker.
const EXTENSION: &str = "_native.abi3.so";

/// The folder to put on `sys.path`, with the package unpacked and verified.
///
/// # Errors
/// `worker_package_missing` if this binary was built without the extension; `cache_unwritable`.
pub fn ensure(cache_dir: &Path) -> Result<PathBuf, Error> {
    if let Some(folder) = std::env::var_os(OVERRIDE).map(PathBuf::from) {
        return if folder.join("pillion/__init__.py").is_file() {
            Ok(folder)
        } else {
            Err(Error::new(Code::WorkerPackageMissing, format!("`{OVERRIDE}` is `{}`, which holds no package `pillion`", folder.display()))
                .hint(format!("unset `{OVERRIDE}`")))
        };
    }
    if !FILES.iter().any(|(path, _)| *path == EXTENSION) {
        return Err(Error::new(Code::WorkerPackageMissing, "this binary was built without the worker's extension")
            .hint("build it with `make build`"));
    }
    static HASH: OnceLock<String> = OnceLock::new();
    unpack(FILES, HASH.get_or_init(|| hash(FILES)), &cache_dir.join("package"))
}

type Content<'a> = &'a [(&'a str, &'a [u8])];

fn hash(files: Content) -> String {
    let mut identity = Identity::new("package 1");
    for (path, content) in files {
        identity.text(path).bytes(content);
    }
    identity.finish()
}

/// Puts `files` into `<parent>/<hash>/pillion`, if they are not there already, whole and unchanged.
fn unpack(files: Content, hash: &str, parent: &Path) -> Result<PathBuf, Error> {
    let target = parent.join(hash);
    if is_intact(files, &target) {
        return Ok(target);
    }
    let place = || -> io::Result<()> {
        fs::create_dir_all(parent)?;
        let fresh = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
        write(files, fresh.path())?;
        loop {
            match fs::rename(fresh.path(), &target) {
                // Now at home under its final name: nothing is left to remove.
                Ok(()) => {
                    let _ = fresh.keep();
                    return Ok(());
                }
                // Another process was quicker; what it put there is as good if it is intact.
                Err(_) if is_intact(files, &target) => return Ok(()),
                // Damaged, by a full disk or a loss of power. Workers may still run from it, so it moves aside before it goes.
                Err(error) if target.exists() => {
                    let aside = tempfile::Builder::new().prefix(".old-").tempdir_in(parent)?;
                    match fs::rename(&target, aside.path().join("package")) {
                        Err(moved) if moved.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    };
    place().map_err(|error| unwritable(parent, &error))?;
    Ok(target)
}

fn write(files: Content, folder: &Path) -> io::Result<()> {
    for (path, content) in files {
        let path = folder.join("pillion").join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
    }
    Ok(())
}

/// Whether every file is there with exactly its content. Reading some megabytes from the page cache takes a few milliseconds, once per start.
fn is_intact(files: Content, folder: &Path) -> bool {
    files.iter().all(|(path, content)| fs::read(folder.join("pillion").join(path)).is_ok_and(|found| found == *content))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const SOME: Content = &[("__init__.py", b"x = 1\n"), ("sub/mod.py", b""), (EXTENSION, &[0x7f, 0x45, 0, 255])];

    #[test]
    fn unpacks_once_and_repairs_what_is_damaged() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpack(SOME, "abc", cache.path()).unwrap();
        assert_eq!(fs::read(folder.join("pillion/sub/mod.py")).unwrap(), b"");
        let written = fs::metadata(folder.join("pillion")).unwrap().modified().unwrap();
        fs::write(folder.join("pillion/extra.pyc"), "Python leaves such files").unwrap();
        assert_eq!(unpack(SOME, "abc", cache.path()).unwrap(), folder);
        assert!(folder.join("pillion/extra.pyc").exists(), "unpacked again without need, {written:?}");

        fs::write(folder.join("pillion/__init__.py"), "x = ").unwrap();
        unpack(SOME, "abc", cache.path()).unwrap();
        assert_eq!(fs::read(folder.join("pillion/__init__.py")).unwrap(), b"x = 1\n");
        fs::remove_file(folder.join("pillion").join(EXTENSION)).unwrap();
        unpack(SOME, "abc", cache.path()).unwrap();
        assert!(is_intact(SOME, &folder));
        let left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["abc"], "nothing else stays behind");
    }

    #[test]
    fn many_at_once_end_with_one_whole_package() {
        let cache = tempfile::tempdir().unwrap();
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let folder = unpack(SOME, "abc", cache.path()).unwrap();
                    assert!(is_intact(SOME, &folder));
                });
            }
        });
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_read_only_cache_is_said_so() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join("package"), "a file in the way").unwrap();
        assert_eq!(unpack(SOME, "abc", &cache.path().join("package")).unwrap_err().code(), Code::CacheUnwritable);
    }

    #[test]
    fn the_hash_covers_names_and_contents() {
        assert_ne!(hash(&[("a", b"b")]), hash(&[("ab", b"")]));
        assert_ne!(hash(SOME), hash(&SOME[..2]));
    }

    #[test]
    fn this_build_carries_the_python_half() {
        assert!(FILES.is_sorted_by_key(|(path, _)| *path));
        assert!(FILES.iter().all(|(path, _)| !path.contains("__pycache__")));
    }
}
