"""General functions: plain Python values, and no package needed."""

from __future__ import annotations

import dataclasses
import datetime
import math
from decimal import Decimal
from typing import Any

import pytest
from conftest import batch_of

from pillion import Row, udf

UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("boolean", True),
        ("tinyint", -128),
        ("bigint", 2**63 - 1),
        ("uint64", 2**64 - 1),
        ("float", 0.5),
        ("double", 0.1),
        ("decimal(38, 18)", Decimal("12345678901234567890.123456789012345678")),
        ("string", "häßlich \N{PILE OF POO}"),
        ("large_string", "a"),
        ("bytes", b"\x00\xff"),
        ("date", datetime.date(1969, 12, 31)),
        ("time(6)", datetime.time(23, 59, 59, 999999)),
        ("timestamp(6)", datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)),
        ("timestamp(3, 'UTC')", datetime.datetime(2024, 2, 29, 1, 2, 3, 4000, tzinfo=UTC)),
        ("duration(us)", datetime.timedelta(days=-1, microseconds=1)),
        ("array<bigint>", [1, None, 3]),
        ("array<array<string>>", [["a"], [], None]),
        ("map<string, int>", {"a": 1, "b": None}),
        ("row<a bigint, b row<c string>>", Row(a=1, b=Row(c="x"))),
        ("array<row<a bigint>>", [Row(a=1), None]),
        ("map<string, row<a bigint>>", {"k": Row(a=1)}),
    ],
)
def test_values_come_and_go(harness: Any, kind: str, value: Any) -> None:
    seen = []

    def keep(given):
        seen.append(given)
        return given

    given = _plain(value)
    result = harness.scalar(udf(keep, result_type=kind), (kind, [given, None]))
    assert seen == [value, None]
    assert result.to_pylist() == [given, None]


