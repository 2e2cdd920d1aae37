use super::*;
use crate::frame::{Assembler, Body, FrameLimits};
use arrow_array::{
    Array, DictionaryArray, Int64Array, ListArray, RecordBatchOptions, StringArray, StringViewArray, StructArray,
    types::{Int8Type, Int32Type},
};
use arrow_schema::{Field, Fields};

fn round_trip(batch: &RecordBatch) -> RecordBatch {
    let mut encoder = Encoder::new(batch.schema()).unwrap();
    let mut last = None;
    // Every frame stands alone, so the second must decode like the first.
    for _ in 0..2 {
        let frame = encoder.encode(batch).unwrap();
        let mut assembler = Assembler::new(FrameLimits::default());
        let whole = frame.into_messages().find_map(|message| assembler.push(message).unwrap()).unwrap();
        last = Some(Decoder::new(&batch.schema()).unwrap().decode(&whole).unwrap());
    }
    last.unwrap()
}

fn mixed(rows: usize) -> RecordBatch {
    let numbers = Int64Array::from_iter((0..rows as i64).map(|i| (i % 7 != 0).then_some(i)));
    let texts = StringArray::from_iter((0..rows).map(|i| (i % 5 != 0).then(|| "x".repeat(i % 40))));
    let views = StringViewArray::from_iter((0..rows).map(|i| Some("y".repeat(i % 30))));
    let tags: DictionaryArray<Int8Type> = (0..rows).map(|i| ["a", "b", "c"][i % 3]).collect();
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..rows).map(|i| (i % 3 != 0).then(|| vec![Some(i as i32); i % 4])));
    let inner = Fields::from(vec![Field::new("t", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), true)]);
    let nested = StructArray::new(inner, vec![Arc::new(tags.clone())], None);
    RecordBatch::try_from_iter(vec![
        ("n", Arc::new(numbers) as ArrayRef),
        ("s", Arc::new(texts)),
        ("v", Arc::new(views)),
        ("d", Arc::new(tags)),
        ("l", Arc::new(lists)),
        ("r", Arc::new(nested)),
    ])
    .unwrap()
}

#[test]
fn batches_of_every_size_come_back_equal() {
    for rows in [0, 1, 2, 63, 64, 65, 1000, 100_000] {
        let batch = mixed(rows);
        assert_eq!(round_trip(&batch), batch, "{rows} rows");
    }
}

#[test]
fn slices_come_back_equal() {
    let batch = mixed(1000);
    for (offset, length) in [(0, 10), (7, 1), (8, 0), (999, 1), (13, 500)] {
        let slice = batch.slice(offset, length);
        assert_eq!(round_trip(&slice), slice, "{offset}+{length}");
    }
}

#[test]
fn batches_without_columns_keep_their_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(round_trip(&batch).num_rows(), 5);
}

#[test]
fn encoding_shares_the_buffers() {
    let column = Int64Array::from_iter_values(0..100_000);
    let at = column.values().as_ptr() as usize;
    let batch = RecordBatch::try_from_iter(vec![("n", Arc::new(column) as ArrayRef)]).unwrap();
    let frame = Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap();
    assert!(frame.body.pieces().iter().any(|piece| piece.as_ptr() as usize == at));
}

#[test]
fn decoded_buffers_are_aligned() {
    let batch = mixed(1000);
    let back = round_trip(&batch);
    assert_eq!(back.column(0).to_data().buffers()[0].as_ptr() as usize % 64, 0);
}

#[test]
fn damaged_frames_are_errors_not_panics() {
    let batch = mixed(100);
    let frame = Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap();
    let decoder = Decoder::new(&batch.schema()).unwrap();
    let body: Vec<u8> = frame.body.pieces().iter().flat_map(|piece| piece.iter().copied()).collect();
    for flip in 0..body.len() {
        let mut damaged = body.clone();
        damaged[flip] ^= 0xff;
        let _ = decoder.decode(&Frame { body: Body::Inline(vec![damaged.into()]), ..frame.clone() });
    }
    for (part, header) in frame.headers.iter().enumerate() {
        for flip in 0..header.len() {
            let mut damaged = header.to_vec();
            damaged[flip] ^= 0xff;
            let mut headers = frame.headers.clone();
            headers[part] = damaged.into();
            let _ = decoder.decode(&Frame { headers, ..frame.clone() });
        }
    }
    assert!(decoder.decode(&Frame { rows: 99, ..frame.clone() }).is_err());
    assert!(decoder.decode(&Frame::default()).is_err());
}

#[test]
fn schemas_come_back_equal() {
    let schema = mixed(1).schema();
    assert_eq!(schema_from_ipc(&schema_to_ipc(&schema)).unwrap(), schema);
    assert!(schema_from_ipc(b"no schema at all, this is text").is_err());
    assert!(schema_from_ipc(&[]).is_err());
}
