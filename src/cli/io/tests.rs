use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, StringArray};
use std::fs;

fn batch(rows: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let values: ArrayRef = Arc::new(Float64Array::from_iter((0..rows).map(|x| (x % 3 != 0).then_some(x as f64 / 2.0))));
    let names: ArrayRef = Arc::new(StringArray::from_iter((0..rows).map(|x| (x % 5 != 0).then(|| format!("né \"{x}\",")))));
    let flags: ArrayRef = Arc::new(BooleanArray::from_iter((0..rows).map(|x| (x % 7 != 0).then_some(x % 2 == 0))));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("value", values, true), ("name", names, true), ("flag", flags, true)])
        .unwrap()
}

fn write(path: &Path, batches: &[RecordBatch]) {
    let (mut output, commit) = Target::reserve(path).unwrap().start(batches[0].schema()).unwrap();
    for batch in batches {
        output.write(batch).unwrap();
    }
    output.finish().unwrap();
    commit.commit().unwrap();
}

const OPTIONS: ReadOptions = ReadOptions { batch_rows: 100, infer_rows: 1000 };

fn read(path: &Path) -> Result<Vec<RecordBatch>, Failure> {
    let mut input = Input::open(path, OPTIONS)?;
    let mut batches = Vec::new();
    while let Some(batch) = input.next_batch() {
        batches.push(batch?);
    }
    Ok(batches)
}

fn fails(path: &Path) -> String {
    read(path).unwrap_err().report()
}

#[test]
fn every_format_gives_back_what_it_took() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "a.parquet", "a.arrow", "a.feather", "a.arrows", "a.jsonl", "a.ndjson", "a.json", "A.CSV"] {
        let path = folder.path().join(name);
        write(&path, &[batch(250), batch(3)]);
        let input = Input::open(&path, OPTIONS).unwrap();
        match input.size {
            Size::Rows(rows) => assert_eq!(rows, 253, "{name}"),
            Size::Bytes { total, .. } => assert_eq!(total, fs::metadata(&path).unwrap().len(), "{name}"),
            Size::Unknown => panic!("the size of {name} is not known"),
        }
        let back = read(&path).unwrap();
        let back = arrow_select::concat::concat_batches(&back[0].schema(), &back).unwrap();
        let all = arrow_select::concat::concat_batches(&batch(0).schema(), &[batch(250), batch(3)]).unwrap();
        assert_eq!(back.columns(), all.columns(), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 9, "temporary files were left behind");
}

#[test]
fn a_stream_in_a_file_for_files_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.arrows"), &[batch(5)]);
    fs::rename(folder.path().join("a.arrows"), folder.path().join("a.arrow")).unwrap();
    assert_eq!(read(&folder.path().join("a.arrow")).unwrap(), [batch(5)]);
}

#[test]
fn truncated_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.parquet", "a.arrow", "a.arrows"] {
        let path = folder.path().join(name);
        write(&path, &[batch(1000), batch(1000)]);
        let whole = fs::read(&path).unwrap();
        for part in [3, 30, 90] {
            fs::write(&path, &whole[..whole.len() * part / 100]).unwrap();
            let report = fails(&path);
            assert!(report.contains(name) && report.contains("corrupt or truncated"), "{name} {part}: {report}");
        }
        fs::write(&path, "").unwrap();
        assert!(fails(&path).contains(name));
    }
}

