//! The one interpreter of this process, whoever uses it.

use super::{
    facts::Facts,
    libpython::{self, Loaded},
    table::{Calls, Handle},
};
use crate::{
    environment::Environment,
    error::{Code, Error, Result},
    worker::log,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How long the stacks wait for the GIL before they are taken without.
const GIL_PATIENCE: Duration = Duration::from_millis(300);

/// How long exit handlers may take when the last engine of the process ends.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the log thread waits at a time.
const LOG_WAIT: Duration = Duration::from_secs(60);

/// Longest text of stacks, in bytes.
const STACKS_BYTES: u64 = 64 * 1024;

/// What makes two environments the same interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    python: PathBuf,
    package_dir: PathBuf,
    paths: Vec<PathBuf>,
    variables: BTreeMap<String, String>,
    preload: Vec<String>,
}

impl Key {
    /// Of an environment; its `files` are read by functions and may differ.
    pub fn of(environment: &Environment) -> Self {
        Key {
            python: environment.python.clone(),
            package_dir: environment.package_dir.clone(),
            paths: environment.paths.clone(),
            variables: environment.variables.clone(),
            preload: environment.preload.clone(),
        }
    }
}

/// A Python that is loaded into this process; it stays until the process ends.
pub struct Interpreter {
    key: Key,
    loaded: Loaded,
    users: AtomicUsize,
    /// To the thread that may wait for the GIL on behalf of those that must not.
    asides: OnceLock<mpsc::Sender<Aside>>,
}

enum Aside {
    Stacks(mpsc::Sender<String>),
    Interrupt(Arc<Handle>),
}

/// What this process has room for.
static PLACE: Mutex<Place> = Mutex::new(Place::Empty);

enum Place {
    Empty,
    Taken(&'static Interpreter),
    /// Python was started, and its set-up failed: it can be started no second time.
    Failed(Error),
}

fn place() -> MutexGuard<'static, Place> {
    PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interpreter {
    /// The interpreter of an environment; loads it if this process has none. Blocks while it does.
    ///
    /// # Errors
    /// [`Code::InterpreterTaken`] if this process runs another one; what [`libpython::load`] says.
    pub fn get(key: &Key) -> Result<&'static Interpreter> {
        let mut place = place();
        match &*place {
            Place::Taken(interpreter) if interpreter.key == *key => {
                interpreter.users.fetch_add(1, Ordering::SeqCst);
                return Ok(interpreter);
            }
            Place::Taken(interpreter) => return Err(taken(interpreter)),
            Place::Failed(error) => return Err(error.clone()),
            Place::Empty => {}
        }
        let facts = Facts::of(&key.python)?;
        let (tell, told) = mpsc::channel();
        let started = thread::Builder::new().name("pillion-python".into()).spawn({
            let key = key.clone();
            move || serve(key, &facts, &tell)
        });
        started.map_err(|error| {
            Error::new(Code::SystemRefused, "the thread of the interpreter cannot be started").detail(error.to_string())
        })?;
        match told.recv().unwrap_or_else(|_| Err(Error::new(Code::InvariantBroken, "the thread of the interpreter ended"))) {
            Ok(interpreter) => {
                *place = Place::Taken(interpreter);
                Ok(interpreter)
            }
            Err(error) => {
                // Refused before Python was started, another attempt may find things better.
                if !matches!(error.code(), Code::InterpreterNotLoadable | Code::InterpreterTaken) {
                    *place = Place::Failed(error.clone());
                }
                Err(error)
            }
        }
    }

    /// The runtime.
    pub fn calls(&self) -> Calls {
        self.loaded.calls
    }

