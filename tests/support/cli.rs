//! For the suites that run the program as a person does: a folder of their own, the binary, what it printed.
#![allow(dead_code, reason = "each suite uses a part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Functions that need no package, for the command line.
pub const FUNCTIONS: &str = r#"
import os
import time

from pillion import Row, map_function, udf


@udf(result_type="bigint")
def double(x):
    return None if x is None else 2 * x


@udf(result_type="bigint")
def add(a, b=0):
    return a + b


@udf(result_type="bigint")
def total(*values):
    return sum(values)


@udf
def is_even(x: int) -> bool:
    return x % 2 == 0


@map_function(result_type={"x": "bigint", "copy": "int"})
def twice(row):
    yield Row(x=row.x, copy=1)
    yield Row(x=row.x, copy=2)


@map_function()
def same(row):
    return row


@udf(result_type="bigint")
def raise_at_15000(x):
    if x == 15000:
        raise ValueError("fifteen thousand is too much")
    return x


@udf(result_type="bigint")
def wrong_type(x):
    return "text"


@udf(result_type="bigint not null")
def wrong_null(x):
    return None


@udf(result_type="bigint")
def sleep(x):
    time.sleep(3600)


@udf(result_type="bigint")
def die(x):
    os._exit(3)


NO_FUNCTION = 1
"#;

/// A folder with `f.py` in which the program runs.
pub struct Place(TempDir);

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }
}

impl Place {
    pub fn new() -> Place {
        let place = Place(TempDir::new().unwrap());
        place.write("f.py", FUNCTIONS);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The files there are, but for what was written by hand or by Python.
    pub fn outputs(&self, inputs: &[&str]) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter(|name| !inputs.contains(&name.as_str()) && !["f.py", "__pycache__"].contains(&name.as_str())).collect();
        names.sort();
        names
    }

    /// A column `x` of the numbers below `rows`, as CSV.
    pub fn numbers(&self, name: &str, rows: usize) {
        let lines: Vec<String> = (0..rows).map(|x| x.to_string()).collect();
        self.write(name, format!("x\n{}\n", lines.join("\n")));
    }

    /// The program with these arguments (split at spaces), in this folder, untouched by the settings of whoever runs the tests.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PILLION_")) {
                command.env_remove(name);
            }
        }
        command.env("PILLION_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        let output = self.command(line).output().unwrap();
        Ran { status: output.status.code(), out: output.stdout, err: String::from_utf8(output.stderr).unwrap() }
    }

    /// Runs what must succeed.
    pub fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.status, Some(0), "`pillion {line}` failed: {}", ran.err);
        ran
    }

    /// Runs what must fail with `status`, an error line, each of `parts` in what it says, and no output file.
    pub fn fails(&self, line: &str, status: i32, parts: &[&str]) {
        self.fails_in_parts(line, status, parts);
        assert!(!self.path("out.csv").is_file(), "`pillion {line}` left an output");
    }

    /// As [`Place::fails`], where an earlier run may have left an output in parts.
    pub fn fails_in_parts(&self, line: &str, status: i32, parts: &[&str]) {
        let ran = self.run(line);
        assert_eq!(ran.status, Some(status), "`pillion {line}`: {}", ran.err);
        assert!(ran.err.lines().any(|line| line.starts_with("error: ")), "`pillion {line}` says no error: {}", ran.err);
        for part in parts {
            assert!(ran.err.contains(part), "`pillion {line}` does not say `{part}`: {}", ran.err);
        }
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        let left: Vec<_> = self.outputs(&[]).into_iter().filter(|name| name.ends_with(".part")).collect();
        assert!(left.is_empty(), "`pillion {line}` left {left:?}");
    }

    /// A sidecar that listens in this folder, until it is dropped.
    pub fn serve(&self, more: &str) -> Sidecar {
        let listen = format!("unix:{}", self.path("pillion.sock").display());
        let mut command = self.command(&format!("serve --log warn --listen {listen} {more}"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let endpoint = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("the sidecar says {line:?}")).to_owned();
        Sidecar { process, endpoint }
    }
}

pub struct Sidecar {
    pub process: Child,
    pub endpoint: String,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a function of the repository's examples is.
pub fn example(name: &str) -> String {
    format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Flags for an environment with pandas: the interpreter that `PILLION_TEST_PYTHON` names, else one that is built.
pub fn pandas() -> String {
    match std::env::var("PILLION_TEST_PYTHON") {
        Ok(python) if !python.is_empty() => format!("--python {python}"),
        _ => format!("--requirements {}", example("requirements-pandas.txt")),
    }
}
