"""Undoing what one row has done to cells and timers, so that it can fail alone.

Over a bundle whose rows may fail, the tables in which cells and timers note changes log what they were before. Who
reads an object that can be changed in place gets a copy of it: else a row that fails half-way would leave its traces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from pillion.errors import PillionError
from pillion.stateful.collections import _REMOVED, ListCell, MapCell
from pillion.stateful.context import Timers
from pillion.stateful.handles import Handle
from pillion.stateful.paged import PagedList, PagedMap
from pillion.stateful.planes import Nowhere
from pillion.stateful.store import Store

_MISSING: Any = object()
_LENGTH: Any = object()


class Log:
    """What was changed since the row began, when `entries` is cleared."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, Any, Any]] = []
        """Where, under which key, and what stood there before."""

    def watch(self, store: Store, timers: Timers) -> None:
        """Log from now on what happens to the cells and timers of the bundle that was entered."""
        self.entries = []
        timers.operations = Logged(self.entries)
        for cell in store.cells.values():
            handle: Handle = cell.plain
            if isinstance(handle._values, Nowhere):
                continue
            handle._dirty, handle._touched = Logged(self.entries), _Tables(self.entries)
            copies = not cell.codec.immutable
            if isinstance(handle, ListCell):
                handle._added = _Lists(self.entries, copies)
                handle._values = _Copied(handle._values, _copied_list) if copies else handle._values
            elif isinstance(handle, MapCell):
                handle._gone, handle._changes = _Tables(self.entries), _Tables(self.entries, copies)
                handle._values = _Copied(handle._values, _copied_map) if copies else handle._values
            else:
                handle._values = _Values(handle._values, self.entries, copies)

    def undo(self) -> None:
        """Make everything as it was when the row began."""
        for target, key, old in reversed(self.entries):
            if key is _LENGTH:
                del target[old:]
            elif not isinstance(target, dict):
                target[key] = old
            elif old is _MISSING:
                dict.pop(target, key, None)
            else:
                dict.__setitem__(target, key, old)
        self.entries.clear()


class Logged(dict[Any, Any]):
    """A dict that logs what it was."""

    __slots__ = ("_entries",)

    def __init__(self, entries: list[tuple[Any, Any, Any]], values: Any = ()) -> None:
        dict.__init__(self, values)
        self._entries = entries

    def __setitem__(self, key: Any, value: Any) -> None:
        self._entries.append((self, key, dict.get(self, key, _MISSING)))
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._entries.append((self, key, dict.__getitem__(self, key)))
        dict.__delitem__(self, key)

    def pop(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            return default
        old = dict.__getitem__(self, key)
        del self[key]
        return old

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self.get(key)

    def _unlogged(self, *_: Any, **__: Any) -> NoReturn:
        raise PillionError("invariant_broken", "cells were changed in a way that cannot be undone")

    clear = update = popitem = __ior__ = _unlogged


def _copy(value: Any) -> Any:
    return value if value is _REMOVED else copy.deepcopy(value)


class _Copies(Logged):
    """One whose values are given as copies."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return _copy(dict.__getitem__(self, key))

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)  # where this is not the dict's own, `dict(self)` takes what `__getitem__` gives

    def items(self) -> Any:
        return [(key, _copy(value)) for key, value in dict.items(self)]


class _Tables(Logged):
    """Logged dicts by key. One that a row has put there becomes a logged one when it is next asked for; until then it
    goes as a whole.
    """

    __slots__ = ("_inner",)

    def __init__(self, entries: list[tuple[Any, Any, Any]], copies: bool = False) -> None:
        super().__init__(entries)
        self._inner = _Copies if copies else Logged

    def get(self, key: Any, default: Any = None) -> Any:
        found = dict.get(self, key, default)
        if found.__class__ is dict and key in self:
            found = self._inner(self._entries, found)
            dict.__setitem__(self, key, found)
        return found


class _Lists(Logged):
    """Lists by key, which are only appended to: how long they were is all that there is to log."""

    __slots__ = ("_copies",)

    def __init__(self, entries: list[tuple[Any, Any, Any]], copies: bool) -> None:
        super().__init__(entries)
        self._copies = copies

    def get(self, key: Any, default: Any = None) -> Any:
        found = dict.get(self, key)
        if found is None:
            return default
        if self._copies and found.__class__ is list:
            found = _CopiedList(found)
            dict.__setitem__(self, key, found)
        self._entries.append((found, _LENGTH, len(found)))
        return found


class _Values:
    """The plane of a cell of one value per key, which logs what it was."""

    __slots__ = ("_entries", "_given", "_values")

    def __init__(self, values: Any, entries: list[tuple[Any, Any, Any]], copies: bool) -> None:
        self._values, self._entries = values, entries
        self._given: Callable[[Any], Any] | None = copy.deepcopy if copies else None

    def __getitem__(self, key: Any) -> Any:
        value = self._values[key]
        return value if self._given is None else self._given(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        values = self._values
        self._entries.append(
            (values, key, dict.get(values, key, _MISSING) if isinstance(values, dict) else values[key])
        )
        values[key] = value


class _CopiedList(list[Any]):
    """A list whose elements are given as copies."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return map(copy.deepcopy, list.__iter__(self))


class _CopiedMap:
    """As much of a dict as map cells look at, with values that are given as copies."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[Any, Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Any) -> Any:
        return copy.deepcopy(self._values[key])

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self._values else default

    def keys(self) -> Any:
        return self._values.keys()


class _CopiedPagedList(PagedList):
    """The same of a list that is read in parts."""

    __slots__ = ("_list",)

    def __init__(self, values: PagedList) -> None:
        self._list = values

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[Any]:
        return map(copy.deepcopy, self._list)


class _CopiedPagedMap(PagedMap):
    """The same of a map that is read in parts."""

    __slots__ = ("_map",)

    def __init__(self, values: PagedMap) -> None:
        self._map = values

    def __len__(self) -> int:
        return len(self._map)

    def get(self, key: Any, default: Any) -> Any:
        return _copy(self._map.get(key, default))

    def items(self) -> Iterator[tuple[Any, Any]]:
        return ((key, copy.deepcopy(value)) for key, value in self._map.items())


def _copied_list(values: Any) -> Any:
    return _CopiedPagedList(values) if isinstance(values, PagedList) else _CopiedList(values)


def _copied_map(values: Any) -> Any:
    return _CopiedPagedMap(values) if isinstance(values, PagedMap) else _CopiedMap(values)


class _Copied:
    """The plane of lists or maps that are given as copies; nothing is ever written to it."""

    __slots__ = ("_given", "_values")

    def __init__(self, values: Any, given: Callable[[Any], Any]) -> None:
        self._values, self._given = values, given

    def __getitem__(self, key: Any) -> Any:
        value = self._values[key]
        return None if value is None else self._given(value)
