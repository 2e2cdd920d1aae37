//! The line to the sidecar: messages both ways on the data connection, over rings or on a gRPC stream. Whoever executes a bundle may ask for state on it; what else
//! arrives meanwhile is kept in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use pillion_wire::bundle::Layout;
use pillion_wire::error::Code;
use pillion_wire::frame::{Assembler, Frame, FrameError, FrameLimits};
use pillion_wire::ipc::{Decoder, Encoder};
use pillion_wire::proto;
use pillion_wire::shm::Slot;
use proto::sidecar_data::Message as Request;
use proto::worker_data::Message as Answer;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Streaming;

use super::connect::{Identity, Pressure, connect};
use super::control::End;
use super::execute::Failure;
use super::frames::check_size;
use super::outgoing::{self, Outgoing};
use super::ring::Ring;
use super::{Broken, FLUSH, failure};
use crate::fetch::Source;

/// The line of this process.
pub struct Line {
    wire: Wire,
    limits: FrameLimits,
    /// What arrived while a bundle waited for state.
    later: VecDeque<proto::SidecarData>,
    /// Set if the line ended while a bundle waited for state: how.
    ended: Option<Result<(), Broken>>,
}

/// What carries the messages.
pub enum Wire {
    /// Rings and slots.
    Ring(Box<Ring>),
    /// A gRPC stream.
    Stream(Box<Stream>),
}

/// The line, for the loop that serves it and for the bundle that executes.
pub type Shared = Arc<Mutex<Line>>;

/// The line, for one message or one question.
pub fn lock(line: &Shared) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// A line whose frames are within `limits`.
    pub fn new(wire: Wire, limits: FrameLimits) -> Shared {
        Arc::new(Mutex::new(Self { wire, limits, later: VecDeque::new(), ended: None }))
    }

    /// Waits for the next message; `None` when this worker is to stop.
    ///
    /// # Errors
    /// What broke the line.
    pub fn receive(&mut self) -> Result<Option<proto::SidecarData>, Broken> {
        match (self.ended.take(), self.later.pop_front()) {
            (Some(ended), _) => ended.map(|()| None),
            (None, Some(message)) => Ok(Some(message)),
            (None, None) => self.wire.receive(),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// What broke the line.
    pub fn send(&mut self, message: proto::WorkerData) -> Result<(), Broken> {
        match &mut self.wire {
            Wire::Ring(ring) => ring.send(message),
            Wire::Stream(stream) => {
                stream.send([message]);
                Ok(())
            }
        }
    }

    /// Sends a frame; `kind` makes what its messages are, `first` is what stands around the first.
    ///
    /// # Errors
    /// What broke the line.
    pub fn send_frame(&mut self, kind: fn(proto::Frame) -> Answer, first: proto::WorkerData, frame: Frame) -> Result<(), Broken> {
        let (seq, plan_id) = (first.seq, first.plan_id);
        let mut first = Some(first);
        let around = move |message| {
            let around = first.take().unwrap_or_else(|| proto::WorkerData { seq, plan_id, ..Default::default() });
            proto::WorkerData { message: Some(kind(message)), ..around }
        };
        match &mut self.wire {
            Wire::Ring(ring) => ring.send_frame(frame, around),
            Wire::Stream(stream) => {
                stream.send(frame.into_messages().map(around));
                Ok(())
            }
        }
    }

    /// The slot of the sidecar that a reference names.
    ///
    /// # Errors
    /// [`FrameError`] if there is none.
    pub fn resolve(&mut self, slot: &proto::SlotRef) -> Result<Slot, FrameError> {
        match &mut self.wire {
            Wire::Ring(ring) => ring.resolve(slot),
            Wire::Stream(_) => Err(FrameError::SlotWithoutCapability),
        }
    }

    /// The sidecar has yet to read why the line ends.
    pub fn finish(&mut self) {
        if let Wire::Stream(stream) = &mut self.wire {
            stream.finish();
        }
    }

    /// Asks for state in the middle of batch `seq`, and waits for the answer.
    fn fetch(&mut self, seq: u64, plan_id: u64, frame: Frame) -> Result<Frame, Failure> {
        let over = || failure::error(Code::SessionClosed, "the worker stops, and has no state to give");
        if self.ended.is_some() {
            return Err(over());
        }
        match self.converse(seq, plan_id, frame) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                self.ended = Some(Ok(()));
                Err(over())
            }
            Err(broken) => {
                let failed = failure::error(Code::ProtocolViolation, broken.to_string());
                self.ended = Some(Err(broken));
                Err(failed)
            }
        }
    }

    fn converse(&mut self, seq: u64, plan_id: u64, frame: Frame) -> Result<Option<Result<Frame, Failure>>, Broken> {
        self.send_frame(Answer::Fetch, proto::WorkerData { seq, plan_id, ..Default::default() }, frame)?;
        let mut assembler = Assembler::new(self.limits);
        while let Some(message) = self.wire.receive()? {
            match message.message {
                Some(Request::Fetched(frame)) if message.seq == seq => {
                    let frame = assembler.push_shared(frame, |slot| self.resolve(slot));
                    if let Some(frame) = frame.map_err(|error| Broken::new("a frame of state breaks the protocol", error))? {
                        return Ok(Some(Ok(frame)));
                    }
                }
                Some(Request::FetchFailed(error)) if message.seq == seq => return Ok(Some(Err(Box::new(error)))),
                _ => self.later.push_back(message),
            }
        }
        Ok(None)
    }
}

