//! One session on the wire: requests become inputs, answers become responses. Bodies are passed on as they came.
//!
//! Inputs are read by a task of their own, which never stops reading; the host's credit bounds what it can send. Responses are made when the connection asks for them,
//! within the credit that the host gave.

use super::{
    host_service::{check_version, environment},
    sharing::Sharing,
};
use crate::{
    engine::Engine,
    error::{Code, Error, Result},
    session::{
        Answer, Input, OpenRequest, Session,
        credit::{Amount, Gate, is_due},
    },
};
use bytes::Bytes;
use pillion_wire::{
    CAPABILITY_SHM, PROTOCOL_VERSION,
    frame::{Assembler, FrameLimits, Messages},
    ipc::Encoder,
    proto::{self, execute_request as request, execute_response as response},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// How far a host may overdraw its credit before it counts as broken: by one batch, which the limits bound.
fn floor(session: &Session) -> Amount {
    let limits = session.limits();
    Amount::default().minus(Amount::of(limits.max_batch_bytes, limits.max_batch_rows))
}

/// Starts to serve a session stream.
pub(super) fn begin(engine: Arc<Engine>, requests: Streaming<proto::ExecuteRequest>) -> Responses {
    let (tell, opened) = oneshot::channel();
    let reader = tokio::spawn(read(engine, requests, tell));
    Responses { state: State::Opening(opened), reader: Some(reader.abort_handle()) }
}

/// What the reader and the responses share.
struct Live {
    session: Arc<Session>,
    /// Room for results at the host.
    gate: Gate,
    /// Input credit the host has left, as this side counts it.
    left: std::sync::Mutex<Amount>,
    /// If both ends have the capability.
    sharing: Option<Sharing>,
    /// What the host is told of the memory.
    offer: Option<proto::ArenaOffer>,
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

    fn refund(&self, amount: Amount) {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *left = left.plus(amount);
    }
}

/// Reads requests until the stream ends or breaks a rule.
async fn read(engine: Arc<Engine>, mut requests: Streaming<proto::ExecuteRequest>, tell: oneshot::Sender<Result<Arc<Live>>>) {
    let live = match open(&engine, &mut requests).await {
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
        ended: false,
    };
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

async fn open(engine: &Engine, requests: &mut Streaming<proto::ExecuteRequest>) -> Result<Live> {
    let first = requests.message().await.map_err(|status| Error::from_status(&status))?;
    let Some(request::Message::Open(open)) = first.and_then(|first| first.message) else {
        return Err(Error::new(Code::ProtocolViolation, "the first message of a session is `open`"));
    };
    check_version(open.protocol_version)?;
    let credit = open.credit.unwrap_or_default();
    let request = OpenRequest {
        plan: open.plan.unwrap_or_default(),
        input_schema: open.input_schema.into(),
        options: open.options.unwrap_or_default(),
        name: open.name,
        traceparent: open.traceparent,
        keyed: open.keyed,
    };
    let session = engine.open(request, &environment(open.environment)?).await?;
    let left = session.input_credit();
    let memory = engine.memory();
    let offer = if open.capabilities.iter().any(|capability| capability == CAPABILITY_SHM) { memory.offer() } else { None };
    let most = u64::try_from(left.bytes).unwrap_or(u64::MAX);
    let sharing = offer.is_some().then(|| Sharing::new(memory.clone(), most));
    Ok(Live {
        sharing,
        offer,
        session,
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
            Some(request::Message::Batch(frame)) => self.batch(seq, frame),
            Some(request::Message::Credit(credit)) => {
                self.live.gate.give(Amount { bytes: credit.bytes, rows: credit.rows });
                Ok(())
            }
            // Stateless functions commit per batch; there is nothing to cut or to forget.
            Some(request::Message::BundleEnd(_) | request::Message::Applied(_)) => Ok(()),
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
            Some(request::Message::End(_)) => {
                self.ended = true;
                session.finish();
                Ok(())
            }
            Some(request::Message::Broadcast(_)) => Err(Error::new(Code::Unsupported, "broadcasts need a stateful session")),
            Some(request::Message::Open(_)) => violation("`open` came twice"),
            None => violation("a request without a message"),
        }
    }

    fn batch(&mut self, seq: u64, message: proto::Frame) -> Result<()> {
        if !self.frames.is_open() {
            self.seq = seq;
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
        self.live.session.push(self.seq, Input::Batch(frame.into()))
    }
}

/// The responses of one session.
pub struct Responses {
    state: State,
    reader: Option<tokio::task::AbortHandle>,
}

enum State {
    Opening(oneshot::Receiver<Result<Arc<Live>>>),
    Open(Box<Open>),
    Done,
}

struct Open {
    live: Arc<Live>,
    /// An answer that waits for credit.
    held: Option<(Answer, Amount)>,
    /// A result behind the arena that the host is told of first.
    ready: Option<proto::ExecuteResponse>,
    /// The rest of the result that is being sent.
    messages: Option<(u64, Messages)>,
    /// Input credit not yet given back to the host.
    owed: Amount,
    /// For results that did not cross a wire so far.
    encoder: Option<Encoder>,
}

impl Stream for Responses {
    type Item = Result<proto::ExecuteResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match &mut this.state {
            State::Done => Poll::Ready(None),
            State::Opening(opened) => {
                let opened = ready!(Pin::new(opened).poll(cx));
                let response = match opened.unwrap_or_else(|_| Err(Error::new(Code::InvariantBroken, "the session's reader is gone"))) {
                    Ok(live) => {
                        let response = opened_response(&live);
                        this.state = State::Open(Box::new(Open {
                            live,
                            held: None,
                            ready: None,
                            messages: None,
                            owed: Amount::default(),
                            encoder: None,
                        }));
                        response
                    }
                    Err(error) => {
                        this.state = State::Done;
                        respond(0, response::Message::Failed((&error).into()))
                    }
                };
                Poll::Ready(Some(Ok(response)))
            }
            State::Open(open) => match ready!(open.poll_response(cx)) {
                Some(mut response) => {
                    if let Some(sharing) = &open.live.sharing {
                        response.released.append(&mut sharing.released());
                    }
                    Poll::Ready(Some(Ok(response)))
                }
                None => {
                    this.state = State::Done;
                    Poll::Ready(None)
                }
            },
        }
    }
}

impl Drop for Responses {
    /// The host's connection is gone, or the session is over.
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
        if let State::Open(open) = &self.state {
            open.live.session.cancel(Error::new(Code::Cancelled, "the host went away"));
        }
    }
}

impl Open {
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Option<proto::ExecuteResponse>> {
        match self.poll_answers(cx) {
            Poll::Pending => match self.live.sharing.as_ref().and_then(|sharing| sharing.poll_response(cx)) {
                Some(response) => Poll::Ready(Some(response)),
                None => Poll::Pending,
            },
            response => response,
        }
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Option<proto::ExecuteResponse>> {
        if let Some(response) = self.ready.take() {
            return Poll::Ready(Some(response));
        }
        if let Some((seq, messages)) = &mut self.messages {
            match messages.next() {
                Some(message) => return Poll::Ready(Some(respond(*seq, response::Message::Result(message)))),
                None => self.messages = None,
            }
        }
        if let Some(credit) = self.credit_due() {
            return Poll::Ready(Some(respond(0, response::Message::Credit(credit))));
        }
        if self.held.is_none() {
            match ready!(self.live.session.poll_answer(cx)) {
                Some(Ok(answer)) => {
                    let cost = match &answer {
                        Answer::Batch { result: Ok(batch), .. } => Amount::of(batch.bytes(), batch.rows()),
                        _ => Amount::default(),
                    };
                    self.held = Some((answer, cost));
                }
                Some(Err(error)) => return Poll::Ready(Some(respond(0, response::Message::Failed((&error).into())))),
                None => return Poll::Ready(None),
            }
        }
        // Only results cost anything; what is free never waits.
        if let Some((_, cost)) = &self.held
            && *cost != Amount::default()
        {
            match self.live.gate.poll_take(cx, *cost) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(None),
                // A cancel must be heard although the host gives no credit.
                Poll::Pending => {
                    let over = ready!(self.live.session.poll_over(cx));
                    self.held = None;
                    return Poll::Ready(over.map(|error| respond(0, response::Message::Failed((&error).into()))));
                }
            }
        }
        Poll::Ready(self.held.take().map(|(answer, _)| self.answer(answer)))
    }

    /// Credit goes back in portions, so that small batches do not cost a message each.
    fn credit_due(&mut self) -> Option<proto::Credit> {
        let portion = self.live.session.input_credit();
        if !is_due(self.owed.bytes, portion.bytes) && !is_due(self.owed.rows, portion.rows) {
            return None;
        }
        let owed = std::mem::take(&mut self.owed);
        self.live.refund(owed);
        Some(proto::Credit { bytes: owed.bytes, rows: owed.rows })
    }

    fn answer(&mut self, answer: Answer) -> proto::ExecuteResponse {
        match answer {
            Answer::Batch { seq, result, timing, metrics, refund } => {
                self.owed = self.owed.plus(refund);
                let mut offer = None;
                let result = result.and_then(|batch| {
                    let frame = batch.into_frame(&mut self.encoder).map_err(|error| error.at(seq))?;
                    let lent = match &self.live.sharing {
                        Some(sharing) => sharing.lend(frame),
                        None => frame.into_inline().map(|frame| (frame, None)),
                    };
                    let unreadable = |error| Error::new(Code::SystemRefused, format!("a result cannot be read: {error}")).at(seq);
                    let (frame, told) = lent.map_err(unreadable)?;
                    offer = told;
                    Ok(frame)
                });
                let message = match result {
                    Ok(frame) => {
                        let mut messages = frame.into_messages();
                        let first = messages.next().unwrap_or_default();
                        self.messages = Some((seq, messages));
                        response::Message::Result(first)
                    }
                    Err(error) => response::Message::Failed((&error).into()),
                };
                let response = proto::ExecuteResponse { seq, timing: Some(timing), metrics, message: Some(message), ..Default::default() };
                match offer {
                    Some(offer) => {
                        self.ready = Some(response);
                        respond(0, response::Message::Arena(offer))
                    }
                    None => response,
                }
            }
            Answer::Watermark { seq, watermark } => respond(seq, response::Message::Watermark(watermark)),
            Answer::Snapshotted { seq, checkpoint_id } => {
                respond(seq, response::Message::Snapshotted(proto::Snapshotted { checkpoint_id }))
            }
            Answer::Ended(ended) => respond(0, response::Message::Ended(ended)),
        }
    }
}

fn respond(seq: u64, message: response::Message) -> proto::ExecuteResponse {
    proto::ExecuteResponse { seq, message: Some(message), ..Default::default() }
}

fn opened_response(live: &Live) -> proto::ExecuteResponse {
    let session = &live.session;
    let (described, limits, credit) = (session.described(), session.limits(), session.input_credit());
    let opened = proto::Opened {
        protocol_version: PROTOCOL_VERSION,
        capabilities: live.offer.is_some().then(|| CAPABILITY_SHM.to_owned()).into_iter().collect(),
        sharing: live.offer,
        session_id: session.id().to_owned(),
        output_schema: Bytes::clone(&described.output_schema).into(),
        credit: Some(proto::Credit { bytes: credit.bytes, rows: credit.rows }),
        max_batch_bytes: limits.max_batch_bytes,
        max_batch_rows: limits.max_batch_rows,
        functions: described.functions.clone(),
        environment: Some(described.environment.clone()),
        trusted: described.trusted,
    };
    respond(0, response::Message::Opened(opened))
}
