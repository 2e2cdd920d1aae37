//! Coalescing: small batches of a session travel together, where its operator allows a delay.
//!
//! As Nagle's algorithm does with bytes: a batch is sent at once while nothing of the session is on its way. Otherwise batches are gathered until there are
//! `max_rows` of them, until the first has waited for `max_delay`, or until everything on its way was answered. They travel and run as one batch; its result is cut back, so
//! that the operator sees an answer per batch it sent, under that batch's number and in its order. If a joint batch fails, its parts run again one by one, so that
//! only the guilty ones fail, and with the right row.
//!
//! The engine sees other batches than the operator, so there are two sequences of numbers: [`Coalescer`] keeps what each of the engine's stands for. Only for
//! plans whose results have as many rows as their inputs.

use super::{
    link::Shared,
    open::Allowance,
    sender::Sender,
    session::Output,
    shares::{nanos, shared_out},
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::{Input, Order, credit::Amount},
};
use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use pillion_wire::proto;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Waker,
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Batches from this size on travel alone, and no joint batch is larger: copying them together costs more than a trip.
const MAX_BYTES: u64 = 256 * 1024;

/// Stands between a session's halves and its engine.
pub(super) struct Coalescer {
    shared: Arc<Shared>,
    allowance: Allowance,
    state: Mutex<State>,
    /// Something was gathered that was not waited for.
    gathering: Arc<Notify>,
    timer: AbortHandle,
}

struct State {
    sender: Sender,
    /// As the operator counts.
    last_seq: u64,
    gathered: Vec<Part>,
    rows: u64,
    bytes: i64,
    /// What the engine has, by its own numbers.
    sent: HashMap<u64, Sent>,
    /// Batches among them, and joint ones among these.
    on_the_way: usize,
    joint: usize,
    /// Parts of joint batches that failed, to run alone.
    again: VecDeque<Part>,
    /// The operator has finished; the engine is told once nothing can run again.
    finished: bool,
    told: bool,
    order: Order<Result<Output>>,
    reader: Option<Waker>,
    /// Batches answered, and failed.
    answered: u64,
    failed: u64,
}

/// A batch of the operator's.
struct Part {
    seq: u64,
    batch: RecordBatch,
    /// What was taken from the gate for it.
    cost: Amount,
    since: Instant,
}

/// What an input of the engine's stands for.
enum Sent {
    Alone { seq: u64, waited: Duration },
    Joint { parts: Vec<Part>, at: Instant },
    Mark(u64),
}

impl Coalescer {
    /// Takes over the sending end. Starts a timer; needs a tokio runtime with time.
    pub fn new(shared: Arc<Shared>, sender: Sender, allowance: Allowance) -> Arc<Self> {
        let gathering = Arc::new(Notify::new());
        let max_rows = allowance.max_rows.clamp(1, sender.limits().max_batch_rows.max(1));
        let state = State {
            sender,
            last_seq: 0,
            gathered: Vec::new(),
            rows: 0,
            bytes: 0,
            sent: HashMap::new(),
            on_the_way: 0,
            joint: 0,
            again: VecDeque::new(),
            finished: false,
            told: false,
            order: Order::new(allowance.ordered),
            reader: None,
            answered: 0,
            failed: 0,
        };
        Arc::new_cyclic(|this: &Weak<Coalescer>| {
            let timer = tokio::spawn(watch(this.clone(), gathering.clone())).abort_handle();
            let allowance = Allowance { max_rows, ..allowance };
            Coalescer { shared, allowance, state: Mutex::new(state), gathering, timer }
        })
    }

