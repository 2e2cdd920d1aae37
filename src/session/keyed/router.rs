//! The router: takes a session's inputs in order, finds the keys of each batch, and gives every lane its share.

use super::{
    Item, Keyed,
    checkpoint::{self, Writer},
    cut::halves,
    executor::{Rows, Work},
    lane::{self, Step},
    store,
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::{Answer, Input, Job, claims::Claim, credit::Amount},
};
use arrow_array::RecordBatch;
use pillion_wire::{bundle::NO_WATERMARK, ipc::Decoder, proto};
use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::Instrument;

/// How often sizes of state are looked at, for metrics.
const MEASURED_EVERY: Duration = Duration::from_secs(1);

/// Steps that may wait at a lane: the next one is ready when a bundle has committed.
const LANE_QUEUE: usize = 2;

/// What is to be said of an input once all lanes are past it.
struct Last {
    lanes: usize,
    refund: Amount,
    answer: Option<Answer>,
    /// Of a watermark: by lane, up to when timers have fired, and what of it was said.
    reached: Vec<i64>,
    said: i64,
}

impl Last {
    /// A lane has come so far: what holds for all of them is said.
    fn advance(&mut self, keyed: &Keyed, seq: u64, lane: usize, timestamp_ms: i64) {
        if let Some(reached) = self.reached.get_mut(lane) {
            *reached = timestamp_ms;
        }
        let all = self.reached.iter().min().copied().unwrap_or(self.said);
        if all > self.said && self.lanes > 0 {
            self.said = all;
            keyed.session.emit(seq, Answer::Watermark { seq, watermark: proto::Watermark { timestamp_ms: all, input: 0 } });
        }
    }
}

/// Counts the lanes that are not past an input.
#[derive(Default)]
pub(super) struct Progress(Mutex<HashMap<u64, Last>>);

impl Progress {
    /// So many lanes will pass `seq`.
    fn expect(&self, keyed: &Keyed, seq: u64, lanes: usize, refund: Amount, answer: Option<Answer>) {
        if lanes == 0 {
            return keyed.session.pass(seq, refund, answer);
        }
        let reached = if matches!(answer, Some(Answer::Watermark { .. })) { vec![NO_WATERMARK; lanes] } else { Vec::new() };
        self.lock().insert(seq, Last { lanes, refund, answer, reached, said: NO_WATERMARK });
    }

    /// A lane is past `seq`.
    pub fn passed(&self, keyed: &Keyed, seq: u64, lane: usize) {
        let mut waiting = self.lock();
        let Some(last) = waiting.get_mut(&seq) else { return };
        last.lanes -= 1;
        last.advance(keyed, seq, lane, i64::MAX);
        if last.lanes == 0
            && let Some(Last { refund, answer, .. }) = waiting.remove(&seq)
        {
            drop(waiting);
            keyed.session.pass(seq, refund, answer);
        }
    }

