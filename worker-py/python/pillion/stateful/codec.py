"""Values of cells to columns and back. Columns are native; what a function sees are Python's own values."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.convert_rows import from_values, reader, to_values, writer
from pillion.errors import PillionError, safe_repr, summary
from pillion.row import make_rows, row_class

Check = Callable[[Any], Any]

_MOST_FIELDS = 8
"""Rows of more fields are always checked by way of a column."""

# The class of values that come back from a column of this type as they went in.
_EXACT: dict[str, type] = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), int),
    "float64": float,
    "utf8": str,
    "bool": bool,
    "binary": bytes,
}


# The types of values that begin with other ones.
_PREFIXED = ("utf8", "large_utf8", "utf8_view", "binary", "large_binary", "binary_view")

# Bounds of their values, where they have some.
_BOUNDS = {
    f"{'u' * unsigned}int{bits}": (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for unsigned in (False, True)
    for bits in (8, 16, 32, 64)
}


class _Never:
    """The class of no value."""


def _row_check(kind: Type) -> Check | None:
    """A quick :meth:`Codec.check` of rows whose fields come back as they went in; it gives None for all that is not
    plainly right. None for a type that has other fields.
    """
    fields = kind.children if kind.kind == "struct" else []
    if not fields or any(field.kind not in _EXACT for _, field in fields):
        return None
    own, build = row_class(tuple(name for name, _ in fields)), tuple.__new__
    allowed = [(_EXACT[field.kind], type(None)) if field.nullable else (_EXACT[field.kind],) for _, field in fields]
    signatures = set(itertools.product(*allowed)) if len(fields) <= _MOST_FIELDS else set()
    bounds = [(i, *_BOUNDS[field.kind]) for i, (_, field) in enumerate(fields) if field.kind in _BOUNDS]

    def check(value: Any) -> Any:
        if (value.__class__ is not tuple and value.__class__ is not own) or tuple(map(type, value)) not in signatures:
            return None
        for i, least, most in bounds:
            one = value[i]
            if one is not None and not least <= one <= most:
                return None
        return build(own, value)

    return check


class Codec:
    """Of the values of one type; of a map's keys too."""

    def __init__(self, cell: str, kind: Type, pickled: bool, what: str = "a value") -> None:
        self.cell = cell
        self.type = kind
        self.pickled = pickled
        self.exact: type | None = None if pickled else _EXACT.get(kind.kind, _Never)
        """The class of values that :meth:`check` need not see; None if it need not see any."""
        self._what = what
        self._read, self._write = reader(kind), writer(kind)
        self._row = _row_check(kind)
        self.immutable = self._row is not None or self.exact not in (None, _Never)
        """Whether values are known to be of classes that cannot be changed in place."""

    def check_prefixes(self) -> None:
        """Raises `state_type` unless values are strings or bytes, which have beginnings."""
        if self.pickled or self.type.kind not in _PREFIXED:
            kept = "pickles" if self.pickled else f"`{self.type}`"
            raise PillionError(
                "state_type",
                f"the keys of the map cell `{self.cell}` are {kept}, which have no prefixes",
                hint="declare the cell with keys that are strings or bytes",
            )

    def decode(self, column: Column) -> list[Any]:
        """The values; None for null."""
        if column.type.kind == "struct" and not column.null_count:
            rows = Batch.from_arrow(column)  # field by field: a row need not be a dict first
            return list(make_rows(tuple(rows.names), [to_values(self.cell, one) for one in rows.columns]))
        values = to_values(self.cell, column)
        return [None if one is None else self._load(one) for one in values] if self.pickled else values

    def encode(self, values: list[Any], where: Callable[[int], str] | None = None) -> Column:
        """A column of values; `where` says of which key one is. Raises `state_type`."""
        if self.pickled:
            return Column.from_pylist([None if one is None else self._dump(one) for one in values], self.type)
        try:
            return self._fields(values) or from_values(self.cell, values, self.type)
        except PillionError as exc:
            raise self._wrong(values, where) or exc from None

    def _fields(self, values: list[Any]) -> Column | None:
        """Rows by their fields, where all are tuples or rows of this type; None where not: then each is looked at."""
        fields = self.type.children if self.type.kind == "struct" else []
        if not fields or not values:
            return None
        own = row_class(tuple(name for name, _ in fields))
        if not set(map(type, values)) <= {tuple, own} or set(map(len, values)) != {len(fields)}:
            return None
        columns = [from_values(self.cell, list(one), kind) for one, (_, kind) in zip(zip(*values), fields)]
        return Column.from_arrow(Batch.from_columns(columns, [name for name, _ in fields], len(values)), self.type)

    def check(self, value: Any) -> Any:
        """`value` as it would come back from the store, so that it makes no difference whether it was there: a copy,
        rounded to the type, tuples as rows. Raises `state_type`.
        """
        if value is None:
            return None
        if self._row is not None and (row := self._row(value)) is not None:
            return row
        read, write = self._read, self._write
        try:
            kept = Column.from_pylist([value if write is None else write(value)], self.type).to_pylist()[0]
            return kept if read is None else read(kept)
        except (TypeError, ValueError, OverflowError):
            pass
        try:
            return to_values(self.cell, from_values(self.cell, [value], self.type))[0]
        except (PillionError, TypeError) as exc:
            raise self._error(value, str(exc)) from None

    def _load(self, data: bytes) -> Any:
        try:
            return pickle.loads(data)
        except BaseException as exc:
            raise PillionError(
                "state_type", f"a value of the cell `{self.cell}` cannot be unpickled: {summary(exc)}"
            ) from exc

    def _dump(self, value: Any) -> bytes:
        try:
            return pickle.dumps(value, protocol=5)
        except BaseException as exc:
            raise self._error(value, f"it cannot be pickled: {summary(exc)}") from exc

    def _wrong(self, values: Sequence[Any], where: Callable[[int], str] | None) -> PillionError | None:
        """The error of the first value that cannot be converted by itself."""
        for position, value in enumerate(values):
            try:
                from_values(self.cell, [value], self.type)
            except (PillionError, TypeError) as exc:
                return self._error(value, str(exc), "" if where is None else f" of {where(position)}")
        return None

    def _error(self, value: Any, detail: str, where: str = "") -> PillionError:
        kind = type(value).__name__
        return PillionError(
            "state_type",
            f"{self._what} of type `{kind}`{where} does not fit the cell `{self.cell}` of `{self.type}`",
            hint="change the value, or the declared type; `pillion.PICKLED` keeps any Python object",
            detail=f"{safe_repr(value)}: {detail}",
        )
