//! Whatever a peer sends: no panic, no memory beyond the limits, and what decodes is a valid batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use arrow_array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray, types::Int32Type};
use bytes::Bytes;
use pillion_wire::{
    frame::{Assembler, Body, Frame, FrameLimits},
    ipc::{Decoder, Encoder, schema_from_ipc, schema_to_ipc},
    proto,
};
use proptest::prelude::*;
use std::sync::Arc;

const LIMITS: FrameLimits = FrameLimits { bytes: 4096, rows: 100 };

fn message() -> impl Strategy<Value = proto::Frame> {
    let length = prop_oneof![0..600u64, Just(u64::MAX), Just(1 << 40)];
    let header = prop::collection::vec(any::<u8>(), 0..40);
    (
        prop::collection::vec(header, 0..3),
        prop::collection::vec(length.clone(), 0..3),
        length,
        0..200u64,
        prop::collection::vec(any::<u8>(), 0..300),
        prop::option::weighted(0.05, Just(proto::SlotRef::default())),
    )
        .prop_map(|(headers, body_lengths, body_length, rows, chunk, slot)| proto::Frame {
            headers: headers.into_iter().map(Bytes::from).collect(),
            body_lengths,
            body_length,
            rows,
            chunk: chunk.into(),
            slot,
        })
}

fn batch() -> RecordBatch {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..50).map(|i| (i % 3 != 0).then(|| vec![Some(i); i as usize % 4])));
    RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from_iter((0..50).map(|i| (i % 7 != 0).then_some(i)))) as ArrayRef),
        ("s", Arc::new(StringArray::from_iter((0..50).map(|i| (i % 5 != 0).then(|| "é".repeat(i % 9)))))),
        ("v", Arc::new(StringViewArray::from_iter((0..50).map(|i| Some("y".repeat(i % 30)))))),
        ("l", Arc::new(lists)),
    ])
    .unwrap()
}

fn encoded() -> (Frame, Vec<u8>) {
    let batch = batch();
    let frame = Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap();
    let body = frame.body.pieces().iter().flat_map(|piece| piece.iter().copied()).collect();
    (frame, body)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_messages_assemble_within_the_limits_or_are_refused(messages in prop::collection::vec(message(), 1..20)) {
        let mut assembler = Assembler::new(LIMITS);
        for message in messages {
            match assembler.push(message) {
                Ok(Some(frame)) => {
                    prop_assert!(frame.bytes() <= LIMITS.bytes && frame.rows <= LIMITS.rows);
                    prop_assert_eq!(frame.body.pieces().iter().map(|piece| piece.len() as u64).sum::<u64>(), frame.body_bytes());
                    // Almost never a batch, but never a panic either.
                    let _ = Decoder::new(&batch().schema()).unwrap().decode(&frame);
                }
                Ok(None) => prop_assert!(assembler.is_open()),
                Err(_) => break,
            }
        }
    }

    #[test]
    fn a_damaged_frame_is_an_error_or_a_valid_batch(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_header in any::<bool>(),
    ) {
        let (mut frame, mut body) = encoded();
        let mut header = frame.headers[0].to_vec();
        let target = if in_header { &mut header } else { &mut body };
        for (at, byte) in damages {
            let at = at.index(target.len());
            target[at] = byte;
        }
        frame.headers[0] = header.into();
        frame.body = Body::Inline(vec![body.into()]);
        if let Ok(batch) = Decoder::new(&batch().schema()).unwrap().decode(&frame) {
            for column in batch.columns() {
                column.to_data().validate_full().unwrap();
            }
        }
    }

    #[test]
    fn a_damaged_schema_is_an_error_or_a_schema(damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = schema_to_ipc(&batch().schema()).to_vec();
        for (at, byte) in damages {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = schema_from_ipc(&bytes);
    }
}
