"""Lists and maps too large for one answer of the sidecar: read part by part, with a bounded part of them kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pillion.errors import PillionError

KEPT = 1 << 18
"""Elements or entries that are kept of what was read of one list or map, and of all of a cell's: the rest is read
again.
"""

Part = tuple[Any, "bytes | None"]
"""Elements or entries, None if there are none, and what to ask for those behind them, None at the end."""


class Paged:
    """The first part of a list or map, and the way to the rest. It does not change: changes lie over it."""

    __slots__ = ("_kept", "_next", "_read", "_size")

    def __init__(self, first: Part, read: Callable[[bytes], Part]) -> None:
        part, self._next = first
        self._kept = [part or ()]
        self._size = len(self._kept[0])
        self._read = read

    def __len__(self) -> int:
        """How much of it is kept."""
        return self._size

    def __bool__(self) -> bool:
        return True

    def parts(self) -> Iterator[Any]:
        """All parts in order: those that are kept, then those that are read."""
        position = 0
        while position < len(self._kept):
            yield self._kept[position]
            position += 1
        after = self._next
        while after is not None:
            part, following = self._read(after)
            # Another reader may have come by here before.
            if after == self._next and self._size + len(part or ()) <= KEPT:
                self._kept.append(part or ())
                self._size += len(part or ())
                self._next = following
            after = following
            if part:
                yield part


class PagedList(Paged):
    """A list."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts():
            yield from part


class PagedMap(Paged):
    """A map. Entries that are not in the part that is kept are looked up one by one."""

    __slots__ = ("_found", "_lookup")

    def __init__(
        self, first: Part, read: Callable[[bytes], Part], lookup: Callable[[Any], dict[Any, Any] | None]
    ) -> None:
        super().__init__(first, read)
        self._lookup = lookup
        self._found: dict[Any, dict[Any, Any]] = {}

    def get(self, key: Any, default: Any) -> Any:
        """The value of an entry."""
        for part in self._kept:
            if key in part:
                return part[key]
        if self._next is None:
            return default
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= KEPT:
                self._found.clear()
            found = self._found[key] = self._lookup(key) or {}
        return next(iter(found.values()), default)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """All entries."""
        for part in self.parts():
            if part:
                yield from part.items()


class Cache(dict[int, Any]):
    """What large lists and maps of a cell hold, by the position of their key: fetched for the keys of the next rows,
    too, and forgotten when it is much.
    """

    def __init__(self, fetch: Callable[[list[int]], list[Any]], size: int, page: int) -> None:
        super().__init__()
        self._fetch, self._last, self._page = fetch, size, page

    def __missing__(self, position: int) -> Any:
        wanted = [one for one in range(position, min(position + self._page, self._last)) if one not in self]
        found = dict(zip(wanted, self._fetch(wanted)))
        if position not in found:
            raise PillionError("invariant_broken", f"there is no key at the position {position}")
        if sum(map(_length, self.values())) + sum(map(_length, found.values())) > KEPT:
            self.clear()
        self.update(found)
        return found[position]


def _length(value: Any) -> int:
    return 0 if value is None else len(value)
