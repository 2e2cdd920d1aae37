//! A session as its operator sees it: batches in, batches out.

use super::{
    Checkpoint, Event, FunctionDescription,
    allocate::Allocator,
    coalesce::Coalescer,
    input::{SessionInput, Way},
    link::{Link, Opened, Shared},
    open::{self, Allowance},
    sender::Sender,
};
use crate::{
    batch::Batch,
    error::{Code, Error, Result},
    session::{
        self, Answer,
        credit::{Amount, Gate},
    },
    worker::process::ring_door::Memory,
};
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use pillion_wire::{ipc::Decoder, proto};
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
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
    /// The side output that it belongs to; `None`: the main one.
    pub tag: Option<Arc<str>>,
    /// The result columns.
    pub batch: RecordBatch,
    /// Where the time went.
    pub timing: proto::Timing,
    /// What the functions' own metrics gained with this batch; [`MetricTotals`](crate::metrics::MetricTotals) adds it up.
    pub metrics: Vec<proto::MetricDelta>,
}

/// One operator's conversation with an engine. Dropping it cancels what is open.
pub struct Session {
    input: SessionInput,
    output: SessionOutput,
}

impl Session {
    pub(super) fn embedded(session: Arc<session::Session>, memory: &Arc<Memory>, inputs: Vec<SchemaRef>) -> Result<Session> {
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
        let allocator = if session.shares_process() { Allocator::ordinary() } else { Allocator::embedded(memory) };
        Session::new(opened, inputs, credit, Link::Embedded(session), allocator)
    }

    /// `inputs` are the schemas of what will be sent.
    pub(super) fn new(opened: Opened, inputs: Vec<SchemaRef>, credit: Amount, link: Link, allocator: Allocator) -> Result<Session> {
        let allocator = Arc::new(allocator);
        let sender = Sender::new(link.clone(), opened.limits, inputs, allocator.clone())?;
        let mut decoders = vec![(None, Decoder::new(&opened.output_schema).map_err(|error| undecodable(&error))?)];
        for (tag, schema) in opened.functions.iter().flat_map(|function| &function.side_outputs) {
            decoders.push((Some(Arc::from(tag.as_str())), Decoder::new(schema).map_err(|error| undecodable(&error))?));
        }
        let shared = Arc::new(Shared { opened, gate: Gate::new(credit), link, allocator });
        let input = SessionInput { shared: shared.clone(), way: Way::Straight(Box::new(sender)), finished: false };
        Ok(Session { input, output: SessionOutput { shared, coalescer: None, decoders, done: false, ended: None } })
    }

    /// From the first input on, small batches travel together; not for plans whose results have other rows than their inputs.
    pub(super) fn coalesce(mut self, allowance: Allowance) -> Session {
        let SessionInput { shared, way, finished } = self.input;
        let way = match way {
            Way::Straight(sender) if shared.opened.functions.iter().all(|function| function.kind == "scalar") => {
                let coalescer = Coalescer::new(shared.clone(), *sender, allowance);
                self.output.coalescer = Some(coalescer.clone());
                Way::Coalesced(coalescer)
            }
            as_it_is => as_it_is,
        };
        Session { input: SessionInput { shared, way, finished }, output: self.output }
    }

