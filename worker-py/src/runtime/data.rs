//! The data connection: requests in, answers out, all on the Python thread.

use std::sync::Arc;

use pillion_wire::CAPABILITY_SHM;
use pillion_wire::error::Code;
use pillion_wire::frame::{Assembler, Frame, FrameLimits};
use pillion_wire::proto;
use proto::sidecar_data::Message as Request;
use proto::worker_data::Message as Answer;
use pyo3::prelude::*;

use super::connect::Identity;
use super::frames::{Answered, Frames};
use super::line::{Line, Shared, Stream, Wire, lock};
use super::logs::Queue;
use super::ring::Ring;
use super::{Broken, Wires, failure};

/// Serves until the sidecar says to stop or is gone. Called without the GIL, which `runtime` is called with.
pub fn serve(identity: &Identity, runtime: &Py<PyAny>, queue: &Arc<Queue>, wires: Wires) -> Result<(), Broken> {
    let Wires { provision, open, end, end_bell } = wires;
    // The control thread has said why there is none.
    let provision = provision.blocking_recv().map_err(|_| Broken(String::from("the worker was not provisioned")))?;
    let limits = FrameLimits { bytes: provision.max_batch_bytes, rows: provision.max_batch_rows };
    let shares = provision.capabilities.iter().any(|capability| capability == CAPABILITY_SHM);
    let ring = match identity.socket().filter(|_| shares) {
        Some(socket) => Ring::join(socket, identity.join(), end, end_bell),
        None => Err(end),
    };
    let wire = match ring {
        Ok(ring) => Wire::Ring(Box::new(ring)),
        Err(end) => Wire::Stream(Box::new(Stream::open(identity, end)?)),
    };
    // A control thread that has ended has said so by `end`.
    let _ = open.send(());
    let frames = Frames::new(Python::attach(|py| runtime.clone_ref(py)), queue.clone(), limits);
    let mut conversation = Conversation { line: Line::new(wire, limits), frames, assembler: Assembler::new(limits), frame_of: (0, 0) };
    let ended = conversation.run();
    conversation.frames.clear();
    if ended.is_err() {
        lock(&conversation.line).finish();
    }
    ended
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

/// The state of the connection.
struct Conversation {
    line: Shared,
    frames: Frames,
    assembler: Assembler,
    /// Sequence number and plan of the frame that is being put together.
    frame_of: (u64, u64),
}

impl Conversation {
    fn run(&mut self) -> Result<(), Broken> {
        loop {
            let message = lock(&self.line).receive()?;
            let Some(message) = message else { return Ok(()) };
            let Some(Reply { first, outcome, broken }) = self.take(message) else { continue };
            let mut line = lock(&self.line);
            match outcome {
                Outcome::Result(frame) => line.send_frame(Answer::Result, first, frame)?,
                Outcome::Other(answer) => line.send(proto::WorkerData { message: Some(*answer), ..first })?,
            }
            if let Some(broken) = broken {
                return Err(broken);
            }
        }
    }

    /// Takes one message; gives the answer if it is complete.
    fn take(&mut self, message: proto::SidecarData) -> Option<Reply> {
        let proto::SidecarData { seq, plan_id, message, .. } = message;
        match message {
            Some(Request::Batch(frame)) => {
                if !self.assembler.is_open() {
                    self.frame_of = (seq, plan_id);
                }
                let line = &self.line;
                match self.assembler.push_shared(frame, |slot| lock(line).resolve(slot)) {
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
            Some(Request::Fetched(_) | Request::FetchFailed(_)) => {
                Some(violated(seq, plan_id, Broken(String::from("state arrived that was not asked for"))))
            }
            None => Some(violated(seq, plan_id, Broken(String::from("a message of the data stream is empty or unknown")))),
        }
    }

    fn execute(&mut self, frame: Frame) -> Reply {
        let (seq, plan_id) = self.frame_of;
        let Answered { outcome, user_ns, convert_ns, metrics } = match self.frames.execute(seq, plan_id, &frame, &self.line) {
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
