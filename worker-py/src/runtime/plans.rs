//! The plans that were prepared in this worker.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use pillion_wire::ipc::{Decoder, Encoder};
use pillion_wire::proto;
use pyo3::prelude::*;

use super::logs::Running;

/// A plan made ready.
pub struct Plan {
    /// `PreparedPlan.call`, bound.
    pub call: Py<PyAny>,
    /// Of its input.
    pub decoder: Decoder,
    /// Of its output.
    pub encoder: Encoder,
    /// Of its output.
    pub output: SchemaRef,
    /// What its log records say.
    pub running: Running,
}

impl Plan {
    /// A plan that calls `call` for each batch.
    pub fn new(call: Py<PyAny>, decoder: Decoder, encoder: Encoder, session: &str, function: &str) -> Self {
        let running = Running { session: Arc::from(session), function: Arc::from(function) };
        let output = encoder.schema().clone();
        Self { call, decoder, encoder, output, running }
    }
}

/// Plans by the id that the sidecar gave them, or why there is none: batches may follow a `Prepare` before it is answered.
///
/// The sidecar says when to forget an entry.
pub type Plans = HashMap<u64, Result<Plan, Box<proto::Error>>>;
