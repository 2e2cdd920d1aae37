"""What functions are given: the runtime context in `open`, and the context of each call."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from pillion.bundle import DELETE, EVENT, MAX_TIME, MIN_TIME, PROCESSING, SET
from pillion.cells import CellSpec, MapStateDescriptor, StateDescriptor
from pillion.context import FunctionContext
from pillion.errors import PillionError
from pillion.functions import TimeDomain
from pillion.metrics import MetricGroup, Metrics
from pillion.stateful.handles import Cursor
from pillion.stateful.store import Store, undeclared


class RuntimeContext(FunctionContext):
    """Given to `open`: declares cells, under PyFlink's names. A cell is declared once, and may be asked for again."""

    def __init__(self, function_name: str, store: Store, metrics: Metrics | None = None) -> None:
        super().__init__(function_name, metrics)
        self._store = store

    def get_state(self, state_descriptor: StateDescriptor) -> Any:
        """The cell that a descriptor, or a declaration, means. Raises `state_undeclared` after `open`."""
        return self._store.declare(spec_of(state_descriptor)).plain

    get_list_state = get_map_state = get_reducing_state = get_aggregating_state = get_state

    def get_broadcast_state(self, state_descriptor: Any) -> Any:
        """The broadcast cell that a MapStateDescriptor means."""
        return self._store.declare(broadcast_spec_of(state_descriptor)).plain

    def get_metrics_group(self) -> MetricGroup:
        """As `get_metric_group`, under PyFlink's name."""
        return self.get_metric_group()

    def get_task_name(self) -> str:
        """The function as it was asked for."""
        return self.function_name

    def get_index_of_this_subtask(self) -> int:
        """Always 0: which keys a worker gets is the sidecar's business, and may change."""
        return 0

    def get_number_of_parallel_subtasks(self) -> int:
        """Always 1."""
        return 1

    def get_attempt_number(self) -> int:
        """Always 0."""
        return 0


def spec_of(declared: Any) -> CellSpec:
    """What a descriptor or a declaration declares. Raises `declaration_invalid`."""
    spec = getattr(declared, "spec", None)
    if spec is None:
        raise PillionError(
            "declaration_invalid",
            f"a value of type `{type(declared).__name__}` declares no cell",
            hint='for example `ValueStateDescriptor("count", "bigint")`',
        )
    found: CellSpec = spec()
    return found


def broadcast_spec_of(declared: Any) -> CellSpec:
    """The same for broadcast state."""
    return declared.broadcast_spec() if isinstance(declared, MapStateDescriptor) else spec_of(declared)


Operations = dict[tuple[int, str, str, "bytes | None", int], int]


class Timers:
    """Timers set and deleted in a bundle; the last word on each counts."""

    def __init__(self) -> None:
        self.operations: Operations = {}

    def change(self, key: int, domain: str, name: str, namespace: bytes | None, timestamp: Any, op: int) -> None:
        """Set or delete one. Raises `timer_out_of_range`."""
        self.operations[key, domain, name, namespace, checked_time(timestamp)] = op


def checked_time(timestamp: Any) -> int:
    """A timestamp of 64 bits. Raises `timer_out_of_range`, and `TypeError` for what is no integer."""
    if timestamp.__class__ is not int:
        timestamp = operator.index(timestamp)
    if not MIN_TIME <= timestamp <= MAX_TIME:
        raise PillionError(
            "timer_out_of_range",
            f"the timestamp {timestamp} of a timer does not fit into 64 bits",
            hint="timestamps are milliseconds since 1970",
        )
    return int(timestamp)


class TimerService:
    """Time, and the timers of the current key. A timer may have a name; without one it is PyFlink's."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.timers = Timers()
        self.watermark = MIN_TIME
        self.processing_time = 0

    def current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self.watermark

    def current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self.processing_time

    def register_event_time_timer(self, timestamp: int, name: str = "") -> None:
        """Set a timer that fires when the watermark reaches it."""
        if timestamp.__class__ is not int or not MIN_TIME <= timestamp <= MAX_TIME:
            timestamp = checked_time(timestamp)
        k = self._cursor.k
        self.timers.operations[self._key() if k is None else k, EVENT, name, None, timestamp] = SET

    def register_processing_time_timer(self, timestamp: int, name: str = "") -> None:
        """Set a timer that fires when the clock reaches it."""
        self.timers.change(self._key(), PROCESSING, name, None, timestamp, SET)

    def delete_event_time_timer(self, timestamp: int, name: str = "") -> None:
        """Delete it, if it is set."""
        self.timers.change(self._key(), EVENT, name, None, timestamp, DELETE)

    def delete_processing_time_timer(self, timestamp: int, name: str = "") -> None:
        """Delete it, if it is set."""
        self.timers.change(self._key(), PROCESSING, name, None, timestamp, DELETE)

    def _key(self) -> int:
        if self._cursor.k is None:
            raise PillionError(
                "state_without_key",
                "a timer was set or deleted without a key",
                hint="timers belong to a key: use them in `process_element` or `on_timer` of a keyed function",
            )
        key: int = self._cursor.k
        return key


class _Cells:
    """Cells by name, as items and as attributes."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> Any:
        cell = self._store.cells.get(name)
        if cell is None:
            raise undeclared(name, self._store.cells)
        return cell.plain

    __getattr__ = __getitem__


class Context:
    """The context of a call, whatever kind of function it is: timestamp, key, timers, broadcast state."""

    def __init__(self, store: Store, service: TimerService) -> None:
        self._store = store
        self._service = service
        self._cursor = store.cursor
        self._stamp: int | None = None
        self._keys: Callable[[], list[Any]] = list
        self._domain = TimeDomain.EVENT_TIME
        self.timer_name = ""
        """In `on_timer`, the name of the timer."""

    @property
    def state(self) -> _Cells:
        """The cells by name, for functions that are no classes."""
        return _Cells(self._store)

    def timestamp(self) -> int | None:
        """Event time of the row, or of the timer; None for a row without."""
        return self._stamp

    def get_current_key(self) -> Any:
        """The key: a value, or a :class:`pillion.Row` of several. Raises `state_without_key`."""
        if self._cursor.k is None:
            raise PillionError("state_without_key", "the current key was asked for without a key")
        return self._keys()[self._cursor.k]

    def timer_service(self) -> TimerService:
        """Time and timers."""
        return self._service

    def time_domain(self) -> TimeDomain:
        """In `on_timer`, which time the timer went by."""
        return self._domain

    def current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self._service.watermark

    def current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self._service.processing_time

    def get_broadcast_state(self, state_descriptor: Any) -> Any:
        """Broadcast state: read-only, except for a broadcast element. Raises `state_undeclared`."""
        name = state_descriptor if isinstance(state_descriptor, str) else broadcast_spec_of(state_descriptor).name
        cell = self._store.cells.get(name)
        if cell is None:
            raise undeclared(name, self._store.cells)
        return cell.plain
