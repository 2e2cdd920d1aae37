//! Thread mode: the runtime as a table of C functions (`pillion_wire::table`, which says what each promises), for an engine that has loaded this interpreter
//! into its own process.
//!
//! With `buffers` and `process` the only place of `unsafe`: pointers come in from the engine, which is compiled apart.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::ffi::{FFI_ArrowArray, from_ffi_and_data_type};
use arrow_array::{Array as _, RecordBatch, RecordBatchOptions, StructArray};
use arrow_schema::{DataType, SchemaRef};
use pillion_wire::bundle::Layout;
use pillion_wire::error::Code;
use pillion_wire::proto;
use pillion_wire::table::{Array, Bytes, CAPSULE, Cost, FAILED, Fetch, Lent, OK, Table, VERSION, Worker};
use prost::Message;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::buffers;
use crate::fetch::Source;
use crate::runtime::execute::{Executed, Executor, Failure};
use crate::runtime::logs::{self, Queue};
use crate::runtime::{failure, message, nanoseconds};

/// Python's half of this module.
const MODULE: &str = "pillion.threads";

static TABLE: Table = Table {
    version: VERSION,
    size: size_of::<Table>() as u32,
    free,
    environment,
    stacks,
    leave,
    logs: take_logs,
    create,
    destroy,
    describe,
    prepare,
    release,
    execute,
    interrupt,
};

/// The table, in a capsule. From now on log records wait for the engine, and results own their memory.
#[pyfunction]
pub fn table(py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
    buffers::keep_results_apart();
    logs::install(Some(queue().clone()));
    let address = std::ptr::NonNull::from_ref(&TABLE).cast();
    // SAFETY: the table is a static, and nobody writes to it.
    unsafe { PyCapsule::new_with_pointer(py, address, CAPSULE) }
}

/// Records of all workers of this process.
fn queue() -> &'static Arc<Queue> {
    static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();
    QUEUE.get_or_init(|| Arc::new(Queue::shared()))
}

/// What is behind a [`Worker`].
struct Inner {
    executor: Mutex<Executor>,
    /// Python's number of the thread that executes, or 0.
    thread: AtomicU64,
}

impl Inner {
    /// Runs a call of the worker on this thread.
    fn run<T>(&self, call: impl FnOnce(&mut Executor) -> T) -> T {
        keep_attached();
        let mut executor = self.executor.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: has no preconditions.
        self.thread.store(unsafe { ffi::PyThread_get_thread_ident() } as u64, Ordering::SeqCst);
        let result = call(&mut executor);
        self.thread.store(0, Ordering::SeqCst);
        result
    }
}

/// The thread state that a thread of the engine keeps until it ends, so that a call only has to take the GIL: making and destroying one costs more than a small
/// call, and a function's `threading.local` would be empty each time.
struct Attached {
    gil: ffi::PyGILState_STATE,
    state: *mut ffi::PyThreadState,
}

impl Attached {
    /// `None` if the thread has a state already, which is its owner's to keep.
    fn new() -> Option<Self> {
        // SAFETY: the interpreter is initialised, since it has loaded this extension. The thread has no state, so that it holds no GIL either; after the two
        // calls it has one and holds none.
        unsafe {
            if !ffi::PyGILState_GetThisThreadState().is_null() {
                return None;
            }
            let gil = ffi::PyGILState_Ensure();
            Some(Self { gil, state: ffi::PyEval_SaveThread() })
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // The main thread ends with the process, which must not wait for a function that holds the GIL.
        if rustix::thread::gettid() == rustix::process::getpid() {
            return;
        }
        // SAFETY: both came from `new` on this thread, and calls in between were balanced.
        unsafe {
            ffi::PyEval_RestoreThread(self.state);
            ffi::PyGILState_Release(self.gil);
        }
    }
}

fn keep_attached() {
    thread_local! {
        static ATTACHED: OnceCell<Option<Attached>> = const { OnceCell::new() };
    }
    // A thread that is ending has lost it, and may still call.
    let _ = ATTACHED.try_with(|attached| attached.get_or_init(Attached::new).is_some());
}

/// Bytes that the engine gives back.
fn owned(bytes: Vec<u8>) -> Bytes {
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    Bytes { data: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() }
}

/// Calls, and turns failures and panics into a status with an `Error`.
fn guarded(answer: *mut Bytes, call: impl FnOnce() -> Result<Vec<u8>, Failure>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no message".to_owned());
        Err(failure::error(Code::InvariantBroken, format!("the worker runtime panicked: {text}")))
    });
    let (status, bytes) = match outcome {
        Ok(bytes) => (OK, bytes),
        Err(error) => (FAILED, error.encode_to_vec()),
    };
    // SAFETY: the engine passes a pointer that is valid for writing.
    unsafe { answer.write(owned(bytes)) };
    status
}

