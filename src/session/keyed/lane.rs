//! A lane: a range of key groups, in which one bundle executes at a time, in input order.

use super::{
    Keyed,
    columns::Share,
    cut::{halves, too_large},
    executor::Work,
    router::Progress,
};
use crate::{
    error::{Code, Result},
    timer::{Domain, DueOrder, DueRequest},
};
use pillion_wire::bundle::NO_WATERMARK;
use std::sync::Arc;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};

/// What a lane is to do.
pub(super) enum Step {
    Rows {
        seq: u64,
        queued: Instant,
        share: Box<Share>,
    },
    /// Event time goes on: timers up to it fire.
    Watermark {
        seq: u64,
        timestamp_ms: i64,
    },
    /// The host has moved its clock.
    Tick {
        seq: u64,
    },
    /// No more input: event timers fire, those in processing time are dropped.
    End {
        seq: u64,
    },
    /// Say that everything before is done, and stand until the other end of `go_on` is gone.
    Rendezvous {
        arrived: oneshot::Sender<()>,
        go_on: watch::Receiver<()>,
    },
}

/// Serves a session's key groups until the router is gone.
pub(super) async fn run(keyed: Arc<Keyed>, number: usize, groups: Vec<u16>, mut steps: mpsc::Receiver<Step>, progress: Arc<Progress>) {
    let mut lane = Lane {
        keyed: keyed.clone(),
        number,
        groups,
        progress: progress.clone(),
        watermark: NO_WATERMARK,
        last_seq: 0,
        next_processing: None,
    };
    let ended = keyed.session.ended();
    tokio::pin!(ended);
    // Timers that were restored, or that the host has; a host's clock has to move first.
    if !keyed.clock.is_hosts() {
        match keyed.backend.next_timer(Domain::ProcessingTime, &lane.groups).await {
            Ok(next) => lane.next_processing = next,
            Err(error) => return keyed.session.cancel(error),
        }
    }
    loop {
        // A host's clock moves by steps.
        let alarm = lane.next_processing.filter(|_| !keyed.clock.is_hosts()).map(|then| keyed.clock.until(then));
        let step = tokio::select! {
            biased;
            () = &mut ended => return,
            step = steps.recv() => step,
            () = async { match alarm { Some(until) => sleep(until).await, None => std::future::pending().await } } => {
                match lane.fire_processing().await {
                    Ok(()) => continue,
                    Err(error) => return keyed.session.cancel(error),
                }
            }
        };
        let Some(step) = step else { return };
        let done = tokio::select! {
            biased;
            () = &mut ended => return,
            done = lane.take(step) => done,
        };
        match done {
            Ok(Some(seq)) => progress.passed(&keyed, seq, number),
            Ok(None) => {}
            Err(error) => return keyed.session.cancel(error),
        }
    }
}

struct Lane {
    keyed: Arc<Keyed>,
    /// Its place among the lanes.
    number: usize,
    groups: Vec<u16>,
    progress: Arc<Progress>,
    watermark: i64,
    /// Of the last input that it has executed: what fires in between stands behind it.
    last_seq: u64,
    /// When the next timer in processing time fires.
    next_processing: Option<i64>,
}

impl Lane {
    /// Does a step; gives the input that the lane is past then.
    async fn take(&mut self, step: Step) -> Result<Option<u64>> {
        match step {
            Step::Rows { seq, queued, share } => {
                self.last_seq = seq;
                self.rows(seq, queued, *share).await?;
                self.fire_processing().await?;
                Ok(Some(seq))
            }
            Step::Watermark { seq, timestamp_ms } => {
                self.last_seq = seq;
                self.fire_events(timestamp_ms, Some(seq)).await?;
                // Neither does the input leave them none. A host's clock has not moved.
                if !self.keyed.clock.is_hosts() {
                    self.fire_processing().await?;
                }
                Ok(Some(seq))
            }
            Step::Tick { seq } => {
                self.last_seq = seq;
                self.next_processing = self.keyed.backend.next_timer(Domain::ProcessingTime, &self.groups).await?;
                self.fire_processing().await?;
                Ok(Some(seq))
            }
            Step::End { seq } => {
                self.last_seq = seq;
                self.next_processing = None;
                self.fire_events(i64::MAX, None).await?;
                Ok(Some(seq))
            }
            Step::Rendezvous { arrived, mut go_on } => {
                // The router has gone if nobody listens.
                let _ = arrived.send(());
                while go_on.changed().await.is_ok() {}
                Ok(None)
            }
        }
    }

    /// Executes rows: in one bundle, or if that would be too large, with the state of its keys or what it gives, in several.
    async fn rows(&mut self, seq: u64, queued: Instant, share: Share) -> Result<()> {
        let (input, rows) = (share.rows.input, share.rows.rows.clone());
        let done = match self.keyed.execute(Work::rows(seq, queued, share, self.watermark)).await {
            Err(error) if error.code() == Code::BatchTooLarge => {
                for part in halves(&rows, &error)? {
                    for (_, share) in self.keyed.columns.shares(input, part, 1, |_| Ok(0))? {
                        Box::pin(self.rows(seq, queued, share)).await?;
                    }
                }
                return Ok(());
            }
            done => done?,
        };
        if done.sets_processing_timers {
            self.next_processing = self.keyed.backend.next_timer(Domain::ProcessingTime, &self.groups).await?;
        }
        Ok(())
    }

    /// Event time goes on. The function sees the new watermark when its timers fire, as in Flink.
    async fn fire_events(&mut self, watermark: i64, of: Option<u64>) -> Result<()> {
        self.watermark = watermark;
        self.fire(Domain::EventTime, watermark, of).await
    }

    /// What is due now fires; what is due then waits for its turn, so that timers that set timers leave room for the input.
    async fn fire_processing(&mut self) -> Result<()> {
        let now_ms = self.keyed.clock.now_ms();
        if self.next_processing.is_some_and(|then| then <= now_ms) {
            self.fire(Domain::ProcessingTime, now_ms, None).await?;
            self.next_processing = self.keyed.backend.next_timer(Domain::ProcessingTime, &self.groups).await?;
        }
        Ok(())
    }

    /// Fires timers in bundles of bounded size. If they are of a watermark, progress is said after every so many.
    async fn fire(&mut self, domain: Domain, up_to_ms: i64, of: Option<u64>) -> Result<()> {
        let most = self.keyed.session.limits().timers_at_once;
        // Bundles of keys with many timers are small: a bundle never holds two timestamps of a key.
        let (mut limit, mut fired) = (most, 0);
        loop {
            let (groups, order) = (self.groups.clone(), DueOrder::PerKey);
            let due = self.keyed.backend.due(&DueRequest { domain, groups, up_to_ms, limit, order }).await?;
            let count = due.len();
            let Some(first) = due.timestamps.iter().min() else { return Ok(()) };
            if let Some(seq) = of.filter(|_| fired >= most) {
                fired = 0;
                // Everything before it has fired, and what that has set.
                self.progress.advanced(&self.keyed, seq, self.number, first.saturating_sub(1));
            }
            let work = Work::timers(self.last_seq, due, domain, self.watermark);
            let done = match self.keyed.execute(work).await {
                // As with rows.
                Err(error) if error.code() == Code::BatchTooLarge && count == 1 => return Err(too_large(&error)),
                Err(error) if error.code() == Code::BatchTooLarge => {
                    limit = count / 2;
                    continue;
                }
                done => done?,
            };
            if done.sets_processing_timers && domain == Domain::EventTime {
                self.next_processing = self.keyed.backend.next_timer(Domain::ProcessingTime, &self.groups).await?;
            }
            fired += count;
        }
    }
}