    /// See [`super::SessionInput::send`].
    pub async fn send(&self, batch: RecordBatch) -> Result<u64> {
        // Of a part this is about what it will cost; what it does is settled when it is sent.
        let small = Batch::Arrow(batch.clone());
        let cost = Amount::of(small.bytes(), small.rows());
        let is_small = small.rows() < self.allowance.max_rows && small.bytes() < MAX_BYTES;
        let ready = {
            let mut state = self.lock();
            state.sender.check(&batch)?;
            if !is_small || state.is_idle() {
                self.flush(&mut state);
                Some(state.sender.prepared(&batch)?)
            } else {
                if state.rows + small.rows() > self.allowance.max_rows || state.bytes.saturating_add(cost.bytes) > MAX_BYTES as i64 {
                    self.flush(&mut state);
                }
                None
            }
        };
        let cost = ready.as_ref().map_or(cost, |ready| Amount::of(ready.bytes(), ready.rows()));
        if !self.shared.gate.try_take(cost) {
            // What was gathered must not keep the credit that this batch waits for.
            self.flush(&mut self.lock());
            if !self.shared.admitted(cost).await {
                return Err(Error::new(Code::SessionClosed, "the session is over"));
            }
        }
        let mut state = self.lock();
        let seq = state.last_seq + 1;
        match ready {
            Some(ready) => state.push_alone(seq, ready, Duration::ZERO)?,
            None => {
                if state.gathered.is_empty() {
                    self.gathering.notify_one();
                }
                state.rows += batch.num_rows() as u64;
                state.bytes = state.bytes.saturating_add(cost.bytes);
                state.gathered.push(Part { seq, batch, cost, since: Instant::now() });
            }
        }
        state.last_seq = seq;
        if state.rows >= self.allowance.max_rows || (state.on_the_way == 0 && state.again.is_empty()) {
            self.flush(&mut state);
        }
        Ok(seq)
    }

    /// Passes a mark on, behind what was sent before it.
    pub fn mark(&self, input: Input) -> Result<u64> {
        let mut state = self.lock();
        self.flush(&mut state);
        let sent = state.sender.push(input)?;
        let seq = state.last_seq + 1;
        state.sent.insert(sent, Sent::Mark(seq));
        state.last_seq = seq;
        Ok(seq)
    }

