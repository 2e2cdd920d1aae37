//! A package of the fork server and a test entry, and an endpoint that its workers talk to. Also used by `tests/process_leaks.rs`.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};

/// The entry of the workers: its endpoint is that of the fixture, its token says what to do (see `fixture_entry.py`).
pub const ENTRY: &str = "fixture_entry:serve";

pub struct Fixture {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

/// What a worker says.
pub struct Voice(Lines<BufReader<UnixStream>>);

impl Fixture {
    pub fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package/pillion");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("__init__.py"), "").unwrap();
        for name in ["fork_server.py", "_process.py"] {
            std::fs::copy(root.join("worker-py/python/pillion").join(name), package.join(name)).unwrap();
        }
        let fixture = Self { listener: UnixListener::bind(folder.path().join("endpoint")).unwrap(), folder };
        fixture.module("fixture_entry", include_str!("fixture_entry.py"));
        fixture
    }

    /// Adds a module that workers and fork servers can import.
    pub fn module(&self, name: &str, text: &str) {
        std::fs::write(self.package().join(format!("{name}.py")), text).unwrap();
    }

    pub fn package(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    pub fn endpoint(&self) -> String {
        self.folder.path().join("endpoint").to_string_lossy().into_owned()
    }

    /// The next worker that connects, and its introduction.
    pub async fn accept(&self) -> (Voice, serde_json::Value) {
        let mut voice = Voice(BufReader::new(self.listener.accept().await.unwrap().0).lines());
        let introduction = voice.next().await;
        (voice, introduction)
    }
}

impl Voice {
    pub async fn next(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.0.next_line().await.unwrap().expect("the worker says something")).unwrap()
    }
}

/// Whether there is a process of this id, be it a zombie.
pub fn exists(pid: i64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
