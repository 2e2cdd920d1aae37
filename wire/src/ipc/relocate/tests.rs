use super::*;
use crate::{
    ipc::{Decoder, Encoder},
    shm::{Draft, OwnArena},
};
use arrow_array::{Array, ArrayRef, DictionaryArray, Int64Array, RecordBatch as Batch, StringArray, StringViewArray, types::Int8Type};
use arrow_buffer::{Buffer as Memory, ScalarBuffer};
use arrow_data::ArrayData;
use proptest::prelude::*;
use std::sync::Arc;

/// A copy of the buffer in the draft.
fn built(draft: &Draft, buffer: &Memory) -> Memory {
    let mut part = draft.take(buffer.len()).unwrap();
    part.values_mut::<u8>().copy_from_slice(buffer);
    part.freeze()
}

/// The array with its buffers in the draft, as far as `wanted` says.
fn moved(draft: &Draft, array: &dyn Array, wanted: bool) -> ArrayRef {
    let data = array.to_data();
    let buffers = data.buffers().iter().map(|buffer| if wanted { built(draft, buffer) } else { buffer.clone() }).collect();
    let builder = ArrayData::builder(data.data_type().clone()).len(data.len()).nulls(data.nulls().cloned()).buffers(buffers);
    arrow_array::make_array(builder.build().unwrap())
}

fn columns(rows: usize, nulls: bool) -> Vec<(&'static str, ArrayRef)> {
    let present = |i: usize, every: usize| !nulls || !i.is_multiple_of(every);
    vec![
        ("n", Arc::new(Int64Array::from_iter((0..rows).map(|i| present(i, 7).then_some(i as i64))))),
        ("s", Arc::new(StringArray::from_iter((0..rows).map(|i| present(i, 5).then(|| "x".repeat(i % 40)))))),
        ("v", Arc::new(StringViewArray::from_iter((0..rows).map(|i| Some("y".repeat(i % 30)))))),
    ]
}

fn addresses(batch: &Batch) -> Vec<usize> {
    batch.columns().iter().flat_map(|column| column.to_data().buffers().iter().map(|b| b.as_ptr().addr()).collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whichever columns were built in the slot, and however they are cut: the batch is the same, and what was built there was not moved.
    #[test]
    fn what_was_built_in_the_slot_stays_there(
        rows in 1..600usize, nulls in any::<bool>(), there in prop::array::uniform3(any::<bool>()), cut in (0..50usize, 0..50usize),
    ) {
        let arena = OwnArena::new("pillion-test", 1 << 20).unwrap();
        let slot = arena.allocate(200_000).unwrap();
        let (start, draft) = (slot.address().unwrap(), Draft::new(slot));
        let arrays = columns(rows, nulls).into_iter().zip(there).map(|((name, array), there)| (name, moved(&draft, &array, there), true));
        let whole = Batch::try_from_iter_with_nullable(arrays).unwrap();
        let first = cut.0.min(rows - 1);
        let batch = whole.slice(first, (rows - first).saturating_sub(cut.1).max(1));
        let frame = Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap();
        let placed = into_slot(&frame, &draft.parts()).unwrap();
        prop_assert_eq!((placed.body_bytes(), draft.left()), (200_000, 0));
        let decoded = Decoder::new(&batch.schema()).unwrap().decode_in_place(&placed).unwrap();
        prop_assert_eq!(&decoded, &batch);
        prop_assert!(addresses(&decoded).iter().all(|&at| (start..start + 200_000).contains(&at)));
        if there[0] {
            // Not even the first value of a slice has moved.
            prop_assert_eq!(addresses(&decoded)[0], batch.column(0).to_data().buffers()[0].as_ptr().addr() + 8 * batch.column(0).offset());
        }
        drop((whole, batch, frame, draft, placed));
        prop_assert_eq!(arena.live(), 1, "the decoded arrays keep the slot");
        drop(decoded);
        prop_assert_eq!(arena.live(), 0);
    }
}

fn numbers(draft: &Draft, rows: usize) -> Batch {
    let mut part = draft.take(rows * 8).unwrap();
    part.values_mut::<i64>().fill(5);
    let values = Int64Array::new(ScalarBuffer::from(part.freeze()), None);
    Batch::try_from_iter([("n", Arc::new(values) as ArrayRef)]).unwrap()
}

#[test]
fn what_does_not_fit_is_left_as_it_is() {
    let arena = OwnArena::new("pillion-test", 1 << 20).unwrap();
    let draft = Draft::new(arena.allocate(800).unwrap());
    let inside = numbers(&draft, 100);
    let outside = Int64Array::from(vec![1; 100]);
    let both = Batch::try_from_iter([("n", inside.column(0).clone()), ("m", Arc::new(outside) as ArrayRef)]).unwrap();
    let encode = |batch: &Batch| Encoder::new(batch.schema()).unwrap().encode(batch).unwrap();
    assert!(into_slot(&encode(&both), &draft.parts()).is_none());
    // Without the other column it is what was meant.
    assert!(into_slot(&encode(&inside), &draft.parts()).is_some());
    drop((inside, both));
    let parts = draft.parts();
    drop(draft);
    let late = Batch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    assert!(into_slot(&encode(&late), &parts).is_none(), "the slot is gone");
}

#[test]
fn dictionaries_are_left_as_they_are() {
    let arena = OwnArena::new("pillion-test", 1 << 20).unwrap();
    let draft = Draft::new(arena.allocate(8000).unwrap());
    let tags: DictionaryArray<Int8Type> = ["a", "b", "a"].into_iter().collect();
    let batch = Batch::try_from_iter([("d", Arc::new(tags) as ArrayRef)]).unwrap();
    assert!(into_slot(&Encoder::new(batch.schema()).unwrap().encode(&batch).unwrap(), &draft.parts()).is_none());
}
