use super::*;
use crate::state::{columns, fixture};
use arrow_array::{BooleanArray, Int32Array, Int64Array, StringArray, builder};
use proptest::prelude::*;

/// Maps, which are values but not keys, beside all that is both.
fn values() -> Vec<ArrayRef> {
    let mut map = builder::MapBuilder::new(None, builder::StringBuilder::new(), builder::Int32Builder::new());
    for row in [Some(2), Some(0), None, Some(1), Some(3), Some(1)] {
        for i in 0..row.unwrap_or(0) {
            map.keys().append_value(format!("k{i}"));
            map.values().append_option((i != 1).then_some(i));
        }
        map.append(row.is_some()).unwrap();
    }
    let mut all = fixture::hashable();
    all.push(Arc::new(map.finish()));
    all.push(Arc::new(arrow_array::NullArray::new(6)));
    all
}

#[test]
fn every_type_comes_back() {
    for column in values() {
        let cell = Cell::value("c", column.data_type().clone());
        for nulls in [Nulls::Absent, Nulls::Stored] {
            let stored = encode(&cell, &column, nulls).unwrap();
            assert_eq!(stored.null_count() > 0, nulls == Nulls::Absent && column.logical_null_count() > 0, "{}", column.data_type());
            assert_eq!(&decode(&cell, &stored).unwrap(), &column, "{}", column.data_type());
            let sliced = encode(&cell, &column.slice(2, 3), nulls).unwrap();
            assert_eq!(&decode(&cell, &sliced).unwrap(), &column.slice(2, 3), "{}", column.data_type());
        }
    }
}

/// What `docs/state-format.md` promises.
#[test]
fn vectors() {
    let stored = |column: ArrayRef| encode(&Cell::value("c", column.data_type().clone()), &column, Nulls::Stored).unwrap();
    let long = stored(Arc::new(Int64Array::from(vec![Some(258), None])));
    assert_eq!((long.value(0), long.value(1)), (&[1, 2, 1, 0, 0, 0, 0, 0, 0][..], &[0][..]));
    assert_eq!(stored(Arc::new(StringArray::from(vec!["ab"]))).value(0), [1, b'a', b'b']);
    let list = ListArray::from_iter_primitive::<arrow_array::types::Int32Type, _, _>([Some(vec![Some(7), None])]);
    assert_eq!(stored(Arc::new(list)).value(0), [1, 1, 1, 7, 0, 0, 0, 1, 0, 0]);
    let pickles = Cell { pickled: true, ..Cell::value("c", DataType::Binary) };
    let pickle: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\x80\x04"[..]]));
    assert_eq!(encode(&pickles, &pickle, Nulls::Stored).unwrap().value(0), [2, 0x80, 4]);
}

#[test]
fn lists_and_maps_become_columns() {
    let list = Cell::list("l", DataType::Utf8);
    let elements = encode(&list, &(Arc::new(StringArray::from(vec![Some("a"), None, Some("c")])) as ArrayRef), Nulls::Stored).unwrap();
    let offsets = || OffsetBuffer::new(vec![0, 2, 2, 3].into());
    let entries =
        Entries::Lists { lists: columns::lists(offsets(), elements).unwrap(), deferred: BooleanArray::from(vec![false, true, false]) };
    let column = typed(&list, &entries).unwrap();
    assert_eq!(*column.data_type(), typed_type(&list));
    assert_eq!(column.as_list::<i32>().value(0).as_string::<i32>(), &StringArray::from(vec![Some("a"), None]));
    assert!(deferred(&entries).unwrap().value(1));

    let map = Cell::map("m", DataType::Int64, DataType::Int32);
    let keys = encoding::encode_map_keys(&(Arc::new(Int64Array::from(vec![Some(3), None, Some(4)])) as ArrayRef)).unwrap();
    let values = encode(&map, &(Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef), Nulls::Stored).unwrap();
    let entries = Entries::Maps { offsets: offsets(), keys, values, deferred: BooleanArray::from(vec![false; 3]) };
    let column = typed(&map, &entries).unwrap();
    assert_eq!(*column.data_type(), typed_type(&map));
    let first = column.as_list::<i32>().value(0);
    assert_eq!(first.as_struct().column(0).as_ref(), &Int64Array::from(vec![Some(3), None]));
    assert_eq!(first.as_struct().column(1).as_ref(), &Int32Array::from(vec![1, 2]));
}

#[test]
fn values_of_another_type_are_refused() {
    let cell = Cell::value("count", DataType::Int64);
    let error = encode(&cell, &(Arc::new(StringArray::from(vec!["x"])) as ArrayRef), Nulls::Absent).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::StateType, "the cell `count` keeps values of type `Int64`, not `Utf8`"));
    let pickles = Cell { pickled: true, ..Cell::value("count", DataType::Binary) };
    let stored = BinaryArray::from(vec![&[1u8, 2, 3][..]]);
    let error = decode(&pickles, &stored).unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::StateDamaged, "the cell `count`: a stored value is damaged, or not of type `Binary`")
    );
}

proptest! {
    /// Bytes of anybody decode to an error or to a valid column.
    #[test]
    fn damaged_values_are_noticed(bytes in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..40), typed in any::<bool>()) {
        let mut bytes = bytes;
        if typed {
            bytes.insert(0, ID_TYPED);
        }
        let stored = BinaryArray::from(vec![&bytes[..]]);
        for column in values() {
            match decode(&Cell::value("c", column.data_type().clone()), &stored) {
                Ok(column) => column.to_data().validate_full().unwrap(),
                Err(error) => prop_assert_eq!(error.code(), Code::StateDamaged),
            }
        }
    }
}
