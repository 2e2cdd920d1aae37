//! Keyed sessions as their operator sees them.

use super::session::Output;
use crate::error::{Code, Error, Result};
use arrow_schema::{Schema, SchemaRef};
use pillion_wire::{ipc, proto};
use std::{ops::RangeInclusive, time::Duration};

/// Makes a session keyed: it runs one `process` function, with state and timers per key. Rows of equal keys are executed in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub struct KeyedOptions {
    /// Names of the key columns of the first input; none: all rows have the same key.
    pub keys: Vec<String>,
    /// Name of the first input's column with the event time of each row: a timestamp, a date, or integer milliseconds since the epoch.
    pub event_time: Option<String>,
    /// Name of the first input's column with the key group of each row: integers below the max parallelism, which are never computed anew, so that an engine keeps its own hash.
    /// `None`: they are computed from the keys.
    pub key_group: Option<String>,
    /// More inputs, numbered from 1: of a function with two inputs, or a broadcast.
    pub more_inputs: Vec<KeyedInput>,
    /// Key groups in all, which bounds to how many operators the state can ever be spread; `None`: 128.
    pub max_parallelism: Option<u16>,
    /// The key groups of this operator; `None`: all.
    pub key_groups: Option<RangeInclusive<u16>>,
    /// Where the engine keeps the state, unless the host does ([`SessionBuilder::state_host`](super::SessionBuilder::state_host)).
    pub store: Store,
    /// Whose parallel instances divide the key groups among them, such as the operator's id in its job; with it sessions are fenced by [`KeyedOptions::attempt`]. Default: nothing is fenced.
    pub operator: String,
    /// A higher attempt ends the sessions of lower ones of the same operator and key groups, at once, with [`Code::Fenced`]; one that is not higher is refused.
    pub attempt: u64,
    /// Handles of the checkpoints to restore from, which together cover the key groups, each once. They are looked for in the engine's `state.checkpoints`.
    pub restore: Vec<String>,
    /// Processing time is what [`SessionInput::processing_time`](super::SessionInput::processing_time) says, from 0 on, instead of the system's clock.
    pub host_clock: bool,
}

impl KeyedOptions {
    /// Keyed by columns of the first input.
    pub fn by<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        KeyedOptions { keys: keys.into_iter().map(Into::into).collect(), ..KeyedOptions::default() }
    }

    /// With the event time in a column of the first input.
    #[must_use]
    pub fn event_time(mut self, column: impl Into<String>) -> Self {
        self.event_time = Some(column.into());
        self
    }

    /// `at_host`: the host keeps the state.
    pub(super) fn to_proto(&self, schema: &Schema, at_host: bool) -> Result<proto::KeyedOptions> {
        let first = KeyedInput {
            schema: Schema::empty().into(),
            keys: self.keys.clone(),
            event_time: self.event_time.clone(),
            key_group: self.key_group.clone(),
            broadcast: false,
        };
        let mut inputs = vec![proto::KeyedInput { schema: Vec::new(), ..first.to_proto(schema)? }];
        for input in &self.more_inputs {
            inputs.push(input.to_proto(&input.schema)?);
        }
        let range = |groups: &RangeInclusive<u16>| proto::KeyGroups { first: u32::from(*groups.start()), last: u32::from(*groups.end()) };
        Ok(proto::KeyedOptions {
            inputs,
            key_groups: self.key_groups.as_ref().map(range),
            max_parallelism: self.max_parallelism.map_or(0, u32::from),
            host_clock: self.host_clock,
            backend: if at_host { "host" } else { self.store.as_str() }.to_owned(),
            operator: self.operator.clone(),
            attempt: self.attempt,
            restore: self.restore.clone(),
        })
    }
}

/// Where the state of a session is kept while it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// In the engine's memory.
    #[default]
    Memory,
    /// In an LSM store in the engine's `state.dir`, with a bounded cache: for state that is larger than memory.
    Disk,
}

