//! Opening sessions, and what functions say of themselves.

use super::{Door, Pillion, Plan, keyed::KeyedOptions, session::Session};
use crate::{
    environment::EnvironmentSpec,
    error::{Code, Error, Result},
    session::{OpenRequest, check_schema},
    state::host::{Keeper, StateHost},
};
use arrow_schema::{Schema, SchemaRef};
use pillion_wire::{ipc, proto};
use std::{sync::Arc, time::Duration};

/// What a row that raises does to its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The batch fails, and names the row.
    #[default]
    Fail,
    /// The row's result is null; for row functions whose result may be null.
    Null,
    /// The row is left out, and its outputs, writes and timers are undone. Keyed sessions of functions that are called row by row.
    Skip,
    /// As [`OnError::Skip`], and the row goes to the side output `pillion.errors` (of input n from the second on, `pillion.errors.n`): the columns of its input, then `error_type` and `error_message`.
    Side,
}

/// How a session behaves. The default leaves everything to the engine's configuration.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Results may come in any order.
    pub unordered: bool,
    /// Longest time a batch may take in a worker; then that is killed. Refused in thread mode.
    pub bundle_deadline: Option<Duration>,
    /// Times a batch that itself kills or hangs its worker is tried.
    pub max_attempts: Option<u32>,
    /// Most workers used at once.
    pub max_workers: Option<usize>,
    /// Share of the workers while several sessions want them, 1 to 1000; `None`: the engine's `limits.session_weight`. Worker time is divided in proportion to
    /// weights, however many batches or drivers a session has; what nobody else wants is free.
    pub weight: Option<u32>,
    /// What a row that raises does to its batch.
    pub on_error: OnError,
    /// How long a small batch may be kept back so that it travels together with others; the answers are per batch all the same. A batch is sent at once while none of the
    /// session's is on its way; gathered ones are sent when there are [`SessionOptions::max_rows`], when all before them are answered, or after this time (of which
    /// timers count whole milliseconds). If one of them fails, they run again one by one. A permission, of which no use is made for map functions, whose
    /// results cannot be cut; note that a vectorized function sees the rows of several batches in one call. Default: none are kept back.
    pub max_delay: Option<Duration>,
    /// Most rows that travel together, with [`SessionOptions::max_delay`]; batches as large as that go alone. Default 4096.
    pub max_rows: Option<u64>,
}

/// Most rows that are gathered, unless an operator says otherwise.
const COALESCED_ROWS: u64 = 4096;

/// What an operator allows its batches to be kept back for, see [`SessionOptions::max_delay`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub max_delay: Duration,
    pub max_rows: u64,
    pub ordered: bool,
}

/// Collects what a session needs; see [`Pillion::session`].
#[derive(Clone)]
pub struct SessionBuilder {
    pillion: Pillion,
    plan: Plan,
    environment: EnvironmentSpec,
    schema: SchemaRef,
    options: SessionOptions,
    keyed: Option<KeyedOptions>,
    state_host: Option<Keeper>,
    name: String,
    traceparent: String,
}

impl SessionBuilder {
    pub(super) fn new(pillion: Pillion, plan: Plan) -> Self {
        SessionBuilder {
            pillion,
            plan,
            environment: EnvironmentSpec::default(),
            schema: Arc::new(Schema::empty()),
            options: SessionOptions::default(),
            keyed: None,
            state_host: None,
            name: String::new(),
            traceparent: String::new(),
        }
    }

    /// Where the functions run. Default: the engine's default environment.
    #[must_use]
    pub fn environment(mut self, environment: EnvironmentSpec) -> Self {
        self.environment = environment;
        self
    }

    /// The schema of the batches that will be sent.
    #[must_use]
    pub fn input(mut self, schema: SchemaRef) -> Self {
        self.schema = schema;
        self
    }

    /// Overrides of the defaults.
    #[must_use]
    pub fn options(mut self, options: SessionOptions) -> Self {
        self.options = options;
        self
    }

    /// Makes the session keyed; its plan is one `process` function.
    #[must_use]
    pub fn keyed(mut self, keyed: KeyedOptions) -> Self {
        self.keyed = Some(keyed);
        self
    }

    /// The state of a keyed session is kept by `host` instead of one of the engine's stores: it is asked for the state of each bundle's keys, and told what each bundle has changed, which
    /// it applies when [`Event::Committed`](super::Event::Committed) comes. Checkpoints are the host's. The bundles of such a session run one after the other; open a session per range of
    /// key groups for more. A host that does not answer within `limits.state_deadline` ends the session with [`Code::StateHostFailed`].
    #[must_use]
    pub fn state_host(mut self, host: Arc<dyn StateHost>) -> Self {
        self.state_host = Some(Keeper(host));
        self
    }

