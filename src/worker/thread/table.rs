//! The runtime in this process, behind its table of C functions (`pillion_wire::table`): batches cross as pointers of the Arrow C data interface.

use crate::{
    error::{Code, Error, Result},
    worker::Cost,
};
use arrow_array::{
    Array as _, RecordBatch, RecordBatchOptions, StructArray,
    ffi::{FFI_ArrowArray, from_ffi_and_data_type},
};
use arrow_schema::{DataType, SchemaRef};
use pillion_wire::{
    bundle::Layout,
    proto,
    table::{self, Array, Bytes, FAILED, Lent, OK, Table, Worker},
};
use prost::Message;
use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

/// The runtime's functions.
#[derive(Clone, Copy)]
pub struct Calls(&'static Table);

impl Calls {
    /// Takes a table that the worker package of this build has handed out.
    ///
    /// # Errors
    /// [`Code::ProtocolVersion`] if it is that of another build.
    pub fn new(table: &'static Table) -> Result<Self> {
        if table.version == table::VERSION && table.size as usize >= size_of::<Table>() {
            return Ok(Calls(table));
        }
        let message = format!("the worker package has version {} of the function table, this build {}", table.version, table::VERSION);
        Err(Error::new(Code::ProtocolVersion, message).hint("unset `PILLION_PACKAGE_DIR`, or build both together with `make build`"))
    }

    /// The interpreter and its packages.
    ///
    /// # Errors
    /// What the runtime raised.
    pub fn environment(self) -> Result<proto::EnvironmentDescription> {
        // SAFETY: the answer is valid for writing.
        decoded(&self.ask(|answer| unsafe { (self.0.environment)(answer) })?)
    }

    /// The stacks of all threads. Does not return before the GIL comes free.
    ///
    /// # Errors
    /// What the runtime raised.
    pub fn stacks(self) -> Result<String> {
        // SAFETY: the answer is valid for writing.
        self.ask(|answer| unsafe { (self.0.stacks)(answer) }).map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs exit handlers and flushes the streams.
    ///
    /// # Errors
    /// What the runtime raised.
    pub fn leave(self) -> Result<()> {
        // SAFETY: the answer is valid for writing.
        self.ask(|answer| unsafe { (self.0.leave)(answer) }).map(drop)
    }

    /// The next log records; waits for them at most so long.
    ///
    /// # Errors
    /// What the runtime raised.
    pub fn logs(self, at_most: Duration) -> Result<proto::LogBatch> {
        let wait_ms = u32::try_from(at_most.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: the answer is valid for writing.
        decoded(&self.ask(|answer| unsafe { (self.0.logs)(wait_ms, answer) })?)
    }

    /// A new worker, which loads functions of its own.
    ///
    /// # Errors
    /// What the runtime raised.
    pub fn create(self, id: &str) -> Result<Handle> {
        let mut worker = std::ptr::null();
        // SAFETY: the id is lent for the call, both pointers are valid for writing.
        self.ask(|answer| unsafe { (self.0.create)(id.as_bytes().into(), &raw mut worker, answer) })?;
        Ok(Handle { calls: self, worker: RwLock::new(Some(Pointer(worker))) })
    }

    /// Calls a function, and takes its answer over.
    fn ask(self, call: impl FnOnce(*mut Bytes) -> i32) -> Result<Vec<u8>> {
        let mut answer = Bytes::NONE;
        let status = call(&raw mut answer);
        let bytes = if answer.length == 0 {
            Vec::new()
        } else {
            // SAFETY: the function has written so many bytes there, and leaves them alone.
            unsafe { std::slice::from_raw_parts(answer.data, answer.length) }.to_vec()
        };
        // SAFETY: the bytes came from this table; given back once.
        unsafe { (self.0.free)(answer) };
        if status == OK { Ok(bytes) } else { Err(decoded::<proto::Error>(&bytes)?.into()) }
    }
}

fn decoded<T: Message + Default>(bytes: &[u8]) -> Result<T> {
    T::decode(bytes)
        .map_err(|error| Error::new(Code::ProtocolViolation, "an answer of the worker runtime is damaged").detail(error.to_string()))
}

/// What `create` gave.
#[derive(Clone, Copy)]
struct Pointer(*const Worker);

// SAFETY: the runtime allows calls on any thread; it keeps its own order among them.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

/// A worker of the runtime.
pub struct Handle {
    calls: Calls,
    /// `None` once it is closed. Read while a call runs.
    worker: RwLock<Option<Pointer>>,
}

impl Handle {
    /// Loads and describes a function.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn describe(&self, function: &proto::FunctionSpec) -> Result<proto::FunctionDescription> {
        let (_open, worker) = self.open()?;
        let request = function.encode_to_vec();
        // SAFETY: the worker lives while the lock is held; the request is lent for the call.
        decoded(&self.calls.ask(|answer| unsafe { (self.calls.0.describe)(worker, Lent::from(&request[..]), answer) })?)
    }

    /// Loads a plan.
    ///
    /// # Errors
    /// Why it cannot be executed; its batches will be answered with the same.
    pub fn prepare(&self, plan: u64, prepare: &proto::Prepare) -> Result<proto::Prepared> {
        let (_open, worker) = self.open()?;
        let request = prepare.encode_to_vec();
        // SAFETY: the worker lives while the lock is held; the request is lent for the call.
        decoded(&self.calls.ask(|answer| unsafe { (self.calls.0.prepare)(worker, plan, Lent::from(&request[..]), answer) })?)
    }

    /// Forgets a plan.
    pub fn release(&self, plan: u64) {
        if let Ok((_open, worker)) = self.open() {
            // SAFETY: the worker lives while the lock is held.
            unsafe { (self.calls.0.release)(worker, plan) };
        }
    }

    /// Executes a batch, whose columns must have the types of the plan's input, and gives one of the schema that the plan announced, with what the functions'
    /// metrics gained. A function may ask for state only with a `question`.
    pub fn execute(
        &self,
        plan: u64,
        input: RecordBatch,
        output: &SchemaRef,
        question: Option<&Question<'_>>,
    ) -> (Result<(RecordBatch, Vec<proto::MetricDelta>)>, Cost) {
        let (_open, worker) = match self.open() {
            Ok(open) => open,
            Err(error) => return (Err(error), Cost::default()),
        };
        // The runtime takes it and leaves nothing to release behind.
        let mut input = std::mem::ManuallyDrop::new(FFI_ArrowArray::new(&StructArray::from(input).into_data()));
        let mut result = FFI_ArrowArray::empty();
        let mut cost = table::Cost::default();
        let fetch = question.map(|question| table::Fetch { context: std::ptr::from_ref(question).cast(), call: ask_for_state, free });
        let fetch = fetch.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let answer = self.calls.ask(|answer| {
            let (input, result) = ((&raw mut *input).cast(), (&raw mut result).cast());
            // SAFETY: the worker lives while the lock is held; the input is an array of the plan's schema, as the session checked; the result is empty;
            // what `fetch` refers to outlives the call.
            unsafe { (self.calls.0.execute)(worker, plan, input, fetch, result, &raw mut cost, answer) }
        });
        let cost = Cost { convert_ns: cost.convert_ns, user_ns: cost.user_ns };
        let result = answer.and_then(|answer| Ok((import(result, output)?, decoded::<proto::WorkerData>(&answer)?.metrics)));
        (result, cost)
    }

    /// Raises an exception in the function that runs. May wait for the GIL.
    pub fn interrupt(&self) {
        if let Ok((_open, worker)) = self.open() {
            // SAFETY: the worker lives while the lock is held.
            unsafe { (self.calls.0.interrupt)(worker) };
        }
    }

    /// Closes the functions, and ends the worker. Waits for a call that runs.
    pub fn close(&self) {
        let mut worker = self.worker.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Pointer(worker)) = worker.take() {
            // SAFETY: no call runs, since the lock is held, and none follows, since the pointer is taken.
            unsafe { (self.calls.0.destroy)(worker) };
        }
    }

    fn open(&self) -> Result<(RwLockReadGuard<'_, Option<Pointer>>, *const Worker)> {
        let guard = self.worker.read().unwrap_or_else(PoisonError::into_inner);
        match *guard {
            Some(Pointer(worker)) => Ok((guard, worker)),
            None => Err(Error::new(Code::Draining, "the worker was closed").retryable()),
        }
    }
}

/// How a call asks for state.
pub struct Question<'a> {
    /// Of its plan.
    pub layout: &'a Layout,
    /// Waits for the answer.
    pub ask: &'a dyn Fn(RecordBatch) -> Result<RecordBatch>,
}

