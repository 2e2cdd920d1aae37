//! `pillion run` as a person runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use cli::{Place, example, pandas};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn every_format_can_be_read_and_written() {
    let place = Place::new();
    place.write("a.csv", "x,name,value\n1,Ada,1.5\n2,,\n3,\"a, b\",-2.0\n");
    let chain = ["a.csv", "b.parquet", "c.arrow", "d.feather", "e.arrows", "f.jsonl", "g.ndjson", "h.json", "i.csv"];
    for pair in chain.windows(2) {
        place.ok(&format!("run f.py:double --input {} --output {} --into y", pair[0], pair[1]));
    }
    assert_eq!(place.read("i.csv"), "x,name,value,y\n1,Ada,1.5,2\n2,,,4\n3,\"a, b\",-2.0,6\n");
}

#[test]
fn arguments_are_bound_by_name_or_as_told() {
    let place = Place::new();
    place.write("in.csv", "b,a,c\n10,1,100\n20,2,200\n");
    let added = |flags: &str| {
        place.ok(&format!("run f.py:add --input in.csv --output out.csv -q {flags}"));
        let text = place.read("out.csv");
        std::fs::remove_file(place.path("out.csv")).unwrap();
        text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(added(""), ["11", "22"]);
    assert_eq!(added("--args c,a"), ["101", "202"]);
    assert_eq!(added("--args c"), ["100", "200"], "an optional argument may be left out");
    assert_eq!(added("--args c,c"), ["200", "400"], "a column may be given twice");
    place.ok("run f.py:total --input in.csv --output total.csv --args a,b,c -q");
    assert_eq!(place.read("total.csv"), "b,a,c,total\n10,1,100,111\n20,2,200,222\n");

    place.fails("run f.py:double --input in.csv --output out.csv", 2, &["no column `x`", "double(x)", "`b`, `a`, `c`", "--args"]);
    place.fails("run f.py:double --input in.csv --output out.csv --args z", 2, &["no column `z`", "`b`, `a`, `c`"]);
    place.fails("run f.py:double --input in.csv --output out.csv --args a,b", 2, &["takes 1 argument,", "names 2"]);
    place.fails("run f.py:add --input in.csv --output out.csv --args a,b,c", 2, &["takes 1 to 2 arguments", "names 3"]);
    place.fails("run f.py:total --input in.csv --output out.csv", 2, &["any number of columns", "--args"]);
}

#[test]
fn results_replace_columns_or_are_added_or_filter() {
    let place = Place::new();
    place.write("in.csv", "x,y\n1,a\n2,b\n3,c\n4,d\n");
    place.ok("run f.py:double --input in.csv --output out.csv");
    assert_eq!(place.read("out.csv"), "x,y,double\n1,a,2\n2,b,4\n3,c,6\n4,d,8\n");
    place.ok("run f.py:double --input in.csv --output out.csv --into x");
    assert_eq!(place.read("out.csv"), "x,y\n2,a\n4,b\n6,c\n8,d\n");
    place.ok("run f.py:is_even --input in.csv --output out.csv --where");
    assert_eq!(place.read("out.csv"), "x,y\n2,b\n4,d\n");
    std::fs::remove_file(place.path("out.csv")).unwrap();
    place.fails("run f.py:double --input in.csv --output out.csv --where", 2, &["--where", "boolean", "Int64"]);
    place.fails("run f.py:double --input in.csv --output out.csv --where --into z", 2, &["--where", "--into"]);
}

#[test]
fn map_functions_replace_the_rows() {
    let place = Place::new();
    place.write("in.csv", "x,y\n1,a\n2,b\n");
    let ran = place.ok("run f.py:twice --input in.csv --output out.csv");
    assert_eq!(place.read("out.csv"), "x,copy\n1,1\n1,2\n2,1\n2,2\n");
    assert!(ran.err.contains("2 rows in, 4 rows out"), "{}", ran.err);
    place.ok("run f.py:same --input in.csv --output out.csv");
    assert_eq!(place.read("out.csv"), place.read("in.csv"));
    std::fs::remove_file(place.path("out.csv")).unwrap();
    for flag in ["--args x", "--into z", "--where"] {
        place.fails(
            &format!("run f.py:twice --input in.csv --output out.csv {flag}"),
            2,
            &[flag.split(' ').next().unwrap(), "map function"],
        );
    }
}

#[test]
fn many_batches_on_two_workers_keep_their_order() {
    let place = Place::new();
    place.numbers("in.csv", 25_000);
    for (flags, batches) in
        [("", "3 batches"), ("--batch-rows 1000", "25 batches"), ("--batch-rows all", "1 batch "), ("--batch-rows 100000", "1 batch ")]
    {
        let ran = place.ok(&format!("run f.py:double --input in.csv --output out.csv --workers 2 {flags}"));
        assert!(ran.err.contains(batches) && ran.err.contains("25,000 rows in, 25,000 rows out"), "{flags}: {}", ran.err);
        let expected: String = (0..25_000).map(|x| format!("{x},{}\n", 2 * x)).collect();
        assert!(place.read("out.csv") == format!("x,double\n{expected}"), "{flags}");
    }
    assert_eq!(place.outputs(&["in.csv"]), ["out.csv"]);
}

#[test]
fn batches_end_where_a_column_changes() {
    let place = Place::new();
    place.write("in.csv", "g,x\na,1\na,2\nb,3\nb,4\nc,5\n");
    let ran = place.ok("run f.py:double --input in.csv --output out.csv --batch-by g");
    assert!(ran.err.contains("3 batches"), "{}", ran.err);
    let ran = place.ok("run f.py:double --input in.csv --output out.csv --batch-by g --batch-rows 3");
    assert!(ran.err.contains("2 batches"), "{}", ran.err);
    std::fs::remove_file(place.path("out.csv")).unwrap();
    place.write("mixed.csv", "g,x\na,1\nb,2\na,3\n");
    place.fails("run f.py:double --input mixed.csv --output out.csv --batch-by g", 1, &["`a`", "`g`", "row 3", "sort"]);
    place.fails("run f.py:double --input in.csv --output out.csv --batch-by z", 2, &["no column `z`"]);
}

#[test]
fn streams_go_through_pipes() {
    let place = Place::new();
    place.numbers("in.csv", 30_000);
    let first = place.ok("run f.py:double --input in.csv --output - --into y");
    let mut second = place.command("run f.py:double --input - --output - --args y --into z");
    let mut second = second.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = second.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || stdin.write_all(&first.out));
    let output = second.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reader = arrow_ipc::reader::StreamReader::try_new(output.stdout.as_slice(), None).unwrap();
    let mut expected = 0..30_000_i64;
    for batch in reader {
        let batch = batch.unwrap();
        let z = batch.column_by_name("z").unwrap().as_any().downcast_ref::<arrow_array::Int64Array>().unwrap().clone();
        assert!(z.values().iter().zip(&mut expected).all(|(z, x)| *z == 4 * x));
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    place.numbers("in.csv", 200_000);
    let mut run =
        place.command("run f.py:double --input in.csv --output - --quiet").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 100];
    run.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_truncated_stream_is_an_error() {
    let place = Place::new();
    place.numbers("in.csv", 1000);
    let whole = place.ok("run f.py:double --input in.csv --output -").out;
    let mut run = place.command("run f.py:double --input - --output out.csv").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(&whole[..whole.len() / 2]).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`standard input` is corrupt or truncated"));
    assert!(place.outputs(&["in.csv"]).is_empty());
}

#[test]
fn input_and_output_may_be_one_file() {
    let place = Place::new();
    place.write("a.csv", "x\n1\n2\n");
    place.ok("run f.py:double --input a.csv --output a.csv --into x");
    assert_eq!(place.read("a.csv"), "x\n2\n4\n");
    assert_eq!(place.outputs(&[]), ["a.csv"]);
}

#[test]
fn a_running_sidecar_can_be_used() {
    let place = Place::new();
    place.numbers("in.csv", 25_000);
    let sidecar = place.serve("");
    for _ in 0..2 {
        place.ok(&format!("run f.py:double --input in.csv --output out.csv --connect {}", sidecar.endpoint));
    }
    assert_eq!(place.read("out.csv").lines().last(), Some("24999,49998"));
    std::fs::remove_file(place.path("out.csv")).unwrap();
    let line = format!("run f.py:raise_at_15000 --input in.csv --output out.csv --connect {}", sidecar.endpoint);
    place.fails(&line, 1, &["ValueError: fifteen thousand is too much", "row 15,001 of `in.csv`"]);
    place.ok(&format!("run f.py:double --input in.csv --output out.csv --connect {}", sidecar.endpoint));
}

#[test]
fn an_endpoint_must_be_a_sidecar() {
    let place = Place::new();
    place.numbers("in.csv", 3);
    let nothing = place.path("nothing.sock");
    place.fails(&format!("run f.py:double --input in.csv --output out.csv --connect unix:{}", nothing.display()), 1, &["nothing.sock"]);
    place.fails("run f.py:double --input in.csv --output out.csv --connect nonsense", 1, &["nonsense", "hint: "]);
    // Something that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    place.fails(&format!("run f.py:double --input in.csv --output out.csv --connect http://{address}"), 1, &["is not a pillion sidecar"]);
    // Something that answers in another language.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        }
    });
    place.fails(
        &format!("run f.py:double --input in.csv --output out.csv --connect http://{address}"),
        1,
        &["is not a pillion sidecar", "hint: "],
    );
}

