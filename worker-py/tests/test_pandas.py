"""Pandas functions, in whatever version of pandas is installed, with pyarrow and without."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import batch_of

from pillion import udf

pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")

BEFORE_2 = int(pd.__version__.partition(".")[0]) < 2
UTC = datetime.timezone.utc
DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 1, 2, 3)

# Type, dtype without nulls, dtype with nulls, a value.
DTYPES = [
    ("boolean", "bool", "boolean", True),
    ("tinyint", "int8", "Int8", 1),
    ("smallint", "int16", "Int16", 1),
    ("int", "int32", "Int32", 1),
    ("bigint", "int64", "Int64", 2**60 + 1),
    ("uint8", "uint8", "UInt8", 1),
    ("uint64", "uint64", "UInt64", 2**63 + 1),
    ("float", "float32", "float32", 0.5),
    ("double", "float64", "float64", 0.1),
    ("decimal(10, 2)", "object", "object", Decimal("1.50")),
    ("string", "object", "object", "a"),
    ("large_string", "object", "object", "a"),
    ("bytes", "object", "object", b"a"),
    ("date", "object", "object", DAY),
    ("time(6)", "object", "object", datetime.time(1, 2)),
    ("timestamp(0)", "datetime64[s]", "datetime64[s]", MOMENT),
    ("timestamp(3)", "datetime64[ms]", "datetime64[ms]", MOMENT),
    ("timestamp(6)", "datetime64[us]", "datetime64[us]", MOMENT),
    ("timestamp(9)", "datetime64[ns]", "datetime64[ns]", MOMENT),
    ("timestamp(6, 'UTC')", "datetime64[us, UTC]", "datetime64[us, UTC]", MOMENT.replace(tzinfo=UTC)),
    (
        "timestamp(3, 'Europe/Berlin')",
        "datetime64[ms, Europe/Berlin]",
        "datetime64[ms, Europe/Berlin]",
        MOMENT.replace(tzinfo=UTC),
    ),
    ("timestamp(6, '+02:00')", "datetime64[us, UTC+02:00]", "datetime64[us, UTC+02:00]", MOMENT.replace(tzinfo=UTC)),
    ("duration(us)", "timedelta64[us]", "timedelta64[us]", datetime.timedelta(seconds=1)),
    ("duration(ns)", "timedelta64[ns]", "timedelta64[ns]", datetime.timedelta(seconds=1)),
    ("array<bigint>", "object", "object", [1, 2]),
    ("map<string, bigint>", "object", "object", {"a": 1}),
    ("row<a bigint>", "object", "object", {"a": 1}),
    ("dictionary<int, string>", "object", "object", "a"),
]


def dtype_here(dtype: str) -> str:
    """Before pandas 2 there were nanoseconds only."""
    if BEFORE_2:
        for unit in ("[s", "[ms", "[us"):
            dtype = dtype.replace(unit, "[ns")
    return dtype


@pytest.mark.parametrize(("kind", "whole", "holed", "value"), DTYPES)
def test_dtypes_and_values(harness: Any, kind: str, whole: str, holed: str, value: Any) -> None:
    seen = []

    def keep(series):
        seen.append(series)
        return series

    function = udf(keep, result_type=kind, func_type="pandas")
    assert harness.scalar(function, (kind, [value, value])).to_pylist() == [value, value]
    assert harness.scalar(function, (kind, [None, value, None])).to_pylist() == [None, value, None]
    assert harness.scalar(function, (kind, [None, None])).to_pylist() == [None, None]
    assert [str(series.dtype) for series in seen] == [dtype_here(dtype) for dtype in (whole, holed, holed)]
    assert [series.name for series in seen] == ["a", "a", "a"]
    assert seen[1].isna().tolist() == [True, False, True]
    assert list(seen[0].index) == [0, 1]


def test_dtypes_do_not_depend_on_pyarrow() -> None:
    """The same columns in an interpreter that may import pyarrow, and in one that may not."""
    script = Path(__file__).with_name("show_dtypes.py")
    shown = [
        subprocess.run([sys.executable, script, mode], capture_output=True, text=True, check=True).stdout
        for mode in ("with-pyarrow", "without-pyarrow")
    ]
    assert shown[0] == shown[1]
    assert "masked Int64" in shown[0]


def test_fixed_width_columns_are_not_copied(harness: Any) -> None:
    values = []

    def keep(series):
        values.append(series.to_numpy())
        return series

    function = udf(keep, result_type="double", func_type="pandas")
    batch = batch_of({"a": ("double", [1.0, 2.0])})
    address = np.asarray(batch.columns[0]).__array_interface__["data"]
    from conftest import reference

    prepared = harness.runtime.prepare(
        {
            "calls": [{"function": reference(function), "arguments": [("column", 0)]}],
            "outputs": [("x", ("call", 0))],
            "input": batch.schema,
        }
    )
    prepared.call(batch)
    assert values[0].__array_interface__["data"] == address
    assert not values[0].flags.writeable


@pytest.mark.parametrize(
    "operation",
    [
        lambda a: a.interpolate(),
        lambda a: a.rolling(2).mean(),
        lambda a: a.ewm(span=2).mean(),
        lambda a: a.expanding().sum(),
        lambda a: a.groupby(a > 2).transform("sum"),
        lambda a: a.groupby(a).rank(),
        lambda a: a.rank(),
        lambda a: a.sort_values(),
        lambda a: a.cumsum(),
        lambda a: a.diff(),
        lambda a: a.shift(),
        lambda a: a.fillna(0),
        lambda a: a.ffill(),
        lambda a: a.where(a > 2, 0),
        lambda a: a.clip(1, 2),
        lambda a: a.replace(1, 7),
        lambda a: a.map({1: 5, 2: 6}),
        lambda a: a.apply(lambda value: value + 1),
        lambda a: a.isin([1, 2]).astype(float),
        lambda a: a.duplicated().astype(float),
        lambda a: pd.cut(a, [0, 2, 10], labels=False),
        lambda a: pd.qcut(a.rank(method="first"), 2, labels=False),
        lambda a: pd.Series(np.searchsorted(np.array([1, 2]), a)),
        lambda a: pd.Series(np.interp(a, [0, 10], [0, 1])),
        lambda a: a.to_frame("x").merge(pd.DataFrame({"x": [1, 2, 3, 4], "y": [1.0, 2.0, 3.0, 4.0]}), on="x")["y"],
        lambda a: a.reset_index(drop=True).reindex([3, 2, 1, 0]),
        lambda a: a.sample(frac=1.0),
    ],
)
@pytest.mark.parametrize("kind", ["double", "bigint"])
def test_ordinary_work_needs_no_writable_memory(harness: Any, operation: Any, kind: str) -> None:
    function = udf(operation, result_type="double", func_type="pandas")
    values = [4, 1, 3, 2]
    expected = operation(pd.Series(values, dtype="int64" if kind == "bigint" else "float64")).tolist()
    result = harness.scalar(function, (kind, values)).to_pylist()
    assert sorted(map(str, result)) == sorted("None" if value != value else str(float(value)) for value in expected)


def test_writing_to_a_column_says_what_to_do(harness: Any) -> None:
    def write(series):
        series.to_numpy()[0] = 1
        return series

    record = harness.error(harness.scalar, udf(write, result_type="double", func_type="pandas"), ("double", [1.0]))
    assert record["code"] == "function_raised"
    assert ".copy()" in record["hint"]


def test_values_outlive_the_batch(harness: Any) -> None:
    kept = []

    def keep(series):
        kept.append(series)
        return series * 2

    function = udf(keep, result_type="bigint", func_type="pandas")
    for start in range(50):
        harness.scalar(function, ("bigint", list(range(start, start + 1000))))
    assert [series.sum() for series in kept] == [sum(range(s, s + 1000)) for s in range(50)]


def pandas_result(harness: Any, result: Any, declared: str, rows: int = 3) -> Any:
    function = udf(lambda series: result, result_type=declared, func_type="pandas")
    return harness.scalar(function, ("bigint", list(range(rows))))


NAT = "NaT"
RESULTS = [
    ([1.0, math.nan, 3.0], "float64", "double", [1.0, None, 3.0]),
    ([1.0, math.nan, 3.0], "float64", "bigint", [1, None, 3]),
    ([1.0, math.nan, 3.0], "float32", "double", [1.0, None, 3.0]),
    ([0.1, 0.2, 0.3], "float64", "float", [np.float32(0.1).item(), np.float32(0.2).item(), np.float32(0.3).item()]),
    ([1, 2, 3], "int64", "tinyint", [1, 2, 3]),
    ([1, 2, 3], "int8", "bigint", [1, 2, 3]),
    ([1, 2, 3], "int64", "double", [1.0, 2.0, 3.0]),
    ([1, None, 3], "Int64", "bigint", [1, None, 3]),
    ([2**62 + 1, None, 3], "Int64", "bigint", [2**62 + 1, None, 3]),
    ([1, None, 3], "UInt8", "int", [1, None, 3]),
    ([1.5, None, 3.0], "Float64", "double", [1.5, None, 3.0]),
    ([True, None, False], "boolean", "boolean", [True, None, False]),
    ([True, True, False], "bool", "boolean", [True, True, False]),
    (["a", None, "c"], "object", "string", ["a", None, "c"]),
    (["a", math.nan, "c"], "object", "string", ["a", None, "c"]),
    (["a", None, "c"], "string", "string", ["a", None, "c"]),
    (["a", None, "c"], "category", "string", ["a", None, "c"]),
    ([2**62 + 1, None, 3], "category", "bigint", [2**62 + 1, None, 3]),
    (["2024-02-29", NAT, "2024-03-01"], "datetime64[ns]", "date", [DAY, None, datetime.date(2024, 3, 1)]),
    (["2024-02-29", NAT, NAT], "datetime64[ns]", "timestamp(3)", [datetime.datetime(2024, 2, 29), None, None]),
    ([1, NAT, 3], "timedelta64[ns]", "duration(ns)", None),
    ([[1], [2, 3], None], "object", "array<bigint>", [[1], [2, 3], None]),
    ([{"a": 1}, None, {"a": 2}], "object", "row<a bigint>", [{"a": 1}, None, {"a": 2}]),
    ([Decimal("1.5"), None, Decimal("2")], "object", "decimal(4, 1)", [Decimal("1.5"), None, Decimal("2.0")]),
    ([True, None, False], "object", "boolean", [True, None, False]),
    ([1, None, 3], "object", "bigint", [1, None, 3]),
    ([1.0, math.nan, 3.0], "Sparse[float64]", "double", [1.0, None, 3.0]),
]


@pytest.mark.parametrize(("values", "dtype", "declared", "expected"), RESULTS)
@pytest.mark.parametrize("shape", ["series", "array", "shuffled index"])
def test_results(
    harness: Any, values: list[Any], dtype: str, declared: str, expected: list[Any] | None, shape: str
) -> None:
    series = pd.Series(values, dtype=dtype)
    if shape == "array":
        result = series.array
    else:
        result = series if shape == "series" else series.set_axis([7, 7, "x"])
    column = pandas_result(harness, result, declared)
    assert str(column.type) == declared
    if expected is not None:
        assert column.to_pylist() == expected
    assert column.null_count == sum(pd.isna(series))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.array([1, 2, 3], dtype="int16"), [1, 2, 3]),
        (np.array([1, 2, 3], dtype=">i4"), [1, 2, 3]),
        (np.arange(6)[::2], [0, 2, 4]),
        (np.arange(3)[::-1], [2, 1, 0]),
        (pd.Index([1, 2, 3]), [1, 2, 3]),
        (pd.RangeIndex(3), [0, 1, 2]),
        ([1, None, np.int64(3)], [1, None, 3]),
        ((1, 2, 3), [1, 2, 3]),
    ],
)
def test_results_that_are_no_series(harness: Any, result: Any, expected: list[Any]) -> None:
    assert pandas_result(harness, result, "bigint").to_pylist() == expected


def test_time_zones_of_results(harness: Any) -> None:
    zoned = pd.Series(pd.to_datetime(["2024-02-29T12:00"] * 3)).dt.tz_localize("Europe/Berlin")
    noon = datetime.datetime(2024, 2, 29, 11, tzinfo=UTC)
    assert pandas_result(harness, zoned, "timestamp_ltz(6)").to_pylist() == [noon] * 3
    zoned = zoned.where([True, False, True])
    assert pandas_result(harness, zoned, "timestamp_ltz(6)").to_pylist() == [noon, None, noon]
    record = harness.error(pandas_result, harness, zoned, "timestamp(6)")
    assert record["code"] == "result_type"
    assert "time zone" in record["message"]


def test_arrow_backed_results(harness: Any) -> None:
    pytest.importorskip("pyarrow")
    strings = pd.Series(["a", None, "c"], dtype="string[pyarrow]")
    assert pandas_result(harness, strings, "string").to_pylist() == ["a", None, "c"]
    if not BEFORE_2:
        import pyarrow as pa

        numbers = pd.Series([1, None, 3], dtype=pd.ArrowDtype(pa.int32()))
        assert pandas_result(harness, numbers, "bigint").to_pylist() == [1, None, 3]
        assert pandas_result(harness, pd.concat([numbers[:1], numbers[1:]]), "double").to_pylist() == [1.0, None, 3.0]


def test_default_strings_of_this_pandas(harness: Any) -> None:
    """Since version 3, pandas infers a string dtype of its own."""
    assert pandas_result(harness, pd.Series(["a", None, "c"]), "string").to_pylist() == ["a", None, "c"]
    assert pandas_result(harness, pd.Series(["a", "b", "c"]).str.upper(), "string").to_pylist() == ["A", "B", "C"]


def test_frames_for_rows(harness: Any) -> None:
    frame = pd.DataFrame({"b": ["x", None, "z"], "a": [1, 2, 3]})
    assert pandas_result(harness, frame, "row<a bigint, b string>").to_pylist() == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": None},
        {"a": 3, "b": "z"},
    ]
    assert harness.error(pandas_result, harness, frame, "row<a bigint>")["code"] == "result_columns"


@pytest.mark.parametrize(
    ("result", "declared", "says"),
    [
        (1.5, "double", "returned a `float`"),
        (None, "double", "returned a `NoneType`"),
        ("abc", "string", "returned a `str`"),
        (np.float64(1), "double", "returned a `float64`"),
        ({"a": 1}, "double", "returned a `dict`"),
        (np.zeros((3, 1)), "double", "2 dimensions"),
        (pd.DataFrame({"a": [1, 2, 3]}), "bigint", "returned a `DataFrame`"),
        (pd.Series([1.5, 2.0, 3.0]), "bigint", "row 0"),
        (pd.Series([1, 2, 300]), "tinyint", "row 2"),
        (pd.Series(["1", "2", "x"], dtype=object), "bigint", "row 0"),
        (pd.Series([1, 2, 3]), "string", "string"),
        (pd.Series([1, 2, 3]), "date", "date"),
        (pd.Series([1 + 2j] * 3), "double", "double"),
        (pd.Series(pd.period_range("2024-01", periods=3, freq="D")), "date", "date"),
        (pd.Series([object()] * 3), "string", "row 0"),
        (iter([1, 2, 3]), "bigint", "iterator"),
    ],
)
def test_results_of_the_wrong_type(harness: Any, result: Any, declared: str, says: str) -> None:
    record = harness.error(pandas_result, harness, result, declared)
    assert record["code"] == "result_type"
    assert says in record["message"]
    assert record["hint"]


@pytest.mark.parametrize("result", [pd.Series([1, 2]), [1, 2, 3, 4], np.array([]), pd.Series([], dtype="Int64")])
def test_results_of_the_wrong_length(harness: Any, result: Any) -> None:
    record = harness.error(pandas_result, harness, result, "bigint")
    assert record["code"] == "result_length"
    assert f"{len(result)} values for 3 rows" in record["message"]
    assert "map_function" in record["hint"]


def test_nan_is_null_and_may_not_be(harness: Any) -> None:
    for series in (pd.Series([1.0, math.nan, 3.0]), pd.Series([1.0, None, 3.0], dtype="Float64")):
        record = harness.error(pandas_result, harness, series, "double not null")
        assert record["code"] == "result_null"
        assert "row 1" in record["message"]


def test_exceptions_have_no_row(harness: Any) -> None:
    def missing(series):
        return series["no such label"]

    record = harness.error(harness.scalar, udf(missing, result_type="bigint", func_type="pandas"), ("bigint", [1]))
    assert record["code"] == "function_raised"
    assert record["exception"]["type"] == "KeyError"
    assert record["exception"]["row"] is None
    assert record["exception"]["frames"][0]["source"] == 'return series["no such label"]'


def test_columns_that_pandas_cannot_hold(harness: Any) -> None:
    function = udf(lambda series: series, result_type="timestamp(6)", func_type="pandas")
    far = datetime.datetime(9999, 1, 1)
    if BEFORE_2:
        record = harness.error(harness.scalar, function, ("timestamp(6)", [far]))
        assert record["code"] == "unsupported_type"
        assert "column `a`" in record["message"]
    else:
        assert harness.scalar(function, ("timestamp(6)", [far])).to_pylist() == [far]


def test_batches_do_not_share_an_index(harness: Any) -> None:
    names = []

    def rename(series):
        names.append(series.index.name)
        series.index.name = "changed"
        return series

    for _ in range(2):
        harness.scalar(udf(rename, result_type="bigint", func_type="pandas"), ("bigint", [1]))
    assert names == [None, None]


def test_two_columns(harness: Any) -> None:
    add = udf(lambda a, b: a + b, result_type="bigint", func_type="pandas")
    result = harness.scalar(add, ("bigint", [1, None, 2**60 + 1]), ("bigint", [10, 20, 0]))
    assert result.to_pylist() == [11, None, 2**60 + 1]
