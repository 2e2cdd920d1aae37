//! What may be asked of the store in mid-bundle, and what comes of it.

use super::*;
use crate::state::{Cell as Declared, Cells, Commit, Kind, Op, Writes, codec, encoding::key_group, memory::Memory};
use arrow_array::{Int64Array, StringArray, StructArray, UInt32Array};
use arrow_schema::{DataType, Schema};
use pillion_wire::{ipc, proto};

/// Place of the key, namespace, entry of a map, and what was read last.
type Asked<'a> = (u32, &'a [u8], Option<i64>, Option<&'a [u8]>);

const MOST: u64 = 64 << 10;
const NAMESPACE: &[u8] = b"w";

/// A value, a list and a map of texts, and a broadcast map.
struct Bench {
    fetches: Arc<Fetches>,
    keys: Arc<Addresses>,
    _asking: Asking,
}

fn layout() -> Layout {
    let schema = |fields: Vec<Field>| ipc::schema_to_ipc(&Schema::new(fields));
    let (key, value) = (|| Field::new("key", DataType::Int64, true), || Field::new("value", DataType::Utf8, true));
    let cell = |name: &str, kind: &str, fields| proto::StateCell {
        name: name.into(),
        kind: kind.into(),
        schema: schema(fields).into(),
        ..Default::default()
    };
    let function = proto::FunctionDescription {
        cells: vec![
            cell("value", "value", vec![value()]),
            cell("list", "list", vec![value()]),
            cell("map", "map", vec![key(), value()]),
            cell("rules", "broadcast", vec![key(), value()]),
        ],
        ..Default::default()
    };
    let input = proto::KeyedInput {
        schema: schema(vec![Field::new("k", DataType::Int64, true)]).into(),
        key_columns: vec![0],
        ..Default::default()
    };
    Layout::new(&proto::KeyedPlan { inputs: vec![input] }, &Arc::new(Schema::empty()), &function).unwrap()
}

fn declared(name: &str, kind: Kind) -> Declared {
    let key = matches!(kind, Kind::Map | Kind::Broadcast).then_some(DataType::Int64);
    Declared { name: name.into(), kind, value: DataType::Utf8, key, ttl: None, pickled: false }
}

fn bench(keys: usize) -> Bench {
    let cells = Cells::new(vec![
        declared("value", Kind::Value),
        declared("list", Kind::List),
        declared("map", Kind::Map),
        declared("rules", Kind::Broadcast),
    ])
    .unwrap();
    let backend: Arc<dyn StateBackend> = Arc::new(Memory::new(cells, 128, None).unwrap());
    let fetches = Fetches::new(backend, &layout(), MOST).unwrap();
    let names: Vec<_> = (0..keys).map(|key| format!("k{key}")).collect();
    let groups = names.iter().map(|name| key_group(name.as_bytes(), 128)).collect();
    let keys = Arc::new(Addresses::new(groups, BinaryArray::from_iter_values(&names), None).unwrap());
    let asking = fetches.begin(1, keys.clone(), 0);
    Bench { fetches, keys, _asking: asking }
}

