//! One keyed bundle, from the state that it needs to what it has changed.

use super::{Keyed, columns::Share, full::Waits};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    fault::{Point, reach},
    session::{Answer, bundle::nanos, credit::Amount},
    state::{Addresses, BROADCAST_GROUP, Commit, Entries, Get, Prefetch},
    timer::{Domain, DueTimers, TimerOp, TimerWrites},
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray, UInt8Array, UInt32Array, cast::AsArray, types,
};
use arrow_schema::{ArrowError, Schema};
use pillion_wire::{
    bundle::{Bundle, EVENT, Effects, PROCESSING, op, timer_fields},
    proto,
};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};
use tokio::time::Instant;

/// Input rows of a bundle.
#[derive(Debug)]
pub(super) struct Rows {
    /// Which input they come from.
    pub input: u32,
    pub rows: RecordBatch,
    pub timestamps: Option<ArrayRef>,
    pub key_index: Option<ArrayRef>,
}

/// What a bundle is about.
pub(super) struct Work {
    seq: u64,
    queued: Instant,
    watermark: i64,
    what: What,
}

enum What {
    Rows(Share),
    Broadcast(Rows),
    Timers(DueTimers, Domain),
}

impl Work {
    /// Rows of input `seq`.
    pub fn rows(seq: u64, queued: Instant, share: Share, watermark: i64) -> Self {
        Work { seq, queued, watermark, what: What::Rows(share) }
    }

    /// Elements for all keys.
    pub fn broadcast(seq: u64, queued: Instant, rows: Rows, watermark: i64) -> Self {
        Work { seq, queued, watermark, what: What::Broadcast(rows) }
    }

    /// Timers that fire; their results stand behind those of input `seq`.
    pub fn timers(seq: u64, due: DueTimers, domain: Domain, watermark: i64) -> Self {
        Work { seq, queued: Instant::now(), watermark, what: What::Timers(due, domain) }
    }
}

/// What a bundle has done that its lane must know.
pub(super) struct Done {
    /// A timer in processing time may be due earlier than the lane knows.
    pub sets_processing_timers: bool,
}

/// The keys of a bundle, and what stands in it beside their state.
struct Subject {
    keys: StructArray,
    /// Of `keys`, at the empty namespace.
    addresses: Arc<Addresses>,
    rows: Option<Rows>,
    broadcast: bool,
    fired: Option<Fired>,
}

struct Fired {
    timers: RecordBatch,
    /// Of the timers, at their namespaces, each once, with the place of each timer among them; `None` if all namespaces are empty.
    addresses: Option<(Arc<Addresses>, UInt32Array)>,
    due: DueTimers,
    domain: Domain,
    /// Of each timer, its place in the keys.
    places: Vec<u32>,
}

impl Keyed {
    /// Executes a bundle: reads, calls, commits, gives out the results. With an error nothing of it has taken effect. Whoever gives this up has ended the session.
    pub async fn execute(&self, work: Work) -> Result<Done> {
        let Work { seq, queued, watermark, what } = work;
        if !self.session.has_room(seq).await {
            return Err(Error::new(Code::SessionClosed, "the session is over"));
        }
        if let Some(host) = &self.host {
            host.has_room().await;
        }
        let began = Instant::now();
        let now_ms = self.clock.now_ms();
        let subject = self.subject(what)?;
        reach(Point::Read);
        let bundle = self.bundle(&subject, watermark, now_ms).await?;
        let packed = self.layout.pack(bundle).map_err(|error| damaged(&error))?;
        let read = began.elapsed();
        let called = self.calls.call(packed, &subject.addresses, now_ms).await?;
        let returned = Instant::now();
        reach(Point::Answered);
        let effects = self.layout.unpack_effects(&called.effects, subject.keys.len()).map_err(|error| damaged(&error))?;
        let Effects { outputs, writes, timers } = effects;
        let bundle = self.bundles.fetch_add(1, Ordering::Relaxed) + 1;
        let (commit, sets_processing_timers) = self.commit(&subject, &writes, timers.as_ref(), bundle, now_ms)?;
        self.apply(&commit).await?;
        reach(Point::Committed);
        let state_ns = nanos(read + returned.elapsed()) + called.timing.state_ns;
        let queue_ns = called.timing.queue_ns + nanos(began.duration_since(queued));
        self.give_out(seq, outputs, proto::Timing { queue_ns, state_ns, ..called.timing }, called.metrics, &subject);
        if self.host.is_some() {
            self.session.emit(seq, Answer::Committed { seq, bundle });
        }
        Ok(Done { sets_processing_timers })
    }

