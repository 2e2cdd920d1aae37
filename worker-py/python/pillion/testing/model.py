"""State and timers as the sidecar keeps them, in plain Python: the harness runs on it, and tests compare with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pillion._native import Batch, Column, Type
from pillion.bundle import (
    APPEND,
    BINARY,
    CLEAR,
    CLEAR_PREFIX,
    DELETE,
    EVENT,
    PROCESSING,
    PUT,
    REMOVE,
    TOUCH,
    Found,
)

Key = tuple[Any, ...]
Address = tuple[Key, "bytes | None"]

LISTS, MAPS = ("list",), ("map", "broadcast")


class Timer(NamedTuple):
    """A pending timer."""

    key: Any
    domain: str
    name: str
    namespace: bytes | None
    timestamp: int


class _Value:
    """A value, and when it was last written, or read where that counts."""

    __slots__ = ("time", "value")

    def __init__(self, value: Any, time: int) -> None:
        self.value, self.time = value, time


class CellModel:
    """One cell: its values by address. A list holds several, a map holds them by key."""

    def __init__(self, declared: dict[str, Any]) -> None:
        self.name: str = declared["name"]
        self.kind: str = declared["kind"]
        self.value_type: Type = declared["value_type"]
        self.key_type: Type | None = declared["map_key_type"]
        self.ttl: dict[str, Any] | None = declared["ttl"]
        self.data: dict[Address, Any] = {}

    @property
    def type(self) -> Type:
        """Of the column that a bundle gets."""
        if self.kind in LISTS:
            return Type.parse(f"array<{self.value_type}>")
        if self.kind in MAPS:
            return Type.parse(f"array<row<key {self.key_type}, value {self.value_type}>>")
        return self.value_type

    def column(self, addresses: Iterable[Address], now: int) -> Column:
        """The values at these addresses, as a bundle gets them."""
        return Column.from_pylist([self.read(address, now) for address in addresses], self.type, self.name)

    def fetched(self, asked: Batch, keys: Sequence[Key], now: int, page: int | None) -> Found:
        """The answer to a fetch, of lists and maps with so many elements or entries at once."""
        columns = dict(zip(asked.names, (column.to_pylist() for column in asked.columns)))
        nothing = [None] * len(asked)
        positions, spaces = columns["key"], columns["namespace"]
        found, following = [], []
        rows = zip(positions, spaces, columns.get("sub", nothing), columns.get("after", nothing))
        for position, space, sub, after in rows:
            value = self.read((() if self.kind == "broadcast" else keys[position], space or None), now)
            rest = None
            if sub is not None:
                value = [one for one in value or () if one["key"] == sub] or None
            elif page is not None and value is not None and self.kind in (*LISTS, *MAPS):
                start = int(after or 0)
                rest = str(start + page).encode() if len(value) > start + page else None
                value = value[start : start + page]
            found.append(value)
            following.append(rest)
        column = Column.from_pylist(found, self.type, self.name)
        return column, Column.from_pylist(following, BINARY) if any(following) else None

    def read(self, address: Address, now: int) -> Any:
        """The value at an address; None if there is none or it has expired."""
        found = self.data.get(address)
        if found is None:
            return None
        if self.kind in LISTS:
            return [one.value for one in found if self._visible(one, now)] or None
        if self.kind in MAPS:
            entries = [(_thaw(key), one.value) for key, one in found.items() if self._visible(one, now)]
            return [{"key": key, "value": value} for key, value in entries] or None
        return found.value if self._visible(found, now) else None

    def apply(self, batch: Batch, keys: Sequence[Key], now: int) -> None:
        """Take a bundle's writes."""
        columns = dict(zip(batch.names, (column.to_pylist() for column in batch.columns)))
        nothing = [None] * len(batch)
        for key, space, op, sub, value in zip(
            columns["key"],
            columns.get("namespace", nothing),
            columns.get("op", [PUT] * len(batch)),
            columns.get("sub", nothing),
            columns.get("value", nothing),
        ):
            address = (() if self.kind == "broadcast" else keys[key], space)
            self._apply(address, op, sub, value, now)

    def clean_up(self, now: int) -> None:
        """Drop what has expired."""
        for address in list(self.data):
            found = self.data[address]
            if self.kind in LISTS:
                found[:] = [one for one in found if not self._expired(one, now)]
            elif self.kind in MAPS:
                for key in [key for key, one in found.items() if self._expired(one, now)]:
                    del found[key]
            if not found if self.kind in (*LISTS, *MAPS) else self._expired(found, now):
                del self.data[address]

    def _apply(self, address: Address, op: int, sub: Any, value: Any, now: int) -> None:
        if op == CLEAR:
            self.data.pop(address, None)
        elif op == TOUCH:
            self._touch(address, sub, now)
        elif op == APPEND:
            self.data.setdefault(address, []).append(_Value(value, now))
        elif op in (REMOVE, CLEAR_PREFIX):
            found = self.data.get(address, {})
            under = [one for one in found if one is not None and one.startswith(sub)] if op == CLEAR_PREFIX else []
            for key in [_freeze(sub)] if op == REMOVE else under:
                found.pop(key, None)
            if not self.data.get(address, True):
                del self.data[address]
        elif self.kind in MAPS:
            self.data.setdefault(address, {})[_freeze(sub)] = _Value(value, now)
        elif op == PUT and self.kind not in LISTS:
            if value is None:
                self.data.pop(address, None)
            else:
                self.data[address] = _Value(value, now)
        else:
            raise ValueError(f"the operation {op} is none of the {self.kind} cell `{self.name}`")

    def _touch(self, address: Address, sub: Any, now: int) -> None:
        found = self.data.get(address)
        if found is None:
            return
        if self.kind in LISTS:
            touched = found
        elif self.kind in MAPS:
            one = found.get(_freeze(sub))
            touched = list(found.values()) if sub is None else [one] if one is not None else []
        else:
            touched = [found]
        for one in touched:
            if not self._expired(one, now):
                one.time = now

    def _expired(self, one: _Value, now: int) -> bool:
        return self.ttl is not None and one.time + int(self.ttl["ms"]) <= now

    def _visible(self, one: _Value, now: int) -> bool:
        if self.ttl is not None and self.ttl["visibility"] == "return_expired":
            return True
        return not self._expired(one, now)


