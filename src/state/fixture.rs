//! Columns of every type, for tests.

use arrow_array::{ArrayRef, types::*, *};
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, NullBuffer, OffsetBuffer, i256};
use arrow_schema::{DataType, Field};
use std::sync::Arc;

/// Six rows of each type that can be a key; row 3 is null, rows 0 and 4 are equal.
pub fn hashable() -> Vec<ArrayRef> {
    fn of<T: ArrowPrimitiveType>(values: [T::Native; 4]) -> ArrayRef {
        let [a, b, c, d] = values;
        Arc::new(PrimitiveArray::<T>::from_iter([Some(a), Some(b), Some(c), None, Some(a), Some(d)]))
    }
    let strings = ["", "a\0b", "zebra, which is longer than what fits inline", "ä"];
    let texts = [Some(strings[0]), Some(strings[1]), Some(strings[2]), None, Some(strings[0]), Some(strings[3])];
    let bytes: Vec<Option<&[u8]>> = vec![Some(b"\0"), Some(b"\0\xff"), Some(b"\0\0"), None, Some(b"\0"), Some(b"")];
    let fixed: Vec<Option<[u8; 3]>> = vec![Some(*b"abc"), Some(*b"\0\0\0"), Some(*b"zzz"), None, Some(*b"abc"), Some(*b"abd")];
    let dictionary: DictionaryArray<Int8Type> = texts.into_iter().collect();
    let mut all: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(false), None, Some(true), Some(false)])),
        of::<Int8Type>([0, -1, i8::MIN, 5]),
        of::<Int16Type>([0, -1, i16::MIN, 5]),
        of::<Int32Type>([0, -1, i32::MIN, 5]),
        of::<Int64Type>([0, -1, i64::MIN, i64::MAX]),
        of::<UInt8Type>([0, 1, 255, 5]),
        of::<UInt16Type>([0, 1, 65535, 5]),
        of::<UInt32Type>([0, 1, u32::MAX, 5]),
        of::<UInt64Type>([0, 1, u64::MAX, 5]),
        arrow_cast::cast(&of::<Float32Type>([0.5, -2.0, f32::INFINITY, 0.25]), &DataType::Float16).unwrap(),
        of::<Float32Type>([0.5, -2.0, f32::INFINITY, 1e-40]),
        of::<Float64Type>([0.5, -2.0, f64::NEG_INFINITY, 1e-310]),
        of::<Date32Type>([0, -1, 20000, 5]),
        of::<Date64Type>([0, -86_400_000, 86_400_000, 172_800_000]),
        of::<Time32SecondType>([0, 1, 2, 3]),
        of::<Time64NanosecondType>([0, 1, 2, 3]),
        Arc::new(
            of::<TimestampMicrosecondType>([0, -1, 2, 3])
                .as_any()
                .downcast_ref::<TimestampMicrosecondArray>()
                .unwrap()
                .clone()
                .with_timezone("UTC"),
        ),
        of::<DurationMillisecondType>([0, -1, 2, 3]),
        of::<IntervalYearMonthType>([0, -1, 2, 3]),
        of::<IntervalDayTimeType>([
            IntervalDayTime::new(0, 0),
            IntervalDayTime::new(-1, 5),
            IntervalDayTime::new(1, -5),
            IntervalDayTime::new(1, 5),
        ]),
        of::<IntervalMonthDayNanoType>([
            IntervalMonthDayNano::new(0, 0, 0),
            IntervalMonthDayNano::new(-1, 2, 3),
            IntervalMonthDayNano::new(1, -2, 3),
            IntervalMonthDayNano::new(1, 2, -3),
        ]),
        of::<Decimal32Type>([0, -1, 2, 3]),
        of::<Decimal64Type>([0, -1, 2, 3]),
        of::<Decimal128Type>([0, -1, 2, 3]),
        of::<Decimal256Type>([i256::ZERO, i256::MINUS_ONE, i256::from(2), i256::from(3)]),
        Arc::new(StringArray::from(texts.to_vec())),
        Arc::new(LargeStringArray::from(texts.to_vec())),
        Arc::new(StringViewArray::from(texts.to_vec())),
        Arc::new(BinaryArray::from(bytes.clone())),
        Arc::new(LargeBinaryArray::from(bytes.clone())),
        Arc::new(BinaryViewArray::from(bytes)),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 3).unwrap()),
        Arc::new(dictionary),
    ];
    all.extend(nested(&all[4], &all[25]));
    all
}

/// A struct, lists of it, and fixed lists; of the same six rows.
fn nested(long: &ArrayRef, text: &ArrayRef) -> Vec<ArrayRef> {
    let nulls = NullBuffer::from(vec![true, true, true, false, true, true]);
    let fields = vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)];
    let pair = StructArray::new(fields.into(), vec![long.clone(), text.clone()], Some(nulls.clone()));
    // Elements 0 1 | 2 | (nothing) | null | 0 1 | 3 of the struct, of which 3 is null.
    let picked = arrow_select::take::take(&pair, &Int32Array::from(vec![0, 1, 2, 0, 1, 3]), None).unwrap();
    let item = Arc::new(Field::new_list_field(pair.data_type().clone(), true));
    let lists = ListArray::new(item.clone(), OffsetBuffer::new(vec![0, 2, 3, 3, 3, 5, 6].into()), picked.clone(), Some(nulls.clone()));
    let large = LargeListArray::new(item, OffsetBuffer::new(vec![0i64, 2, 3, 3, 3, 5, 6].into()), picked, Some(nulls.clone()));
    let doubled = arrow_select::take::take(long, &Int32Array::from(vec![0, 1, 1, 2, 2, 0, 3, 3, 0, 1, 5, 5]), None).unwrap();
    let pairs = FixedSizeListArray::new(Arc::new(Field::new_list_field(DataType::Int64, true)), 2, doubled, Some(nulls));
    vec![Arc::new(pair), Arc::new(lists), Arc::new(large), Arc::new(pairs)]
}
