//! Moves batches from the input through the session to the output, all three at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use pillion::host::{SessionInput, SessionOutput, Timing};
use pillion::metrics::MetricTotals;
use pillion::{Code, Error, Event, Session};
use tokio::sync::{mpsc, oneshot};

use super::cut::Cutter;
use super::keyed::Watermarks;
use super::plan::{Assembly, Binding};
use crate::cli::failure::Failure;
use crate::cli::io::{Input, Output, Stop};
use crate::cli::progress::{Progress, count};

/// Batches that may wait between two stages.
const WAITING: usize = 2;
/// Batches that may be under way in the session; its own credits are the narrower limit for large ones.
const UNDER_WAY: usize = 64;
/// How often progress is shown while no result comes.
const REDRAW: Duration = Duration::from_millis(500);

/// Everything that one run moves.
pub struct Flow {
    pub input: Input,
    pub cutter: Cutter,
    pub session: Session,
    pub binding: Binding,
    pub assembly: Assembly,
    pub output: Output,
    /// Side outputs by tag.
    pub sides: Vec<(String, Output)>,
    /// Batches have any number of results, which come before they are sealed.
    pub keyed: bool,
    /// How event time goes on.
    pub watermarks: Option<Watermarks>,
    /// Whether a batch over the size limit may be sent in parts.
    pub may_split: bool,
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
}

impl Totals {
    fn add(&mut self, timing: &Timing) {
        self.queue += Duration::from_nanos(timing.queue_ns);
        self.wire += Duration::from_nanos(timing.wire_ns);
        self.convert += Duration::from_nanos(timing.convert_ns);
        self.user += Duration::from_nanos(timing.user_ns);
        self.state += Duration::from_nanos(timing.state_ns);
    }
}

/// A batch that was sent and waits for its result.
struct Sent {
    batch: RecordBatch,
    /// Rows of the input before it.
    first_row: u64,
}

