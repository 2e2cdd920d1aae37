//! Batches of a worker process: decoded from frames and encoded to frames around the calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pillion_wire::error::Code;
use pillion_wire::frame::{Frame, FrameLimits};
use pillion_wire::ipc::{Decoder, Encoder};
use pillion_wire::{MAX_HEADERS_BYTES, proto};
use proto::worker_data::Message;
use pyo3::prelude::*;

use super::Broken;
use super::execute::{Executed, Executor, Failure, unannounced};
use super::failure;
use super::line::{self, Asking, Shared};
use super::logs::Queue;
use super::plans::Plan;
use crate::fetch::Source;

/// Runs what the sidecar asks for, on the Python thread.
pub struct Frames {
    executor: Executor,
    codecs: HashMap<u64, Codec>,
    limits: FrameLimits,
}

/// Of a plan that can be executed.
struct Codec {
    /// Of its input.
    decoder: Decoder,
    /// Of its output.
    encoder: Encoder,
    /// Of a keyed plan: of what it asks.
    asking: Option<Arc<Mutex<line::Codec>>>,
}

/// A result and where the time went.
pub struct Answered {
    /// The result, or why there is none.
    pub outcome: Result<Frame, Failure>,
    /// Inside user code, in nanoseconds.
    pub user_ns: u64,
    /// In conversions and the calls around user code, in nanoseconds; time spent waiting for state is in neither.
    pub convert_ns: u64,
    /// What the functions' metrics gained; nothing without a result.
    pub metrics: Vec<proto::MetricDelta>,
}

impl Frames {
    /// Calls `runtime`, for results within `limits`.
    pub fn new(runtime: Py<PyAny>, queue: Arc<Queue>, limits: FrameLimits) -> Self {
        Self { executor: Executor::new(runtime, queue, ""), codecs: HashMap::new(), limits }
    }

    /// Loads and describes a function.
    pub fn describe(&self, request: proto::DescribeFunction) -> Message {
        match self.executor.describe(request.function) {
            Ok(described) => Message::Described(described),
            Err(error) => Message::Failed(*error),
        }
    }

    /// Loads a plan, see [`Executor::prepare`].
    pub fn prepare(&mut self, id: u64, request: proto::Prepare) -> Message {
        self.codecs.remove(&id);
        let prepared = self.executor.prepare(id, request).and_then(|prepared| {
            if let Some(Ok(plan)) = self.executor.plan(id) {
                match codec(plan) {
                    Ok(codec) => drop(self.codecs.insert(id, codec)),
                    Err(error) => {
                        self.executor.keep(id, Err(error.clone()));
                        return Err(error);
                    }
                }
            }
            Ok(prepared)
        });
        match prepared {
            Ok(prepared) => Message::Prepared(prepared),
            Err(error) => Message::Failed(*error),
        }
    }

    /// Forgets a plan.
    pub fn release(&mut self, id: u64) {
        self.codecs.remove(&id);
        self.executor.release(id);
    }

    /// Executes a batch, which may ask for state on `line`. One that cannot be decoded, or whose plan could not be prepared, fails alone.
    ///
    /// # Errors
    /// [`Broken`] if the frame is of no plan: the sidecar and this worker do not understand each other.
    pub fn execute(&mut self, seq: u64, id: u64, frame: &Frame, line: &Shared) -> Result<Answered, Broken> {
        let began = Instant::now();
        let (mut metrics, mut waited) = (Vec::new(), 0);
        let (outcome, user_ns) = match (self.codecs.get_mut(&id), self.executor.plan(id)) {
            (_, None) => return Err(Broken(format!("a batch arrived for plan {id}, which was not prepared"))),
            (None, Some(Err(error))) => (Err(error.clone()), 0),
            (None, Some(Ok(_))) => return Err(Broken(format!("plan {id} has lost its schemas"))),
            // In place: the sidecar is whom this process serves, and nothing can write to a slot while it is lent.
            (Some(codec), Some(_)) => match codec.decoder.decode_in_place(frame) {
                Ok(input) => {
                    let ask = |codec: &Arc<Mutex<line::Codec>>| {
                        Box::new(Asking { line: line.clone(), codec: codec.clone(), seq, plan_id: id }) as Box<dyn Source>
                    };
                    let Executed { outcome, user_ns, waited_ns, metrics: gained } =
                        self.executor.execute(id, input, codec.asking.as_ref().map(ask));
                    (metrics, waited) = (gained, waited_ns);
                    let encode = |output| codec.encoder.encode(&output).map_err(|error| unannounced(&error));
                    (outcome.and_then(encode).and_then(|frame| check_size("result", frame, self.limits)), user_ns)
                }
                Err(error) => {
                    let broken = Broken::new("the batch cannot be decoded", error);
                    (Err(failure::error(Code::ProtocolViolation, broken.to_string())), 0)
                }
            },
        };
        let convert_ns = nanoseconds(began.elapsed()).saturating_sub(user_ns + waited);
        if outcome.is_err() {
            metrics.clear();
        }
        Ok(Answered { outcome, user_ns, convert_ns, metrics })
    }

    /// Drops all plans.
    pub fn clear(&mut self) {
        self.codecs.clear();
        self.executor.clear();
    }
}

fn codec(plan: &Plan) -> Result<Codec, Failure> {
    let unsupported = |error: arrow_schema::ArrowError| failure::error(Code::UnsupportedType, error.to_string());
    let asking = plan.layout.as_ref().map(|layout| line::Codec::new(layout).map(|codec| Arc::new(Mutex::new(codec))));
    Ok(Codec {
        decoder: Decoder::new(&plan.input).map_err(unsupported)?,
        encoder: Encoder::new(plan.output.clone()).map_err(unsupported)?,
        asking: asking.transpose().map_err(unsupported)?,
    })
}

/// A duration in nanoseconds.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Checks the size before anything is sent: an oversized message would end the stream with all that is in flight.
pub fn check_size(what: &str, frame: Frame, limits: FrameLimits) -> Result<Frame, Failure> {
    let (unit, value, limit) = if frame.rows > limits.rows {
        ("rows", frame.rows, limits.rows)
    } else if frame.bytes() > limits.bytes {
        ("bytes", frame.bytes(), limits.bytes)
    } else if frame.header_bytes() > MAX_HEADERS_BYTES {
        ("header bytes", frame.header_bytes(), MAX_HEADERS_BYTES)
    } else {
        return Ok(frame);
    };
    let mut error = failure::error(Code::BatchTooLarge, format!("the {what} of {value} {unit} is above the limit of {limit}"));
    error.hint = String::from("send smaller batches, or return less for each");
    Err(error)
}
