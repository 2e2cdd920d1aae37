//! `pillion run` with checkpoints: whatever stops it, what it leaves in the end is what an undisturbed run leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use cli::Place;
use pillion::fault::{self, Point};

/// State, timers, the watermark and a side output. `Stops` raises at the value 13 when a checkpoint has been committed, unless the file `go` is there.
const FUNCTIONS: &str = r#"
import os
import time

from pillion import KeyedProcessFunction, MapState, OutputTag, ValueState

LARGE = OutputTag("large", {"key": "bigint", "total": "bigint"})
HERE = os.path.dirname(__file__)


class Tally(KeyedProcessFunction):
    output = {"key": "bigint", "value": "bigint", "total": "bigint", "watermark": "bigint"}
    side_outputs = [LARGE]
    total = ValueState("bigint")

    def process_element(self, row, ctx):
        total = (self.total.value() or 0) + row.value
        self.total.update(total)
        service = ctx.timer_service()
        service.register_event_time_timer(ctx.timestamp() + 50)
        yield row.key, row.value, total, service.current_watermark()
        if row.value % 10 == 0:
            yield LARGE, (row.key, total)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), -timestamp, self.total.value(), ctx.timer_service().current_watermark()


class Stops(Tally):
    def process_element(self, row, ctx):
        if row.value == 13 and not os.path.exists(os.path.join(HERE, "go")):
            deadline = time.monotonic() + 60
            while not any(name > "00000000.json" for name in os.listdir(os.path.join(HERE, "chk", "run")) if name[0] == "0"):
                if time.monotonic() > deadline:
                    raise TimeoutError("nothing was committed")
                time.sleep(0.01)
            raise ValueError("thirteen")
        yield from super().process_element(row, ctx)
"#;

/// The lines of the parts of an output but for their headers, in the order of the parts.
fn parts(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let hidden: Vec<_> = names.iter().filter(|name| name.file_name().unwrap().to_str().unwrap().starts_with('.')).collect();
    assert!(hidden.is_empty(), "left: {hidden:?}");
    names.iter().flat_map(|name| lines(&fs::read_to_string(name).unwrap())).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().skip(1).map(str::to_owned).collect()
}

/// By key, which is the first column: the order of different keys is nobody's concern.
fn by_key(lines: Vec<String>) -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::<String, Vec<String>>::new();
    for line in lines {
        rows.entry(line.split(',').next().unwrap().to_owned()).or_default().push(line);
    }
    rows
}

/// `rows` events of 50 keys, whose times go on by about 3, some of them late.
fn events(rows: i64) -> RecordBatch {
    let column = |of: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((0..rows).map(of))) as ArrayRef;
    RecordBatch::try_from_iter([
        ("key", column(|row| row * 7919 % 50)),
        ("value", column(|row| row * 31 % 97)),
        ("time", column(|row| row * 3 - row * 13 % 40)),
    ])
    .unwrap()
}

fn write_csv(place: &Place, name: &str, rows: i64) {
    let mut writer = arrow_csv::Writer::new(fs::File::create(place.path(name)).unwrap());
    writer.write(&events(rows)).unwrap();
}

fn place(rows: i64) -> Place {
    let place = Place::new();
    place.write("t.py", FUNCTIONS);
    write_csv(&place, "in.csv", rows);
    place
}

fn line(function: &str, more: &str) -> String {
    format!(
        "run t.py:{function} --input in.csv --output out.csv --side large=large.csv --key-by key --event-time time --batch-rows 250 {more}"
    )
}

const DURABLE: &str = "--checkpoint-dir chk --checkpoint-every 0s";

/// The number of the last commit.
fn committed(place: &Place) -> u64 {
    let names = fs::read_dir(place.path("chk/run")).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).max().unwrap_or(0)
}