/// A request, decoded.
fn decoded<T: Message + Default>(bytes: Lent) -> Result<T, Failure> {
    // SAFETY: the engine lends readable bytes for the time of the call.
    let bytes = if bytes.length == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(bytes.data, bytes.length) } };
    T::decode(bytes).map_err(|error| failure::error(Code::ProtocolViolation, format!("a request of the engine is damaged: {error}")))
}

/// A worker that the engine has from `create`.
fn inner<'a>(worker: *const Worker) -> &'a Inner {
    // SAFETY: the engine passes what `create` gave it, before `destroy`.
    unsafe { &*worker.cast::<Inner>() }
}

/// Calls a function of the Python half.
fn python<T>(name: &str, read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T, Failure> {
    keep_attached();
    Python::attach(|py| py.import(MODULE)?.call_method0(name).and_then(|answer| read(&answer)))
        .map_err(|raised| failure::error(Code::InvariantBroken, format!("`{MODULE}.{name}` raised {raised}")))
}

// SAFETY: see `Table::free`.
unsafe extern "C" fn free(bytes: Bytes) {
    if !bytes.data.is_null() {
        // SAFETY: the three parts of a vector, from `owned`.
        drop(unsafe { Vec::from_raw_parts(bytes.data, bytes.length, bytes.capacity) });
    }
}

// SAFETY: see `Ask`.
unsafe extern "C" fn environment(answer: *mut Bytes) -> i32 {
    guarded(answer, || python("environment", message::environment).map(|found| found.encode_to_vec()))
}

// SAFETY: see `Ask`.
unsafe extern "C" fn stacks(answer: *mut Bytes) -> i32 {
    guarded(answer, || python("stacks", |text| Ok(text.extract::<String>()?.into_bytes())))
}

// SAFETY: see `Ask`.
unsafe extern "C" fn leave(answer: *mut Bytes) -> i32 {
    guarded(answer, || python("leave", |_| Ok(Vec::new())))
}

// SAFETY: see `Table::logs`.
unsafe extern "C" fn take_logs(wait_ms: u32, answer: *mut Bytes) -> i32 {
    let wait = Duration::from_millis(wait_ms.into());
    guarded(answer, || Ok(queue().wait(wait).map(|batch| batch.encode_to_vec()).unwrap_or_default()))
}

// SAFETY: see `Table::create`.
unsafe extern "C" fn create(id: Lent, worker: *mut *const Worker, answer: *mut Bytes) -> i32 {
    guarded(answer, || {
        // SAFETY: the engine lends readable bytes for the time of the call.
        let id = if id.length == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(id.data, id.length) } };
        let id = String::from_utf8_lossy(id);
        keep_attached();
        let runtime = Python::attach(|py| py.import(MODULE)?.call_method1("runtime", (id.as_ref(),)).map(Bound::unbind));
        let runtime = runtime.map_err(|raised| failure::error(Code::WorkerStartFailed, format!("`{MODULE}.runtime` raised {raised}")))?;
        let executor = Mutex::new(Executor::new(runtime, queue().clone(), &id));
        let made = Box::into_raw(Box::new(Inner { executor, thread: AtomicU64::new(0) }));
        // SAFETY: the engine passes a pointer that is valid for writing.
        unsafe { worker.write(made.cast_const().cast()) };
        Ok(Vec::new())
    })
}

// SAFETY: see `Table::destroy`.
unsafe extern "C" fn destroy(worker: *const Worker) {
    // What fails here has nobody to hear of it but the log, where `close` has put it.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let closed = inner(worker).run(Executor::close);
        if let Err(raised) = closed {
            eprintln!("pillion worker: closing the functions raised {raised}");
        }
        // SAFETY: made by `create` as a box, and not used again.
        drop(unsafe { Box::from_raw(worker.cast_mut().cast::<Inner>()) });
    }));
}

// SAFETY: see `AskWorker`.
unsafe extern "C" fn describe(worker: *const Worker, request: Lent, answer: *mut Bytes) -> i32 {
    guarded(answer, || {
        let function: proto::FunctionSpec = decoded(request)?;
        inner(worker).run(|executor| executor.describe(Some(function))).map(|described| described.encode_to_vec())
    })
}

// SAFETY: see `Table::prepare`.
unsafe extern "C" fn prepare(worker: *const Worker, plan: u64, request: Lent, answer: *mut Bytes) -> i32 {
    guarded(answer, || {
        let request: proto::Prepare = decoded(request)?;
        inner(worker).run(|executor| executor.prepare(plan, request)).map(|prepared| prepared.encode_to_vec())
    })
}

