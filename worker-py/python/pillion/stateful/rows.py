"""Functions that are called row by row, and timer by timer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter_ns
from typing import Any, NoReturn

from pillion._native import Batch
from pillion.bundle import EVENT, Bundle
from pillion.errors import PillionError, failed_row, raised, safe_repr
from pillion.functions import TimeDomain
from pillion.stateful.adapters import Call, Calls
from pillion.stateful.context import Context
from pillion.stateful.failing import RowFailures
from pillion.stateful.outputs import Output, Outputs

_DOMAINS = {True: TimeDomain.EVENT_TIME, False: TimeDomain.PROCESSING_TIME}


class RowEngine:
    """Runs the calls of a row-at-a-time function."""

    spaced = False

    def __init__(
        self,
        label: str,
        calls: Calls,
        context: Context,
        inputs: Sequence[Output],
        outputs: Outputs,
        failures: RowFailures | None = None,
    ) -> None:
        """With `failures`, rows that raise are theirs; without, they fail the bundle."""
        self._label = label
        self._failures = failures
        self._calls = calls
        self._context = context
        self._cursor = context._cursor
        self._inputs = inputs
        self._outputs = outputs
        self.writes: list[tuple[str, Batch]] = []
        self.timers: Batch | None = None

    def run(self, bundle: Bundle) -> int:
        """Call the function for the bundle's rows, then for its timers. The result is the ns in user code."""
        user_ns = 0
        if bundle.rows is not None and len(bundle.rows):
            user_ns += self._rows(bundle, bundle.rows)
        if bundle.timers is not None and len(bundle.timers):
            user_ns += self._timers(bundle, bundle.timers)
        return user_ns

    def _rows(self, bundle: Bundle, rows: Batch) -> int:
        call = self._calls.broadcast if bundle.broadcast else self._calls.inputs[bundle.input]
        if call is None:
            raise PillionError("plan_invalid", f"`{self._label}` takes no broadcast elements", function=self._label)
        values = self._inputs[bundle.input].read(self._label, rows)
        keys: Iterable[Any] = [None] * len(rows)
        stamps: Iterable[Any] = keys
        if bundle.key_index is not None:
            keys = bundle.key_index.to_pylist()
        if bundle.timestamps is not None:
            stamps = bundle.timestamps.to_pylist()
        outputs = self._outputs
        take = outputs.take if outputs.sides else outputs.values.extend
        if self._failures is not None:
            return self._one_by_one(self._failures, bundle, rows, zip(values, keys, stamps), call, take)
        context, cursor = self._context, self._cursor
        index, value = 0, None
        started = perf_counter_ns()
        try:
            for index, (value, k, stamp) in enumerate(zip(values, keys, stamps)):
                cursor.k = k
                context._stamp = stamp
                results = call(value, context)
                if results is not None:
                    take(results)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the function's
            self._raise_row(exc, rows, index)
        return perf_counter_ns() - started

    def _one_by_one(
        self,
        failures: RowFailures,
        bundle: Bundle,
        rows: Batch,
        each: Iterable[tuple[Any, Any, Any]],
        call: Call,
        take: Callable[[Iterable[Any]], None],
    ) -> int:
        """Call the function for rows that may fail alone."""
        context, cursor = self._context, self._cursor
        failures.enter(bundle, context._store, context.timer_service())
        started = perf_counter_ns()
        for index, (value, k, stamp) in enumerate(each):
            cursor.k = k
            context._stamp = stamp
            failures.begin()
            try:
                results = call(value, context)
                if results is not None:
                    take(results)
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the function's
                if not failures.take(index, exc):
                    self._raise_row(exc, rows, index)
        elapsed = perf_counter_ns() - started
        failures.leave(bundle, rows)
        return elapsed

    def _timers(self, bundle: Bundle, timers: Batch) -> int:
        on_timer = self._calls.on_timer
        if on_timer is None:
            return 0
        context, cursor, take = self._context, self._cursor, self._outputs.take
        keys, domains, names, _, stamps = (column.to_pylist() for column in timers.columns[:5])
        k, stamp, name = None, 0, ""
        started = perf_counter_ns()
        try:
            for k, domain, name, stamp in zip(keys, domains, names, stamps):
                cursor.k = k
                context._stamp = stamp
                context._domain = _DOMAINS[domain == EVENT]
                context.timer_name = name
                results = on_timer(stamp, context)
                if results is not None:
                    take(results)
        except BaseException as exc:  # noqa: BLE001
            self._raise_timer(exc, stamp, name)
        return perf_counter_ns() - started

    def _raise_row(self, exc: BaseException, rows: Batch, index: int) -> NoReturn:
        values = [column.slice(index, 1).to_pylist()[0] for column in rows.columns]
        row = failed_row(index, rows.names, values)
        if isinstance(exc, PillionError):
            exc.function, exc.row = exc.function or self._label, exc.row or row
            raise exc
        raise raised(self._label, exc, row=row) from exc

    def _raise_timer(self, exc: BaseException, stamp: int, name: str) -> NoReturn:
        if isinstance(exc, PillionError):
            exc.function = exc.function or self._label
            raise exc
        error = raised(self._label, exc)
        named = f" `{name}`" if name else ""
        error.message += f" in the timer{named} at {stamp} of the key {safe_repr(self._context.get_current_key())}"
        raise error from exc
