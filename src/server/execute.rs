//! One session on the wire: requests become inputs, answers become responses. Bodies are passed on as they came, if they came over a wire.
//!
//! Requests are read by a task of their own (`requests.rs`). Responses are made when the connection asks for them, within the credit that the host gave.

use super::{
    requests::{Live, read},
    state::StateStreams,
};
use crate::{
    engine::Engine,
    error::{Code, Error, Result},
    session::{
        Answer,
        credit::{Amount, is_due},
    },
};
use bytes::Bytes;
use pillion_wire::{
    CAPABILITY_SHM, PROTOCOL_VERSION,
    frame::Messages,
    ipc::Encoder,
    proto::{self, checkpointed, execute_response as response},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// Starts to serve a session stream.
pub(super) fn begin(engine: Arc<Engine>, states: StateStreams, requests: Streaming<proto::ExecuteRequest>) -> Responses {
    let (tell, opened) = oneshot::channel();
    let reader = tokio::spawn(read(engine, states, requests, tell));
    Responses { state: State::Opening(opened), reader: Some(reader.abort_handle()) }
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
    /// Set once everything was said; the stream is still what holds the results that the host reads.
    returned: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
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
                            returned: None,
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
                        sharing.complete(&mut response);
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
        if let Some(returned) = &mut self.returned {
            return returned.as_mut().poll(cx).map(|()| None);
        }
        match self.poll_answers(cx) {
            Poll::Ready(None) => {
                self.returned = Some(Box::pin(self.live.clone().returned()));
                self.poll_response(cx)
            }
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
            Answer::Batch { seq, output, result, timing, metrics, refund } => {
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
                let response =
                    proto::ExecuteResponse { seq, timing: Some(timing), metrics, output, message: Some(message), ..Default::default() };
                match offer {
                    Some(offer) => {
                        self.ready = Some(response);
                        respond(0, response::Message::Arena(offer))
                    }
                    None => response,
                }
            }
            Answer::Sealed { seq, refund } => {
                self.owed = self.owed.plus(refund);
                respond(seq, response::Message::Sealed(proto::Sealed {}))
            }
            Answer::Committed { seq, bundle } => respond(seq, response::Message::Committed(proto::Committed { bundle })),
            Answer::Watermark { seq, watermark } => respond(seq, response::Message::Watermark(watermark)),
            Answer::Snapshotted { seq, checkpoint_id } => {
                respond(seq, response::Message::Snapshotted(proto::Snapshotted { checkpoint_id }))
            }
            Answer::Checkpointed { checkpoint_id, result } => {
                let outcome = match result {
                    Ok(done) => checkpointed::Outcome::Done(done),
                    Err(error) => checkpointed::Outcome::Failed((&error).into()),
                };
                respond(0, response::Message::Checkpointed(proto::Checkpointed { checkpoint_id, outcome: Some(outcome) }))
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
        slot_threshold_bytes: live.slot_threshold,
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
