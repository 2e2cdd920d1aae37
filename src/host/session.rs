//! A session as its operator sees it: batches in, batches out.

use super::{FunctionDescription, open, remote::RemoteSession};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::{
        self, Answer, Input, check_batch,
        credit::{Amount, Gate},
    },
};
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use pillion_wire::{
    frame::Frame,
    ipc::{Decoder, Encoder},
    proto,
};
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

/// The largest batch that an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Headers and body, in bytes.
    pub max_batch_bytes: u64,
    /// Rows.
    pub max_batch_rows: u64,
}

/// A result.
#[derive(Clone, Debug)]
pub struct Output {
    /// The sequence number of the batch that it answers, as [`SessionInput::send`] gave it.
    pub seq: u64,
    /// The result columns.
    pub batch: RecordBatch,
    /// Where the time went.
    pub timing: proto::Timing,
    /// Deltas of the metrics that the function reported.
    pub metrics: Vec<proto::MetricDelta>,
}

/// One operator's conversation with an engine. Dropping it cancels what is open.
pub struct Session {
    input: SessionInput,
    output: SessionOutput,
}

/// The way to the engine of one session.
#[derive(Clone)]
pub(super) enum Link {
    Embedded(Arc<session::Session>),
    Remote(Arc<RemoteSession>),
}

/// What opening found out, from either door.
pub(super) struct Opened {
    pub id: String,
    pub output_schema: SchemaRef,
    pub functions: Vec<FunctionDescription>,
    pub environment: proto::EnvironmentDescription,
    /// Results may be read in place.
    pub trusted: bool,
    pub limits: Limits,
}

struct Shared {
    opened: Opened,
    /// Room for inputs at the engine.
    gate: Gate,
    link: Link,
}

impl Drop for Shared {
    fn drop(&mut self) {
        match &self.link {
            Link::Embedded(session) => session.cancel(Error::new(Code::Cancelled, "the host dropped the session")),
            Link::Remote(remote) => remote.close(),
        }
    }
}

impl Session {
    pub(super) fn embedded(session: Arc<session::Session>, schema: SchemaRef) -> Result<Session> {
        let described = session.described().clone();
        let functions = described.functions.into_iter().map(FunctionDescription::from_proto).collect::<Result<_>>()?;
        let limits = session.limits();
        let opened = Opened {
            id: session.id().to_owned(),
            output_schema: open::schema(&described.output_schema)?,
            functions,
            environment: described.environment,
            trusted: described.trusted,
            limits: Limits { max_batch_bytes: limits.max_batch_bytes, max_batch_rows: limits.max_batch_rows },
        };
        let credit = session.input_credit();
        Session::new(opened, schema, credit, Link::Embedded(session))
    }

    pub(super) fn new(opened: Opened, schema: SchemaRef, credit: Amount, link: Link) -> Result<Session> {
        let encoder =
            Encoder::new(schema).map_err(|error| Error::new(Code::UnsupportedType, format!("the input cannot be sent: {error}")))?;
        let decoder = Decoder::new(&opened.output_schema).map_err(|error| undecodable(&error))?;
        let shared = Arc::new(Shared { opened, gate: Gate::new(credit), link });
        let input = SessionInput { shared: shared.clone(), encoder, last_seq: 0, finished: false };
        Ok(Session { input, output: SessionOutput { shared, decoder, done: false, ended: None } })
    }

    /// The id, by which [`super::Pillion::cancel`] knows it.
    pub fn id(&self) -> &str {
        self.output.id()
    }

    /// The schema of the results.
    pub fn output_schema(&self) -> SchemaRef {
        self.output.schema()
    }

    /// The functions of the plan.
    pub fn functions(&self) -> &[FunctionDescription] {
        &self.output.shared.opened.functions
    }

    /// Where they run.
    pub fn environment(&self) -> &proto::EnvironmentDescription {
        &self.output.shared.opened.environment
    }

    /// The largest batch that may be sent.
    pub fn limits(&self) -> Limits {
        self.output.shared.opened.limits
    }

    /// See [`SessionInput::send`]. When credit is used up this waits for [`Session::recv`]: a single task that sends many batches before it
    /// receives would wait for itself, so [`Session::split`] the session for streaming.
    ///
    /// # Errors
    /// As [`SessionInput::send`].
    pub async fn send(&mut self, batch: RecordBatch) -> Result<u64> {
        self.input.send(batch).await
    }

    /// See [`SessionInput::finish`].
    ///
    /// # Errors
    /// As [`SessionInput::finish`].
    pub async fn finish(&mut self) -> Result<()> {
        self.input.finish().await
    }

    /// See [`SessionOutput::recv`].
    pub async fn recv(&mut self) -> Option<Result<Output>> {
        self.output.recv().await
    }

    /// The two halves, for two tasks. Dropping the receiving half cancels what is open; dropping only the sending half does not finish the input.
    pub fn split(self) -> (SessionInput, SessionOutput) {
        (self.input, self.output)
    }
}

/// The sending half of a session.
pub struct SessionInput {
    shared: Arc<Shared>,
    encoder: Encoder,
    last_seq: u64,
    finished: bool,
}

impl SessionInput {
    /// Sends a batch; waits while the engine has no room, so that a slow function slows its producer. Gives the sequence number of the batch.
    /// The batch's buffers are shared, not copied. Cancelling the call sends nothing.
    ///
    /// # Errors
    /// [`Code::SchemaMismatch`], [`Code::BatchTooLarge`]: nothing was sent and the session goes on. [`Code::SessionClosed`] after the end;
    /// what ended the session is said by [`SessionOutput::recv`].
    pub async fn send(&mut self, batch: RecordBatch) -> Result<u64> {
        if self.finished {
            return Err(Error::new(Code::SessionClosed, "the input of the session was finished"));
        }
        let frame = self.encode(&batch)?;
        if !self.admitted(Amount::of(frame.bytes(), frame.rows)).await {
            return Err(Error::new(Code::SessionClosed, "the session is over"));
        }
        self.push(Input::Batch(frame.into()))
    }