// SAFETY: see `Fetch::call`.
unsafe extern "C" fn ask_for_state(context: *const c_void, asked: *mut Array, found: *mut Array, error: *mut Bytes) -> i32 {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `execute` has lent it for its time, and the runtime asks one question at a time.
        let question = unsafe { &*context.cast::<Question<'_>>() };
        // SAFETY: the runtime passes an array, of which this takes possession.
        let asked = unsafe { FFI_ArrowArray::from_raw(asked.cast()) };
        import(asked, &question.layout.fetch).and_then(question.ask)
    }));
    let answer = answer.unwrap_or_else(|_| Err(Error::new(Code::InvariantBroken, "the engine panicked when it was asked for state")));
    match answer {
        Ok(batch) => {
            let array = FFI_ArrowArray::new(&StructArray::from(batch).into_data());
            // SAFETY: the runtime passes memory for an array that holds nothing yet.
            unsafe { found.cast::<FFI_ArrowArray>().write(array) };
            OK
        }
        Err(failed) => {
            let mut bytes = std::mem::ManuallyDrop::new(proto::Error::from(&failed).encode_to_vec());
            let bytes = Bytes { data: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() };
            // SAFETY: the runtime passes a pointer that is valid for writing.
            unsafe { error.write(bytes) };
            FAILED
        }
    }
}

// SAFETY: see `Fetch::free`.
unsafe extern "C" fn free(bytes: Bytes) {
    if !bytes.data.is_null() {
        // SAFETY: the three parts of a vector, from `ask_for_state`.
        drop(unsafe { Vec::from_raw_parts(bytes.data, bytes.length, bytes.capacity) });
    }
}

/// The rows of a struct array as a batch.
fn import(array: FFI_ArrowArray, schema: &SchemaRef) -> Result<RecordBatch> {
    let damaged =
        |error: arrow_schema::ArrowError| Error::new(Code::ProtocolViolation, "a result cannot be imported").detail(error.to_string());
    // SAFETY: the runtime has made the array with the schema that it announced for this plan. It is as trusted as this binary, which carries it.
    let data = unsafe { from_ffi_and_data_type(array, DataType::Struct(schema.fields().clone())) }.map_err(damaged)?;
    let structs = StructArray::from(data);
    let rows = structs.len();
    let (_, columns, _) = structs.into_parts();
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows))).map_err(damaged)
}
