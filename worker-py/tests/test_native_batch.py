"""Batches, and other Arrow libraries' tables."""

import datetime as dt
import decimal

import pytest

from pillion._native import Batch, Column, ConversionError, Type

ONE_WAY = {("decimal(5, 2)", "double"), ("timestamp(3)", "timestamp(6, 'UTC')"), ("null", "array<int>")}
BIGINT, STRING = Type.parse("bigint"), Type.parse("string")


def sample() -> Batch:
    columns = [Column.from_pylist([1, None, 3], BIGINT), Column.from_pylist(["a", "b", None], STRING)]
    return Batch.from_columns(columns, ["n", "s"], 3)


def rows(batch: Batch) -> dict[str, list[object]]:
    return {name: column.to_pylist() for name, column in zip(batch.names, batch.columns)}


def test_parts() -> None:
    batch = sample()
    assert (batch.num_rows, batch.num_columns, len(batch)) == (3, 2, 3)
    assert batch.names == ["n", "s"]
    assert batch.schema == [("n", BIGINT), ("s", STRING)]
    assert [column.name for column in batch.columns] == ["n", "s"]
    assert batch.column(1).to_pylist() == ["a", "b", None]
    assert rows(batch.slice(1, 2)) == {"n": [None, 3], "s": ["b", None]}
    for wrong in (lambda: batch.column(2), lambda: batch.slice(2, 2)):
        with pytest.raises(IndexError):
            wrong()


def test_lengths_must_agree() -> None:
    one, two = Column.from_pylist([1], BIGINT), Column.from_pylist([1, 2], BIGINT)
    with pytest.raises(ValueError, match="column `b` has 2 rows, the batch has 1"):
        Batch.from_columns([one, two], ["a", "b"], None)
    with pytest.raises(ValueError, match="column `a` has 1 rows, the batch has 5"):
        Batch.from_columns([one], ["a"], 5)
    with pytest.raises(ValueError, match="1 columns but 2 names"):
        Batch.from_columns([one], ["a", "b"], None)


def test_without_columns_it_still_has_rows() -> None:
    batch = Batch.from_columns([], [], 7)
    assert batch.num_rows == 7
    pa = pytest.importorskip("pyarrow")
    assert pa.record_batch(batch).num_columns == 0
    assert Batch.from_arrow(batch).num_rows == 7


def test_pyarrow() -> None:
    pa = pytest.importorskip("pyarrow")
    batch = sample()
    seen = pa.record_batch(batch)
    seen.validate(full=True)
    assert seen.to_pydict() == rows(batch)
    for table in (seen, pa.table(seen), pa.table({"n": pa.chunked_array([[1], [None, 3]]), "s": ["a", "b", None]})):
        assert rows(Batch.from_arrow(table)) == rows(batch)
    assert rows(Batch.from_arrow(seen.slice(1))) == rows(batch.slice(1, 2))
    empty = pa.table({"n": pa.chunked_array([], pa.int64())})
    assert rows(Batch.from_arrow(empty)) == {"n": []}
    with pytest.raises(TypeError, match="no table"):
        Batch.from_arrow(pa.array([1]))
    with pytest.raises(TypeError, match="no Arrow data"):
        Batch.from_arrow([1])
    with pytest.raises(ValueError, match="null rows"):
        Batch.from_arrow(pa.array([{"a": 1}, None]))


def test_export_is_without_a_copy() -> None:
    pa = pytest.importorskip("pyarrow")
    array = pa.array(range(10_000))
    column = Column.from_arrow(array, BIGINT)
    assert pa.array(column).buffers()[1].address == array.buffers()[1].address


def test_a_capsule_is_taken_once() -> None:
    pytest.importorskip("pyarrow")

    class Twice:
        def __init__(self) -> None:
            self.capsules = Column.from_pylist([1, 2], BIGINT).__arrow_c_array__()

        def __arrow_c_array__(self, requested_schema: object = None) -> object:
            return self.capsules

    source = Twice()
    assert Column.from_arrow(source, BIGINT).to_pylist() == [1, 2]
    with pytest.raises(ValueError, match="taken before"):
        Column.from_arrow(source, BIGINT)


