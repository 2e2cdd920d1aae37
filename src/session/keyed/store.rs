//! Where a keyed session keeps its state: which store, and what is restored into it.

use super::columns::Columns;
use crate::{
    config::{Limits, StateConfig},
    error::{Code, Error, Result},
    session::claims::Claims,
    state::{
        BROADCAST_GROUP, StateBackend,
        disk::{Disk, DiskOptions},
        host::{Host, HostOptions, Keeper},
        memory::Memory,
        snapshot::{Checkpoints, Restore},
    },
};
use pillion_wire::proto;
use std::{ops::RangeInclusive, sync::Arc};

/// What an engine has for sessions that keep state.
#[derive(Debug, Default)]
pub struct Stores {
    /// Where stores and checkpoints are.
    pub config: StateConfig,
    /// Who has which key groups.
    pub claims: Claims,
}

/// The kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Memory,
    Disk,
    Host,
}

/// A store that was made.
pub(super) struct Made {
    pub backend: Arc<dyn StateBackend>,
    /// The same, if the host keeps the state.
    pub host: Option<Arc<Host>>,
}

impl Store {
    /// Of a session's options.
    pub fn of(options: &proto::KeyedOptions) -> Result<Self> {
        match options.backend.as_str() {
            "" | "memory" => Ok(Store::Memory),
            "disk" => Ok(Store::Disk),
            "host" if options.restore.is_empty() => Ok(Store::Host),
            "host" => {
                Err(Error::new(Code::OptionsInvalid, "a session whose host keeps the state cannot restore checkpoints of the sidecar")
                    .hint("leave `restore` empty; the host restores its own checkpoint before it opens the session"))
            }
            other => {
                Err(Error::new(Code::Unsupported, format!("there is no state backend `{other}`")).hint("use `memory`, `disk` or `host`"))
            }
        }
    }

    /// A store for the cells: an empty one, or that of `keeper`.
    pub fn make(self, columns: &Columns, config: &StateConfig, limits: &Limits, keeper: Option<Keeper>, attempt: u32) -> Result<Made> {
        let (cells, parallelism) = (columns.cells().clone(), columns.max_parallelism());
        let backend: Arc<dyn StateBackend> = match self {
            Store::Host => {
                let keeper = keeper.ok_or_else(|| {
                    Error::new(Code::OptionsInvalid, "nobody keeps the state of the session").hint("give the session a `StateHost`")
                })?;
                // What the host may leave unapplied is as much as it may leave untaken.
                let unapplied_bytes = usize::try_from(limits.session_output_bytes).unwrap_or(usize::MAX);
                let options = HostOptions { attempt, deadline: limits.state_deadline, unapplied_bytes };
                let host = Arc::new(Host::new(keeper.0, cells, parallelism, options)?);
                return Ok(Made { backend: host.clone(), host: Some(host) });
            }
            Store::Memory => {
                let limit = config.memory_bytes.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
                Arc::new(Memory::new(cells, parallelism, limit)?)
            }
            Store::Disk => {
                let mut options = DiskOptions::new(&config.dir);
                (options.cache_bytes, options.reserve_bytes) = (config.disk_cache_bytes, config.disk_reserve_bytes);
                Arc::new(Disk::new(cells, parallelism, &options)?)
            }
        };
        Ok(Made { backend, host: None })
    }
}

/// The place of checkpoints, if there is one.
pub(super) fn checkpoints(config: &StateConfig) -> Result<Option<Checkpoints>> {
    config.checkpoints.as_deref().map(Checkpoints::open).transpose()
}

/// Restores what `options` name into an empty store.
pub(super) async fn restore(
    options: &proto::KeyedOptions,
    groups: RangeInclusive<u16>,
    function: &str,
    columns: &Columns,
    now_ms: i64,
    place: Option<&Checkpoints>,
    store: &Arc<dyn StateBackend>,
) -> Result<()> {
    if options.restore.is_empty() {
        return Ok(());
    }
    let place = place.ok_or_else(nowhere)?;
    let restore = Restore {
        handles: options.restore.clone(),
        groups: groups.collect(),
        function: function.to_owned(),
        max_parallelism: columns.max_parallelism(),
        keys: columns.encoder().clone(),
        now_ms,
    };
    let restored = place.restore(restore, store.clone()).await?;
    tracing::info!(
        entries = restored.entries,
        timers = restored.timers,
        dropped = restored.dropped.join(", "),
        added = restored.added.join(", "),
        "state restored"
    );
    Ok(())
}

/// There is no place for checkpoints.
pub(super) fn nowhere() -> Error {
    Error::new(Code::OptionsInvalid, "the engine has no place for checkpoints")
        .hint("set `state.checkpoints` to a folder that every node mounts, or to `s3://BUCKET/PREFIX`")
}

/// The key groups of a session, and with broadcast cells what holds for all.
pub(super) fn all_groups(groups: RangeInclusive<u16>, columns: &Columns) -> Vec<u16> {
    groups.chain(columns.has_broadcast().then_some(BROADCAST_GROUP)).collect()
}
