//! The calls into Python: describe, prepare, and one per batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, SchemaRef};
use pillion_wire::error::Code;
use pillion_wire::frame::{Frame, FrameLimits};
use pillion_wire::ipc::{Decoder, Encoder, schema_from_ipc, schema_to_ipc};
use pillion_wire::proto;
use proto::worker_data::Message;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::Broken;
use super::failure;
use super::logs::{Queue, Running};
use super::message;
use super::plans::{Plan, Plans};
use crate::batch::Batch;
use crate::process;
use crate::schema::{Columns, schema_of};

/// Runs what the sidecar asks for, on the Python thread.
pub struct Executor<'a> {
    runtime: &'a Py<PyAny>,
    queue: &'a Queue,
    plans: Plans,
    limits: FrameLimits,
    /// A function may fork; its child must not answer for this process.
    pid: rustix::process::Pid,
}

/// A result and where the time went.
pub struct Executed {
    /// The result, or why there is none.
    pub outcome: Result<Frame, Box<proto::Error>>,
    /// Inside user code, in nanoseconds.
    pub user_ns: u64,
    /// In conversions and the calls around user code, in nanoseconds.
    pub convert_ns: u64,
}

impl<'a> Executor<'a> {
    /// An executor of results within `limits`.
    pub fn new(runtime: &'a Py<PyAny>, queue: &'a Queue, limits: FrameLimits) -> Self {
        Self { runtime, queue, plans: Plans::default(), limits, pid: rustix::process::getpid() }
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
    pub fn describe(&self, request: proto::DescribeFunction) -> Message {
        self.python(|runtime| {
            let py = runtime.py();
            let described = message::function(py, request.function)
                .and_then(|function| runtime.call_method1(intern!(py, "describe"), (function,)))
                .and_then(|described| message::description(&described));
            match described {
                Ok(described) => Message::Described(described),
                Err(raised) => Message::Failed(*failure::of_exception(runtime, &raised)),
            }
        })
    }

    /// Loads the functions of a plan and keeps it, in place of an earlier one of this id. If that fails the failure is kept: it is the
    /// answer to the batches of this plan.
    pub fn prepare(&mut self, id: u64, request: proto::Prepare) -> Message {
        let (entry, answer) = match self.load(request) {
            Ok((plan, functions)) => {
                let output_schema = schema_to_ipc(&plan.output).into();
                (Ok(plan), Message::Prepared(proto::Prepared { output_schema, functions }))
            }
            Err(error) => (Err(error.clone()), Message::Failed(*error)),
        };
        // An earlier plan holds a Python object; attached, so that it goes at once.
        Python::attach(|_| drop(self.plans.insert(id, entry)));
        answer
    }

    fn load(&self, request: proto::Prepare) -> Result<(Plan, Vec<proto::FunctionDescription>), Box<proto::Error>> {
        let input = schema_from_ipc(&request.input_schema)
            .map_err(|error| failure::error(Code::ProtocolViolation, format!("the input schema is damaged: {error}")))?;
        self.queue.set_running(Running { session: request.session_id.as_str().into(), ..Running::default() });
        let prepared = self.python(|runtime| prepare(runtime, request, &input).map_err(|raised| failure::of_exception(runtime, &raised)));
        self.queue.set_running(Running::default());
        prepared
    }

    /// Forgets a plan, or why there is none; its functions stay loaded.
    pub fn release(&mut self, id: u64) {
        // Dropping it drops a Python object; attached, so that it goes at once.
        Python::attach(|_| drop(self.plans.remove(&id)));
    }

    /// Executes a batch. One that cannot be decoded, or whose plan could not be prepared, fails alone.
    ///
    /// # Errors
    /// [`Broken`] if the frame is of no plan: the sidecar and this worker do not understand each other.
    pub fn execute(&mut self, id: u64, frame: &Frame) -> Result<Executed, Broken> {
        let began = Instant::now();
        let runtime = self.runtime;
        let (queue, pid, limits) = (self.queue, self.pid, self.limits);
        let failed = |error| Executed { outcome: Err(error), user_ns: 0, convert_ns: nanoseconds(began.elapsed()) };
        let plan = match self.plans.get_mut(&id) {
            Some(Ok(plan)) => plan,
            Some(Err(error)) => return Ok(failed(error.clone())),
            None => return Err(Broken(format!("a batch arrived for plan {id}, which was not prepared"))),
        };
        // In place: the sidecar is whom this process serves, and nothing can write to a slot while it is lent.
        let input = match plan.decoder.decode_in_place(frame) {
            Ok(input) => input,
            Err(error) => {
                let broken = Broken::new("the batch cannot be decoded", error);
                return Ok(failed(failure::error(Code::ProtocolViolation, broken.to_string())));
            }
        };
        queue.set_running(plan.running.clone());
        let called = Python::attach(|py| {
            let called = call(py, &plan.call, input);
            if rustix::process::getpid() != pid {
                process::exit_now(0);
            }
            called.map_err(|raised| failure::of_exception(runtime.bind(py), &raised))
        });
        queue.set_running(Running::default());
        let (outcome, user_ns) = match called {
            Ok((output, user_ns)) => (encode(plan, &output).and_then(|frame| check_size(frame, limits)), user_ns),
            Err(error) => (Err(error), 0),
        };
        let convert_ns = nanoseconds(began.elapsed()).saturating_sub(user_ns);
        Ok(Executed { outcome, user_ns, convert_ns })
    }

    /// Drops all plans.
    pub fn clear(&mut self) {
        Python::attach(|_| self.plans.clear());
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn prepare(runtime: &Bound<'_, PyAny>, request: proto::Prepare, input: &SchemaRef) -> PyResult<(Plan, Vec<proto::FunctionDescription>)> {
    let py = runtime.py();
    let session = request.session_id.clone();
    let prepared = runtime.call_method1(intern!(py, "prepare"), (message::plan(py, request, input)?,))?;
    let functions: Vec<Bound<'_, PyAny>> = prepared.getattr(intern!(py, "functions"))?.extract()?;
    let functions = functions.iter().map(message::description).collect::<PyResult<Vec<_>>>()?;
    let output = columns(&prepared.getattr(intern!(py, "output"))?)?;
    let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let unsupported = |error: ArrowError| pyo3::exceptions::PyTypeError::new_err(error.to_string());
    let plan = Plan::new(
        prepared.getattr(intern!(py, "call"))?.unbind(),
        Decoder::new(input).map_err(unsupported)?,
        Encoder::new(Arc::new(schema_of(&output))).map_err(unsupported)?,
        &session,
        &names.join(", "),
    );
    Ok((plan, functions))
}

/// Names and types, as Python gives them.
fn columns(list: &Bound<'_, PyAny>) -> PyResult<Columns> {
    let list: Vec<(String, PyRef<'_, crate::datatype::Type>)> = list.extract()?;
    Ok(list.into_iter().map(|(name, column)| (name, (*column).clone())).collect())
}

/// One call with one batch: the output, and the nanoseconds in user code.
fn call(py: Python<'_>, plan: &Py<PyAny>, input: RecordBatch) -> PyResult<(RecordBatch, u64)> {
    let input = Bound::new(py, Batch::new(input))?;
    let answer = plan.bind(py).call1((input,))?.cast_into::<PyTuple>()?;
    let output = answer.get_borrowed_item(0)?.cast::<Batch>()?.get().record_batch().clone();
    Ok((output, answer.get_borrowed_item(1)?.extract()?))
}

/// Encodes the output in the schema that was announced.
fn encode(plan: &mut Plan, output: &RecordBatch) -> Result<Frame, Box<proto::Error>> {
    let options = RecordBatchOptions::new().with_row_count(Some(output.num_rows()));
    RecordBatch::try_new_with_options(plan.output.clone(), output.columns().to_vec(), &options)
        .and_then(|output| plan.encoder.encode(&output))
        .map_err(|error| failure::error(Code::ResultColumns, format!("the result does not have the announced columns: {error}")))
}

/// Checks the size before anything is sent: an oversized message would end the stream with all that is in flight.
fn check_size(frame: Frame, limits: FrameLimits) -> Result<Frame, Box<proto::Error>> {
    let (what, value, limit) = if frame.rows > limits.rows {
        ("rows", frame.rows, limits.rows)
    } else if frame.bytes() > limits.bytes {
        ("bytes", frame.bytes(), limits.bytes)
    } else {
        return Ok(frame);
    };
    let mut error = failure::error(Code::BatchTooLarge, format!("the result of {value} {what} is above the limit of {limit}"));
    error.hint = String::from("send smaller batches, or return less for each");
    Err(error)
}
