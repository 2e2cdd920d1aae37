//! Requirements as lines: read from a file, normalized, identified.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::identity::Identity;
use crate::error::{Code, Error};

/// How deep `-r` may reach from file to file.
const MAX_DEPTH: usize = 16;

/// Reads a `requirements.txt` into lines that mean the same anywhere on this machine: `-r` files are read in, `-c` files and local packages get
/// absolute paths, comments go.
///
/// # Errors
/// `environment_file_missing` if the file, or one it names with `-r`, cannot be read.
pub fn read_requirements(path: &Path) -> Result<Vec<String>, Error> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    read(&path, 0)
}

fn read(path: &Path, depth: usize) -> Result<Vec<String>, Error> {
    let failed = |reason: String| {
        Error::new(Code::EnvironmentFileMissing, format!("the requirements `{}` cannot be read: {reason}", path.display()))
    };
    if depth > MAX_DEPTH {
        return Err(failed("its `-r` lines lead back to itself".into()));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let base = path.parent().unwrap_or(Path::new("/"));
    let mut lines = Vec::new();
    // A backslash at the end of a line joins it with the next.
    let text = text.replace("\\\r\n", " ").replace("\\\n", " ");
    for line in text.lines().filter_map(clean) {
        if let Some(other) = option(&line, &["-r", "--requirement"]) {
            lines.extend(read(&base.join(other), depth + 1)?);
        } else if let Some(other) = option(&line, &["-c", "--constraint"]) {
            lines.push(format!("-c {}", base.join(other).display()));
        } else if let Some(package) = option(&line, &["-e", "--editable"]) {
            // An editable install would change with its folder, behind the back of an environment that is cached by content.
            lines.push(anchored(package, base));
        } else {
            lines.push(anchored(&line, base));
        }
    }
    Ok(lines)
}

/// The value of an option in any of its spellings: `-r x`, `-rx`, `--requirement x`, `--requirement=x`.
fn option<'a>(line: &'a str, [short, long]: &[&str; 2]) -> Option<&'a str> {
    let value = match line.strip_prefix(long) {
        Some(rest) if rest.starts_with(['=', ' ']) => &rest[1..],
        Some(_) => return None,
        None => line.strip_prefix(short)?,
    };
    let value = value.trim();
    (!value.is_empty()).then_some(value)
}

/// A line with a local package given an absolute path.
fn anchored(line: &str, base: &Path) -> String {
    let (package, rest) = line.split_once(" ;").map_or((line, String::new()), |(package, marker)| (package, format!(" ;{marker}")));
    let is_local = package.starts_with("./") || package.starts_with("../") || package == "." || package.starts_with(".[");
    if is_local { format!("{}{rest}", base.join(package).display()) } else { line.to_owned() }
}

/// A line without comment and surrounding space; None if nothing is left.
fn clean(line: &str) -> Option<String> {
    // As pip: a comment begins a line or follows a space, so that `#egg=` in an address stays.
    let line = match line.trim_start() {
        l if l.starts_with('#') => "",
        l => l.find(" #").or_else(|| l.find("\t#")).map_or(l, |at| &l[..at]),
    };
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

/// Lines that mean something, in order. Empty: nothing is to be installed.
pub fn normalize(lines: &[String]) -> Vec<String> {
    lines.iter().filter_map(|line| clean(line)).collect()
}

/// Adds what `lines` stand for: the lines, and the state of the local files that they name.
pub fn identify(lines: &[String], identity: &mut Identity) {
    identity.texts(lines);
    for line in lines {
        let path = option(line, &["-c", "--constraint"]).unwrap_or(line);
        let path = path.split(['[', ';']).next().unwrap_or(path).trim();
        let path = Path::new(path.strip_prefix("file://").unwrap_or(path));
        if path.is_absolute() {
            stamp(path, identity, 0);
        }
    }
}

/// Local packages change under the same name: names, sizes and times of their files say so, without reading them all.
fn stamp(path: &Path, identity: &mut Identity, depth: usize) {
    let Ok(found) = fs::metadata(path) else { return };
    if found.is_dir() && depth < MAX_DEPTH {
        let mut entries: Vec<PathBuf> = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        // What building and importing leave behind must not make a package look changed.
        let left_behind = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with('.') || name == "__pycache__" || name == "build" || name.ends_with(".egg-info")
        };
        entries.iter().filter(|entry| !left_behind(entry)).for_each(|entry| stamp(entry, identity, depth + 1));
    } else if found.is_file() {
        identity.path(path);
        identity.bytes(&found.len().to_le_bytes()).bytes(&found.mtime().to_le_bytes()).bytes(&found.mtime_nsec().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_lines_that_stand_alone() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        fs::create_dir(base.join("more")).unwrap();
        fs::write(base.join("more/other.txt"), "./local[x] ; python_version > '3'\n").unwrap();
        let text =
            "# comment\n\nsix == 1.16.0   # why\n-r more/other.txt\n--constraint=c.txt\n-e .\nnumpy>=1, \\\n  <3\ngit+https://x/y#egg=y\n";
        fs::write(base.join("r.txt"), text).unwrap();
        let expected = [
            "six == 1.16.0".to_owned(),
            format!("{}/more/./local[x] ; python_version > '3'", base.display()),
            format!("-c {}/c.txt", base.display()),
            format!("{}/.", base.display()),
            "numpy>=1, <3".to_owned(),
            "git+https://x/y#egg=y".to_owned(),
        ];
        assert_eq!(read_requirements(&base.join("r.txt")).unwrap(), expected);
    }

    #[test]
    fn missing_and_circular_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.txt");
        assert!(read_requirements(&path).unwrap_err().to_string().contains("r.txt"));
        fs::write(&path, "-r r.txt\n").unwrap();
        assert!(read_requirements(&path).unwrap_err().to_string().contains("lead back to itself"));
    }

    #[test]
    fn a_changed_local_package_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let id = |lines: &[String]| {
            let mut identity = Identity::new("test");
            identify(lines, &mut identity);
            identity.finish()
        };
        let lines = vec![format!("{}[extra]", folder.path().display())];
        let before = id(&lines);
        fs::create_dir(folder.path().join("__pycache__")).unwrap();
        fs::write(folder.path().join("__pycache__/x.pyc"), "x").unwrap();
        assert_eq!(id(&lines), before);
        fs::write(folder.path().join("setup.py"), "x").unwrap();
        assert_ne!(id(&lines), before);
    }

    #[test]
    fn nothing_is_left_of_comments() {
        assert!(normalize(&["# x".into(), "  ".into()]).is_empty());
        assert_eq!(normalize(&[" six  ; python_version>'3' ".into()]), ["six ; python_version>'3'"]);
    }
}
