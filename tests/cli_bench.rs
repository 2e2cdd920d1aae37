//! `pillion bench` as a person runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use cli::Place;
use serde_json::Value;

/// A second is enough for figures; that they are any good is not tested here.
const BRIEF: &str = "bench --quiet --seconds 1";
const BOTH_DOORS: &str = "--only process";

fn variants(report: &Value) -> Vec<&str> {
    report["variants"].as_array().unwrap().iter().map(|variant| variant["name"].as_str().unwrap()).collect()
}

fn json(place: &Place, line: &str) -> Value {
    let ran = place.ok(line);
    serde_json::from_slice(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
}

#[test]
fn the_example_needs_nothing() {
    let place = Place::new();
    let ran = place.ok(&format!("{BRIEF} --html page.html --json figures.json"));
    let text = ran.text();
    for part in ["process inline, embedded", "process inline, connect", "p99.9", "100,000", "where the time", "convert", "recommended: "] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    let report: Value = serde_json::from_str(&place.read("figures.json")).unwrap();
    let (measured, absent) = (variants(&report), report["absent"].as_array().unwrap());
    assert_eq!(measured.len() + absent.len(), 7, "every variant has a row or a reason: {report}");
    for absent in absent {
        assert!(!absent["code"].as_str().unwrap().is_empty() && !absent["reason"].as_str().unwrap().is_empty(), "{absent}");
    }
    for variant in report["variants"].as_array().unwrap() {
        let latency = &variant["latency"];
        assert!(latency["p50_us"].as_f64() > Some(0.0) && latency["p50_us"].as_f64() <= latency["p999_us"].as_f64(), "{latency}");
        assert!(latency["stages"]["user_us"].as_f64() > Some(0.0), "{latency}");
        let sizes: Vec<_> = variant["sizes"].as_array().unwrap().iter().map(|size| size["rows"].as_u64().unwrap()).collect();
        assert_eq!(sizes, [1, 100, 1_000, 10_000, 100_000]);
        assert!(variant["sizes"][2]["rows_per_second"].as_f64() > Some(0.0), "{variant}");
    }
    assert!(report["advice"]["batch_rows"].as_u64() >= Some(1));
    let page = place.read("page.html");
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark"));
    for foreign in ["http:", "https:", "<script", "@import", "url("] {
        assert!(!page.contains(foreign), "the page needs `{foreign}`");
    }
    assert_eq!(place.outputs(&[]), ["figures.json", "page.html"], "nothing else is left");
}

#[test]
fn variants_are_chosen_by_mode_and_transport() {
    let place = Place::new();
    let report = json(&place, &format!("{BRIEF} --transport inline --only process --json -"));
    assert_eq!(variants(&report), ["process inline, embedded", "process inline, connect"]);
    for (line, there_are) in
        [("--transport shm --only nothing", "`process shm, embedded`"), ("--mode thread --only process", "`thread, embedded`")]
    {
        place.fails(&format!("{BRIEF} {line}"), 2, &["no variant that was asked for", there_are]);
    }
}

#[test]
fn what_is_not_shared_is_not_called_so() {
    let place = Place::new();
    // No arena fits: every body goes inline, whatever was asked for.
    place.write("small.toml", "[shm]\nmax_bytes = \"1MiB\"\narena_bytes = \"2MiB\"\n");
    let report = json(&place, &format!("{BRIEF} --config small.toml --only process --json -"));
    assert_eq!(variants(&report), ["process inline, embedded", "process inline, connect"], "{report}");
    for absent in report["absent"].as_array().unwrap() {
        assert_eq!(absent["code"], "not_shared", "{absent}");
        assert!(absent["reason"].as_str().unwrap().contains("measured inline"), "{absent}");
    }
}

#[test]
fn a_function_runs_on_its_own_data() {
    let place = Place::new();
    place.write("in.csv", "a,b\n1,10\n2,20\n3,30\n");
    let report = json(&place, &format!("{BRIEF} {BOTH_DOORS} --only thread f.py:add --input in.csv --json -"));
    assert!(variants(&report).contains(&"process inline, connect"), "{report}");
    assert!(report["function"]["name"].as_str().unwrap().ends_with("f.py:add"));
    assert!(report["data"].as_str().unwrap().contains("3 rows, repeated"), "{}", report["data"]);
    json(&place, &format!("{BRIEF} --only {} f.py:double --args b --input in.csv --json -", "process"));
    json(&place, &format!("{BRIEF} --only process f.py:twice_of_all --input in.csv --json -").replace("twice_of_all", "same"));
}

#[test]
fn slow_batches_are_left_out_and_named() {
    let place = Place::new();
    place.write(
        "slow.py",
        "import time\nfrom pillion import udf\n\n@udf(result_type='bigint')\ndef slow(x):\n    time.sleep(0.001)\n    return x\n",
    );
    place.numbers("in.csv", 1000);
    let report = json(&place, &format!("{BRIEF} --only process slow.py:slow --input in.csv --json -"));
    let sizes = report["variants"][0]["sizes"].as_array().unwrap();
    let last = &sizes[sizes.len() - 1];
    assert!(last["skipped"].as_str().unwrap().contains("a batch takes about"), "{last}");
    assert!(sizes[0]["rows_per_second"].as_f64() > Some(0.0), "{report}");
    assert!(report["seconds"].as_f64() < Some(60.0), "{}", report["seconds"]);
}

#[test]
fn answers_that_differ_have_no_row() {
    let place = Place::new();
    // Each engine has a folder of its own for sockets, by which the function tells them apart.
    let function =
        "import os, sys\nfrom pillion import udf\n\nKIND = os.getppid()\n\n@udf(result_type='bigint')\ndef who(x):\n    return KIND\n";
    place.write("who.py", function);
    place.numbers("in.csv", 10);
    let report = json(&place, &format!("{BRIEF} --only process who.py:who --input in.csv --json -"));
    assert_eq!(variants(&report), ["process inline, embedded"], "{report}");
    let differing = report["absent"].as_array().unwrap().iter().filter(|absent| absent["code"] == "answers_differ");
    assert!(differing.clone().any(|absent| absent["name"] == "process inline, connect"), "{report}");
}

#[test]
fn a_function_that_never_agrees_with_itself_is_not_compared() {
    let place = Place::new();
    let function = "import itertools\nfrom pillion import udf\n\nNEXT = itertools.count()\n\n@udf(result_type='bigint')\ndef next_one(x):\n    return next(NEXT)\n";
    place.write("next.py", function);
    place.numbers("in.csv", 10);
    let report = json(&place, &format!("{BRIEF} --only process next.py:next_one --input in.csv --json -"));
    assert!(variants(&report).contains(&"process inline, connect"), "{report}");
    assert!(report["notes"][0].as_str().unwrap().contains("not compared"), "{}", report["notes"]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_measured() {
    let place = Place::new();
    place.write("in.csv", "x\n1\n");
    place.fails("bench f.py:double", 2, &["--input"]);
    place.fails("bench f.py:double --input none.csv", 1, &["none.csv", "does not exist"]);
    place.fails("bench --only banana", 2, &["banana", "process inline, embedded"]);
    place.fails("bench --html none/page.html", 1, &["none/page.html", "`none`"]);
    place.fails("bench --connect unix:x.sock", 2, &["engines of its own", "--connect"]);
    place.fails("bench f.py:add --input in.csv --seconds 1 --quiet", 2, &["no column `a`", "--args"]);
    place.fails("bench f.py:nothing --input in.csv --seconds 1 --quiet", 1, &["`nothing`"]);
    place.write("raises.py", "from pillion import udf\n\n@udf(result_type='bigint')\ndef f(x):\n    raise ValueError('no good')\n");
    place.fails("bench raises.py:f --input in.csv --seconds 1 --quiet", 1, &["ValueError: no good"]);
}
