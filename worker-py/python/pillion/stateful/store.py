"""The cells of one function: declared while it is opened, loaded and collected once per bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillion._native import Batch, Column
from pillion.bundle import BINARY, PUT, SPACE, UINT8, UINT32, Bundle, Wanted
from pillion.cells import AGGREGATING, BROADCAST, LIST, MAP, REDUCING, VALUE, CellSpec
from pillion.errors import PillionError
from pillion.stateful import collections, handles
from pillion.stateful.codec import Codec
from pillion.stateful.handles import Cursor, Handle
from pillion.stateful.paged import Cache, Paged, PagedList, PagedMap, Part
from pillion.stateful.planes import PAGE, Deferred, Lazy, Nowhere, Spaced

Address = tuple[int, "bytes | None"]
"""Position of a key, and the namespace."""

_CLASSES: dict[str, tuple[type[Handle], type[Handle]]] = {
    VALUE: (handles.ValueCell, handles.TouchedValueCell),
    REDUCING: (handles.ReducingCell, handles.TouchedReducingCell),
    AGGREGATING: (handles.AggregatingCell, handles.TouchedAggregatingCell),
    LIST: (collections.ListCell, collections.TouchedListCell),
    MAP: (collections.MapCell, collections.TouchedMapCell),
    BROADCAST: (collections.BroadcastCell, collections.BroadcastCell),
}

_OUTSIDE = "outside of a call", "state belongs to a key: use it in `process_element` or `on_timer`"
_NO_KEY = "without a key", "use it in a keyed function, and not in `process_broadcast_element`"


class Cell:
    """One declared cell: a handle at the empty namespace, and if there are windows one by namespace."""

    def __init__(self, spec: CellSpec, cursor: Cursor, spaced_cursor: Cursor) -> None:
        self.spec = spec
        self.codec = Codec(spec.name, spec.value, spec.pickled)
        self.key_codec = None if spec.key is None else Codec(spec.name, spec.key, spec.pickled_key, "a key")
        if spec.kind == BROADCAST:
            cursor = Cursor()
            cursor.k = 0
        self.plain = self._handle(cursor)
        self.spaced = self._handle(spaced_cursor)
        self.leave()

    def _handle(self, cursor: Cursor) -> Any:
        cls = _CLASSES[self.spec.kind][self.spec.ttl is not None and self.spec.ttl.count_reads]
        more = () if self.spec.function is None else (self.spec.function,)
        return cls(self.spec.name, cursor, self.codec, self.key_codec, *more)

    def enter(self, bundle: Bundle, spaced: bool) -> None:
        """Make the handles show this bundle's values."""
        name, broadcast = self.spec.name, self.spec.kind == BROADCAST
        keyed = len(bundle.keys) if not broadcast else 1
        if not broadcast and (bundle.key_index is None and bundle.timers is None):
            self.plain.begin(Nowhere(name, *_NO_KEY))
            return
        column = bundle.state.get(name)
        if column is None:
            self.plain.begin(self._deferred(bundle, keyed))
        elif self.spec.kind in (VALUE, REDUCING, AGGREGATING):
            self.plain.begin(self.decode(column))
        else:
            self.plain.begin(Lazy(lambda: self.decode(column)))
        if broadcast:
            self.plain.writable = bundle.broadcast
        elif spaced:
            self.spaced.begin(Spaced(lambda addresses: fetch_all(bundle, [(self, addresses)])[0]))

    def leave(self) -> None:
        """Forget the bundle; afterwards every use is an error."""
        for handle in (self.plain, self.spaced):
            handle.begin(Nowhere(self.spec.name, *_OUTSIDE))

    def preload(self, addresses: Sequence[tuple[int, bytes]], values: Sequence[Any]) -> None:
        """Take the values at these addresses, which somebody has fetched for several cells at once."""
        plane = self.spaced._values
        for address, value in zip(addresses, values):
            plane.setdefault(address, value)

    def offer(self, addresses: Sequence[tuple[int, bytes]], column: Column) -> None:
        """Take the values at these addresses, decoded when the first of them is read."""
        self.spaced._values.offer(addresses, lambda: self.decode(column))

    def missing(self, addresses: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """The addresses whose values are not here yet."""
        return self.spaced._values.missing(addresses)  # type: ignore[no-any-return]

    def absent(self, address: tuple[int, bytes]) -> None:
        """Take it that there is nothing at this address, unless something is known of it."""
        self.spaced._values.setdefault(address, None)

    def wanted(
        self, addresses: Sequence[Address], after: list[bytes | None] | None = None, entries: Column | None = None
    ) -> Wanted:
        """What to ask of `Bundle.fetch`: all that is at these addresses, what comes next of it, or single entries."""
        columns = {
            "key": Column.from_pylist([key for key, _ in addresses], UINT32),
            "namespace": Column.from_pylist([space or b"" for _, space in addresses], SPACE),
        }
        if after is not None:
            columns["after"] = Column.from_pylist(after, BINARY)
        if entries is not None:
            columns["sub"] = entries
        return self.spec.name, Batch.from_columns(list(columns.values()), list(columns), len(addresses))

    def _deferred(self, bundle: Bundle, keys: int) -> Any:
        """The values of a cell that did not come with the bundle."""
        if self.spec.kind not in (LIST, MAP, BROADCAST):
            return Deferred(lambda page: fetch_all(bundle, [(self, [(one, None) for one in page])])[0], keys)

        def fetch(page: list[int]) -> list[Any]:
            column, following = bundle.fetch([self.wanted([(one, None) for one in page])])[0]
            tokens = [None] * len(page) if following is None else following.to_pylist()
            return [
                value if token is None else self._paged(bundle, position, (value, token))
                for position, value, token in zip(page, self.decode(column), tokens)
            ]

        return Cache(fetch, keys, PAGE)

    def _paged(self, bundle: Bundle, position: int, first: Part) -> Paged:
        def part(wanted: Wanted) -> Part:
            column, following = bundle.fetch([wanted])[0]
            return self.decode(column)[0], None if following is None else following.to_pylist()[0]

        def read(after: bytes) -> Part:
            return part(self.wanted([(position, None)], [after]))

        def lookup(key: Any) -> dict[Any, Any] | None:
            if key is None or codec is None:
                return None
            try:
                entries = codec.encode([key])
            except PillionError:
                return None  # of a type that no key has
            found, after = part(self.wanted([(position, None)], entries=entries))
            while found is None and after is not None:
                found, after = part(self.wanted([(position, None)], [after], entries))
            return found  # type: ignore[no-any-return]

        codec = self.key_codec
        return PagedList(first, read) if codec is None else PagedMap(first, read, lookup)

    def joined(self, before: Any, value: Any) -> Any:
        """A value of which a part was there before."""
        if before is None or value is None:
            return value if before is None else before
        if self.spec.kind == LIST:
            before.extend(value)
            return before
        return {**before, **value} if self.key_codec is not None else value

    def decode(self, column: Column) -> list[Any]:
        """The values as the handles take them."""
        if self.spec.kind == LIST:
            ends, elements = column.flatten()
            values = self.codec.decode(elements)
            return [values[start:end] or None for start, end in zip((0, *ends), ends)]
        if self.key_codec is not None:
            ends, entries = column.flatten()
            fields = Batch.from_arrow(entries).columns
            pairs = list(zip(self.key_codec.decode(fields[0]), self.codec.decode(fields[1])))
            return [dict(pairs[start:end]) or None for start, end in zip((0, *ends), ends)]
        return self.codec.decode(column)

    def writes(self, key_name: Any) -> list[tuple[str, Batch]]:
        """The batch of what the bundle changed, if anything."""
        plain, spaced = self.plain.writes(), self.spaced.writes()
        if not plain and not spaced:
            return []
        keys = [address for address, _, _, _ in plain] + [address[0] for address, _, _, _ in spaced]
        operations = [one for _, one, _, _ in plain] + [one for _, one, _, _ in spaced]
        values = [one for _, _, _, one in plain] + [one for _, _, _, one in spaced]
        columns = {"key": Column.from_pylist(keys, UINT32)}
        if spaced:
            spaces = [None] * len(plain) + [address[1] for address, _, _, _ in spaced]
            columns["namespace"] = Column.from_pylist(spaces, BINARY)
        if any(one != PUT for one in operations):
            columns["op"] = Column.from_pylist(operations, UINT8)
        if self.key_codec is not None:
            subs = [one for _, _, one, _ in plain] + [one for _, _, one, _ in spaced]
            columns["sub"] = self.key_codec.encode(subs)
        columns["value"] = self.codec.encode(values, lambda position: key_name(keys[position]))
        return [(self.spec.name, Batch.from_columns(list(columns.values()), list(columns), len(keys)))]


def fetch_all(bundle: Bundle, asked: Sequence[tuple[Cell, Sequence[Address]]]) -> list[list[Any]]:
    """The decoded values of cells at addresses: all of them, in as few rounds as their size allows."""
    found: list[list[Any]] = [[None] * len(addresses) for _, addresses in asked]
    rounds: list[tuple[int, list[int], list[bytes | None] | None]] = [
        (at, list(range(len(addresses))), None) for at, (_, addresses) in enumerate(asked)
    ]
    while rounds:
        wanted = [asked[at][0].wanted([asked[at][1][one] for one in rows], after) for at, rows, after in rounds]
        later = []
        for (at, rows, _), (column, following) in zip(rounds, bundle.fetch(wanted)):
            cell, values = asked[at][0], found[at]
            for row, value in zip(rows, cell.decode(column)):
                values[row] = cell.joined(values[row], value)
            if following is not None:
                rest = [(row, token) for row, token in zip(rows, following.to_pylist()) if token is not None]
                if rest:
                    later.append((at, [row for row, _ in rest], [token for _, token in rest]))
        rounds = later  # type: ignore[assignment]
    return found


class Store:
    """The cells of one function, by name."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.cells: dict[str, Cell] = {}
        self.cursor = Cursor()
        self.spaced_cursor = Cursor()
        self.sealed = False
        """Set after `open`: from then on the sidecar reads the declared cells ahead."""

    def extended(self) -> Store:
        """The same cells, and room for those that only one plan has: they depend on its input."""
        made = Store(self.label)
        made.cells = dict(self.cells)
        made.cursor, made.spaced_cursor = self.cursor, self.spaced_cursor
        return made

    def declare(self, spec: CellSpec) -> Cell:
        """The cell of this declaration. Raises `state_undeclared`, `declaration_invalid`."""
        cell = self.cells.get(spec.name)
        if cell is not None:
            if not cell.spec.same(spec):
                raise PillionError(
                    "declaration_invalid",
                    f"the cell `{spec.name}` is declared twice, as `{_show(cell.spec)}` and as `{_show(spec)}`",
                )
            return cell
        if self.sealed:
            raise undeclared(spec.name, self.cells)
        cell = self.cells[spec.name] = Cell(spec, self.cursor, self.spaced_cursor)
        return cell

    def enter(self, bundle: Bundle, spaced: bool = False) -> None:
        """Show a bundle's values."""
        for cell in self.cells.values():
            cell.enter(bundle, spaced)

    def writes(self, bundle: Bundle) -> list[tuple[str, Batch]]:
        """Everything that changed. Raises `state_type`."""

        def key_name(position: int) -> str:
            columns = bundle.keys.columns
            shown = [repr(column.slice(position, 1).to_pylist()[0]) for column in columns]
            return f"the key {', '.join(shown)}" if shown else "the broadcast map"

        return [batch for cell in self.cells.values() for batch in cell.writes(key_name)]

    def leave(self) -> None:
        """Forget the bundle."""
        self.cursor.k = self.spaced_cursor.k = None
        for cell in self.cells.values():
            cell.leave()


def undeclared(name: str, known: Sequence[str] | dict[str, Any]) -> PillionError:
    """The error for a cell that nobody announced."""
    has = f"it declares {', '.join(f'`{one}`' for one in known)}" if known else "it declares none"
    return PillionError(
        "state_undeclared",
        f"the cell `{name}` was not declared when the function was opened; {has}",
        hint="declare it as a class attribute, or with `runtime_context.get_state(...)` in `open`",
    )


def _show(spec: CellSpec) -> str:
    key = "" if spec.key is None else f"{spec.key}, "
    return f"{spec.kind}({key}{spec.value})"
