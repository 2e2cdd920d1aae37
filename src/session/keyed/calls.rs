//! Calling the function: packed bundles go through a stateless session, whose leases, deadlines, attempts and fairness are those of every session. A bundle is a function of
//! what is packed in it, so it may be tried again.

use super::fetch::Fetches;
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    fault::{Point, reach},
    session::{Answer, Input, Session},
    state::Addresses,
};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use pillion_wire::{bundle::Layout, ipc::Decoder, proto};
use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// What a call gave.
pub(super) struct Called {
    /// Packed effects.
    pub effects: RecordBatch,
    /// Where the time went.
    pub timing: proto::Timing,
    /// The function's own metrics.
    pub metrics: Vec<proto::MetricDelta>,
}

type Tell = oneshot::Sender<Result<(Batch, proto::Timing, Vec<proto::MetricDelta>)>>;

/// The way to the function.
pub(super) struct Calls {
    session: Arc<Session>,
    waiting: Arc<Mutex<Waiting>>,
    decoder: Decoder,
    fetches: Arc<Fetches>,
}

#[derive(Default)]
struct Waiting {
    last_seq: u64,
    callers: HashMap<u64, Tell>,
}

impl Calls {
    /// Calls through a session that answers in any order, whose plan has these `fetches`.
    pub fn start(session: Arc<Session>, layout: &Layout, fetches: Arc<Fetches>) -> Result<Self> {
        let decoder = Decoder::new(&layout.effects).map_err(|error| undecodable(&error))?;
        let waiting = Arc::<Mutex<Waiting>>::default();
        tokio::spawn(hand_out(session.clone(), waiting.clone()));
        Ok(Calls { session, waiting, decoder, fetches })
    }

    /// Calls the function with a packed bundle, whose function may ask for the state of these keys.
    pub async fn call(&self, bundle: RecordBatch, keys: &Arc<Addresses>, now_ms: i64) -> Result<Called> {
        let (tell, told) = oneshot::channel();
        let _asking = {
            let mut waiting = lock(&self.waiting);
            let seq = waiting.last_seq + 1;
            let asking = self.fetches.begin(seq, keys.clone(), now_ms);
            self.session.push(seq, Input::Batch(Batch::Arrow(bundle)))?;
            waiting.last_seq = seq;
            waiting.callers.insert(seq, tell);
            asking
        };
        reach(Point::Called);
        let over = |_| Err(Error::new(Code::SessionClosed, "the session is over"));
        let (batch, timing, metrics) = told.await.unwrap_or_else(over)?;
        let effects = match batch {
            Batch::Arrow(batch) => batch,
            // Copied and validated: a worker could write to it until now.
            Batch::Frame(frame) => self.decoder.decode(&frame).map_err(|error| undecodable(&error))?,
        };
        Ok(Called { effects, timing, metrics })
    }

    /// Gives up what is open.
    pub fn cancel(&self) {
        self.session.cancel(Error::new(Code::Cancelled, "the session was cancelled"));
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Hands answers to whoever called.
async fn hand_out(session: Arc<Session>, waiting: Arc<Mutex<Waiting>>) {
    loop {
        match poll_fn(|cx| session.poll_answer(cx)).await {
            Some(Ok(Answer::Batch { seq, result, timing, metrics, .. })) => {
                if let Some(tell) = lock(&waiting).callers.remove(&seq) {
                    // A caller that was cancelled does not listen.
                    let _ = tell.send(result.map(|batch| (batch, timing, metrics)));
                }
            }
            Some(Ok(_)) => {}
            // Nobody is answered any more.
            Some(Err(_)) | None => return lock(&waiting).callers.clear(),
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn undecodable(error: &ArrowError) -> Error {
    Error::new(Code::ProtocolViolation, "the effects of a bundle cannot be decoded").detail(error.to_string())
}