    /// A name for logs and metrics; need not be unique.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The W3C trace context of the operator.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    /// Opens the session: builds the environment if need be, starts a worker, loads the functions.
    ///
    /// # Errors
    /// Whatever is wrong with the plan, its functions or their environment; if the connection fails.
    pub async fn open(self) -> Result<Session> {
        let options = proto::SessionOptions {
            unordered: self.options.unordered,
            // Zero means the default on the wire; the shortest deadline there is.
            bundle_deadline_ms: self.options.bundle_deadline.map_or(0, |deadline| (deadline.as_millis() as u64).max(1)),
            max_attempts: self.options.max_attempts.unwrap_or_default(),
            max_workers: self.options.max_workers.map_or(0, |workers| u32::try_from(workers).unwrap_or(u32::MAX)),
            // Zero means the default on the wire, and is no weight: refused like any other that is out of bounds.
            weight: self.options.weight.map_or(0, |weight| if weight == 0 { u32::MAX } else { weight }),
            on_error: match self.options.on_error {
                OnError::Fail => proto::OnError::Fail,
                OnError::Null => proto::OnError::Null,
                OnError::Skip => proto::OnError::Skip,
                OnError::Side => proto::OnError::Side,
            } as i32,
        };
        let request = OpenRequest {
            plan: self.plan.to_proto()?,
            input_schema: ipc::schema_to_ipc(&self.schema),
            options,
            name: self.name,
            traceparent: self.traceparent,
            keyed: self.keyed.as_ref().map(|keyed| keyed.to_proto(&self.schema, self.state_host.is_some())).transpose()?,
            state_host: self.state_host,
        };
        if request.keyed.is_none() && request.state_host.is_some() {
            return Err(Error::new(Code::OptionsInvalid, "a session without keys has no state that its host could keep")
                .hint("make it keyed, or leave `state_host` out"));
        }
        // Here already, since the request would not arrive.
        check_schema(&request.input_schema)?;
        let more = self.keyed.iter().flat_map(|keyed| &keyed.more_inputs).map(|input| input.schema.clone());
        let inputs = [self.schema].into_iter().chain(more).collect();
        let session = match &self.pillion.0 {
            Door::Embedded(engine) => Session::embedded(engine.open(request, &self.environment).await?, engine.memory(), inputs)?,
            Door::Remote(remote) => remote.open(request, &self.environment, inputs).await?,
        };
        let SessionOptions { max_delay, max_rows, unordered, .. } = self.options;
        Ok(match max_delay {
            Some(max_delay) => session.coalesce(Allowance { max_delay, max_rows: max_rows.unwrap_or(COALESCED_ROWS), ordered: !unordered }),
            None => session,
        })
    }
}

/// A function and its environment, as [`Pillion::describe`] found them.
#[derive(Clone, Debug)]
pub struct Described {
    /// The function.
    pub function: FunctionDescription,
    /// The interpreter and the packages that conversions use.
    pub environment: proto::EnvironmentDescription,
}

impl Described {
    pub(super) fn from_proto(response: proto::DescribeResponse) -> Result<Self> {
        let function = response.function.ok_or_else(|| Error::new(Code::ProtocolViolation, "the description holds no function"))?;
        Ok(Described { function: FunctionDescription::from_proto(function)?, environment: response.environment.unwrap_or_default() })
    }
}

/// What a function says of itself.
#[derive(Clone, Debug)]
pub struct FunctionDescription {
    /// `file.py:name` or `module:name`.
    pub name: String,
    /// `scalar` (columns in, one column of the same length out), `map` (batches in and out) or `process` (rows and timers in, any rows out, with state per key).
    pub kind: String,
    /// `general` (row at a time), `pandas` or `arrow`.
    pub func_type: String,
    /// In order.
    pub parameters: Vec<proto::Parameter>,
    /// One field for a scalar function, the columns for a map function; `None` if it gives what it gets.
    pub result: Option<SchemaRef>,
    /// The declared type as text.
    pub result_type: String,
    /// Whether equal inputs give equal results.
    pub deterministic: bool,
    /// The docstring.
    pub doc: String,
    /// State cells of a `process` function.
    pub cells: Vec<proto::StateCell>,
    /// Its named timers.
    pub timers: Vec<String>,
    /// Its outputs beside the main one: tags and columns.
    pub side_outputs: Vec<(String, SchemaRef)>,
}

impl FunctionDescription {
    pub(super) fn from_proto(function: proto::FunctionDescription) -> Result<Self> {
        let result = match function.result_schema.as_slice() {
            [] => None,
            bytes => Some(schema(bytes)?),
        };
        let proto::FunctionDescription { name, kind, func_type, parameters, result_type, deterministic, doc, cells, timers, .. } = function;
        let side_outputs = function.side_outputs.into_iter().map(|side| Ok((side.tag, schema(&side.schema)?))).collect::<Result<_>>()?;
        Ok(FunctionDescription { name, kind, func_type, parameters, result, result_type, deterministic, doc, cells, timers, side_outputs })
    }
}

/// A schema that a peer sent.
pub(super) fn schema(bytes: &[u8]) -> Result<SchemaRef> {
    ipc::schema_from_ipc(bytes).map_err(|error| Error::new(Code::ProtocolViolation, "a schema cannot be read").detail(error.to_string()))
}
