//! The workers that may connect: each is expected before its process is started, and presents the token that it was started with.

use super::ring_link::RingLink;
use crate::{
    config::Limits,
    error::{Code, Error, Result},
};
use pillion_wire::{
    frame::FrameLimits,
    proto::{self, worker_control},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

/// The workers that may connect, by id.
pub struct Registry {
    expected: Mutex<HashMap<String, Expected>>,
    limits: FrameLimits,
    /// Whether workers are told of shared memory.
    shares: bool,
}

/// How a worker sends its data.
pub(super) enum Inbound {
    /// On a gRPC stream.
    Stream(Box<Streaming<proto::WorkerData>>),
    /// Over rings, both ways.
    Ring(Box<RingLink>),
}

struct Expected {
    token: String,
    data: Option<(DataOut, oneshot::Sender<Inbound>)>,
    control: Option<(ControlOut, oneshot::Sender<proto::Hello>)>,
    stacks: Arc<Questions>,
}

/// Both ends of what connects a worker, before and when it has connected.
pub(super) struct Expectation {
    /// What the worker must present.
    pub token: String,
    pub data_out: mpsc::UnboundedSender<proto::SidecarData>,
    pub control_out: mpsc::UnboundedSender<proto::SidecarControl>,
    /// Resolves when the worker has opened its data stream or its rings.
    pub data_in: oneshot::Receiver<Inbound>,
    /// Resolves when the worker is ready.
    pub ready: oneshot::Receiver<proto::Hello>,
    pub stacks: Arc<Questions>,
    pub entry: Entry,
}

/// A registered worker; forgotten with the last use of its control.
pub(super) struct Entry {
    registry: Arc<Registry>,
    id: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.forget(&self.id);
    }
}

/// What the sidecar sends on a data stream.
pub type DataOut = mpsc::UnboundedReceiver<proto::SidecarData>;
/// What the sidecar sends on a control stream.
pub type ControlOut = mpsc::UnboundedReceiver<proto::SidecarControl>;

/// Requests for stacks that are not answered yet.
#[derive(Default)]
pub(super) struct Questions {
    last: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<String>>>,
}

impl Registry {
    /// A registry whose workers may send frames up to these limits. `shares`: rings are offered to them.
    pub fn new(limits: &Limits, shares: bool) -> Self {
        Registry { expected: Mutex::default(), limits: FrameLimits { bytes: limits.max_batch_bytes, rows: limits.max_batch_rows }, shares }
    }

    /// What workers are told that this sidecar can do.
    pub fn capabilities(&self) -> Vec<String> {
        self.shares.then(|| pillion_wire::CAPABILITY_SHM.to_owned()).into_iter().collect()
    }

    /// The largest frames.
    pub fn limits(&self) -> FrameLimits {
        self.limits
    }

    /// Whether `token` is the one that worker `id` was started with.
    pub fn knows(&self, id: &str, token: &str) -> bool {
        // Compared without a shortcut, so that the time tells nothing about the token.
        let same = |expected: &str| {
            expected.len() == token.len() && expected.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
        };
        self.lock().get(id).is_some_and(|expected| same(&expected.token))
    }

    /// A worker has opened its data stream; gives what to send on it. `None` if it has one already.
    pub fn connect_data(&self, id: &str, stream: Streaming<proto::WorkerData>) -> Option<DataOut> {
        let (out, tell) = self.lock().get_mut(id)?.data.take()?;
        tell.send(Inbound::Stream(Box::new(stream))).ok()?;
        Some(out)
    }

    /// A worker has joined its rings, in place of a data stream. `None` if it has either already.
    pub(super) fn connect_ring(&self, id: &str, link: RingLink) -> Option<()> {
        let (_, tell) = self.lock().get_mut(id)?.data.take()?;
        tell.send(Inbound::Ring(Box::new(link))).ok()
    }

    /// A worker has opened its control stream. `None` if it has one already.
    pub fn connect_control(self: &Arc<Self>, id: &str, stream: Streaming<proto::WorkerControl>) -> Option<ControlOut> {
        let mut expected = self.lock();
        let expected = expected.get_mut(id)?;
        let (out, ready) = expected.control.take()?;
        tokio::spawn(read_control(id.to_owned(), stream, ready, expected.stacks.clone()));
        Some(out)
    }

    /// Expects a worker; it may connect until the expectation's entry is dropped.
    ///
    /// # Errors
    /// [`Code::SystemRefused`] without random numbers for its token.
    pub(super) fn expect(self: &Arc<Self>, id: String) -> Result<Expectation> {
        let token = token()?;
        let (data_out, data) = mpsc::unbounded_channel();
        let (control_out, control) = mpsc::unbounded_channel();
        let (tell_data, data_in) = oneshot::channel();
        let (tell_ready, ready) = oneshot::channel();
        let stacks = Arc::new(Questions::default());
        let expected =
            Expected { token: token.clone(), data: Some((data, tell_data)), control: Some((control, tell_ready)), stacks: stacks.clone() };
        self.lock().insert(id.clone(), expected);
        Ok(Expectation { token, data_out, control_out, data_in, ready, stacks, entry: Entry { registry: self.clone(), id } })
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what a worker says beside its data: that it is ready, and stacks.
async fn read_control(
    id: String,
    mut stream: Streaming<proto::WorkerControl>,
    ready: oneshot::Sender<proto::Hello>,
    stacks: Arc<Questions>,
) {
    let mut ready = Some(ready);
    while let Ok(Some(message)) = stream.message().await {
        match message.message {
            Some(worker_control::Message::Hello(hello)) => {
                if let Some(ready) = ready.take() {
                    // Nobody waits any more if the start took too long.
                    let _ = ready.send(hello);
                }
            }
            Some(worker_control::Message::Stacks(answer)) => stacks.answer(answer),
            None => tracing::debug!(worker = id, "empty control message"),
        }
    }
}

impl Questions {
    /// A new request: its id, and where its answer will be.
    pub fn ask(&self) -> (u64, oneshot::Receiver<String>) {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.lock().insert(id, tell);
        (id, answer)
    }

    /// The request was not answered in time.
    pub fn give_up(&self, request_id: u64) {
        self.lock().remove(&request_id);
    }

    fn answer(&self, stacks: proto::Stacks) {
        if let Some(tell) = self.lock().remove(&stacks.request_id) {
            // Whoever asked may have given up.
            let _ = tell.send(stacks.text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<String>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::new(Code::SystemRefused, format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