// SAFETY: see `Table::release`.
unsafe extern "C" fn release(worker: *const Worker, plan: u64) {
    // Dropping a function's object may run code of its user; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| inner(worker).run(|executor| executor.release(plan))));
}

// SAFETY: see `Table::execute`.
unsafe extern "C" fn execute(
    worker: *const Worker,
    plan: u64,
    input: *mut Array,
    fetch: *const Fetch,
    output: *mut Array,
    cost: *mut Cost,
    answer: *mut Bytes,
) -> i32 {
    let began = Instant::now();
    let (mut user_ns, mut waited_ns) = (0, 0);
    let status = guarded(answer, || {
        // SAFETY: the engine passes a valid array, of which this takes possession.
        let input = unsafe { FFI_ArrowArray::from_raw(input.cast()) };
        let executed = inner(worker).run(|executor| {
            let (schema, layout) = match executor.plan(plan) {
                Some(Ok(plan)) => (plan.input.clone(), plan.layout.clone()),
                Some(Err(error)) => return Err(error.clone()),
                None => return Err(failure::error(Code::ProtocolViolation, format!("plan {plan} was not prepared"))),
            };
            let source = layout.filter(|_| !fetch.is_null()).map(|layout| Box::new(Asking { fetch, layout }) as Box<dyn Source>);
            Ok(executor.execute(plan, import(input, schema)?, source))
        });
        let Executed { outcome, user_ns: inside, waited_ns: waited, metrics } = executed?;
        (user_ns, waited_ns) = (inside, waited);
        let result = FFI_ArrowArray::new(&StructArray::from(outcome?).into_data());
        // SAFETY: the engine passes memory for an array that holds nothing yet.
        unsafe { output.cast::<FFI_ArrowArray>().write(result) };
        // Empty if there are none.
        Ok(proto::WorkerData { metrics, ..Default::default() }.encode_to_vec())
    });
    let convert_ns = nanoseconds(began.elapsed()).saturating_sub(user_ns + waited_ns);
    // SAFETY: the engine passes a pointer that is valid for writing.
    unsafe { cost.write(Cost { convert_ns, user_ns }) };
    status
}

/// Asks the engine for state, while the call lasts that it was lent for: the executor closes the way to it before it returns.
struct Asking {
    fetch: *const Fetch,
    layout: Arc<Layout>,
}

// SAFETY: the engine takes questions on any thread, one at a time.
unsafe impl Send for Asking {}

impl Source for Asking {
    fn fetch(&mut self, asked: RecordBatch) -> Result<RecordBatch, Failure> {
        let mut asked = std::mem::ManuallyDrop::new(FFI_ArrowArray::new(&StructArray::from(asked).into_data()));
        let (mut found, mut answer) = (FFI_ArrowArray::empty(), Bytes::NONE);
        // SAFETY: lent by the engine for a call that still runs. The question is an array of the plan's `fetch` schema, which the engine takes; the rest is empty.
        let status = unsafe {
            let Fetch { context, call, .. } = *self.fetch;
            call(context, (&raw mut *asked).cast(), (&raw mut found).cast(), &raw mut answer)
        };
        if status == OK {
            return import(found, self.layout.fetched.clone());
        }
        let error = decoded::<proto::Error>(Lent { data: answer.data, length: answer.length }).unwrap_or_else(|damaged| *damaged);
        // SAFETY: the bytes came from this call; given back once.
        unsafe { ((*self.fetch).free)(answer) };
        Err(Box::new(error))
    }
}

/// The rows of a struct array as a batch of `schema`.
fn import(array: FFI_ArrowArray, schema: SchemaRef) -> Result<RecordBatch, Failure> {
    let damaged = |error| failure::error(Code::ProtocolViolation, format!("the batch of the engine is damaged: {error}"));
    // SAFETY: the engine promises an array of the plan's input schema.
    let data = unsafe { from_ffi_and_data_type(array, DataType::Struct(schema.fields().clone())) }.map_err(damaged)?;
    let structs = StructArray::from(data);
    let rows = structs.len();
    let (_, columns, _) = structs.into_parts();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(damaged)
}

// SAFETY: see `Table::interrupt`.
unsafe extern "C" fn interrupt(worker: *const Worker) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let worker = inner(worker);
        keep_attached();
        Python::attach(|py| {
            let Ok(exception) = py.import(MODULE).and_then(|module| module.getattr(intern!(py, "Abandoned"))) else { return };
            let thread = worker.thread.load(Ordering::SeqCst);
            if thread != 0 {
                // SAFETY: the GIL is held; the exception is a class. A thread that has ended meanwhile is not found.
                unsafe { ffi::PyThreadState_SetAsyncExc(thread.cast_signed(), exception.as_ptr()) };
            }
        });
    }));
}
