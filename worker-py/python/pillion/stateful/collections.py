"""List, map and broadcast cells. What a bundle changes lies over what it read: adding and putting read nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from pillion.bundle import APPEND, CLEAR, CLEAR_PREFIX, PUT, REMOVE, TOUCH
from pillion.errors import PillionError
from pillion.stateful.codec import Codec
from pillion.stateful.handles import Cursor, Handle
from pillion.stateful.paged import PagedList, PagedMap
from pillion.stateful.planes import Nowhere

_REMOVED = object()


def begins(key: Any, prefixes: tuple[Any, ...]) -> bool:
    """Whether a key of a map, or something of another type, begins with one of these strings or bytes."""
    return bool(prefixes) and isinstance(key, type(prefixes[0])) and key.startswith(prefixes)


class _Scan(Collection[Any]):
    """A very large map under what the bundle has changed in it before; each iteration reads it."""

    __slots__ = ("_base", "_changes", "_gone", "_pick")

    def __init__(
        self,
        base: PagedMap,
        gone: tuple[Any, ...],
        changes: dict[Any, Any],
        pick: Callable[[tuple[Any, Any]], Any],
    ) -> None:
        self._base, self._gone, self._changes, self._pick = base, gone, changes, pick

    def __iter__(self) -> Iterator[Any]:
        gone, changes = self._gone, self._changes
        for entry in self._base.items():
            if entry[0] not in changes and not begins(entry[0], gone):
                yield self._pick(entry)
        for entry in changes.items():
            if entry[1] is not _REMOVED:
                yield self._pick(entry)

    def __contains__(self, one: object) -> bool:
        return any(one == other for other in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)


class ListCell(Handle):
    """A list."""

    __slots__ = ("_added", "_check", "_exact")

    counts_reads = False

    def __init__(self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None) -> None:
        self._exact, self._check = codec.exact, codec.check
        super().__init__(name, cursor, codec, key_codec)

    def begin(self, plane: Any) -> None:
        super().begin(plane)
        self._added: dict[Any, list[Any]] = {}

    def get(self) -> list[Any]:
        """A copy of the list; empty if there is none."""
        k = self._cursor.k
        base = self._values[k] if k not in self._dirty else None
        if self.counts_reads:
            self._touched[k] = None
        return [*(base or ()), *self._added.get(k, ())]

    def add(self, value: Any) -> None:
        """Append one element. Raises `state_type`."""
        if self._exact is not value.__class__ or value is None:
            value = self._checked(value)
        k = self._cursor.k
        added = self._added.get(k)
        if added is None:
            self._here()
            added = self._added[k] = []
        added.append(value)

    def extend(self, address: Any, value: Any) -> None:
        """Append a value that is known to fit, at an address."""
        self._added.setdefault(address, []).append(value)

    def add_all(self, values: Iterable[Any]) -> None:
        """Append several."""
        for value in values:
            self.add(value)

    def update(self, values: Iterable[Any]) -> None:
        """Replace the list."""
        self.clear()
        self.add_all(values)

    def clear(self) -> None:
        """Drop it."""
        self._here()
        k = self._cursor.k
        self._added.pop(k, None)
        self._dirty[k] = None

    def merge(self, target: Any, sources: Iterable[Any]) -> None:
        """Append the lists at other addresses to that of `target`."""
        before = self._cursor.k
        for source in sources:
            self._cursor.k = source
            values = self.get()
            self.clear()
            self._cursor.k = target
            self.add_all(values)
        self._cursor.k = before

    def __iter__(self) -> Iterator[Any]:
        """The elements; of a very large list a part is in memory at a time."""
        k = self._cursor.k
        base = self._values[k] if k not in self._dirty else None
        if not isinstance(base, PagedList):
            return iter(self.get())
        if self.counts_reads:
            self._touched[k] = None
        return chain(base, tuple(self._added.get(k, ())))

    def writes(self) -> list[tuple[Any, int, Any, Any]]:
        found = [(k, CLEAR, None, None) for k in self._dirty]
        for k, values in self._added.items():
            found += [(k, APPEND, None, value) for value in values]
        return self._touches(self._dirty) + found

    def _here(self) -> None:
        if isinstance(self._values, Nowhere):
            self._values[self._cursor.k]  # raises

    def _checked(self, value: Any) -> Any:
        if value is None:
            raise PillionError("state_type", f"the list cell `{self.name}` takes no None")
        return value if self._exact is None else self._check(value)


class TouchedListCell(ListCell):
    """The same where reads count."""

    __slots__ = ()
    counts_reads = True


class MapCell(Handle):
    """A map."""

    __slots__ = ("_changes", "_gone")

    counts_reads = False

    def begin(self, plane: Any) -> None:
        super().begin(plane)
        self._changes: dict[Any, dict[Any, Any]] = {}
        self._gone: dict[Any, dict[Any, None]] = {}  # prefixes whose entries were dropped before the changes

    def get(self, key: Any) -> Any:
        """The value of an entry; None if there is none."""
        value = self._find(key)
        return None if value is _REMOVED else value

    def put(self, key: Any, value: Any) -> None:
        """Set an entry. Raises `state_type`."""
        self._change(key, self._of_value(value))

    def put_all(self, dict_value: Mapping[Any, Any]) -> None:
        """Set several."""
        for key, value in dict_value.items():
            self.put(key, value)

    def remove(self, key: Any) -> None:
        """Drop an entry."""
        self._change(key, _REMOVED)

    def contains(self, key: Any) -> bool:
        """Whether there is such an entry."""
        return self._find(key) is not _REMOVED

    def items(self) -> Collection[tuple[Any, Any]]:
        """The entries, in no particular order: a list, or of a very large map what reads it a part at a time, each time
        that it is iterated.
        """
        scan = self._scan(lambda entry: entry)
        return list(self._all().items()) if scan is None else scan

    def keys(self) -> Collection[Any]:
        """The keys, likewise."""
        scan = self._scan(lambda entry: entry[0])
        return list(self._all()) if scan is None else scan

    def values(self) -> Collection[Any]:
        """The values, likewise."""
        scan = self._scan(lambda entry: entry[1])
        return list(self._all().values()) if scan is None else scan

    def is_empty(self) -> bool:
        """Whether there are no entries."""
        return not self.keys()

    def clear(self) -> None:
        """Drop them all."""
        k = self._cursor.k
        if k not in self._dirty:
            self._here()
        self._dirty[k] = None
        self._gone.pop(k, None)
        self._changes.pop(k, None)

    def clear_prefix(self, prefix: Any) -> None:
        """Drop the entries whose keys begin with this string, or these bytes; reads nothing. Raises `state_type`."""
        codec, k = self.key_codec, self._cursor.k
        if codec is not None:
            codec.check_prefixes()
        prefix = self._of_key(prefix)
        self._here()
        changes = self._changes.get(k, {})
        for key in [key for key in changes if begins(key, (prefix,))]:
            del changes[key]
        gone = self._gone.get(k)
        if k in self._dirty or (gone is not None and begins(prefix, tuple(gone))):
            return
        if gone is None:
            self._gone[k] = {prefix: None}
        else:
            gone[prefix] = None

    def __getitem__(self, key: Any) -> Any:
        return self.get(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        self.remove(key)

    def __contains__(self, key: Any) -> bool:
        return self.contains(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def writes(self) -> list[tuple[Any, int, Any, Any]]:
        found: list[tuple[Any, int, Any, Any]] = []
        for k, keys in self._touched.items():
            cleared, changed = k in self._dirty, self._changes.get(k, {})
            for key in keys:
                if not cleared and (key is None or key not in changed):
                    found.append((k, TOUCH, key, None))
        found += [(k, CLEAR, None, None) for k in self._dirty]
        found += [(k, CLEAR_PREFIX, prefix, None) for k, prefixes in self._gone.items() for prefix in prefixes]
        for k, changes in self._changes.items():
            for key, value in changes.items():
                found.append((k, REMOVE, key, None) if value is _REMOVED else (k, PUT, key, value))
        return found

    def _find(self, key: Any) -> Any:
        k = self._cursor.k
        changes = self._changes.get(k)
        if self.counts_reads:
            self._touch(k, key)
        if changes is not None and key in changes:
            return changes[key]
        if self._gone and begins(key, tuple(self._gone.get(k, ()))):
            return _REMOVED
        base = None if k in self._dirty else self._values[k]
        return _REMOVED if base is None else base.get(key, _REMOVED)

    def _all(self) -> dict[Any, Any]:
        k = self._cursor.k
        found: dict[Any, Any] = {} if k in self._dirty else dict(self._values[k] or ())
        if gone := tuple(self._gone.get(k, ())):
            found = {key: value for key, value in found.items() if not begins(key, gone)}
        if self.counts_reads:
            self._touch(k, None)
        for key, value in self._changes.get(k, {}).items():
            if value is _REMOVED:
                found.pop(key, None)
            else:
                found[key] = value
        return found

    def _scan(self, pick: Callable[[tuple[Any, Any]], Any]) -> _Scan | None:
        """The entries of a very large map; None of another."""
        k = self._cursor.k
        base = None if k in self._dirty else self._values[k]
        if not isinstance(base, PagedMap):
            return None
        if self.counts_reads:
            self._touch(k, None)
        return _Scan(base, tuple(self._gone.get(k, ())), dict(self._changes.get(k, {})), pick)

    def _change(self, key: Any, value: Any) -> None:
        k = self._cursor.k
        changes = self._changes.get(k)
        if changes is None:
            self._here()
            changes = self._changes[k] = {}
        changes[self._of_key(key)] = value

    def _touch(self, k: Any, key: Any) -> None:
        self._touched.setdefault(k, {})[key] = None

    def _here(self) -> None:
        if isinstance(self._values, Nowhere):
            self._values[self._cursor.k]  # raises

    def _of_key(self, key: Any) -> Any:
        codec = self.key_codec
        if key is None:
            raise PillionError("state_type", f"a key of the map cell `{self.name}` is None")
        return key if codec is None or codec.exact is key.__class__ or codec.exact is None else codec.check(key)

    def _of_value(self, value: Any) -> Any:
        exact = self.codec.exact
        return value if exact is value.__class__ or exact is None else self.codec.check(value)


class TouchedMapCell(MapCell):
    """The same where reads count."""

    __slots__ = ()
    counts_reads = True


class BroadcastCell(MapCell):
    """Broadcast state: one map for all keys, changed by broadcast elements only."""

    __slots__ = ("writable",)

    def __init__(self, name: str, cursor: Cursor, codec: Codec, key_codec: Codec | None) -> None:
        self.writable = False
        super().__init__(name, cursor, codec, key_codec)

    def clear(self) -> None:
        self._may_write()
        super().clear()

    def clear_prefix(self, prefix: Any) -> None:
        self._may_write()
        super().clear_prefix(prefix)

    def _change(self, key: Any, value: Any) -> None:
        self._may_write()
        super()._change(key, value)

    def _may_write(self) -> None:
        if not self.writable:
            raise PillionError(
                "state_read_only",
                f"the broadcast cell `{self.name}` was changed outside of a broadcast element",
                hint="change it in `process_broadcast_element`, so that every key sees the same",
            )
