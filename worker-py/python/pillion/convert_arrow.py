"""Columns to `pyarrow` and back, through the Arrow C data interface: nothing is copied."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pillion._native import Batch, Column, Type
from pillion.errors import PillionError
from pillion.results import arrow_data, check_length, check_nulls, converted, positions, unsupported, wrong_type


def to_array(function: str, column: Column) -> Any:
    """`column` as a `pyarrow.Array` over the same memory. Raises `unsupported_type`."""
    try:
        return pa.array(column)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise unsupported(function, column, exc) from exc


def to_record_batch(function: str, batch: Batch) -> Any:
    """`batch` as a `pyarrow.RecordBatch` over the same memory. Raises `unsupported_type`."""
    try:
        return pa.record_batch(batch)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise PillionError(
            "unsupported_type", f"the batch cannot be given to `{function}`: {exc}", function=function
        ) from exc


def from_result(function: str, result: Any, wanted: Type, num_rows: int) -> Column:
    """The column that an arrow function returned. Raises `result_type`, `result_length` and `result_null`."""
    if not isinstance(result, (pa.Array, pa.ChunkedArray)) and (
        isinstance(result, (pa.Scalar, str)) or not _speaks_arrow(result)
    ):
        hint = "it is called once per batch, and returns one array"
        raise wrong_type(function, f"`{function}` returned a `{type(result).__name__}`, not a `pyarrow.Array`", hint)
    check_length(function, len(result), num_rows)
    return converted(function, lambda: Column.from_arrow(arrow_data(result), wanted), wanted)


def from_record_batch(function: str, result: Any, fields: list[tuple[str, Type]]) -> Batch:
    """The batch that an arrow map function returned, with the declared columns. Raises as :func:`from_result`, and
    `result_columns`.
    """
    if isinstance(result, (pa.Array, pa.ChunkedArray)) or not _speaks_arrow(result):
        hint = "return a `pyarrow.RecordBatch` or a `pyarrow.Table`"
        raise wrong_type(function, f"`{function}` returned a `{type(result).__name__}`, not a record batch", hint)
    batch = Batch.from_arrow(result)
    names = [name for name, _ in fields]
    given = batch.columns
    columns = []
    for position, (name, wanted) in zip(positions(function, names, batch.names), fields):
        column = given[position]
        where = f"column `{name}`"
        if column.type == wanted:
            columns.append(check_nulls(function, column, where))
        else:
            columns.append(_cast(function, column, wanted, where))
    return Batch.from_columns(columns, names, batch.num_rows)


def _cast(function: str, column: Column, wanted: Type, where: str) -> Column:
    return converted(function, lambda: Column.from_arrow(column, wanted), wanted, where)


def _speaks_arrow(value: object) -> bool:
    return hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_c_stream__")
