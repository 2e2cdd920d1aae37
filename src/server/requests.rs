//! The requests of one session on the wire become inputs. They are read by a task of their own, which never stops reading; the host's credit bounds what it can send.

use super::{
    host_service::{check_version, environment},
    sharing::Sharing,
    state::{StateDoor, StateStreams},
};
use crate::{
    engine::Engine,
    error::{Code, Error, Result},
    session::{
        Input, OpenRequest, Session,
        credit::{Amount, Gate},
    },
    state::host::Keeper,
};
use pillion_wire::{
    CAPABILITY_SHM,
    frame::{Assembler, FrameLimits},
    proto::{self, execute_request as request},
};
use std::{future::poll_fn, sync::Arc};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tonic::Streaming;

/// How far a host may overdraw its credit before it counts as broken: by one batch, which the limits bound.
fn floor(session: &Session) -> Amount {
    let limits = session.limits();
    Amount::default().minus(Amount::of(limits.max_batch_bytes, limits.max_batch_rows))
}

/// What the reader and the responses share.
pub(super) struct Live {
    pub session: Arc<Session>,
    /// Room for results at the host.
    pub gate: Gate,
    /// Input credit the host has left, as this side counts it.
    left: std::sync::Mutex<Amount>,
    /// If both ends have the capability.
    pub sharing: Option<Sharing>,
    /// What the host is told of the memory.
    pub offer: Option<proto::ArenaOffer>,
    /// Smaller bodies go inline, in bytes.
    pub slot_threshold: u64,
    /// If the host keeps the state.
    _door: Option<StateDoor>,
    /// Whether the workers have ended for good.
    stopped: watch::Receiver<bool>,
}

impl Drop for Live {
    /// Whoever was to read the answers is gone.
    fn drop(&mut self) {
        self.session.cancel(Error::new(Code::Cancelled, "the host went away"));
    }
}

impl Live {
    fn charge(&self, cost: Amount) -> Result<()> {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *left = left.minus(cost);
        let floor = floor(&self.session);
        if left.bytes < floor.bytes || left.rows < floor.rows {
            return Err(Error::new(Code::ProtocolViolation, "the host sent more than its credit allows"));
        }
        Ok(())
    }

