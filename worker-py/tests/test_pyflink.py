"""Functions as PyFlink's documentation writes them, with nothing changed but the import line."""

from __future__ import annotations

import functools
from typing import Any

import pytest

# from pyflink.common import Row
# from pyflink.table import DataTypes
# from pyflink.table.udf import ScalarFunction, udf
from pillion import DataTypes, Row, ScalarFunction, udf


class HashCode(ScalarFunction):
    """A function with parameters of its own."""

    def __init__(self) -> None:
        self.factor = 12

    def eval(self, s):
        return len(s) * self.factor


hash_code = udf(HashCode(), result_type=DataTypes.BIGINT())


class Predict(ScalarFunction):
    """A function that loads resources."""

    def open(self, function_context) -> None:
        self.model = {1: "one", 2: "two", "default": function_context.get_job_parameter("no_such_parameter", "many")}

    def eval(self, x):
        return self.model.get(x, self.model["default"])


predict = udf(Predict(), result_type=DataTypes.STRING())


@udf(result_type=DataTypes.BIGINT())
def add_one(i, j):
    return i + j


class CallableAdd:
    """A callable object."""

    def __call__(self, i, j):
        return i + j


def partial_add(i, j, k):
    return i + j + k


@udf(input_types=[DataTypes.INT(), DataTypes.INT()], result_type=DataTypes.BIGINT(nullable=False))
def declared(i, j):
    return i + j


@pytest.mark.parametrize(
    "add",
    [
        add_one,
        declared,
        udf(lambda i, j: i + j, result_type=DataTypes.BIGINT()),
        udf(lambda i, j: i + j, [DataTypes.BIGINT(), DataTypes.BIGINT()], DataTypes.BIGINT()),
        udf(CallableAdd(), result_type=DataTypes.BIGINT()),
        udf(functools.partial(partial_add, k=0), result_type=DataTypes.BIGINT()),
    ],
)
def test_ways_to_add(harness: Any, add: Any) -> None:
    assert harness.scalar(add, ("bigint", [1, 2]), ("bigint", [10, 20])).to_pylist() == [11, 22]


def test_classes(harness: Any) -> None:
    assert harness.scalar(hash_code, ("string", ["a", "bc"])).to_pylist() == [12, 24]
    assert harness.scalar(predict, ("bigint", [1, 2, 3])).to_pylist() == ["one", "two", "many"]


@udf(
    result_type=DataTypes.ROW(
        [
            DataTypes.FIELD("id", DataTypes.BIGINT()),
            DataTypes.FIELD("data", DataTypes.STRING()),
        ]
    )
)
def rows(r: Row) -> Row:
    return Row(r.id * 10, r[1] * 2)


COLUMNS = {"id": ("bigint", [1, 2]), "data": ("string", ["Hi", "Hello"])}
EXPECTED = {"id": [10, 20], "data": ["HiHi", "HelloHello"]}


def test_table_map(harness: Any) -> None:
    assert harness.map(rows, COLUMNS) == EXPECTED


def test_vectorized(harness: Any) -> None:
    pd = pytest.importorskip("pandas")

    @udf(result_type=DataTypes.BIGINT(), func_type="pandas")
    def add(i, j):
        return i + j

    @udf(
        result_type=DataTypes.ROW(
            [DataTypes.FIELD("id", DataTypes.BIGINT()), DataTypes.FIELD("data", DataTypes.STRING())]
        ),
        func_type="pandas",
    )
    def frames(data):
        return pd.concat([data.id * 10, data.data * 2], axis=1)

    assert harness.scalar(add, ("bigint", [1, 2]), ("bigint", [10, 20])).to_pylist() == [11, 22]
    assert harness.map(frames, COLUMNS) == EXPECTED
