"""Declarations: every kind of callable, in every way of decorating it, and what is refused."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from pillion import FunctionContext, PillionError, Row, ScalarFunction, UserDefinedFunction, map_function, udf


@udf
def bare(a: int) -> int:
    """Adds one."""
    return a + 1


@udf(result_type="bigint", name="shown", deterministic=False)
def full(a, b=2):
    return a + b


class Adder:
    """A callable object."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, value: int) -> int:
        return value + self.amount


class Scaler(ScalarFunction):
    """Multiplies."""

    opened = 0

    def open(self, function_context: FunctionContext) -> None:
        assert isinstance(function_context, FunctionContext)
        type(self).opened += 1
        self.factor = 3

    def eval(self, value: int) -> int:
        return value * self.factor

    def is_deterministic(self) -> bool:
        return False


class Named:
    """A callable object whose attributes are called like those of a declaration."""

    def __init__(self) -> None:
        self.name = self.kind = self.func_type = self.target = "mine"

    def __call__(self, value: int) -> int:
        return len(self.name) * value


def scale(factor: int, value: int) -> int:
    return factor * value


def test_a_declared_function_is_called_by_hand() -> None:
    assert bare(1) == 2
    assert full(1) == 3
    assert full(1, b=5) == 6
    assert bare.__name__ == "bare"
    assert bare.__doc__ == "Adds one."
    assert repr(full) == "<scalar function `shown`, func_type='general', result_type='bigint'>"


def test_a_scalar_function_is_opened_by_the_first_call_by_hand() -> None:
    Scaler.opened = 0
    scaled = udf(Scaler())
    assert [scaled(1), scaled(2)] == [3, 6]
    assert Scaler.opened == 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (bare, [2, 3]),
        (full, [3, 4]),
        (udf(lambda a: a * 10, result_type="bigint"), [10, 20]),
        (udf(Adder(5)), [6, 7]),
        (Adder(5), [6, 7]),
        (udf(Named()), [4, 8]),
        (udf(functools.partial(scale, 4)), [4, 8]),
        (udf(functools.partial(scale, value=4)), [4, 8]),
        (functools.partial(scale, 4), [4, 8]),
        (udf(Scaler), [3, 6]),
        (udf(Scaler()), [3, 6]),
        (Scaler, [3, 6]),
        (Scaler(), [3, 6]),
        (udf(math.factorial, result_type="bigint"), [1, 2]),
        (udf(abs, ["bigint"], "bigint"), [1, 2]),
        (udf(bare, result_type="int"), [2, 3]),
    ],
)
def test_every_kind_of_callable(harness: Any, function: Any, expected: list[int]) -> None:
    assert harness.scalar(function, ("bigint", [1, 2])).to_pylist() == expected


def test_deterministic(harness: Any) -> None:
    assert [harness.describe(f)["deterministic"] for f in (bare, full, Scaler, udf(Scaler, deterministic=True))] == [
        True,
        False,
        False,
        True,
    ]


def test_positional_order_is_that_of_pyflink() -> None:
    declared = udf(lambda a: a, ["int"], "bigint")
    assert str(declared.result_type) == "bigint"
    assert declared.input_types is not None
    assert [str(one) for one in declared.input_types] == ["int"]


def test_map_functions_are_called_by_hand() -> None:
    @map_function(result_type={"x": "bigint"})
    def double(row: Row) -> Row:
        return Row(x=row.x * 2)

    assert double(Row(x=2)).x == 4


async def coroutine(a: int) -> int:
    return a


async def async_generator(a: int):
    yield a


def generator(a: int):
    yield a


class AsyncCallable:
    """A callable object with an async `__call__`."""

    async def __call__(self, a: int) -> int:
        return a


@pytest.mark.parametrize(
    ("declare", "code", "says"),
    [
        (lambda: udf(coroutine), "declaration_invalid", "async"),
        (lambda: udf(async_generator), "declaration_invalid", "async"),
        (lambda: udf(functools.partial(coroutine, 1)), "declaration_invalid", "async"),
        (lambda: udf(AsyncCallable()), "declaration_invalid", "async"),
        (lambda: map_function(coroutine), "declaration_invalid", "async"),
        (lambda: udf(generator, result_type="bigint"), "declaration_invalid", "generator"),
        (lambda: udf(bare.function, func_type="polars"), "declaration_invalid", "func_type `polars`"),
        (lambda: udf(bare.function, result_type="bigin"), "declaration_invalid", "bigin"),
        (lambda: udf(7), "not_a_function", "a value of type `int`"),
        (lambda: udf(Adder), "not_a_function", "the class `Adder`"),
    ],
)
def test_refused_at_once(declare: Any, code: str, says: str) -> None:
    with pytest.raises(PillionError) as caught:
        declare()
    assert caught.value.code == code
    assert says in caught.value.message
    assert caught.value.hint


def test_a_generator_may_be_a_map_function() -> None:
    assert isinstance(map_function(generator, result_type={"x": "int"}), UserDefinedFunction)


def test_job_parameters_are_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRESHOLD", "7")
    context = FunctionContext("f")
    assert context.get_job_parameter("THRESHOLD", "1") == "7"
    assert context.get_job_parameter("NOT_SET_ANYWHERE", "1") == "1"
