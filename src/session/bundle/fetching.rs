//! A worker that waits for state. Its clock stands still meanwhile: how long state takes is not its function's fault.

use super::Bundle;
use crate::{
    batch::Batch,
    error::{Code, Error},
    session::fetch::Unanswered,
    worker::{BoxFuture, KillCause, ToWorker},
};
use std::{
    future::{pending, poll_fn},
    time::Duration,
};
use tokio::time::Instant;

/// The question that is open, if there is one.
#[derive(Default)]
pub(super) struct Fetching(Option<(Instant, BoxFuture<'static, Result<Batch, Unanswered>>)>);

impl Fetching {
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Gives the question up.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// The answer; never, if nothing was asked. May be cancelled without loss.
    pub async fn answered(&mut self) -> Result<Batch, Unanswered> {
        match &mut self.0 {
            Some((_, answer)) => poll_fn(|cx| answer.as_mut().poll(cx)).await,
            None => pending().await,
        }
    }
}

impl Bundle<'_> {
    /// The function of batch `seq` asks for state. Gives what the worker has done wrong, if it may not.
    pub(super) fn asked(&mut self, seq: u64, asked: Batch) -> Result<(), String> {
        let Some(fetcher) = self.session.plan.fetcher.clone() else { return Err("it asks for state, of which there is none".into()) };
        if self.fetching.is_open() || self.preparing || self.flights.front().is_none_or(|front| front.job.seq != seq) {
            return Err(format!("it asks for state of batch {seq} out of turn"));
        }
        self.fetching = Fetching(Some((Instant::now(), fetcher.fetch(seq, asked))));
        Ok(())
    }

    /// State has come: the worker goes on, and its clock with it.
    pub(super) async fn fetched(&mut self, answer: Result<Batch, Unanswered>) {
        let since = self.fetching.0.take().map_or_else(Instant::now, |(since, _)| since);
        let Some(front) = self.flights.front_mut() else { return };
        front.waited += since.elapsed();
        let (plan_id, seq) = (self.session.plan.id, front.job.seq);
        let result = match answer {
            Ok(batch) => Ok(batch),
            Err(Unanswered::Failed(error)) => {
                front.unanswered.get_or_insert_with(|| error.clone());
                Err(error)
            }
            Err(Unanswered::Breach(why)) => {
                tracing::warn!(seq, "a worker asks for state that there is not: {why}");
                let lost = self.lease.kill(KillCause::Protocol).await;
                return self.lost(lost);
            }
        };
        self.lease.send(ToWorker::Fetched { plan_id, seq, result });
        self.set_alarm(Duration::MAX);
    }

    /// Nobody wants the batch any more: its function gets an exception, and its worker comes free.
    pub(super) fn refuse(&mut self, seq: u64) {
        self.fetching.clear();
        let result = Err(Error::new(Code::Cancelled, "the session is over"));
        self.lease.send(ToWorker::Fetched { plan_id: self.session.plan.id, seq, result });
    }
}
