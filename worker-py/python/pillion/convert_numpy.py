"""Columns to plain NumPy arrays and back, for vectorized functions.

| column | array | null |
| --- | --- | --- |
| integers, booleans | of their dtype | 0, False: `ctx.state.absent` tells |
| floats | of their dtype | NaN |
| timestamps, durations | `datetime64`, `timedelta64` | NaT |
| everything else | `object` with Python values | None |

Without nulls the memory of fixed-width columns is shared and read-only. In results NaN and NaT are null where the type
is not floating-point; masked arrays say themselves what is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pillion._native import Batch, Column, Type
from pillion.convert_rows import from_values, to_values
from pillion.results import check_length, converted, positions, unsupported, wrong_type

_MISSING: dict[str, Any] = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"), 0),
    **dict.fromkeys(("float16", "float32", "float64"), np.nan),
    "timestamp": np.datetime64("NaT"),
    "duration": np.timedelta64("NaT"),
}


def to_array(function: str, column: Column) -> Any:
    """`column` as an array. Raises `unsupported_type`."""
    missing = _MISSING.get(column.type.kind)
    if missing is None:
        return objects(to_values(function, column))
    try:
        if not column.null_count and column.type.kind != "bool":
            return np.asarray(column)
        values = np.array(column.values_interface())
        if column.null_count:
            values[np.asarray(column.null_mask())] = missing
        return values
    except (TypeError, ValueError) as exc:
        raise unsupported(function, column, exc) from exc


def objects(values: list[Any]) -> Any:
    """An array of Python objects, lists too."""
    try:
        return np.fromiter(values, dtype=object, count=len(values))
    except ValueError:  # NumPy before 1.23
        array: Any = np.empty(len(values), dtype=object)
        for position, value in enumerate(values):
            array[position] = value
        return array


def to_arrays(function: str, batch: Batch) -> dict[str, Any]:
    """The columns of a batch by name."""
    return {name: to_array(function, column) for name, column in zip(batch.names, batch.columns)}


def from_result(function: str, result: Any, wanted: Type, num_rows: int, where: str = "result") -> Column:
    """The column of an array, or of a list. Raises `result_type`, `result_length` and `result_null`."""
    if isinstance(result, (list, tuple)):
        check_length(function, len(result), num_rows)
        return from_values(function, list(result), wanted, where)
    if not isinstance(result, np.ndarray) or result.ndim != 1:
        what = f"array of {result.ndim} dimensions" if isinstance(result, np.ndarray) else type(result).__name__
        raise wrong_type(function, f"the {where} of `{function}` is a `{what}`, not a one-dimensional array")
    check_length(function, len(result), num_rows)
    if result.dtype.kind not in "biufmM":
        return from_values(function, result.tolist(), wanted, where)
    mask = np.ma.getmaskarray(result) if isinstance(result, np.ma.MaskedArray) else None
    values = np.ma.getdata(result)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return converted(function, lambda: Column.from_numpy(values, wanted, mask), wanted, where)


def from_arrays(function: str, result: Any, fields: list[tuple[str, Type]]) -> Batch:
    """The batch of a mapping from names to arrays. Raises as :func:`from_result`, and `result_columns`."""
    if not isinstance(result, Mapping):
        hint = "return a dict from the names of columns to arrays"
        raise wrong_type(function, f"`{function}` returned a `{type(result).__name__}`, not a dict of arrays", hint)
    positions(function, [name for name, _ in fields], list(result))
    rows = len(next(iter(result.values()))) if result else 0
    columns = [from_result(function, result[name], kind, rows, f"column `{name}`") for name, kind in fields]
    return Batch.from_columns(columns, [name for name, _ in fields], rows)