    /// No more input.
    pub fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        self.flush(&mut state);
        state.finished = true;
        state.tell()
    }

    /// The next answer that may be released; else `waker` is woken when there is one of this side's own making.
    pub fn pop(&self, waker: &Waker) -> Option<Result<Output>> {
        let mut state = self.lock();
        let output = state.order.pop();
        if output.is_none() {
            state.reader = Some(waker.clone());
        }
        output
    }

    /// The engine has answered its batch `seq`.
    pub fn answer(&self, seq: u64, result: Result<RecordBatch>, timing: proto::Timing, metrics: Vec<proto::MetricDelta>) -> Result<()> {
        let mut state = self.lock();
        match state.sent.remove(&seq) {
            Some(Sent::Alone { seq, waited }) => {
                state.on_the_way -= 1;
                let timing = proto::Timing { queue_ns: timing.queue_ns.saturating_add(nanos(waited)), ..timing };
                state.release(seq, result.map(|batch| Output { seq, tag: None, batch, timing, metrics }));
            }
            Some(Sent::Joint { parts, at }) => {
                state.on_the_way -= 1;
                state.joint -= 1;
                state.part(parts, at, result, &timing, metrics);
            }
            Some(Sent::Mark(_)) | None => {
                return Err(Error::new(Code::ProtocolViolation, format!("the engine answered batch {seq}, which is not on its way")));
            }
        }
        self.go_on(&mut state);
        Ok(())
    }

    /// The engine has passed mark `seq`.
    pub fn passed(&self, seq: u64) {
        let mut state = self.lock();
        if let Some(Sent::Mark(seq)) = state.sent.remove(&seq) {
            state.order.mark(seq, None);
        }
    }

    /// Sends what had to wait for credit; true if something was sent.
    pub fn retry(&self) -> bool {
        let mut state = self.lock();
        let before = state.again.len();
        if before > 0 {
            self.go_on(&mut state);
        }
        state.again.len() < before
    }

    /// The engine's totals, with the batches as the operator counts them.
    pub fn totals(&self, ended: proto::Ended) -> proto::Ended {
        let state = self.lock();
        proto::Ended { batches: state.answered, failed: state.failed, ..ended }
    }

    /// After an answer: parts run again as far as credit goes; if nothing is on its way any more, nothing needs to wait.
    fn go_on(&self, state: &mut State) {
        while let Some(part) = state.again.pop_front() {
            if !self.shared.gate.try_take(part.cost) {
                state.again.push_front(part);
                break;
            }
            self.send_alone(state, part);
        }
        if state.on_the_way == 0 && state.again.is_empty() {
            self.flush(state);
        }
        // A stream that is closed is reported by whoever reads.
        let _ = state.tell();
    }

    /// Sends what was gathered. That the session is over is said by whoever reads, or by the next call.
    fn flush(&self, state: &mut State) {
        (state.rows, state.bytes) = (0, 0);
        let parts = std::mem::take(&mut state.gathered);
        if parts.len() > 1 {
            let joint = concat_batches(state.sender.schema(), parts.iter().map(|part| &part.batch)).ok();
            // Too large together, or of too many distinct values for the keys of a dictionary: then they go alone.
            if let Some(batch) = joint.and_then(|joint| state.sender.prepared(&joint).ok()) {
                self.settle(parts.iter().fold(Amount::default(), |sum, part| sum.plus(part.cost)), &batch);
                if let Ok(seq) = state.sender.push(Input::Batch(batch)) {
                    state.on_the_way += 1;
                    state.joint += 1;
                    state.sent.insert(seq, Sent::Joint { parts, at: Instant::now() });
                }
                return;
            }
        }
        parts.into_iter().for_each(|part| self.send_alone(state, part));
    }

    fn send_alone(&self, state: &mut State, part: Part) {
        match state.sender.prepared(&part.batch) {
            Ok(batch) => {
                self.settle(part.cost, &batch);
                // As in `flush`.
                let _ = state.push_alone(part.seq, batch, part.since.elapsed());
            }
            Err(error) => {
                self.shared.gate.give(part.cost);
                state.release(part.seq, Err(error));
                if let Some(reader) = state.reader.take() {
                    reader.wake();
                }
            }
        }
    }

    /// The gate gets back what a batch costs less than was taken for it, so that both sides count the same.
    fn settle(&self, taken: Amount, batch: &Batch) {
        self.shared.gate.give(taken.minus(Amount::of(batch.bytes(), batch.rows())));
    }

    /// When the first of what is gathered has waited long enough.
    fn due(&self) -> Option<Instant> {
        self.lock().gathered.first().map(|part| part.since + self.allowance.max_delay)
    }

    fn flush_due(&self) {
        let mut state = self.lock();
        if state.gathered.first().is_some_and(|part| part.since.elapsed() >= self.allowance.max_delay) {
            self.flush(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Coalescer {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// Sends what has waited long enough; ends with its coalescer.
async fn watch(coalescer: Weak<Coalescer>, gathering: Arc<Notify>) {
    loop {
        gathering.notified().await;
        while let Some(due) = coalescer.upgrade().and_then(|coalescer| coalescer.due()) {
            sleep_until(due).await;
            if let Some(coalescer) = coalescer.upgrade() {
                coalescer.flush_due();
            }
        }
    }
}

impl State {
    /// Nothing is on its way, and nothing waits to be.
    fn is_idle(&self) -> bool {
        self.on_the_way == 0 && self.gathered.is_empty() && self.again.is_empty()
    }

    fn push_alone(&mut self, seq: u64, batch: Batch, waited: Duration) -> Result<()> {
        let sent = self.sender.push(Input::Batch(batch))?;
        self.on_the_way += 1;
        self.sent.insert(sent, Sent::Alone { seq, waited });
        Ok(())
    }

    /// Cuts the answer to a joint batch into those of its parts.
    fn part(
        &mut self,
        parts: Vec<Part>,
        at: Instant,
        result: Result<RecordBatch>,
        timing: &proto::Timing,
        mut metrics: Vec<proto::MetricDelta>,
    ) {
        let Ok(joint) = result else {
            self.again.extend(parts);
            return;
        };
        let rows: usize = parts.iter().map(|part| part.batch.num_rows()).sum();
        if joint.num_rows() != rows {
            let message = format!("the engine answered {rows} rows with {}", joint.num_rows());
            parts.iter().for_each(|part| self.release(part.seq, Err(Error::new(Code::ProtocolViolation, &message))));
            return;
        }
        let mut done = 0;
        for part in parts {
            let count = part.batch.num_rows();
            let timing = shared_out(timing, (done, count, rows), at.saturating_duration_since(part.since));
            let batch = joint.slice(done, count);
            done += count;
            // What a function counts cannot be told apart; the first part has all of it.
            let metrics = std::mem::take(&mut metrics);
            self.release(part.seq, Ok(Output { seq: part.seq, tag: None, batch, timing, metrics }));
        }
    }

    fn release(&mut self, seq: u64, result: Result<Output>) {
        match &result {
            Ok(_) => self.answered += 1,
            Err(_) => self.failed += 1,
        }
        self.order.answer(seq, result.map_err(|error| error.at(seq)));
    }

    /// Tells the engine of the end once nothing can run again.
    fn tell(&mut self) -> Result<()> {
        if !self.finished || self.told || self.joint > 0 || !self.again.is_empty() {
            return Ok(());
        }
        self.told = true;
        self.sender.finish()
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
