"""The state of a bundle's keys as columns: what vectorized functions read and write."""

from __future__ import annotations

from typing import Any

from pillion._native import Batch, Column
from pillion.bundle import APPEND, CLEAR, CLEAR_PREFIX, PUT, REMOVE, TOUCH, UINT8, UINT32, Bundle
from pillion.cells import BROADCAST, LIST, MAP
from pillion.errors import PillionError
from pillion.stateful.codec import Codec
from pillion.stateful.collections import begins
from pillion.stateful.forms import Form
from pillion.stateful.store import Cell, Store, undeclared

Patch = tuple[int, Column, "Column | None", "Column | None"]
"""An operation, positions of keys, entries of maps, values."""


class States:
    """The cells of a bundle's keys as columns.

    `state["cell"]` gives the values, null where there is none; `state["cell"] = values` sets them all, and null clears.
    Lists and maps, and values that are pickled, are Python objects, except in pyarrow's form. Reading after writing
    gives what was written.
    """

    def __init__(self, bundle: Bundle, form: Form, store: Store) -> None:
        self._bundle: Bundle | None = bundle
        self._form, self._store = form, store
        self._columns: dict[str, Column] = {}
        self._patches: dict[str, list[Patch]] = {}
        self._writes: list[tuple[str, Batch]] = []

    def __getitem__(self, name: str) -> Any:
        cell, column = self._cell(name), self._column(name)
        if cell.spec.kind in (LIST, MAP) or cell.spec.pickled:
            return self._form.objects(cell.decode(column), column)
        return self._form.column(column)

    def __setitem__(self, name: str, values: Any) -> None:
        self.put(name, values)

    def absent(self, name: str) -> Any:
        """For each key whether it has no value."""
        return self._form.absent(self._column(name))

    def put(self, name: str, values: Any, keys: Any = None) -> None:
        """Set the values of these keys: positions in `ctx.keys`, or a mask over it; left out, all. Null clears. Raises
        `state_type`.
        """
        cell, positions = self._cell(name), self.positions(keys)
        if cell.spec.kind in (LIST, MAP):
            raise _kind(cell, "append" if cell.spec.kind == LIST else "put_entries")
        column = self._values(cell, values, len(positions))
        columns = {"key": positions, "value": column}
        if column.null_count:
            columns["op"] = self._form.clears(column)
        self._write(name, columns)
        if keys is None:
            self._columns[name] = column
            self._patches.pop(name, None)
        else:
            self._patch(name, (PUT, positions, None, column))

    def clear(self, name: str, keys: Any = None) -> None:
        """Drop the values of these keys, whatever kind of cell it is."""
        cell, positions = self._cell(name), self.positions(keys)
        self._operate(cell, CLEAR, positions)
        self._patch(name, (CLEAR, positions, None, None))

    def append(self, name: str, values: Any, keys: Any = None) -> None:
        """Append a value to the list of each of these keys; a key may come several times, and gets its values in order.
        Raises `state_type`.
        """
        cell, positions = self._cell(name), self.positions(keys)
        if cell.spec.kind != LIST:
            raise _kind(cell, "put")
        column = self._values(cell, values, len(positions))
        if column.null_count:
            raise PillionError("state_type", f"the list cell `{name}` takes no null")
        self._write(name, {"key": positions, "op": operations(APPEND, len(positions)), "value": column})
        self._patch(name, (APPEND, positions, None, column))

    def put_entries(self, name: str, entries: Any, values: Any, keys: Any = None) -> None:
        """Set an entry in the map of each of these keys: its key, and its value. Raises `state_type`."""
        cell, positions = self._cell(name), self.positions(keys)
        column = self._values(cell, values, len(positions))
        subs = self._subs(cell, entries, len(positions))
        operation = operations(PUT, len(positions))
        self._write(name, {"key": positions, "op": operation, "sub": subs, "value": column})
        self._patch(name, (PUT, positions, subs, column))

    def remove_entries(self, name: str, entries: Any, keys: Any = None) -> None:
        """Drop an entry of the map of each of these keys."""
        cell, positions = self._cell(name), self.positions(keys)
        subs = self._subs(cell, entries, len(positions))
        self._operate(cell, REMOVE, positions, subs)
        self._patch(name, (REMOVE, positions, subs, None))

    def clear_prefixes(self, name: str, prefixes: Any, keys: Any = None) -> None:
        """Drop the entries whose keys begin with a string, or with bytes, from the map of each of these keys: a prefix
        for each; a key may come several times. Reads nothing. Raises `state_type`.
        """
        cell, positions = self._cell(name), self.positions(keys)
        if cell.key_codec is not None:
            cell.key_codec.check_prefixes()
        subs = self._subs(cell, prefixes, len(positions))
        if subs.null_count:
            raise PillionError("state_type", f"a prefix of keys of the map cell `{name}` is null")
        self._operate(cell, CLEAR_PREFIX, positions, subs)
        self._patch(name, (CLEAR_PREFIX, positions, subs, None))

    def positions(self, keys: Any) -> Column:
        """Positions of keys as a column. Raises `state_without_key` for one that the bundle does not have."""
        most = 0 if self._bundle is None else len(self._bundle.keys)
        if keys is None:
            return Column.sequence(most)
        found, largest = self._form.positions(keys)
        if largest >= most:
            message = f"there is no key at the position {largest}: the bundle has {most}"
            raise PillionError("state_without_key", message, hint="positions are those in `ctx.keys`")
        return self._form.from_column(found, UINT32)

    def _cell(self, name: str) -> Cell:
        if self._bundle is None:
            raise PillionError("state_without_key", f"the cell `{name}` was used outside of a call")
        if self._bundle.key_index is None and self._bundle.timers is None:
            raise PillionError("state_without_key", f"the cell `{name}` was used without a key")
        cell = self._store.cells.get(name)
        if cell is None:
            raise undeclared(name, self._store.cells)
        if cell.spec.kind == BROADCAST:
            message = f"`{name}` is broadcast state, which is no column"
            raise PillionError("declaration_invalid", message, hint="use `ctx.get_broadcast_state`")
        return cell

    def _column(self, name: str) -> Column:
        """The values as they now are."""
        cell, column, bundle = self._cell(name), self._columns.get(name), self._bundle
        if column is None and bundle is not None:
            column = bundle.state.get(name)
            if column is None:
                column = _fetched(cell, bundle)
            if cell.spec.ttl is not None and cell.spec.ttl.count_reads:
                self._operate(cell, TOUCH, Column.sequence(len(column)))
        if column is None:
            raise PillionError("invariant_broken", f"there is no column of `{name}`")
        for patch in self._patches.pop(name, ()):
            column = _patched(cell, column, patch)
        self._columns[name] = column
        return column

    def _values(self, cell: Cell, values: Any, rows: int) -> Column:
        if len(values) != rows:
            raise mismatch(f"values for the cell `{cell.spec.name}`", len(values), rows)
        return self._encoded("values", values, cell.codec)

    def _subs(self, cell: Cell, entries: Any, rows: int) -> Column:
        if cell.spec.kind != MAP or cell.key_codec is None:
            raise _kind(cell, "append" if cell.spec.kind == LIST else "put")
        if len(entries) != rows:
            raise mismatch(f"entries for the cell `{cell.spec.name}`", len(entries), rows)
        return self._encoded("keys", entries, cell.key_codec)

    def _encoded(self, what: str, given: Any, codec: Codec) -> Column:
        """A column of a cell's type."""
        if codec.pickled:
            return codec.encode(list(given))
        try:
            return self._form.from_column(given, codec.type)
        except PillionError as exc:
            message = f"{what} do not fit the cell `{codec.cell}` of `{codec.type}`"
            raise PillionError("state_type", message, detail=exc.message) from exc

    def _operate(self, cell: Cell, op: int, positions: Column, subs: Column | None = None) -> None:
        """An operation that has no values."""
        rows = len(positions)
        columns = {"key": positions, "op": operations(op, rows)}
        if cell.key_codec is not None:
            columns["sub"] = subs if subs is not None else _nulls(cell.key_codec.type, rows)
        columns["value"] = _nulls(cell.codec.type, rows)
        self._write(cell.spec.name, columns)

    def _write(self, name: str, columns: dict[str, Column]) -> None:
        self._writes.append((name, Batch.from_columns(list(columns.values()), list(columns), len(columns["key"]))))

    def _patch(self, name: str, patch: Patch) -> None:
        """Remember a write to some of the keys, for a later read."""
        self._patches.setdefault(name, []).append(patch)


