//! The data stream: requests in, answers out, all on the Python thread. They cross over rings, or on a gRPC stream.

use std::sync::Arc;

use pillion_wire::CAPABILITY_SHM;
use pillion_wire::error::Code;
use pillion_wire::frame::{Assembler, Frame, FrameError, FrameLimits};
use pillion_wire::proto;
use pillion_wire::shm::Slot;
use proto::sidecar_data::Message as Request;
use proto::worker_data::Message as Answer;
use pyo3::prelude::*;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Streaming;

use super::connect::{Identity, Pressure, connect};
use super::control::End;
use super::frames::{Answered, Frames};
use super::logs::Queue;
use super::outgoing::{self, Outgoing};
use super::ring::Ring;
use super::{Broken, FLUSH, Wires, failure};

/// Serves until the sidecar says to stop or is gone. Called without the GIL, which `runtime` is called with.
pub fn serve(identity: &Identity, runtime: &Py<PyAny>, queue: &Arc<Queue>, wires: Wires) -> Result<(), Broken> {
    let Wires { provision, open, mut end, end_bell } = wires;
    // The control thread has said why there is none.
    let provision = provision.blocking_recv().map_err(|_| Broken(String::from("the worker was not provisioned")))?;
    let limits = FrameLimits { bytes: provision.max_batch_bytes, rows: provision.max_batch_rows };
    let frames = Frames::new(Python::attach(|py| runtime.clone_ref(py)), queue.clone(), limits);
    let conversation = Conversation { frames, assembler: Assembler::new(limits), frame_of: (0, 0) };
    if provision.capabilities.iter().any(|capability| capability == CAPABILITY_SHM)
        && let Some(socket) = identity.socket()
    {
        match Ring::join(socket, identity.join(), end, end_bell) {
            Ok(ring) => return over_rings(ring, conversation, open),
            Err(unused) => end = unused,
        }
    }
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Broken::new("no runtime for the data connection", error))?;
    tokio.block_on(over_a_stream(identity, conversation, open, end))
}

fn over_rings(mut ring: Ring, mut conversation: Conversation, open: oneshot::Sender<()>) -> Result<(), Broken> {
    // A control thread that has ended has said so by `end`.
    let _ = open.send(());
    let mut converse = || {
        while let Some(message) = ring.receive()? {
            let Some(Reply { first, outcome, broken }) = conversation.take(message, |slot| ring.resolve(slot)) else { continue };
            match outcome {
                Outcome::Result(frame) => ring.send_result(first, frame)?,
                Outcome::Other(answer) => ring.send(proto::WorkerData { message: Some(*answer), ..first })?,
            }
            if let Some(broken) = broken {
                return Err(broken);
            }
        }
        Ok(())
    };
    let ended = converse();
    conversation.frames.clear();
    ended
}

async fn over_a_stream(
    identity: &Identity,
    mut conversation: Conversation,
    open: oneshot::Sender<()>,
    mut end: oneshot::Receiver<End>,
) -> Result<(), Broken> {
    let pressure = Arc::new(Pressure::default());
    let mut client = connect(identity, pressure.clone()).await?;
    let (outgoing, messages) = outgoing::channel(pressure);
    let stream = client.data(messages).await.map_err(|status| Broken::new("the sidecar refused the data stream", status.message()))?;
    let mut stream: Streaming<proto::SidecarData> = stream.into_inner();
    // A control thread that has ended closes `end`, too.
    let _ = open.send(());
    let ended = loop {
        let message = tokio::select! {
            biased;
            _ = &mut end => break Ok(()),
            message = stream.message() => message,
        };
        // The sidecar is gone, or wants no more of this worker.
        let Ok(Some(message)) = message else { break Ok(()) };
        let Some(reply) = conversation.take(message, |_| Err(FrameError::SlotWithoutCapability)) else { continue };
        let broken = send(&outgoing, reply);
        outgoing.flush().await;
        if let Some(broken) = broken {
            break Err(broken);
        }
    };
    conversation.frames.clear();
    if ended.is_err() {
        // The sidecar has yet to read why; a stream that is dropped would take that with it.
        outgoing.finish();
        let _ = timeout(FLUSH, async { while let Ok(Some(_)) = stream.message().await {} }).await;
    }
    ended
}