def test_polars() -> None:
    pl = pytest.importorskip("polars")
    batch = sample()
    frame = pl.DataFrame(batch)
    assert frame.to_dict(as_series=False) == rows(batch)
    back = Batch.from_arrow(frame)
    assert rows(back) == rows(batch)
    text = Column.from_arrow(frame["s"], STRING, "s")
    assert str(text.type) == "string"
    assert text.to_pylist() == ["a", "b", None]


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("int8", [1, None], "bigint"),
        ("uint64", [1, None], "tinyint"),
        ("int64", [1, None], "double"),
        ("int64", [1, None], "decimal(5, 2)"),
        ("double", [1.0, None], "int"),
        ("float", [0.5, None], "double"),
        ("double", [0.5, None], "float"),
        ("decimal(5, 2)", ["1.50", None], "decimal(10, 4)"),
        ("decimal(5, 2)", ["1.50", None], "decimal(5, 1)"),
        ("decimal(5, 2)", ["3.00", None], "bigint"),
        ("decimal(5, 2)", ["3.25", None], "double"),
        ("string", ["a", None], "large_string"),
        ("string_view", ["a", None], "string"),
        ("large_string", ["a", None], "string_view"),
        ("bytes", [b"a", None], "large_bytes"),
        ("bytes", [b"ab", None], "fixed_binary(2)"),
        ("fixed_binary(2)", [b"ab", None], "bytes"),
        ("dictionary<int, string>", ["a", None, "a"], "string"),
        ("string", ["a", None, "a"], "dictionary<int, string>"),
        ("date", [dt.date(2020, 1, 1), None], "timestamp(6)"),
        ("timestamp(3)", [dt.datetime(1960, 1, 1), None], "date"),
        ("timestamp(3)", [dt.datetime(2020, 1, 1, 0, 0, 0, 5000), None], "timestamp(9)"),
        ("timestamp(9)", [dt.datetime(1960, 1, 1, 0, 0, 0, 5000), None], "timestamp(3)"),
        ("timestamp(3)", [dt.datetime(2020, 1, 1), None], "timestamp(6, 'UTC')"),
        ("time(3)", [dt.time(1, 2, 3), None], "time(9)"),
        ("time(6)", [dt.time(1, 2, 3), None], "time(0)"),
        ("duration(s)", [dt.timedelta(1), None], "duration(ns)"),
        ("date", [dt.date(2020, 1, 1), None], "date64"),
        ("date64", [dt.date(2020, 1, 1), None], "date"),
        ("array<int>", [[1, None], None, []], "large_array<bigint>"),
        ("large_array<bigint>", [[1, None], None, []], "array<int>"),
        ("array<int>", [[1, 2], None, [3, 4]], "fixed_array<bigint, 2>"),
        ("fixed_array<int, 2>", [[1, 2], None, [3, 4]], "array<bigint>"),
        ("row<a int, b string>", [{"a": 1, "b": "x"}, None], "row<b large_string, a bigint>"),
        ("map<string, int>", [{"a": 1}, None, {}], "map<large_string, bigint>"),
        ("null", [None, None], "array<int>"),
    ],
)
def test_conversions_that_lose_nothing(source: str, values: list[object], text: str) -> None:
    if source.startswith("decimal"):
        values = [None if value is None else decimal.Decimal(str(value)) for value in values]
    column = Column.from_pylist(values * 3, Type.parse(source), "c")
    there = column.cast(Type.parse(text))
    assert str(there.type) == text
    if (source, text) not in ONE_WAY:
        assert there.cast(Type.parse(source)).to_pylist() == values * 3
    for start in range(len(values)):
        assert column.slice(start, 2).cast(Type.parse(text)).to_pylist() == there.slice(start, 2).to_pylist()


@pytest.mark.parametrize(
    ("source", "values", "text", "row"),
    [
        ("bigint", [1, 300], "tinyint", 1),
        ("bigint", [-1], "uint64", 0),
        ("bigint", [2**53 + 1], "double", 0),
        ("bigint", [1000], "decimal(3, 1)", 0),
        ("double", [0.0, 0.5], "bigint", 1),
        ("double", [1e39], "float", 0),
        ("bytes", [b"ab", b"abc"], "fixed_binary(2)", 1),
        ("timestamp(3)", [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, 0, 0, 0, 1000)], "timestamp(0)", 1),
        ("timestamp(3)", [dt.datetime(2020, 1, 1, 1)], "date", 0),
        ("timestamp(3)", [dt.datetime(2020, 1, 1, 1)], "date64", 0),
        ("array<int>", [[], [1], None, [1, 300]], "array<tinyint>", 3),
        ("array<int>", [[1, 2], [1]], "fixed_array<int, 2>", 1),
        ("row<a int>", [{"a": 1}, {"a": 300}], "row<a tinyint>", 1),
        ("map<string, int>", [{}, {"a": 1, "b": 300}], "map<string, tinyint>", 1),
    ],
)
def test_conversions_that_would_lose_something(source: str, values: list[object], text: str, row: int) -> None:
    column = Column.from_pylist(values, Type.parse(source), "c")
    with pytest.raises(ConversionError) as caught:
        column.cast(Type.parse(text))
    assert caught.value.row == row
    assert f"column `c`, row {row}: " in str(caught.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("bigint", "string"),
        ("string", "bigint"),
        ("boolean", "bigint"),
        ("bigint", "boolean"),
        ("bigint", "timestamp(3)"),
        ("string", "bytes"),
        ("timestamp(3, 'UTC')", "timestamp(3)"),
        ("row<a int>", "row<a int, b int>"),
        ("row<a int, b int>", "row<a int>"),
        ("array<int>", "array<string>"),
    ],
)
def test_types_that_do_not_fit(source: str, text: str) -> None:
    column = Column.from_pylist([], Type.parse(source), "c")
    with pytest.raises(TypeError, match="column `c`: "):
        column.cast(Type.parse(text))