    /// A lane fires the timers of watermark `seq`, and there are no more up to this time.
    pub fn advanced(&self, keyed: &Keyed, seq: u64, lane: usize, timestamp_ms: i64) {
        if let Some(last) = self.lock().get_mut(&seq) {
            last.advance(keyed, seq, lane, timestamp_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session has until it is over.
pub(super) struct Held {
    /// Its key groups.
    pub range: RangeInclusive<u16>,
    /// Keeps others from having them.
    pub claim: Option<Claim>,
    /// `None` if the engine has no place for checkpoints.
    pub writer: Option<Writer>,
}

/// Serves a session until it is over.
pub(super) async fn route(keyed: Arc<Keyed>, mut items: mpsc::UnboundedReceiver<Item>, held: Held, lanes: usize) {
    let cancelled = keyed.session.ended();
    let Held { range, claim, writer } = held;
    let routed = async {
        let mut router = Router::new(keyed.clone(), range, lanes, writer)?;
        while let Some(item) = items.recv().await {
            router.take(item).await?;
        }
        Ok(())
    };
    let fenced = async {
        match &claim {
            Some(claim) => claim.fenced().await,
            None => std::future::pending().await,
        }
    };
    let measured = async {
        let mut ticks = tokio::time::interval(MEASURED_EVERY);
        loop {
            ticks.tick().await;
            keyed.metrics.saw(keyed.backend.sizes());
        }
    };
    let outcome: Result<()> = tokio::select! {
        outcome = routed => outcome,
        () = cancelled => Ok(()),
        why = fenced => Err(why),
        () = measured => Ok(()),
    };
    if let Err(error) = outcome {
        keyed.session.cancel(error);
    }
    keyed.calls.cancel();
    // What was read since the last look counts, too.
    keyed.metrics.saw(keyed.backend.sizes());
    if let Err(error) = keyed.backend.close() {
        tracing::warn!("the state of a session cannot be removed: {error}");
    }
}

/// An input of the session.
struct From {
    decoder: Decoder,
    broadcast: bool,
    watermark: i64,
    idle: bool,
}

struct Router {
    keyed: Arc<Keyed>,
    inputs: Vec<From>,
    lanes: Vec<mpsc::Sender<Step>>,
    /// The lane of each key group, from the first.
    lane_of: Vec<usize>,
    first_group: u16,
    progress: Arc<Progress>,
    watermark: i64,
    /// The key groups of checkpoints.
    groups: Vec<u16>,
    writer: Option<Writer>,
}

impl Router {
    fn new(keyed: Arc<Keyed>, groups: RangeInclusive<u16>, lanes: usize, writer: Option<Writer>) -> Result<Self> {
        let unreadable = |error| Error::new(Code::UnsupportedType, format!("the input cannot be read: {error}"));
        let inputs = keyed.layout.rows.iter().zip(keyed.columns.inputs()).map(|(rows, input)| {
            let decoder = Decoder::new(rows).map_err(unreadable)?;
            Ok(From { decoder, broadcast: input.broadcast, watermark: NO_WATERMARK, idle: false })
        });
        let inputs = inputs.collect::<Result<_>>()?;
        let all_groups = store::all_groups(groups.clone(), &keyed.columns);
        let (first_group, all) = (*groups.start(), groups.count());
        let lanes = lanes.clamp(1, all);
        let lane_of: Vec<usize> = (0..all).map(|at| at * lanes / all).collect();
        let progress = Arc::<Progress>::default();
        let senders = (0..lanes).map(|lane| {
            let (sender, steps) = mpsc::channel(LANE_QUEUE);
            let groups = (0..all).filter(|&at| lane_of[at] == lane).map(|at| first_group + at as u16).collect();
            let span = tracing::debug_span!("lane", lane);
            tokio::spawn(lane::run(keyed.clone(), lane, groups, steps, progress.clone()).instrument(span));
            sender
        });
        let lanes = senders.collect();
        Ok(Router { keyed, inputs, lanes, lane_of, first_group, progress, watermark: NO_WATERMARK, groups: all_groups, writer })
    }

    async fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Batch { job, input } => self.batch(job, input).await,
            Item::Mark { seq, mark } => self.mark(seq, mark).await,
            Item::End { seq } => {
                if let Some(writer) = self.writer.take() {
                    writer.finish().await;
                }
                self.to_all(seq, None, || Step::End { seq }).await
            }
        }
    }

    async fn batch(&mut self, job: Job, input: u32) -> Result<()> {
        let Some(from) = self.inputs.get(input as usize) else {
            return Err(Error::new(Code::ProtocolViolation, format!("the session has no input {input}")));
        };
        let rows = match &job.batch {
            Batch::Arrow(batch) => batch.clone(),
            Batch::Frame(frame) => from.decoder.decode(frame).map_err(|error| {
                Error::new(Code::ProtocolViolation, format!("input {} cannot be decoded", job.seq)).detail(error.to_string())
            })?,
        };
        let (seq, queued, columns) = (job.seq, job.queued, &self.keyed.columns);
        let sealed = Some(Answer::Sealed { seq, refund: job.cost });
        if from.broadcast {
            // Runs once, while all lanes stand at its position.
            let _standing = self.rendezvous().await?;
            self.progress.expect(&self.keyed, seq, 1, job.cost, sealed);
            self.broadcast(seq, queued, input, rows).await?;
            self.progress.passed(&self.keyed, seq, 0);
            return Ok(());
        }
        let shares = columns.shares(input, rows, self.lanes.len(), |group| self.lane(group))?;
        self.progress.expect(&self.keyed, seq, shares.len(), job.cost, sealed);
        for (lane, share) in shares {
            self.send(lane, Step::Rows { seq, queued, share: Box::new(share) }).await?;
        }
        Ok(())
    }

    /// Executes elements for all keys: in one bundle, or if that would be too large, in several.
    async fn broadcast(&self, seq: u64, queued: Instant, input: u32, rows: RecordBatch) -> Result<()> {
        let elements = Rows { input, timestamps: self.keyed.columns.timestamps(input, &rows)?, rows: rows.clone(), key_index: None };
        match self.keyed.execute(Work::broadcast(seq, queued, elements, self.watermark)).await {
            Err(error) if error.code() == Code::BatchTooLarge => {
                for half in halves(&rows, &error)? {
                    Box::pin(self.broadcast(seq, queued, input, half)).await?;
                }
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// The lane of a key group; an error for one that is not this operator's.
    fn lane(&self, group: u16) -> Result<usize> {
        let at = group.checked_sub(self.first_group).map(usize::from);
        at.and_then(|at| self.lane_of.get(at)).copied().ok_or_else(|| {
            Error::new(Code::ProtocolViolation, format!("a row is of key group {group}, which is not this session's"))
                .hint("send each row to the operator of its key group")
        })
    }

    async fn mark(&mut self, seq: u64, mark: Input) -> Result<()> {
        match mark {
            Input::Watermark(proto::Watermark { timestamp_ms, input }) => {
                let from = self.input(input)?;
                if timestamp_ms < from.watermark {
                    let message = format!("a watermark of {timestamp_ms} follows one of {}", from.watermark);
                    return Err(Error::new(Code::ProtocolViolation, message).hint("event time does not go back: send the largest so far"));
                }
                from.watermark = timestamp_ms;
                self.advance(seq).await
            }
            Input::Idle(proto::Idle { idle, input }) => {
                self.input(input)?.idle = idle;
                self.advance(seq).await
            }
            Input::ProcessingTime(now_ms) => {
                if !self.keyed.clock.is_hosts() {
                    return Err(
                        Error::new(Code::ProtocolViolation, "the host is not the session's clock").hint("open it with `host_clock`")
                    );
                }
                // Rows before it see the old time.
                let standing = self.rendezvous().await?;
                if !self.keyed.clock.advance(now_ms) {
                    return Err(Error::new(Code::ProtocolViolation, "processing time went back"));
                }
                drop(standing);
                self.to_all(seq, None, || Step::Tick { seq }).await
            }
            Input::Barrier(proto::Barrier { checkpoint_id }) => self.snapshot(seq, checkpoint_id).await,
            Input::Discard(handle) => {
                if let Some(writer) = &self.writer {
                    writer.discard(handle).await;
                }
                self.keyed.session.pass(seq, Amount::default(), None);
                Ok(())
            }
            Input::Batch(_) | Input::Other(..) => {
                self.keyed.session.pass(seq, Amount::default(), None);
                Ok(())
            }
        }
    }

    /// All lanes stand at a barrier while a view is taken; it is written while they go on.
    async fn snapshot(&self, seq: u64, checkpoint_id: u64) -> Result<()> {
        let standing = self.rendezvous().await?;
        let Keyed { session, backend, clock, .. } = &*self.keyed;
        let view = self.writer.as_ref().map(|_| backend.view(&self.groups, clock.now_ms())).transpose()?;
        session.pass(seq, Amount::default(), Some(Answer::Snapshotted { seq, checkpoint_id }));
        drop(standing);
        match (&self.writer, view) {
            (Some(writer), Some(view)) => writer.write(seq, checkpoint_id, view).await,
            _ if self.keyed.host.is_some() => {}
            _ => session.report(seq, checkpoint::nowhere(checkpoint_id)),
        }
        Ok(())
    }

    fn input(&mut self, input: u32) -> Result<&mut From> {
        let missing = || Error::new(Code::ProtocolViolation, format!("the session has no input {input}"));
        self.inputs.get_mut(input as usize).ok_or_else(missing)
    }

    /// Event time is that of the input that is furthest behind, of those that are not idle.
    async fn advance(&mut self, seq: u64) -> Result<()> {
        let slowest = self.inputs.iter().filter(|from| !from.idle).map(|from| from.watermark).min();
        match slowest.filter(|&slowest| slowest > self.watermark) {
            Some(timestamp_ms) => {
                self.watermark = timestamp_ms;
                let answer = Answer::Watermark { seq, watermark: proto::Watermark { timestamp_ms, input: 0 } };
                self.to_all(seq, Some(answer), || Step::Watermark { seq, timestamp_ms }).await
            }
            None => {
                self.keyed.session.pass(seq, Amount::default(), None);
                Ok(())
            }
        }
    }

    async fn to_all(&self, seq: u64, answer: Option<Answer>, step: impl Fn() -> Step) -> Result<()> {
        self.progress.expect(&self.keyed, seq, self.lanes.len(), Amount::default(), answer);
        for lane in 0..self.lanes.len() {
            self.send(lane, step()).await?;
        }
        Ok(())
    }

    /// Waits until all lanes have done what they were given. They stand until what it gives is dropped: not even a timer in processing time fires meanwhile.
    async fn rendezvous(&self) -> Result<Standing> {
        let mut arrivals = Vec::with_capacity(self.lanes.len());
        let (standing, go_on) = watch::channel(());
        for lane in 0..self.lanes.len() {
            let (arrived, arrival) = oneshot::channel();
            self.send(lane, Step::Rendezvous { arrived, go_on: go_on.clone() }).await?;
            arrivals.push(arrival);
        }
        for arrival in arrivals {
            arrival.await.map_err(|_| gone())?;
        }
        Ok(Standing(standing))
    }

    async fn send(&self, lane: usize, step: Step) -> Result<()> {
        self.lanes[lane].send(step).await.map_err(|_| gone())
    }
}

/// All lanes stand; dropped, they go on.
struct Standing(#[expect(dead_code, reason = "what counts is when it goes")] watch::Sender<()>);

/// A lane that ends has ended the session before.
fn gone() -> Error {
    Error::new(Code::SessionClosed, "the session is over")
}
