"""Columns to plain Python values and back: general functions. Needs no other package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from pillion._native import Column, ConversionError, Type
from pillion.errors import PillionError
from pillion.results import converted, unsupported
from pillion.row import Row, row_class

_Convert = Callable[[Any], Any]
_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")


def to_values(function: str, column: Column) -> list[Any]:
    """The values of `column`, None for null; structs, also nested ones, as :class:`Row`. Raises `unsupported_type`."""
    try:
        values = column.to_pylist()
    except (TypeError, ValueError, OverflowError) as exc:
        raise unsupported(function, column, exc) from exc
    convert = reader(column.type)
    return values if convert is None else [convert(value) for value in values]


def from_values(
    function: str, values: list[Any], wanted: Type, where: str = "result", *, nan_is_null: bool = False
) -> Column:
    """A column of `values`; rows, tuples, dicts and dataclasses are taken for structs.

    Raises `result_type` and `result_null`.
    """
    convert = writer(wanted)

    def make() -> Column:
        plain = values if convert is None else [convert(value) for value in values]
        try:
            return Column.from_pylist(plain, wanted, "", nan_is_null)
        except ConversionError:
            # Values of NumPy are common enough to be unwrapped, but too rare to look for them in every batch.
            unwrapped = [plain_value(value) for value in plain]
            if all(new is old for new, old in zip(unwrapped, plain)):
                raise
        return Column.from_pylist(unwrapped, wanted, "", nan_is_null)

    return converted(function, make, wanted, where)


def plain_value(value: Any) -> Any:
    """NumPy scalars and arrays as Python's own values; everything else as it is."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        items = [plain_value(item) for item in value]
        return value if all(new is old for new, old in zip(items, value)) else items
    return value


def reader(given: Type) -> _Convert | None:
    """How to turn a value of this type into what a function is given; None if it is so already."""
    if given.kind == "struct":
        cls = row_class(tuple(name for name, _ in given.children))
        inner = [reader(child) for _, child in given.children]
        build = tuple.__new__
        if not any(inner):
            return lambda value: None if value is None else build(cls, value.values())

        def read_row(value: dict[str, Any] | None) -> Row | None:
            if value is None:
                return None
            return build(cls, [item if read is None else read(item) for read, item in zip(inner, value.values())])

        return read_row
    return _nested(given, reader)


def writer(wanted: Type) -> _Convert | None:
    """How to turn a value that a function returned into what the extension takes; None if it takes it so."""
    if wanted.kind == "struct":
        names = tuple(name for name, _ in wanted.children)
        inner = [writer(child) for _, child in wanted.children]

        def write_row(value: Any) -> Any:
            if value is None:
                return None
            items = row_values(value, names)
            return dict(zip(names, (item if write is None else write(item) for write, item in zip(inner, items))))

        return write_row
    return _nested(wanted, writer)


def _nested(outer: Type, converter: Callable[[Type], _Convert | None]) -> _Convert | None:
    if outer.kind in _LISTS:
        each = converter(outer.children[0][1])
        if each is None:
            return None
        return lambda value: [each(item) for item in value] if isinstance(value, (list, tuple)) else value
    if outer.kind == "map":
        each_value = converter(outer.children[1][1])
        if each_value is None:
            return None
        return lambda value: {k: each_value(v) for k, v in value.items()} if isinstance(value, dict) else value
    return None


def row_values(value: Any, names: tuple[str, ...]) -> Sequence[Any]:
    """The fields of one returned row, in the order of `names`. Raises `TypeError` with what is wrong."""
    if isinstance(value, Row) and value._fields:
        if value._fields == names:
            return value
        value = value.as_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        if value.keys() != set(names):
            missing = [name for name in names if name not in value]
            extra = [str(name) for name in value if name not in names]
            raise RowShapeError(_mismatch(missing, extra))
        return [value[name] for name in names]
    if isinstance(value, tuple):
        if len(value) != len(names):
            raise RowShapeError(f"a row of {len(value)} values for {len(names)} columns")
        return value
    raise TypeError(f"a value of type `{type(value).__name__}` is no row")


class RowShapeError(TypeError):
    """A row whose fields are not the declared ones."""


def _mismatch(missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(f'`{name}`' for name in missing)}")
    if extra:
        parts.append(f"has besides {', '.join(f'`{name}`' for name in extra)}")
    return f"a row {' and '.join(parts)}"


def columns_of_rows(function: str, rows: list[Any], fields: list[tuple[str, Type]]) -> list[Column]:
    """Columns of what a general map function returned. Raises `result_columns`, `result_type` and `result_null`."""
    names = tuple(name for name, _ in fields)
    values = []
    for index, row in enumerate(rows):
        try:
            values.append(row_values(row, names))
        except TypeError as exc:
            code = "result_columns" if isinstance(exc, RowShapeError) else "result_type"
            hint = f"return a Row, a tuple or a dict of: {', '.join(names)}"
            raise PillionError(
                code, f"`{function}` returned {exc} (output row {index})", hint=hint, function=function
            ) from None
    columns = list(zip(*values)) if values else [() for _ in fields]
    return [
        from_values(function, list(column), kind, f"column `{name}`") for column, (name, kind) in zip(columns, fields)
    ]
