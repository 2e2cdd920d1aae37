"""A stateful function made ready for one session: checked against its input, then called bundle by bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pillion._native import Batch, Type, schema_to_ipc
from pillion.bundle import Bundle, Effects, timers_batch
from pillion.convert_rows import to_values
from pillion.errors import PillionError
from pillion.functions import OutputTag
from pillion.loading import LoadedFunction
from pillion.plan import FAIL, SIDE, SKIP
from pillion.row import make_rows
from pillion.stateful.adapters import CO, KEYED, calls_of
from pillion.stateful.context import Context, TimerService
from pillion.stateful.declare import StatefulFunction
from pillion.stateful.failing import RowFailures, check_on_error, error_outputs
from pillion.stateful.outputs import ROW, Fields, Output, Outputs
from pillion.stateful.rows import RowEngine
from pillion.stateful.store import Store
from pillion.types import to_type


class Engine(Protocol):
    """How a kind of function runs a bundle."""

    spaced: bool
    """Whether it keeps state by window."""
    writes: list[tuple[str, Batch]]
    timers: Batch | None
    """What it gives as columns; the rest is left in the cells and the timer service."""

    def run(self, bundle: Bundle) -> int:
        """Run it. Returns the ns in user code."""


class PreparedProcess:
    """A stateful function and its input's types. Made by :meth:`pillion._runtime.Runtime.prepare`."""

    kind = "process"

    def __init__(
        self,
        loaded: LoadedFunction,
        inputs: Sequence[Fields | Output],
        keys: Fields | None = None,
        *,
        result_type: object = None,
        name: str = "",
        on_error: int = FAIL,
    ) -> None:
        """`keys` are the key columns; empty for a session without a key, None if nothing is known about it. `on_error`
        says what becomes of a row that raises: `FAIL`, `SKIP` or `SIDE`.
        """
        label, function = loaded.label, loaded.declared
        if not isinstance(function, StatefulFunction):
            raise PillionError("plan_invalid", f"`{label}` is no stateful function", function=label)
        self.name = name or label
        self.metrics = [loaded.metrics]
        """As in :class:`pillion.plan.PreparedPlan`."""
        self._function, self._label = function, label
        elements = [one if isinstance(one, Output) else Output(one, ROW) for one in inputs]
        _check_plan(function, label, elements, keys)
        check_on_error(function, label, on_error)
        loaded.open()
        self.store = _store_of(function).extended()
        self._service = TimerService(self.store.cursor)
        self._context = Context(self.store, self._service)
        main = self._main(function, elements[0], result_type)
        self.main = main
        sides = [(tag, _side(function, tag, one, elements[0])) for tag, one in function.side_outputs]
        first_error, sides = len(sides), sides + (error_outputs(label, elements, sides) if on_error == SIDE else [])
        self.outputs = Outputs(label, main, sides)
        self._failures: RowFailures | None = None
        if on_error in (SKIP, SIDE):
            where = first_error if on_error == SIDE else None
            self._failures = RowFailures(label, loaded.metrics, self.outputs, where)
        self._engine = self._make_engine(elements)
        self.store.sealed = True
        self.output: Fields = main.fields
        self.side_outputs: list[tuple[str, Fields]] = [(tag.tag_id, one.fields) for tag, one in sides]
        self.cells = cells_of(self.store)
        self.timers = list(function.timers)
        self.functions = [describe(label, function, main, self.store, sides)]

    def call(self, bundle: Bundle) -> Effects:
        """Run the function on a bundle. If it raises, nothing of the bundle has happened."""
        store, service, outputs = self.store, self._service, self.outputs
        service.watermark, service.processing_time = bundle.watermark, bundle.processing_time
        service.timers.operations = {}
        outputs.begin()
        self._context._keys = _Keys(bundle)
        if self._failures is not None:
            bundle.fetch = self._failures.fetching(bundle.fetch)
        store.enter(bundle, self._engine.spaced)
        try:
            user_ns = self._engine.run(bundle)
            writes = self._engine.writes + store.writes(bundle)
            timers = self._engine.timers or timers_batch(service.timers.operations)
            return Effects(outputs.collect(), writes, timers, user_ns)
        except PillionError as exc:
            exc.function = exc.function or self._label
            raise
        finally:
            store.leave()
            outputs.begin()

    def _main(self, function: StatefulFunction, element: Output, result_type: object) -> Output:
        if result_type is not None:
            return Output.of(result_type)
        if function.output is not None:
            return function.output
        if function.form in ("filter", "reduce"):
            return element
        if function.form == "window" and function.target.reduce is not None and function.target.process is None:
            return element
        raise no_output(function, self._label)

    def _make_engine(self, elements: list[Output]) -> Engine:
        function = self._function
        if function.form == "vectorized":
            from pillion.stateful.vectorized import VectorizedEngine

            return VectorizedEngine(self._label, function.target, function.func_type, self._context, self.outputs)
        if function.form == "window":
            from pillion.windows.engine import WindowEngine

            metrics = self.metrics[0].group
            return WindowEngine(self._label, function.target, self._context, elements, self.outputs, metrics)
        calls = calls_of(function.form, function.target, self.store, elements[0])
        return RowEngine(self._label, calls, self._context, elements, self.outputs, self._failures)