    /// Commits. While there is no room for it, it waits for some: nothing has taken effect, and nothing is lost. Too long a wait is an error.
    async fn apply(&self, commit: &Commit) -> Result<()> {
        let mut waits = Waits::new(self.full_wait);
        loop {
            match self.backend.apply(commit).await {
                Err(error) if error.code() == Code::StateFull && waits.go_on(&error).await => {}
                done => return done,
            }
        }
    }

    /// Results go to the host, behind what came before.
    fn give_out(
        &self,
        seq: u64,
        outputs: Vec<Option<RecordBatch>>,
        timing: proto::Timing,
        metrics: Vec<proto::MetricDelta>,
        subject: &Subject,
    ) {
        let empty = || RecordBatch::new_empty(self.layout.rows[0].clone());
        let input = Batch::Arrow(subject.rows.as_ref().map_or_else(empty, |rows| rows.rows.clone()));
        let main = outputs.first().cloned().flatten().unwrap_or_else(|| RecordBatch::new_empty(self.layout.outputs[0].clone()));
        let mut metrics = self.session.metrics.done(&timing, &input, Some(&Batch::Arrow(main.clone())), metrics);
        self.session.add_timing(&timing);
        let mut outputs: Vec<_> =
            outputs.into_iter().enumerate().filter_map(|(at, batch)| Some((at, batch.filter(|batch| batch.num_rows() > 0)?))).collect();
        if outputs.is_empty() && !metrics.is_empty() {
            // They travel with a result.
            outputs.push((0, main));
        }
        for (output, batch) in outputs {
            let (result, metrics) = (Ok(Batch::Arrow(batch)), std::mem::take(&mut metrics));
            let answer = Answer::Batch { seq, output: output as u32, result, timing, metrics, refund: Amount::default() };
            self.session.emit(seq, answer);
        }
    }

