//! State that the host keeps: the engine asks it the same columnar questions, and overlays what it has sealed and the host has not applied yet (DESIGN D6).
//!
//! [`StateHost`] is what a host implements. It keeps ordered maps of opaque bytes, by (cell, key group, key, namespace) and sub-key, and a set of timers; it needs to know nothing of
//! types, lists or times to live. A host that is connected is asked the same questions as messages. [`Maps`] is the simplest host.

mod line;
mod maps;
mod overlay;
mod rows;
#[cfg(test)]
mod tests;
mod types;
pub(crate) mod wire;

pub(crate) use line::{Answers, RemoteHost};
pub use maps::Maps;
pub use types::{HostCommit, HostDue, HostGet, HostPage, HostRows, HostTimers, HostWrites, StateHost};

use super::{
    Addresses, Cells, Commit, Entries, Get, Lookup, Op, Page, PageRequest, Prefetch, Rows, Sizes, StateBackend, View, address::slot, check,
    memory,
};
use crate::{
    error::{Code, Error, Result},
    timer::{Domain, DueOrder, DueRequest, DueTimers},
    worker::BoxFuture,
};
use arrow_array::BinaryArray;
use overlay::Overlay;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// How the engine deals with a host.
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    /// Makes the sub-keys of list elements rise over attempts: a session that is opened again raises it.
    pub attempt: u32,
    /// A question that is not answered within this time fails.
    pub deadline: Duration,
    /// When what the host has not applied takes more memory than this, nothing more is executed until it has.
    pub unapplied_bytes: usize,
}

/// A [`StateHost`] as an option of a session.
#[derive(Clone)]
pub struct Keeper(pub Arc<dyn StateHost>);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper")
    }
}

/// The host backend.
pub struct Host {
    host: Arc<dyn StateHost>,
    cells: Cells,
    slots: usize,
    options: HostOptions,
    overlay: Mutex<Overlay>,
    /// Tells whoever waits for room that the host has applied something.
    applied: Notify,
}

impl Host {
    /// State with these cells is at `host`.
    ///
    /// # Errors
    /// [`Code::OptionsInvalid`] for an impossible max parallelism.
    pub fn new(host: Arc<dyn StateHost>, cells: Cells, max_parallelism: u16, options: HostOptions) -> Result<Self> {
        let slots = memory::slots(max_parallelism)?;
        Ok(Host { host, cells, slots, options, overlay: Mutex::default(), applied: Notify::new() })
    }

    /// The host has applied all bundles up to this one.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] if there was no such bundle.
    pub fn applied(&self, bundle: u64) -> Result<()> {
        if !self.overlay().applied(bundle) {
            return Err(Error::new(
                Code::ProtocolViolation,
                format!("the host says that it has applied bundle {bundle}, which was not committed"),
            )
            .hint("apply what `committed` names, and say its number"));
        }
        self.applied.notify_waiters();
        Ok(())
    }

    /// Waits while the host has too much to apply.
    pub async fn has_room(&self) {
        loop {
            let applied = self.applied.notified();
            tokio::pin!(applied);
            applied.as_mut().enable();
            if self.overlay().memory() <= self.options.unapplied_bytes {
                return;
            }
            applied.await;
        }
    }

    /// The answer to a question, in time.
    async fn answered<T>(&self, answer: BoxFuture<'_, Result<T>>) -> Result<T> {
        let deadline = self.options.deadline;
        let late = || {
            Error::new(Code::StateHostFailed, format!("the host that keeps the state did not answer within {deadline:?}"))
                .hint("see what keeps the host, or raise `limits.state_deadline`")
        };
        timeout(deadline, answer).await.map_err(|_| late())?.map_err(asked)
    }

    /// The overlay as it is before a read: what the read may not see yet is in it, whatever is dropped meanwhile.
    fn frozen(&self) -> Overlay {
        self.overlay().clone()
    }

