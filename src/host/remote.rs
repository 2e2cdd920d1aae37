//! The connection to a sidecar: one channel for calls, and one per session for its data, because the window of a connection is shared.

use super::{
    FunctionDescription,
    address::Address,
    allocate::Allocator,
    link::{Link, Opened},
    open::schema,
    session::{Limits, Session},
    sharing::{Outlet, Sharing},
    state::StateTask,
};
use crate::{
    environment::EnvironmentSpec,
    error::{Code, Error, Result},
    session::{
        Answer, Input, OpenRequest,
        credit::{Amount, Gate, is_due},
    },
    state::host::Keeper,
};
use arrow_schema::SchemaRef;
use pillion_wire::{
    CAPABILITY_SHM, PROTOCOL_VERSION,
    frame::{Assembler, FrameLimits},
    proto::{self, checkpointed, execute_request as request, execute_response as response, host_client::HostClient},
    shm::Slot,
};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{Stream, wrappers::UnboundedReceiverStream};
use tonic::{Streaming, transport::Channel};

/// Results that may wait unread in this process: 64 MiB, 4 Mi rows.
const OUTPUT_CREDIT: proto::Credit = proto::Credit { bytes: 64 << 20, rows: 4 << 20 };

/// A sidecar answers its first call within this time; who does not is none.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// A sidecar that answered.
pub(super) struct Remote {
    endpoint: Address,
    calls: HostClient<Channel>,
}