    /// Sends a watermark, in milliseconds since the epoch. It comes out behind the results of everything sent before it.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] after the end.
    pub async fn watermark(&mut self, timestamp_ms: i64) -> Result<u64> {
        self.push(Input::Watermark(proto::Watermark { timestamp_ms, input: 0 }))
    }

    /// No more input: the other half ends after the last result.
    ///
    /// # Errors
    /// [`Code::SessionClosed`] if the session is over.
    pub async fn finish(&mut self) -> Result<()> {
        self.finished = true;
        match &self.shared.link {
            Link::Embedded(session) => {
                session.finish();
                Ok(())
            }
            Link::Remote(remote) => remote.finish(self.last_seq + 1),
        }
    }

    /// Waits for credit; false if the session ended meanwhile.
    async fn admitted(&self, cost: Amount) -> bool {
        match &self.shared.link {
            Link::Embedded(session) => tokio::select! {
                biased;
                taken = self.shared.gate.take(cost) => taken,
                () = session.ended() => false,
            },
            // The end of a remote session is heard by whoever reads its answers, who then closes the gate.
            Link::Remote(_) => self.shared.gate.take(cost).await,
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Frame> {
        if batch.schema_ref().fields() != self.encoder.schema().fields() {
            return Err(Error::new(Code::SchemaMismatch, "the batch has another schema than the session was opened with")
                .hint("open a session per schema")
                .detail(format!("expected {:?}, got {:?}", self.encoder.schema(), batch.schema_ref())));
        }
        let Limits { max_batch_bytes, max_batch_rows } = self.shared.opened.limits;
        check_batch(0, batch.num_rows() as u64, max_batch_bytes, max_batch_rows)?;
        let frame =
            self.encoder.encode(batch).map_err(|error| Error::new(Code::UnsupportedType, format!("the batch cannot be sent: {error}")))?;
        check_batch(frame.bytes(), frame.rows, max_batch_bytes, max_batch_rows)?;
        Ok(frame)
    }

    fn push(&mut self, input: Input) -> Result<u64> {
        let seq = self.last_seq + 1;
        match &self.shared.link {
            Link::Embedded(session) => session.push(seq, input)?,
            Link::Remote(remote) => remote.push(seq, input)?,
        }
        self.last_seq = seq;
        Ok(seq)
    }
}

/// The receiving half of a session.
pub struct SessionOutput {
    shared: Arc<Shared>,
    decoder: Decoder,
    done: bool,
    ended: Option<proto::Ended>,
}

impl SessionOutput {
    /// The id of the session.
    pub fn id(&self) -> &str {
        &self.shared.opened.id
    }

    /// The schema of the results.
    pub fn schema(&self) -> SchemaRef {
        self.shared.opened.output_schema.clone()
    }

    /// The next result, in input order unless the session is unordered; `None` after the last.
    ///
    /// An error with [`Error::seq`] says that this batch failed and had no effect; the session goes on. Any other error ends the session.
    pub async fn recv(&mut self) -> Option<Result<Output>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// See [`SessionOutput::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Output>>> {
        while !self.done {
            match std::task::ready!(self.poll_answer(cx)) {
                Some(Ok(Answer::Batch { seq, result, timing, metrics, .. })) => {
                    let output = result.and_then(|batch| {
                        let batch = match batch {
                            Batch::Arrow(batch) => batch,
                            Batch::Frame(frame) => self.decode(&frame).map_err(|error| undecodable(&error).at(seq))?,
                        };
                        Ok(Output { seq, batch, timing, metrics })
                    });
                    return Poll::Ready(Some(output));
                }
                Some(Ok(Answer::Watermark { .. } | Answer::Snapshotted { .. })) => {}
                Some(Err(error)) => {
                    self.end();
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(Answer::Ended(ended))) => {
                    self.ended = Some(ended);
                    self.end();
                }
                None => self.end(),
            }
        }
        Poll::Ready(None)
    }

    fn decode(&self, frame: &Frame) -> std::result::Result<RecordBatch, ArrowError> {
        if self.shared.opened.trusted { self.decoder.decode_in_place(frame) } else { self.decoder.decode(frame) }
    }

    /// What the whole session did, retries included; known after the last result.
    pub fn ended(&self) -> Option<&proto::Ended> {
        self.ended.as_ref()
    }

    /// Gives up what is open.
    pub fn cancel(&mut self) {
        match &self.shared.link {
            Link::Embedded(session) => session.cancel(Error::new(Code::Cancelled, "the session was cancelled")),
            Link::Remote(remote) => remote.close(),
        }
        self.end();
    }

    fn end(&mut self) {
        self.done = true;
        self.shared.gate.close();
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer>>> {
        match &self.shared.link {
            Link::Embedded(session) => {
                let answer = std::task::ready!(session.poll_answer(cx));
                // What the host has taken makes room for more.
                if let Some(Ok(Answer::Batch { refund, .. })) = &answer {
                    self.shared.gate.give(*refund);
                }
                Poll::Ready(answer)
            }
            Link::Remote(remote) => remote.poll_answer(cx, &self.shared.gate),
        }
    }
}

impl Drop for SessionOutput {
    /// Without a reader no credit comes back: whoever waits to send must not wait for ever.
    fn drop(&mut self) {
        if !self.done {
            self.cancel();
        }
    }
}

fn undecodable(error: &ArrowError) -> Error {
    Error::new(Code::ProtocolViolation, "a result cannot be decoded").detail(error.to_string())
}