/// For the writing thread. A channel that closes without `Finish` means that the output is given up.
enum Write {
    Batch(RecordBatch),
    Finish,
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
        let (writes, written) = spawn_writer(self.output);
        let (mut sides, mut all_written) = (Vec::new(), vec![written]);
        for (tag, output) in self.sides {
            let (writes, written) = spawn_writer(output);
            sides.push((tag, writes));
            all_written.push(written);
        }
        let (input, output) = self.session.split();
        let (sent, under_way) = mpsc::channel(UNDER_WAY);
        let feed = Feed { batches, input, sent, binding: self.binding, watermarks: self.watermarks, may_split: self.may_split };
        let (assembly, keyed) = (self.assembly, self.keyed);
        let drain = Drain { output, under_way, writes, sides, keyed, assembly, totals: Totals::default(), name };
        let (_, mut totals) = match tokio::try_join!(feed.run(), drain.run(progress)) {
            Ok(done) => done,
            // The other stages ended because the writer did; what it has to say is the reason.
            Err(Early::Writer) => ((), Totals::default()),
            Err(Early::Failed(failure)) => return Err(failure),
        };
        for written in all_written {
            match written.await.map_err(|_| broken("the writing thread ended early"))? {
                Ok(write) => totals.write += write,
                Err(Stop::ReaderGone) => totals.reader_gone = true,
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        totals.read = read_time.await.unwrap_or_default();
        totals.elapsed = started.elapsed();
        Ok(totals)
    }
}

/// Why the stages around the session ended before the end.
enum Early {
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

/// Writes batches on a thread of its own; tells at the end how long that took.
fn spawn_writer(mut output: Output) -> (mpsc::Sender<Write>, oneshot::Receiver<Result<Duration, Stop>>) {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let (told, outcome) = oneshot::channel();
    std::thread::spawn(move || {
        let mut busy = Duration::ZERO;
        while let Some(write) = receiver.blocking_recv() {
            let since = Instant::now();
            match write {
                Write::Batch(batch) => {
                    if let Err(stop) = output.write(&batch) {
                        let _ = told.send(Err(stop));
                        return;
                    }
                    busy += since.elapsed();
                }
                Write::Finish => {
                    let outcome = output.finish().map(|()| busy + since.elapsed());
                    let _ = told.send(outcome);
                    return;
                }
            }
        }
    });
    (sender, outcome)
}

/// From the reader into the session.
struct Feed {
    batches: mpsc::Receiver<Result<RecordBatch, Failure>>,
    input: SessionInput,
    sent: mpsc::Sender<Sent>,
    binding: Binding,
    watermarks: Option<Watermarks>,
    may_split: bool,
}

impl Feed {
    async fn run(mut self) -> Result<(), Early> {
        let mut first_row = 0;
        while let Some(batch) = self.batches.recv().await {
            let batch = batch?;
            let rows = batch.num_rows() as u64;
            if !self.send(batch, first_row).await? {
                return Ok(());
            }
            first_row += rows;
        }
        match self.input.finish().await {
            Err(error) if error.code() != Code::SessionClosed => Err(error.into()),
            _ => Ok(()),
        }
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
            if let Some(watermark) = watermark {
                match self.input.watermark(watermark).await {
                    Ok(_) => {}
                    Err(error) if error.code() == Code::SessionClosed => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(true)
    }
}

/// From the session to the writer.
struct Drain {
    output: SessionOutput,
    under_way: mpsc::Receiver<Sent>,
    writes: mpsc::Sender<Write>,
    sides: Vec<(String, mpsc::Sender<Write>)>,
    keyed: bool,
    assembly: Assembly,
    totals: Totals,
    name: String,
}

impl Drain {
    async fn run(mut self, progress: &mut Progress) -> Result<Totals, Early> {
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            let next = tokio::select! {
                next = self.output.next() => next,
                _ = redraw.tick() => {
                    progress.draw();
                    continue;
                }
            };
            let result = match next {
                None => break,
                Some(Ok(Event::Output(result))) if self.keyed => {
                    self.pass_on(result).await?;
                    continue;
                }
                Some(Ok(Event::Output(result))) => result,
                Some(Ok(Event::Sealed { .. })) => {
                    if let Some(sent) = self.under_way.recv().await {
                        self.totals.batches += 1;
                        self.totals.rows_in += sent.batch.num_rows() as u64;
                        progress.add(sent.batch.num_rows() as u64);
                    }
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.explain(error).await.into()),
            };
            let Some(sent) = self.under_way.recv().await else {
                return Err(broken("a result came for no batch").into());
            };
            let output = self.assembly.assemble(&sent.batch, result.batch).map_err(|error| broken(&error.to_string()))?;
            self.count(&sent.batch, &output, &result.timing);
            self.totals.metrics.add(&result.metrics);
            progress.add(sent.batch.num_rows() as u64);
            self.write(Write::Batch(output)).await?;
        }
        self.write(Write::Finish).await?;
        for (_, writes) in &self.sides {
            writes.send(Write::Finish).await.map_err(|_| Early::Writer)?;
        }
        self.totals.filled = self.assembly.filled();
        self.totals.retries = self.output.ended().map_or(0, |ended| ended.retries);
        Ok(self.totals)
    }

    /// A result of a keyed session goes where its output goes.
    async fn pass_on(&mut self, result: pillion::Output) -> Result<(), Early> {
        let rows = result.batch.num_rows() as u64;
        self.totals.add(&result.timing);
        let Some(tag) = result.tag else {
            self.totals.rows_out += rows;
            return self.write(Write::Batch(result.batch)).await;
        };
        match self.sides.iter().find(|(known, _)| **known == *tag) {
            Some((_, writes)) => writes.send(Write::Batch(result.batch)).await.map_err(|_| Early::Writer),
            None => {
                *self.totals.left_out.entry(tag.to_string()).or_default() += rows;
                Ok(())
            }
        }
    }

    async fn write(&self, write: Write) -> Result<(), Early> {
        self.writes.send(write).await.map_err(|_| Early::Writer)
    }

    fn count(&mut self, input: &RecordBatch, output: &RecordBatch, timing: &Timing) {
        let totals = &mut self.totals;
        totals.batches += 1;
        totals.rows_in += input.num_rows() as u64;
        totals.rows_out += output.num_rows() as u64;
        totals.add(timing);
    }

    /// Says which rows of the input a failed batch held.
    async fn explain(&mut self, error: Error) -> Failure {
        if error.seq().is_none() {
            return error.into();
        }
        let Some(sent) = self.under_way.recv().await else { return error.into() };
        let row = error.exception().and_then(|exception| exception.row.as_ref()).map(|row| row.index);
        let place = match row {
            Some(index) => format!("row {} of `{}`", count(sent.first_row + index + 1), self.name),
            None => {
                let last = sent.first_row + sent.batch.num_rows() as u64;
                format!("rows {} to {} of `{}`", count(sent.first_row + 1), count(last), self.name)
            }
        };
        Failure::Engine { error, place: Some(place) }
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

fn broken(what: &str) -> Failure {
    Error::new(Code::InvariantBroken, format!("a run cannot go on: {what}")).into()
}