    /// Waits until the host uses no results of workers that might use their slots again.
    pub async fn returned(self: Arc<Self>) {
        let Some(sharing) = &self.sharing else { return };
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = poll_fn(|cx| sharing.poll_returned(cx)) => {}
            // An error says that the engine is gone, and its workers with it.
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    pub fn refund(&self, amount: Amount) {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *left = left.plus(amount);
    }
}

/// Reads requests until the stream ends or breaks a rule.
pub(super) async fn read(
    engine: Arc<Engine>,
    states: StateStreams,
    mut requests: Streaming<proto::ExecuteRequest>,
    tell: oneshot::Sender<Result<Arc<Live>>>,
) {
    let live = match open(&engine, &states, &mut requests).await {
        Ok(live) => Arc::new(live),
        Err(error) => {
            // The host may have gone meanwhile.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let session = live.session.clone();
    if tell.send(Ok(live.clone())).is_err() {
        session.cancel(Error::new(Code::Cancelled, "the host went away"));
        return;
    }
    let limits = session.limits();
    let mut inputs = Inputs {
        live,
        frames: Assembler::new(FrameLimits { bytes: limits.max_batch_bytes, rows: limits.max_batch_rows }),
        seq: 0,
        input: 0,
        ended: false,
    };
    take_all(&mut inputs, &mut requests).await;
    inputs.live.sharing.iter().for_each(Sharing::gone);
}

async fn take_all(inputs: &mut Inputs, requests: &mut Streaming<proto::ExecuteRequest>) {
    let session = inputs.live.session.clone();
    loop {
        match requests.message().await {
            Ok(Some(message)) => {
                if let Err(error) = inputs.take(message) {
                    session.cancel(error);
                    return;
                }
            }
            // A host may close its half after `End`; no more credit can come then, and HTTP/2 alone holds back what is left. Before, the stream is broken.
            Ok(None) if inputs.ended => {
                inputs.live.gate.give(Amount { bytes: i64::MAX, rows: i64::MAX });
                return;
            }
            Ok(None) | Err(_) => {
                session.cancel(Error::new(Code::Cancelled, "the host closed the stream before the end"));
                return;
            }
        }
    }
}

async fn open(engine: &Engine, states: &StateStreams, requests: &mut Streaming<proto::ExecuteRequest>) -> Result<Live> {
    let deadline = engine.config().limits.open_deadline;
    let Ok(first) = timeout(deadline, requests.message()).await else {
        return Err(Error::new(Code::ProtocolViolation, format!("no `open` came within {deadline:?}"))
            .hint("send `open` with the call; `limits.open_deadline` bounds the wait"));
    };
    let first = first.map_err(|status| Error::from_status(&status))?;
    let Some(request::Message::Open(open)) = first.and_then(|first| first.message) else {
        return Err(Error::new(Code::ProtocolViolation, "the first message of a session is `open`"));
    };
    check_version(open.protocol_version)?;
    let credit = open.credit.unwrap_or_default();
    let door = open.keyed.as_ref().filter(|keyed| keyed.backend == "host").map(|_| StateDoor::new(&engine.config().limits));
    let request = OpenRequest {
        plan: open.plan.unwrap_or_default(),
        input_schema: open.input_schema.into(),
        options: open.options.unwrap_or_default(),
        name: open.name,
        traceparent: open.traceparent,
        state_host: door.as_ref().map(|door| Keeper(door.host.clone())),
        keyed: open.keyed,
    };
    let session = engine.open(request, &environment(engine.config(), open.environment)?).await?;
    if let Some(door) = &door {
        states.expect(session.id(), door);
    }
    let left = session.input_credit();
    let memory = engine.memory();
    let offer = if open.capabilities.iter().any(|capability| capability == CAPABILITY_SHM) { memory.offer() } else { None };
    let most = u64::try_from(left.bytes).unwrap_or(u64::MAX);
    let sharing = offer.is_some().then(|| Sharing::new(memory.clone(), most));
    Ok(Live {
        _door: door,
        sharing,
        offer,
        session,
        slot_threshold: memory.config.threshold,
        stopped: engine.stopped(),
        gate: Gate::new(Amount { bytes: credit.bytes, rows: credit.rows }),
        left: std::sync::Mutex::new(left),
    })
}

/// Turns messages into inputs.
struct Inputs {
    live: Arc<Live>,
    frames: Assembler,
    /// Of the frame that is being put together.
    seq: u64,
    input: u32,
    ended: bool,
}

impl Inputs {
    fn take(&mut self, message: proto::ExecuteRequest) -> Result<()> {
        let violation = |text: &str| Err(Error::new(Code::ProtocolViolation, text));
        let seq = message.seq;
        let session = &self.live.session;
        if let Some(sharing) = &self.live.sharing {
            sharing.take_back(&message.released)?;
        }
        match message.message {
            Some(request::Message::Batch(frame)) => self.batch(seq, message.input, frame),
            Some(request::Message::Credit(credit)) => {
                self.live.gate.give(Amount { bytes: credit.bytes, rows: credit.rows });
                Ok(())
            }
            // Stateless functions commit per batch; there is nothing to cut.
            Some(request::Message::BundleEnd(_)) => Ok(()),
            Some(request::Message::Applied(applied)) => session.applied(applied.bundle),
            Some(request::Message::Proof(proof)) => {
                self.live.sharing.iter().for_each(|sharing| sharing.prove(&proof.nonce));
                Ok(())
            }
            Some(request::Message::ArenaWanted(wanted)) => {
                self.live.sharing.iter().for_each(|sharing| sharing.want(wanted.bytes));
                Ok(())
            }
            None if !message.released.is_empty() => Ok(()),
            _ if self.frames.is_open() => violation("an input stands inside a frame"),
            Some(request::Message::Watermark(watermark)) => session.push(seq, Input::Watermark(watermark)),
            Some(request::Message::Idle(idle)) => session.push(seq, Input::Idle(idle)),
            Some(request::Message::Barrier(barrier)) => session.push(seq, Input::Barrier(barrier)),
            Some(request::Message::End(end)) => {
                self.ended = true;
                if end.cancel {
                    session.cancel(Error::new(Code::Cancelled, "the host cancelled the session"));
                } else {
                    session.finish();
                }
                Ok(())
            }
            Some(request::Message::ProcessingTime(time)) => session.push(seq, Input::ProcessingTime(time.timestamp_ms)),
            Some(request::Message::Discard(discard)) => session.push(seq, Input::Discard(discard.handle)),
            Some(request::Message::Open(_)) => violation("`open` came twice"),
            None => violation("a request without a message"),
        }
    }

    fn batch(&mut self, seq: u64, input: u32, message: proto::Frame) -> Result<()> {
        if !self.frames.is_open() {
            (self.seq, self.input) = (seq, input);
        } else if seq != self.seq && seq != 0 {
            return Err(Error::new(Code::ProtocolViolation, "two frames are mixed up"));
        }
        let pushed = match &self.live.sharing {
            Some(sharing) => self.frames.push_shared(message, |slot| sharing.resolve(slot)),
            None => self.frames.push(message),
        };
        let frame = pushed.map_err(|error| match error {
            pillion_wire::frame::FrameError::TooLarge(..) => Error::new(Code::BatchTooLarge, error.to_string()),
            _ => Error::new(Code::ProtocolViolation, error.to_string()),
        })?;
        let Some(frame) = frame else { return Ok(()) };
        self.live.charge(Amount::of(frame.bytes(), frame.rows))?;
        let input = if self.input == 0 { Input::Batch(frame.into()) } else { Input::Other(self.input, frame.into()) };
        self.live.session.push(self.seq, input)
    }
}
