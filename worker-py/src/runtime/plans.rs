//! The plans that were prepared in this worker.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use pillion_wire::ipc::{Decoder, Encoder};
use pyo3::prelude::*;

use super::logs::Running;

/// Most plans that are kept; beyond, the one used longest ago is forgotten.
const MOST_PLANS: usize = 256;

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
    used: u64,
}

impl Plan {
    /// A plan that calls `call` for each batch.
    pub fn new(call: Py<PyAny>, decoder: Decoder, encoder: Encoder, session: &str, function: &str) -> Self {
        let running = Running { session: Arc::from(session), function: Arc::from(function) };
        let output = encoder.schema().clone();
        Self { call, decoder, encoder, output, running, used: 0 }
    }
}

/// Plans by the id that the sidecar gave them.
#[derive(Default)]
pub struct Plans {
    plans: HashMap<u64, Plan>,
    clock: u64,
}

impl Plans {
    /// Keeps a plan, in place of an earlier one of this id.
    pub fn insert(&mut self, id: u64, mut plan: Plan) {
        self.clock += 1;
        plan.used = self.clock;
        if self.plans.len() >= MOST_PLANS
            && !self.plans.contains_key(&id)
            && let Some(oldest) = self.plans.iter().min_by_key(|(_, plan)| plan.used).map(|(&id, _)| id)
        {
            self.plans.remove(&oldest);
        }
        self.plans.insert(id, plan);
    }

    /// The plan of this id, now the one used last.
    pub fn get(&mut self, id: u64) -> Option<&mut Plan> {
        self.clock += 1;
        let plan = self.plans.get_mut(&id)?;
        plan.used = self.clock;
        Some(plan)
    }

    /// Forgets a plan; its functions stay loaded.
    pub fn remove(&mut self, id: u64) {
        self.plans.remove(&id);
    }
}
