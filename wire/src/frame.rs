//! Frames: one Arrow RecordBatch as it travels (DESIGN D2), without being decoded.
//!
//! [`Frame`] holds a batch's IPC headers and its body as byte ranges. [`Frame::into_messages`] and [`Assembler`] mirror each other: one cuts a frame
//! into protocol messages with chunks of at most [`CHUNK_BYTES`](crate::CHUNK_BYTES), the other puts them together and enforces the rules of
//! `data.proto`. Neither copies a large body: chunks are slices of it.

use crate::{CHUNK_BYTES, MAX_HEADERS_BYTES, proto, shm::Slot};
use bytes::{Bytes, BytesMut};
use std::{collections::VecDeque, fmt, io};

/// Bodies below this size are gathered into one piece; above, each piece travels as it lies.
const GATHER_BYTES: usize = 32 * 1024;

/// One batch, encoded. Cheap to clone: all parts are shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Flatbuffer headers of the IPC messages: dictionaries, then the record batch.
    pub headers: Vec<Bytes>,
    /// Length of each message's body, padded.
    pub body_lengths: Vec<u64>,
    /// The bodies one after the other.
    pub body: Body,
    /// Rows of the record batch.
    pub rows: u64,
}

/// Where the body of a frame lies.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// In memory of this process, in pieces of any size.
    Inline(Vec<Bytes>),
    /// In a slot of shared memory, which the frame keeps in use.
    Slot(Slot),
}

impl Body {
    /// The pieces of an inline body; none of a slot, which is not read without its arena.
    pub fn pieces(&self) -> &[Bytes] {
        match self {
            Body::Inline(pieces) => pieces,
            Body::Slot(_) => &[],
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::Inline(Vec::new())
    }
}

impl Frame {
    /// Bytes of the body.
    pub fn body_bytes(&self) -> u64 {
        self.body_lengths.iter().sum()
    }

    /// Bytes of the headers.
    pub fn header_bytes(&self) -> u64 {
        self.headers.iter().map(|header| header.len() as u64).sum()
    }

    /// Bytes of headers and body: what a frame costs in credit.
    pub fn bytes(&self) -> u64 {
        self.body_bytes() + self.header_bytes()
    }

    /// Checks before it is sent that the headers fit in a message; one that is too large ends the stream with everything on it.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn sendable(self) -> Result<Self, FrameError> {
        match self.header_bytes() {
            bytes if bytes > MAX_HEADERS_BYTES => Err(FrameError::TooLarge("header bytes", bytes, MAX_HEADERS_BYTES)),
            _ => Ok(self),
        }
    }

    /// The same frame with its body in memory of this process: for an end that does not share the arena.
    ///
    /// # Errors
    /// If the arena cannot be mapped.
    pub fn into_inline(self) -> io::Result<Frame> {
        let body = match self.body {
            Body::Slot(slot) => Body::Inline(vec![slot.copy()?.into()]),
            inline => inline,
        };
        Ok(Frame { body, ..self })
    }

    /// Cuts the frame into messages: the first with the headers and, if the body is small or in a slot, all of it; then chunks. With a slot the other end must
    /// share its arena, and the frame must live until that end has released it.
    pub fn into_messages(self) -> Messages {
        let body_length = self.body_bytes();
        let mut first =
            proto::Frame { headers: self.headers, body_lengths: self.body_lengths, body_length, rows: self.rows, ..Default::default() };
        let pieces = match self.body {
            Body::Inline(pieces) => pieces,
            Body::Slot(slot) => {
                first.slot = Some(slot.reference());
                Vec::new()
            }
        };
        let mut chunks = chunks(pieces);
        if chunks.len() == 1
            && let Some(only) = chunks.pop_front()
        {
            first.chunk = only;
        }
        Messages { first: Some(first), chunks }
    }
}

/// The messages of one frame, in order.
#[derive(Debug)]
pub struct Messages {
    first: Option<proto::Frame>,
    chunks: VecDeque<Bytes>,
}

