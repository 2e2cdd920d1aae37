//! A batch that was built in a slot: its frame refers to the buffers where they lie, instead of to copies of them.

use crate::{
    frame::{Body, Frame},
    shm::{DraftParts, Slot},
};
use arrow_ipc::{Buffer, Message, MessageArgs, MessageHeader, RecordBatch, RecordBatchArgs, finish_message_buffer, root_as_message};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

/// Buffers of a body begin at multiples of this, in bytes.
const BUFFER_ALIGNMENT: usize = 8;

/// The frame with the whole slot as its body, and a header that says where in the slot each buffer lies. What lies elsewhere is copied into what the draft has left.
/// `None`, and nothing has changed but that room, if there is too little of it, or the frame carries dictionaries, whose bodies follow one another.
pub fn into_slot(frame: &Frame, draft: &DraftParts) -> Option<Frame> {
    let slot = draft.slot()?;
    let Body::Inline(pieces) = &frame.body else { return None };
    let [header] = frame.headers.as_slice() else { return None };
    let message = root_as_message(header).ok()?;
    let batch = message.header_as_record_batch().filter(|batch| batch.compression().is_none())?;
    let found: Option<Vec<Buffer>> = batch.buffers()?.iter().map(|buffer| place(buffer, pieces, &slot, draft)).collect();
    let header = rebuilt(&message, &batch, &found?, slot.length())?;
    // What the host would still write after this would not be seen, or be seen too late.
    draft.seal();
    Some(Frame { headers: vec![header], body_lengths: vec![slot.length()], body: Body::Slot(slot), rows: frame.rows })
}

/// Where a buffer of the body lies in the slot.
fn place(buffer: &Buffer, pieces: &[Bytes], slot: &Slot, draft: &DraftParts) -> Option<Buffer> {
    let (mut at, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
    if length == 0 {
        return Some(Buffer::new(0, 0));
    }
    let piece = pieces.iter().find(|piece| {
        let within = at < piece.len();
        at -= if within { 0 } else { piece.len() };
        within
    })?;
    let bytes = piece.get(at..at.checked_add(length)?)?;
    let offset = bytes.as_ptr().addr().checked_sub(slot.address().ok()?);
    let inside = offset.filter(|offset| offset.is_multiple_of(BUFFER_ALIGNMENT) && offset.saturating_add(length) <= draft.bytes());
    let offset = match inside {
        Some(offset) => offset,
        None => {
            let free = draft.claim(length)?;
            slot.write(free as u64, bytes).ok()?;
            free
        }
    };
    Some(Buffer::new(i64::try_from(offset).ok()?, buffer.length()))
}

/// The header with other places of the buffers.
fn rebuilt(message: &Message, batch: &RecordBatch, buffers: &[Buffer], body_length: u64) -> Option<Bytes> {
    let mut builder = FlatBufferBuilder::new();
    let nodes: Vec<_> = batch.nodes()?.iter().copied().collect();
    let nodes = builder.create_vector(&nodes);
    let buffers = builder.create_vector(buffers);
    let counts: Option<Vec<i64>> = batch.variadicBufferCounts().map(|counts| counts.iter().collect());
    let counts = counts.map(|counts| builder.create_vector(&counts));
    let args = RecordBatchArgs {
        length: batch.length(),
        nodes: Some(nodes),
        buffers: Some(buffers),
        compression: None,
        variadicBufferCounts: counts,
    };
    let header = RecordBatch::create(&mut builder, &args).as_union_value();
    let args = MessageArgs {
        version: message.version(),
        header_type: MessageHeader::RecordBatch,
        header: Some(header),
        bodyLength: i64::try_from(body_length).ok()?,
        custom_metadata: None,
    };
    let message = Message::create(&mut builder, &args);
    finish_message_buffer(&mut builder, message);
    Some(Bytes::copy_from_slice(builder.finished_data()))
}

#[cfg(test)]
mod tests;
