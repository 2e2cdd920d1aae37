//! Pillion runs user-defined functions for stream and query engines.
//!
//! A host engine streams columnar Arrow batches in; pooled Python workers run the functions; results come back in order, unless the session asked for none. [`Pillion::connect`] speaks to a
//! sidecar, [`Pillion::embedded`] runs the same engine inside a Rust host; both hand out the same [`Session`].
//!
//! # What it is not
//! Not a scheduler, a query engine or a model server: it keeps nothing but the state of open keyed sessions, and decides nothing about the flow of data. It runs the
//! functions it is given, as fast as it can; in process mode it keeps going when they crash or hang.
//!
//! # Words
//! A *session* is one operator's conversation with the engine. A *function* is user code with its declared signature. An *environment* is the
//! interpreter, packages and files it needs. A *worker* is one place that runs functions; a *pool* the workers of one environment; a *lease* the
//! exclusive use of a worker for one bundle. A *batch* is one Arrow `RecordBatch`; a *bundle* the unit of commit; a *frame* a batch on the wire.
//! The *mode* says what workers are: child processes, or threads of an interpreter in the engine's own process. Between processes bodies of batches cross in messages, or
//! lie in *slots* of *arenas*, which are shared memory, while the messages cross over *rings*.
//! `ARCHITECTURE.md` follows a batch through the files.

pub mod batch;
pub mod config;
pub mod engine;
pub mod environment;
pub mod error;
#[doc(hidden)]
pub mod fault;
pub mod host;
pub mod metrics;
pub mod pool;
pub mod server;
pub mod session;
pub mod state;
pub mod timer;
mod trace;
pub mod worker;

pub use config::Config;
pub use environment::EnvironmentSpec;
pub use error::{Code, Error, Result};
pub use host::{Checkpoint, Event, FunctionRef, KeyedInput, KeyedOptions, Output, Pillion, Plan, Session, SessionOptions, Store};
