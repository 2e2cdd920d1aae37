//! Checkpoints of a session: at a barrier a view of the store is taken, and written while later bundles go on (DESIGN D9).

use super::Keyed;
use crate::{
    error::{Code, Error, Result},
    session::{Answer, bundle::nanos},
    state::{
        View,
        encoding::KeyEncoder,
        snapshot::{Base, Checkpoints, Manifest, Origin, Take},
    },
};
use pillion_wire::proto;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tracing::Instrument;

/// What all checkpoints of a session have in common.
#[derive(Clone)]
pub(super) struct About {
    pub function: String,
    pub attempt: u32,
    pub max_parallelism: u16,
    pub keys: KeyEncoder,
    /// The session's key groups.
    pub groups: Vec<u16>,
}

enum Order {
    Write { seq: u64, id: u64, view: Arc<dyn View>, barrier: Instant },
    Discard(String),
}

/// Writes one checkpoint after the other; each refers to what has not changed since the one before.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Writer {
    /// For a session that is open.
    pub fn start(keyed: &Arc<Keyed>, place: Checkpoints, about: About) -> Self {
        // One that is written and one that waits: a host that asks for more is held up at its barrier, so that old views do not pile up.
        let (orders, inbox) = mpsc::channel(1);
        let work = Work { keyed: keyed.clone(), place, about, base: Base::default(), based_on: String::new() };
        Writer { orders, task: tokio::spawn(work.run(inbox).in_current_span()) }
    }

    /// Writes the view that was taken at barrier `seq`, in the background.
    pub async fn write(&self, seq: u64, id: u64, view: Arc<dyn View>) {
        self.give(Order::Write { seq, id, view, barrier: Instant::now() }).await;
    }

    /// Deletes a checkpoint, after those that were asked for before.
    pub async fn discard(&self, handle: String) {
        self.give(Order::Discard(handle)).await;
    }

    async fn give(&self, order: Order) {
        // A session that is over needs no checkpoint.
        let _ = self.orders.send(order).await;
    }

    /// Waits until all that was asked for has been done.
    pub async fn finish(self) {
        drop(self.orders);
        // A panic in there was reported where it happened.
        let _ = self.task.await;
    }
}

struct Work {
    keyed: Arc<Keyed>,
    place: Checkpoints,
    about: About,
    base: Base,
    /// The checkpoint that `base` is of.
    based_on: String,
}

impl Work {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let session = self.keyed.session.clone();
        let work = async {
            while let Some(order) = inbox.recv().await {
                match order {
                    Order::Write { seq, id, view, barrier } => {
                        let answer = self.write(id, view, barrier).await;
                        self.keyed.session.report(seq, answer);
                    }
                    Order::Discard(handle) => self.discard(&handle).await,
                }
            }
        };
        // What is being written when the session is given up belongs to nobody: no manifest refers to it.
        tokio::select! {
            () = work => {}
            () = session.ended() => {}
        }
    }

    async fn write(&mut self, id: u64, view: Arc<dyn View>, barrier: Instant) -> Answer {
        let About { function, attempt, max_parallelism, keys, groups } = self.about.clone();
        let created_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let created_ms = i64::try_from(created_ms).unwrap_or(i64::MAX);
        let origin = Origin { id, attempt, function, max_parallelism, created_ms };
        let written = self.place.write(Take { origin, keys, groups, view }, &self.base).await;
        let took = barrier.elapsed();
        let result = written.map(|(manifest, base)| {
            let done = describe(&manifest, took);
            tracing::debug!(
                handle = manifest.handle,
                bytes = done.bytes,
                new_bytes = done.new_bytes,
                took_ms = done.took_ms,
                "checkpoint written"
            );
            (self.base, self.based_on) = (base, manifest.handle);
            done
        });
        if let Err(error) = &result {
            tracing::warn!(id, %error, "a checkpoint failed");
        }
        self.keyed.metrics.checkpoint(result.as_ref().ok().map(|done| done.new_bytes), took);
        Answer::Checkpointed { checkpoint_id: id, result }
    }

    async fn discard(&mut self, handle: &str) {
        if handle == self.based_on {
            // Its files go, so the next one is written whole.
            (self.base, self.based_on) = (Base::default(), String::new());
        }
        if let Err(error) = self.place.delete(handle).await {
            tracing::warn!(handle, %error, "a checkpoint cannot be deleted");
        }
    }
}

fn describe(manifest: &Manifest, took: Duration) -> proto::Checkpoint {
    let new = manifest.files.iter().filter(|file| file.path.split('/').any(|part| part == manifest.handle));
    proto::Checkpoint {
        handle: manifest.handle.clone(),
        bytes: manifest.bytes(),
        new_bytes: new.map(|file| file.bytes).sum(),
        rows: manifest.files.iter().map(|file| file.rows).sum(),
        took_ms: nanos(took) / 1_000_000,
    }
}

/// A barrier of a session whose engine has no place for checkpoints.
pub(super) fn nowhere(id: u64) -> Answer {
    Answer::Checkpointed { checkpoint_id: id, result: Err(super::store::nowhere()) }
}

/// Attempts are counted in 32 bits.
pub(super) fn attempt(options: &proto::KeyedOptions) -> Result<u32> {
    u32::try_from(options.attempt)
        .map_err(|_| Error::new(Code::OptionsInvalid, format!("attempt {} is over the largest, {}", options.attempt, u32::MAX)))
}