#[test]
fn text_that_does_not_fit_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("ragged.csv", "a,b\n1,2\n1\n", "line 3"),
        ("late.csv", &format!("a\n{}x\n", "1\n".repeat(1500)), "line 1502"),
        ("bad.jsonl", "{\"a\": 1}\n{\"a\": \n", "line 2"),
        ("late.jsonl", &format!("{}{{\"a\": \"x\"}}\n", "{\"a\": 1}\n".repeat(1500)), "line 1501"),
        ("column.jsonl", &format!("{}{{\"a\": 1, \"b\": 2}}\n", "{\"a\": 1}\n".repeat(1500)), "line 1501"),
        ("array.json", "[{\"a\": 1}]\n", "one object per line"),
        ("twice.csv", "a,a\n1,2\n", "two columns named `a`"),
        ("empty.csv", "", "empty"),
        ("empty.jsonl", "", "empty"),
    ];
    for (name, text, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let report = fails(&path);
        assert!(report.contains(name) && report.contains(expected), "{name}: {report}");
    }
    // Latin-1 is no UTF-8.
    let path = folder.path().join("latin.csv");
    fs::write(&path, b"a\ncaf\xe9\n").unwrap();
    assert!(fails(&path).contains("latin.csv"));
}

#[test]
fn empty_csv_values_are_null_and_unknown_columns_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, "\u{feff}id,t,none\r\n1,98.0,\r\n1,,\r\n2,99.0,\r\n").unwrap();
    let batches = read(&path).unwrap();
    let kinds: Vec<_> = batches[0].schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    assert_eq!(kinds, [("id".into(), DataType::Int64), ("t".into(), DataType::Float64), ("none".into(), DataType::Utf8)]);
    assert_eq!([0, 1, 2].map(|column| batches[0].column(column).null_count()), [0, 1, 3]);
}

#[test]
fn an_output_that_is_not_committed_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    fs::write(&path, "before").unwrap();
    {
        let (mut output, _commit) = Target::reserve(&path).unwrap().start(batch(0).schema()).unwrap();
        output.write(&batch(100)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
}

#[test]
fn an_output_follows_links_and_keeps_modes() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("a.csv"), folder.path().join("link.csv"));
    fs::write(&path, "before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&path, &link).unwrap();
    write(&link, &[batch(2)]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::read_to_string(&path).unwrap().starts_with("id,value,name,flag\n"));
}

#[test]
fn wrong_places_are_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Target::reserve(path).err().unwrap().report();
    assert!(refused(&folder.path().join("missing/out.csv")).contains("does not exist"));
    assert!(refused(&folder.path().join("out.xlsx")).contains("unsupported extension `.xlsx`"));
    assert!(refused(&folder.path().join("out")).contains("no extension"));
    let taken = folder.path().join("folder.csv");
    fs::create_dir(&taken).unwrap();
    assert!(refused(&taken).contains("is no file"));
    let missing = fails(&folder.path().join("missing.csv"));
    assert!(missing.contains("missing.csv` does not exist") && missing.contains("hint: "), "{missing}");
}

#[test]
fn csv_has_no_form_for_nested_columns() {
    let folder = tempfile::tempdir().unwrap();
    let field = Field::new("list", DataType::new_list(DataType::Int64, true), true);
    let failure = Target::reserve(&folder.path().join("a.csv")).unwrap().start(Arc::new(Schema::new(vec![field]))).err().unwrap();
    assert!(failure.report().contains("`list`") && failure.report().contains("hint: write Parquet"), "{}", failure.report());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Each batch has its own dictionary, as batches of a Parquet file do.
#[test]
fn dictionaries_that_change_fit_into_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let batch = |value: &str| {
        let column: ArrayRef = Arc::new([value, value].into_iter().collect::<DictionaryArray<Int32Type>>());
        RecordBatch::try_from_iter_with_nullable([("t", column, true)]).unwrap()
    };
    for name in ["a.csv", "a.parquet", "a.arrow", "a.arrows", "a.jsonl"] {
        let path = folder.path().join(name);
        write(&path, &[batch("one"), batch("two")]);
        let texts = read(&path)
            .unwrap()
            .iter()
            .flat_map(|batch| {
                let column = arrow_cast::cast(batch.column(0), &DataType::Utf8).unwrap();
                column.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>();
        assert_eq!(texts, ["one", "one", "two", "two"], "{name}");
    }
}
