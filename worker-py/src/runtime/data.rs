//! The data stream: requests in, answers out, all on the Python thread.

use std::sync::Arc;

use pillion_wire::error::Code;
use pillion_wire::frame::{Assembler, Frame, FrameLimits};
use pillion_wire::proto;
use proto::sidecar_data::Message as Request;
use proto::worker_data::Message as Answer;
use pyo3::prelude::*;
use tokio::time::timeout;
use tonic::Streaming;

use super::connect::{Identity, Pressure, connect};
use super::frames::{Answered, Frames};
use super::logs::Queue;
use super::outgoing::{self, Outgoing};
use super::{Broken, FLUSH, Wires, failure};

/// Serves until the sidecar says to stop or is gone. Called without the GIL, which `runtime` is called with.
pub fn serve(identity: &Identity, runtime: &Py<PyAny>, queue: &Arc<Queue>, wires: Wires) -> Result<(), Broken> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Broken::new("no runtime for the data connection", error))?;
    tokio.block_on(converse(identity, runtime, queue, wires))
}

async fn converse(identity: &Identity, runtime: &Py<PyAny>, queue: &Arc<Queue>, wires: Wires) -> Result<(), Broken> {
    let Wires { provision, open, mut end } = wires;
    let pressure = Arc::new(Pressure::default());
    let mut client = connect(identity, pressure.clone()).await?;
    // The control thread has said why there is none.
    let provision = provision.await.map_err(|_| Broken(String::from("the worker was not provisioned")))?;
    let limits = FrameLimits { bytes: provision.max_batch_bytes, rows: provision.max_batch_rows };
    let (outgoing, messages) = outgoing::channel(pressure);
    let stream = client.data(messages).await.map_err(|status| Broken::new("the sidecar refused the data stream", status.message()))?;
    let mut stream: Streaming<proto::SidecarData> = stream.into_inner();
    // A control thread that has ended closes `end`, too.
    let _ = open.send(());
    let frames = Frames::new(Python::attach(|py| runtime.clone_ref(py)), queue.clone(), limits);
    let mut conversation = Conversation { frames, assembler: Assembler::new(limits), outgoing, frame_of: (0, 0) };
    let ended = loop {
        let message = tokio::select! {
            biased;
            _ = &mut end => break Ok(()),
            message = stream.message() => message,
        };
        match message {
            Ok(Some(message)) => {
                if let Err(broken) = conversation.take(message).await {
                    break Err(broken);
                }
            }
            // The sidecar is gone, or wants no more of this worker.
            Ok(None) | Err(_) => break Ok(()),
        }
    };
    conversation.frames.clear();
    if ended.is_err() {
        // The sidecar has yet to read why; a stream that is dropped would take that with it.
        conversation.outgoing.finish();
        let _ = timeout(FLUSH, async { while let Ok(Some(_)) = stream.message().await {} }).await;
    }
    ended
}

/// The state of the stream.
struct Conversation {
    frames: Frames,
    assembler: Assembler,
    outgoing: Outgoing,
    /// Sequence number and plan of the frame that is being put together.
    frame_of: (u64, u64),
}

impl Conversation {
    /// Takes one message, and answers it if it is complete.
    async fn take(&mut self, message: proto::SidecarData) -> Result<(), Broken> {
        let proto::SidecarData { seq, plan_id, message } = message;
        match message {
            Some(Request::Batch(frame)) => {
                if !self.assembler.is_open() {
                    self.frame_of = (seq, plan_id);
                }
                match self.assembler.push(frame) {
                    Ok(None) => Ok(()),
                    Ok(Some(frame)) => self.execute(frame).await,
                    Err(error) => self.violated(seq, plan_id, Broken::new("a frame breaks the protocol", error)).await,
                }
            }
            Some(Request::Prepare(request)) => {
                let answer = self.frames.prepare(plan_id, request);
                self.answer(seq, plan_id, answer).await
            }
            Some(Request::Describe(request)) => {
                let answer = self.frames.describe(request);
                self.answer(seq, plan_id, answer).await
            }
            Some(Request::Release(_)) => {
                self.frames.release(plan_id);
                Ok(())
            }
            Some(Request::BundleBegin(_) | Request::BundleFinish(_)) => {
                let error = failure::error(Code::Unsupported, "this worker has no `state` capability, so it runs no stateful bundles");
                self.answer(seq, plan_id, Answer::Failed(*error)).await
            }
            None => self.violated(seq, plan_id, Broken(String::from("a message of the data stream is empty or unknown"))).await,
        }
    }

    async fn execute(&mut self, frame: Frame) -> Result<(), Broken> {
        let (seq, plan_id) = self.frame_of;
        let Answered { outcome, user_ns, convert_ns } = match self.frames.execute(plan_id, &frame) {
            Ok(executed) => executed,
            Err(broken) => return self.violated(seq, plan_id, broken).await,
        };
        // The input is no longer needed, and its memory may be by the answer.
        drop(frame);
        let first = proto::WorkerData { seq, plan_id, convert_ns, user_ns, ..Default::default() };
        match outcome {
            Ok(result) => {
                let mut first = Some(first);
                self.outgoing.send(result.into_messages().map(|frame| {
                    let around = first.take().unwrap_or_else(|| proto::WorkerData { seq, plan_id, ..Default::default() });
                    proto::WorkerData { message: Some(Answer::Result(frame)), ..around }
                }));
            }
            Err(error) => self.outgoing.send([proto::WorkerData { message: Some(Answer::Failed(*error)), ..first }]),
        }
        self.outgoing.flush().await;
        Ok(())
    }

    async fn answer(&self, seq: u64, plan_id: u64, message: Answer) -> Result<(), Broken> {
        self.outgoing.send([proto::WorkerData { seq, plan_id, message: Some(message), ..Default::default() }]);
        self.outgoing.flush().await;
        Ok(())
    }

    /// Says what is wrong, and ends the conversation: after a misunderstanding nothing on the stream can be relied on.
    async fn violated(&self, seq: u64, plan_id: u64, broken: Broken) -> Result<(), Broken> {
        self.answer(seq, plan_id, Answer::Failed(*failure::error(Code::ProtocolViolation, broken.to_string()))).await?;
        Err(broken)
    }
}
