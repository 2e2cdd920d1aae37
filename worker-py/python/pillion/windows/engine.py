"""Runs windows. First the trigger sees all elements or timers of a bundle, and what it decides is noted; then the
contents that this needs are fetched at once; then it is carried out, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

from pillion._native import Batch
from pillion.bundle import DELETE, EVENT, MAX_TIME, PROCESSING, SET, Bundle
from pillion.cells import LIST, MapStateDescriptor
from pillion.errors import PillionError, failed_row, raised
from pillion.metrics import MetricGroup
from pillion.stateful.context import Context
from pillion.stateful.declare import descriptors_of
from pillion.stateful.outputs import Output, Outputs
from pillion.stateful.store import Cell, Store, fetch_all
from pillion.windows.calls import WindowCalls
from pillion.windows.contexts import AssignerContext, TriggerContext
from pillion.windows.kinds import TimeWindow, Window, decode
from pillion.windows.late import LateElements
from pillion.windows.merging import MERGING, MergingWindows
from pillion.windows.operation import WindowOperation
from pillion.windows.waiting import Waiting

Address = tuple[int, bytes]

ADD, MERGE, FIRE, PURGE, DROP = range(5)


class Step(NamedTuple):
    """What a trigger has decided: what to do with the contents at an address."""

    what: int
    address: Address
    window: Window | None = None
    value: Any = None
    """For ADD the element and its timestamp; for MERGE the addresses to merge in."""
    row: int | None = None


class WindowEngine:
    """Runs the windows of one plan."""

    spaced = True

    def __init__(
        self,
        label: str,
        operation: WindowOperation,
        context: Context,
        elements: Sequence[Output],
        outputs: Outputs,
        metrics: MetricGroup,
    ) -> None:
        store: Store = context._store
        self._label, self._element, self._outputs = label, elements[0], outputs
        self._operation, self._assigner, self._trigger = operation, operation.assigner, operation.trigger
        self._context, self._store = context, store
        self._event_time = operation.assigner.is_event_time()
        self._contents: Cell = operation.contents(store, elements[0])
        self._merging: Any = None
        if operation.merging:
            self._merging = store.declare(MapStateDescriptor(MERGING, "bytes", "bytes").spec()).plain
        mine = {one.name for part in (operation.assigner, operation.trigger) for one in descriptors_of(part)}
        kept = [] if operation.merging else [one for name, one in store.cells.items() if name not in mine]
        self._window_cells = [one for one in kept if one is not self._contents]
        """Cells that the window function may keep per window."""
        self._trigger_cells = [store.cells[one.name] for one in descriptors_of(operation.trigger)]
        self._assigner_context = AssignerContext(context, store)
        self._trigger_context = TriggerContext(context, store)
        self._calls = WindowCalls(label, operation, context, elements[0], outputs, self._contents)
        self._late = LateElements(operation.late, outputs, metrics)
        self._waiting = Waiting(operation, context, elements[0], outputs, self._contents, self._late)
        self.writes: list[tuple[str, Batch]] = []
        self.timers: Batch | None = None

    def run(self, bundle: Bundle) -> int:
        """Take the rows, then the timers. The time of assigners and triggers counts as user code."""
        started = perf_counter_ns()
        self._sets: dict[int, MergingWindows] = {}
        self.writes = []
        if bundle.rows is not None and len(bundle.rows):
            self._rows(bundle, bundle.rows)
        if bundle.timers is not None and len(bundle.timers):
            self._fired(bundle, bundle.timers)
        for key, windows in self._sets.items():
            self._store.cursor.k = key
            windows.persist()
        return perf_counter_ns() - started

    # Elements.

    def _rows(self, bundle: Bundle, rows: Batch) -> None:
        if bundle.key_index is None:
            raise PillionError("plan_invalid", f"`{self._label}` needs a key: it is a window", function=self._label)
        keys = bundle.key_index.to_pylist()
        stamps = [None] * len(keys) if bundle.timestamps is None else bundle.timestamps.to_pylist()
        if self._waiting.suits and bundle.timers is None:
            try:
                taken = self._waiting.take(bundle, rows, keys, stamps, self._preload)
            except BaseException as exc:  # noqa: BLE001 - it is the function's
                _raise(self._label, exc, rows, self._waiting.row)
            if taken is not None:
                self.writes = taken
                return
        index, values = 0, list(self._element.read(self._label, rows))
        try:
            assigned: list[Iterable[Any]] = []
            for index, (value, key, stamp) in enumerate(zip(values, keys, stamps)):
                self._store.cursor.k = key
                assigned.append(list(self._assigner.assign_windows(value, stamp, self._assigner_context)))
            self._preload_triggers(bundle, keys, assigned)
            steps: list[Step] = []
            for index, (value, key, stamp, windows) in enumerate(zip(values, keys, stamps, assigned)):
                self._element_of(steps, index, key, value, stamp, windows)
        except BaseException as exc:  # noqa: BLE001 - assigners and triggers may be the user's
            _raise(self._label, exc, rows, index)
        self._carry_out(bundle, steps, rows)

    def _element_of(
        self, steps: list[Step], row: int, key: int, value: Any, stamp: int | None, windows: Iterable[Any]
    ) -> None:
        skipped = True
        for window in windows:
            if self._merging is not None:
                merged = self._windows_of(key)
                window = merged.add(window, _Merger(self, steps, key, row))
                if self._is_late(window):
                    merged.retire(window)
                    continue
                space = merged.state_window(window).encode()
            else:
                if self._is_late(window):
                    continue
                space = window.encode()
            skipped = False
            address = (key, space)
            own = space if self._merging is None else window.encode()
            if self._merging is not None:
                for cell in self._trigger_cells:
                    cell.absent((key, own))  # what the key's windows had when the bundle began was read ahead
            steps.append(Step(ADD, address, None, (value, stamp), row))
            result = self._trigger.on_element(value, stamp, window, self._trigger_context.at(key, own))
            if result.is_fire():
                steps.append(Step(FIRE, address, window, None, row))
            if result.is_purge():
                steps.append(Step(PURGE, address))
            self._cleanup_timer(key, window, own, SET)
        if not skipped or not self._event_time or stamp is None:
            return
        if stamp + self._operation.lateness <= self._context.current_watermark():
            self._late.take(value)

    def _windows_of(self, key: int) -> MergingWindows:
        found = self._sets.get(key)
        if found is None:
            self._store.cursor.k = key
            found = self._sets[key] = MergingWindows(self._assigner, self._merging)
        return found

    # Timers.

    def _fired(self, bundle: Bundle, timers: Batch) -> None:
        keys, domains, _, spaces, stamps = (column.to_pylist() for column in timers.columns[:5])
        for name, column in bundle.timer_state.items():
            if name in self._store.cells:
                self._store.cells[name].offer(list(zip(keys, spaces)), column)
        steps: list[Step] = []
        try:
            for key, domain, space, stamp in zip(keys, domains, spaces, stamps):
                self._timer(steps, key, domain == EVENT, space, stamp)
        except BaseException as exc:
            if isinstance(exc, PillionError):
                raise
            raise raised(self._label, exc) from exc
        self._carry_out(bundle, steps, None)

    def _timer(self, steps: list[Step], key: int, event: bool, space: bytes, stamp: int) -> None:
        window = decode(space)
        kept: Window | None = window
        if self._merging is not None:
            kept = self._windows_of(key).state_window(window)
            if kept is None:
                return  # of a window that has become part of another
        address = (key, kept.encode() if kept is not None else space)
        context = self._trigger_context.at(key, space)
        call = self._trigger.on_event_time if event else self._trigger.on_processing_time
        result = call(stamp, window, context)
        if result.is_fire():
            steps.append(Step(FIRE, address, window))
        if result.is_purge():
            steps.append(Step(PURGE, address))
        if event == self._event_time and stamp == self._cleanup_time(window):
            self._trigger.clear(window, self._trigger_context.at(key, space))
            steps.append(Step(DROP, address, window))
            if self._merging is not None:
                self._windows_of(key).retire(window)

    # What was decided.

    def _carry_out(self, bundle: Bundle, steps: list[Step], rows: Batch | None) -> None:
        self._preload_contents(bundle, steps)
        contents: Any = self._contents.spaced
        cursor, step = self._store.spaced_cursor, None
        listed = self._contents.spec.kind == LIST
        try:
            for step in steps:
                cursor.k = address = step.address
                self._store.cursor.k = address[0]
                if step.what == ADD:
                    value, stamp = step.value
                    if not listed:
                        contents.add(value)
                    else:
                        contents.extend(address, (value, stamp) if self._operation.evictor is not None else value)
                elif step.what == MERGE:
                    contents.merge(address, step.value)
                elif step.what == FIRE:
                    self._calls.fire(address, step.window)
                elif step.what == PURGE:
                    contents.clear()
                else:
                    contents.clear()
                    self._calls.drop(address, step.window)
            self._calls.finish()
        except BaseException as exc:
            if rows is not None and step is not None and step.row is not None:
                _raise(self._label, exc, rows, step.row)
            if isinstance(exc, PillionError):
                raise
            raise raised(self._label, exc) from exc

    # Reading ahead.

    def _preload_triggers(self, bundle: Bundle, keys: list[int], assigned: list[Iterable[Any]]) -> None:
        """Read the cells of the trigger for all windows of these elements at once."""
        if not self._trigger_cells:
            return
        if self._merging is None:
            wanted = {(key, window.encode()) for key, windows in zip(keys, assigned) for window in windows}
        else:
            wanted = {(key, one.encode()) for key in set(keys) for one in self._windows_of(key).mapping}
        self._preload(bundle, self._trigger_cells, list(wanted))

    def _preload_contents(self, bundle: Bundle, steps: list[Step]) -> None:
        """Read the contents that the steps need: accumulators to add to, what fires, what is merged."""
        appends = self._contents.spec.kind == LIST
        wanted: dict[Address, None] = {}
        for step in steps:
            if step.what == FIRE or (step.what == ADD and not appends):
                wanted[step.address] = None
            elif step.what == MERGE:
                wanted.update(dict.fromkeys(step.value))
                if not appends:
                    wanted[step.address] = None
        self._preload(bundle, [self._contents], list(wanted))
        if self._window_cells:
            fired = [step for step in steps if step.what in (FIRE, DROP) and step.window is not None]
            spaces = {(step.address[0], step.window.encode()): None for step in fired if step.window is not None}
            self._preload(bundle, self._window_cells, list(spaces))

    def _preload(self, bundle: Bundle, cells: Sequence[Cell], wanted: list[Address]) -> None:
        asked = [(cell, missing) for cell in cells if (missing := cell.missing(wanted))]
        if asked:
            for (cell, addresses), values in zip(asked, fetch_all(bundle, asked)):
                cell.preload(addresses, values)

    # Ends.

    def _cleanup_time(self, window: Window) -> int:
        end = window.max_timestamp()
        return min(end + self._operation.lateness, MAX_TIME) if self._event_time else end

    def _is_late(self, window: Window) -> bool:
        return self._event_time and self._cleanup_time(window) <= self._context.current_watermark()

    def _cleanup_timer(self, key: int, window: Window, space: bytes, op: int) -> None:
        time = self._cleanup_time(window)
        if time != MAX_TIME:
            domain = EVENT if self._event_time else PROCESSING
            self._context.timer_service().timers.change(key, domain, "", space, time, op)


class _Merger:
    """What happens when windows of a key merge."""

    def __init__(self, engine: WindowEngine, steps: list[Step], key: int, row: int) -> None:
        self._engine, self._steps, self._key, self._row = engine, steps, key, row

    def __call__(
        self, result: TimeWindow, merged: list[TimeWindow], state: TimeWindow, states: list[TimeWindow]
    ) -> None:
        engine, key = self._engine, self._key
        time = engine._context.current_watermark() if engine._event_time else engine._context.current_processing_time()
        if engine._cleanup_time(result) <= time:
            raise PillionError("function_raised", f"the merged window {result} ends before the current time {time}")
        context = engine._trigger_context
        for cell in engine._trigger_cells:
            cell.absent((key, result.encode()))  # it was not there before, so nothing is kept of it
        context.merged = [(key, one.encode()) for one in merged]
        engine._trigger.on_merge(result, context.at(key, result.encode()))
        for one in merged:
            engine._trigger.clear(one, context.at(key, one.encode()))
            engine._cleanup_timer(key, one, one.encode(), DELETE)
        if states:
            addresses = [(key, one.encode()) for one in states]
            self._steps.append(Step(MERGE, (key, state.encode()), result, addresses, self._row))


def _raise(label: str, exc: BaseException, rows: Batch, index: int) -> Any:
    values = [column.slice(index, 1).to_pylist()[0] for column in rows.columns]
    row = failed_row(index, rows.names, values)
    if isinstance(exc, PillionError):
        exc.function, exc.row = exc.function or label, exc.row or row
        raise exc
    raise raised(label, exc, row=row) from exc
