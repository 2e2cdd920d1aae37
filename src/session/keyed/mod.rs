//! Keyed sessions: one `process` function with state per key (DESIGN D6 to D8).
//!
//! A bundle of rows, with the state of its keys, is packed into one batch ([`pillion_wire::bundle`]), of which the function's outputs and effects are the result: so calling
//! the function is what every stateless session does, and an inner one does it ([`calls`]), with its leases, deadlines, retries and fairness. Around it: the [`router`] takes the
//! inputs in order, finds the keys of a batch, and gives each lane its rows; a [`lane`] executes one bundle at a time over its key groups; [`executor`] reads the state that a bundle
//! needs and applies what it has changed, in one step: the one place where a keyed bundle commits.

mod calls;
mod checkpoint;
mod clock;
mod columns;
mod cut;
mod executor;
mod fetch;
mod full;
mod lane;
mod router;
mod store;

pub use store::Stores;

use super::{Behaviour, Described, Input, Job, Seen, Session, SessionPlan};
use crate::{
    error::{Code, Error, Result},
    metrics::{BatchMetrics, StateMetrics},
    pool::Pool,
    session::{Answer, claims::Claim, credit::Amount},
    state::{
        StateBackend,
        host::{Host, Keeper},
    },
    trace,
};
use arrow_schema::ArrowError;
use calls::Calls;
use checkpoint::Writer;
use clock::Clock;
use columns::Columns;
use pillion_wire::{bundle::Layout, ipc, proto};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use store::{Made, Store};
use tokio::sync::mpsc;
use tracing::Instrument;

/// Max parallelism, unless the host says otherwise, as in Flink.
pub const DEFAULT_MAX_PARALLELISM: u32 = 128;

/// Lanes per worker: while one lane's bundle is in the worker the state of another's is read and written.
const LANES_PER_WORKER: usize = 2;

/// The way into a keyed session. Never blocks: the host's credit bounds what waits here.
pub(super) struct Intake {
    items: mpsc::UnboundedSender<Item>,
    /// If it keeps the state.
    host: Option<Arc<Host>>,
}

/// What the router takes, in order.
enum Item {
    Batch { job: Job, input: u32 },
    Mark { seq: u64, mark: Input },
    End { seq: u64 },
}

impl Intake {
    // A router that has gone has ended the session and said why.
    pub fn batch(&self, job: Job, input: u32) {
        let _ = self.items.send(Item::Batch { job, input });
    }

    pub fn mark(&self, seq: u64, mark: Input) {
        let _ = self.items.send(Item::Mark { seq, mark });
    }

    pub fn end(&self, seq: u64) {
        let _ = self.items.send(Item::End { seq });
    }
}

/// What router and lanes share.
struct Keyed {
    /// As the host sees it.
    session: Arc<Session>,
    calls: Calls,
    layout: Layout,
    columns: Columns,
    backend: Arc<dyn StateBackend>,
    /// The same, if the host keeps the state.
    host: Option<Arc<Host>>,
    /// Bundles that were committed.
    bundles: AtomicU64,
    clock: Clock,
    /// How long a bundle waits for room in its store.
    full_wait: Duration,
    metrics: StateMetrics,
}

/// Which part of a session the lanes see.
pub(super) struct Parts {
    pub id: String,
    pub name: String,
    pub traceparent: String,
    pub plan: SessionPlan,
    pub behaviour: Behaviour,
    pub described: Described,
    pub pool: Arc<Pool>,
}

/// Refuses what cannot be served, before anything is loaded.
pub(super) fn check(options: &proto::KeyedOptions, request: &super::OpenRequest) -> Result<()> {
    let invalid = |message: String| Err(Error::new(Code::OptionsInvalid, message));
    if request.plan.calls.len() != 1 || !request.plan.outputs.is_empty() {
        return Err(Error::new(Code::PlanInvalid, "a keyed session has one `process` function and no other outputs"));
    }
    if options.inputs.is_empty() {
        return invalid("a keyed session has no input".into());
    }
    for (at, input) in plan(options, &request.input_schema).inputs.iter().enumerate() {
        let schema = ipc::schema_from_ipc(&input.schema).map_err(|error| {
            Error::new(Code::ProtocolViolation, format!("the schema of input {at} cannot be read")).detail(error.to_string())
        })?;
        let columns = schema.fields().len();
        let extra = [input.timestamp_column, input.key_group_column];
        let named = input.key_columns.iter().copied().chain(extra.into_iter().filter_map(|column| column.checked_sub(1)));
        if let Some(column) = named.into_iter().find(|&column| column as usize >= columns) {
            return invalid(format!("the session names column {column} of input {at}, which has {columns}"));
        }
        if input.broadcast && (at == 0 || !input.key_columns.is_empty()) {
            return invalid(format!("input {at} cannot be broadcast: the first input is not, and a broadcast has no keys"));
        }
    }
    let max = max_parallelism(options);
    if max > u32::from(crate::state::MAX_PARALLELISM) {
        return invalid(format!("a max parallelism of {max} is over the largest, {}", crate::state::MAX_PARALLELISM));
    }
    let (first, last) = groups(options);
    if first > last || last >= max {
        return invalid(format!("key groups {first} to {last} do not lie below the max parallelism of {max}"));
    }
    checkpoint::attempt(options)?;
    Store::of(options).map(drop)
}

