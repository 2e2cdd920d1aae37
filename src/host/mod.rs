//! What a Rust operator uses (hops 1 and 9).
//!
//! [`Pillion::connect`] speaks to a sidecar, [`Pillion::embedded`] runs the engine in this process; both hand out the same [`Session`].
//!
//! ```no_run
//! use arrow_array::{ArrayRef, Int64Array, RecordBatch};
//! use pillion::{Config, FunctionRef, Pillion, Plan};
//! use std::sync::Arc;
//!
//! # async fn example() -> pillion::Result<()> {
//! // add.py:
//! //     from pillion import udf
//! //     @udf(result_type="bigint")
//! //     def add(a, b):
//! //         return a + b
//! let pillion = Pillion::embedded(Config::default()).await?;
//! let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
//! let batch = RecordBatch::try_from_iter([("a", column(vec![1, 2])), ("b", column(vec![10, 20]))]).expect("columns of one length");
//!
//! let plan = Plan::scalar(FunctionRef::parse("add.py:add")?, vec![0, 1], "sum");
//! let session = pillion.session(plan).input(batch.schema()).open().await?;
//! let (mut input, mut output) = session.split();
//! input.send(batch).await?;
//! input.finish().await?;
//! while let Some(result) = output.recv().await {
//!     println!("{:?}", result?.batch);
//! }
//! pillion.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod address;
mod allocate;
mod coalesce;
mod function;
mod here;
mod input;
mod keyed;
mod link;
mod open;
mod remote;
mod sender;
mod session;
mod shares;
mod sharing;
mod state;

pub use allocate::{Allocation, Part};
pub use function::{FunctionRef, Plan, PlanCall, Source};
pub use input::SessionInput;
pub use keyed::{Checkpoint, Event, KeyedInput, KeyedOptions, Store};
pub use open::{Described, FunctionDescription, OnError, SessionBuilder, SessionOptions};
pub use session::{Limits, Output, Session, SessionOutput};

pub use pillion_wire::proto::{Parameter, Timing};

use crate::{config::Config, engine::Engine, environment::EnvironmentSpec, error::Result};
use pillion_wire::proto;
use remote::Remote;
use std::sync::Arc;

/// A way to an engine: to a sidecar, or embedded in this process. Cheap to clone.
#[derive(Clone)]
pub struct Pillion(Door);

#[derive(Clone)]
enum Door {
    Embedded(Arc<Engine>),
    Remote(Arc<Remote>),
}

impl Pillion {
    /// Runs the engine inside this process; workers are child processes, or threads of this one for environments in thread mode. Needs a tokio runtime with I/O
    /// and time. Call [`Pillion::shutdown`] at the end, so that functions are closed.
    ///
    /// # Errors
    /// If the cache or runtime folder cannot be used; [`Code::ConfigInvalid`](crate::Code::ConfigInvalid) if modes and limits contradict each other.
    pub async fn embedded(config: Config) -> Result<Pillion> {
        Ok(Pillion(Door::Embedded(Engine::start(config).await?)))
    }

    /// Connects to a sidecar at `unix:/path/to.sock` or `http://127.0.0.1:port`.
    ///
    /// # Errors
    /// [`Code::ConnectFailed`](crate::Code::ConnectFailed) if nothing listens there, [`Code::NotASidecar`](crate::Code::NotASidecar) if something else does.
    pub async fn connect(endpoint: &str) -> Result<Pillion> {
        Ok(Pillion(Door::Remote(Arc::new(Remote::connect(endpoint).await?))))
    }

    /// Loads a function in its environment and says what it is. The first time this may take minutes, if packages must be installed.
    ///
    /// # Errors
    /// Whatever is wrong with the function or its environment.
    pub async fn describe(&self, function: &FunctionRef, environment: &EnvironmentSpec) -> Result<Described> {
        let response = match &self.0 {
            Door::Embedded(engine) => engine.describe(function.to_proto()?, environment).await?,
            Door::Remote(remote) => remote.describe(function.to_proto()?, environment).await?,
        };
        Described::from_proto(response)
    }

    /// Begins to open a session that computes `plan`.
    pub fn session(&self, plan: Plan) -> SessionBuilder {
        SessionBuilder::new(self.clone(), plan)
    }

    /// What the engine is doing; with `stacks`, down to the threads of its workers.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn status(&self, stacks: bool) -> Result<proto::StatusResponse> {
        match &self.0 {
            Door::Embedded(engine) => Ok(engine.status(stacks).await),
            Door::Remote(remote) => remote.status(stacks).await,
        }
    }

    /// Cancels a session, from anywhere; false if none of this id is open.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn cancel(&self, session_id: &str) -> Result<bool> {
        match &self.0 {
            Door::Embedded(engine) => Ok(engine.cancel(session_id)),
            Door::Remote(remote) => remote.cancel(session_id).await,
        }
    }

    /// Ends an embedded engine: sessions are cancelled, functions closed, workers reaped. Does nothing to a sidecar, which others may use.
    pub async fn shutdown(&self) {
        if let Door::Embedded(engine) = &self.0 {
            engine.shutdown().await;
        }
    }
}
