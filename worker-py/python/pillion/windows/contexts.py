"""What assigners, triggers and window functions are given."""

from __future__ import annotations

from typing import Any

from pillion.bundle import DELETE, EVENT, PROCESSING, SET
from pillion.errors import PillionError
from pillion.stateful.context import Context, spec_of
from pillion.stateful.store import Store, undeclared
from pillion.windows.kinds import Window


class _WindowCells:
    """Cells at the current key and window, under the names of PyFlink's state stores."""

    def __init__(self, store: Store, plain: bool) -> None:
        self._store, self._plain = store, plain

    def get_state(self, state_descriptor: Any) -> Any:
        """The cell that a descriptor means. Raises `state_undeclared`."""
        name = state_descriptor if isinstance(state_descriptor, str) else spec_of(state_descriptor).name
        cell = self._store.cells.get(name)
        if cell is None:
            raise undeclared(name, self._store.cells)
        return cell.plain if self._plain else cell.spaced

    get_list_state = get_map_state = get_reducing_state = get_aggregating_state = get_state


class _NoWindowCells:
    """In place of the cells of a window that may merge."""

    def get_state(self, state_descriptor: Any) -> Any:
        """Always raises."""
        raise PillionError("unsupported", "state per window is not there for windows that merge")

    get_list_state = get_map_state = get_reducing_state = get_aggregating_state = get_state


class AssignerContext:
    """Given to `assign_windows`."""

    def __init__(self, context: Context, store: Store) -> None:
        self._context = context
        self._cells = _WindowCells(store, plain=True)

    def get_current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self._context.current_processing_time()

    def get_runtime_context(self) -> Any:
        """Cells of the key."""
        return self._cells


class TriggerContext:
    """Given to triggers: time, and timers and state of the current key and window."""

    def __init__(self, context: Context, store: Store) -> None:
        self._context, self._store = context, store
        self._service = context.timer_service()
        self._cursor = store.spaced_cursor
        self._cells = _WindowCells(store, plain=False)
        self.merged: list[tuple[int, bytes]] = []
        """While windows merge: the addresses of those that become this one."""

    def at(self, key: int, namespace: bytes) -> TriggerContext:
        """The same at another key and window."""
        self._cursor.k = (key, namespace)
        return self

    def get_current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self._service.processing_time

    def get_current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self._service.watermark

    def register_event_time_timer(self, time: int) -> None:
        """Set a timer of the window."""
        self._change(EVENT, time, SET)

    def register_processing_time_timer(self, time: int) -> None:
        """Set a timer of the window."""
        self._change(PROCESSING, time, SET)

    def delete_event_time_timer(self, time: int) -> None:
        """Delete it."""
        self._change(EVENT, time, DELETE)

    def delete_processing_time_timer(self, time: int) -> None:
        """Delete it."""
        self._change(PROCESSING, time, DELETE)

    def get_partitioned_state(self, state_descriptor: Any) -> Any:
        """The cell of the window. Raises `state_undeclared`."""
        try:
            return self._cells.get_state(state_descriptor)
        except PillionError as exc:
            if exc.code == "state_undeclared":
                exc.hint = "keep the descriptor in an attribute of the trigger: cells are read ahead"
            raise

    def merge_partitioned_state(self, state_descriptor: Any) -> None:
        """Merge the cells of the windows that become this one."""
        cell = self.get_partitioned_state(state_descriptor)
        if not hasattr(cell, "merge"):
            raise PillionError("state_type", f"the cell `{cell.name}` cannot be merged")
        cell.merge(self._cursor.k, self.merged)

    def _change(self, domain: str, time: int, op: int) -> None:
        key, namespace = self._cursor.k
        self._service.timers.change(key, domain, "", namespace, time, op)


class WindowContext:
    """Given to window functions: the window, its key, time and state."""

    def __init__(self, context: Context, store: Store, merging: bool) -> None:
        self._context = context
        self._window_cells: Any = _NoWindowCells() if merging else _WindowCells(store, plain=False)
        self._global_cells = _WindowCells(store, plain=True)
        self._window: Any = None

    def window(self) -> Any:
        """The window."""
        return self._window

    @property
    def key(self) -> Any:
        """The key."""
        return self._context.get_current_key()

    def current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self._context.current_watermark()

    def current_processing_time(self) -> int:
        """The clock of the bundle, in ms."""
        return self._context.current_processing_time()

    def window_state(self) -> Any:
        """Cells of the key and window; they must be declared in `open`, or be descriptors in attributes."""
        return self._window_cells

    def global_state(self) -> Any:
        """Cells of the key."""
        return self._global_cells

    def _at(self, window: Window) -> WindowContext:
        self._window = window
        return self
