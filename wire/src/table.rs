//! The table of C functions by which an engine calls the worker runtime inside its own process (thread mode, DESIGN D4).
//!
//! The extension hands it out in a PyCapsule; both sides are compiled apart, so that nothing but the types of this file crosses: requests and answers that are
//! no batches as messages of `proto`, batches as structs of the Arrow C data interface. Memory is freed by whoever allocated it: [`Bytes`] by [`Table::free`],
//! arrays by their own release callbacks. No panic crosses: a function that panics says [`FAILED`]. Functions may be called on any thread, without the GIL,
//! and take it themselves.

use std::ffi::{CStr, c_void};

/// Name of the capsule.
pub const CAPSULE: &CStr = c"pillion._native.table";

/// Version of the layout and of what the functions mean; sides of different versions refuse each other.
pub const VERSION: u32 = 3;

/// All went well; the answer is what the function says.
pub const OK: i32 = 0;
/// The answer is an `Error` message.
pub const FAILED: i32 = 1;

/// Bytes lent for the time of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    /// The first; may be anything if there are none.
    pub data: *const u8,
    /// How many.
    pub length: usize,
}

impl From<&[u8]> for Lent {
    fn from(bytes: &[u8]) -> Self {
        Lent { data: bytes.as_ptr(), length: bytes.len() }
    }
}

/// Bytes that the extension has allocated and that [`Table::free`] takes back.
#[repr(C)]
#[derive(Debug)]
pub struct Bytes {
    /// The first; null if there are none.
    pub data: *mut u8,
    /// How many.
    pub length: usize,
    /// Room for how many.
    pub capacity: usize,
}

impl Bytes {
    /// No bytes.
    pub const NONE: Bytes = Bytes { data: std::ptr::null_mut(), length: 0, capacity: 0 };
}

/// Where a batch's time went, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// In conversions and the calls around user code.
    pub convert_ns: u64,
    /// Inside user code.
    pub user_ns: u64,
}

/// A worker: a loader of functions and the plans that were prepared with it. Opaque to the engine.
#[repr(C)]
pub struct Worker {
    _private: [u8; 0],
}

/// An `ArrowArray` of the C data interface.
pub type Array = c_void;

/// How the function of a keyed plan asks the engine for state while it executes. Lent for the call.
#[repr(C)]
pub struct Fetch {
    /// Passed on as it is.
    pub context: *const c_void,
    /// Takes a struct array of the plan's `fetch` schema, waits for the answer, and writes it as one of the `fetched` schema. If there is none it writes an `Error`.
    ///
    /// # Safety
    /// The context is that of this struct, the array that is asked is taken, the answer released or uninitialised; all pointers are valid. Not after the call to
    /// which it was lent.
    pub call: unsafe extern "C" fn(*const c_void, *mut Array, *mut Array, *mut Bytes) -> i32,
    /// Takes back what an `Error` was made of.
    ///
    /// # Safety
    /// The bytes came from `call` and are given back once.
    pub free: unsafe extern "C" fn(Bytes),
}

/// Asks about nothing in particular. The last argument takes the answer, which may stay empty.
///
/// # Safety
/// The pointer is valid for writing.
pub type Ask = unsafe extern "C" fn(*mut Bytes) -> i32;

/// Asks a worker with a request.
///
/// # Safety
/// The worker lives, the bytes are readable, the answer is valid for writing.
pub type AskWorker = unsafe extern "C" fn(*const Worker, Lent, *mut Bytes) -> i32;

/// The functions. Grows only at its end.
#[repr(C)]
pub struct Table {
    /// [`VERSION`] of the extension.
    pub version: u32,
    /// Size of the extension's table, in bytes.
    pub size: u32,
    /// Takes back what an answer was made of.
    ///
    /// # Safety
    /// The bytes came from this table and are given back once.
    pub free: unsafe extern "C" fn(Bytes),
    /// `EnvironmentDescription` of this interpreter.
    pub environment: Ask,
    /// The stacks of all threads, as UTF-8 text. Needs the GIL, so it may not return while a function holds that in native code.
    pub stacks: Ask,
    /// Runs the exit handlers and flushes the standard streams. Python stays usable.
    pub leave: Ask,
    /// The next `LogBatch`; waits for it so many milliseconds, and answers nothing if there is none.
    ///
    /// # Safety
    /// The answer is valid for writing.
    pub logs: unsafe extern "C" fn(u32, *mut Bytes) -> i32,
    /// Makes a worker of this id.
    ///
    /// # Safety
    /// The bytes are readable, the pointers valid for writing.
    pub create: unsafe extern "C" fn(Lent, *mut *const Worker, *mut Bytes) -> i32,
    /// Closes the worker's functions and forgets it. What `close` raises is logged.
    ///
    /// # Safety
    /// The worker lives, and no other call with it runs or follows.
    pub destroy: unsafe extern "C" fn(*const Worker),
    /// From `FunctionSpec` to `FunctionDescription`.
    pub describe: AskWorker,
    /// From `Prepare` to `Prepared`: loads the functions of a plan and keeps it under a number. A failure is kept, too: it is the answer to the plan's batches.
    ///
    /// # Safety
    /// As [`AskWorker`].
    pub prepare: unsafe extern "C" fn(*const Worker, u64, Lent, *mut Bytes) -> i32,
    /// Forgets a plan.
    ///
    /// # Safety
    /// The worker lives.
    pub release: unsafe extern "C" fn(*const Worker, u64),
    /// Executes the plan of this number over a struct array, which is taken, and writes another one. Both have the schemas that `prepare` named. The cost is
    /// written even if the call fails. The answer is a `WorkerData` with the metrics, or empty. Without a `Fetch`, which may be null, the function gets no state in mid-call.
    ///
    /// # Safety
    /// The worker lives; the input is an array of the plan's input schema, the output released or uninitialised; all pointers are valid.
    pub execute: unsafe extern "C" fn(*const Worker, u64, *mut Array, *const Fetch, *mut Array, *mut Cost, *mut Bytes) -> i32,
    /// Raises an exception in the Python code that this worker executes, if any; native code notices when it returns. May wait for the GIL.
    ///
    /// # Safety
    /// The worker lives.
    pub interrupt: unsafe extern "C" fn(*const Worker),
}