/// The inputs as workers are told of them.
pub(super) fn plan(options: &proto::KeyedOptions, input_schema: &[u8]) -> proto::KeyedPlan {
    let mut inputs = options.inputs.clone();
    if let Some(first) = inputs.first_mut() {
        first.schema = input_schema.to_vec();
    }
    proto::KeyedPlan { inputs }
}

fn max_parallelism(options: &proto::KeyedOptions) -> u32 {
    if options.max_parallelism == 0 { DEFAULT_MAX_PARALLELISM } else { options.max_parallelism }
}

/// First and last key group.
fn groups(options: &proto::KeyedOptions) -> (u32, u32) {
    options.key_groups.map_or((0, max_parallelism(options) - 1), |groups| (groups.first, groups.last))
}

/// Starts a keyed session of a plan that is loaded, and restores its state.
///
/// # Errors
/// [`Code::KeyType`] for key columns that cannot be keys, [`Code::SchemaMismatch`] for a time column of another type, [`Code::Fenced`] if another session has the key groups,
/// what is wrong with the store, and with the checkpoints to restore.
pub(super) async fn start(
    parts: Parts,
    options: &proto::KeyedOptions,
    prepare: &proto::Prepare,
    stores: &Stores,
    keeper: Option<Keeper>,
) -> Result<Arc<Session>> {
    let (function, layout, columns) = described(&parts, options, prepare)?;
    let (first, last) = groups(options);
    let range = u16::try_from(first).unwrap_or(u16::MAX)..=u16::try_from(last).unwrap_or(u16::MAX);
    let attempt = checkpoint::attempt(options)?;
    let claim = match options.operator.as_str() {
        "" => None,
        operator => Some(stores.claims.claim(operator, range.clone(), attempt)?),
    };
    let Made { backend, host } = Store::of(options)?.make(&columns, &stores.config, &parts.behaviour.limits, keeper, attempt)?;
    let clock = Clock::new(options.host_clock);
    // Checkpoints of state that the host keeps are the host's.
    let place = if host.is_none() { store::checkpoints(&stores.config)? } else { None };
    let restoring = store::restore(options, range.clone(), &function, &columns, clock.now_ms(), place.as_ref(), &backend);
    unless_fenced(claim.as_ref(), restoring).await?;
    let about = checkpoint::About {
        function,
        attempt,
        max_parallelism: columns.max_parallelism(),
        keys: columns.encoder().clone(),
        groups: range.clone().collect(),
    };
    let Parts { id, name, traceparent, plan, behaviour, described, pool } = parts;
    let (sender, items) = mpsc::unbounded_channel();
    let outer_plan = SessionPlan { id: plan.id, prepare: plan.prepare.clone(), functions: plan.functions.clone(), fetcher: None };
    let span = trace::session(&id, &name, &traceparent, &plan.functions);
    let metrics = BatchMetrics::new(&plan.functions, behaviour.limits.metric_series);
    let outer = Session::new(
        Seen { id: id.clone(), name: name.clone(), span: span.clone(), metrics },
        outer_plan,
        behaviour.clone(),
        described.clone(),
        pool.clone(),
        Some(Intake { items: sender, host: host.clone() }),
    );
    // A host applies bundles in the order in which their results come out, so they are executed in that order.
    let lanes = if host.is_some() { 1 } else { behaviour.max_workers * LANES_PER_WORKER };
    // Bundles are answered as they come; the order is that of the lanes.
    let seen = Seen { id, name, span: span.clone(), metrics: BatchMetrics::of_calls(&plan.functions) };
    let fetches = fetch::Fetches::new(backend.clone(), &layout, behaviour.limits.max_batch_bytes).map_err(damaged)?;
    let plan = SessionPlan { fetcher: Some(fetches.clone()), ..plan };
    let inner = Session::new(seen, plan, Behaviour { ordered: false, ..behaviour }, described, pool, None);
    let calls = Calls::start(inner, &layout, fetches)?;
    let metrics = StateMetrics::new(&outer.plan.functions);
    let keyed = Arc::new(Keyed {
        session: outer.clone(),
        calls,
        layout,
        columns,
        backend,
        host,
        bundles: AtomicU64::new(0),
        clock,
        full_wait: stores.config.full_wait,
        metrics,
    });
    let writer = place.map(|place| span.in_scope(|| Writer::start(&keyed, place, about)));
    tokio::spawn(router::route(keyed, items, router::Held { range, claim, writer }, lanes).instrument(span));
    Ok(outer)
}

