use super::*;
use crate::ipc::{Decoder, Encoder, schema_to_ipc};
use arrow_array::{BinaryArray, Int32Array, StringArray, UInt8Array};

fn layout() -> Layout {
    let rows = Arc::new(Schema::new(vec![Field::new("user", DataType::Utf8, true), Field::new("x", DataType::Int32, true)]));
    let output = Arc::new(Schema::new(vec![Field::new("sum", DataType::Int64, true)]));
    let late = Schema::new(vec![Field::new("x", DataType::Int32, true)]);
    let cell = |name: &str, kind: &str, fields: Vec<Field>| proto::StateCell {
        name: name.into(),
        kind: kind.into(),
        schema: schema_to_ipc(&Schema::new(fields)).into(),
        ..Default::default()
    };
    let value = |data_type| Field::new("value", data_type, true);
    let function = proto::FunctionDescription {
        cells: vec![
            cell("count", "value", vec![value(DataType::Int64)]),
            cell("seen", "list", vec![value(DataType::Utf8)]),
            cell("by", "map", vec![Field::new("key", DataType::Utf8, true), value(DataType::Float64)]),
        ],
        side_outputs: vec![proto::SideOutput { tag: "late".into(), schema: schema_to_ipc(&late).into() }],
        ..Default::default()
    };
    let input =
        |schema: &Schema, key| proto::KeyedInput { schema: schema_to_ipc(schema).into(), key_columns: vec![key], ..Default::default() };
    let other = Schema::new(vec![Field::new("rule", DataType::Utf8, true)]);
    let plan = proto::KeyedPlan { inputs: vec![input(&other, 0), input(&rows, 0)] };
    Layout::new(&plan, &output, &function).unwrap()
}

fn bundle(layout: &Layout) -> Bundle {
    let users = || Arc::new(StringArray::from(vec!["a", "b", "a"])) as ArrayRef;
    let rows = RecordBatch::try_new(layout.rows[1].clone(), vec![users(), Arc::new(Int32Array::from(vec![1, 2, 3]))]).unwrap();
    let keys = StructArray::new(layout.keys.clone(), vec![Arc::new(StringArray::from(vec!["a", "b"]))], None);
    Bundle {
        rows: Some(rows),
        timestamps: Some(Arc::new(Int64Array::from(vec![Some(5), None, Some(7)]))),
        key_index: Some(Arc::new(UInt32Array::from(vec![0, 1, 0]))),
        keys,
        state: vec![
            Some(Arc::new(Int64Array::from(vec![Some(10), None]))),
            None,
            Some(arrow_array::new_null_array(&layout.cells[2].column(), 2)),
        ],
        timers: None,
        timer_state: None,
        watermark: NO_WATERMARK,
        processing_time: 99,
        input: 1,
        broadcast: false,
    }
}

/// Over the wire and back.
fn crossed(batch: &RecordBatch) -> RecordBatch {
    let frame = Encoder::new(batch.schema()).unwrap().encode(batch).unwrap();
    Decoder::new(batch.schema_ref()).unwrap().decode(&frame).unwrap()
}

#[test]
fn a_bundle_crosses_the_wire() {
    let layout = layout();
    let before = bundle(&layout);
    let after = layout.unpack(&crossed(&layout.pack(before.clone()).unwrap())).unwrap();
    assert_eq!(after.rows, before.rows);
    assert_eq!(after.timestamps.as_deref(), before.timestamps.as_deref());
    assert_eq!(after.keys.columns(), before.keys.columns());
    assert_eq!(after.state[0].as_deref(), before.state[0].as_deref());
    assert!(after.state[1].is_none() && after.timers.is_none() && after.timer_state.is_none());
    assert_eq!((after.watermark, after.processing_time, after.input, after.broadcast), (NO_WATERMARK, 99, 1, false));
}

#[test]
fn packing_copies_nothing() {
    let layout = layout();
    let before = bundle(&layout);
    let at = before.rows.as_ref().unwrap().column(1).to_data().buffers()[0].as_ptr();
    let after = layout.unpack(&layout.pack(before).unwrap()).unwrap();
    assert_eq!(after.rows.unwrap().column(1).to_data().buffers()[0].as_ptr(), at);
}

#[test]
fn a_bundle_without_keys_and_cells_crosses_the_wire() {
    let rows = Arc::new(Schema::new(vec![Field::new("x", DataType::Int32, true)]));
    let input = proto::KeyedInput { schema: schema_to_ipc(&rows).into(), ..Default::default() };
    let layout = Layout::new(&proto::KeyedPlan { inputs: vec![input] }, &rows, &proto::FunctionDescription::default()).unwrap();
    let bundle = Bundle {
        rows: Some(RecordBatch::try_new(rows, vec![Arc::new(Int32Array::from(vec![1, 2]))]).unwrap()),
        timestamps: None,
        key_index: Some(Arc::new(UInt32Array::from(vec![0, 0]))),
        keys: StructArray::new_empty_fields(1, None),
        state: vec![],
        timers: None,
        timer_state: None,
        watermark: 3,
        processing_time: 4,
        input: 0,
        broadcast: true,
    };
    let after = layout.unpack(&crossed(&layout.pack(bundle).unwrap())).unwrap();
    assert_eq!((after.keys.len(), after.state.len(), after.rows.unwrap().num_rows()), (1, 0, 2));
}

