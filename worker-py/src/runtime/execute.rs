//! The calls into Python: describe, prepare, and one per batch. The same for a worker process, whose batches are frames (`frames`), and for thread
//! mode, whose batches cross as pointers (`table`).

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use pillion_wire::bundle::Layout;
use pillion_wire::error::Code;
use pillion_wire::ipc::{schema_from_ipc, schema_to_ipc};
use pillion_wire::proto;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::failure;
use super::logs::{Queue, Running};
use super::message;
use super::metrics::Metrics;
use super::plans::{Plan, Plans};
use crate::batch::Batch;
use crate::bundle;
use crate::fetch::{Fetch, Gate, Source};
use crate::process;
use crate::schema::{Columns, schema_of};

/// Why something failed, for the host.
pub type Failure = Box<proto::Error>;

/// One worker's functions and plans. Its calls may come on any thread, one at a time.
pub struct Executor {
    runtime: Py<PyAny>,
    queue: Arc<Queue>,
    /// What log records say whose they are; empty in a process of its own.
    worker: Arc<str>,
    plans: Plans,
    /// A function may fork; its child must not answer for this process.
    pid: rustix::process::Pid,
}

/// What a batch became, and the nanoseconds inside user code.
pub struct Executed {
    /// The result, or why there is none.
    pub outcome: Result<RecordBatch, Failure>,
    /// Inside user code, in nanoseconds.
    pub user_ns: u64,
    /// Of a keyed plan: waiting for state that the function asked for, in nanoseconds.
    pub waited_ns: u64,
    /// What the functions' metrics gained. For a host only together with a result.
    pub metrics: Vec<proto::MetricDelta>,
}

impl Executor {
    /// An executor that calls `runtime`, a `pillion._runtime.Runtime`.
    pub fn new(runtime: Py<PyAny>, queue: Arc<Queue>, worker: &str) -> Self {
        Self { runtime, queue, worker: Arc::from(worker), plans: Plans::default(), pid: rustix::process::getpid() }
    }

    /// Calls Python. A child that a function forked, and that came back here, ends at once.
    fn python<T>(&self, call: impl FnOnce(&Bound<'_, PyAny>) -> T) -> T {
        Python::attach(|py| {
            let result = call(self.runtime.bind(py));
            if rustix::process::getpid() != self.pid {
                process::exit_now(0);
            }
            result
        })
    }

    /// Loads and describes a function.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn describe(&self, function: Option<proto::FunctionSpec>) -> Result<proto::FunctionDescription, Failure> {
        self.python(|runtime| {
            let py = runtime.py();
            message::function(py, function)
                .and_then(|function| runtime.call_method1(intern!(py, "describe"), (function,)))
                .and_then(|described| message::description(&described))
                .map_err(|raised| failure::of_exception(runtime, &raised))
        })
    }

