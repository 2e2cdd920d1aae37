//! The control thread: provision, logs, control. It never takes the GIL.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pillion_wire::shm::endpoint::ring;
use pillion_wire::{PROTOCOL_VERSION, proto};
use proto::sidecar_control::Message as FromSidecar;
use proto::worker_control::Message as ToSidecar;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::connect::{Client, Identity, Pressure, connect};
use super::logs::Queue;
use super::stacks::{Reader, Stacks};
use super::{Broken, FLUSH};
use crate::process;

/// How long functions may take to close when the sidecar is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Why the worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sidecar said so.
    Shutdown,
    /// The sidecar is gone.
    Lost,
}

/// Tells the data side to stop, once; if it is dropped, that there is nobody left to say so.
pub struct EndSignal {
    tell: Option<oneshot::Sender<End>>,
    bell: Arc<OwnedFd>,
}

impl EndSignal {
    /// `bell` is rung after the message.
    pub fn new(tell: oneshot::Sender<End>, bell: Arc<OwnedFd>) -> Self {
        Self { tell: Some(tell), bell }
    }

    fn tell(&mut self, why: End) {
        if let Some(end) = self.tell.take() {
            // The data side may have seen the end of its own stream first.
            let _ = end.send(why);
            ring(&self.bell);
        }
    }
}

impl Drop for EndSignal {
    fn drop(&mut self) {
        drop(self.tell.take());
        ring(&self.bell);
    }
}

/// What the thread is given.
pub struct Control {
    /// Where the sidecar is.
    pub identity: Identity,
    /// What `Hello` says.
    pub environment: proto::EnvironmentDescription,
    /// Records to send.
    pub queue: Arc<Queue>,
    /// Answers to `GetStacks`.
    pub stacks: Stacks,
    /// To the data side: what the sidecar asks of workers.
    pub provision: oneshot::Sender<proto::ProvisionInfo>,
    /// From the data side: its stream is open.
    pub open: oneshot::Receiver<()>,
    /// To the data side: stop.
    pub end: EndSignal,
    /// From the data side: stopped.
    pub done: oneshot::Receiver<()>,
}

/// Runs the thread until both the sidecar and the data side are done; calls `finished` then. Ends the process if the sidecar is gone and Python
/// does not stop.
pub fn serve(control: Control, finished: impl FnOnce()) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // The data side sees its channels closed, and ends.
        Err(error) => return eprintln!("pillion worker: no runtime for the control thread: {error}"),
    };
    let end = runtime.block_on(converse(control));
    finished();
    match end {
        Ok(End::Shutdown) => {}
        Ok(End::Lost) => {
            // Python runs its exit handlers now; nobody is left to end them if they hang.
            thread::sleep(GRACE);
            process::exit_now(0);
        }
        Err(broken) => eprintln!("pillion worker: {broken}"),
    }
}

async fn converse(control: Control) -> Result<End, Broken> {
    let Control { identity, environment, queue, stacks, provision, open, mut end, mut done } = control;
    let mut client = connect(&identity, Arc::new(Pressure::default())).await?;
    let refused = |status: tonic::Status| Broken::new("the sidecar refused the worker", status.message());
    let info =
        client.get_provision_info(proto::ProvisionRequest { protocol_version: PROTOCOL_VERSION }).await.map_err(refused)?.into_inner();
    if info.protocol_version != PROTOCOL_VERSION {
        return Err(Broken(format!("the sidecar speaks protocol version {}, this worker {PROTOCOL_VERSION}", info.protocol_version)));
    }
    queue.set_least_level(info.min_log_level);
    let logging = send_logs(client.clone(), queue);
    let reader = stacks.reader().map_err(|error| Broken::new("the stacks pipe", error))?;
    // If the data side has ended, it has said why.
    if provision.send(info).is_err() || open.await.is_err() {
        return Ok(End::Shutdown);
    }
    let hello = proto::Hello {
        protocol_version: PROTOCOL_VERSION,
        capabilities: Vec::new(),
        environment: Some(environment),
        pid: std::process::id().cast_signed(),
    };
    let (answers, stream) = mpsc::channel(16);
    let send = |message| proto::WorkerControl { message: Some(message) };
    // The channel is empty and has room.
    let _ = answers.try_send(send(ToSidecar::Hello(hello)));
    let mut requests = client.control(ReceiverStream::new(stream)).await.map_err(refused)?.into_inner();
    loop {
        let message = tokio::select! {
            message = requests.message() => message,
            _ = &mut done => break,
        };
        match message.ok().flatten().map(|request| request.message) {
            Some(Some(FromSidecar::GetStacks(request))) => {
                let text = stacks_text(reader.as_ref()).await;
                if answers.send(send(ToSidecar::Stacks(proto::Stacks { request_id: request.request_id, text }))).await.is_err() {
                    break;
                }
            }
            Some(Some(FromSidecar::Shutdown(_))) => end.tell(End::Shutdown),
            // From a newer sidecar, which may not rely on an answer.
            Some(None) => {}
            None => {
                end.tell(End::Lost);
                if timeout(GRACE, &mut done).await.is_err() {
                    process::exit_now(0);
                }
                return Ok(End::Lost);
            }
        }
    }
    // The sidecar may be gone; then nothing can be delivered.
    let _ = timeout(FLUSH, logging).await;
    Ok(End::Shutdown)
}

async fn stacks_text(reader: Option<&Reader>) -> String {
    match reader {
        Some(reader) => reader.read().await,
        None => String::new(),
    }
}

/// Sends records until the queue is closed, and waits until the sidecar has taken them.
fn send_logs(mut client: Client, queue: Arc<Queue>) -> JoinHandle<()> {
    let (batches, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let feed = queue.feed(batches);
        // A sidecar that takes no logs is no reason to stop working.
        let _ = tokio::join!(feed, client.logging(ReceiverStream::new(stream)));
    })
}
