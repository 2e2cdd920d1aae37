//! From the session to the writers.

use std::time::Duration;

use arrow_array::RecordBatch;
use pillion::host::{SessionOutput, Timing};
use pillion::{Error, Event};
use tokio::sync::{mpsc, oneshot};

use super::commits::Commits;
use super::flow::{Early, Sent, Totals, broken};
use super::plan::Assembly;
use super::writer::{Cut, Write};
use crate::cli::failure::Failure;
use crate::cli::progress::{Progress, count};

/// How often progress is shown while no result comes.
const REDRAW: Duration = Duration::from_millis(500);

/// From the session to the writer.
pub struct Drain {
    pub output: SessionOutput,
    pub under_way: mpsc::Receiver<Sent>,
    pub writes: mpsc::Sender<Write>,
    pub sides: Vec<(String, mpsc::Sender<Write>)>,
    pub keyed: bool,
    /// Of a run with checkpoints.
    pub commits: Option<Commits>,
    pub assembly: Assembly,
    pub totals: Totals,
    pub name: String,
}

impl Drain {
    /// Takes all that comes out.
    ///
    /// # Errors
    /// The failure of a batch or the session, with the rows it is about.
    pub async fn run(mut self, progress: &mut Progress) -> Result<Totals, Early> {
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
                Some(Ok(event)) => {
                    self.take_note(event, progress).await?;
                    continue;
                }
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
        self.finish().await?;
        self.totals.filled = self.assembly.filled();
        self.totals.retries = self.output.ended().map_or(0, |ended| ended.retries);
        Ok(self.totals)
    }

    /// What concerns checkpoints.
    async fn take_note(&mut self, event: Event, progress: &mut Progress) -> Result<(), Early> {
        match event {
            Event::Snapshotted { checkpoint_id, .. } if self.commits.is_some() => {
                let none = vec![false; 1 + self.sides.len()];
                let cuts = self.cut(checkpoint_id, &none).await?;
                if let Some(commits) = &mut self.commits {
                    commits.snapshotted(cuts).await?;
                }
            }
            Event::Checkpointed { result, .. } => {
                if let Some(commits) = &mut self.commits {
                    commits.checkpointed(result).await?;
                }
            }
            _ => return Ok(()),
        }
        progress.note(self.commits.as_ref().map(|commits| commits.totals.line()).unwrap_or_default());
        Ok(())
    }

    /// Every output ends its part, those that `always` names also without rows.
    async fn cut(&self, number: u64, always: &[bool]) -> Result<Vec<oneshot::Receiver<bool>>, Early> {
        let writers = [&self.writes].into_iter().chain(self.sides.iter().map(|(_, writes)| writes));
        let mut cuts = Vec::new();
        for (writes, &always) in writers.zip(always) {
            let (done, cut) = oneshot::channel();
            writes.send(Write::Cut(Cut { number, always, done })).await.map_err(|_| Early::Writer)?;
            cuts.push(cut);
        }
        Ok(cuts)
    }

    /// All results have been written.
    async fn finish(&mut self) -> Result<(), Early> {
        if let Some(mut commits) = self.commits.take() {
            let (number, always) = commits.last();
            let cuts = self.cut(number, &always).await?;
            commits.finish(number, self.totals.rows_in, cuts).await?;
            self.totals.checkpoints = commits.totals;
        }
        self.write(Write::Finish).await?;
        for (_, writes) in &self.sides {
            writes.send(Write::Finish).await.map_err(|_| Early::Writer)?;
        }
        Ok(())
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