/// Work on a session that is not open yet, until another one fences it.
async fn unless_fenced(claim: Option<&Claim>, work: impl Future<Output = Result<()>>) -> Result<()> {
    match claim {
        Some(claim) => tokio::select! {
            done = work => done,
            why = claim.fenced() => Err(why),
        },
        None => work.await,
    }
}

fn damaged(error: ArrowError) -> Error {
    Error::new(Code::ProtocolViolation, "a schema is damaged").detail(error.to_string())
}

/// The name of the function of a plan that is loaded, and what is known of its columns.
fn described(parts: &Parts, options: &proto::KeyedOptions, prepare: &proto::Prepare) -> Result<(String, Layout, Columns)> {
    let output = ipc::schema_from_ipc(&parts.described.output_schema).map_err(damaged)?;
    let Some(function) = parts.described.functions.first().filter(|function| function.kind == "process") else {
        return Err(Error::new(Code::PlanInvalid, format!("`{}` keeps no state: it is no `process` function", parts.plan.functions))
            .hint("open the session without keys, or derive the function from `KeyedProcessFunction`"));
    };
    let plan_of_inputs = plan(options, &prepare.input_schema);
    let layout = Layout::new(&plan_of_inputs, &output, function).map_err(damaged)?;
    let columns = Columns::new(&layout, function, plan_of_inputs.inputs, max_parallelism(options))?;
    Ok((function.name.clone(), layout, columns))
}

impl Session {
    fn add_timing(&self, timing: &proto::Timing) {
        self.lock().add_timing(timing);
    }

    /// A keyed bundle has given a result of input `seq`; it takes its place behind what came before.
    fn emit(&self, seq: u64, answer: Answer) {
        let mut state = self.lock();
        if let Answer::Batch { result: Ok(batch), .. } = &answer {
            state.held = state.held.plus(Amount::of(batch.bytes(), batch.rows()));
        }
        state.order.add(seq, answer);
        super::wake(&mut state);
    }

    /// Something is said that has no place among the answers, but comes behind the mark of barrier `seq`.
    fn report(&self, seq: u64, answer: Answer) {
        let mut state = self.lock();
        state.aside.push_back((seq, answer));
        super::wake(&mut state);
    }

    /// The host has applied all bundles up to this one. Ignored by sessions whose state it does not keep.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] if there was no such bundle.
    pub fn applied(&self, bundle: u64) -> Result<()> {
        self.intake.as_ref().and_then(|intake| intake.host.as_ref()).map_or(Ok(()), |host| host.applied(bundle))
    }

    /// All lanes are past input `seq`.
    fn pass(&self, seq: u64, refund: Amount, last: Option<Answer>) {
        let mut state = self.lock();
        state.pending_bytes -= refund.bytes;
        if matches!(last, Some(Answer::Sealed { .. })) {
            state.stats.batches += 1;
        }
        state.order.mark(seq, last);
        super::wake(&mut state);
        drop(state);
        // Now another input may be the one that all wait for.
        self.more.notify_waiters();
    }

    /// Waits until input `seq` may add results: while the host leaves too many untaken, only the one that all others wait for. False if the session is over.
    async fn has_room(&self, seq: u64) -> bool {
        loop {
            let (more, cancelled) = (self.more.notified(), self.cancelled.notified());
            tokio::pin!(more);
            tokio::pin!(cancelled);
            more.as_mut().enable();
            cancelled.as_mut().enable();
            {
                let state = self.lock();
                if state.over {
                    return false;
                }
                let limits = &self.behaviour.limits;
                let room = Amount::of(limits.session_output_bytes, limits.session_output_rows).minus(state.held);
                if room.is_open() || state.order.is_awaited(seq) {
                    return true;
                }
            }
            tokio::select! {
                () = more => {}
                () = cancelled => {}
            }
        }
    }
}
