//! Checkpoints of a run: when one is due, and how it is committed together with the output before it and the position in the input.
//!
//! One at a time: the feeding side sends a barrier and notes what it stands behind; when it comes out, every output ends its part; when the state is durable, too, both are committed by one record
//! of the [`Ledger`], and the parts appear.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion::host::Checkpoint;
use pillion::{Code, Error};
use tokio::sync::{oneshot, watch};

use super::flow::Early;
use super::ledger::{Ledger, Record};
use crate::cli::io::Folder;
use crate::cli::progress::{count, say, short, size};

/// What a barrier stands behind.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub number: u64,
    pub rows: u64,
    pub watermark_ms: Option<i64>,
}

/// The checkpoint that is being taken, if one is.
type Pending = Arc<watch::Sender<Option<Position>>>;

/// Says when a barrier is due.
pub struct Barriers {
    every: Duration,
    pending: Pending,
    next: u64,
    last: Instant,
    /// Rows before the last barrier.
    rows: u64,
}

impl Barriers {
    /// Waits until a checkpoint is due behind `rows` rows: the one before is over, its time has come, and there are new rows.
    pub async fn due(&self, rows: u64) {
        if rows == self.rows {
            return std::future::pending().await;
        }
        let left = self.every.saturating_sub(self.last.elapsed());
        // Even no sleep would last until the next tick, for which batches need not wait.
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
        self.settled().await;
    }

    /// Waits until no checkpoint is being taken.
    pub async fn settled(&self) {
        // Its sender is at hand: it does not close.
        let _ = self.pending.subscribe().wait_for(Option::is_none).await;
    }

    /// Notes that a barrier stands here; its number.
    pub fn place(&mut self, rows: u64, watermark_ms: Option<i64>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.last = Instant::now();
        self.rows = rows;
        self.pending.send_replace(Some(Position { number, rows, watermark_ms }));
        number
    }
}

/// What is said of checkpoints at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckpointTotals {
    /// Committed ones.
    pub count: u64,
    /// Those that could not be taken.
    pub failed: u64,
    /// Of the last one: how long it took, and its size.
    pub took: Duration,
    pub bytes: u64,
}

impl CheckpointTotals {
    /// For the progress and the summary; empty if there was none.
    pub fn line(&self) -> String {
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", count(self.failed)) };
        match self.count {
            0 if self.failed == 0 => String::new(),
            0 => format!("no checkpoint{failed}"),
            1 => format!("1 checkpoint{failed} ({}, {})", short(self.took), size(self.bytes)),
            more => format!("{} checkpoints{failed} (the last in {}, {})", count(more), short(self.took), size(self.bytes)),
        }
    }
}

/// Commits checkpoints.
pub struct Commits {
    ledger: Ledger,
    outputs: Vec<(Option<String>, Folder)>,
    /// As it will be committed next.
    record: Record,
    /// Rows before this run.
    begun_at: u64,
    pending: Pending,
    /// Parts on disk that have not appeared: output and number.
    hidden: Vec<(usize, u64)>,
    /// Of the pending checkpoint: the ends of parts, and what came of the state.
    cuts: Option<Vec<oneshot::Receiver<bool>>>,
    answer: Option<Result<Checkpoint, Error>>,
    pub totals: CheckpointTotals,
}

impl Commits {
    /// Goes on behind `record`, of which `ledger` holds the last version.
    pub fn new(ledger: Ledger, record: Record, outputs: Vec<(Option<String>, Folder)>, every: Duration) -> (Self, Barriers) {
        let pending = Pending::new(watch::Sender::new(None));
        let barriers = Barriers { every, pending: pending.clone(), next: record.number + 1, last: Instant::now(), rows: record.rows };
        let record = Record { attempt: ledger.next_attempt(), ..record };
        let (begun_at, totals) = (record.rows, CheckpointTotals::default());
        let commits = Commits { ledger, outputs, record, begun_at, pending, hidden: Vec::new(), cuts: None, answer: None, totals };
        (commits, barriers)
    }

    /// The number of the last parts, and for each output whether it has none before.
    pub fn last(&self) -> (u64, Vec<bool>) {
        // Behind those of checkpoints that failed, too.
        let parts = self.record.outputs.iter().filter_map(|output| output.parts.last().copied());
        let number = parts.chain([self.record.number]).max().unwrap_or_default() + 1;
        (number, self.record.outputs.iter().map(|output| output.parts.is_empty()).collect())
    }

    /// All outputs end their parts behind the barrier.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub async fn snapshotted(&mut self, cuts: Vec<oneshot::Receiver<bool>>) -> Result<(), Early> {
        self.cuts = Some(cuts);
        self.commit_if_complete().await
    }

    /// The state is durable, or could not be saved.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub async fn checkpointed(&mut self, answer: Result<Checkpoint, Error>) -> Result<(), Early> {
        self.answer = Some(answer);
        self.commit_if_complete().await
    }

    async fn commit_if_complete(&mut self) -> Result<(), Early> {
        let Some(position) = *self.pending.borrow() else {
            return Err(Error::new(Code::ProtocolViolation, "an answer came for a checkpoint that was not asked for").into());
        };
        let (cuts, answer) = match (self.cuts.take(), self.answer.take()) {
            (Some(cuts), Some(answer)) => (cuts, answer),
            part => {
                (self.cuts, self.answer) = part;
                return Ok(());
            }
        };
        self.collect(position.number, cuts).await?;
        match answer {
            Ok(Checkpoint { handle, bytes, took, .. }) => {
                let Position { number, rows, watermark_ms } = position;
                self.record = Record { number, rows, watermark_ms, checkpoint: Some(handle), ..self.record.clone() };
                self.commit().await?;
                self.totals = CheckpointTotals { count: self.totals.count + 1, took, bytes, ..self.totals };
            }
            Err(error) => {
                // The work goes on; its output waits for the next one.
                self.totals.failed += 1;
                say(&format!("warning: checkpoint {} failed: {}", position.number, error.report()));
            }
        }
        self.pending.send_replace(None);
        Ok(())
    }

    /// Notes the parts that a cut gave.
    async fn collect(&mut self, number: u64, cuts: Vec<oneshot::Receiver<bool>>) -> Result<(), Early> {
        for (at, cut) in cuts.into_iter().enumerate() {
            if cut.await.map_err(|_| Early::Writer)? {
                self.record.outputs[at].parts.push(number);
                self.hidden.push((at, number));
            }
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Early> {
        self.ledger.commit(self.record.clone()).await?;
        for (at, number) in self.hidden.drain(..) {
            self.outputs[at].1.publish(number)?;
        }
        Ok(())
    }

    /// The last commit: the whole input has been worked off, `rows` rows by this run.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub async fn finish(&mut self, number: u64, rows: u64, cuts: Vec<oneshot::Receiver<bool>>) -> Result<(), Early> {
        self.collect(number, cuts).await?;
        self.record =
            Record { number, rows: self.begun_at + rows, checkpoint: None, watermark_ms: None, finished: true, ..self.record.clone() };
        self.commit().await
    }
}
