"""Rows: what general functions get for a struct value, and general `map` functions for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any


class Row(tuple[Any, ...]):
    """An immutable row of values, with field names if they are known.

    `Row(1, "a")` has positions only; `Row(id=1, name="a")` has names too. Fields are read as `row[0]`, `row["id"]` or
    `row.id`; a column named like a method of tuples (`count`, `index`) is found under its name. As a result, a row
    without names is taken by position and one with names by name.
    """

    __slots__ = ()

    _fields: tuple[str, ...] = ()

    def __new__(cls, *values: Any, **named: Any) -> Row:
        if not named:
            return tuple.__new__(cls, values)
        if values:
            raise TypeError("a row takes positional values or named ones, not both")
        return tuple.__new__(row_class(tuple(named)), named.values())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                return tuple.__getitem__(self, self._fields.index(key))
            except ValueError:
                raise KeyError(key) from None
        return tuple.__getitem__(self, key)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the row has no field `{name}`; its fields are {', '.join(self._fields) or 'unnamed'}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._fields, tuple(self))

    def __repr__(self) -> str:
        if self._fields:
            return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self))})"
        return f"Row({', '.join(map(repr, self))})"

    def as_dict(self, recursive: bool = False) -> dict[str, Any]:
        """The fields by name; with `recursive`, also of rows within. Raises `TypeError` for a row without names."""
        if len(self._fields) != len(self):
            raise TypeError("a row without field names is no dict")
        return dict(zip(self._fields, map(_plain, self) if recursive else self))


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return value.as_dict(recursive=True)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _rebuild(fields: tuple[str, ...], values: Sequence[Any]) -> Row:
    return tuple.__new__(row_class(fields) if fields else Row, values)


@lru_cache(maxsize=256)
def row_class(fields: tuple[str, ...]) -> type[Row]:
    """The class of rows with these field names, with one property per name, so that reading a field costs no lookup by
    name.
    """
    members: dict[str, Any] = {
        name: property(itemgetter(position)) for position, name in enumerate(fields) if not name.startswith("__")
    }
    members |= {"__slots__": (), "_fields": fields}
    return type("Row", (Row,), members)


def make_rows(fields: tuple[str, ...], columns: Sequence[Sequence[Any]]) -> Iterator[Row]:
    """Rows over columns of equal length."""
    build, cls = tuple.__new__, row_class(fields)
    return (build(cls, values) for values in zip(*columns))