    /// Loads the functions of a plan and keeps it, in place of an earlier one of this id. If that fails the failure is kept: it is the
    /// answer to the batches of this plan.
    ///
    /// # Errors
    /// Why the plan cannot be executed.
    pub fn prepare(&mut self, id: u64, request: proto::Prepare) -> Result<proto::Prepared, Failure> {
        match self.load(request) {
            Ok((plan, functions)) => {
                let output_schema = plan.announced.clone().into();
                self.keep(id, Ok(plan));
                Ok(proto::Prepared { output_schema, functions })
            }
            Err(error) => {
                self.keep(id, Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Keeps what a plan has become.
    pub fn keep(&mut self, id: u64, entry: Result<Plan, Failure>) {
        // An earlier plan holds a Python object; attached, so that it goes at once.
        Python::attach(|_| drop(self.plans.insert(id, entry)));
    }

    /// A plan, or why there is none.
    pub fn plan(&self, id: u64) -> Option<&Result<Plan, Failure>> {
        self.plans.get(&id)
    }

    fn load(&self, request: proto::Prepare) -> Result<(Plan, Vec<proto::FunctionDescription>), Failure> {
        let input = schema_from_ipc(&request.input_schema)
            .map_err(|error| failure::error(Code::ProtocolViolation, format!("the input schema is damaged: {error}")))?;
        let session = request.session_id.as_str().into();
        self.queue.set_running(Running { worker: self.worker.clone(), session, ..Running::default() });
        let prepared = self.python(|runtime| {
            prepare(runtime, request, input, self.worker.clone()).map_err(|raised| failure::of_exception(runtime, &raised))
        });
        self.queue.set_running(Running::default());
        prepared
    }

    /// Forgets a plan, or why there is none; its functions stay loaded.
    pub fn release(&mut self, id: u64) {
        // Dropping it drops a Python object; attached, so that it goes at once.
        Python::attach(|_| drop(self.plans.remove(&id)));
    }

    /// Executes a batch of the plan's input schema; one whose plan could not be prepared fails with the reason. The function of a keyed plan may ask `source` for state.
    pub fn execute(&self, id: u64, input: RecordBatch, source: Option<Box<dyn Source>>) -> Executed {
        let failed = |error, waited_ns| Executed { outcome: Err(error), user_ns: 0, waited_ns, metrics: Vec::new() };
        let plan = match self.plans.get(&id) {
            Some(Ok(plan)) => plan,
            Some(Err(error)) => return failed(error.clone(), 0),
            None => {
                return failed(
                    failure::error(Code::ProtocolViolation, format!("a batch arrived for plan {id}, which was not prepared")),
                    0,
                );
            }
        };
        self.queue.set_running(plan.running.clone());
        let gate = plan.layout.as_ref().map(|layout| Gate::new(layout.clone(), source));
        let called = self.python(|runtime| {
            let py = runtime.py();
            let called = call(py, plan, input, gate.as_ref());
            let (waited_ns, unanswered) = gate.as_ref().map_or((0, None), |gate| py.detach(|| gate.close()));
            let outcome = match (called, unanswered) {
                (Ok((output, user_ns)), None) => Ok((output, user_ns, plan.metrics.take(py))),
                (called, unanswered) => {
                    plan.metrics.drop(py);
                    // What could not be had is why, whatever the function has made of it.
                    Err(unanswered.unwrap_or_else(|| match called {
                        Err(raised) => failure::of_exception(runtime, &raised),
                        Ok(_) => failure::error(Code::InvariantBroken, "a bundle failed without a reason"),
                    }))
                }
            };
            (outcome, waited_ns)
        });
        self.queue.set_running(Running::default());
        match called {
            (Ok((output, user_ns, metrics)), waited_ns) => {
                Executed { outcome: announced(plan, &output), user_ns: user_ns.saturating_sub(waited_ns), waited_ns, metrics }
            }
            (Err(error), waited_ns) => failed(error, waited_ns),
        }
    }

    /// Drops all plans.
    pub fn clear(&mut self) {
        Python::attach(|_| self.plans.clear());
    }

    /// Drops all plans and closes the functions.
    ///
    /// # Errors
    /// What the runtime raised; what user code raises is logged.
    pub fn close(&mut self) -> PyResult<()> {
        self.clear();
        self.queue.set_running(Running { worker: self.worker.clone(), ..Running::default() });
        let closed = Python::attach(|py| self.runtime.bind(py).call_method0(intern!(py, "close")).map(drop));
        self.queue.set_running(Running::default());
        closed
    }
}

fn prepare(
    runtime: &Bound<'_, PyAny>,
    request: proto::Prepare,
    input: SchemaRef,
    worker: Arc<str>,
) -> PyResult<(Plan, Vec<proto::FunctionDescription>)> {
    let py = runtime.py();
    let (session, keyed) = (request.session_id.clone(), request.keyed.clone());
    let prepared = runtime.call_method1(intern!(py, "prepare"), (message::plan(py, request, &input)?,))?;
    let functions: Vec<Bound<'_, PyAny>> = prepared.getattr(intern!(py, "functions"))?.extract()?;
    let functions = functions.iter().map(message::description).collect::<PyResult<Vec<_>>>()?;
    let output = columns(&prepared.getattr(intern!(py, "output"))?)?;
    let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let output = Arc::new(schema_of(&output));
    let announced = schema_to_ipc(&output);
    let layout = match (&keyed, functions.first()) {
        (Some(keyed), Some(function)) => {
            let layout = Layout::new(keyed, &output, function);
            Some(Arc::new(layout.map_err(|error| PyValueError::new_err(error.to_string()))?))
        }
        _ => None,
    };
    let (input, output) = match &layout {
        Some(layout) => (layout.bundle.clone(), layout.effects.clone()),
        None => (input, output),
    };
    let plan = Plan {
        call: prepared.getattr(intern!(py, "call"))?.unbind(),
        input,
        output,
        announced,
        layout,
        running: Running { worker, session: session.into(), function: names.join(", ").into() },
        metrics: Metrics::of(&prepared)?,
    };
    Ok((plan, functions))
}

/// Names and types, as Python gives them.
fn columns(list: &Bound<'_, PyAny>) -> PyResult<Columns> {
    let list: Vec<(String, PyRef<'_, crate::datatype::Type>)> = list.extract()?;
    Ok(list.into_iter().map(|(name, column)| (name, (*column).clone())).collect())
}

/// One call with one batch: the output, and the nanoseconds in user code.
fn call(py: Python<'_>, plan: &Plan, input: RecordBatch, gate: Option<&Arc<Gate>>) -> PyResult<(RecordBatch, u64)> {
    if let (Some(layout), Some(gate)) = (&plan.layout, gate) {
        return bundle::call(py, &plan.call, layout, &input, Fetch(gate.clone()));
    }
    let input = Bound::new(py, Batch::new(input))?;
    let answer = plan.call.bind(py).call1((input,))?.cast_into::<PyTuple>()?;
    let output = answer.get_borrowed_item(0)?.cast::<Batch>()?.get().record_batch().clone();
    Ok((output, answer.get_borrowed_item(1)?.extract()?))
}

/// The output in the schema that was announced.
fn announced(plan: &Plan, output: &RecordBatch) -> Result<RecordBatch, Failure> {
    let options = RecordBatchOptions::new().with_row_count(Some(output.num_rows()));
    RecordBatch::try_new_with_options(plan.output.clone(), output.columns().to_vec(), &options).map_err(|error| unannounced(&error))
}

/// A result that is not what was announced.
pub fn unannounced(error: &arrow_schema::ArrowError) -> Failure {
    failure::error(Code::ResultColumns, format!("the result does not have the announced columns: {error}"))
}
