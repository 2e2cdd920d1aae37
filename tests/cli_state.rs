//! `pillion state`: checkpoints, looked at offline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type};
use arrow_schema::DataType;
use cli::Place;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pillion::state::codec::{self, Nulls};
use pillion::state::encoding::{self, Groups, KeyEncoder};
use pillion::state::memory::Memory;
use pillion::state::snapshot::{Base, Checkpoints, Manifest, Origin, Take};
use pillion::state::{Addresses, Cell, Cells, Commit, Op, StateBackend, Ttl, Writes};
use pillion::timer::{Domain, TimerOp, TimerWrites};

const GROUPS: u16 = 4;

fn cells() -> Vec<Cell> {
    vec![
        Cell::value("count", DataType::Int64),
        Cell::map("seen", DataType::Utf8, DataType::Int64).with_ttl(Ttl::new(Duration::from_secs(3600))),
        Cell { pickled: true, ..Cell::value("model", DataType::Binary) },
        Cell::list("unused", DataType::Utf8),
    ]
}

fn writes(cell: u16, rows: usize, map_keys: Option<&ArrayRef>, values: ArrayRef) -> Writes {
    let map_keys = map_keys.map(|keys| encoding::encode_map_keys(keys).unwrap());
    let values = codec::encode(&cells()[usize::from(cell)], &values, Nulls::Stored).unwrap();
    Writes { cell, ops: vec![Op::Put; rows], at: (0..rows as u32).collect(), map_keys, values }
}

/// Puts two checkpoints of the keys `ann`, `bob` and `cy` into a folder: of `count` with 1, 2, 3, and then with 10, 20, 30; the second refers to files of the first.
fn checkpoints(folder: &str) -> Vec<Manifest> {
    let keys = KeyEncoder::new(vec![("user".into(), DataType::Utf8)], false).unwrap();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["ann", "bob", "cy"]));
    let distinct = keys.distinct(std::slice::from_ref(&names), Groups::Computed(GROUPS)).unwrap();
    let addresses = Arc::new(Addresses::new(distinct.groups, distinct.keys, None).unwrap());
    let store = Memory::new(Cells::new(cells()).unwrap(), GROUPS, None).unwrap();
    let mut timers = TimerWrites::default();
    timers.push(0, Domain::EventTime, TimerOp::Set, 1_600_000_000_000).unwrap();
    timers.push(1, Domain::ProcessingTime, TimerOp::Set, i64::MAX).unwrap();
    let counts = |factor: i64| Arc::new(Int64Array::from_iter_values([1, 2, 3].map(|count| count * factor))) as ArrayRef;
    let models: ArrayRef = Arc::new(BinaryArray::from_iter_values([b"\x80\x04K\x01.", b"\x80\x04K\x02.", b"\x80\x04K\x03."]));
    let first = Commit {
        seq: 1,
        addresses: addresses.clone(),
        writes: vec![writes(0, 3, None, counts(1)), writes(1, 3, Some(&names), counts(100)), writes(2, 3, None, models)],
        timers,
        now_ms: 1_600_000_000_000,
    };
    let second = Commit {
        seq: 2,
        addresses,
        writes: vec![writes(0, 3, None, counts(10))],
        timers: TimerWrites::default(),
        now_ms: 1_600_000_000_000,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let checkpoints = Checkpoints::open(folder).unwrap();
        let (mut base, mut all) = (Base::default(), Vec::new());
        for (id, commit) in [(1, first), (2, second)] {
            store.apply(&commit).await.unwrap();
            let groups: Vec<u16> = (0..GROUPS).collect();
            let view = store.view(&groups, 1_600_000_000_000).unwrap();
            let origin = Origin {
                id,
                attempt: 1,
                function: "f.py:count".into(),
                max_parallelism: GROUPS,
                created_ms: 1_700_000_000_000 + id as i64,
            };
            let (manifest, next) = checkpoints.write(Take { origin, keys: keys.clone(), groups, view }, &base).await.unwrap();
            base = next;
            all.push(manifest);
        }
        all
    })
}

/// A place with checkpoints in the folder `chk`.
fn place() -> (Place, Vec<Manifest>) {
    let place = Place::new();
    let manifests = checkpoints(place.path("chk").to_str().unwrap());
    (place, manifests)
}

fn counts(batch: &RecordBatch) -> Vec<(String, i64)> {
    let (users, values) =
        (batch.column_by_name("key.user").unwrap().as_string::<i32>(), batch.column_by_name("value").unwrap().as_primitive::<Int64Type>());
    let mut rows: Vec<_> = (0..batch.num_rows()).map(|row| (users.value(row).to_owned(), values.value(row))).collect();
    rows.sort();
    rows
}

#[test]
fn checkpoints_are_listed_and_described() {
    let (place, manifests) = place();
    let listed = place.ok("state ls chk").text();
    let lines: Vec<&str> = listed.lines().filter(|line| line.contains("chk-")).collect();
    assert_eq!(lines.len(), 2, "{listed}");
    for (line, manifest) in lines.iter().zip(&manifests) {
        for part in [manifest.handle.as_str(), "2023-11-14T22:13:20Z", "f.py:count", "0 to 3 of 4", " 9 ", " 2 "] {
            assert!(line.contains(part), "no `{part}`: {line}");
        }
    }
    let shown = place.ok("state show chk").text();
    assert!(shown.starts_with(&manifests[1].handle), "the latest: {shown}");
    for part in ["f.py:count", "2, attempt 1", "user Utf8", "Utf8 to Int64", "value, pickled", "| 1h ", "(timers)", "| list "] {
        assert!(shown.contains(part), "no `{part}`: {shown}");
    }
    assert!(place.ok(&format!("state show chk {}", manifests[0].handle)).text().contains("1, attempt 1"));
}