    fn overlay(&self) -> std::sync::MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, groups: &[u16]) -> Result<()> {
        groups.iter().try_for_each(|&group| slot(group, self.slots).map(drop))
    }

    async fn get_all(&self, request: &Get) -> Result<Vec<Entries>> {
        self.check(&request.addresses.groups)?;
        let mut all = Vec::with_capacity(request.cells.len());
        for &id in &request.cells {
            let cell = self.cells.at(id)?;
            let overlay = self.frozen();
            let get = HostGet { cell: id, addresses: Arc::clone(&request.addresses), map_keys: None, prefetch: request.prefetch };
            let rows = self.answered(self.host.get(&get)).await?;
            rows::check(&rows, request.addresses.len())?;
            all.push(rows::entries(cell, id, &rows, &overlay, request)?);
        }
        Ok(all)
    }

    async fn lookup_all(&self, request: &Lookup) -> Result<BinaryArray> {
        let cell = self.cells.at(request.cell)?;
        check::lookup(cell, request)?;
        let mut groups = Vec::with_capacity(request.at.len());
        let (mut keys, mut namespaces) = (Vec::new(), Vec::new());
        for &at in &request.at {
            let (key, namespace) = request.addresses.at(at as usize);
            groups.push(request.addresses.groups[at as usize]);
            keys.push(key);
            namespaces.push(namespace);
        }
        self.check(&groups)?;
        let addresses =
            Arc::new(Addresses::new(groups, BinaryArray::from_iter_values(keys), Some(BinaryArray::from_iter_values(namespaces)))?);
        let overlay = self.frozen();
        let get = HostGet {
            cell: request.cell,
            addresses: Arc::clone(&addresses),
            map_keys: Some(request.map_keys.clone()),
            prefetch: Prefetch { entry_bytes: usize::MAX, total_bytes: usize::MAX },
        };
        let rows = self.answered(self.host.get(&get)).await?;
        rows::check(&rows, addresses.len())?;
        rows::single(cell, request, &rows, &overlay, &addresses)
    }

    async fn page_one(&self, request: &PageRequest) -> Result<Page> {
        let cell = self.cells.at(request.cell)?;
        check::page(cell)?;
        self.check(&[request.group])?;
        let overlay = self.frozen();
        let PageRequest { cell: id, group, key, namespace, prefix, after, max_bytes, .. } = request.clone();
        let page = HostPage { cell: id, group, key, namespace, prefix, after, max_bytes };
        let rows = self.answered(self.host.page(&page)).await?;
        rows::check(&rows, 1)?;
        rows::page(cell, request, &rows, &overlay)
    }

    async fn seal(&self, commit: &Commit) -> Result<()> {
        check::commit(&self.cells, commit)?;
        self.check(&commit.addresses.groups)?;
        let commit = self.to_host(commit)?;
        let bundle = commit.bundle;
        // Before the host has it: whoever reads after that must see it.
        self.overlay().seal(&commit);
        let taken = self.answered(self.host.commit(commit)).await;
        if taken.is_err() {
            self.overlay().forget(bundle);
        }
        taken
    }

    /// A commit as the host takes it: appended elements have their sub-keys.
    fn to_host(&self, commit: &Commit) -> Result<HostCommit> {
        let mut appended = 0u32;
        let mut writes = Vec::with_capacity(commit.writes.len());
        for mut columns in commit.writes.iter().cloned() {
            let cell = self.cells.at(columns.cell)?;
            if columns.ops.contains(&Op::Append) {
                let sub = |op: &mut Op| {
                    (*op == Op::Append).then(|| {
                        *op = Op::Put;
                        appended += 1;
                        [&self.options.attempt.to_be_bytes()[..], &commit.seq.to_be_bytes(), &appended.to_be_bytes()].concat()
                    })
                };
                columns.map_keys = Some(BinaryArray::from_iter(columns.ops.iter_mut().map(sub)));
            }
            let cutoff = cell.cutoff(commit.now_ms);
            let renew = cell.ttl.is_some_and(|ttl| ttl.update == super::Update::OnReadAndWrite);
            writes.push(HostWrites { writes: columns, cutoff, renew });
        }
        Ok(HostCommit {
            bundle: commit.seq,
            addresses: commit.addresses.clone(),
            writes,
            timers: commit.timers.clone(),
            now_ms: commit.now_ms,
        })
    }

    async fn due_all(&self, request: &DueRequest) -> Result<DueTimers> {
        self.check(&request.groups)?;
        let overlay = self.frozen();
        // As many more as may have fired in bundles that the host has not applied: what is left suffices.
        let limit = request.limit.max(1).saturating_add(overlay.timer_changes()).saturating_add(1);
        let ask = HostDue { domain: request.domain, groups: request.groups.clone(), up_to_ms: request.up_to_ms, limit };
        let timers = self.answered(self.host.timers(&ask)).await?;
        rows::due(request, &timers, &overlay)
    }
}

/// A host that failed, or does not answer, is said so, unless it gave a code of its own.
fn asked(error: Error) -> Error {
    match error.code() {
        Code::StateFull | Code::Fenced | Code::Cancelled | Code::StateHostFailed | Code::ProtocolViolation => error,
        _ => Error::new(Code::StateHostFailed, format!("the host that keeps the state failed: {}", error.message()))
            .detail(error.code().as_str()),
    }
}

impl StateBackend for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn cells(&self) -> &Cells {
        &self.cells
    }

    fn get<'a>(&'a self, request: &'a Get) -> BoxFuture<'a, Result<Vec<Entries>>> {
        Box::pin(self.get_all(request))
    }

    fn lookup<'a>(&'a self, request: &'a Lookup) -> BoxFuture<'a, Result<BinaryArray>> {
        Box::pin(self.lookup_all(request))
    }

    fn page<'a>(&'a self, request: &'a PageRequest) -> BoxFuture<'a, Result<Page>> {
        Box::pin(self.page_one(request))
    }

    fn apply<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.seal(commit))
    }

    fn due<'a>(&'a self, request: &'a DueRequest) -> BoxFuture<'a, Result<DueTimers>> {
        Box::pin(self.due_all(request))
    }

    fn next_timer<'a>(&'a self, domain: Domain, groups: &'a [u16]) -> BoxFuture<'a, Result<Option<i64>>> {
        Box::pin(async move {
            let request = DueRequest { domain, groups: groups.to_vec(), up_to_ms: i64::MAX, limit: 1, order: DueOrder::Global };
            Ok(self.due_all(&request).await?.timestamps.first().copied())
        })
    }

    fn sizes(&self) -> Sizes {
        let overlay = self.overlay();
        Sizes { overlay: overlay.len() as u64, memory_bytes: overlay.memory() as u64, ..Sizes::default() }
    }

    fn view(&self, _groups: &[u16], _now_ms: i64) -> Result<Arc<dyn View>> {
        Err(keeps())
    }

    fn load(&self, _rows: Rows) -> Result<()> {
        Err(keeps())
    }
}

fn keeps() -> Error {
    Error::new(Code::Unsupported, "the host keeps the state, and its checkpoints are the host's")
        .hint("use the `memory` or `disk` backend for checkpoints of the sidecar")
}
