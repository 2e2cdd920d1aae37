"""Arrow functions."""

from __future__ import annotations

import decimal
from typing import Any

import pytest

from pillion import udf

pa = pytest.importorskip("pyarrow")
pc = pytest.importorskip("pyarrow.compute")

TYPES = [
    ("boolean", pa.bool_(), True),
    ("bigint", pa.int64(), 2**60 + 1),
    ("uint8", pa.uint8(), 1),
    ("double", pa.float64(), 0.1),
    ("decimal(10, 2)", pa.decimal128(10, 2), decimal.Decimal("1.50")),
    ("string", pa.string(), "ä"),
    ("large_string", pa.large_string(), "ä"),
    ("bytes", pa.binary(), b"a"),
    ("timestamp(3, 'Europe/Berlin')", pa.timestamp("ms", "Europe/Berlin"), None),
    ("array<bigint>", pa.list_(pa.int64()), [1, None]),
    ("row<a bigint, b string>", pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 1, "b": "x"}),
    ("map<string, int>", pa.map_(pa.string(), pa.int32()), {"k": 1}),
]


@pytest.mark.parametrize(("kind", "arrow", "value"), TYPES)
def test_types_and_values(harness: Any, kind: str, arrow: Any, value: Any) -> None:
    seen = []

    def keep(array):
        seen.append(array)
        return array

    function = udf(keep, result_type=kind, func_type="arrow")
    assert harness.scalar(function, (kind, [value, None, value])).to_pylist() == [value, None, value]
    assert isinstance(seen[0], pa.Array)
    assert seen[0].type == arrow
    seen[0].validate(full=True)


def test_memory_is_shared_and_outlives_the_batch(harness: Any) -> None:
    kept = []

    def keep(array):
        kept.append(array)
        return pc.add(array, 1)

    function = udf(keep, result_type="bigint", func_type="arrow")
    for start in range(50):
        result = harness.scalar(function, ("bigint", list(range(start, start + 100))))
        assert result.to_pylist() == list(range(start + 1, start + 101))
    assert [pc.sum(array).as_py() for array in kept] == [sum(range(s, s + 100)) for s in range(50)]


@pytest.mark.parametrize(
    ("result", "declared", "expected"),
    [
        (pa.array([1, None, 3], pa.int8()), "bigint", [1, None, 3]),
        (pa.array([1.0, None, 3.0]), "bigint", [1, None, 3]),
        (pa.chunked_array([[1], [2, 3]]), "bigint", [1, 2, 3]),
        (pa.chunked_array([["a", "b", "a"]]).dictionary_encode(), "string", ["a", "b", "a"]),
        (pa.array(["a", None, "c"], pa.large_string()), "string", ["a", None, "c"]),
        (pa.nulls(3), "double", [None, None, None]),
        (pa.array([1, 2, 3, 4, 5])[1:4], "bigint", [2, 3, 4]),
    ],
)
def test_results(harness: Any, result: Any, declared: str, expected: list[Any]) -> None:
    column = harness.scalar(udf(lambda a: result, result_type=declared, func_type="arrow"), ("bigint", [1, 2, 3]))
    assert column.to_pylist() == expected
    assert str(column.type) == declared


@pytest.mark.parametrize(
    ("result", "declared", "code", "says"),
    [
        (pa.array([1, 2]), "bigint", "result_length", "2 values for 3 rows"),
        (pa.scalar(1), "bigint", "result_type", "not a `pyarrow.Array`"),
        ([1, 2, 3], "bigint", "result_type", "returned a `list`"),
        (None, "bigint", "result_type", "returned a `NoneType`"),
        (pa.array(["a", "b", "c"]), "bigint", "result_type", "bigint"),
        (pa.array([1, 2, 1000]), "tinyint", "result_type", "row 2"),
        (pa.array([1.5, 2.0, 3.0]), "bigint", "result_type", "row 0"),
        (pa.array([1, None, 3]), "bigint not null", "result_null", "row 1"),
    ],
)
def test_wrong_results(harness: Any, result: Any, declared: str, code: str, says: str) -> None:
    function = udf(lambda a: result, result_type=declared, func_type="arrow")
    record = harness.error(harness.scalar, function, ("bigint", [1, 2, 3]))
    assert record["code"] == code
    assert says in record["message"]
    assert record["hint"]


def test_types_of_pyarrow_in_declarations(harness: Any) -> None:
    function = udf(lambda a: pc.cast(a, pa.float64()), [pa.int64()], pa.float64(), func_type="arrow")
    assert harness.scalar(function, ("int", [1, None])).to_pylist() == [1.0, None]


def test_exceptions(harness: Any) -> None:
    function = udf(lambda a: pc.divide(a, 0), result_type="bigint", func_type="arrow")
    record = harness.error(harness.scalar, function, ("bigint", [1]))
    assert record["code"] == "function_raised"
    assert record["exception"]["type"] == "pyarrow.lib.ArrowInvalid"
    assert record["exception"]["row"] is None