/// Queues a reply; gives what ends the conversation after it.
fn send(outgoing: &Outgoing, reply: Reply) -> Option<Broken> {
    let Reply { first, outcome, broken } = reply;
    match outcome {
        Outcome::Result(frame) => {
            let (seq, plan_id) = (first.seq, first.plan_id);
            let mut first = Some(first);
            outgoing.send(frame.into_messages().map(|frame| {
                let around = first.take().unwrap_or_else(|| proto::WorkerData { seq, plan_id, ..Default::default() });
                proto::WorkerData { message: Some(Answer::Result(frame)), ..around }
            }));
        }
        Outcome::Other(answer) => outgoing.send([proto::WorkerData { message: Some(*answer), ..first }]),
    }
    broken
}

/// What is answered.
struct Reply {
    /// What stands around the (first) message.
    first: proto::WorkerData,
    outcome: Outcome,
    /// Set if the conversation ends with this: after a misunderstanding nothing on the stream can be relied on.
    broken: Option<Broken>,
}

enum Outcome {
    Result(Frame),
    Other(Box<Answer>),
}

/// The state of the stream.
struct Conversation {
    frames: Frames,
    assembler: Assembler,
    /// Sequence number and plan of the frame that is being put together.
    frame_of: (u64, u64),
}

impl Conversation {
    /// Takes one message; gives the answer if it is complete.
    fn take(&mut self, message: proto::SidecarData, resolve: impl FnOnce(&proto::SlotRef) -> Result<Slot, FrameError>) -> Option<Reply> {
        let proto::SidecarData { seq, plan_id, message, .. } = message;
        match message {
            Some(Request::Batch(frame)) => {
                if !self.assembler.is_open() {
                    self.frame_of = (seq, plan_id);
                }
                match self.assembler.push_shared(frame, resolve) {
                    Ok(None) => None,
                    Ok(Some(frame)) => Some(self.execute(frame)),
                    Err(error) => Some(violated(seq, plan_id, Broken::new("a frame breaks the protocol", error))),
                }
            }
            Some(Request::Prepare(request)) => Some(answer(seq, plan_id, self.frames.prepare(plan_id, request))),
            Some(Request::Describe(request)) => Some(answer(seq, plan_id, self.frames.describe(request))),
            Some(Request::Release(_)) => {
                self.frames.release(plan_id);
                None
            }
            Some(Request::Fetched(_)) => Some(violated(seq, plan_id, Broken(String::from("state arrived that was not asked for")))),
            None => Some(violated(seq, plan_id, Broken(String::from("a message of the data stream is empty or unknown")))),
        }
    }

    fn execute(&mut self, frame: Frame) -> Reply {
        let (seq, plan_id) = self.frame_of;
        let Answered { outcome, user_ns, convert_ns, metrics } = match self.frames.execute(plan_id, &frame) {
            Ok(executed) => executed,
            Err(broken) => return violated(seq, plan_id, broken),
        };
        // The input is no longer needed, and its memory may be by the answer.
        drop(frame);
        let first = proto::WorkerData { seq, plan_id, convert_ns, user_ns, metrics, ..Default::default() };
        let outcome = match outcome {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Other(Box::new(Answer::Failed(*error))),
        };
        Reply { first, outcome, broken: None }
    }
}

fn answer(seq: u64, plan_id: u64, message: Answer) -> Reply {
    let first = proto::WorkerData { seq, plan_id, ..Default::default() };
    Reply { first, outcome: Outcome::Other(Box::new(message)), broken: None }
}

/// Says what is wrong, and ends the conversation.
fn violated(seq: u64, plan_id: u64, broken: Broken) -> Reply {
    let failed = Answer::Failed(*failure::error(Code::ProtocolViolation, broken.to_string()));
    Reply { broken: Some(broken), ..answer(seq, plan_id, failed) }
}