def _plain(value: Any) -> Any:
    """`value` with dicts in place of rows."""
    if isinstance(value, Row):
        return {name: _plain(field) for name, field in value.as_dict().items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def test_structs_are_read_by_name(harness: Any) -> None:
    function = udf(lambda p: p.x + p["y"] + p[0], result_type="bigint")
    assert harness.scalar(function, ("row<x bigint, y bigint>", [{"x": 1, "y": 10}])).to_pylist() == [12]


@dataclasses.dataclass
class Point:
    """A dataclass as a struct."""

    y: int
    x: int


@pytest.mark.parametrize("value", [Row(1, 2), Row(y=2, x=1), (1, 2), {"y": 2, "x": 1}, Point(y=2, x=1)])
def test_structs_are_returned_in_many_ways(harness: Any, value: Any) -> None:
    function = udf(lambda a: value, result_type="row<x bigint, y bigint>")
    assert harness.scalar(function, ("bigint", [1])).to_pylist() == [{"x": 1, "y": 2}]


@pytest.mark.parametrize("value", [(1,), {"x": 1}, {"x": 1, "y": 2, "z": 3}, 7, Row(x=1, z=2)])
def test_structs_of_the_wrong_shape(harness: Any, value: Any) -> None:
    function = udf(lambda a: value, result_type="row<x bigint, y bigint>")
    assert harness.error(harness.scalar, function, ("bigint", [1]))["code"] == "result_type"


def test_without_columns(harness: Any) -> None:
    numbers = iter(range(10))
    assert harness.scalar(udf(lambda: next(numbers), result_type="bigint")).to_pylist() == [0, 1, 2]


def test_an_empty_batch_calls_nothing(harness: Any) -> None:
    def fail(a: int) -> int:
        raise AssertionError

    assert harness.scalar(fail, ("bigint", [])).to_pylist() == []


def test_nan_is_a_value(harness: Any) -> None:
    result = harness.scalar(udf(lambda a: math.nan, result_type="double"), ("bigint", [1]))
    assert result.null_count == 0
    assert math.isnan(result.to_pylist()[0])


@pytest.mark.parametrize(
    ("declared", "returned"),
    [
        ("bigint", "a"),
        ("bigint", 1.5),
        ("tinyint", 1000),
        ("bigint", 2**63),
        ("string", 1),
        ("string", b"a"),
        ("date", "2024-01-01"),
        ("array<bigint>", 1),
        ("array<bigint>", ["a"]),
        ("decimal(4, 1)", Decimal("10000.5")),
        ("bigint", object()),
        ("string", "\ud800"),
    ],
)
def test_results_of_the_wrong_type(harness: Any, declared: str, returned: Any) -> None:
    function = udf(lambda a: returned if a == 3 else None, result_type=declared)
    record = harness.error(harness.scalar, function, ("bigint", [1, 2, 3]))
    assert record["code"] == "result_type"
    assert "row 2" in record["message"]
    assert declared in record["message"]
    assert record["hint"]
    assert record["exception"] is None


def test_null_where_none_is_allowed(harness: Any) -> None:
    function = udf(lambda a: None if a == 2 else a, result_type="bigint not null")
    record = harness.error(harness.scalar, function, ("bigint", [1, 2]))
    assert record["code"] == "result_null"
    assert "null in row 1" in record["message"]
    assert harness.scalar(function, ("bigint", [1, 3])).to_pylist() == [1, 3]


def test_the_failing_row_is_shown(harness: Any) -> None:
    @udf(result_type="double")
    def divide(amount, count):
        return amount / count

    record = harness.error(harness.scalar, divide, ("bigint", [1, 2, 3]), ("bigint", [1, 0, 1]))
    assert record["code"] == "function_raised"
    assert record["message"].endswith("raised ZeroDivisionError: division by zero in row 1")
    assert record["exception"]["row"] == {"index": 1, "values": [("amount", "2"), ("count", "0")]}
    assert [frame["function"] for frame in record["exception"]["frames"]] == ["divide"]


def test_stop_iteration_does_not_cut_the_result(harness: Any) -> None:
    function = udf(lambda a: next(iter([])), result_type="bigint")
    record = harness.error(harness.scalar, function, ("bigint", [1, 2]))
    assert (record["code"], record["exception"]["type"]) == ("function_raised", "StopIteration")


def test_failing_rows_become_null_on_request(harness: Any) -> None:
    function = udf(lambda a: 10 // a, result_type="bigint not null")
    result = harness.scalar(function, ("bigint", [1, 0, 5]), on_error=2)
    assert result.to_pylist() == [10, None, 2]
    assert result.type.nullable


def test_leaving_is_no_failure_of_one_row(harness: Any) -> None:
    def leave(a: int) -> int:
        raise SystemExit(3)

    record = harness.error(harness.scalar, leave, ("bigint", [1]), on_error=2)
    assert (record["code"], record["exception"]["type"]) == ("function_raised", "SystemExit")


def test_null_on_error_is_for_rows(harness: Any) -> None:
    record = harness.error(
        harness.scalar, udf(lambda a: a, result_type="bigint", func_type="pandas"), ("bigint", [1]), on_error=2
    )
    assert record["code"] == "plan_invalid"


def test_values_of_numpy(harness: Any) -> None:
    np = pytest.importorskip("numpy")
    for value, kind, expected in [
        (np.int64(7), "bigint", 7),
        (np.float32(0.5), "double", 0.5),
        (np.bool_(True), "boolean", True),
        (np.str_("a"), "string", "a"),
        (np.array([1, 2]), "array<bigint>", [1, 2]),
        ([np.int32(1), None], "array<bigint>", [1, None]),
    ]:
        result = harness.scalar(udf(lambda a, v=value: v, result_type=kind), ("bigint", [1]))
        assert result.to_pylist() == [expected]


def test_chained_calls_and_shared_parts(harness: Any) -> None:
    from conftest import reference

    calls = []

    def double(a: int) -> int:
        calls.append(a)
        return 2 * a

    def add(a: int, b: int) -> int:
        return a + b

    batch = batch_of({"a": ("bigint", [1, 2]), "b": ("bigint", [10, 20])})
    prepared = harness.runtime.prepare(
        {
            "calls": [
                {"function": reference(double), "arguments": [("column", 0)]},
                {"function": reference(add), "arguments": [("call", 0), ("column", 1)]},
                {"function": reference(add), "arguments": [("call", 0), ("call", 1)]},
            ],
            "outputs": [("sum", ("call", 2)), ("b", ("column", 1)), ("doubled", ("call", 0))],
            "input": batch.schema,
            "session_name": "chain",
        }
    )
    output, _ = prepared.call(batch)
    assert [column.to_pylist() for column in output.columns] == [[14, 28], [10, 20], [2, 4]]
    assert output.names == ["sum", "b", "doubled"]
    assert calls == [1, 2]
    assert (prepared.name, len(prepared.functions)) == ("chain", 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outputs": [("x", ("call", 1))]}, "there is no call 1"),
        ({"outputs": [("x", ("column", 5))]}, "there is no column 5"),
        ({"outputs": [("x", ("field", 0))]}, "not `field`"),
        ({"outputs": []}, "must name its output column"),
        ({"calls": []}, "there is no call 0"),
        ({"calls": [], "outputs": []}, "exactly one call"),
    ],
)
def test_inconsistent_plans(harness: Any, change: dict[str, Any], says: str) -> None:
    from conftest import reference

    def identity(a: int) -> int:
        return a

    plan = {
        "calls": [{"function": reference(identity), "arguments": [("column", 0)]}],
        "outputs": [("x", ("call", 0))],
        "input": batch_of({"a": ("bigint", [])}).schema,
    }
    record = harness.error(harness.runtime.prepare, {**plan, **change})
    assert record["code"] == "plan_invalid"
    assert says in record["message"]


def test_environment(harness: Any) -> None:
    environment = harness.runtime.environment()
    assert environment["python_version"].startswith("3.")
    assert environment["executable"]
    try:
        import numpy
    except ImportError:
        assert "numpy" not in environment["packages"]
    else:
        assert environment["packages"]["numpy"] == numpy.__version__