impl Store {
    /// The word in the protocol, and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Store::Memory => "memory",
            Store::Disk => "disk",
        }
    }
}

/// A checkpoint that is durable: it can be restored wherever its place can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// By which [`KeyedOptions::restore`] names it.
    pub handle: String,
    /// The size of all its files.
    pub bytes: u64,
    /// Of these, what is new: what has not changed since the checkpoint before is not written again.
    pub new_bytes: u64,
    /// Entries of state, and timers.
    pub rows: u64,
    /// From the barrier until it was durable.
    pub took: Duration,
}

impl Checkpoint {
    pub(super) fn from_proto(done: proto::Checkpoint) -> Self {
        let proto::Checkpoint { handle, bytes, new_bytes, rows, took_ms } = done;
        Checkpoint { handle, bytes, new_bytes, rows, took: Duration::from_millis(took_ms) }
    }
}

/// An input of a keyed session beside the first.
#[derive(Clone, Debug)]
pub struct KeyedInput {
    /// Of its batches.
    pub schema: SchemaRef,
    /// Names of its key columns, as many and of the same types as those of the first input; none for a broadcast.
    pub keys: Vec<String>,
    /// Name of the column with the event time of each row.
    pub event_time: Option<String>,
    /// Name of the column with the key group of each row, as [`KeyedOptions::key_group`].
    pub key_group: Option<String>,
    /// Its elements are for all keys.
    pub broadcast: bool,
}

impl KeyedInput {
    fn to_proto(&self, schema: &Schema) -> Result<proto::KeyedInput> {
        let index = |name: &String| {
            schema.index_of(name).map(|at| at as u32).map_err(|_| {
                let columns: Vec<_> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
                Error::new(Code::OptionsInvalid, format!("the input has no column `{name}`")).hint(format!("it has {}", columns.join(", ")))
            })
        };
        Ok(proto::KeyedInput {
            schema: ipc::schema_to_ipc(schema).into(),
            key_columns: self.keys.iter().map(index).collect::<Result<_>>()?,
            timestamp_column: self.event_time.as_ref().map(index).transpose()?.map_or(0, |at| at + 1),
            key_group_column: self.key_group.as_ref().map(index).transpose()?.map_or(0, |at| at + 1),
            broadcast: self.broadcast,
        })
    }
}

/// What comes out of a session, in input order but for [`Event::Checkpointed`].
#[derive(Clone, Debug)]
pub enum Event {
    /// A result.
    Output(Output),
    /// Of a keyed session: batch `seq` has taken effect, and all its results were given.
    Sealed {
        /// Of the batch.
        seq: u64,
    },
    /// Of a session whose host keeps the state ([`SessionBuilder::state_host`](super::SessionBuilder::state_host)), behind the results of a bundle: the host now applies what it was told of this
    /// bundle, in one step with its results, and says so with [`SessionOutput::applied`](super::SessionOutput::applied).
    Committed {
        /// Of the input that the bundle belongs to.
        seq: u64,
        /// As [`StateHost::commit`](crate::state::host::StateHost::commit) named it.
        bundle: u64,
    },
    /// Event time has gone on; timers up to it have fired. While many fire, earlier ones with the same `seq` say how far it is.
    Watermark {
        /// Of the watermark that was sent.
        seq: u64,
        /// In milliseconds since the epoch: of several inputs, the least.
        timestamp_ms: i64,
    },
    /// What came before belongs to the checkpoint, nothing after does.
    Snapshotted {
        /// Of the barrier.
        seq: u64,
        /// As it was sent.
        checkpoint_id: u64,
    },
    /// The checkpoint is durable, or has failed; a failed one ends nothing. Comes at any time after its `Snapshotted`, and before the end.
    Checkpointed {
        /// As it was sent.
        checkpoint_id: u64,
        /// What was written; [`Code::SnapshotFailed`] if its place refuses, [`Code::OptionsInvalid`] if the engine has none.
        result: Result<Checkpoint>,
    },
}
