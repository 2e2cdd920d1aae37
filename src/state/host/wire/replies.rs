//! Answers as messages, and back.

use super::{
    super::{HostRows, HostTimers, StateHost},
    Columns, Question, Reader, addresses, broken, entry, spread, to_addresses,
};
use crate::error::Result;
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, ListArray, RecordBatch, StructArray, cast::AsArray, types};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use pillion_wire::{
    frame::FrameLimits,
    proto::{self, state_response as response},
};
use std::sync::Arc;

/// What the host answers.
#[derive(Debug)]
pub enum Reply {
    Rows(HostRows),
    Timers(HostTimers),
    Done,
}

/// Asks a host and puts its answer into messages.
pub async fn answer(host: &dyn StateHost, id: u64, question: Question) -> Vec<proto::StateResponse> {
    let reply = match question {
        Question::Get(get) => host.get(&get).await.map(Reply::Rows),
        Question::Page(page) => host.page(&page).await.map(Reply::Rows),
        Question::Timers(due) => host.timers(&due).await.map(Reply::Timers),
        Question::Commit(commit) => host.commit(commit).await.map(|()| Reply::Done),
    };
    reply.and_then(|reply| respond(id, reply)).unwrap_or_else(|error| {
        let response = Some(response::Response::Error((&error).into()));
        vec![proto::StateResponse { request_id: id, response, ..Default::default() }]
    })
}

fn respond(id: u64, reply: Reply) -> Result<Vec<proto::StateResponse>> {
    let (head, applied, batches) = match reply {
        Reply::Done => (response::Response::Done(proto::StateDone {}), 0, Vec::new()),
        Reply::Rows(rows) => {
            let columns: Vec<ArrayRef> = vec![Arc::new(rows.keys), Arc::new(rows.values), Arc::new(Int64Array::from(rows.access))];
            let entries = StructArray::try_new(entry(), columns, None).map_err(|error| broken(&error))?;
            let item = Arc::new(Field::new("item", DataType::Struct(entry()), false));
            let lists = ListArray::try_new(item, rows.offsets, Arc::new(entries), None).map_err(|error| broken(&error))?;
            let batch = Columns::Rows.batch(vec![Arc::new(lists), Arc::new(BooleanArray::from(rows.deferred))])?;
            (response::Response::Rows(proto::StateRows {}), rows.applied_bundle, vec![batch])
        }
        Reply::Timers(timers) => {
            let mut columns = addresses(&timers.addresses);
            columns.push(Arc::new(timers.names));
            columns.push(Arc::new(Int64Array::from(timers.timestamps)));
            let head = response::Response::Timers(proto::PendingTimers { more: timers.more });
            (head, timers.applied_bundle, vec![Columns::Timers.batch(columns)?])
        }
    };
    spread(head, batches, |response, columns| proto::StateResponse {
        request_id: id,
        applied_bundle: if response.is_some() { applied } else { 0 },
        response,
        columns,
    })
}

/// Puts answers together, at the sidecar.
pub struct Replies(Reader<(response::Response, u64)>);

impl Replies {
    /// Refuses answers above `limits`.
    pub fn new(limits: FrameLimits) -> Self {
        Replies(Reader::new(limits))
    }

    /// Takes a message; gives an answer, or what the host says instead, when it is complete.
    ///
    /// # Errors
    /// [`Code::ProtocolViolation`] for a message that breaks the rules.
    pub fn push(&mut self, message: proto::StateResponse) -> Result<Option<(u64, Result<Reply>)>> {
        let proto::StateResponse { request_id, response, columns, applied_bundle } = message;
        let kinds = |head: &(response::Response, u64)| match &head.0 {
            response::Response::Rows(_) => vec![Columns::Rows],
            response::Response::Timers(_) => vec![Columns::Timers],
            response::Response::Done(_) | response::Response::Error(_) => Vec::new(),
        };
        let taken = self.0.push(request_id, response.map(|response| (response, applied_bundle)), columns, kinds)?;
        let Some((id, (head, applied_bundle), batches)) = taken else { return Ok(None) };
        Ok(Some((
            id,
            match head {
                response::Response::Done(_) => Ok(Reply::Done),
                response::Response::Error(error) => Err(error.into()),
                response::Response::Rows(_) => Ok(Reply::Rows(to_rows(&batches[0], applied_bundle)?)),
                response::Response::Timers(timers) => {
                    let batch = &batches[0];
                    Ok(Reply::Timers(HostTimers {
                        applied_bundle,
                        addresses: to_addresses(batch)?,
                        names: batch.column(3).as_string().clone(),
                        timestamps: batch.column(4).as_primitive::<types::Int64Type>().values().to_vec(),
                        more: timers.more,
                    }))
                }
            },
        )))
    }
}

fn to_rows(batch: &RecordBatch, applied_bundle: u64) -> Result<HostRows> {
    let (lists, deferred) = (batch.column(0).as_list::<i32>(), batch.column(1).as_boolean());
    // Nothing says that the entries of the first row are the first there are.
    let first = lists.offsets()[0] as usize;
    let last = lists.offsets()[lists.len()] as usize;
    let entries = lists.values().as_struct().slice(first, last - first);
    let lengths = lists.offsets().windows(2).map(|pair| (pair[1] - pair[0]) as usize);
    Ok(HostRows {
        applied_bundle,
        offsets: OffsetBuffer::from_lengths(lengths),
        keys: entries.column(0).as_binary().clone(),
        values: entries.column(1).as_binary().clone(),
        access: entries.column(2).as_primitive::<types::Int64Type>().values().to_vec(),
        deferred: deferred.iter().map(|deferred| deferred.unwrap_or_default()).collect(),
    })
}