impl Wire {
    fn receive(&mut self) -> Result<Option<proto::SidecarData>, Broken> {
        match self {
            Wire::Ring(ring) => ring.receive(),
            Wire::Stream(stream) => Ok(stream.receive()),
        }
    }
}

/// A gRPC stream, which only works while its runtime does: in these methods.
pub struct Stream {
    runtime: Runtime,
    inbound: Streaming<proto::SidecarData>,
    outgoing: Outgoing,
    end: oneshot::Receiver<End>,
}

impl Stream {
    /// Opens the stream. It ends when `end` says so.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(identity: &Identity, end: oneshot::Receiver<End>) -> Result<Self, Broken> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Broken::new("no runtime for the data connection", error))?;
        let (inbound, outgoing) = runtime.block_on(async {
            let pressure = Arc::new(Pressure::default());
            let mut client = connect(identity, pressure.clone()).await?;
            let (outgoing, messages) = outgoing::channel(pressure);
            let stream =
                client.data(messages).await.map_err(|status| Broken::new("the sidecar refused the data stream", status.message()))?;
            Ok((stream.into_inner(), outgoing))
        })?;
        Ok(Self { runtime, inbound, outgoing, end })
    }

    /// The next message; `None` when this worker is to stop, or the sidecar is gone.
    fn receive(&mut self) -> Option<proto::SidecarData> {
        let (inbound, end) = (&mut self.inbound, &mut self.end);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                // A control thread that has ended closes it, too.
                _ = end => None,
                // The sidecar is gone, or wants no more of this worker.
                message = inbound.message() => message.ok().flatten(),
            }
        })
    }

    fn send(&mut self, messages: impl IntoIterator<Item = proto::WorkerData>) {
        self.outgoing.send(messages);
        self.runtime.block_on(self.outgoing.flush());
    }

    fn finish(&mut self) {
        self.outgoing.finish();
        // A stream that is dropped would take what is on its way with it.
        let inbound = &mut self.inbound;
        self.runtime.block_on(async {
            let _ = timeout(FLUSH, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
        });
    }
}

/// Between what a keyed plan asks and frames.
pub struct Codec {
    encoder: Encoder,
    decoder: Decoder,
}

impl Codec {
    /// For a plan of this layout.
    ///
    /// # Errors
    /// [`arrow_schema::ArrowError`] for types that cannot cross.
    pub fn new(layout: &Layout) -> Result<Self, arrow_schema::ArrowError> {
        Ok(Self { encoder: Encoder::new(layout.fetch.clone())?, decoder: Decoder::new(&layout.fetched)? })
    }
}

/// Asks on the line, for one batch.
pub struct Asking {
    /// Where.
    pub line: Shared,
    /// Of the plan.
    pub codec: Arc<Mutex<Codec>>,
    /// Of the batch.
    pub seq: u64,
    /// Its plan.
    pub plan_id: u64,
}

impl Source for Asking {
    fn fetch(&mut self, asked: RecordBatch) -> Result<RecordBatch, Failure> {
        let mut codec = self.codec.lock().unwrap_or_else(PoisonError::into_inner);
        let damaged = |error: arrow_schema::ArrowError| failure::error(Code::ProtocolViolation, format!("state cannot cross: {error}"));
        let mut line = lock(&self.line);
        let frame = codec.encoder.encode(&asked).map_err(damaged)?;
        let frame = check_size("question", frame, line.limits)?;
        let answer = line.fetch(self.seq, self.plan_id, frame)?;
        // In place, as batches are.
        codec.decoder.decode_in_place(&answer).map_err(damaged)
    }
}