    /// Gives the interpreter back. The last one runs the exit handlers, unless the interpreter is the host's own. Blocks meanwhile, for a few seconds at most.
    pub fn leave(&'static self) {
        if self.users.fetch_sub(1, Ordering::SeqCst) != 1 || self.loaded.joined {
            return;
        }
        let (done, waiting) = mpsc::channel();
        let left = thread::Builder::new().name("pillion-leave".into()).spawn(move || {
            if let Err(error) = self.calls().leave() {
                tracing::warn!("exit handlers of the interpreter failed: {error}");
            }
            // What the thread of the log has not come to; the process may end next.
            while let Ok(batch) = self.calls().logs(Duration::ZERO)
                && !batch.records.is_empty()
            {
                log::emit("", &batch);
            }
            // Nobody may wait any more.
            let _ = done.send(());
        });
        if left.is_ok() && waiting.recv_timeout(LEAVE_PATIENCE).is_err() {
            tracing::warn!("exit handlers of the interpreter did not end within {LEAVE_PATIENCE:?}, or a function holds its lock");
        }
    }

    /// The stacks of all threads; also while a function holds the GIL in native code, if this version of Python can show them then. Blocks for a moment.
    pub fn stacks(&'static self) -> Option<String> {
        let (tell, told) = mpsc::channel();
        self.aside(Aside::Stacks(tell));
        if let Ok(text) = told.recv_timeout(GIL_PATIENCE) {
            return Some(text);
        }
        // A file in memory, of which nobody has to read while it is written.
        let mut file = File::from(rustix::fs::memfd_create("pillion-stacks", rustix::fs::MemfdFlags::CLOEXEC).ok()?);
        self.loaded.dump(file.as_fd());
        file.rewind().ok()?;
        let mut text = Vec::new();
        file.take(STACKS_BYTES).read_to_end(&mut text).ok()?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }

    /// Raises an exception in the function that a worker runs, once the GIL comes free. Does not block.
    pub fn interrupt(&'static self, worker: Arc<Handle>) {
        self.aside(Aside::Interrupt(worker));
    }

    /// Has something done by a thread that may wait for the GIL.
    fn aside(&'static self, what: Aside) {
        let asides = self.asides.get_or_init(|| {
            let (asides, queue) = mpsc::channel();
            // Without the thread nothing is answered, which is what the askers are prepared for.
            let _ = thread::Builder::new().name("pillion-aside".into()).spawn(move || {
                for aside in queue {
                    match aside {
                        // Whoever asked may have given up.
                        Aside::Stacks(tell) => drop(tell.send(self.calls().stacks().unwrap_or_default())),
                        Aside::Interrupt(worker) => worker.interrupt(),
                    }
                }
            });
            asides
        });
        let _ = asides.send(what);
    }
}

fn taken(interpreter: &Interpreter) -> Error {
    let python = interpreter.key.python.display();
    Error::new(Code::InterpreterTaken, format!("this process runs another thread-mode environment already, with the interpreter `{python}`"))
        .hint("a process has room for one: run this environment in process mode, or give both the same interpreter, paths, variables and preloads")
}

/// The life of the thread that Python takes for its main one: starts Python, then hands on what functions log.
fn serve(key: Key, facts: &Facts, tell: &mpsc::Sender<Result<&'static Interpreter>>) {
    // Nobody reads the outcome only if the process ends.
    let interpreter = match libpython::load(&key.python.clone(), facts, &key.package_dir.clone(), |joined| settings(&key, joined)) {
        Ok(loaded) => Box::leak(Box::new(Interpreter { key, loaded, users: AtomicUsize::new(1), asides: OnceLock::new() })),
        Err(error) => return drop(tell.send(Err(error))),
    };
    let interpreter: &'static Interpreter = interpreter;
    let _ = tell.send(Ok(interpreter));
    loop {
        match interpreter.calls().logs(LOG_WAIT) {
            Ok(batch) => log::emit("", &batch),
            Err(error) => return tracing::error!("the log of functions in threads is lost: {error}"),
        }
    }
}

/// What `pillion.threads.start` takes.
fn settings(key: &Key, joined: bool) -> String {
    // They configure the engine and may hold secrets.
    let variables: BTreeMap<_, _> = key.variables.iter().filter(|(name, _)| !name.starts_with("PILLION_")).collect();
    let paths: Vec<_> = key.paths.iter().map(|path| path.to_string_lossy()).collect();
    serde_json::json!({ "paths": paths, "variables": variables, "preload": key.preload, "joined": joined }).to_string()
}