fn effects(layout: &Layout, place: u32) -> Effects {
    let sums = RecordBatch::try_new(layout.outputs[0].clone(), vec![Arc::new(Int64Array::from(vec![11, 2]))]).unwrap();
    let writes = RecordBatch::try_new(
        Arc::new(Schema::new(layout.cells[0].write())),
        vec![
            Arc::new(UInt32Array::from(vec![0, place])),
            Arc::new(BinaryArray::from_opt_vec(vec![None, Some(b"w")])),
            Arc::new(UInt8Array::from(vec![op::PUT, op::CLEAR])),
            arrow_array::new_null_array(&DataType::Null, 2),
            Arc::new(Int64Array::from(vec![Some(11), None])),
        ],
    );
    let timers = RecordBatch::try_new(
        Arc::new(Schema::new(timer_write_fields())),
        vec![
            Arc::new(UInt32Array::from(vec![1])),
            Arc::new(UInt8Array::from(vec![EVENT])),
            Arc::new(StringArray::from(vec![""])),
            Arc::new(BinaryArray::from_vec(vec![b""])),
            Arc::new(Int64Array::from(vec![1000])),
            Arc::new(UInt8Array::from(vec![op::SET])),
        ],
    );
    Effects { outputs: vec![Some(sums), None], writes: vec![Some(writes.unwrap()), None, None], timers: Some(timers.unwrap()) }
}

#[test]
fn effects_cross_the_wire() {
    let layout = layout();
    let before = effects(&layout, 1);
    let after = layout.unpack_effects(&crossed(&layout.pack_effects(before.clone()).unwrap()), 2).unwrap();
    assert_eq!((after.outputs, after.writes, after.timers), (before.outputs, before.writes, before.timers));
}

#[test]
fn effects_on_keys_that_are_not_there_are_refused() {
    let layout = layout();
    let packed = layout.pack_effects(effects(&layout, 2)).unwrap();
    assert!(layout.unpack_effects(&packed, 2).is_err());
    assert!(layout.unpack_effects(&packed.slice(0, 0), 3).is_err(), "a bundle has one row");
    assert!(layout.unpack(&packed).is_err(), "of another schema");
}

#[test]
fn state_that_is_not_aligned_is_refused() {
    let layout = layout();
    let mut wrong = bundle(&layout);
    wrong.state[0] = Some(Arc::new(Int64Array::from(vec![1])));
    assert!(layout.unpack(&layout.pack(wrong).unwrap()).is_err());
    let mut wrong = bundle(&layout);
    wrong.key_index = Some(Arc::new(UInt32Array::from(vec![0, 2, 0])));
    assert!(layout.unpack(&layout.pack(wrong).unwrap()).is_err());
}

#[test]
fn what_is_asked_in_mid_bundle_and_its_answer_cross_whole() {
    let layout = layout();
    let keys = || Arc::new(UInt32Array::from(vec![1, 0])) as ArrayRef;
    let spaces = || Arc::new(BinaryArray::from_iter_values([&b"w"[..], b""])) as ArrayRef;
    let ask = |cell: usize, sub: ArrayRef, after: Vec<Option<&[u8]>>| {
        let after = Arc::new(BinaryArray::from_iter(after)) as ArrayRef;
        RecordBatch::try_new(Arc::new(Schema::new(layout.cells[cell].fetch())), vec![keys(), spaces(), sub, after]).unwrap()
    };
    let nothing = arrow_array::new_null_array(&DataType::Null, 2);
    let asked = vec![
        None,
        Some(ask(1, nothing, vec![None, Some(b"more")])),
        Some(ask(2, Arc::new(StringArray::from(vec![Some("a"), None])), vec![None, None])),
    ];
    let packed = crossed(&layout.pack_fetch(asked.clone()).unwrap());
    assert_eq!(layout.unpack_fetch(&packed, 2).unwrap(), asked);
    assert!(layout.unpack_fetch(&packed, 1).is_err(), "it has no such key");

    let column = |cell: usize, rows| arrow_array::new_null_array(&layout.cells[cell].column(), rows);
    let next = BinaryArray::from_iter([Some(&b"on"[..]), None]);
    let answer = |rows| {
        vec![None, Some(Fetched { values: column(1, rows), next: Some(next.clone()) }), Some(Fetched { values: column(2, 2), next: None })]
    };
    let packed = crossed(&layout.pack_fetched(answer(2)).unwrap());
    let found = layout.unpack_fetched(&packed, &asked).unwrap();
    assert!(found[0].is_none());
    assert_eq!(found[1].as_ref().unwrap().next, Some(next.clone()));
    assert!(found[2].as_ref().unwrap().next.is_none());
    let packed = layout.pack_fetched(answer(3)).unwrap();
    assert!(layout.unpack_fetched(&packed, &asked).is_err(), "it is not aligned");
}
