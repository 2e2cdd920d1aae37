//! The plans that were prepared in this worker.

use std::collections::HashMap;

use arrow_schema::SchemaRef;
use pyo3::prelude::*;

use super::execute::Failure;
use super::logs::Running;

/// A plan made ready.
pub struct Plan {
    /// `PreparedPlan.call`, bound.
    pub call: Py<PyAny>,
    /// Of its input.
    pub input: SchemaRef,
    /// Of its output.
    pub output: SchemaRef,
    /// What its log records say.
    pub running: Running,
}

/// Plans by the id that the sidecar gave them, or why there is none: batches may follow a `Prepare` before it is answered.
///
/// The sidecar says when to forget an entry.
pub type Plans = HashMap<u64, Result<Plan, Failure>>;