    /// Whether small batches travel together, see [`super::SessionOptions::max_delay`].
    pub fn is_coalescing(&self) -> bool {
        self.output.coalescer.is_some()
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

    pub(super) fn allocator(&self) -> &Allocator {
        &self.input.shared.allocator
    }

    /// Whether large bodies may cross between this host and its engine without a copy through a socket: in shared memory, or because the engine is in this process.
    pub fn shares_memory(&self) -> bool {
        match &self.output.shared.link {
            Link::Embedded(_) => true,
            Link::Remote(remote) => remote.shares_memory(),
        }
    }

    /// The two halves, borrowed: to send in between what comes out.
    pub fn halves(&mut self) -> (&mut SessionInput, &mut SessionOutput) {
        (&mut self.input, &mut self.output)
    }

    /// The two halves, for two tasks. Dropping the receiving half cancels what is open; dropping only the sending half does not finish the input.
    pub fn split(self) -> (SessionInput, SessionOutput) {
        (self.input, self.output)
    }
}

/// The receiving half of a session.
pub struct SessionOutput {
    shared: Arc<Shared>,
    coalescer: Option<Arc<Coalescer>>,
    /// Of the main output, then of the side outputs with their tags.
    decoders: Vec<(Option<Arc<str>>, Decoder)>,
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
        loop {
            match ready!(self.poll_event(cx)) {
                Some(Ok(Event::Output(output))) => return Poll::Ready(Some(Ok(output))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// As [`SessionOutput::recv`], with all that comes out between the results.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// See [`SessionOutput::next`].
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        while !self.done {
            if let Some(output) = self.coalescer.as_ref().and_then(|coalescer| coalescer.pop(cx.waker())) {
                return Poll::Ready(Some(output.map(Event::Output)));
            }
            let answer = match self.poll_answer(cx) {
                Poll::Ready(answer) => answer,
                // Credit may have come that parts of a joint batch wait for.
                Poll::Pending if self.coalescer.as_ref().is_some_and(|coalescer| coalescer.retry()) => continue,
                Poll::Pending => return Poll::Pending,
            };
            match answer {
                Some(Ok(Answer::Batch { seq, output, result, timing, metrics, .. })) => {
                    let result = result.and_then(|batch| self.output(output, batch));
                    let Some(coalescer) = &self.coalescer else {
                        let output = result.map(|(tag, batch)| Event::Output(Output { seq, tag, batch, timing, metrics }));
                        return Poll::Ready(Some(output.map_err(|error| error.at(seq))));
                    };
                    let result = result.map(|(_, batch)| batch);
                    if let Err(error) = coalescer.answer(seq, result, timing, metrics) {
                        self.cancel();
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Some(Ok(Answer::Sealed { seq, .. })) => return Poll::Ready(Some(Ok(Event::Sealed { seq }))),
                Some(Ok(Answer::Committed { seq, bundle })) => return Poll::Ready(Some(Ok(Event::Committed { seq, bundle }))),
                Some(Ok(Answer::Watermark { seq, watermark })) => {
                    self.coalescer.iter().for_each(|coalescer| coalescer.passed(seq));
                    return Poll::Ready(Some(Ok(Event::Watermark { seq, timestamp_ms: watermark.timestamp_ms })));
                }
                Some(Ok(Answer::Snapshotted { seq, checkpoint_id })) => {
                    self.coalescer.iter().for_each(|coalescer| coalescer.passed(seq));
                    return Poll::Ready(Some(Ok(Event::Snapshotted { seq, checkpoint_id })));
                }
                Some(Ok(Answer::Checkpointed { checkpoint_id, result })) => {
                    return Poll::Ready(Some(Ok(Event::Checkpointed { checkpoint_id, result: result.map(Checkpoint::from_proto) })));
                }
                Some(Err(error)) => {
                    self.end();
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(Answer::Ended(ended))) => {
                    self.ended = Some(self.coalescer.as_ref().map_or(ended, |coalescer| coalescer.totals(ended)));
                    self.end();
                }
                None => self.end(),
            }
        }
        Poll::Ready(None)
    }

    /// A result of an output as arrays, with the output's tag.
    pub(super) fn output(&self, output: u32, batch: Batch) -> Result<(Option<Arc<str>>, RecordBatch)> {
        let unknown = || Error::new(Code::ProtocolViolation, format!("a result is of output {output}, which was not announced"));
        let (tag, decoder) = self.decoders.get(output as usize).ok_or_else(unknown)?;
        let batch = match batch {
            Batch::Arrow(batch) => batch,
            Batch::Frame(frame) if self.shared.opened.trusted => decoder.decode_in_place(&frame).map_err(|error| undecodable(&error))?,
            Batch::Frame(frame) => decoder.decode(&frame).map_err(|error| undecodable(&error))?,
        };
        Ok((tag.clone(), batch))
    }

    /// Says that everything up to this bundle ([`Event::Committed`]) has taken effect where this host keeps the state. Until then the engine remembers what the bundle has changed, and executes
    /// nothing more once that is too much. Sessions whose state the engine keeps ignore it.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] for a bundle that was not committed; connected, this ends the session instead.
    pub fn applied(&self, bundle: u64) -> Result<()> {
        match &self.shared.link {
            Link::Embedded(session) => session.applied(bundle),
            Link::Remote(remote) => {
                remote.applied(bundle);
                Ok(())
            }
        }
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
                if let Some(Ok(Answer::Batch { refund, .. } | Answer::Sealed { refund, .. })) = &answer {
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
