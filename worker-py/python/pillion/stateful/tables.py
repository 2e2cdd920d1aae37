"""Process table functions: the context under the names of Flink 2, where a named timer is one at a time."""

from __future__ import annotations

from typing import Any

from pillion.bundle import DELETE, EVENT, SET
from pillion.errors import PillionError
from pillion.stateful.context import Context, checked_time
from pillion.stateful.store import undeclared

_UNNAMED = "\0"
"""Begins the entries of timers without a name, of which there may be several."""


class TableContext:
    """Given to `eval` and `on_timer`."""

    def __init__(self, context: Context, timers: Any) -> None:
        self._context = context
        self._times = TimeContext(context, timers)

    def time_context(self) -> TimeContext:
        """Event time and timers."""
        return self._times

    def get_current_key(self) -> Any:
        """The key of the partition."""
        return self._context.get_current_key()

    def current_timer(self) -> str | None:
        """In `on_timer`, the name of the timer; None for one without."""
        return self._context.timer_name or None

    @property
    def state(self) -> Any:
        """The declared cells by name."""
        return self._context.state

    def clear_state(self, name: str) -> None:
        """Drop what a cell holds for this key. Raises `state_undeclared`."""
        cell = self._context._store.cells.get(name)
        if cell is None:
            raise undeclared(name, self._context._store.cells)
        cell.plain.clear()

    def clear_all_state(self) -> None:
        """Drop what all cells hold for this key."""
        for name, cell in self._context._store.cells.items():
            if name != "pillion.timers":
                cell.plain.clear()

    def clear_all_timers(self) -> None:
        """Delete all timers of this key."""
        self._times.clear_all_timers()

    def clear_all(self) -> None:
        """Drop all state and timers of this key."""
        self.clear_all_state()
        self.clear_all_timers()

    def _fired(self, timestamp: int) -> None:
        self._times._fired(timestamp)


class TimeContext:
    """Event time, and timers by name: setting a name again moves its timer."""

    def __init__(self, context: Context, timers: Any) -> None:
        self._context = context
        self._timers = timers

    def time(self) -> int | None:
        """Event time of the row, or of the timer."""
        return self._context.timestamp()

    def current_watermark(self) -> int:
        """The event time up to which all rows were seen."""
        return self._context.current_watermark()

    def register_on_time(self, *arguments: Any) -> None:
        """`register_on_time(time)`, or `register_on_time(name, time)`. Raises `timer_out_of_range`."""
        if len(arguments) == 1:
            time = checked_time(arguments[0])
            self._timers.put(f"{_UNNAMED}{time}", time)
            self._change("", time, SET)
            return
        name, time = arguments[0], checked_time(arguments[1])
        if not isinstance(name, str) or not name:
            raise PillionError("declaration_invalid", f"`{name!r}` is no name of a timer")
        self.clear_timer(name)
        self._timers.put(name, time)
        self._change(name, time, SET)

    def clear_timer(self, timer: str | int) -> None:
        """Delete the timer of a name, or the one without a name at a time."""
        entry = timer if isinstance(timer, str) else f"{_UNNAMED}{timer}"
        time = self._timers.get(entry)
        if time is not None:
            self._change(timer if isinstance(timer, str) else "", time, DELETE)
            self._timers.remove(entry)

    def clear_all_timers(self) -> None:
        """Delete all timers of this key."""
        for entry, time in self._timers.items():
            self._change("" if entry.startswith(_UNNAMED) else entry, time, DELETE)
        self._timers.clear()

    def _fired(self, timestamp: int) -> None:
        """Forget the timer that has fired."""
        entry = self._context.timer_name or f"{_UNNAMED}{timestamp}"
        if self._timers.get(entry) == timestamp:
            self._timers.remove(entry)

    def _change(self, name: str, time: int, op: int) -> None:
        service = self._context.timer_service()
        service.timers.change(service._key(), EVENT, name, None, time, op)
