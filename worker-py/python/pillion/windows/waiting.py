"""The common windows: tumbling and sliding ones that only wait for their end. Nothing is asked of the trigger, rows of
one slide share their windows, rows that are kept are taken from the input as columns, accumulators are written once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pillion._native import Batch, Column
from pillion.bundle import APPEND, BINARY, EVENT, PROCESSING, SET, UINT8, UINT32, Bundle
from pillion.cells import AGGREGATING, LIST
from pillion.errors import PillionError
from pillion.stateful.context import Context
from pillion.stateful.outputs import ROW, Output, Outputs
from pillion.stateful.store import Cell
from pillion.windows import assigners, triggers
from pillion.windows.kinds import TimeWindow
from pillion.windows.late import LateElements
from pillion.windows.operation import CONTENTS, WindowOperation

Address = tuple[int, bytes]

_SUITS = {
    assigners.TumblingEventTimeWindows: triggers.EventTimeTrigger,
    assigners.SlidingEventTimeWindows: triggers.EventTimeTrigger,
    assigners.TumblingProcessingTimeWindows: triggers.ProcessingTimeTrigger,
    assigners.SlidingProcessingTimeWindows: triggers.ProcessingTimeTrigger,
}


class Waiting:
    """Takes the rows of a bundle, if none of them makes a window fire."""

    def __init__(
        self,
        operation: WindowOperation,
        context: Context,
        element: Output,
        outputs: Outputs,
        contents: Cell,
        late: LateElements,
    ) -> None:
        assigner = operation.assigner
        self.suits = type(operation.trigger) is _SUITS.get(type(assigner)) and operation.evictor is None
        """Whether these windows are of this kind at all."""
        self._operation, self._context, self._element = operation, context, element
        self._outputs, self._contents, self._late = outputs, contents, late
        self._event_time = assigner.is_event_time()
        if self.suits:
            self._size, self._offset = assigner._size, assigner._offset
            self._slide = getattr(assigner, "_slide", self._size)
            self._rest = self._size % self._slide
        self.row = 0
        """The row that was last looked at, for whoever has to report an error."""

    def take(
        self, bundle: Bundle, rows: Batch, keys: list[int], stamps: list[int | None], preload: Callable[..., None]
    ) -> list[tuple[str, Batch]] | None:
        """Take all rows; the result is what has to be written beside the cells. None, and nothing has happened, if one
        of them has no timestamp, or belongs to a window that has ended and still takes rows.
        """
        self.row = 0
        found = self._assign(keys, stamps)
        if found is None:
            return None
        contents, ends, late = found
        self._set_timers(ends)
        values: list[Any] = []
        listed = self._contents.spec.kind == LIST
        if not listed or (late and self._late.tag is not None):
            values = list(self._element.read(self._outputs.label, rows))
        if self._late.tag is None:
            self._late.drop(len(late))
        else:
            for row in late:
                self._late.take(values[row])
        if listed:
            return [(CONTENTS, self._appends(rows, contents))] if contents else []
        preload(bundle, [self._contents], list(contents))
        self._fold(contents, values)
        return []

    def _assign(
        self, keys: list[int], stamps: list[int | None]
    ) -> tuple[dict[Address, list[int]], dict[Address, int], list[int]] | None:
        """The rows of each window, where it ends, and the rows that are late for all of theirs."""
        size, slide, offset, rest = self._size, self._slide, self._offset, self._rest
        now = None if self._event_time else self._context.current_processing_time()
        contents: dict[Address, list[int]] = {}
        ends: dict[Address, int] = {}
        late: list[int] = []
        shared: dict[tuple[int, int, bool], list[Callable[[int], None]]] = {}
        windows: dict[tuple[int, bool], list[tuple[bytes, int]]] = {}
        for row, (key, stamp) in enumerate(zip(keys, stamps)):
            at = stamp if now is None else now
            if at is None:
                return None
            since = (at - offset) % slide
            last, more = at - since, since < rest
            appends = shared.get((key, last, more))
            if appends is None:
                open_windows = windows.get((last, more))
                if open_windows is None:
                    starts = range(last, last - slide * (size // slide + more), -slide)
                    judged = self._open(starts, size)
                    if judged is None:
                        return None
                    open_windows = windows[last, more] = judged
                appends = []
                for space, end in open_windows:
                    address = (key, space)
                    appends.append(contents.setdefault(address, []).append)
                    ends[address] = end
                shared[key, last, more] = appends
            for append in appends:
                append(row)
            if not appends and self._event_time and at + self._operation.lateness <= self._context.current_watermark():
                late.append(row)
        return contents, ends, late

    def _open(self, starts: range, size: int) -> list[tuple[bytes, int]] | None:
        """The windows that begin at these times and still take rows: encoded, and their last timestamps. None if one of
        them has ended.
        """
        found = []
        watermark = self._context.current_watermark()
        for start in starts:
            end = start + size - 1
            if self._event_time and end <= watermark:
                if end + self._operation.lateness > watermark:
                    return None
                continue
            found.append((TimeWindow(start, start + size).encode(), end))
        return found

    def _set_timers(self, ends: dict[Address, int]) -> None:
        operations = self._context.timer_service().timers.operations
        domain, lateness = (EVENT if self._event_time else PROCESSING), self._operation.lateness
        for (key, space), end in ends.items():
            operations[key, domain, "", space, end] = SET
            if lateness:
                self._context.timer_service().timers.change(key, domain, "", space, end + lateness, SET)

    def _appends(self, rows: Batch, contents: dict[Address, list[int]]) -> Batch:
        """The rows of the windows, as columns of the input."""
        elements = Column.from_arrow(rows if self._element.form == ROW else rows.columns[0], self._contents.codec.type)
        keys: list[int] = []
        spaces: list[bytes] = []
        chosen: list[int] = []
        for (key, space), positions in contents.items():
            keys += [key] * len(positions)
            spaces += [space] * len(positions)
            chosen += positions
        columns = [
            Column.from_pylist(keys, UINT32),
            Column.from_pylist(spaces, BINARY),
            Column.from_pylist([APPEND] * len(keys), UINT8),
            elements.take(Column.from_pylist(chosen, UINT32)),
        ]
        return Batch.from_columns(columns, ["key", "namespace", "op", "value"], len(keys))

    def _fold(self, contents: dict[Address, list[int]], values: list[Any]) -> None:
        """Add the rows of each window to what it has accumulated."""
        handle: Any = self._contents.spaced
        plane, dirty = handle._values, handle._dirty
        function = self._contents.spec.function
        if function is None:
            raise PillionError("invariant_broken", "a window accumulates without a function")
        aggregating = self._contents.spec.kind == AGGREGATING
        add = function.add if aggregating else function
        for address, positions in contents.items():
            total = plane[address]
            for row in positions:
                self.row = row
                value = values[row]
                if aggregating:
                    total = add(value, function.create_accumulator() if total is None else total)
                else:
                    total = value if total is None else add(total, value)
            plane[address] = total  # nobody reads it again in this bundle: its type is looked at when it is written
            dirty[address] = None
