//! These install a package made here, not one from an index: they need no network.

use std::process::Command as Process;
use std::sync::Arc;

use super::super::interpreter::Finder;
use super::*;

/// A folder with a package `tiny`, without dependencies. It is a wheel, so that pip needs no build tools from an index.
fn tiny(folder: &Path) -> String {
    let wheel = folder.join("tiny-1.0-py3-none-any.whl");
    let script = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    z.writestr("tiny.py", "answer = 42\n")
    z.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    z.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\ntiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/WHEEL,,\ntiny-1.0.dist-info/RECORD,,\n")
"#;
    assert!(Process::new("python3").args(["-c", script]).arg(&wheel).status().unwrap().success());
    wheel.to_str().unwrap().to_owned()
}

fn imports(python: &Path, module: &str) -> bool {
    Process::new(python).args(["-I", "-c", &format!("import {module}")]).stderr(Stdio::null()).status().unwrap().success()
}

async fn base() -> Interpreter {
    Finder::default().find(None).await.unwrap()
}

fn builder(cache: &Path) -> Builder<'_> {
    Builder { cache_dir: cache, deadline: Duration::from_secs(300) }
}

#[tokio::test]
async fn builds_once_and_uses_it_again() {
    let cache = tempfile::tempdir().unwrap();
    let (base, lines) = (base().await, vec![tiny(cache.path())]);
    let built = builder(cache.path()).ensure(&base, lines.clone()).await.unwrap();
    assert!(built.is_virtual() && imports(&built.executable, "tiny"));
    let marker = built.prefix.join(MARKER);
    let written = fs::metadata(&marker).unwrap().modified().unwrap();
    assert_eq!(builder(cache.path()).ensure(&base, lines.clone()).await.unwrap(), built);
    assert_eq!(fs::metadata(&marker).unwrap().modified().unwrap(), written);

    // A crash in the middle leaves a folder without marker: it is built anew, with nothing of the old one.
    fs::remove_file(&marker).unwrap();
    fs::write(built.prefix.join("half"), "").unwrap();
    assert_eq!(builder(cache.path()).ensure(&base, lines).await.unwrap(), built);
    assert!(marker.exists() && !built.prefix.join("half").exists() && imports(&built.executable, "tiny"));
}

#[tokio::test]
async fn a_bad_requirement_gives_pips_reason_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let base = base().await;
    let error = builder(cache.path()).ensure(&base, vec!["two words".into()]).await.unwrap_err();
    assert_eq!(error.code(), Code::RequirementsFailed);
    assert!(error.message().starts_with("the requirements cannot be installed: Invalid requirement: 'two words'"), "{error}");
    assert!(error.detail_text().unwrap().contains("Invalid requirement"), "{error:?}");

    let lines = vec!["--no-index".into(), "no-such-package-for-pillion==1".into()];
    let error = builder(cache.path()).ensure(&base, lines).await.unwrap_err();
    assert!(error.message().ends_with("No matching distribution found for no-such-package-for-pillion==1"), "{error}");
    let folders = fs::read_dir(cache.path().join("environments")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders, 0);
}

#[tokio::test]
async fn a_build_that_takes_too_long_or_is_given_up_leaves_nothing_usable() {
    let cache = tempfile::tempdir().unwrap();
    let (base, lines) = (base().await, vec![tiny(cache.path())]);
    let hasty = Builder { cache_dir: cache.path(), deadline: Duration::from_millis(300) };
    let error = hasty.ensure(&base, lines.clone()).await.unwrap_err();
    assert!(error.message().contains("were not installed within 300ms"), "{error}");
    // The abandoned step was killed with its lock, so the next build does not wait for it for long, and succeeds.
    let built = builder(cache.path()).ensure(&base, lines).await.unwrap();
    assert!(imports(&built.executable, "tiny"));
}

#[tokio::test]
async fn a_foreign_lock_is_waited_for() {
    let cache = tempfile::tempdir().unwrap();
    let (base, lines) = (base().await, vec![tiny(cache.path())]);
    let first = builder(cache.path()).ensure(&base, lines.clone()).await.unwrap();
    fs::remove_file(first.prefix.join(MARKER)).unwrap();
    let lock = File::open(first.prefix.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let waiting = Builder { cache_dir: cache.path(), deadline: Duration::from_millis(200) }.ensure(&base, lines.clone()).await;
    assert!(waiting.unwrap_err().message().contains("within 200ms"));
    drop(lock);
    builder(cache.path()).ensure(&base, lines).await.unwrap();
}

/// Not a test of its own: what the processes of `two_processes_build_one` run.
#[tokio::test]
async fn helper_that_builds_for_another_test() {
    let (Some(cache), Some(wheel)) = (std::env::var_os("PILLION_TEST_CACHE"), std::env::var("PILLION_TEST_WHEEL").ok()) else { return };
    let built = builder(Path::new(&cache)).ensure(&base().await, vec![wheel]).await.unwrap();
    assert!(imports(&built.executable, "tiny"));
}

fn helper(cache: &Path, wheel: &str) -> std::process::Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "environment::venv::tests::helper_that_builds_for_another_test"])
        .env("PILLION_TEST_CACHE", cache)
        .env("PILLION_TEST_WHEEL", wheel)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn two_processes_build_one() {
    let cache = tempfile::tempdir().unwrap();
    let wheel = tiny(cache.path());
    let mut both = [helper(cache.path(), &wheel), helper(cache.path(), &wheel)];
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    let folders = fs::read_dir(cache.path().join("environments")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders, 1);
}

#[test]
fn a_process_killed_in_the_middle_leaves_the_next_one_to_build() {
    let cache = tempfile::tempdir().unwrap();
    let wheel = tiny(cache.path());
    let mut doomed = helper(cache.path(), &wheel);
    // Until it is in the middle: the folder is there, the marker is not.
    let folder = loop {
        let entries = fs::read_dir(cache.path().join("environments")).into_iter().flatten().flatten();
        match entries.map(|entry| entry.path()).find(|path| path.is_dir()) {
            Some(folder) => break folder,
            None => assert!(doomed.try_wait().unwrap().is_none(), "it ended before it began"),
        }
        std::thread::yield_now();
    };
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    assert!(!folder.join(MARKER).exists());
    // Its `python -m venv` lives on, and holds the lock until it ends: the next process must wait for that, and then build anew.
    assert!(helper(cache.path(), &wheel).wait().unwrap().success());
    assert!(folder.join(MARKER).exists() && imports(&folder.join("bin/python"), "tiny"));
}

#[test]
fn the_verdict_is_what_pip_says_last() {
    let output = "x\nERROR: a\n  ERROR: b.\nERROR: c\nERROR: c\nERROR: d\nnoise";
    assert_eq!(reason(output), "b; c; d");
    assert_eq!(reason("nothing"), "pip failed");
}

#[tokio::test]
async fn sharing_one_environment_between_tasks_builds_it_once() {
    let cache = Arc::new(tempfile::tempdir().unwrap());
    let (base, wheel) = (base().await, tiny(cache.path()));
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let (cache, base, wheel) = (Arc::clone(&cache), base.clone(), wheel.clone());
            tokio::spawn(async move { builder(cache.path()).ensure(&base, vec![wheel]).await.unwrap() })
        })
        .collect();
    let mut built = Vec::new();
    for task in tasks {
        built.push(task.await.unwrap().executable);
    }
    assert!(built.iter().all(|python| *python == built[0]));
}