impl Bench {
    /// Writes texts of so many bytes, each to a key of its own; of a map with its number as key. All keys of a list or map are the first, if `one`.
    async fn write(&self, cell: CellId, op: Op, sizes: &[usize], one: bool) {
        let rows: Vec<u32> = (0..sizes.len() as u32).map(|row| if one { 0 } else { row }).collect();
        let mut distinct = rows.clone();
        distinct.dedup();
        let spaces = BinaryArray::from_iter_values(distinct.iter().map(|_| NAMESPACE));
        let keys = BinaryArray::from_iter_values(distinct.iter().map(|&row| self.keys.keys.value(row as usize)));
        let groups = distinct.iter().map(|&row| self.keys.groups[row as usize]).collect();
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(sizes.iter().map(|&bytes| "x".repeat(bytes))));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..sizes.len() as i64));
        let declared = self.fetches.backend.cells().at(cell).unwrap();
        let map_keys = (declared.kind == Kind::Map).then(|| encode_map_keys(&numbers).unwrap());
        let values = codec::encode(declared, &texts, codec::Nulls::Stored).unwrap();
        let writes = vec![Writes { cell, at: rows, ops: vec![op; sizes.len()], map_keys, values }];
        let addresses = Arc::new(Addresses::new(groups, keys, Some(spaces)).unwrap());
        self.fetches.backend.apply(&Commit { seq: 1, addresses, writes, timers: Default::default(), now_ms: 0 }).await.unwrap();
    }

    fn question(&self, cell: usize, rows: &[Asked<'_>]) -> Vec<Option<RecordBatch>> {
        let sub: ArrayRef = match self.fetches.layout.cells[cell].map_key {
            Some(_) => Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.2))),
            None => new_null_array(&DataType::Null, rows.len()),
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.1))),
            sub,
            Arc::new(BinaryArray::from_iter(rows.iter().map(|row| row.3))),
        ];
        let schema = Arc::new(Schema::new(self.fetches.layout.cells[cell].fetch()));
        let mut asked = vec![None; 4];
        asked[cell] = Some(RecordBatch::try_new(schema, columns).unwrap());
        asked
    }

    async fn ask(&self, cell: usize, rows: &[Asked<'_>]) -> Result<Fetched, Unanswered> {
        let asked = self.question(cell, rows);
        let packed = self.fetches.layout.pack_fetch(asked.clone()).unwrap();
        let Batch::Arrow(answer) = self.fetches.clone().fetch(1, packed.into()).await? else { panic!("not arrays") };
        let bytes = answer.get_array_memory_size() as u64;
        assert!(bytes <= 2 * MOST, "an answer of {bytes} bytes");
        Ok(self.fetches.layout.unpack_fetched(&answer, &asked).unwrap().remove(cell).unwrap())
    }

    /// Bytes of the texts of each key, asked until all is there; and how many answers it took.
    async fn all(&self, cell: usize, keys: u32) -> (Vec<usize>, usize) {
        let (mut found, mut answers) = (vec![0; keys as usize], 0);
        let mut rows: Vec<(u32, Option<Vec<u8>>)> = (0..keys).map(|key| (key, None)).collect();
        while !rows.is_empty() {
            let asked: Vec<_> = rows.iter().map(|(key, after)| (*key, NAMESPACE, None, after.as_deref())).collect();
            let Fetched { values, next } = self.ask(cell, &asked).await.unwrap();
            rows.iter().enumerate().for_each(|(row, (key, _))| found[*key as usize] += texts(&values, row));
            let next = next.unwrap_or_else(|| BinaryArray::new_null(rows.len()));
            rows = rows.iter().zip(&next).filter_map(|((key, _), next)| Some((*key, Some(next?.to_vec())))).collect();
            answers += 1;
        }
        (found, answers)
    }

    async fn breach(&self, cell: usize, rows: &[Asked<'_>]) -> String {
        match self.ask(cell, rows).await {
            Err(Unanswered::Breach(why)) => why,
            other => panic!("no breach: {other:?}"),
        }
    }
}

/// Bytes of all texts in a row.
fn texts(values: &ArrayRef, row: usize) -> usize {
    let of = |texts: &ArrayRef| texts.as_string::<i32>().iter().flatten().map(str::len).sum();
    match values.data_type() {
        DataType::Utf8 => of(&values.slice(row, 1)),
        _ => {
            let elements = values.as_list::<i32>().value(row);
            elements.as_any().downcast_ref::<StructArray>().map_or_else(|| of(&elements), |entries| of(entries.column(1)))
        }
    }
}

#[tokio::test]
async fn values_come_in_one_answer_if_they_are_small_and_else_in_several() {
    let bench = bench(1000);
    bench.write(0, Op::Put, &[10; 1000], false).await;
    assert_eq!(bench.all(0, 1000).await, (vec![10; 1000], 1));
    bench.write(0, Op::Put, &[200; 1000], false).await;
    let (found, answers) = bench.all(0, 1000).await;
    assert_eq!(found, [200; 1000]);
    assert!((10..20).contains(&answers), "{answers} answers");
}

#[tokio::test]
async fn lists_and_maps_come_in_parts() {
    for (cell, op) in [(1, Op::Append), (2, Op::Put)] {
        let bench = bench(3);
        bench.write(cell, op, &[100; 5000], true).await;
        bench.write(cell, op, &[7; 1], true).await;
        let (found, answers) = bench.all(usize::from(cell), 3).await;
        assert_eq!(found, [if cell == 1 { 500_007 } else { 499_907 }, 0, 0]);
        assert!((30..50).contains(&answers), "{answers} answers");
    }
}

#[tokio::test]
async fn entries_are_looked_up() {
    let bench = bench(2);
    bench.write(2, Op::Put, &(0..100).collect::<Vec<_>>(), true).await;
    let rows =
        [(0, NAMESPACE, Some(99), None), (1, NAMESPACE, Some(99), None), (0, NAMESPACE, Some(5), None), (0, NAMESPACE, Some(1000), None)];
    let Fetched { values, next } = bench.ask(2, &rows).await.unwrap();
    assert_eq!((0..4).map(|row| texts(&values, row)).collect::<Vec<_>>(), [99, 0, 5, 0]);
    assert_eq!((0..4).map(|row| values.as_list::<i32>().value_length(row)).collect::<Vec<_>>(), [1, 0, 1, 0]);
    assert!(next.is_none());
}

#[tokio::test]
async fn a_value_that_no_message_holds_is_refused_with_a_hint() {
    let bench = bench(2);
    bench.write(0, Op::Put, &[10, 100_000], false).await;
    let Fetched { values, next } = bench.ask(0, &[(0, NAMESPACE, None, None), (1, NAMESPACE, None, None)]).await.unwrap();
    assert_eq!((texts(&values, 0), next.unwrap().is_valid(1)), (10, true), "others are not in its way");
    let Err(Unanswered::Failed(error)) = bench.ask(0, &[(1, NAMESPACE, None, None)]).await else { panic!("it was answered") };
    assert_eq!(error.code(), Code::StateTooLarge);
    assert!(error.message().contains("`value`") && error.hint_text().unwrap().contains("limits.max_batch_bytes"), "{error:?}");
}

#[tokio::test]
async fn what_no_worker_asks_is_a_breach() {
    let bench = bench(2);
    bench.write(2, Op::Put, &[5; 5], true).await;
    let one = (0, NAMESPACE, None, None);
    assert!(bench.breach(0, &[(2, NAMESPACE, None, None)]).await.contains("a key that it does not have"));
    assert!(bench.breach(0, &[one, one]).await.contains("twice"));
    assert!(bench.breach(2, &[(0, NAMESPACE, Some(1), None), (0, NAMESPACE, Some(1), None)]).await.contains("twice"));
    assert!(bench.breach(3, &[(0, NAMESPACE, None, None)]).await.contains("broadcast"));
    for after in [&b""[..], b"\x01", b"\x02abc", b"\x07", b"\0\0"] {
        assert!(bench.breach(0, &[(0, NAMESPACE, None, Some(after))]).await.contains("no answer has ended"), "{after:?}");
    }
    assert!(bench.breach(2, &[(0, NAMESPACE, Some(1), Some(b"\x01"))]).await.contains("no answer has ended"));
    // Pages of the same behind anything at all are no larger than an answer.
    let behind = (0, NAMESPACE, None, Some(&b"\x02nonsense"[..]));
    bench.ask(2, &[behind; 100]).await.unwrap();
    bench.ask(1, &[behind; 100]).await.unwrap();

    let packed = bench.fetches.layout.pack_fetch(bench.question(0, &[one])).unwrap();
    let over = bench.fetches.clone().fetch(2, packed.into()).await;
    assert!(matches!(over, Err(Unanswered::Breach(why)) if why.contains("over")));
    let garbage = pillion_wire::frame::Frame { headers: vec![vec![7; 64].into()], body_lengths: vec![0], ..Default::default() };
    assert!(matches!(bench.fetches.clone().fetch(1, garbage.into()).await, Err(Unanswered::Breach(_))));
    let other = RecordBatch::new_empty(Arc::new(Schema::empty()));
    assert!(matches!(bench.fetches.clone().fetch(1, other.into()).await, Err(Unanswered::Breach(_))));
}

#[tokio::test]
async fn broadcast_state_is_fetched_at_no_namespace() {
    let bench = bench(0);
    let Fetched { values, .. } = bench.ask(3, &[(0, b"", None, None)]).await.unwrap();
    assert_eq!((values.len(), texts(&values, 0)), (1, 0));
}
