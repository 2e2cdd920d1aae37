//! State that a function asks for in the middle of its bundle: `Bundle.fetch` of Python, in front of whatever leads to the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use pillion_wire::bundle::Layout;
use pillion_wire::error::Code;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch::Batch;
use crate::bundle::{asked_of, column};
use crate::column::Column;
use crate::runtime::execute::Failure;
use crate::runtime::{failure, nanoseconds};

/// The way to the engine, for one bundle.
pub trait Source: Send {
    /// Asks, and waits for the answer. Called without the GIL.
    ///
    /// # Errors
    /// Why there is no answer.
    fn fetch(&mut self, asked: RecordBatch) -> Result<RecordBatch, Failure>;
}

/// Open while its bundle executes.
pub struct Gate {
    layout: Arc<Layout>,
    source: Mutex<Option<Box<dyn Source>>>,
    waited_ns: AtomicU64,
    failed: Mutex<Option<Failure>>,
    /// A function may fork; the connection is its parent's.
    pid: rustix::process::Pid,
}

impl Gate {
    /// A gate to `source`; without one there is nobody to ask.
    pub fn new(layout: Arc<Layout>, source: Option<Box<dyn Source>>) -> Arc<Self> {
        let pid = rustix::process::getpid();
        Arc::new(Self { layout, source: Mutex::new(source), waited_ns: AtomicU64::new(0), failed: Mutex::default(), pid })
    }

    /// Closes it, once the bundle is over or has failed. Gives the time that was waited for state, in nanoseconds, and why it could not be had: then the bundle fails,
    /// whatever became of it.
    pub fn close(&self) -> (u64, Option<Failure>) {
        // Waits for a thread that the function has left asking.
        drop(self.source.lock().unwrap_or_else(PoisonError::into_inner).take());
        (self.waited_ns.load(Ordering::Relaxed), self.failed.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    fn ask(&self, asked: RecordBatch) -> Result<RecordBatch, Failure> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = source.as_mut().filter(|_| rustix::process::getpid() == self.pid) else {
            return Err(failure::error(Code::StateWithoutKey, "state was asked for outside of the call that it belongs to"));
        };
        let began = Instant::now();
        let answer = open.fetch(asked);
        self.waited_ns.fetch_add(nanoseconds(began.elapsed()), Ordering::Relaxed);
        if let Err(failed) = &answer {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failed.clone());
        }
        answer
    }
}

/// `Bundle.fetch` of a worker.
#[pyclass(frozen, module = "pillion._native")]
pub struct Fetch(pub Arc<Gate>);

#[pymethods]
impl Fetch {
    /// What cells hold: for each cell and what is asked of it (`key`, `namespace`, and where they say something `sub` and `after`) a column aligned with that, and
    /// where something is not complete the column of what to ask next as `after`.
    fn __call__(&self, py: Python<'_>, wanted: Vec<(String, PyRef<'_, Batch>)>) -> PyResult<Vec<(Column, Option<Column>)>> {
        let layout = &self.0.layout;
        let mut asked: Vec<Option<RecordBatch>> = vec![None; layout.cells.len()];
        let mut order = Vec::with_capacity(wanted.len());
        for (name, batch) in wanted {
            let Some(at) = layout.cells.iter().position(|cell| cell.name == name) else {
                return Err(PyValueError::new_err(format!("the function has declared no cell `{name}`")));
            };
            let schema = Arc::new(Schema::new(layout.cells[at].fetch()));
            if asked[at].replace(asked_of(py, &name, batch.record_batch(), &schema)?).is_some() {
                return Err(PyValueError::new_err(format!("the cell `{name}` is asked twice")));
            }
            order.push(at);
        }
        let packed = layout.pack_fetch(asked.clone()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let answer = py.detach(|| self.0.ask(packed)).map_err(|error| to_python(py, &error))?;
        let mut found = layout.unpack_fetched(&answer, &asked).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        let found = order.into_iter().filter_map(|at| {
            let cell = &layout.cells[at].name;
            found[at].take().map(|found| (column(cell, found.values), found.next.map(|next| column("after", Arc::new(next)))))
        });
        Ok(found.collect())
    }
}

/// A failure as the exception that functions see.
fn to_python(py: Python<'_>, error: &Failure) -> PyErr {
    let raised = || {
        let texts = PyDict::new(py);
        texts.set_item(intern!(py, "hint"), &error.hint)?;
        texts.set_item(intern!(py, "detail"), &error.detail)?;
        let class = py.import(intern!(py, "pillion.errors"))?.getattr(intern!(py, "PillionError"))?;
        class.call((&error.code, &error.message), Some(&texts))
    };
    raised().map_or_else(|raised| raised, PyErr::from_value)
}
