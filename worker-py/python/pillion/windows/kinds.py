"""Windows themselves, and lengths of time. Names are PyFlink's."""

from __future__ import annotations

import datetime
import struct
from typing import Any

from pillion.bundle import MAX_TIME
from pillion.errors import PillionError

_PAIR = struct.Struct(">QQ")
_ONE = struct.Struct(">Q")
_SIGN = 1 << 63
"""Added to signed numbers, so that encoded windows sort as they begin."""


def milliseconds(time: Any) -> int:
    """Milliseconds from an int, a timedelta, or PyFlink's `Time` and `Duration`. Raises `declaration_invalid`."""
    if isinstance(time, datetime.timedelta):
        return time // datetime.timedelta(milliseconds=1)
    if hasattr(time, "to_milliseconds"):
        time = time.to_milliseconds()
    if isinstance(time, int) and not isinstance(time, bool):
        return time
    raise PillionError(
        "declaration_invalid",
        f"a value of type `{type(time).__name__}` is no length of time",
        hint="give milliseconds, a `datetime.timedelta` or a `Time`",
    )


def invalid(condition: bool, message: str) -> None:
    """Raise `declaration_invalid` if the condition holds."""
    if condition:
        raise PillionError("declaration_invalid", message)


class Window:
    """A set of elements of a key."""

    __slots__ = ()

    def max_timestamp(self) -> int:
        """The last timestamp that belongs to it."""
        return MAX_TIME

    def encode(self) -> bytes:
        """Itself as a namespace of state."""
        raise NotImplementedError


class TimeWindow(Window):
    """From `start` to before `end`, in ms."""

    __slots__ = ("end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def max_timestamp(self) -> int:
        return self.end - 1

    def intersects(self, other: TimeWindow) -> bool:
        """Whether they overlap or touch."""
        return self.start <= other.end and self.end >= other.start

    def cover(self, other: TimeWindow) -> TimeWindow:
        """The least window that covers both."""
        return TimeWindow(min(self.start, other.start), max(self.end, other.end))

    def encode(self) -> bytes:
        return _PAIR.pack(self.start + _SIGN, self.end + _SIGN)

    @staticmethod
    def get_window_start_with_offset(timestamp: int, offset: int, window_size: int) -> int:
        """Where the window begins that a timestamp falls into."""
        return timestamp - (timestamp - offset + window_size) % window_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeWindow) and self.start == other.start and self.end == other.end

    def __lt__(self, other: TimeWindow) -> bool:
        return (self.start, self.end) < (other.start, other.end)

    def __hash__(self) -> int:
        return hash((self.start, self.end))

    def __repr__(self) -> str:
        return f"TimeWindow(start={self.start}, end={self.end})"


class CountWindow(Window):
    """The `id`-th window of so many elements."""

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id

    def encode(self) -> bytes:
        return _ONE.pack(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CountWindow) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"CountWindow(id={self.id})"


class GlobalWindow(Window):
    """The one window of everything."""

    __slots__ = ()

    @staticmethod
    def get() -> GlobalWindow:
        """The window."""
        return GlobalWindow()

    def encode(self) -> bytes:
        return b"\0"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GlobalWindow)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "GlobalWindow"


def decode(namespace: bytes) -> Window:
    """The window that `encode` made this of."""
    if len(namespace) == 16:
        start, end = _PAIR.unpack(namespace)
        return TimeWindow(start - _SIGN, end - _SIGN)
    return GlobalWindow() if len(namespace) == 1 else CountWindow(_ONE.unpack(namespace)[0])