    fn subject(&self, what: What) -> Result<Subject> {
        match what {
            What::Rows(Share { rows, keys, addresses }) => {
                Ok(Subject { keys, addresses: Arc::new(addresses), rows: Some(rows), broadcast: false, fired: None })
            }
            What::Broadcast(rows) => {
                let none = BinaryArray::from_iter_values(std::iter::empty::<&[u8]>());
                let keys = self.columns.keys_of(&none)?;
                let addresses = Arc::new(Addresses::new(vec![], none, None)?);
                Ok(Subject { keys, addresses, rows: Some(rows), broadcast: true, fired: None })
            }
            What::Timers(due, domain) => {
                let (addresses, places) = distinct(&due, false)?;
                let keys = self.columns.keys_of(&addresses.keys)?;
                let number = if domain == Domain::EventTime { EVENT } else { PROCESSING };
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(UInt32Array::from(places.clone())),
                    Arc::new(UInt8Array::from_value(number, due.len())),
                    Arc::new(due.names.clone()),
                    Arc::new(due.namespaces.clone()),
                    Arc::new(Int64Array::from(due.timestamps.clone())),
                ];
                let timers = RecordBatch::try_new(Arc::new(Schema::new(timer_fields())), columns).map_err(|error| damaged(&error))?;
                let namespaced = due.namespaces.iter().any(|namespace| namespace.is_some_and(|namespace| !namespace.is_empty()));
                let at = match namespaced {
                    true => {
                        let (addresses, places) = distinct(&due, true)?;
                        Some((Arc::new(addresses), UInt32Array::from(places)))
                    }
                    false => None,
                };
                let fired = Fired { timers, addresses: at, due, domain, places };
                Ok(Subject { keys, addresses: Arc::new(addresses), rows: None, broadcast: false, fired: Some(fired) })
            }
        }
    }

    async fn bundle(&self, subject: &Subject, watermark: i64, now_ms: i64) -> Result<Bundle> {
        let state = self.read(&subject.addresses, now_ms).await?;
        let (timers, timer_state) = match &subject.fired {
            Some(Fired { timers, addresses: Some((addresses, places)), .. }) => {
                let read = self.read(addresses, now_ms).await?;
                (Some(timers.clone()), Some(self.columns.spread(read, places)?))
            }
            Some(Fired { timers, .. }) => (Some(timers.clone()), None),
            None => (None, None),
        };
        let (input, rows, timestamps, key_index) = match &subject.rows {
            Some(Rows { input, rows, timestamps, key_index }) => (*input, Some(rows.clone()), timestamps.clone(), key_index.clone()),
            None => (0, None, None, None),
        };
        let keys = subject.keys.clone();
        let broadcast = subject.broadcast;
        Ok(Bundle { rows, timestamps, key_index, keys, state, timers, timer_state, watermark, processing_time: now_ms, input, broadcast })
    }

    /// The declared cells at many addresses, as the function sees them.
    async fn read(&self, addresses: &Arc<Addresses>, now_ms: i64) -> Result<Vec<Option<ArrayRef>>> {
        let mut state = vec![None; self.layout.cells.len()];
        for shared in [false, true] {
            let cells: Vec<u16> = (0u16..).zip(&self.layout.cells).filter(|(_, cell)| cell.broadcast == shared).map(|(at, _)| at).collect();
            if cells.is_empty() {
                continue;
            }
            let addresses = if shared { Arc::new(everybody()?) } else { addresses.clone() };
            let prefetch = self.prefetch();
            let entries: Vec<Entries> = self.backend.get(&Get { cells: cells.clone(), addresses, now_ms, prefetch }).await?;
            for (cell, entries) in cells.into_iter().zip(entries) {
                state[usize::from(cell)] = self.columns.values(cell, &entries)?;
            }
        }
        Ok(state)
    }

    /// Lists and maps that come along must leave room for the rest of a bundle.
    fn prefetch(&self) -> Prefetch {
        let Prefetch { entry_bytes, total_bytes } = Prefetch::default();
        let most = usize::try_from(self.session.limits().max_batch_bytes / 8).unwrap_or(usize::MAX);
        Prefetch { entry_bytes: entry_bytes.min(most), total_bytes: total_bytes.min(most) }
    }

    /// What a bundle has changed, with whether it has set timers in processing time.
    fn commit(
        &self,
        subject: &Subject,
        writes: &[Option<RecordBatch>],
        timers: Option<&RecordBatch>,
        bundle: u64,
        now_ms: i64,
    ) -> Result<(Commit, bool)> {
        let mut places = Places::new(&subject.addresses);
        let mut changes = Vec::new();
        for (cell, batch) in (0u16..).zip(writes) {
            let Some(batch) = batch.as_ref().filter(|batch| batch.num_rows() > 0) else { continue };
            let at = match self.layout.cells[usize::from(cell)].broadcast {
                true if !subject.broadcast => {
                    let message = format!(
                        "cell `{}` is broadcast state, which only elements of a broadcast may write",
                        self.layout.cells[usize::from(cell)].name
                    );
                    return Err(Error::new(Code::ProtocolViolation, message));
                }
                true => vec![places.everybody(); batch.num_rows()],
                false => places.of(batch.column(0).as_primitive::<types::UInt32Type>(), batch.column(1).as_binary()),
            };
            changes.push(self.columns.writes(cell, batch, at)?);
        }
        let mut timer_writes = TimerWrites::default();
        let mut names: Vec<&str> = Vec::new();
        if let Some(fired) = &subject.fired {
            // A timer that has fired is gone before its function can set it again.
            timer_writes.at = places.of(&UInt32Array::from(fired.places.clone()), &fired.due.namespaces);
            timer_writes.domains = vec![fired.domain; fired.due.len()];
            timer_writes.ops = vec![TimerOp::Delete; fired.due.len()];
            timer_writes.timestamps.clone_from(&fired.due.timestamps);
            names.extend(fired.due.names.iter().map(Option::unwrap_or_default));
        }
        let mut processing = false;
        if let Some(timers) = timers {
            timer_writes.at.extend(places.of(timers.column(0).as_primitive(), timers.column(3).as_binary()));
            let (domains, ops) = (timers.column(1).as_primitive::<types::UInt8Type>(), timers.column(5).as_primitive::<types::UInt8Type>());
            let given = timers.column(2).as_string::<i32>();
            for row in 0..timers.num_rows() {
                let domain = if domains.value(row) == EVENT { Domain::EventTime } else { Domain::ProcessingTime };
                processing |= domain == Domain::ProcessingTime;
                timer_writes.domains.push(domain);
                let name = given.value(row);
                timer_writes.ops.push(match (ops.value(row) == op::SET, self.columns.is_single(name)) {
                    (true, false) => TimerOp::Set,
                    (true, true) => TimerOp::Replace,
                    (false, false) => TimerOp::Delete,
                    (false, true) => TimerOp::DeleteName,
                });
                names.push(name);
            }
            timer_writes.timestamps.extend(timers.column(4).as_primitive::<types::Int64Type>().values());
        }
        timer_writes.names = Some(StringArray::from(names));
        let addresses = places.into_addresses()?;
        Ok((Commit { seq: bundle, addresses, writes: changes, timers: timer_writes, now_ms }, processing))
    }
}

