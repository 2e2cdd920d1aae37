//! `pillion --mode thread`: one binary, whatever Python.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use cli::Place;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// The versions that can be asked for, and whether each has a library to load.
fn versions() -> Vec<(String, bool)> {
    const ASK: &str = "import os, sysconfig; v = sysconfig.get_config_var; \
        print(any(os.path.isfile(os.path.join(d or '', v('INSTSONAME') or '')) for d in (v('LIBDIR'), os.path.join(v('LIBDIR') or '', v('MULTIARCH') or ''))) \
        and '.so' in (v('INSTSONAME') or ''))";
    let place = Place::new();
    let mut found = Vec::new();
    for version in ["3.10", "3.11", "3.12", "3.13", "3.14"] {
        place.write("in.csv", "x\n1\n");
        // In process mode any will do; it says where it is.
        place.write("which.py", "import sys\ndef which(x: int) -> str:\n    return sys.executable\n");
        let ran = place.run(&format!("run which.py:which --python {version} --input in.csv --output which.csv"));
        if ran.status != Some(0) {
            continue;
        }
        let python = place.read("which.csv").trim().rsplit(',').next().unwrap().to_owned();
        let answer = Command::new(python).args(["-I", "-c", ASK]).stderr(Stdio::null()).output().unwrap();
        found.push((version.to_owned(), String::from_utf8_lossy(&answer.stdout).trim() == "True"));
    }
    found
}

#[test]
fn one_binary_runs_every_version() {
    let found = versions();
    let mut ran = BTreeSet::new();
    for (version, loadable) in &found {
        let place = Place::new();
        place.write("in.csv", "x\n1\n2\n");
        place.write("t.py", "import os, sys\ndef t(x: int) -> str:\n    return '%d.%d of %d' % (*sys.version_info[:2], os.getppid())\n");
        let line = format!("run t.py:t --mode thread --python {version} --input in.csv --output out.csv");
        if !loadable {
            eprintln!("SKIPPED: Python {version} has no shared library here");
            place.fails(&line, 1, &["cannot be loaded for thread mode", "libpython"]);
            continue;
        }
        place.ok(&line);
        // The function's parent is ours: it ran in the command's own process.
        let me = std::process::id();
        assert_eq!(place.read("out.csv"), format!("x,t\n1,{version} of {me}\n2,{version} of {me}\n"));
        ran.insert(version);
    }
    assert!(ran.len() >= 2 || found.len() < 2, "of {found:?} only {ran:?} could be loaded");
}

#[test]
fn results_on_standard_output_stay_clean() {
    let place = Place::new();
    place.write("in.csv", "x\n1\n");
    place.write("p.py", "def p(x: int) -> int:\n    print('printed by the function', flush=True)\n    return x\n");
    if place.run("check p.py:p --mode thread").status != Some(0) {
        eprintln!("SKIPPED: the default Python has no shared library here");
        return;
    }
    let output = place.command("run p.py:p --mode thread --input in.csv --output -").output().unwrap();
    assert!(output.status.success());
    assert!(!output.stdout.windows(7).any(|part| part == b"printed"), "what a function prints is among the results");
    assert!(String::from_utf8_lossy(&output.stderr).contains("printed by the function"));
}

#[test]
fn what_threads_cannot_give_is_said() {
    let place = Place::new();
    place.write("in.csv", "x\n1\n");
    place.fails("run f.py:double --mode thread --deadline 1s --input in.csv --output out.csv", 1, &["no deadline", "process mode"]);
    place.write("two.toml", "[environments.a]\nmode = \"thread\"\n[environments.b]\nmode = \"thread\"\n");
    place.fails("run f.py:double --config two.toml --input in.csv --output out.csv", 2, &["`a` and `b`", "one interpreter"]);
    place.write("limit.toml", "[pool]\nmax_memory = \"1GiB\"\n[environments.a]\nmode = \"thread\"\n");
    place.fails("run f.py:double --config limit.toml --input in.csv --output out.csv", 2, &["pool.max_memory", "limit.toml"]);
    // The same by flag.
    place.write("memory.toml", "[pool]\nmax_memory = \"1GiB\"\n");
    for command in ["run f.py:double --input in.csv --output out.csv", "check f.py:double", "bench f.py:double --input in.csv"] {
        place.fails(&format!("{command} --mode thread --config memory.toml"), 2, &["pool.max_memory", "process mode"]);
    }
}
