"""Vectorized functions: the rows of a bundle in one call, with the state of its keys as columns."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

from pillion._native import Batch, Column
from pillion.bundle import (
    DELETE,
    EVENT,
    INT64,
    PROCESSING,
    SET,
    SPACE,
    TEXT,
    TIMER_FIELDS,
    UINT8,
    Bundle,
)
from pillion.errors import PillionError, raised
from pillion.functions import OutputTag
from pillion.stateful.columns import States, mismatch
from pillion.stateful.context import Context
from pillion.stateful.forms import Form, form_of
from pillion.stateful.outputs import PICKLED, ROW, Output, Outputs


class VectorizedEngine:
    """Runs a vectorized function."""

    spaced = False

    def __init__(self, label: str, target: Any, func_type: str, context: Context, outputs: Outputs) -> None:
        self._label, self._target = label, target
        self._form = form_of(label, func_type)
        self._context, self._outputs = context, outputs
        self.writes: list[tuple[str, Batch]] = []
        self.timers: Batch | None = None

    def run(self, bundle: Bundle) -> int:
        """Call the function for the rows, then for the timers."""
        context = VectorContext(bundle, self._form, self._context, self._outputs)
        user_ns = 0
        try:
            if bundle.rows is not None and len(bundle.rows):
                user_ns += self._call("process_batch", self._form.batch(bundle.rows), context)
            if bundle.timers is not None and len(bundle.timers):
                user_ns += self._call("on_timers", self._form.batch(_timer_columns(bundle.timers)), context)
            self.writes = context.state._writes
            self.timers = context._timers()
        finally:
            context.state._bundle = None
        return user_ns

    def _call(self, method: str, argument: Any, context: VectorContext) -> int:
        started = perf_counter_ns()
        try:
            result = getattr(self._target, method)(argument, context)
        except PillionError:
            raise
        except BaseException as exc:
            raise raised(self._label, exc) from exc
        elapsed = perf_counter_ns() - started
        if result is not None:
            context._send(0, self._outputs.main, result)
        return elapsed


def _timer_columns(timers: Batch) -> Batch:
    """What a function is shown of timers: whose, when, by which time, under which name."""
    return Batch.from_columns([timers.columns[i] for i in (0, 4, 1, 2)], ["key", "timestamp", "domain", "name"])


class VectorContext:
    """Given to vectorized functions: time, keys, state and timers as columns.

    `keys` are the distinct keys; `key_index` says for each row which of them is its; `timestamps` is its event time in
    ms. `state["cell"]` is aligned with `keys`. Cells, keys and timers are those of this call only.
    """

    def __init__(self, bundle: Bundle, form: Form, context: Context, outputs: Outputs) -> None:
        self._bundle, self._form, self._row_context, self._outputs = bundle, form, context, outputs
        self._set: list[tuple[Column, str, str, Column, int]] = []
        self.state = States(bundle, form, context._store)
        self.input = bundle.input
        """Which input the rows come from."""
        self.broadcast = bundle.broadcast
        """Whether the rows are broadcast elements."""

    @property
    def keys(self) -> Any:
        """The distinct keys."""
        return self._form.batch(self._bundle.keys)

    @property
    def key_index(self) -> Any:
        """For each row the position of its key in `keys`."""
        if self._bundle.key_index is None:
            raise PillionError("state_without_key", "`key_index` was asked for without a key")
        return self._form.column(self._bundle.key_index)

    @property
    def timestamps(self) -> Any:
        """For each row its event time in ms; null for a row without."""
        column = self._bundle.timestamps
        if column is None:
            rows = 0 if self._bundle.rows is None else len(self._bundle.rows)
            column = Column.repeat(None, rows, INT64.with_nullable(True))
        return self._form.column(column)

    def current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self._bundle.watermark

    def current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self._bundle.processing_time

    def get_broadcast_state(self, state_descriptor: Any) -> Any:
        """Broadcast state, as row-at-a-time functions see it."""
        return self._row_context.get_broadcast_state(state_descriptor)

    def set_timers(self, timestamps: Any, keys: Any = None, *, domain: str = EVENT, name: str = "") -> None:
        """Set a timer for each of these keys (positions in `keys`; left out, all of them): one timestamp each, or one
        for all. Raises `timer_out_of_range`.
        """
        self._change(timestamps, keys, domain, name, SET)

    def delete_timers(self, timestamps: Any, keys: Any = None, *, domain: str = EVENT, name: str = "") -> None:
        """Delete timers, given as for :meth:`set_timers`."""
        self._change(timestamps, keys, domain, name, DELETE)

    def side_output(self, tag: OutputTag | str, batch: Any) -> None:
        """Send rows to a side output. Raises `result_type` if it is not declared."""
        position = self._outputs.position(tag)
        self._send(position + 1, self._outputs.sides[position][1], batch)

    def _change(self, timestamps: Any, keys: Any, domain: str, name: str, op: int) -> None:
        if domain not in (EVENT, PROCESSING):
            raise PillionError(
                "declaration_invalid", f"`{domain}` is no domain of timers", hint="`event` or `processing`"
            )
        positions = self.state.positions(keys)
        try:
            column = self._form.from_column(self._form.repeated(timestamps, len(positions)), INT64)
        except (PillionError, OverflowError, TypeError, ValueError) as exc:
            message = "the timestamps of timers do not fit into 64 bits, or are no integers"
            raise PillionError("timer_out_of_range", message, detail=str(exc)) from exc
        if len(column) != len(positions):
            raise mismatch("timestamps of timers", len(column), len(positions))
        self._set.append((positions, domain, name, column, op))

    def _timers(self) -> Batch | None:
        """The timers of this call as columns."""
        if not self._set:
            return None
        parts = []
        for keys, domain, name, stamps, op in self._set:
            n = len(keys)
            parts.append(
                [
                    keys,
                    Column.repeat(domain, n, TEXT),
                    Column.repeat(name, n, TEXT),
                    Column.repeat(b"", n, SPACE),
                    stamps,
                    Column.repeat(op, n, UINT8),
                ]
            )
        columns = parts[0] if len(parts) == 1 else [Column.concat(list(one)) for one in zip(*parts)]
        return Batch.from_columns(columns, [name for name, _ in TIMER_FIELDS], len(columns[0]))

    def _send(self, position: int, output: Output, result: Any) -> None:
        if output.form == ROW:
            batch = self._form.from_batch(result, output.fields)
        elif output.form == PICKLED:
            batch = output.batch(self._outputs.label, list(result), "result")
        else:
            batch = Batch.from_columns([self._form.from_column(result, output.fields[0][1])], [output.fields[0][0]])
        if len(batch):
            self._outputs.batches.append((position, batch))