/// The addresses of a commit: those of the bundle's keys, and then others as they are named.
struct Places<'a> {
    keys: &'a Arc<Addresses>,
    others: HashMap<(u32, Vec<u8>), u32>,
    order: Vec<(u32, Vec<u8>)>,
    everybody: Option<u32>,
}

impl<'a> Places<'a> {
    fn new(keys: &'a Arc<Addresses>) -> Self {
        Places { keys, others: HashMap::new(), order: Vec::new(), everybody: None }
    }

    fn next(&self) -> u32 {
        (self.keys.len() + self.order.len()) as u32
    }

    /// Of broadcast state.
    fn everybody(&mut self) -> u32 {
        let next = self.next();
        *self.everybody.get_or_insert_with(|| {
            self.order.push((u32::MAX, Vec::new()));
            next
        })
    }

    /// Of keys at namespaces, of which null is the empty one.
    fn of(&mut self, keys: &UInt32Array, namespaces: &BinaryArray) -> Vec<u32> {
        if namespaces.values().is_empty() {
            return keys.values().to_vec();
        }
        let place = |(key, namespace): (&u32, Option<&[u8]>)| match namespace {
            None | Some(&[]) => *key,
            Some(namespace) => {
                let next = self.next();
                *self.others.entry((*key, namespace.to_vec())).or_insert_with(|| {
                    self.order.push((*key, namespace.to_vec()));
                    next
                })
            }
        };
        keys.values().iter().zip(namespaces.iter()).map(place).collect()
    }

    fn into_addresses(self) -> Result<Arc<Addresses>> {
        if self.order.is_empty() {
            return Ok(self.keys.clone());
        }
        let keys = self.keys.len();
        let mut groups = self.keys.groups.clone();
        groups.extend(self.order.iter().map(|(key, _)| if *key == u32::MAX { BROADCAST_GROUP } else { self.keys.groups[*key as usize] }));
        let others = self.order.iter().map(|(key, _)| if *key == u32::MAX { &[][..] } else { self.keys.keys.value(*key as usize) });
        let all = BinaryArray::from_iter_values((0..keys).map(|key| self.keys.keys.value(key)).chain(others));
        let namespaces = (0..keys).map(|_| &[][..]).chain(self.order.iter().map(|(_, namespace)| &namespace[..]));
        Ok(Arc::new(Addresses::new(groups, all, Some(BinaryArray::from_iter_values(namespaces)))?))
    }
}

/// Where broadcast state lives.
pub(super) fn everybody() -> Result<Addresses> {
    Addresses::new(vec![BROADCAST_GROUP], BinaryArray::from_iter_values([b""]), None)
}

/// The distinct keys of timers, or their distinct keys and namespaces, and the place of each timer among them.
fn distinct(due: &DueTimers, namespaced: bool) -> Result<(Addresses, Vec<u32>)> {
    let namespace = |row: usize| if namespaced { due.namespaces.value(row) } else { &[][..] };
    let mut seen: HashMap<(&[u8], &[u8]), u32> = HashMap::with_capacity(due.len());
    let (mut rows, mut places) = (Vec::new(), Vec::with_capacity(due.len()));
    for row in 0..due.len() {
        let place = *seen.entry((due.keys.value(row), namespace(row))).or_insert_with(|| {
            rows.push(row);
            rows.len() as u32 - 1
        });
        places.push(place);
    }
    let groups = rows.iter().map(|&row| due.groups[row]).collect();
    let keys = BinaryArray::from_iter_values(rows.iter().map(|&row| due.keys.value(row)));
    let namespaces = namespaced.then(|| BinaryArray::from_iter_values(rows.iter().map(|&row| namespace(row))));
    Ok((Addresses::new(groups, keys, namespaces)?, places))
}

fn damaged(error: &ArrowError) -> Error {
    Error::new(Code::ProtocolViolation, "a bundle is damaged").detail(error.to_string())
}
