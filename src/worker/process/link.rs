//! The link to a worker process: frames cross over rings and slots, or on its data stream; questions on its control stream (hop 6).
//!
//! A worker is expected before its process is started (`Registry::expect`); the Fn service hands over the streams that it opens. [`ProcessFactory`] puts process and
//! streams together into a [`ProcessWorker`].

use super::{
    Child, ExitCause, Launcher,
    loss::{LAST_WORDS, disconnected, loss},
    registry::{Entry, Expectation, Inbound, Questions, Registry},
    ring_link::RingLink,
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    worker::{BoxFuture, Control, Cost, FromWorker, KillCause, Lost, ToWorker, Worker, WorkerFactory},
};
use pillion_wire::{
    frame::{Assembler, Frame},
    ipc::Encoder,
    proto::{self, sidecar_control, sidecar_data, worker_data},
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::Stream;
use tonic::Streaming;

/// Longest wait for the stacks of a worker: one that is stopped never answers.
const STACKS_TIMEOUT: Duration = Duration::from_millis(800);

/// Makes the worker processes of one environment.
pub struct ProcessFactory {
    launcher: Launcher,
    registry: Arc<Registry>,
    /// Where the Fn protocol is served.
    endpoint: String,
    start_timeout: Duration,
    ids: Arc<AtomicU64>,
}

impl ProcessFactory {
    /// A factory whose workers connect to `endpoint`, where `registry` expects them. `ids` numbers the workers of the engine.
    pub fn new(launcher: Launcher, registry: Arc<Registry>, endpoint: String, start_timeout: Duration, ids: Arc<AtomicU64>) -> Self {
        ProcessFactory { launcher, registry, endpoint, start_timeout, ids }
    }

    async fn launch_worker(&self) -> Result<Box<dyn Worker>> {
        let id = format!("w-{}", self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        let Expectation { token, data_out, control_out, data_in, ready, stacks, entry } = self.registry.expect(id.clone())?;
        let child = Arc::new(self.launcher.launch(&id, &self.endpoint, &token).await?);
        // `Hello` is the last thing a starting worker sends, so its data stream is there by then.
        let connected = async { Some((ready.await.ok()?, data_in.await.ok()?)) };
        let outcome = tokio::select! {
            connected = timeout(self.start_timeout, connected) => connected,
            _ = child.wait() => Ok(None),
            () = child.stopped() => return Err(start_failed(&child, "was stopped from outside before it was ready").await.retryable()),
        };
        let (hello, inbound) = match outcome {
            Ok(Some(connected)) => connected,
            Ok(None) => {
                let error = start_failed(&child, "ended before it was ready").await;
                let outside = matches!(child.wait().await.cause, ExitCause::OutsideSignal);
                return Err(if outside { error.retryable() } else { error });
            }
            Err(_) => return Err(start_failed(&child, &format!("was not ready within {:?}", self.start_timeout)).await),
        };
        if hello.protocol_version != pillion_wire::PROTOCOL_VERSION {
            let message = format!("the worker speaks version {} of the protocol", hello.protocol_version);
            return Err(Error::new(Code::ProtocolVersion, message).hint("run workers of the same release as the sidecar"));
        }
        let environment = hello.environment.unwrap_or_default();
        let control = Arc::new(ProcessControl { child, out: control_out, stacks, environment, _entry: entry });
        let link = match inbound {
            Inbound::Stream(inbound) => Link::Stream { out: data_out, inbound },
            Inbound::Ring(ring) => {
                let child = control.child.clone();
                Link::Ring { ring, exited: Box::pin(async move { _ = child.wait().await }) }
            }
        };
        let assembler = Assembler::new(self.registry.limits());
        Ok(Box::new(ProcessWorker { id, link, assembler, open: None, encoder: None, fetched: None, control, ending: None }))
    }
}

/// Times a worker is started that something outside kills or stops before it is ready; as for bundles, more than once is no accident of the worker's.
const START_ATTEMPTS: u32 = 10;

async fn start_failed(child: &Arc<Child>, what: &str) -> Error {
    // One that ends by itself has a moment to do so, so that its own exit status is what is reported.
    if timeout(LAST_WORDS, child.wait()).await.is_err() {
        child.kill(KillCause::Shutdown);
    }
    let exit = child.wait().await;
    let stderr_tail = child.stderr_tail();
    let last = stderr_tail.trim_end().lines().last().unwrap_or_default().to_owned();
    let message = match last.as_str() {
        "" => format!("a worker process {what}"),
        last => format!("a worker process {what}: {last}"),
    };
    let loss = loss(child, &exit).loss;
    Error::new(Code::WorkerStartFailed, message).hint("its stderr is below; `pool.start_timeout` bounds the start").worker(loss)
}

impl WorkerFactory for ProcessFactory {
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Worker>>> {
        Box::pin(async {
            let mut attempts = 1;
            loop {
                match self.launch_worker().await {
                    Err(error) if error.is_retryable() && error.worker_loss().is_some() && attempts < START_ATTEMPTS => attempts += 1,
                    outcome => return outcome,
                }
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.launcher.shutdown())
    }
}

/// How data crosses.
enum Link {
    /// On a gRPC stream.
    Stream { out: mpsc::UnboundedSender<proto::SidecarData>, inbound: Box<Streaming<proto::WorkerData>> },
    /// Over rings, which do not break when the process ends.
    Ring { ring: Box<RingLink>, exited: BoxFuture<'static, ()> },
}

/// A worker process with its data.
struct ProcessWorker {
    id: String,
    link: Link,
    assembler: Assembler,
    /// What the first message of the frame in the assembler said beside it.
    open: Option<Open>,
    /// For batches that did not cross a wire so far.
    encoder: Option<Encoder>,
    /// For state.
    fetched: Option<Encoder>,
    control: Arc<ProcessControl>,
    /// Set once the process is found or made to end.
    ending: Option<BoxFuture<'static, Lost>>,
}

/// A frame whose messages arrive.
enum Open {
    Result(u64, Cost, Vec<proto::MetricDelta>),
    Fetch(u64),
}

impl Link {
    /// Sends a message; gives why the worker broke the protocol. One that is gone is noticed by the next [`Link::poll_next`].
    fn tell(&mut self, seq: u64, plan_id: u64, message: sidecar_data::Message) -> Result<(), String> {
        match self {
            Link::Stream { out, .. } => {
                // A closed channel means that the worker is gone.
                let _ = out.send(proto::SidecarData { seq, plan_id, message: Some(message), ..Default::default() });
                Ok(())
            }
            Link::Ring { ring, .. } => ring.tell(seq, plan_id, message).map_err(|broken| broken.to_string()),
        }
    }

    fn send_frame(&mut self, about: (u64, u64), frame: Frame, kind: fn(proto::Frame) -> sidecar_data::Message) -> Result<(), String> {
        match self {
            Link::Stream { .. } => {
                let frame = frame.into_inline().map_err(|error| error.to_string())?;
                frame.into_messages().try_for_each(|message| self.tell(about.0, about.1, kind(message)))
            }
            Link::Ring { ring, .. } => ring.send_frame(about, frame, kind).map_err(|broken| broken.to_string()),
        }
    }

    /// The next message; `None` once there will be no more.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<proto::WorkerData, String>>> {
        match self {
            Link::Stream { inbound, .. } => Pin::new(inbound).poll_next(cx).map(|message| message.and_then(Result::ok).map(Ok)),
            Link::Ring { ring, exited } => match ring.poll_recv(cx) {
                Poll::Pending if exited.as_mut().poll(cx).is_ready() => {
                    *exited = Box::pin(std::future::ready(()));
                    // What it said before its end still counts.
                    Poll::Ready(ring.try_recv().ok().flatten().map(Ok))
                }
                polled => polled.map(|message| Some(message.map_err(|broken| broken.to_string()))),
            },
        }
    }
}

impl Worker for ProcessWorker {
    fn id(&self) -> &str {
        &self.id
    }

    fn send(&mut self, message: ToWorker) {
        let sent = match message {
            ToWorker::Prepare { plan_id, prepare } => self.link.tell(0, plan_id, sidecar_data::Message::Prepare((*prepare).clone())),
            ToWorker::Release { plan_id } => self.link.tell(0, plan_id, sidecar_data::Message::Release(proto::Release {})),
            ToWorker::Describe { function } => {
                self.link.tell(0, 0, sidecar_data::Message::Describe(proto::DescribeFunction { function: Some(function) }))
            }
            ToWorker::Batch { plan_id, seq, batch } => match batch.into_frame(&mut self.encoder) {
                Ok(frame) => self.link.send_frame((seq, plan_id), frame, sidecar_data::Message::Batch),
                // Cannot be: a session opens only with a schema that can be encoded. Left unanswered it would hang.
                Err(error) => Err(format!("a batch cannot be encoded: {error}")),
            },
            ToWorker::Fetched { plan_id, seq, result } => match result.and_then(|batch| batch.into_frame(&mut self.fetched)) {
                Ok(frame) => self.link.send_frame((seq, plan_id), frame, sidecar_data::Message::Fetched),
                Err(error) => self.link.tell(seq, plan_id, sidecar_data::Message::FetchFailed((&error).into())),
            },
        };
        if let Err(why) = sent {
            self.broken(&why);
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromWorker, Lost>> {
        loop {
            if let Some(ending) = &mut self.ending {
                return ending.as_mut().poll(cx).map(Err);
            }
            match self.link.poll_next(cx) {
                Poll::Ready(Some(message)) => match message.and_then(|message| self.take(message)) {
                    Ok(Some(message)) => return Poll::Ready(Ok(message)),
                    Ok(None) => {}
                    Err(why) => self.broken(&why),
                },
                Poll::Ready(None) => self.ending = Some(Box::pin(disconnected(self.control.child.clone()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }
}

impl ProcessWorker {
    /// Ends a worker that cannot be understood.
    fn broken(&mut self, why: &str) {
        tracing::warn!(worker = self.id, "the worker broke the protocol: {why}");
        self.control.kill(KillCause::Protocol);
        self.ending = Some(self.control.gone());
    }

    /// Puts messages together; gives an answer when it is complete.
    fn take(&mut self, message: proto::WorkerData) -> Result<Option<FromWorker>, String> {
        let proto::WorkerData { seq, plan_id: _, convert_ns, user_ns, metrics, message, released: _ } = message;
        let cost = Cost { convert_ns, user_ns };
        let open = match (self.open.take(), &message) {
            (None, Some(worker_data::Message::Fetch(_))) => Open::Fetch(seq),
            (None, _) => Open::Result(seq, cost, metrics),
            (Some(open @ Open::Fetch(_)), Some(worker_data::Message::Fetch(_))) => open,
            (Some(open @ Open::Result(..)), Some(worker_data::Message::Result(_))) => open,
            _ => return Err("another message inside a frame".into()),
        };
        match message {
            Some(worker_data::Message::Result(frame) | worker_data::Message::Fetch(frame)) => {
                let pushed = match &mut self.link {
                    Link::Stream { .. } => self.assembler.push(frame),
                    Link::Ring { ring, .. } => self.assembler.push_shared(frame, |slot| ring.resolve(slot)),
                };
                match (pushed.map_err(|error| error.to_string())?, open) {
                    (Some(frame), Open::Result(seq, cost, metrics)) => {
                        Ok(Some(FromWorker::Answer { seq, result: Ok(frame.into()), cost, metrics }))
                    }
                    (Some(frame), Open::Fetch(seq)) => Ok(Some(FromWorker::Fetch { seq, asked: frame.into() })),
                    (None, open) => {
                        self.open = Some(open);
                        Ok(None)
                    }
                }
            }
            Some(worker_data::Message::Failed(error)) if seq == 0 => Ok(Some(FromWorker::Refused(error.into()))),
            Some(worker_data::Message::Failed(error)) => {
                let result: Result<Batch> = Err(error.into());
                Ok(Some(FromWorker::Answer { seq, result, cost, metrics: Vec::new() }))
            }
            Some(worker_data::Message::Prepared(prepared)) => Ok(Some(FromWorker::Prepared(prepared))),
            Some(worker_data::Message::Described(described)) => Ok(Some(FromWorker::Described(Box::new(described)))),
            None => Err("a message that this sidecar did not ask for".into()),
        }
    }
}

impl Drop for ProcessWorker {
    fn drop(&mut self) {
        let child = self.control.child.clone();
        child.kill(KillCause::Dropped);
        // Until it is reaped it may read what it was lent.
        if let Link::Ring { ring, .. } = &mut self.link
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let lent = ring.take_lent();
            runtime.spawn(async move {
                child.wait().await;
                drop(lent);
            });
        }
    }
}

/// A worker process seen from outside its lease.
struct ProcessControl {
    child: Arc<Child>,
    out: mpsc::UnboundedSender<proto::SidecarControl>,
    stacks: Arc<Questions>,
    environment: proto::EnvironmentDescription,
    _entry: Entry,
}

impl ProcessControl {
    fn tell(&self, message: sidecar_control::Message) {
        // A closed channel means that the worker is gone.
        let _ = self.out.send(proto::SidecarControl { message: Some(message) });
    }
}

impl Control for ProcessControl {
    fn pid(&self) -> i32 {
        self.child.pid()
    }

    fn kill(&self, cause: KillCause) {
        self.child.kill(cause);
    }

    fn shutdown(&self) {
        self.tell(sidecar_control::Message::Shutdown(proto::Shutdown {}));
    }

    fn gone(&self) -> BoxFuture<'static, Lost> {
        let child = self.child.clone();
        Box::pin(async move {
            let exit = child.wait().await;
            loss(&child, &exit)
        })
    }

    fn stacks(&self) -> BoxFuture<'_, Option<String>> {
        let (request_id, answer) = self.stacks.ask();
        self.tell(sidecar_control::Message::GetStacks(proto::GetStacks { request_id }));
        Box::pin(async move {
            let answer = timeout(STACKS_TIMEOUT, answer).await;
            if answer.is_err() {
                self.stacks.give_up(request_id);
            }
            answer.ok()?.ok()
        })
    }

    fn is_stopped(&self) -> bool {
        self.child.is_stopped()
    }

    fn private_bytes(&self) -> Option<u64> {
        self.child.private_bytes()
    }

    fn environment(&self) -> &proto::EnvironmentDescription {
        &self.environment
    }
}