impl Iterator for Messages {
    type Item = proto::Frame;

    fn next(&mut self) -> Option<proto::Frame> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.chunks.pop_front().map(|chunk| proto::Frame { chunk, ..Default::default() })
    }
}

/// Small pieces are gathered, large ones sliced.
fn chunks(pieces: Vec<Bytes>) -> VecDeque<Bytes> {
    let mut out = VecDeque::new();
    let mut gathered = BytesMut::new();
    for mut piece in pieces {
        if piece.len() < GATHER_BYTES {
            if gathered.len() + piece.len() > CHUNK_BYTES {
                out.push_back(gathered.split().freeze());
            }
            gathered.extend_from_slice(&piece);
            continue;
        }
        if !gathered.is_empty() {
            out.push_back(gathered.split().freeze());
        }
        while !piece.is_empty() {
            out.push_back(piece.split_to(piece.len().min(CHUNK_BYTES)));
        }
    }
    if !gathered.is_empty() {
        out.push_back(gathered.freeze());
    }
    out
}

/// Upper bounds for one frame; what exceeds them is refused before anything is allocated.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Headers and body, in bytes.
    pub bytes: u64,
    /// Rows of the batch.
    pub rows: u64,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { bytes: 256 << 20, rows: 16 << 20 }
    }
}

