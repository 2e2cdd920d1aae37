use super::*;
use crate::state::fixture;
use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt8Array, types::Int8Type};
use proptest::prelude::*;
use std::{collections::HashMap, sync::Arc};

fn encoder(columns: &[ArrayRef], nulls: bool) -> KeyEncoder {
    KeyEncoder::new(columns.iter().enumerate().map(|(i, column)| (format!("k{i}"), column.data_type().clone())).collect(), nulls).unwrap()
}

fn encode(column: ArrayRef) -> Vec<Vec<u8>> {
    let keys = encoder(std::slice::from_ref(&column), true).encode(&[column]).unwrap();
    keys.iter().map(|key| key.unwrap().to_vec()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `docs/state-format.md` promises. These bytes are stored: a change here needs a new version and a way to read the old one.
#[test]
fn vectors() {
    let vectors: Vec<(ArrayRef, &str)> = vec![
        (Arc::new(Int64Array::from(vec![0])), "018000000000000000"),
        (Arc::new(Int64Array::from(vec![-1])), "017fffffffffffffff"),
        (Arc::new(Int64Array::from(vec![None])), "00"),
        (Arc::new(UInt8Array::from(vec![7])), "0107"),
        (Arc::new(Float64Array::from(vec![-0.0])), "018000000000000000"),
        (Arc::new(Float64Array::from(vec![1.5])), "01bff8000000000000"),
        (Arc::new(Float64Array::from(vec![-1.5])), "014007ffffffffffff"),
        (Arc::new(Float64Array::from(vec![-f64::NAN])), "01fff8000000000000"),
        (Arc::new(StringArray::from(vec!["a\0b"])), "016100ff620000"),
        (Arc::new(arrow_array::BooleanArray::from(vec![true])), "0101"),
    ];
    for (column, expected) in vectors {
        assert_eq!(hex(&encode(column.clone())[0]), expected, "{column:?}");
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["k"])), Arc::new(Int64Array::from(vec![1]))];
    let key = encoder(&columns, false).encode(&columns).unwrap();
    assert_eq!(hex(key.value(0)), "016b0000018000000000000001");
    assert_eq!((key_group(key.value(0), 128), key_group(key.value(0), 7)), (6, 4));
}

#[test]
fn every_type_comes_back_and_equal_values_are_equal_bytes() {
    for column in fixture::hashable() {
        let encoder = encoder(std::slice::from_ref(&column), true);
        let keys = encoder.encode(std::slice::from_ref(&column)).unwrap();
        let decoded = encoder.decode(&keys).unwrap();
        assert_eq!(&decoded[0], &column, "{}", column.data_type());
        assert_eq!(keys.value(0), keys.value(4), "{}", column.data_type());
        assert!((0..6).filter(|&row| keys.value(row) == keys.value(1)).count() <= 3, "{}", column.data_type());
        assert_eq!(keys.value(3), [physical::NULL]);
        // A slice of a column is the same keys.
        let sliced = encoder.encode(&[column.slice(1, 4)]).unwrap();
        assert!((0..4).all(|row| sliced.value(row) == keys.value(row + 1)), "{}", column.data_type());
    }
}

proptest! {
    #[test]
    fn keys_begin_with_a_string_exactly_if_their_bytes_begin_with_its_prefix(texts in proptest::collection::vec("[a\0\u{ff}é]{0,4}", 2..20)) {
        let layouts: [ArrayRef; 3] = [
            Arc::new(StringArray::from(texts.clone())),
            Arc::new(arrow_array::StringViewArray::from(texts.clone())),
            Arc::new(BinaryArray::from_iter_values(&texts)),
        ];
        for column in layouts {
            prop_assert!(has_prefixes(column.data_type()));
            let keys = encode_map_keys(&column).unwrap();
            for (one, key) in texts.iter().zip(&keys) {
                for (other, prefix) in texts.iter().zip(&keys) {
                    prop_assert_eq!(key.unwrap().starts_with(prefix_of(prefix.unwrap())), one.starts_with(other.as_str()));
                }
            }
        }
        prop_assert!(!has_prefixes(&DataType::Int64) && !has_prefixes(&DataType::FixedSizeBinary(4)));
    }
}

#[test]
fn layouts_of_the_same_values_have_the_same_keys() {
    let texts = ["x", "", "x", "yy"];
    let plain = encode(Arc::new(StringArray::from(texts.to_vec())));
    let dictionary: arrow_array::DictionaryArray<Int8Type> = texts.into_iter().collect();
    for other in [
        Arc::new(dictionary) as ArrayRef,
        Arc::new(arrow_array::StringViewArray::from(texts.to_vec())),
        Arc::new(arrow_array::LargeStringArray::from(texts.to_vec())),
    ] {
        assert_eq!(encode(other), plain);
    }
}

#[test]
fn floats_are_normalised_in_all_widths() {
    let wide: ArrayRef =
        Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::INFINITY]));
    for data_type in [DataType::Float16, DataType::Float32, DataType::Float64] {
        let keys = encode(arrow_cast::cast(&wide, &data_type).unwrap());
        assert_eq!(keys[0], keys[1], "{data_type}");
        assert!(keys[2] == keys[3] && keys[2] == keys[4] && keys[2] > keys[5], "{data_type}");
    }
}