impl Remote {
    pub async fn connect(endpoint: &str) -> Result<Self> {
        let address = Address::parse(endpoint)?;
        let failed = |error: &dyn std::error::Error| {
            let mut detail = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                detail = format!("{detail}: {error}");
                source = error.source();
            }
            Error::new(Code::ConnectFailed, format!("nothing answers at `{endpoint}`"))
                .hint("start a sidecar with `pillion serve`, which prints its endpoint")
                .detail(detail)
        };
        let mut calls = address.connect().await.map_err(|error| failed(&error))?;
        let foreign = |detail: String| {
            Error::new(Code::NotASidecar, format!("what listens at `{endpoint}` is not a pillion sidecar"))
                .hint("check the endpoint; `pillion serve` prints where it listens")
                .detail(detail)
        };
        // A connection alone proves little: ask something that only a sidecar answers, and that it answers at once.
        let asked = timeout(ANSWER_DEADLINE, calls.status(proto::StatusRequest { stacks: false }));
        asked.await.map_err(|_| foreign(format!("no answer within {ANSWER_DEADLINE:?}")))?.map_err(|status| {
            match Error::from_status(&status).code() {
                // What HTTP/2 makes of answers in another language.
                Code::ConnectionLost | Code::Cancelled | Code::NotASidecar => foreign(format!("{status:?}")),
                _ => Error::from_status(&status),
            }
        })?;
        Ok(Remote { endpoint: address, calls })
    }

    pub async fn describe(&self, function: proto::FunctionSpec, environment: &EnvironmentSpec) -> Result<proto::DescribeResponse> {
        let request = proto::DescribeRequest {
            protocol_version: PROTOCOL_VERSION,
            function: Some(function),
            environment: Some(environment.clone().into()),
        };
        self.calls.clone().describe(request).await.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    pub async fn status(&self, stacks: bool) -> Result<proto::StatusResponse> {
        let request = proto::StatusRequest { stacks };
        self.calls.clone().status(request).await.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    pub async fn cancel(&self, session_id: &str) -> Result<bool> {
        let request = proto::CancelRequest { session_id: session_id.to_owned() };
        let response = self.calls.clone().cancel(request).await.map_err(|status| Error::from_status(&status))?;
        Ok(response.get_ref().found)
    }

    pub async fn open(&self, request: OpenRequest, environment: &EnvironmentSpec, inputs: Vec<SchemaRef>) -> Result<Session> {
        let lost = |error: tonic::transport::Error| {
            Error::new(Code::ConnectFailed, "the sidecar does not answer any more").detail(error.to_string())
        };
        let mut client = self.endpoint.connect().await.map_err(lost)?;
        let (out, outgoing) = mpsc::unbounded_channel();
        let open = proto::Open {
            protocol_version: PROTOCOL_VERSION,
            capabilities: vec![CAPABILITY_SHM.to_owned()],
            plan: Some(request.plan),
            environment: Some(environment.clone().into()),
            input_schema: request.input_schema.into(),
            options: Some(request.options),
            credit: Some(OUTPUT_CREDIT),
            traceparent: request.traceparent,
            name: request.name,
            keyed: request.keyed,
        };
        let state_host = request.state_host;
        // Cannot fail: the receiver is right here.
        let _ = out.send(ask(0, request::Message::Open(open)));
        let responses = client.execute(UnboundedReceiverStream::new(outgoing)).await.map_err(|status| Error::from_status(&status))?;
        let mut responses = responses.into_inner();
        let first = responses.message().await.map_err(|status| Error::from_status(&status))?;
        let opened = match first.and_then(|first| first.message) {
            Some(response::Message::Opened(opened)) => opened,
            Some(response::Message::Failed(error)) => return Err(error.into()),
            _ => return Err(Error::new(Code::NotASidecar, "the session's stream did not begin with `opened`")),
        };
        let state = match state_host {
            Some(Keeper(host)) => Some(StateTask::start(self.calls.clone(), &opened.session_id, host).await?),
            None => None,
        };
        let credit = opened.credit.unwrap_or_default();
        let limits = Limits { max_batch_bytes: opened.max_batch_bytes, max_batch_rows: opened.max_batch_rows };
        let frames = Assembler::new(FrameLimits { bytes: limits.max_batch_bytes, rows: limits.max_batch_rows });
        let outlet = Outlet::new(out);
        let sharing = Sharing::begin(&opened, outlet.clone()).map(|(sharing, proof)| {
            // A closed stream is reported by the next response.
            outlet.send(ask(0, request::Message::Proof(proof)));
            sharing
        });
        let remote = RemoteSession {
            _state: state,
            sharing,
            outlet,
            incoming: Mutex::new(Incoming { responses: Some(responses), frames, open: None, owed: Amount::default(), waker: None }),
        };
        let opened = Opened {
            id: opened.session_id,
            output_schema: schema(&opened.output_schema)?,
            functions: opened.functions.into_iter().map(FunctionDescription::from_proto).collect::<Result<_>>()?,
            environment: opened.environment.unwrap_or_default(),
            trusted: opened.trusted,
            limits,
        };
        let remote = Arc::new(remote);
        let allocator = Allocator::remote(remote.clone());
        Session::new(opened, inputs, Amount { bytes: credit.bytes, rows: credit.rows }, Link::Remote(remote), allocator)
    }
}

fn ask(seq: u64, message: request::Message) -> proto::ExecuteRequest {
    proto::ExecuteRequest { seq, message: Some(message), ..Default::default() }
}

/// One session's stream.
pub(super) struct RemoteSession {
    outlet: Arc<Outlet>,
    incoming: Mutex<Incoming>,
    /// If the sidecar's memory is within reach.
    sharing: Option<Sharing>,
    /// If this host keeps the state.
    _state: Option<StateTask>,
}

struct Incoming {
    /// Taken to end the stream: the sidecar then cancels what is open, even if the input was finished.
    responses: Option<Streaming<proto::ExecuteResponse>>,
    frames: Assembler,
    /// What the first message of the frame in the assembler said beside it.
    open: Option<(u64, u32, proto::Timing, Vec<proto::MetricDelta>)>,
    /// Output credit not yet given back.
    owed: Amount,
    waker: Option<Waker>,
}

impl RemoteSession {
    /// Queues an input; the caller's credit bounds what is queued.
    pub fn push(&self, seq: u64, input: Input) -> Result<()> {
        let from = if let Input::Other(from, _) = &input { *from } else { 0 };
        match input {
            Input::Batch(batch) | Input::Other(_, batch) => {
                let mut frame = batch.into_frame(&mut None)?;
                if let Some(sharing) = &self.sharing {
                    frame = sharing.place(frame);
                }
                frame
                    .into_messages()
                    .try_for_each(|message| self.send(proto::ExecuteRequest { input: from, ..ask(seq, request::Message::Batch(message)) }))
            }
            Input::ProcessingTime(timestamp_ms) => {
                self.send(ask(seq, request::Message::ProcessingTime(proto::ProcessingTime { timestamp_ms })))
            }
            Input::Watermark(watermark) => self.send(ask(seq, request::Message::Watermark(watermark))),
            Input::Idle(idle) => self.send(ask(seq, request::Message::Idle(idle))),
            Input::Barrier(barrier) => self.send(ask(seq, request::Message::Barrier(barrier))),
            Input::Discard(handle) => self.send(ask(seq, request::Message::Discard(proto::DiscardCheckpoint { handle }))),
        }
    }

    /// Whether the sidecar's memory is within reach.
    pub fn shares_memory(&self) -> bool {
        self.sharing.is_some()
    }

    /// A slot to build a batch in, if there is room.
    pub fn allocate(&self, bytes: u64) -> Option<Slot> {
        self.sharing.as_ref()?.allocate(bytes)
    }

    /// A sidecar that has said everything need not know.
    pub fn applied(&self, bundle: u64) {
        self.outlet.send(ask(0, request::Message::Applied(proto::Applied { bundle })));
    }

    pub fn finish(&self, seq: u64) -> Result<()> {
        self.send(ask(seq, request::Message::End(proto::End::default())))
    }

    /// Ends the stream; the sidecar then cancels what is open.
    pub fn close(&self) {
        let mut incoming = self.incoming();
        let responses = incoming.responses.take();
        match &self.sharing {
            Some(sharing) => sharing.abandon(responses),
            None => self.outlet.close(),
        }
        if let Some(waker) = incoming.waker.take() {
            waker.wake();
        }
    }

    pub fn poll_answer(&self, cx: &mut Context<'_>, gate: &Gate) -> Poll<Option<Result<Answer>>> {
        let mut incoming = self.incoming();
        loop {
            let Some(responses) = &mut incoming.responses else { return Poll::Ready(None) };
            let response = match Pin::new(responses).poll_next(cx) {
                Poll::Ready(response) => response,
                Poll::Pending => {
                    incoming.waker = Some(cx.waker().clone());
                    self.outlet.flush();
                    return Poll::Pending;
                }
            };
            let taken = match response {
                None => {
                    self.outlet.end();
                    return Poll::Ready(None);
                }
                Some(Err(status)) => Err(Error::from_status(&status)),
                Some(Ok(message)) => incoming.take(message, gate, self.sharing.as_ref()),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    if matches!(answer, Answer::Ended(_)) {
                        self.outlet.end();
                    }
                    if let Some(credit) = incoming.credit_due() {
                        // A closed stream is reported by the next response.
                        let _ = self.send(ask(0, request::Message::Credit(credit)));
                    }
                    return Poll::Ready(Some(Ok(answer)));
                }
                Err(error) => {
                    self.outlet.end();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn send(&self, message: proto::ExecuteRequest) -> Result<()> {
        if self.outlet.send(message) { Ok(()) } else { Err(Error::new(Code::SessionClosed, "the session is over")) }
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RemoteSession {
    /// Results may outlive it.
    fn drop(&mut self) {
        self.close();
    }
}

impl Incoming {
    /// Turns a response into an answer, if it is or completes one.
    fn take(&mut self, message: proto::ExecuteResponse, gate: &Gate, sharing: Option<&Sharing>) -> Result<Option<Answer>> {
        let proto::ExecuteResponse { seq, timing, metrics, output, message, released, closed_arenas } = message;
        let violation = |text: &str| Error::new(Code::ProtocolViolation, text);
        if !sharing.map_or(released.is_empty(), |sharing| sharing.take_back(&released)) {
            return Err(violation("the sidecar gave back a slot that it does not have"));
        }
        sharing.iter().for_each(|sharing| sharing.forget(&closed_arenas));
        let timing = timing.unwrap_or_default();
        let refund = Amount::default();
        Ok(Some(match message {
            Some(response::Message::Result(frame)) => {
                let (seq, output, timing, metrics) = self.open.take().unwrap_or((seq, output, timing, metrics));
                let pushed = match sharing {
                    Some(sharing) => self.frames.push_shared(frame, |slot| sharing.resolve(slot)),
                    None => self.frames.push(frame),
                };
                let pushed = pushed.map_err(|error| Error::new(Code::ProtocolViolation, error.to_string()))?;
                let Some(frame) = pushed else {
                    self.open = Some((seq, output, timing, metrics));
                    return Ok(None);
                };
                self.owed = self.owed.plus(Amount::of(frame.bytes(), frame.rows));
                Answer::Batch { seq, output, result: Ok(frame.into()), timing, metrics, refund }
            }
            Some(response::Message::Failed(error)) if seq == 0 => return Err(error.into()),
            Some(response::Message::Failed(error)) => {
                Answer::Batch { seq, output, result: Err(Error::from(error).at(seq)), timing, metrics, refund }
            }
            Some(response::Message::Credit(credit)) => {
                gate.give(Amount { bytes: credit.bytes, rows: credit.rows });
                return Ok(None);
            }
            Some(response::Message::Watermark(watermark)) => Answer::Watermark { seq, watermark },
            Some(response::Message::Snapshotted(snapshotted)) => Answer::Snapshotted { seq, checkpoint_id: snapshotted.checkpoint_id },
            Some(response::Message::Checkpointed(proto::Checkpointed { checkpoint_id, outcome })) => {
                let result = match outcome {
                    Some(checkpointed::Outcome::Done(done)) => Ok(done),
                    Some(checkpointed::Outcome::Failed(error)) => Err(error.into()),
                    None => return Err(violation("the sidecar said nothing of a checkpoint")),
                };
                Answer::Checkpointed { checkpoint_id, result }
            }
            Some(response::Message::Ended(ended)) => Answer::Ended(ended),
            Some(response::Message::Sealed(_)) => Answer::Sealed { seq, refund },
            Some(response::Message::Committed(committed)) => Answer::Committed { seq, bundle: committed.bundle },
            Some(response::Message::Arena(offer)) => {
                let taken = sharing.map_or(Ok(()), |sharing| sharing.take(&offer));
                taken.map_err(|error| violation("the sidecar's shared memory cannot be used").detail(error.to_string()))?;
                return Ok(None);
            }
            None if !released.is_empty() || !closed_arenas.is_empty() => return Ok(None),
            Some(response::Message::Opened(_)) | None => return Err(violation("the sidecar sent a response out of turn")),
        }))
    }

    fn credit_due(&mut self) -> Option<proto::Credit> {
        if !is_due(self.owed.bytes, OUTPUT_CREDIT.bytes) && !is_due(self.owed.rows, OUTPUT_CREDIT.rows) {
            return None;
        }
        let owed = std::mem::take(&mut self.owed);
        Some(proto::Credit { bytes: owed.bytes, rows: owed.rows })
    }
}
