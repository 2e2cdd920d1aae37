"""Checks that every result passes, whatever kind of function it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pillion._native import Column, Type
from pillion.errors import PillionError


def check_length(function: str, given: int, wanted: int) -> None:
    """Raise `result_length` unless the result has a value for each row."""
    if given != wanted:
        raise PillionError(
            "result_length",
            f"`{function}` returned {given} values for {wanted} rows",
            hint="a scalar function returns one value per row; use `map_function` to change the number of rows",
            function=function,
        )


def check_nulls(function: str, column: Column, where: str = "result") -> Column:
    """Raise `result_null`, with the first row that is null, if the type allows none."""
    if column.null_count and not column.type.nullable:
        row = column.to_pylist().index(None)
        raise PillionError(
            "result_null",
            f"the {where} of `{function}` is null in row {row}, but its type is `{column.type}`",
            hint="declare the type nullable, or return a value for every row",
            function=function,
        )
    return column


def converted(function: str, convert: Callable[[], Column], wanted: Type, where: str = "result") -> Column:
    """The column that `convert` makes, checked for nulls. Raises `result_type` and `result_null`."""
    try:
        column = convert()
    except (TypeError, ValueError, OverflowError) as exc:
        # The extension names the row, the value and both types.
        raise wrong_type(function, f"the {where} of `{function}` does not fit `{wanted}`: {exc}") from exc
    return check_nulls(function, column, where)


def wrong_type(function: str, message: str, hint: str = "") -> PillionError:
    """A `result_type` error."""
    return PillionError(
        "result_type", message, hint=hint or "change what it returns, or the declared type", function=function
    )


def unsupported(function: str, column: Column, exc: BaseException) -> PillionError:
    """The error for a column that cannot be given to this kind of function."""
    what = f"column `{column.name}`" if column.name else "the result of an earlier call"
    return PillionError(
        "unsupported_type",
        f"{what} of type `{column.type}` cannot be given to `{function}`: {exc}",
        hint="cast the column before, or declare the function with another func_type",
        function=function,
    )


def positions(function: str, wanted: Sequence[str], given: Sequence[object]) -> list[int]:
    """Where each declared column of a map function's result stands. Raises `result_columns`."""
    if list(given) == list(wanted):
        return list(range(len(given)))
    missing = [name for name in wanted if name not in given]
    extra = [str(name) for name in given if name not in wanted]
    twice = sorted({str(name) for name in given if list(given).count(name) > 1})
    if missing or extra or twice:
        parts = []
        for what, names in (("lacks", missing), ("has besides", extra), ("has twice", twice)):
            if names:
                parts.append(f"{what} {', '.join(f'`{name}`' for name in names)}")
        raise PillionError(
            "result_columns",
            f"the result of `{function}` {'; '.join(parts)}",
            hint=f"its declared columns are: {', '.join(wanted)}",
            function=function,
        )
    return [list(given).index(name) for name in wanted]


def arrow_data(value: Any) -> Any:
    """`value` as something with an Arrow capsule: chunked arrays of old versions of pyarrow have none."""
    if hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_c_stream__"):
        return value
    return value.combine_chunks()
