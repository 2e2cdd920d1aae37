use super::*;
use crate::config::{Limits, ShmConfig};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_buffer::OffsetBuffer;
use pillion_wire::ipc::{Decoder, Encoder};

fn memory(change: impl FnOnce(&mut ShmConfig)) -> Arc<Memory> {
    let mut config = ShmConfig { enabled: true, threshold: 1, arena_bytes: 1 << 20, ..Default::default() };
    change(&mut config);
    Memory::new(config, &Limits::default())
}

fn numbers(allocator: &Allocator, rows: usize) -> RecordBatch {
    let mut room = allocator.allocate(2 * Allocation::room::<i64>(rows));
    let column = |mut part: Part<i64>, step: i64| {
        part.iter_mut().enumerate().for_each(|(row, value)| *value = row as i64 * step);
        assert_eq!(part.len(), rows);
        Arc::new(Int64Array::new(part.freeze(), None)) as ArrayRef
    };
    let (a, b) = (room.part(rows).unwrap(), room.part(rows).unwrap());
    assert!(room.left() == 0 && room.part::<i64>(1).is_none());
    RecordBatch::try_from_iter([("a", column(a, 1)), ("b", column(b, -3))]).unwrap()
}

fn addresses(batch: &RecordBatch) -> Vec<usize> {
    batch.columns().iter().map(|column| column.to_data().buffers()[0].as_ptr().addr()).collect()
}

fn sent(allocator: &Allocator, batch: &RecordBatch) -> Frame {
    allocator.placed(Encoder::new(batch.schema()).unwrap().encode(batch).unwrap())
}

#[test]
fn a_batch_that_was_built_in_a_slot_is_sent_from_there_once() {
    let allocator = Allocator::embedded(&memory(|_| {}));
    let batch = numbers(&allocator, 1000);
    let first = sent(&allocator, &batch);
    assert!(matches!(first.body, Body::Slot(_)));
    let seen = Decoder::new(&batch.schema()).unwrap().decode_in_place(&first).unwrap();
    assert_eq!((addresses(&seen), &seen), (addresses(&batch), &batch));
    let again = sent(&allocator, &batch);
    assert!(matches!(again.body, Body::Inline(_)), "whoever had the slot may not be told of it twice");
    assert_eq!(Decoder::new(&batch.schema()).unwrap().decode(&again).unwrap(), batch);
}

#[test]
fn without_shared_memory_the_buffers_themselves_are_sent() {
    for allocator in [Allocator::ordinary(), Allocator::embedded(&memory(|config| config.enabled = false))] {
        assert!(!allocator.allocate(1 << 20).is_shared());
        let batch = numbers(&allocator, 1000);
        let frame = sent(&allocator, &batch);
        let pieces: Vec<_> = frame.body.pieces().iter().map(|piece| piece.as_ptr().addr()).collect();
        assert!(addresses(&batch).iter().all(|address| pieces.contains(address)), "{pieces:?}");
    }
}

#[test]
fn text_of_which_the_bitmap_lies_elsewhere_is_sent_from_the_slot() {
    let allocator = Allocator::embedded(&memory(|_| {}));
    let mut room = allocator.allocate(10_000);
    assert!(room.is_shared());
    let (mut offsets, mut bytes) = (room.part::<i32>(101).unwrap(), room.part::<u8>(500).unwrap());
    offsets.iter_mut().enumerate().for_each(|(row, offset)| *offset = row as i32 * 5);
    bytes.fill(b'x');
    let nulls = (0..100).map(|row| row % 3 != 0).collect();
    let text = StringArray::new(OffsetBuffer::new(offsets.freeze()), bytes.into_buffer(), Some(nulls));
    let batch = RecordBatch::try_from_iter([("t", Arc::new(text) as ArrayRef)]).unwrap();
    let frame = sent(&allocator, &batch);
    assert!(matches!(frame.body, Body::Slot(_)));
    assert_eq!(room.left(), 0, "nothing is given out behind the back of who reads");
    let seen = Decoder::new(&batch.schema()).unwrap().decode_in_place(&frame).unwrap();
    assert_eq!((addresses(&seen), &seen), (addresses(&batch), &batch));
}

#[test]
fn batches_of_several_allocations_go_like_any_other() {
    let allocator = Allocator::embedded(&memory(|_| {}));
    let (one, other) = (numbers(&allocator, 1000), numbers(&allocator, 1000));
    let mixed = RecordBatch::try_from_iter([("a", one.column(0).clone()), ("b", other.column(1).clone())]).unwrap();
    let frame = sent(&allocator, &mixed);
    assert!(matches!(frame.body, Body::Inline(_)));
    assert_eq!(Decoder::new(&mixed.schema()).unwrap().decode(&frame).unwrap(), mixed);
}

#[test]
fn what_is_dropped_is_used_again_and_what_is_held_is_not() {
    let memory = memory(|config| config.max_bytes = 1 << 20);
    let allocator = Allocator::embedded(&memory);
    let held: Vec<_> = (0..16).map(|_| numbers(&allocator, 4096)).collect();
    assert_eq!(memory.used(), 1 << 20);
    assert!(!allocator.allocate(64).is_shared(), "nothing is left");
    let mut all: Vec<_> = held.iter().flat_map(addresses).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[1] - pair[0] >= 4096 * 8), "two batches overlap");
    assert!(held.iter().all(|batch| batch == &held[0]));
    drop(held);
    assert!(allocator.allocate(1 << 20).is_shared());
    drop(allocator);
    assert_eq!(memory.used(), 0);
}

#[test]
fn small_and_impossible_sizes_are_ordinary_memory() {
    let allocator = Allocator::embedded(&memory(|config| config.threshold = 4096));
    assert!(!allocator.allocate(100).is_shared() && allocator.allocate(4096).is_shared());
    let mut huge = allocator.allocate(usize::MAX);
    assert!(!huge.is_shared() && huge.part::<i64>(usize::MAX).is_none() && huge.part::<u8>(0).is_some());
    assert_eq!((Allocation::room::<i64>(1), Allocation::room::<u8>(65), Allocation::room::<i32>(0)), (64, 128, 0));
}