#[test]
fn what_cannot_be_a_key_is_refused() {
    let entries = arrow_schema::Field::new(
        "entries",
        DataType::Struct(
            vec![arrow_schema::Field::new("k", DataType::Utf8, false), arrow_schema::Field::new("v", DataType::Int8, true)].into(),
        ),
        false,
    );
    let map = DataType::Map(Arc::new(entries), false);
    let nested = DataType::List(Arc::new(arrow_schema::Field::new_list_field(map.clone(), true)));
    for data_type in [map, nested] {
        let error = KeyEncoder::new(vec![("user".into(), data_type)], false).unwrap_err();
        assert_eq!(error.code(), Code::KeyType);
        assert!(error.message().starts_with("the key column `user`: values of type `Map"), "{error}");
    }
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    let error = encoder(std::slice::from_ref(&column), false).encode(std::slice::from_ref(&column)).unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::KeyNull, "the key column `k0` is null in row 1"));
    let error = encoder(&[column], false).encode(&[Arc::new(StringArray::from(vec!["a"]))]).unwrap_err();
    assert_eq!(error.code(), Code::SchemaMismatch);
    let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_KEY_BYTES)]));
    assert_eq!(encoder(std::slice::from_ref(&long), false).encode(&[long]).unwrap_err().code(), Code::StateTooLarge);
}

#[test]
fn given_groups_are_kept() {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![5, 6, 5]));
    let encoder = encoder(std::slice::from_ref(&column), false);
    let distinct = encoder.distinct(std::slice::from_ref(&column), Groups::Given(&[9, 3, 9])).unwrap();
    assert_eq!((distinct.groups, distinct.first, distinct.index), (vec![9, 3], vec![0, 1], vec![0, 1, 0]));
    for wrong in [&[9, 3, 8][..], &[9, 3]] {
        assert_eq!(encoder.distinct(std::slice::from_ref(&column), Groups::Given(wrong)).unwrap_err().code(), Code::ProtocolViolation);
    }
    assert_eq!(encoder.distinct(&[column], Groups::Computed(0)).unwrap_err().code(), Code::OptionsInvalid);
}

proptest! {
    #[test]
    fn bytes_order_as_keys_do(a in any::<(i64, String, u16)>(), b in any::<(i64, String, u16)>()) {
        let column = |i: &(i64, String, u16)| -> Vec<ArrayRef> {
            vec![Arc::new(StringArray::from(vec![i.1.as_str()])), Arc::new(Int64Array::from(vec![i.0])), Arc::new(arrow_array::UInt16Array::from(vec![i.2]))]
        };
        let (left, right) = (column(&a), column(&b));
        let encoder = encoder(&left, false);
        let (left, right) = (encoder.encode(&left).unwrap(), encoder.encode(&right).unwrap());
        prop_assert_eq!(left.value(0).cmp(right.value(0)), (&a.1, a.0, a.2).cmp(&(&b.1, b.0, b.2)));
    }

    #[test]
    fn floats_order_as_floats_do(a in any::<f32>(), b in any::<f32>()) {
        let keys = encode(Arc::new(arrow_array::Float32Array::from(vec![a, b])));
        if let Some(order) = a.partial_cmp(&b) {
            prop_assert_eq!(keys[0].cmp(&keys[1]), order);
        }
    }

    #[test]
    fn distinct_keys_are_those_of_a_map(values in prop::collection::vec(prop_oneof![Just(None), (0i64..20).prop_map(Some)], 0..200)) {
        let column: ArrayRef = Arc::new(Int64Array::from(values.clone()));
        let encoder = encoder(std::slice::from_ref(&column), true);
        let distinct = encoder.distinct(std::slice::from_ref(&column), Groups::Computed(16)).unwrap();
        let mut model: HashMap<Option<i64>, u32> = HashMap::new();
        for (row, value) in values.iter().enumerate() {
            let next = model.len() as u32;
            let id = *model.entry(*value).or_insert(next);
            prop_assert_eq!(distinct.index[row], id);
            if id == next {
                prop_assert_eq!(distinct.first[id as usize], row as u32);
                prop_assert_eq!(distinct.groups[id as usize], key_group(distinct.keys.value(id as usize), 16));
            }
        }
        prop_assert_eq!(distinct.keys.len(), model.len());
    }

    /// Bytes of anybody decode to an error or to a valid column.
    #[test]
    fn damaged_keys_are_noticed(bytes in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..40)) {
        let keys = BinaryArray::from(vec![&bytes[..]]);
        for column in fixture::hashable() {
            match encoder(std::slice::from_ref(&column), true).decode(&keys) {
                Ok(columns) => {
                    RecordBatch::try_from_iter([("k", columns[0].clone())]).unwrap();
                    columns[0].to_data().validate_full().unwrap();
                }
                Err(error) => prop_assert_eq!(error.code(), Code::StateDamaged),
            }
        }
    }
}
