//! Functions with state, as a person tries and runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use cli::{Place, example, pandas};

#[test]
fn a_function_with_state_shows_what_it_keeps() {
    let place = Place::new();
    place.write("in.csv", "key,value\n1,5\n2,7\n1,120\n");
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/stateful.py");
    let said = place.ok(&format!("check {functions}:Histories --input in.csv --key-by key")).text();
    for part in ["process: called once per row and timer", "seen: list of Int64", "counts: map of Int64 to Int64", "last: value of Utf8"] {
        assert!(said.contains(part), "no `{part}`: {said}");
    }
    assert!(said.contains("the first 3 rows of `in.csv`") && said.contains("| 1   | 125 | 2     | 2         |"), "{said}");
    let said = place.ok(&format!("check {functions}:Split")).text();
    assert!(said.contains("side output  large: key Int64, value Int64"), "{said}");
    place.fails(&format!("check {functions}:Sum --input in.csv"), 1, &["no key", "--key-by"]);
}

#[test]
fn a_function_with_state_runs_over_a_file() {
    let place = Place::new();
    place.write("in.csv", "key,value,time\n1,5,100\n2,107,101\n1,20,103\n");
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/stateful.py");
    place.ok(&format!("run {functions}:Sum --input in.csv --output sums.csv --key-by key"));
    let sums = std::fs::read_to_string(place.path("sums.csv")).unwrap();
    assert!(sums.starts_with("key,sum\n") && ["1,5", "1,25", "2,107"].iter().all(|row| sums.lines().any(|line| line == *row)), "{sums}");
    // The end fires the timers that are left.
    place.ok(&format!("run {functions}:Remind --input in.csv --output timers.csv --key-by key --event-time time"));
    let timers = std::fs::read_to_string(place.path("timers.csv")).unwrap();
    assert!(["1,110,25", "1,113,25", "2,111,107"].iter().all(|row| timers.lines().any(|line| line == *row)), "{timers}");
    place.ok(&format!("run {functions}:Split --input in.csv --output small.csv --key-by key --side large=large.csv"));
    assert_eq!(std::fs::read_to_string(place.path("large.csv")).unwrap(), "key,value\n2,107\n");
    place.fails(&format!("run {functions}:Sum --input in.csv --output no.csv"), 1, &["no key", "--key-by"]);
    place.fails(&format!("run {functions}:Sum --input in.csv --output no.csv --key-by nobody"), 2, &["nobody"]);
    place.fails(&format!("run {functions}:Split --input in.csv --output no.csv --key-by key --side other=o.csv"), 2, &["other", "large"]);
    place.fails("run f.py:double --input in.csv --output no.csv --key-by key", 2, &["--key-by", "keeps no state"]);
    assert!(!place.path("no.csv").exists());
}

#[test]
fn windows_run_over_a_file() {
    let place = Place::new();
    // A visit each twenty seconds, of two users in turn, out of order by a few seconds.
    let visits: Vec<_> = (0..60i64).map(|visit| (visit % 2 + 1, visit, visit * 20_000 - visit % 3 * 3000 + 6000)).collect();
    let lines: String = visits.iter().map(|(user, item, at)| format!("{user},{item},{at}\n")).collect();
    place.write("visits.csv", format!("user,item,at\n{lines}"));
    let run = |function: &str| {
        let function = format!("{}:{function}", example("last_items.py"));
        let output = format!("--output {function}.jsonl", function = function.rsplit(':').next().unwrap());
        place.ok(&format!(
            "run {function} --input visits.csv {output} --key-by user --event-time at --watermark-delay 10s --batch-rows 7 {}",
            pandas()
        ));
        let path = place.path(output.split(' ').nth(1).unwrap());
        let mut rows: Vec<_> = std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let rows = run("last_items");
    assert_eq!(rows, run("last_items_incremental"));
    // Each visit lies in ten windows of five minutes, one of which begins every 30 seconds.
    let windows: std::collections::BTreeSet<_> =
        visits.iter().flat_map(|(user, _, at)| (0..10).map(move |back| (*user, at / 30_000 - back))).collect();
    assert_eq!(rows.len(), windows.len(), "{rows:?}");
    assert!(rows.iter().any(|row| row.contains(r#""user":1,"window_end":600000,"items":[20,22,24,26,28]"#)), "{rows:?}");
}

#[test]
fn rows_that_raise_are_put_aside() {
    let place = Place::new();
    place.write("in.csv", "key,value\n1,1\n1,13\n2,5\n1,2\n");
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/stateful.py");
    let run = |output: &str| format!("run {functions}:Raise --input in.csv --output {output} --key-by key");
    place.fails(&format!("{} --on-error side", run("no.csv")), 2, &["have no file", "--side pillion.errors=FILE"]);
    place.fails(&run("no.csv"), 1, &["ValueError", "thirteen"]);
    place.ok(&format!("{} --on-error side --side pillion.errors=errors.csv", run("out.csv")));
    let sums = place.read("out.csv");
    assert!(sums.lines().count() == 4 && ["1,1", "2,5", "1,3"].iter().all(|row| sums.lines().any(|line| line == *row)), "{sums}");
    assert_eq!(place.read("errors.csv"), "key,value,error_type,error_message\n1,13,ValueError,thirteen\n");
    place.ok(&format!("{} --on-error skip", run("out.csv")));
}
