//! Questions of [`StateHost`] and their answers as messages (`state.proto`), for both ends of a state stream.

mod replies;

pub use replies::{Replies, Reply, answer};

use super::{HostCommit, HostDue, HostGet, HostPage, HostWrites};
use crate::{
    error::{Code, Error, Result},
    state::{Addresses, Op, Prefetch, Writes},
    timer::{Domain, TimerOp, TimerWrites},
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt8Array, UInt16Array, UInt32Array, cast::AsArray, types,
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use pillion_wire::{
    frame::{Assembler, FrameLimits},
    ipc::{Decoder, Encoder},
    proto::{self, state_request as request},
};
use std::{collections::VecDeque, sync::Arc};

/// Codes of operations of cells; there is no [`Op::Append`].
const OPS: [Op; 5] = [Op::Put, Op::Remove, Op::Clear, Op::ClearPrefix, Op::Touch];

/// Codes of operations of timers.
const TIMER_OPS: [TimerOp; 5] = [TimerOp::Set, TimerOp::Replace, TimerOp::Delete, TimerOp::DeleteName, TimerOp::DeleteAll];

/// What the sidecar asks.
#[derive(Debug)]
pub enum Question {
    Get(HostGet),
    Page(HostPage),
    Timers(HostDue),
    Commit(HostCommit),
}

/// The frames that there are.
#[derive(Clone, Copy, Debug)]
enum Columns {
    Get,
    Addresses,
    Changes,
    TimerChanges,
    Rows,
    Timers,
}

impl Columns {
    fn fields(self) -> Vec<Field> {
        let required = |name, kind| Field::new(name, kind, false);
        let address =
            || vec![required("key_group", DataType::UInt16), required("key", DataType::Binary), required("namespace", DataType::Binary)];
        let with = |mut first: Vec<Field>, more: Vec<Field>| {
            first.extend(more);
            first
        };
        match self {
            Columns::Get => with(address(), vec![Field::new("sub_key", DataType::Binary, true)]),
            Columns::Addresses => address(),
            Columns::Changes => vec![
                required("at", DataType::UInt32),
                required("op", DataType::UInt8),
                Field::new("sub_key", DataType::Binary, true),
                Field::new("value", DataType::Binary, true),
            ],
            Columns::TimerChanges => vec![
                required("at", DataType::UInt32),
                required("domain", DataType::UInt8),
                required("op", DataType::UInt8),
                required("name", DataType::Utf8),
                required("timestamp", DataType::Int64),
            ],
            Columns::Rows => vec![
                required("entries", DataType::List(Arc::new(required("item", DataType::Struct(entry()))))),
                required("deferred", DataType::Boolean),
            ],
            Columns::Timers => with(address(), vec![required("name", DataType::Utf8), required("timestamp", DataType::Int64)]),
        }
    }

    fn batch(self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        RecordBatch::try_new(Arc::new(Schema::new(self.fields())), columns).map_err(|error| broken(&error))
    }
}

/// The fields of an entry.
fn entry() -> Fields {
    Fields::from(vec![
        Field::new("sub_key", DataType::Binary, false),
        Field::new("value", DataType::Binary, false),
        Field::new("access", DataType::Int64, false),
    ])
}

fn broken(error: &ArrowError) -> Error {
    Error::new(Code::InvariantBroken, "columns of state cannot be sent").detail(error.to_string())
}

fn violation(message: impl Into<String>) -> Error {
    Error::new(Code::ProtocolViolation, message)
}

/// The pieces of frames, one after the other.
fn pieces(batches: Vec<RecordBatch>) -> Result<Vec<proto::Frame>> {
    let mut pieces = Vec::new();
    for batch in batches {
        let frame = Encoder::new(batch.schema()).and_then(|mut encoder| encoder.encode(&batch)).map_err(|error| broken(&error))?;
        pieces.extend(frame.into_messages());
    }
    Ok(pieces)
}

/// Messages of which the first has the head and the first piece.
fn spread<H, M>(head: H, batches: Vec<RecordBatch>, message: impl Fn(Option<H>, Option<proto::Frame>) -> M) -> Result<Vec<M>> {
    let mut pieces = pieces(batches)?.into_iter();
    let mut messages = vec![message(Some(head), pieces.next())];
    messages.extend(pieces.map(|piece| message(None, Some(piece))));
    Ok(messages)
}

/// Puts messages of one stream together: what is said first, then its frames.
struct Reader<H> {
    assembler: Assembler,
    open: Option<(u64, H, VecDeque<Columns>, Vec<RecordBatch>)>,
}

impl<H> Reader<H> {
    fn new(limits: FrameLimits) -> Self {
        Reader { assembler: Assembler::new(limits), open: None }
    }

    fn push(
        &mut self,
        id: u64,
        head: Option<H>,
        piece: Option<proto::Frame>,
        columns: impl FnOnce(&H) -> Vec<Columns>,
    ) -> Result<Option<(u64, H, Vec<RecordBatch>)>> {
        let (id, head, mut missing, mut batches) = match (self.open.take(), head) {
            (None, Some(head)) => {
                let missing = columns(&head).into();
                (id, head, missing, Vec::new())
            }
            (Some(open), None) if open.0 == id => open,
            _ => return Err(violation("messages of a state stream are mixed up")),
        };
        if let Some(piece) = piece {
            let damaged = |error: String| violation("a message of a state stream is damaged").detail(error);
            if let Some(frame) = self.assembler.push(piece).map_err(|error| damaged(error.to_string()))? {
                let columns = missing.pop_front().ok_or_else(|| violation("a message of a state stream has too many columns"))?;
                let decoder = Decoder::new(&Schema::new(columns.fields())).map_err(|error| broken(&error))?;
                batches.push(decoder.decode(&frame).map_err(|error| damaged(error.to_string()))?);
            }
        }
        if missing.is_empty() && !self.assembler.is_open() {
            return Ok(Some((id, head, batches)));
        }
        self.open = Some((id, head, missing, batches));
        Ok(None)
    }
}

fn addresses(addresses: &Addresses) -> Vec<ArrayRef> {
    let none = || BinaryArray::from_iter_values(std::iter::repeat_n(b"", addresses.len()));
    vec![
        Arc::new(UInt16Array::from(addresses.groups.clone())),
        Arc::new(addresses.keys.clone()),
        Arc::new(addresses.namespaces.clone().unwrap_or_else(none)),
    ]
}

fn to_addresses(batch: &RecordBatch) -> Result<Addresses> {
    let groups = batch.column(0).as_primitive::<types::UInt16Type>().values().to_vec();
    Addresses::new(groups, batch.column(1).as_binary().clone(), Some(batch.column(2).as_binary().clone()))
}

fn request(id: u64, head: request::Request, batches: Vec<RecordBatch>) -> Result<Vec<proto::StateRequest>> {
    spread(head, batches, |request, columns| proto::StateRequest { request_id: id, request, columns })
}

/// The messages of [`StateHost::get`].
pub fn get(id: u64, get: &HostGet) -> Result<Vec<proto::StateRequest>> {
    let mut columns = addresses(&get.addresses);
    let none = || BinaryArray::new_null(get.addresses.len());
    columns.push(Arc::new(get.map_keys.clone().unwrap_or_else(none)));
    let head = proto::StateGet {
        cell: get.cell.into(),
        max_entry_bytes: get.prefetch.entry_bytes as u64,
        max_total_bytes: get.prefetch.total_bytes as u64,
    };
    request(id, request::Request::Get(head), vec![Columns::Get.batch(columns)?])
}

/// The message of [`StateHost::page`].
pub fn page(id: u64, page: &HostPage) -> Result<Vec<proto::StateRequest>> {
    let head = proto::StatePage {
        cell: page.cell.into(),
        key_group: page.group.into(),
        key: page.key.clone(),
        namespace: page.namespace.clone(),
        prefix: page.prefix.clone(),
        after: page.after.clone(),
        max_bytes: page.max_bytes as u64,
    };
    request(id, request::Request::Page(head), Vec::new())
}

/// The message of [`StateHost::timers`].
pub fn timers(id: u64, due: &HostDue) -> Result<Vec<proto::StateRequest>> {
    let domain = match due.domain {
        Domain::EventTime => proto::TimerDomain::EventTime,
        Domain::ProcessingTime => proto::TimerDomain::ProcessingTime,
    };
    let head = proto::StateTimers {
        domain: domain as i32,
        key_groups: due.groups.iter().map(|&group| group.into()).collect(),
        up_to_ms: due.up_to_ms,
        limit: due.limit as u64,
    };
    request(id, request::Request::Timers(head), Vec::new())
}

/// The messages of [`StateHost::commit`].
pub fn commit(id: u64, commit: &HostCommit) -> Result<Vec<proto::StateRequest>> {
    let mut batches = vec![Columns::Addresses.batch(addresses(&commit.addresses))?];
    let mut cells = Vec::with_capacity(commit.writes.len());
    for HostWrites { writes, cutoff, renew } in &commit.writes {
        cells.push(proto::CellChanges { cell: writes.cell.into(), cutoff_ms: *cutoff, renew: *renew });
        let code = |op: &Op| OPS.iter().position(|known| known == op).map(|code| code as u8);
        let codes: Option<Vec<u8>> = writes.ops.iter().map(code).collect();
        let codes = codes.ok_or_else(|| Error::new(Code::InvariantBroken, "a host is told to append"))?;
        batches.push(Columns::Changes.batch(vec![
            Arc::new(UInt32Array::from(writes.at.clone())),
            Arc::new(UInt8Array::from(codes)),
            Arc::new(writes.map_keys.clone().unwrap_or_else(|| BinaryArray::new_null(writes.at.len()))),
            Arc::new(writes.values.clone()),
        ])?);
    }
    let timers = &commit.timers;
    let domains = timers.domains.iter().map(|&domain| if domain == Domain::EventTime { 1u8 } else { 2 });
    let code = |op: &TimerOp| TIMER_OPS.iter().position(|known| known == op).map_or(u8::MAX, |code| code as u8);
    let name = |row| timers.names.as_ref().filter(|names| names.is_valid(row)).map_or("", |names| names.value(row));
    batches.push(Columns::TimerChanges.batch(vec![
        Arc::new(UInt32Array::from(timers.at.clone())),
        Arc::new(UInt8Array::from_iter_values(domains)),
        Arc::new(UInt8Array::from_iter_values(timers.ops.iter().map(code))),
        Arc::new(StringArray::from_iter_values((0..timers.len()).map(name))),
        Arc::new(Int64Array::from(timers.timestamps.clone())),
    ])?);
    let head = proto::StateCommit { bundle: commit.bundle, now_ms: commit.now_ms, cells };
    request(id, request::Request::Commit(head), batches)
}

/// Puts questions together, at the host.
pub struct Questions(Reader<request::Request>);

impl Questions {
    /// Questions come from the session's own sidecar, whose limits bound them.
    pub fn new() -> Self {
        Questions(Reader::new(FrameLimits { bytes: i32::MAX as u64, rows: u64::from(u32::MAX) }))
    }

    /// Takes a message; gives a question when it is complete.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] for a message that breaks the rules.
    pub fn push(&mut self, message: proto::StateRequest) -> Result<Option<(u64, Question)>> {
        let columns = |head: &request::Request| match head {
            request::Request::Get(_) => vec![Columns::Get],
            request::Request::Commit(commit) => {
                let cells = commit.cells.iter().map(|_| Columns::Changes);
                [Columns::Addresses].into_iter().chain(cells).chain([Columns::TimerChanges]).collect()
            }
            request::Request::Page(_) | request::Request::Timers(_) => Vec::new(),
        };
        let taken = self.0.push(message.request_id, message.request, message.columns, columns)?;
        let Some((id, head, batches)) = taken else { return Ok(None) };
        let question = match head {
            request::Request::Get(get) => Question::Get(to_get(get, &batches[0])?),
            request::Request::Page(page) => Question::Page(HostPage {
                cell: narrow(page.cell)?,
                group: narrow(page.key_group)?,
                key: page.key,
                namespace: page.namespace,
                prefix: page.prefix,
                after: page.after,
                max_bytes: size(page.max_bytes),
            }),
            request::Request::Timers(timers) => Question::Timers(to_due(&timers)?),
            request::Request::Commit(commit) => Question::Commit(to_commit(commit, &batches)?),
        };
        Ok(Some((id, question)))
    }
}

fn narrow(number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| violation(format!("{number} is no cell or key group")))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_get(get: proto::StateGet, batch: &RecordBatch) -> Result<HostGet> {
    let sub_keys = batch.column(3).as_binary::<i32>();
    Ok(HostGet {
        cell: narrow(get.cell)?,
        addresses: Arc::new(to_addresses(batch)?),
        map_keys: (sub_keys.null_count() == 0 && !sub_keys.is_empty()).then(|| sub_keys.clone()),
        prefetch: Prefetch { entry_bytes: size(get.max_entry_bytes), total_bytes: size(get.max_total_bytes) },
    })
}

fn to_due(timers: &proto::StateTimers) -> Result<HostDue> {
    let domain = match timers.domain() {
        proto::TimerDomain::EventTime => Domain::EventTime,
        proto::TimerDomain::ProcessingTime => Domain::ProcessingTime,
        proto::TimerDomain::Unspecified => return Err(violation("a question for timers names no domain")),
    };
    let groups = timers.key_groups.iter().map(|&group| narrow(group)).collect::<Result<_>>()?;
    Ok(HostDue { domain, groups, up_to_ms: timers.up_to_ms, limit: size(timers.limit) })
}

fn to_commit(commit: proto::StateCommit, batches: &[RecordBatch]) -> Result<HostCommit> {
    let addresses = Arc::new(to_addresses(&batches[0])?);
    let unknown = || violation("a commit has an operation that is not known");
    let mut writes = Vec::with_capacity(commit.cells.len());
    for (cell, batch) in commit.cells.iter().zip(&batches[1..]) {
        let codes = batch.column(1).as_primitive::<types::UInt8Type>().values();
        writes.push(HostWrites {
            writes: Writes {
                cell: narrow(cell.cell)?,
                at: batch.column(0).as_primitive::<types::UInt32Type>().values().to_vec(),
                ops: codes.iter().map(|&code| OPS.get(usize::from(code)).copied().ok_or_else(unknown)).collect::<Result<_>>()?,
                map_keys: Some(batch.column(2).as_binary().clone()),
                values: batch.column(3).as_binary().clone(),
            },
            cutoff: cell.cutoff_ms,
            renew: cell.renew,
        });
    }
    let batch = &batches[batches.len() - 1];
    let domain = |&code: &u8| match code {
        1 => Ok(Domain::EventTime),
        2 => Ok(Domain::ProcessingTime),
        _ => Err(unknown()),
    };
    let bytes = |column: usize| batch.column(column).as_primitive::<types::UInt8Type>().values();
    let timers = TimerWrites {
        at: batch.column(0).as_primitive::<types::UInt32Type>().values().to_vec(),
        domains: bytes(1).iter().map(domain).collect::<Result<_>>()?,
        ops: bytes(2).iter().map(|&code| TIMER_OPS.get(usize::from(code)).copied().ok_or_else(unknown)).collect::<Result<_>>()?,
        names: Some(batch.column(3).as_string().clone()),
        timestamps: batch.column(4).as_primitive::<types::Int64Type>().values().to_vec(),
    };
    timers.check(addresses.len())?;
    if writes.iter().flat_map(|changes| &changes.writes.at).any(|&at| at as usize >= addresses.len()) {
        return Err(violation("a commit refers to an address that it does not have"));
    }
    Ok(HostCommit { bundle: commit.bundle, addresses, writes, timers, now_ms: commit.now_ms })
}