class _Keys:
    """The keys of a bundle as Python values, converted when the first is asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._values: list[Any] | None = None

    def __call__(self) -> list[Any]:
        if self._values is None:
            keys = self._bundle.keys
            if keys.num_columns == 1:
                self._values = to_values("key", keys.columns[0])
            else:
                self._values = list(make_rows(tuple(keys.names), [to_values("key", one) for one in keys.columns]))
        return self._values


def _store_of(function: StatefulFunction) -> Store:
    if function.store is None:
        raise PillionError("invariant_broken", f"`{function.name}` is not open")
    return function.store


def _side(function: StatefulFunction, tag: OutputTag, declared: Output, element: Output) -> Output:
    """The columns of a side output: of late elements, those of the input, unless its tag says others."""
    late = getattr(function.target, "late", None)
    return element if function.form == "window" and tag == late and tag.type_info is None else declared


def cells_of(store: Store) -> list[dict[str, Any]]:
    """The declared cells as plain data."""
    return [cell.spec.as_dict() for cell in store.cells.values()]


def no_output(function: StatefulFunction, label: str) -> PillionError:
    """The error for a function that does not say what it gives."""
    return PillionError(
        "declaration_invalid",
        f"`{function.name}` does not say the columns of its output",
        hint='declare them, for example `@process(output={"user": "string", "count": "bigint"})`',
        function=label,
    )


def _check_plan(function: StatefulFunction, label: str, inputs: Sequence[Output], keys: Fields | None) -> None:
    wanted = 2 if function.form in CO else 1
    most = 2 if wanted == 2 or function.form in ("broadcast", "keyed_broadcast") else 1
    if not wanted <= len(inputs) <= most:
        takes = str(wanted) if wanted == most else f"{wanted} or {most}"
        raise PillionError(
            "plan_invalid", f"`{label}` takes {takes} inputs, but the plan has {len(inputs)}", function=label
        )
    if keys is not None and not keys and function.form in KEYED:
        raise PillionError(
            "plan_invalid",
            f"`{label}` is a keyed function, but the session has no key",
            hint="name the key columns, for example `--key-by user`",
            function=label,
        )


def describe(
    label: str,
    function: StatefulFunction,
    output: Output | None,
    store: Store | None,
    sides: list[tuple[OutputTag, Output]] | None = None,
) -> dict[str, Any]:
    """The description that travels to the host (`FunctionDescription` in `proto/pillion/v1/function.proto`). Before the
    input is known some cells and columns are not.
    """
    fields: list[tuple[str, Type]] = [] if output is None else output.fields
    if sides is None:
        sides = [(tag, _side(function, tag, one, Output([], ROW))) for tag, one in function.side_outputs]
    return {
        "name": label,
        "kind": "process",
        "func_type": function.func_type,
        "parameters": [],
        "result_schema": schema_to_ipc(fields) if fields else b"",
        "result_type": str(to_type(dict(fields))) if fields else "",
        "deterministic": function.deterministic,
        "doc": function.__doc__ or "",
        "cells": [] if store is None else cells_of(store),
        "timers": list(function.timers),
        "side_outputs": [(tag.tag_id, one.fields) for tag, one in sides],
    }
