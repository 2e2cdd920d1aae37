//! Any headers and body: a valid batch or an error.
#![no_main]

use arrow_array::Array;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pillion_wire::{
    frame::{Body, Frame},
    ipc::Decoder,
};

fuzz_target!(|data: &[u8]| {
    let list = DataType::List(Field::new("item", DataType::Int32, true).into());
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("v", DataType::Utf8View, true),
        Field::new("l", list, true),
    ]);
    let decoder = Decoder::new(&schema).expect("a schema");
    let [first, second, rows, rest @ ..] = data else { return };
    let (header, body) = rest.split_at(rest.len().min(usize::from(*first) << 8 | usize::from(*second)));
    let frame = Frame {
        headers: vec![Bytes::copy_from_slice(header)],
        body_lengths: vec![body.len() as u64],
        body: Body::Inline(vec![Bytes::copy_from_slice(body)]),
        rows: u64::from(*rows),
    };
    if let Ok(batch) = decoder.decode(&frame) {
        batch.columns().iter().for_each(|column| column.to_data().validate_full().expect("a valid array"));
    }
});
