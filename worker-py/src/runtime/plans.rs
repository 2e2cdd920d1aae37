//! The plans that were prepared in this worker.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use pillion_wire::bundle::Layout;
use pyo3::prelude::*;

use super::execute::Failure;
use super::logs::Running;
use super::metrics::Metrics;

/// A plan made ready.
pub struct Plan {
    /// `PreparedPlan.call`, bound.
    pub call: Py<PyAny>,
    /// Of its input.
    pub input: SchemaRef,
    /// Of its output.
    pub output: SchemaRef,
    /// The schema of the results as it is announced, as an IPC message.
    pub announced: Bytes,
    /// Of a keyed plan, whose input and output are packed.
    pub layout: Option<Arc<Layout>>,
    /// What its log records say.
    pub running: Running,
    /// Of its functions.
    pub metrics: Metrics,
}

/// Plans by the id that the sidecar gave them, or why there is none: batches may follow a `Prepare` before it is answered.
///
/// The sidecar says when to forget an entry.
pub type Plans = HashMap<u64, Result<Plan, Failure>>;
