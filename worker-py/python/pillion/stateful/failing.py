"""Rows that fail alone: what they did is undone, and they are left out, or sent to a side output of error rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pillion._native import Batch, Column
from pillion.bundle import TEXT, UINT32, Bundle, Fetch, Found, Wanted
from pillion.errors import PillionError, of_row, summary, type_and_message
from pillion.functions import OutputTag
from pillion.metrics import Metrics
from pillion.plan import SIDE, SKIP
from pillion.stateful.context import TimerService
from pillion.stateful.declare import StatefulFunction
from pillion.stateful.outputs import ROW, Fields, Output, Outputs
from pillion.stateful.store import Store
from pillion.stateful.undo import Log

ERRORS = "pillion.errors"
"""The side output of the error rows of the first input; that of the second one is `pillion.errors.2`."""

FAILED = "numRecordsFailed"
"""The counter of rows that failed alone."""

ERROR_FIELDS: Fields = [("error_type", TEXT), ("error_message", TEXT)]
"""The columns of error rows behind those of the input."""

Sides = list[tuple[OutputTag, Output]]

_logger = logging.getLogger("pillion")


def check_on_error(function: StatefulFunction, label: str, on_error: int) -> None:
    """Raises `plan_invalid` for a function that does not see rows one by one."""
    if on_error in (SKIP, SIDE) and function.form in ("vectorized", "window"):
        raise PillionError(
            "plan_invalid",
            f"`{label}` is called with whole batches, so that a row cannot fail alone",
            hint="use `on_error = fail`, or a function that is called row by row",
            function=label,
        )


def error_outputs(label: str, inputs: Sequence[Output], declared: Sequence[tuple[OutputTag, Output]]) -> Sides:
    """The side outputs of error rows, one per input. Raises `plan_invalid` where names are taken."""
    found = []
    for position, one in enumerate(inputs):
        tag = ERRORS if position == 0 else f"{ERRORS}.{position + 1}"
        names = {name for name, _ in one.fields}
        taken = [name for name, _ in ERROR_FIELDS if name in names]
        if taken:
            raise _taken(label, f"the input has a column `{taken[0]}`, which is one of error rows", "rename it")
        if any(other.tag_id == tag for other, _ in declared):
            raise _taken(label, f"`{label}` has a side output `{tag}`, which is that of error rows", "rename it")
        found.append((OutputTag(tag), Output([*one.fields, *ERROR_FIELDS], ROW)))
    return found


def _taken(label: str, message: str, hint: str) -> PillionError:
    return PillionError("plan_invalid", message, hint=hint, function=label)


class RowFailures:
    """The failing rows of one plan. Per bundle `enter`, per row `begin` and, if it raises, `take`; then `leave`."""

    def __init__(self, label: str, metrics: Metrics, outputs: Outputs, first_output: int | None) -> None:
        """`first_output` is where in `outputs.sides` those of error rows begin; None if rows are left out."""
        self._label, self._outputs, self._first = label, outputs, first_output
        self._counter = metrics.group.counter(FAILED)
        self._log = Log()
        self._warned = False
        self._mark: list[int] = []
        self._rows: list[tuple[int, str, str]] = []
        self._broken: BaseException | None = None

    def enter(self, bundle: Bundle, store: Store, service: TimerService) -> None:
        """Begin a bundle, whose cells were entered."""
        self._rows, self._broken = [], None
        self._log.watch(store, service.timers)

    def fetching(self, fetch: Fetch) -> Fetch:
        """The same, remembering if it fails: what cannot be read is no failure of the row that asked for it."""

        def call(wanted: list[Wanted]) -> list[Found]:
            try:
                return fetch(wanted)
            except BaseException as exc:
                self._broken = exc
                raise

        return call

    def begin(self) -> None:
        """A row begins."""
        self._log.entries.clear()
        self._mark = self._outputs.mark()

    def take(self, index: int, exc: BaseException) -> bool:
        """The row raised: undo it, and keep it. False if that is not the row's own failure."""
        if self._broken is not None or not of_row(exc):
            return False
        self._log.undo()
        self._outputs.undo(self._mark)
        self._rows.append((index, *type_and_message(exc)))
        if not self._warned:
            self._warned = True
            what = "left out" if self._first is None else f"sent to the side output `{ERRORS}`"
            _logger.warning(
                "`%s` raised %s in row %d, which is %s, as are all that follow; the metric `%s` counts them",
                *(self._label, summary(exc), index, what, FAILED),
            )
        return True

    def leave(self, bundle: Bundle, rows: Batch) -> None:
        """The rows of the bundle are through: give those that failed."""
        if not self._rows:
            return
        self._counter.inc(len(self._rows))
        if self._first is None:
            return
        indices, *texts = map(list, zip(*self._rows))
        chosen = Column.from_pylist(indices, UINT32)
        columns = [column.take(chosen) for column in rows.columns]
        columns += [Column.from_pylist(values, kind) for values, (_, kind) in zip(texts, ERROR_FIELDS)]
        names = [*rows.names, *(name for name, _ in ERROR_FIELDS)]
        position = 1 + self._first + bundle.input
        self._outputs.batches.append((position, Batch.from_columns(columns, names, len(chosen))))
