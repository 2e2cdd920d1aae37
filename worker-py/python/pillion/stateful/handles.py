"""Cells as functions see them: the value of the current key, or of the current key and window.

Reading and writing are a look into a list by the key's position, and no more: everything else happens once per bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pillion.bundle import CLEAR, PUT, TOUCH
from pillion.stateful.codec import Codec


class Cursor:
    """Which key a call is about: its position in the bundle's keys, or that and a namespace."""

    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k: Any = None


class Handle:
    """One cell over one plane. `_dirty` and its like hold the addresses that changed, in order."""

    __slots__ = ("_cursor", "_dirty", "_touched", "_values", "codec", "key_codec", "name")

    def __init__(self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None) -> None:
        self.name = name
        self.codec = codec
        self.key_codec = key_codec
        self._cursor = cursor
        self.begin(None)

    def begin(self, plane: Any) -> None:
        """Start a bundle over these values."""
        self._values: Any = plane
        self._dirty: dict[Any, Any] = {}
        self._touched: dict[Any, Any] = {}

    def clear(self) -> None:
        """Drop the value of the current key."""
        raise NotImplementedError

    def writes(self) -> list[tuple[Any, int, Any, Any]]:
        """What changed: address, operation, key within a map, value."""
        raise NotImplementedError

    def _touches(self, changed: Mapping[Any, Any]) -> list[tuple[Any, int, Any, Any]]:
        return [(address, TOUCH, None, None) for address in self._touched if address not in changed]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} `{self.name}`>"


class ValueCell(Handle):
    """One value."""

    __slots__ = ("_check", "_exact")

    def __init__(self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None) -> None:
        self._exact, self._check = codec.exact, codec.check
        super().__init__(name, cursor, codec, key_codec)

    def value(self) -> Any:
        """The value of the current key; None if there is none."""
        return self._values[self._cursor.k]

    def update(self, value: Any) -> None:
        """Set it. None clears it. Raises `state_type`."""
        if self._exact is not value.__class__ and self._exact is not None:
            value = self._check(value)
        k = self._cursor.k
        self._values[k] = value
        self._dirty[k] = None

    def clear(self) -> None:
        """Drop it."""
        k = self._cursor.k
        self._values[k] = None
        self._dirty[k] = None

    def writes(self) -> list[tuple[Any, int, Any, Any]]:
        values, found = self._values, self._touches(self._dirty)
        for k in self._dirty:
            value = values[k]
            found.append((k, CLEAR if value is None else PUT, None, value))
        return found


class TouchedValueCell(ValueCell):
    """One value whose reads count for its time to live."""

    __slots__ = ()

    def value(self) -> Any:
        k = self._cursor.k
        self._touched[k] = None
        return self._values[k]


class ReducingCell(ValueCell):
    """One value into which others are merged."""

    __slots__ = ("_reduce",)

    def __init__(
        self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None, reduce: Callable[[Any, Any], Any]
    ) -> None:
        self._reduce = reduce
        super().__init__(name, cursor, codec, key_codec)

    def get(self) -> Any:
        """The merged value; None if there is none."""
        return self.value()

    def add(self, value: Any) -> None:
        """Merge a value in."""
        current = self._values[self._cursor.k]
        self.update(value if current is None else self._reduce(current, value))

    def merge(self, target: Any, sources: Iterable[Any]) -> None:
        """Merge the values at other addresses into that of `target`."""
        before = self._cursor.k
        for source in sources:
            self._cursor.k = source
            value = self._values[source]
            self.clear()
            self._cursor.k = target
            if value is not None:
                self.add(value)
        self._cursor.k = before


class TouchedReducingCell(ReducingCell):
    """The same where reads count."""

    __slots__ = ()

    def get(self) -> Any:
        self._touched[self._cursor.k] = None
        return self._values[self._cursor.k]


class AggregatingCell(ValueCell):
    """An accumulator."""

    __slots__ = ("_function",)

    def __init__(self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None, function: Any) -> None:
        self._function = function
        super().__init__(name, cursor, codec, key_codec)

    def get(self) -> Any:
        """The result so far; None if nothing was added."""
        accumulator = self._values[self._cursor.k]
        return None if accumulator is None else self._function.get_result(accumulator)

    def add(self, value: Any) -> None:
        """Add a value."""
        accumulator = self._values[self._cursor.k]
        if accumulator is None:
            accumulator = self._function.create_accumulator()
        self.update(self._function.add(value, accumulator))

    def merge(self, target: Any, sources: Iterable[Any]) -> None:
        """Merge the accumulators at other addresses into that of `target`."""
        before = self._cursor.k
        for source in sources:
            self._cursor.k = source
            other = self._values[source]
            self.clear()
            self._cursor.k = target
            if other is not None:
                own = self._values[target]
                self.update(other if own is None else self._function.merge(own, other))
        self._cursor.k = before


class TouchedAggregatingCell(AggregatingCell):
    """The same where reads count."""

    __slots__ = ()

    def get(self) -> Any:
        self._touched[self._cursor.k] = None
        return super().get()
