//! `pillion check` as a person runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/cli.rs"]
mod cli;

use cli::{Place, example, pandas};

#[test]
fn a_function_is_described() {
    let place = Place::new();
    let said = place.ok("check f.py:add").text();
    for part in ["f.py:add", "scalar: called once per row", "add(a, b=...)", "may be left out", "bigint", "interpreter", "Python 3."] {
        assert!(said.contains(part), "no `{part}`: {said}");
    }
    let said = place.ok("check f.py:is_even").text();
    assert!(said.contains("x: bigint") && said.contains("boolean"), "{said}");
    let said = place.ok("check f.py:twice").text();
    assert!(said.contains("map: called once per row, gives rows") && said.contains("copy"), "{said}");
    assert!(place.ok("check f.py:same").text().contains("the columns of the input"));
    assert!(place.ok("check f.py:total").text().contains("total(*values)"));
}

#[test]
fn the_first_rows_are_tried_and_shown() {
    let place = Place::new();
    place.numbers("in.csv", 100);
    let said = place.ok("check f.py:double --input in.csv --rows 3").text();
    assert!(said.contains("the first 3 rows of `in.csv`"), "{said}");
    assert!(said.contains("| x | double |") && said.contains("| 2 | 4      |") && !said.contains("| 3 |"), "{said}");
    let said = place.ok("check f.py:double --input in.csv --rows 500").text();
    assert!(said.contains("the first 100 rows") && said.contains("| 99 | 198    |"), "{said}");
    let said = place.ok("check f.py:twice --input in.csv --rows 1").text();
    assert!(said.contains("| 0 | 1    |") && said.contains("| 0 | 2    |"), "{said}");
    let said = place.ok("check f.py:add --input in.csv --args x,x --rows 3").text();
    assert!(said.contains("| 2 | 4   |"), "{said}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let place = Place::new();
    place.numbers("in.csv", 20_000);
    place.write("tail.csv", "x\n14999\n15000\n");
    place.write("none.csv", "x\n");
    place.write("syntax.py", "def f(x:\n");
    place.fails("check f.py:nothing", 1, &["nothing"]);
    place.fails("check f.py", 2, &["path/file.py:name"]);
    place.fails("check syntax.py:f", 1, &["SyntaxError", "syntax.py"]);
    place.fails("check f.py:raise_at_15000 --input tail.csv", 1, &["ValueError", "x=15000", "row 2 of `tail.csv`"]);
    place.fails("check f.py:wrong_type --input in.csv", 1, &["wrong_type", "text"]);
    place.fails("check f.py:add --input in.csv", 2, &["no column `a`", "columns: `x`"]);
    place.fails("check f.py:double --input missing.csv", 1, &["missing.csv"]);
    place.fails("check f.py:double --input none.csv", 1, &["no rows"]);
    place.fails("check f.py:double --rows 3", 2, &["--input"]);
}

#[test]
fn pandas_functions_show_times_and_packages() {
    let place = Place::new();
    let (function, input) = (example("interpolate.py:weather"), example("data/weather.parquet"));
    let said = place.ok(&format!("check {function} --input {input} --rows 2 {}", pandas())).text();
    for part in ["called once per batch with a pandas.DataFrame", "packages", "pandas ", "numpy ", "2013-01-01T06:00:00Z", "| 1012.0   |"] {
        assert!(said.contains(part), "no `{part}`: {said}");
    }
}