#[test]
fn a_failure_in_the_middle_leaves_no_output_and_names_the_row() {
    let place = Place::new();
    place.numbers("in.csv", 25_000);
    let said =
        ["Traceback (most recent call last):", "f.py", "ValueError: fifteen thousand is too much", "row 15,001 of `in.csv`", "x=15000"];
    place.fails("run f.py:raise_at_15000 --input in.csv --output out.csv", 1, &said);
    place.write("kept.csv", "before");
    place.run("run f.py:raise_at_15000 --input in.csv --output kept.csv");
    assert_eq!(place.read("kept.csv"), "before");
    assert_eq!(place.outputs(&["in.csv"]), ["kept.csv"]);
    place.ok("run f.py:raise_at_15000 --input in.csv --output out.csv --on-error null --into y");
    assert_eq!(place.read("out.csv").lines().nth(15_001), Some("15000,"));
}

#[test]
fn bad_files_are_named() {
    let place = Place::new();
    place.numbers("in.csv", 1000);
    let run = |input: &str, output: &str| format!("run f.py:double --input {input} --output {output}");
    place.fails(&run("missing.csv", "out.csv"), 1, &["`missing.csv` does not exist", "hint: "]);
    place.fails(&run("in.xlsx", "out.csv"), 2, &["unsupported extension `.xlsx`", ".parquet"]);
    place.fails(&run("in.csv", "out.xlsx"), 2, &["unsupported extension `.xlsx`"]);
    place.fails(&run("in.csv", "out"), 2, &["no extension"]);
    place.fails(&run("in.csv", "missing/out.csv"), 1, &["folder `missing`", "does not exist", "mkdir -p missing"]);
    // Nobody may make files there, whoever runs the tests.
    place.fails(&run("in.csv", "/proc/out.csv"), 1, &["`/proc`", "cannot be written"]);
    place.fails(&run(".", "out.csv"), 2, &["extension"]);

    place.ok(&run("in.csv", "whole.parquet"));
    place.ok(&run("in.csv", "whole.arrow"));
    for name in ["whole.parquet", "whole.arrow"] {
        let whole = std::fs::read(place.path(name)).unwrap();
        place.write(name, &whole[..whole.len() / 2]);
        place.fails(&run(name, "out.csv"), 1, &[name, "corrupt or truncated"]);
        let mut damaged = whole.clone();
        damaged[whole.len() / 2..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        place.write(name, damaged);
        place.fails(&run(name, "out.csv"), 1, &[name, "corrupt or truncated"]);
    }
    place.write("ragged.csv", "x\n1\n2,3\n");
    place.fails(&run("ragged.csv", "out.csv"), 1, &["ragged.csv", "line 3"]);
    place.write("late.csv", format!("x\n{}one\n", "1\n".repeat(20)));
    place.fails(&format!("{} --infer-rows 10", run("late.csv", "out.csv")), 1, &["late.csv", "line 22", "`--infer-rows`"]);
    place.write("bad.jsonl", "{\"x\": 1}\n{\"x\": 2\n");
    place.fails(&run("bad.jsonl", "out.csv"), 1, &["bad.jsonl", "line 2"]);
}

#[test]
fn bad_functions_are_explained() {
    let place = Place::new();
    place.numbers("in.csv", 3);
    place.write("syntax.py", "from pillion import udf\ndef f(x:\n    return x\n");
    place.write("broken.py", "import no_such_package_at_all\n");
    let cases: [(&str, i32, &[&str]); 11] = [
        ("nonsense", 2, &["nonsense", "path/file.py:name"]),
        ("missing.py:f", 1, &["missing.py", "hint: "]),
        ("no_such_module:f", 1, &["no_such_module"]),
        ("f.py:no_such_name", 1, &["no_such_name"]),
        ("f.py:NO_FUNCTION", 1, &["NO_FUNCTION"]),
        ("syntax.py:f", 1, &["SyntaxError", "syntax.py", "line 2"]),
        ("broken.py:f", 1, &["ModuleNotFoundError", "no_such_package_at_all", "broken.py"]),
        ("f.py:wrong_type", 1, &["wrong_type", "text"]),
        ("f.py:wrong_null", 1, &["wrong_null", "null"]),
        ("f.py:die", 1, &["status 3"]),
        ("f.py:double --python /no/such/python", 1, &["/no/such/python"]),
    ];
    for (function, status, said) in cases {
        place.fails(&format!("run {function} --input in.csv --output out.csv"), status, said);
    }
    place.fails("run f.py:sleep --input in.csv --output out.csv --deadline 300ms", 1, &["deadline", "in sleep"]);
    place.write("req.txt", "./no-such-package-here\n");
    place.fails("run f.py:double --input in.csv --output out.csv --requirements req.txt", 1, &["no-such-package-here"]);
    place.fails("run f.py:double --input in.csv --output out.csv --requirements none.txt", 1, &["none.txt"]);
    place.write("bad.toml", "[pool]\nmaxx = 3\n");
    place.fails("run f.py:double --input in.csv --output out.csv --config bad.toml", 2, &["maxx", "bad.toml"]);
}

#[test]
fn types_that_a_format_cannot_hold_are_named() {
    let place = Place::new();
    place.write("in.jsonl", "{\"x\": 1, \"tags\": [\"a\"]}\n");
    place.fails("run f.py:double --input in.jsonl --output out.csv", 1, &["`tags`", "CSV"]);
    place.ok("run f.py:double --input in.jsonl --output out.jsonl");
    assert_eq!(place.read("out.jsonl"), "{\"x\":1,\"tags\":[\"a\"],\"double\":2}\n");
}

#[test]
fn a_batch_over_the_limit_is_split_or_refused() {
    let place = Place::new();
    place.numbers("in.csv", 5000);
    place.write("small.toml", "[limits]\nmax_batch_rows = 1000\n");
    let ran = place.ok("run f.py:double --input in.csv --output out.csv --config small.toml");
    assert!(ran.err.contains("8 batches"), "{}", ran.err);
    assert_eq!(place.read("out.csv").lines().last(), Some("4999,9998"));
    std::fs::remove_file(place.path("out.csv")).unwrap();
    let said = ["5000 rows", "over the limit", "--batch-rows"];
    place.fails("run f.py:double --input in.csv --output out.csv --config small.toml --batch-rows all", 1, &said);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let place = Place::new();
        place.numbers("in.csv", 3);
        place.write("out.csv", "before");
        // The function says when it runs.
        place.write("slow.py", "import time\nfrom pillion import udf\n@udf(result_type='bigint')\ndef f(x):\n    open(__file__ + '.runs', 'w').close()\n    time.sleep(3600)\n");
        let run = place.command("run slow.py:f --input in.csv --output out.csv").stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while !place.path("slow.py.runs").exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "the function does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(place.outputs(&["in.csv", "slow.py", "slow.py.runs"]).iter().any(|name| name.ends_with(".part")));
        kill_process(Pid::from_child(&run), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(place.outputs(&["in.csv", "slow.py", "slow.py.runs"]), ["out.csv"]);
        assert_eq!(place.read("out.csv"), "before");
    }
}

#[test]
fn quiet_says_nothing_and_the_summary_says_where_time_went() {
    let place = Place::new();
    place.numbers("in.csv", 10);
    assert_eq!(place.ok("run f.py:double --input in.csv --output out.csv --quiet").err, "");
    let err = place.ok("run f.py:double --input in.csv --output out.csv").err;
    for part in ["10 rows in, 10 rows out, 1 batch in ", "rows/s", "start ", "read ", "queue ", "wire ", "convert ", "user ", "write "] {
        assert!(err.contains(part), "no `{part}`: {err}");
    }
}

#[test]
fn empty_inputs_give_empty_outputs() {
    let place = Place::new();
    place.write("in.csv", "x\n");
    // No value says what type the column has: text, which this function takes as it is.
    let ran = place.ok("run f.py:same --input in.csv --output out.csv");
    assert!(ran.err.contains("0 rows in, 0 rows out"), "{}", ran.err);
    assert_eq!(place.read("out.csv"), "x\n");
}

#[test]
fn the_interpolation_example_fills_gaps() {
    let place = Place::new();
    place.write("in.csv", "id,temperature\n1,98.0\n1,\n1,100.0\n2,99.0\n");
    let function = example("interpolate.py:interpolate");
    let ran = place.ok(&format!("run {function} --input in.csv --output out.csv --batch-rows all {}", pandas()));
    assert_eq!(place.read("out.csv"), "id,temperature\n1,98.0\n1,99.0\n1,100.0\n2,99.0\n");
    assert!(ran.err.contains("gaps filled: temperature 1"), "{}", ran.err);

    let (function, input) = (example("interpolate.py:weather"), example("data/weather.parquet"));
    let ran = place.ok(&format!("run {function} --input {input} --output w.csv --batch-by origin --workers 2 {}", pandas()));
    assert!(ran.err.contains("26,115 rows in, 26,115 rows out, 3 batches"), "{}", ran.err);
    assert!(ran.err.contains("gaps filled: wind_gust 20,778, pressure 2,729"), "{}", ran.err);
    let text = place.read("w.csv");
    assert_eq!(text.lines().count(), 26_116);
    assert!(text.lines().skip(1).all(|line| !line.ends_with(',') && !line.contains(",,,")));
}

#[test]
fn the_json_example_needs_no_package() {
    let place = Place::new();
    let input = example("data/events.jsonl");
    place.ok(&format!("run {} --input {input} --output out.csv", example("json_extract.py:items")));
    assert!(place.read("out.csv").starts_with("event,article,count,price\n1,lamp,2,39.5\n1,bulb,6,4.25\n3,desk,1,249.0\n"));
    place.ok(&format!("run {} --input {input} --output large.jsonl --where", example("json_extract.py:is_large")));
    assert_eq!(place.read("large.jsonl").lines().count(), 3);
    place.ok(&format!("run {} --input {input} --output names.jsonl", example("json_extract.py:customer")));
    assert!(place.read("names.jsonl").contains("\"customer\":\"José\"") && place.read("names.jsonl").contains("\"customer\":null"));
}