/// Waits until a run has committed so much, or has ended; true if it goes on.
fn until_committed(place: &Place, run: &mut Child, number: u64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while committed(place) < number {
        if run.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "no commit {number}");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn handles(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.path("chk")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    names.sort();
    names
}

/// A run that has stopped behind its first checkpoint.
fn stopped(more: &str) -> Place {
    let place = place(2000);
    // In the second batch or later, and before the end.
    let text = place.read("in.csv").replace(",13,", ",12,");
    let mut lines: Vec<&str> = text.lines().collect();
    lines[700] = "1,13,2097";
    place.write("in.csv", lines.join("\n") + "\n");
    let ran = place.run(&line("Stops", &format!("{DURABLE} {more}")));
    assert!(ran.status == Some(1) && ran.err.contains("ValueError: thirteen"), "{}", ran.err);
    assert!(committed(&place) > 0);
    place
}

/// Kills, some as they come and some right behind a commit; `PILLION_TEST_KILLS` for more.
#[test]
fn a_run_that_is_killed_and_restored_leaves_what_an_undisturbed_one_does() {
    let place = place(6_000);
    place.ok(&line("Tally", ""));
    let expected = [by_key(lines(&place.read("out.csv"))), by_key(lines(&place.read("large.csv")))];
    fs::remove_file(place.path("out.csv")).unwrap();
    fs::remove_file(place.path("large.csv")).unwrap();
    let kills: u64 = std::env::var("PILLION_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(5);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut killed = 0;
    for round in 0..kills {
        let mut run = place.command(&line("Tally", &format!("--quiet --restore latest {DURABLE}"))).spawn().unwrap();
        let goes_on = until_committed(&place, &mut run, committed(&place) + 1 + next(2));
        // A moment of a kind of its own each time: that it is arbitrary is the point.
        std::thread::sleep(Duration::from_millis(next(30)));
        run.kill().unwrap();
        let status = run.wait().unwrap();
        killed += u64::from(!status.success());
        if !goes_on || status.success() {
            assert!(round > 0 && status.success(), "{status}");
            break;
        }
    }
    assert!(killed > 0, "it was not disturbed");
    let ran = place.ok(&line("Tally", &format!("--restore latest {DURABLE}")));
    assert!(ran.err.contains("going on behind row") || ran.err.contains("had finished"), "{}", ran.err);
    assert_eq!(by_key(parts(&place.path("out.csv"))), expected[0]);
    assert_eq!(by_key(parts(&place.path("large.csv"))), expected[1]);
    assert_eq!(handles(&place).len(), 1, "older ones are deleted");
    let again = place.ok(&line("Tally", &format!("--restore latest {DURABLE}")));
    assert!(again.err.contains("the run had finished") && again.err.contains("6,000"), "{}", again.err);
    assert_eq!(by_key(parts(&place.path("out.csv"))), expected[0]);
}

/// The engine dies at each step of a bundle and of a checkpoint, early and late. At the end of the input all timers that are left fire, and give what the state says.
#[test]
fn a_run_that_dies_at_any_step_leaves_what_an_undisturbed_one_does() {
    let undisturbed = place(2_000);
    undisturbed.ok(&line("Tally", &format!("--quiet {DURABLE}")));
    let outputs = |place: &Place| [by_key(parts(&place.path("out.csv"))), by_key(parts(&place.path("large.csv")))];
    let expected = outputs(&undisturbed);
    for state in ["memory", "disk:store"] {
        for point in Point::ALL {
            let place = place(2_000);
            let mut killed = 0;
            for times in [1, 4] {
                let mut run = place.command(&line("Tally", &format!("--quiet --restore latest --state {state} {DURABLE}")));
                let status = run.env(fault::VARIABLE, format!("{}:{times}", point.name())).status().unwrap();
                killed += usize::from(!status.success());
            }
            place.ok(&line("Tally", &format!("--quiet --restore latest --state {state} {DURABLE}")));
            assert!(killed > 0, "{point:?} was not reached with {state}");
            assert_eq!(outputs(&place), expected, "{point:?}, {state}");
        }
    }
}

#[test]
fn it_begins_goes_on_and_ends() {
    let place = place(2000);
    let ran = place.ok(&line("Tally", &format!("--restore latest --state disk:store {DURABLE}")));
    for part in ["no checkpoint yet: starting from the beginning", "2,000 rows in", " checkpoint"] {
        assert!(ran.err.contains(part), "no `{part}`: {}", ran.err);
    }
    let listed = place.ok("state ls chk").text();
    assert!(listed.contains("t.py:Tally") && listed.contains("0 to 127 of 128"), "{listed}");
    assert!(place.ok("state show chk --cell total").text().contains("key.key"));
    place.fails(&line("Tally", DURABLE), 1, &["run that has begun", "--restore latest"]);
    fs::remove_dir_all(place.path("chk")).unwrap();
    place.fails(&line("Tally", DURABLE), 1, &["`", "out.csv` is not empty"]);
}

#[test]
fn a_run_goes_back_to_an_older_checkpoint() {
    let place = place(0);
    let whole = events(1000);
    let batches: Vec<RecordBatch> = (0..4).map(|at| whole.slice(at * 250, 250)).collect();
    let streamed = |batches: &[RecordBatch]| {
        let mut writer = StreamWriter::try_new(Vec::new(), &whole.schema()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.into_inner().unwrap()
    };
    let line =
        |output: &str, more: &str| format!("run t.py:Tally --input - --output {output} --key-by key --event-time time --quiet {more}");
    let run = |line: &str| place.command(line).stdin(Stdio::piped()).spawn().unwrap();
    let mut undisturbed = run(&line("whole.csv", ""));
    undisturbed.stdin.take().unwrap().write_all(&streamed(&batches)).unwrap();
    assert!(undisturbed.wait().unwrap().success());
    let expected = by_key(lines(&place.read("whole.csv")));

    // Batch by batch, each with its checkpoint.
    let durable = format!("--checkpoint-keep 2 {DURABLE}");
    let mut first = run(&line("out.csv", &durable));
    let mut writer = StreamWriter::try_new(first.stdin.take().unwrap(), &whole.schema()).unwrap();
    for (number, batch) in (1..).zip(&batches[..3]) {
        writer.write(batch).unwrap();
        writer.flush().unwrap();
        assert!(until_committed(&place, &mut first, number), "commit {number}");
    }
    // Nobody else may use the folder meanwhile.
    place.fails(&self::line("Tally", &durable), 1, &["another run keeps its checkpoints in"]);
    first.kill().unwrap();
    first.wait().unwrap();
    let known = handles(&place);
    assert_eq!(known.len(), 2, "{known:?}");
    let mut second = run(&line("out.csv", &format!("{durable} --restore {}", known[0])));
    second.stdin.take().unwrap().write_all(&streamed(&batches)).unwrap();
    assert!(second.wait().unwrap().success());
    assert_eq!(by_key(parts(&place.path("out.csv"))), expected);
    let left = handles(&place);
    assert!(left.len() == 2 && !left.contains(&known[1]), "what stood behind the older one was undone: {left:?}");
}

#[test]
fn damage_is_named_and_the_rest_stays() {
    let place = stopped("");
    let restore = line("Stops", &format!("--restore latest {DURABLE}"));
    place.write("go", "");
    let handle = handles(&place).remove(0);
    let (json, before) = (place.path(&format!("chk/{handle}.json")), parts(&place.path("out.csv")));
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, &text[..text.len() / 2]).unwrap();
    place.fails_in_parts(&restore, 1, &[&handle, "damaged"]);
    fs::remove_file(&json).unwrap();
    place.fails_in_parts(&restore, 1, &[&handle, "there is no checkpoint"]);
    fs::write(&json, text).unwrap();
    let record = place.path(&format!("chk/run/{:08}.json", committed(&place)));
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, "{").unwrap();
    place.fails_in_parts(&restore, 1, &["commit record", "damaged"]);
    fs::write(&record, text.replacen("\"format\": 1", "\"format\": 2", 1)).unwrap();
    place.fails_in_parts(&restore, 1, &["`format` 2; this build reads up to 1"]);
    fs::write(&record, text).unwrap();
    assert_eq!(parts(&place.path("out.csv")), before, "what was committed stays as it is");
    place.ok(&restore);
}

#[test]
fn what_has_changed_is_refused_or_taken() {
    let place = stopped("--max-parallelism 16");
    place.write("go", "");
    let restore = |more: &str| line("Stops", &format!("--restore latest {DURABLE} {more}"));
    let handle = handles(&place).remove(0);
    place.fails_in_parts(&restore(""), 1, &["max parallelism of 16", "128"]);
    let kept = "--max-parallelism 16";
    place.fails_in_parts(&restore(kept).replace("t.py:Stops", "t.py:Tally"), 1, &["t.py:Stops", "t.py:Tally"]);
    for (from, to, part) in [
        ("--key-by key", "--key-by value", "keys `key`, not `value`"),
        ("--event-time time", "--event-time value", "event time `time`, not `value`"),
        ("--side large=large.csv", "", "has the outputs"),
        ("--output out.csv", "--output other.csv", "other.csv"),
    ] {
        place.fails_in_parts(&restore(kept).replace(from, to), 1, &[part, "go on with what it began with"]);
    }
    let (input, functions) = (place.read("in.csv"), place.read("t.py"));
    place.write("in.csv", format!("{input}1,2,3\n"));
    place.fails_in_parts(&restore(kept), 1, &["in.csv", "bytes", "go on with what it began with"]);
    place.write("in.csv", &input);
    place.write("t.py", functions.replace("ValueState(\"bigint\")", "ValueState(\"string\")"));
    place.fails_in_parts(&restore(kept), 1, &[&handle, "the cell `total`", "Int64", "Utf8"]);
    // A cell more begins empty.
    let more = "ValueState(\"bigint\")\n    more = MapState(\"bigint\", \"bigint\")";
    place.write("t.py", functions.replace("ValueState(\"bigint\")", more));
    place.ok(&restore(kept));
    assert_eq!(by_key(parts(&place.path("out.csv"))).values().map(Vec::len).sum::<usize>(), rows_of(&place, kept));
}

/// Rows of an undisturbed run.
fn rows_of(place: &Place, more: &str) -> usize {
    place.ok(&line("Stops", more).replace("out.csv", "whole.csv").replace("large.csv", "whole_large.csv"));
    lines(&place.read("whole.csv")).len()
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let place = place(10);
    let run = "run t.py:Tally --input in.csv --key-by key --event-time time";
    for (more, parts) in [
        (format!("--output - {DURABLE}"), &["standard output"][..]),
        (format!("--output out.txt {DURABLE}"), &[".txt"]),
        ("--output out.csv --restore latest".to_owned(), &["--checkpoint-dir"]),
        ("--output out.csv --state tape".to_owned(), &["`memory`, `disk` or `disk:PATH`"]),
        ("--output out.csv --max-parallelism 0".to_owned(), &["--max-parallelism"]),
        (format!("--output out.csv --connect unix:no.sock {DURABLE}"), &["--checkpoint-dir", "state.checkpoints"]),
        ("--output out.csv --connect unix:no.sock --state disk:here".to_owned(), &["--state", "state.dir"]),
    ] {
        place.fails(&format!("{run} {more}"), 2, parts);
    }
    place.fails("run f.py:double --input in.csv --output no.csv --state memory --args key", 2, &["--state", "keeps no state"]);
    place.fails(
        "run f.py:double --input in.csv --output no.csv --checkpoint-dir chk --args key",
        2,
        &["--checkpoint-dir", "keeps no state"],
    );
    place.write("file.csv", "x\n");
    place.fails(&format!("{run} --output file.csv --checkpoint-dir other"), 1, &["`file.csv` is a file", "folder of parts"]);
    place.fails(&format!("{run} --output new.csv --restore chk-7 --checkpoint-dir other"), 1, &["no checkpoint `chk-7`", "committed none"]);
}
