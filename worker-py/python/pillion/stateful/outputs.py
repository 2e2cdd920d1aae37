"""What calls yield, sorted into the main output and the side outputs, and made columns once per bundle."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.convert_rows import columns_of_rows, from_values, to_values
from pillion.errors import PillionError, summary
from pillion.functions import OutputTag
from pillion.row import make_rows
from pillion.types import to_type

Fields = list[tuple[str, Type]]

ROW, SINGLE, PICKLED = "row", "single", "pickled"
"""How an element lies in columns: a row in one column per field; a value in the only column; its pickle there."""

_BYTES = Type.parse("bytes")


class Output:
    """One output: its columns, and how elements lie in them."""

    def __init__(self, fields: Fields, form: str) -> None:
        self.fields = fields
        self.form = form

    @staticmethod
    def of(declared: object) -> Output:
        """The output that a type means: a row's fields, or one column `value`. Raises `declaration_invalid`."""
        if getattr(declared, "pickled", False):
            return Output([("value", _BYTES)], PICKLED)
        found = to_type(declared)
        if found.kind == "struct":
            return Output(found.children, ROW)
        return Output([("value", found)], SINGLE)

    @property
    def element(self) -> object:
        """The type of an element, as declarations take it."""
        if self.form == PICKLED:
            from pillion.cells import PICKLED as pickled

            return pickled
        return dict(self.fields) if self.form == ROW else self.fields[0][1]

    def batch(self, label: str, values: list[Any], where: str) -> Batch:
        """The columns of these elements. Raises `result_type`, `result_columns`, `result_null`."""
        names = [name for name, _ in self.fields]
        try:
            if self.form == ROW:
                columns = self._rows(label, values)
            elif self.form == PICKLED:
                columns = [Column.from_pylist([_pickled(label, one) for one in values], _BYTES)]
            else:
                columns = [from_values(label, values, self.fields[0][1], where)]
        except PillionError as exc:
            raise _unknown_tag(label, values, exc) from exc
        return Batch.from_columns(columns, names, len(values))

    def read(self, label: str, batch: Batch) -> Iterable[Any]:
        """The elements of a batch of these columns."""
        if self.form == ROW:
            return make_rows(tuple(batch.names), [to_values(label, column) for column in batch.columns])
        values = to_values(label, batch.columns[0])
        return values if self.form == SINGLE else map(pickle.loads, values)

    def _rows(self, label: str, values: list[Any]) -> list[Column]:
        width = len(self.fields)
        if not values or set(map(type, values)) != {tuple} or set(map(len, values)) != {width}:
            return columns_of_rows(label, values, self.fields)
        return [
            from_values(label, list(column), kind, f"column `{name}`")
            for column, (name, kind) in zip(zip(*values), self.fields)
        ]


class Outputs:
    """The main output and the side outputs of a function, and what a bundle has put there."""

    def __init__(self, label: str, main: Output, sides: list[tuple[OutputTag, Output]]) -> None:
        self.label = label
        self.main = main
        self.sides = sides
        self._positions = {tag.tag_id: position for position, (tag, _) in enumerate(sides)}
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier bundle has put here."""
        self.values: list[Any] = []
        self.side_values: list[list[Any]] = [[] for _ in self.sides]
        self.batches: list[tuple[int, Batch]] = []

    def take(self, results: Iterable[Any]) -> None:
        """Add what one call gave. Raises `result_type` for a tag that was not declared."""
        if not self.sides:
            self.values.extend(results)  # a tag is found if the rows cannot be converted
            return
        append = self.values.append
        for one in results:
            if one.__class__ is tuple and len(one) == 2 and isinstance(one[0], OutputTag):
                self.send(one[0], one[1])
            else:
                append(one)

    def send(self, tag: OutputTag, value: Any) -> None:
        """Add to a side output."""
        self.side_values[self.position(tag)].append(value)

    def mark(self) -> list[int]:
        """How much there is, for :meth:`undo`."""
        return [len(self.values), *map(len, self.side_values)]

    def undo(self, mark: list[int]) -> None:
        """Take back what was added since."""
        for values, length in zip((self.values, *self.side_values), mark):
            del values[length:]

    def position(self, tag: OutputTag | str) -> int:
        """Which side output a tag means. Raises `result_type` if it was not declared."""
        name = tag if isinstance(tag, str) else tag.tag_id
        position = self._positions.get(name)
        if position is None:
            raise _undeclared_tag(self.label, name)
        return position

    def collect(self) -> list[tuple[int, Batch]]:
        """The batches of the bundle, main output first."""
        found = list(self.batches)
        if self.values:
            found.append((0, self.main.batch(self.label, self.values, "result")))
        for position, (values, (tag, output)) in enumerate(zip(self.side_values, self.sides)):
            if values:
                found.append((position + 1, output.batch(self.label, values, f"side output `{tag.tag_id}`")))
        return found


def _pickled(label: str, value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except BaseException as exc:
        message = f"`{label}` gave a value that cannot be pickled: {summary(exc)}"
        raise PillionError("result_type", message, function=label) from exc


def _unknown_tag(label: str, values: list[Any], exc: PillionError) -> PillionError:
    """The error for an undeclared tag among the rows, if that is what is wrong."""
    for one in values:
        if one.__class__ is tuple and one and isinstance(one[0], OutputTag):
            return _undeclared_tag(label, one[0].tag_id)
    return exc


def _undeclared_tag(label: str, tag: str) -> PillionError:
    return PillionError(
        "result_type",
        f"`{label}` sent a value to the side output `{tag}`, which it does not declare",
        hint="name the tag in `side_outputs` of its declaration",
        function=label,
    )
