"""Map functions: whole rows in, whole rows out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from pillion import FunctionContext, Row, ScalarFunction, map_function

COLUMNS = {"id": ("bigint", [1, 2, 3]), "name": ("string", ["a", None, "c"])}
OUTPUT = {"id": "bigint", "twice": "string"}


def by_keyword(row: Row) -> Row:
    return Row(twice=row.name and row.name * 2, id=row.id)


def by_position(row: Row) -> Row:
    return Row(row[0], row["name"] and row["name"] * 2)


def as_tuple(row: Row) -> tuple[int, str]:
    return row.id, row.name and row.name * 2


def as_dict(row: Row) -> dict[str, Any]:
    return {"twice": row.name and row.name * 2, "id": row.id}


def as_list_of_rows(row: Row) -> list[Row]:
    return [by_keyword(row)]


def as_generator(row: Row) -> Iterator[Row]:
    yield by_keyword(row)


class Mapper(ScalarFunction):
    """A map function with set-up."""

    def open(self, function_context: FunctionContext) -> None:
        self.times = 2

    def eval(self, row: Row) -> Row:
        return Row(id=row.id, twice=row.name and row.name * self.times)


@pytest.mark.parametrize(
    "function", [by_keyword, by_position, as_tuple, as_dict, as_list_of_rows, as_generator, Mapper]
)
def test_rows(harness: Any, function: Any) -> None:
    result = harness.map(map_function(function, result_type=OUTPUT), COLUMNS)
    assert result == {"id": [1, 2, 3], "twice": ["aa", None, "cc"]}


def test_rows_dropped_and_multiplied(harness: Any) -> None:
    @map_function(result_type={"n": "int"})
    def repeat(row):
        return None if row.id == 2 else [Row(n=row.id)] * row.id

    assert harness.map(repeat, COLUMNS) == {"n": [1, 3, 3, 3]}
    nothing = map_function(lambda row: None, result_type={"n": "int"})
    assert harness.map(nothing, COLUMNS) == {"n": []}


def test_without_declared_columns_the_input_s_are_kept(harness: Any) -> None:
    assert harness.map(map_function(lambda row: row), COLUMNS) == {"id": [1, 2, 3], "name": ["a", None, "c"]}


def test_empty_batches(harness: Any) -> None:
    result = harness.map(map_function(by_keyword, result_type=OUTPUT), {"id": ("bigint", []), "name": ("string", [])})
    assert result == {"id": [], "twice": []}


@pytest.mark.parametrize(
    ("returned", "code", "says"),
    [
        (Row(id=1), "result_columns", "lacks `twice`"),
        (Row(id=1, twice="a", more=1), "result_columns", "has besides `more`"),
        ((1,), "result_columns", "1 values for 2 columns"),
        ({"id": 1, "thrice": "a"}, "result_columns", "lacks `twice` and has besides `thrice`"),
        (7, "result_type", "a value of type `int` is no row"),
        ("ab", "result_type", "a value of type `str` is no row"),
        ((1, 2), "result_type", "column `twice`"),
        ((1.5, "a"), "result_type", "column `id`"),
    ],
)
def test_wrong_rows(harness: Any, returned: Any, code: str, says: str) -> None:
    record = harness.error(harness.map, map_function(lambda row: returned, result_type=OUTPUT), COLUMNS)
    assert record["code"] == code
    assert says in record["message"]


def test_nulls_and_the_failing_row(harness: Any) -> None:
    function = map_function(lambda row: row, result_type={"id": "bigint", "name": "string not null"})
    record = harness.error(harness.map, function, COLUMNS)
    assert (record["code"], "column `name`" in record["message"]) == ("result_null", True)
    function = map_function(lambda row: (1 // (row.id - 2), ""), result_type=OUTPUT)
    record = harness.error(harness.map, function, COLUMNS)
    assert record["code"] == "function_raised"
    assert record["exception"]["row"] == {"index": 1, "values": [("id", "2"), ("name", "None")]}


def test_a_generator_that_fails_half_way(harness: Any) -> None:
    @map_function(result_type={"n": "bigint"})
    def numbers(row):
        yield Row(n=1)
        raise LookupError("no more")

    record = harness.error(harness.map, numbers, COLUMNS)
    assert (record["code"], record["exception"]["type"]) == ("function_raised", "LookupError")


class TestPandas:
    """DataFrame in, DataFrame out."""

    pd = None

    @pytest.fixture(autouse=True)
    def _pandas(self) -> None:
        self.pd = pytest.importorskip("pandas")

    def test_the_example_of_the_readme(self, harness: Any) -> None:
        @map_function(result_type={"id": "bigint", "temperature": "double"}, func_type="pandas")
        def interpolate(readings):
            stations = readings.groupby("id")["temperature"]
            filled = stations.transform(lambda t: t.interpolate(limit_direction="both"))
            return readings.assign(temperature=filled)

        result = harness.map(
            interpolate,
            {"id": ("bigint", [1, 1, 1, 2]), "temperature": ("double", [98.0, None, 100.0, 99.0])},
        )
        assert result == {"id": [1, 1, 1, 2], "temperature": [98.0, 99.0, 100.0, 99.0]}

    def test_dtypes_are_those_of_series(self, harness: Any) -> None:
        seen = []

        def keep(frame):
            seen.append(frame.dtypes.astype(str).to_dict())
            return frame

        columns = {
            "i": ("bigint", [1, 2]),
            "n": ("bigint", [1, None]),
            "b": ("boolean", [True, None]),
            "f": ("double", [1.0, None]),
            "s": ("string", ["a", None]),
            "l": ("array<int>", [[1], [2]]),
            "d": ("date", [None, None]),
        }
        result = harness.map(map_function(keep, func_type="pandas"), columns)
        assert result == {name: values for name, (_, values) in columns.items()}
        assert seen == [
            {"i": "int64", "n": "Int64", "b": "boolean", "f": "float64", "s": "object", "l": "object", "d": "object"}
        ]

    def test_frames_may_be_changed_in_place(self, harness: Any) -> None:
        @map_function(func_type="pandas")
        def fill(frame):
            frame.loc[frame["a"].isna(), "a"] = 0.0
            frame.loc[0, "i"] = 7
            frame.loc[frame["n"].isna(), "n"] = 5
            frame["s"] = frame["s"].fillna("none")
            return frame

        columns = {
            "a": ("double", [1.0, None]),
            "i": ("bigint", [1, 2]),
            "n": ("bigint", [1, None]),
            "s": ("string", ["a", None]),
        }
        assert harness.map(fill, columns) == {"a": [1.0, 0.0], "i": [7, 2], "n": [1, 5], "s": ["a", "none"]}
        assert columns["i"][1] == [1, 2]

    def test_any_number_of_rows_and_any_index(self, harness: Any) -> None:
        @map_function(result_type={"name": "string", "total": "bigint"}, func_type="pandas")
        def totals(frame):
            return frame.groupby("name", as_index=False)["id"].sum().rename(columns={"id": "total"})

        columns = {"id": ("bigint", [1, 2, 3]), "name": ("string", ["x", "y", "x"])}
        assert harness.map(totals, columns) == {"name": ["x", "y"], "total": [4, 2]}
        double = map_function(lambda f: self.pd.concat([f, f]), func_type="pandas")
        assert harness.map(double, columns)["id"] == [1, 2, 3, 1, 2, 3]

    def test_columns_are_matched_by_name_or_unnamed(self, harness: Any) -> None:
        declared = {"a": "bigint", "b": "double"}
        swapped = map_function(
            lambda f: self.pd.DataFrame({"b": [0.5], "a": [1]}), result_type=declared, func_type="pandas"
        )
        assert harness.map(swapped, COLUMNS) == {"a": [1], "b": [0.5]}
        unnamed = map_function(lambda f: self.pd.DataFrame([[1, 0.5]]), result_type=declared, func_type="pandas")
        assert harness.map(unnamed, COLUMNS) == {"a": [1], "b": [0.5]}

    def test_columns_of_one_name(self, harness: Any) -> None:
        from pillion._native import Batch, Column, Type

        kind = Type.parse("bigint")
        batch = Batch.from_columns([Column.from_pylist([i], kind, "x") for i in (1, 2)], ["x", "x"], 1)
        from conftest import reference

        def run(function):
            call = {"function": reference(function), "arguments": []}
            prepared = harness.runtime.prepare({"calls": [call], "outputs": [], "input": batch.schema})
            return [column.to_pylist() for column in prepared.call(batch)[0].columns]

        total = map_function(lambda f: f.sum(axis=1).to_frame("sum"), result_type={"sum": "bigint"}, func_type="pandas")
        assert run(total) == [[3]]
        assert run(map_function(lambda f: f + 1, func_type="pandas")) == [[2], [3]]

    @pytest.mark.parametrize(
        ("make", "code", "says"),
        [
            (lambda pd: pd.DataFrame({"id": [1]}), "result_columns", "lacks `twice`"),
            (lambda pd: pd.DataFrame({"id": [1], "twice": ["a"], "x": [1]}), "result_columns", "has besides `x`"),
            (lambda pd: pd.DataFrame([[1, 2, 3]], columns=["id", "twice", "id"]), "result_columns", "has twice `id`"),
            (lambda pd: pd.DataFrame({"id": [1.5], "twice": ["a"]}), "result_type", "column `id`"),
            (lambda pd: pd.Series([1]), "result_type", "returned a `Series`"),
            (lambda pd: None, "result_type", "returned a `NoneType`"),
        ],
    )
    def test_wrong_results(self, harness: Any, make: Any, code: str, says: str) -> None:
        function = map_function(lambda frame: make(self.pd), result_type=OUTPUT, func_type="pandas")
        record = harness.error(harness.map, function, COLUMNS)
        assert record["code"] == code
        assert says in record["message"]

    def test_null_where_none_is_allowed(self, harness: Any) -> None:
        declared = {"id": "double not null"}
        function = map_function(
            lambda f: self.pd.DataFrame({"id": [1.0, math.nan]}), result_type=declared, func_type="pandas"
        )
        assert harness.error(harness.map, function, COLUMNS)["code"] == "result_null"


class TestArrow:
    """RecordBatch in, RecordBatch or Table out."""

    pa = None

    @pytest.fixture(autouse=True)
    def _pyarrow(self) -> None:
        self.pa = pytest.importorskip("pyarrow")

    def test_batches(self, harness: Any) -> None:
        import pyarrow.compute as pc

        seen = []

        @map_function(func_type="arrow")
        def keep_some(batch):
            seen.append(batch)
            return batch.filter(pc.greater(batch.column(0), 1))

        assert harness.map(keep_some, COLUMNS) == {"id": [2, 3], "name": [None, "c"]}
        assert isinstance(seen[0], self.pa.RecordBatch)
        seen[0].validate(full=True)

    def test_tables_and_order(self, harness: Any) -> None:
        def tables(batch):
            table = self.pa.table({"twice": ["x", "y"], "id": self.pa.array([1, 2], self.pa.int8())})
            return self.pa.concat_tables([table, table])

        result = harness.map(map_function(tables, result_type=OUTPUT, func_type="arrow"), COLUMNS)
        assert result == {"id": [1, 2, 1, 2], "twice": ["x", "y", "x", "y"]}

    def test_wrong_results(self, harness: Any) -> None:
        for returned, code in [
            (self.pa.table({"id": [1]}), "result_columns"),
            (self.pa.table({"id": ["a"], "twice": ["a"]}), "result_type"),
            (self.pa.array([1]), "result_type"),
            ({"id": [1]}, "result_type"),
        ]:
            function = map_function(lambda b, r=returned: r, result_type=OUTPUT, func_type="arrow")
            assert harness.error(harness.map, function, COLUMNS)["code"] == code