/// A message that breaks the rules of `data.proto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A chunk arrived while no frame was open.
    ChunkWithoutHeader,
    /// A header arrived before the body of the frame before it was complete.
    HeaderInsideBody,
    /// More bytes arrived than the header announced.
    BodyTooLong,
    /// The announced body length is not the sum of its parts, or the numbers of headers and lengths differ.
    LengthsDiffer,
    /// Above a limit: what, its value, the limit.
    TooLarge(&'static str, u64, u64),
    /// A chunk above [`CHUNK_BYTES`].
    ChunkTooLarge(usize),
    /// A slot reference without the `shm` capability.
    SlotWithoutCapability,
    /// A slot of an unknown arena, out of its range, stale, or in use.
    SlotInvalid,
    /// A slot of another length than the body, or beside a chunk.
    SlotMisplaced,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::ChunkWithoutHeader => f.write_str("a chunk arrived while no frame was open"),
            FrameError::HeaderInsideBody => f.write_str("a header arrived before the previous body was complete"),
            FrameError::BodyTooLong => f.write_str("more body bytes arrived than announced"),
            FrameError::LengthsDiffer => f.write_str("the announced lengths of a frame do not add up"),
            FrameError::TooLarge(what, value, limit) => write!(f, "a frame of {value} {what} is above the limit of {limit}"),
            FrameError::ChunkTooLarge(bytes) => write!(f, "a chunk of {bytes} bytes is above the limit of {CHUNK_BYTES}"),
            FrameError::SlotWithoutCapability => f.write_str("a slot reference arrived without the `shm` capability"),
            FrameError::SlotInvalid => f.write_str("a reference to a slot is stale or lies outside of its arena"),
            FrameError::SlotMisplaced => f.write_str("a slot does not hold exactly the body of its frame"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Puts the messages of one stream together into frames.
#[derive(Debug)]
pub struct Assembler {
    limits: FrameLimits,
    open: Option<(Frame, u64)>,
}

impl Assembler {
    /// An assembler that refuses frames above `limits`.
    pub fn new(limits: FrameLimits) -> Self {
        Assembler { limits, open: None }
    }

    /// True between the first message of a frame and its last.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next message; gives a frame when it is complete.
    ///
    /// # Errors
    /// [`FrameError`] for a message that breaks the rules; the stream should then be ended.
    pub fn push(&mut self, message: proto::Frame) -> Result<Option<Frame>, FrameError> {
        self.push_shared(message, |_| Err(FrameError::SlotWithoutCapability))
    }

    /// As [`Assembler::push`], for ends that share memory: `resolve` knows the arenas.
    ///
    /// # Errors
    /// As [`Assembler::push`].
    pub fn push_shared(
        &mut self,
        message: proto::Frame,
        resolve: impl FnOnce(&proto::SlotRef) -> Result<Slot, FrameError>,
    ) -> Result<Option<Frame>, FrameError> {
        if let Some(slot) = &message.slot {
            if message.headers.is_empty() || !message.chunk.is_empty() || slot.length != message.body_length || self.open.is_some() {
                return Err(FrameError::SlotMisplaced);
            }
            let mut frame = self.begin(message.headers, message.body_lengths, message.body_length, message.rows)?;
            frame.body = Body::Slot(resolve(slot)?);
            return Ok(Some(frame));
        }
        if message.chunk.len() > CHUNK_BYTES {
            return Err(FrameError::ChunkTooLarge(message.chunk.len()));
        }
        let (mut frame, mut missing) = match (self.open.take(), message.headers.is_empty()) {
            (None, true) => return Err(FrameError::ChunkWithoutHeader),
            (Some(_), false) => return Err(FrameError::HeaderInsideBody),
            (Some(open), true) => open,
            (None, false) => {
                let frame = self.begin(message.headers, message.body_lengths, message.body_length, message.rows)?;
                (frame, message.body_length)
            }
        };
        if !message.chunk.is_empty() {
            missing = missing.checked_sub(message.chunk.len() as u64).ok_or(FrameError::BodyTooLong)?;
            if let Body::Inline(pieces) = &mut frame.body {
                pieces.push(message.chunk);
            }
        }
        if missing == 0 {
            return Ok(Some(frame));
        }
        self.open = Some((frame, missing));
        Ok(None)
    }

    fn begin(&self, headers: Vec<Bytes>, body_lengths: Vec<u64>, body_length: u64, rows: u64) -> Result<Frame, FrameError> {
        let sum = body_lengths.iter().try_fold(0u64, |sum, &length| sum.checked_add(length));
        if headers.len() != body_lengths.len() || sum != Some(body_length) {
            return Err(FrameError::LengthsDiffer);
        }
        if rows > self.limits.rows {
            return Err(FrameError::TooLarge("rows", rows, self.limits.rows));
        }
        let header_bytes: u64 = headers.iter().map(|header| header.len() as u64).sum();
        let bytes = body_length.saturating_add(header_bytes);
        if bytes > self.limits.bytes {
            return Err(FrameError::TooLarge("bytes", bytes, self.limits.bytes));
        }
        Ok(Frame { headers, body_lengths, body: Body::default(), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pieces: &[usize]) -> Frame {
        let body: Vec<Bytes> = pieces.iter().enumerate().map(|(i, &n)| Bytes::from(vec![i as u8; n])).collect();
        let length = pieces.iter().sum::<usize>() as u64;
        Frame { headers: vec![Bytes::from_static(b"header")], body_lengths: vec![length], body: Body::Inline(body), rows: 3 }
    }

    fn flat(frame: &Frame) -> Vec<u8> {
        frame.body.pieces().iter().flat_map(|piece| piece.iter().copied()).collect()
    }

    #[test]
    fn cut_and_assembled_frames_are_equal() {
        for pieces in [&[][..], &[1], &[8, 56, 8, 56], &[800_000, 64, 800_000], &[CHUNK_BYTES, CHUNK_BYTES + 1], &[GATHER_BYTES; 20]] {
            let before = frame(pieces);
            let mut assembler = Assembler::new(FrameLimits::default());
            let mut after = None;
            for message in before.clone().into_messages() {
                assert!(after.is_none());
                assert!(message.chunk.len() <= CHUNK_BYTES);
                after = assembler.push(message).unwrap();
            }
            let after = after.unwrap();
            assert_eq!(flat(&after), flat(&before));
            assert_eq!((after.headers, after.rows), (before.headers, before.rows));
        }
    }

    #[test]
    fn a_small_frame_is_one_message_and_large_chunks_are_not_copied() {
        assert_eq!(frame(&[8, 56, 8, 56]).into_messages().count(), 1);
        let large = frame(&[GATHER_BYTES * 2]);
        let at = large.body.pieces()[0].as_ptr();
        assert_eq!(large.into_messages().next().unwrap().chunk.as_ptr(), at);
    }

    #[test]
    fn headers_that_fit_in_no_message_are_refused_before_they_are_sent() {
        let of = |bytes: u64| Frame { headers: vec![Bytes::from(vec![0; bytes as usize])], body_lengths: vec![0], ..Frame::default() };
        assert!(of(MAX_HEADERS_BYTES).sendable().is_ok());
        let error = of(MAX_HEADERS_BYTES + 1).sendable().unwrap_err();
        assert_eq!(error, FrameError::TooLarge("header bytes", MAX_HEADERS_BYTES + 1, MAX_HEADERS_BYTES));
    }

    #[test]
    fn broken_rules_are_refused() {
        let limits = FrameLimits { bytes: 1000, rows: 10 };
        let first = |length, rows| proto::Frame {
            headers: vec![Bytes::from_static(b"h")],
            body_lengths: vec![length],
            body_length: length,
            rows,
            ..Default::default()
        };
        let chunk = |n: usize| proto::Frame { chunk: Bytes::from(vec![0; n]), ..Default::default() };
        let push = |messages: Vec<proto::Frame>| {
            let mut assembler = Assembler::new(limits);
            messages.into_iter().map(|message| assembler.push(message)).find_map(Result::err)
        };
        assert_eq!(push(vec![chunk(1)]), Some(FrameError::ChunkWithoutHeader));
        assert_eq!(push(vec![first(5, 1), first(5, 1)]), Some(FrameError::HeaderInsideBody));
        assert_eq!(push(vec![first(5, 1), chunk(6)]), Some(FrameError::BodyTooLong));
        assert_eq!(push(vec![first(1000, 1)]), Some(FrameError::TooLarge("bytes", 1001, 1000)));
        assert_eq!(push(vec![first(u64::MAX, 1)]), Some(FrameError::TooLarge("bytes", u64::MAX, 1000)));
        assert_eq!(push(vec![first(5, 11)]), Some(FrameError::TooLarge("rows", 11, 10)));
        assert_eq!(push(vec![proto::Frame { body_length: 6, ..first(5, 1) }]), Some(FrameError::LengthsDiffer));
        let wrapping = proto::Frame {
            headers: vec![Bytes::new(), Bytes::new()],
            body_lengths: vec![u64::MAX, 2],
            body_length: 1,
            ..Default::default()
        };
        assert_eq!(push(vec![wrapping]), Some(FrameError::LengthsDiffer));
        let slot = |length| Some(proto::SlotRef { length, ..Default::default() });
        assert_eq!(push(vec![proto::Frame { slot: slot(5), ..first(5, 1) }]), Some(FrameError::SlotWithoutCapability));
        assert_eq!(push(vec![proto::Frame { slot: slot(4), ..first(5, 1) }]), Some(FrameError::SlotMisplaced));
        assert_eq!(push(vec![proto::Frame { slot: slot(1), ..chunk(1) }]), Some(FrameError::SlotMisplaced));
        assert_eq!(push(vec![proto::Frame { slot: slot(5), chunk: vec![0; 5].into(), ..first(5, 1) }]), Some(FrameError::SlotMisplaced));
        assert_eq!(push(vec![first(5, 1), proto::Frame { slot: slot(5), ..first(5, 1) }]), Some(FrameError::SlotMisplaced));
        assert_eq!(push(vec![first(5, 1), chunk(CHUNK_BYTES + 1)]), Some(FrameError::ChunkTooLarge(CHUNK_BYTES + 1)));
    }
}