#[test]
fn rows_are_shown_with_their_types() {
    let (place, manifests) = place();
    let shown = place.ok("state show chk --cell count").text();
    for part in ["| key_group | key.user | value |", "| ann      | 10 ", "| cy       | 30 ", "3 rows"] {
        assert!(shown.contains(part), "no `{part}`: {shown}");
    }
    assert!(!shown.contains("namespace"), "there are none: {shown}");
    assert!(place.ok(&format!("state show chk {} --cell count", manifests[0].handle)).text().contains("| ann      | 1 "));
    let limited = place.ok("state show chk --cell seen --limit 2").text();
    assert!(limited.contains("map_key") && limited.contains("2020-09-13T12:26:40") && limited.contains("2 of 3 rows"), "{limited}");
    assert_eq!(limited.lines().filter(|line| line.contains("2020-09-13")).count(), 2);
    let pickled = place.ok("state show chk --cell model").text();
    assert!(pickled.contains("80044b012e") && pickled.contains("pickles") && pickled.contains("stand here as bytes"), "{pickled}");
    let timers = place.ok("state show chk --timers").text();
    assert!(timers.contains("event_time") && timers.contains("processing_time") && timers.contains("2020-09-13T12:26:40"), "{timers}");
    assert!(place.ok("state show chk --cell unused").text().contains("0 rows"));
    place.fails("state show chk --cell nobody", 2, &["no cell `nobody`", "`count`, `seen`, `model`, `unused`"]);
    place.fails("state show chk --cell count --timers", 2, &["cannot be used with"]);
}

#[test]
fn parts_are_exported_to_every_format() {
    let (place, _) = place();
    let expected = [("ann".to_owned(), 10), ("bob".to_owned(), 20), ("cy".to_owned(), 30)];
    place.ok("state export chk --cell count --output count.parquet");
    let file = fs::File::open(place.path("count.parquet")).unwrap();
    let batches: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().flat_map(counts).collect::<std::collections::BTreeSet<_>>(), expected.iter().cloned().collect());
    let ran = place.ok("state export chk latest --cell count --output count.arrow");
    assert!(ran.err.contains("3 rows of the cell `count`"), "{}", ran.err);
    let reader = arrow_ipc::reader::FileReader::try_new(fs::File::open(place.path("count.arrow")).unwrap(), None).unwrap();
    assert_eq!(reader.map(Result::unwrap).map(|batch| batch.num_rows()).sum::<usize>(), 3);
    place.ok("state export chk --timers --output timers.json");
    let timers = place.read("timers.json");
    assert!(timers.contains("\"key.user\":\"ann\"") && timers.contains("\"domain\":\"event_time\""), "{timers}");
    let ran = place.ok("state export chk --cell model --output model.csv");
    assert!(place.read("model.csv").contains("80044b022e") && ran.err.contains("pickles"), "{}", ran.err);
    place.ok("state export chk --cell unused --output unused.csv");
    assert_eq!(place.read("unused.csv"), "key_group,key.user,namespace,value\n");
    let stream = place.ok("state export chk --cell count --output -").out;
    assert_eq!(
        arrow_ipc::reader::StreamReader::try_new(&stream[..], None).unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
        3
    );
    place.fails("state export chk --output out.csv", 2, &["--cell NAME"]);
    place.fails("state export chk --cell count --output out.txt", 2, &[".txt", ".parquet"]);
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_named() {
    let (place, manifests) = place();
    let (first, second) = (&manifests[0].handle, &manifests[1].handle);
    let file = place.path("chk").join(&manifests[1].files.iter().find(|file| file.cell.as_deref() == Some("count")).unwrap().path);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    place.fails("state show chk --cell count", 1, &["is not what was written"]);
    place.fails("state export chk --cell count --output out.csv", 1, &["is not what was written"]);
    place.ok(&format!("state show chk {first} --cell count"));

    let json = place.path(&format!("chk/{second}.json"));
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.replacen("\"format\": 1", "\"format\": 9", 1)).unwrap();
    for line in ["state show chk", "state ls chk", "state show chk latest --timers"] {
        place.fails(line, 1, &[second, "`format` 9; this build reads up to 1", "use the version of pillion"]);
    }
    fs::write(&json, "{").unwrap();
    place.fails("state ls chk", 1, &[second, "is damaged", "pillion state delete chk"]);
    assert!(place.run("state ls chk").text().contains(first.as_str()), "what can be read is listed");
    place.fails("state show chk chk-nobody", 1, &["there is no checkpoint `chk-nobody`", "pillion state ls"]);
    place.fails("state show nowhere", 1, &["`nowhere` does not exist"]);
    assert!(!place.path("nowhere").exists(), "looking makes nothing");
    place.fails("state show s3://bucket", 1, &["s3://"]);
    fs::create_dir(place.path("empty")).unwrap();
    assert_eq!(place.ok("state ls empty").text(), "no checkpoints in `empty`\n");
    place.fails("state show empty", 1, &["there are no checkpoints in `empty`"]);
}

#[test]
fn deleting_one_leaves_the_others_whole() {
    let (place, manifests) = place();
    let (first, second) = (&manifests[0].handle, &manifests[1].handle);
    place.ok(&format!("state delete chk {first}"));
    place.fails(&format!("state show chk {first}"), 1, &["there is no checkpoint"]);
    assert!(place.ok(&format!("state show chk {second} --cell seen")).text().contains("3 rows"), "its files are shared");
    place.fails(&format!("state delete chk {first}"), 1, &["there is no checkpoint"]);
    place.ok(&format!("state delete chk {second}"));
    assert_eq!(place.ok("state ls chk").text(), "no checkpoints in `chk`\n");
    place.fails("state delete chk", 2, &["HANDLE"]);
}
