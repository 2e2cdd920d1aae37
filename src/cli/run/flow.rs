//! Moves batches from the input through the session to the output, all three at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use pillion::host::{SessionInput, Timing};
use pillion::metrics::MetricTotals;
use pillion::{Code, Error, Session};
use tokio::sync::{mpsc, oneshot};

use super::commits::{Barriers, CheckpointTotals, Commits};
use super::cut::Cutter;
use super::drain::Drain;
use super::keyed::Watermarks;
use super::plan::{Assembly, Binding};
use super::writer::{self, Destination};
use crate::cli::failure::Failure;
use crate::cli::io::{Input, Stop};
use crate::cli::progress::Progress;

/// Batches that may wait between two stages.
const WAITING: usize = 2;
/// Batches that may be under way in the session; its own credits are the narrower limit for large ones.
const UNDER_WAY: usize = 64;
/// The same with checkpoints: a barrier waits for all that was sent before it, and these keep the lanes busy.
const BEFORE_BARRIER: usize = 8;

/// Everything that one run moves.
pub struct Flow {
    pub input: Input,
    pub cutter: Cutter,
    pub session: Session,
    pub binding: Binding,
    pub assembly: Assembly,
    pub output: Destination,
    /// Side outputs by tag.
    pub sides: Vec<(String, Destination)>,
    /// Batches have any number of results, which come before they are sealed.
    pub keyed: bool,
    /// How event time goes on.
    pub watermarks: Option<Watermarks>,
    /// Whether a batch over the size limit may be sent in parts.
    pub may_split: bool,
    /// Rows of the input that an earlier run has worked off.
    pub first_row: u64,
    /// Of a run with checkpoints.
    pub checkpoints: Option<(Commits, Barriers)>,
}

/// What was moved, and where the time went.
#[derive(Debug, Default)]
pub struct Totals {
    pub rows_in: u64,
    pub rows_out: u64,
    /// Rows of side outputs that nobody asked for, by tag.
    pub left_out: BTreeMap<String, u64>,
    pub batches: u64,
    pub retries: u64,
    /// Columns with fewer nulls than before, and how many fewer.
    pub filled: Vec<(String, u64)>,
    /// Who read standard output has gone before the end.
    pub reader_gone: bool,
    /// From the first batch read to the last one written.
    pub elapsed: Duration,
    pub read: Duration,
    pub write: Duration,
    /// Of the session, summed over its workers.
    pub queue: Duration,
    pub wire: Duration,
    pub convert: Duration,
    pub user: Duration,
    /// In stateful functions.
    pub state: Duration,
    /// What the functions counted.
    pub metrics: MetricTotals,
    pub checkpoints: CheckpointTotals,
}

impl Totals {
    /// Adds the times of a batch.
    pub fn add(&mut self, timing: &Timing) {
        self.queue += Duration::from_nanos(timing.queue_ns);
        self.wire += Duration::from_nanos(timing.wire_ns);
        self.convert += Duration::from_nanos(timing.convert_ns);
        self.user += Duration::from_nanos(timing.user_ns);
        self.state += Duration::from_nanos(timing.state_ns);
    }
}

/// A batch that was sent and waits for its result.
pub struct Sent {
    pub batch: RecordBatch,
    /// Rows of the input before it.
    pub first_row: u64,
}

impl Flow {
    /// Moves everything. Dropping the future gives up: the session is cancelled and the output not finished.
    ///
    /// # Errors
    /// The first failure of any stage.
    pub async fn run(self, progress: &mut Progress) -> Result<Totals, Failure> {
        let started = Instant::now();
        let name = self.input.name().to_owned();
        let (batches, read_time) = spawn_reader(self.input, self.cutter);
        let (writes, written) = writer::spawn(self.output);
        let (mut sides, mut all_written) = (Vec::new(), vec![written]);
        for (tag, output) in self.sides {
            let (writes, written) = writer::spawn(output);
            sides.push((tag, writes));
            all_written.push(written);
        }
        let (input, output) = self.session.split();
        let (sent, under_way) = mpsc::channel(if self.checkpoints.is_some() { BEFORE_BARRIER } else { UNDER_WAY });
        let (commits, barriers) = self.checkpoints.unzip();
        let (binding, watermarks, may_split) = (self.binding, self.watermarks, self.may_split);
        let feed = Feed { batches, input, sent, binding, watermarks, may_split, barriers, row: self.first_row };
        let (assembly, keyed) = (self.assembly, self.keyed);
        let drain = Drain { output, under_way, writes, sides, keyed, commits, assembly, totals: Totals::default(), name };
        let (_, mut totals) = match tokio::try_join!(feed.run(), drain.run(progress)) {
            Ok(done) => done,
            // The other stages ended because the writer did; what it has to say is the reason.
            Err(Early::Writer) => ((), Totals::default()),
            Err(Early::Failed(failure)) => return Err(failure),
        };
        let mut gave_up = false;
        for written in all_written {
            match written.await {
                Ok(Ok(write)) => totals.write += write,
                Ok(Err(Stop::ReaderGone)) => totals.reader_gone = true,
                Ok(Err(Stop::Failed(failure))) => return Err(failure),
                // Because another one did, or its thread has panicked.
                Err(_) => gave_up = true,
            }
        }
        if gave_up && !totals.reader_gone {
            return Err(broken("a writing thread ended early"));
        }
        totals.read = read_time.await.unwrap_or_default();
        totals.elapsed = started.elapsed();
        Ok(totals)
    }
}