class TimerModel:
    """Pending timers. Setting one twice sets one."""

    def __init__(self) -> None:
        self.pending: dict[tuple[Key, str, str, bytes | None, int], None] = {}

    def apply(self, batch: Batch, keys: Sequence[Key]) -> None:
        """Take a bundle's timers."""
        for key, domain, name, space, timestamp, op in zip(*(column.to_pylist() for column in batch.columns)):
            if domain not in (EVENT, PROCESSING):
                raise ValueError(f"there is no domain `{domain}`")
            address = (keys[key], domain, name, space or None, timestamp)
            if op == DELETE:
                self.pending.pop(address, None)
            else:
                self.pending[address] = None

    def due(self, domain: str, until: int, most: int) -> list[tuple[Key, str, str, bytes | None, int]]:
        """What one call may fire: of each key the timers of its first timestamp. They are taken out."""
        first: dict[Key, int] = {}
        for key, of, _, _, timestamp in self.pending:
            if of == domain and timestamp <= until:
                first[key] = min(timestamp, first.get(key, timestamp))
        fired = [one for one in self.pending if one[1] == domain and first.get(one[0]) == one[4]]
        fired.sort(key=lambda one: one[4])
        if len(fired) > most:  # whole keys only: the timers of one key and timestamp belong to one call
            keep = {one[0] for one in fired[:most]}
            fired = [one for one in fired if one[0] in keep]
        for one in fired:
            del self.pending[one]
        return fired


def _freeze(value: Any) -> Any:
    """A map's key as something that can be looked up."""
    if isinstance(value, dict):
        return ("dict", *((name, _freeze(one)) for name, one in value.items()))
    return ("list", *map(_freeze, value)) if isinstance(value, list) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, tuple) and value[:1] == ("dict",):
        return {name: _thaw(one) for name, one in value[1:]}
    return list(map(_thaw, value[1:])) if isinstance(value, tuple) and value[:1] == ("list",) else value