def _fetched(cell: Cell, bundle: Bundle) -> Column:
    """The values of all keys, of a cell that did not come with the bundle."""
    column, after = bundle.fetch([cell.wanted([(one, None) for one in range(len(bundle.keys))])])[0]
    if after is None:
        return column
    found, tokens = column.to_pylist(), dict(enumerate(after.to_pylist()))
    while rest := {at: token for at, token in tokens.items() if token is not None}:
        more, after = bundle.fetch([cell.wanted([(at, None) for at in rest], list(rest.values()))])[0]
        for at, value in zip(rest, more.to_pylist()):
            found[at] = [*found[at], *value] if found[at] and value else found[at] or value
        tokens = {} if after is None else dict(zip(rest, after.to_pylist()))
    return Column.from_pylist(found, column.type, column.name)


def _patched(cell: Cell, column: Column, patch: Patch) -> Column:
    """The column after a write, value by value: who reads after such a write is rare."""
    op, positions, subs, values = patch
    found = column.to_pylist()
    nothing = [None] * len(positions)
    entries = nothing if subs is None else subs.to_pylist()
    for at, entry, value in zip(positions.to_pylist(), entries, nothing if values is None else values.to_pylist()):
        if op == CLEAR:
            found[at] = None
        elif op == APPEND:
            found[at] = [*(found[at] or ()), value]
        elif op == CLEAR_PREFIX:
            found[at] = [one for one in found[at] or () if not begins(one["key"], (entry,))] or None
        elif subs is not None:
            rest = [one for one in found[at] or () if one["key"] != entry]
            found[at] = ([*rest, {"key": entry, "value": value}] if op == PUT else rest) or None
        else:
            found[at] = value
    return Column.from_pylist(found, column.type, column.name)


def _nulls(kind: Any, rows: int) -> Column:
    return Column.repeat(None, rows, kind.with_nullable(True))


def operations(op: int, rows: int) -> Column:
    """The same operation for all rows."""
    return Column.repeat(op, rows, UINT8)


def mismatch(what: str, given: int, wanted: int) -> PillionError:
    """The error for columns of unequal length."""
    hint = "values are aligned with `ctx.keys`, or with the positions given as `keys`"
    return PillionError("result_length", f"there are {given} {what}, for {wanted} keys", hint=hint)


def _kind(cell: Cell, method: str) -> PillionError:
    return PillionError(
        "state_type",
        f"`{cell.spec.name}` is a {cell.spec.kind} cell, which is not written this way",
        hint=f"use `ctx.state.{method}`",
    )