/// Why the stages around the session ended before the end.
pub enum Early {
    /// The writer takes nothing more.
    Writer,
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Early {
    fn from(failure: F) -> Self {
        Early::Failed(failure.into())
    }
}

/// Reads and cuts batches on a thread of its own; gives them, and at the end the time that took.
fn spawn_reader(mut input: Input, mut cutter: Cutter) -> (mpsc::Receiver<Result<RecordBatch, Failure>>, oneshot::Receiver<Duration>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (told, time) = oneshot::channel();
    std::thread::spawn(move || {
        let mut busy = Duration::ZERO;
        loop {
            let since = Instant::now();
            let next = input.next_batch();
            let last = next.is_none();
            let outcome = match next {
                Some(Ok(batch)) => cutter.push(batch),
                Some(Err(failure)) => Err(failure),
                None => cutter.finish(),
            };
            busy += since.elapsed();
            while let Some(batch) = cutter.pop() {
                if sender.blocking_send(Ok(batch)).is_err() {
                    return;
                }
            }
            if let Err(failure) = outcome {
                // A receiver that is gone has a failure of its own to tell.
                let _ = sender.blocking_send(Err(failure));
                return;
            }
            if last {
                let _ = told.send(busy);
                return;
            }
        }
    });
    (receiver, time)
}

/// From the reader into the session.
struct Feed {
    batches: mpsc::Receiver<Result<RecordBatch, Failure>>,
    input: SessionInput,
    sent: mpsc::Sender<Sent>,
    binding: Binding,
    watermarks: Option<Watermarks>,
    may_split: bool,
    barriers: Option<Barriers>,
    /// Rows of the input that were sent, by this run or an earlier one.
    row: u64,
}

impl Feed {
    async fn run(mut self) -> Result<(), Early> {
        if let Some(watermark) = self.watermarks.as_ref().and_then(Watermarks::reached)
            && !is_open(self.input.watermark(watermark).await)?
        {
            return Ok(());
        }
        loop {
            let next = tokio::select! {
                biased;
                () = due(self.barriers.as_ref(), self.row) => None,
                next = self.batches.recv() => Some(next),
            };
            let goes_on = match next {
                None => self.barrier().await?,
                Some(Some(batch)) => self.take(batch?).await?,
                Some(None) => break,
            };
            if !goes_on {
                return Ok(());
            }
        }
        if let Some(barriers) = &self.barriers {
            // Nothing is left half done when the last commit comes.
            barriers.settled().await;
        }
        is_open(self.input.finish().await.map(|()| 0)).map(drop)
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<bool, Early> {
        let rows = batch.num_rows() as u64;
        let goes_on = self.send(batch, self.row).await?;
        self.row += rows;
        Ok(goes_on)
    }

    /// Sends a barrier behind all that was sent.
    async fn barrier(&mut self) -> Result<bool, Early> {
        let Some(barriers) = &mut self.barriers else { return Ok(true) };
        let number = barriers.place(self.row, self.watermarks.as_ref().and_then(Watermarks::reached));
        is_open(self.input.barrier(number).await)
    }

    /// Sends a batch, in halves as often as it takes if it is too large and may be split. False if the session is over, whose other half says why.
    async fn send(&mut self, batch: RecordBatch, first_row: u64) -> Result<bool, Early> {
        let mut parts = vec![(batch, first_row)];
        while let Some((batch, first_row)) = parts.pop() {
            let columns = self.binding.sent(&batch).map_err(|error| broken(&error.to_string()))?;
            match self.input.send(columns).await {
                Ok(_) => {}
                Err(error) if error.code() == Code::SessionClosed => return Ok(false),
                Err(error) if error.code() == Code::BatchTooLarge => {
                    if !self.may_split || batch.num_rows() < 2 {
                        return Err(too_large(&error, &batch).into());
                    }
                    let half = batch.num_rows() / 2;
                    parts.push((batch.slice(half, batch.num_rows() - half), first_row + half as u64));
                    parts.push((batch.slice(0, half), first_row));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let watermark = self.watermarks.as_mut().map(|watermarks| watermarks.after(&batch)).transpose()?.flatten();
            if self.sent.send(Sent { batch, first_row }).await.is_err() {
                return Ok(false);
            }
            if let Some(watermark) = watermark
                && !is_open(self.input.watermark(watermark).await)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Waits until a checkpoint is due.
async fn due(barriers: Option<&Barriers>, rows: u64) {
    match barriers {
        Some(barriers) => barriers.due(rows).await,
        None => std::future::pending().await,
    }
}

/// False if the session is over, whose other half says why.
fn is_open(sent: Result<u64, Error>) -> Result<bool, Early> {
    match sent {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Code::SessionClosed => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn too_large(error: &Error, batch: &RecordBatch) -> Failure {
    let hint = if batch.num_rows() < 2 {
        "one row alone is over it: raise `limits.max_batch_bytes` in a configuration file"
    } else {
        "use smaller batches with `--batch-rows N`, or raise `limits.max_batch_bytes` and `limits.max_batch_rows` in a configuration file"
    };
    Failure::data(error.message()).hint(hint)
}

/// A mistake of this program.
pub fn broken(what: &str) -> Failure {
    Error::new(Code::InvariantBroken, format!("a run cannot go on: {what}")).into()
}
