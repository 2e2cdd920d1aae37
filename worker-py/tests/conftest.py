"""Fixtures: a runtime as the worker has one, fed with functions that tests define."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from pillion import PillionError
from pillion._native import Batch, Column, Type, schema_from_ipc
from pillion._runtime import Runtime

_FUNCTIONS = ModuleType("functions_of_tests")
sys.modules[_FUNCTIONS.__name__] = _FUNCTIONS
_NUMBERS = itertools.count()


def pyarrow_knows(text: str) -> bool:
    """Whether the installed pyarrow is new enough for this type."""
    import pyarrow as pa

    try:
        pa.DataType._import_from_c_capsule(Type.parse(text).__arrow_c_schema__())
    except pa.ArrowInvalid:
        return False
    return True


def reference(function: Any) -> dict[str, Any]:
    """`function` as a plan names it."""
    name = f"f{next(_NUMBERS)}"
    setattr(_FUNCTIONS, name, function)
    return {"module": _FUNCTIONS.__name__, "name": name}


def batch_of(columns: dict[str, tuple[str, list[Any]]]) -> Batch:
    """A batch from `{name: (type, values)}`."""
    made = [Column.from_pylist(values, Type.parse(kind), name) for name, (kind, values) in columns.items()]
    return Batch.from_columns(made, list(columns), len(made[0]) if made else 0)


def values_of(batch: Batch) -> dict[str, list[Any]]:
    """The values of a batch by column."""
    return {name: column.to_pylist() for name, column in zip(batch.names, batch.columns)}


class Harness:
    """Runs functions as a worker does."""

    def __init__(self) -> None:
        self.runtime = Runtime(allow_pickled_functions=False)

    def describe(self, function: Any, result_type: str = "") -> dict[str, Any]:
        """The description, with the result schema decoded to `[(name, type text)]`."""
        described = self.runtime.describe({**_referred(function), "result_type": result_type})
        schema = described["result_schema"]
        return {**described, "result_schema": [(n, str(t)) for n, t in schema_from_ipc(schema)] if schema else []}

    def scalar(self, function: Any, *columns: tuple[str, list[Any]], names: str = "abcdefgh", **plan: Any) -> Column:
        """The result of a scalar function over columns given as `(type, values)`."""
        batch = batch_of(dict(zip(names, columns)))
        referred = {**_referred(function), "result_type": plan.pop("result_type", "")}
        prepared = self.runtime.prepare(
            {
                "calls": [{"function": referred, "arguments": [("column", i) for i in range(len(columns))]}],
                "outputs": [("result", ("call", 0))],
                "input": batch.schema,
                **plan,
            }
        )
        if not columns:
            batch = batch_of({"unused": ("bigint", [1, 2, 3])})
        output, user_ns = prepared.call(batch)
        assert output.schema == prepared.output
        assert user_ns >= 0
        return output.columns[0]

    def map(self, function: Any, columns: dict[str, tuple[str, list[Any]]]) -> dict[str, list[Any]]:
        """The rows that a map function makes."""
        batch = batch_of(columns)
        call = {"function": _referred(function), "arguments": []}
        prepared = self.runtime.prepare({"calls": [call], "outputs": [], "input": batch.schema})
        output, _ = prepared.call(batch)
        assert output.schema == prepared.output
        return values_of(output)

    def error(self, action: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """The error record of what `action` raises."""
        try:
            action(*arguments, **keywords)
        except BaseException as exc:
            return self.runtime.error_record(exc)
        raise AssertionError("nothing was raised")


def _referred(function: Any) -> dict[str, Any]:
    return dict(function) if isinstance(function, dict) else reference(function)


@pytest.fixture
def harness() -> Iterator[Harness]:
    """A runtime of its own for each test."""
    harness = Harness()
    yield harness
    harness.runtime.close()


@pytest.fixture
def declaration_error() -> Any:
    """Runs an action that must raise `PillionError`, and returns it."""

    def run(action: Any) -> PillionError:
        with pytest.raises(PillionError) as caught:
            action()
        return caught.value

    return run
