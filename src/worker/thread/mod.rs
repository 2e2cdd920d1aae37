//! Thread mode: workers are threads of an interpreter that is loaded into this process (DESIGN D4).
//!
//! [`ThreadFactory`] makes them. The interpreter is that of the environment, found by asking it (`facts`) and loaded at run time (`libpython`); one process has
//! room for one (`interpreter`). It runs the same runtime as a worker process, called through a table of C functions (`table`). Each worker has a thread of its own
//! (`worker`, `queue`), or is called by its caller's.

mod facts;
mod interpreter;
#[expect(unsafe_code, reason = "functions of a library that is loaded at run time")]
mod libpython;
mod queue;
mod runner;
mod stacks;
#[expect(unsafe_code, reason = "functions of a runtime that is compiled apart")]
mod table;
mod worker;

use crate::{
    environment::Environment,
    error::{Code, Error, Result},
    worker::{BoxFuture, Worker, WorkerFactory},
};
use interpreter::{Interpreter, Key};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{task::spawn_blocking, time::timeout};

pub use worker::ThreadSettings;

/// Makes the workers of one environment.
pub struct ThreadFactory {
    key: Key,
    settings: ThreadSettings,
    start_timeout: Duration,
    ids: Arc<AtomicU64>,
    /// Set with the first worker.
    interpreter: Arc<Mutex<Option<&'static Interpreter>>>,
}

impl ThreadFactory {
    /// A factory for an environment, which is loaded with the first worker. `ids` numbers the workers of the engine.
    pub fn new(environment: &Environment, settings: ThreadSettings, start_timeout: Duration, ids: Arc<AtomicU64>) -> Self {
        ThreadFactory { key: Key::of(environment), settings, start_timeout, ids, interpreter: Arc::default() }
    }

    async fn start(&self) -> Result<Box<dyn Worker>> {
        let (key, kept) = (self.key.clone(), self.interpreter.clone());
        let interpreter = blocking(move || {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            match *kept {
                Some(interpreter) => Ok(interpreter),
                None => Ok(*kept.insert(Interpreter::get(&key)?)),
            }
        });
        let interpreter = interpreter.await?;
        let id = format!("w-{}", self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(Box::new(worker::start(id, interpreter, self.settings).await?))
    }
}

impl WorkerFactory for ThreadFactory {
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Worker>>> {
        Box::pin(async {
            let late = || {
                let message = format!("a worker thread was not ready within {:?}", self.start_timeout);
                Error::new(Code::WorkerStartFailed, message)
                    .hint("another function may hold Python's global lock; `pool.start_timeout` bounds the start, preloads included")
            };
            timeout(self.start_timeout, self.start()).await.map_err(|_| late())?
        })
    }

    fn shares_process(&self) -> bool {
        true
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        let interpreter = self.interpreter.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            if let Some(interpreter) = interpreter {
                // A panic in there was reported where it happened.
                let _ = spawn_blocking(move || interpreter.leave()).await;
            }
        })
    }
}

/// Runs what may wait for the GIL off the async runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(Code::Cancelled, "the engine is shutting down").detail(error.to_string())))
}
