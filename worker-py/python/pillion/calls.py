"""One call of a function with a batch's columns, for each kind of function. Every call returns its result and the ns
in user code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from types import ModuleType
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.convert_rows import columns_of_rows, from_values, to_values
from pillion.errors import PillionError, failed_row, raised, summary
from pillion.row import make_rows

ScalarCall = Callable[[list[Column], int], tuple[Column, int]]
MapCall = Callable[[Batch], tuple[Batch, int]]

_MIN_PYARROW = 14


def scalar_call(
    label: str, func_type: str, function: Callable[..., Any], result: Type, names: list[str], null_on_error: bool
) -> ScalarCall:
    """How to call a scalar function; `names` are those of its arguments, for error messages. Raises
    `package_missing`.
    """
    if func_type == "general":
        return _general_call(label, function, result, names, null_on_error)
    convert = converters(label, func_type)
    return (
        _pandas_call(label, function, result, convert)
        if func_type == "pandas"
        else _arrow_call(label, function, result, convert)
    )


def map_call(label: str, func_type: str, function: Callable[..., Any], fields: list[tuple[str, Type]]) -> MapCall:
    """How to call a map function whose output has these columns. Raises `package_missing`."""
    if func_type == "general":
        return _general_map(label, function, fields)
    convert = converters(label, func_type)
    make = convert.to_frame if func_type == "pandas" else convert.to_record_batch
    take = convert.from_frame if func_type == "pandas" else convert.from_record_batch

    def call(batch: Batch) -> tuple[Batch, int]:
        result, elapsed = _timed(label, function, make(label, batch))
        return take(label, result, fields), elapsed

    return call


def converters(label: str, func_type: str) -> ModuleType:
    """The conversions to and from a package, which is imported here and not before."""
    package = {"pandas": "pandas", "numpy": "numpy"}.get(func_type, "pyarrow")
    hint = f"add `{package}` to the requirements of the environment, or declare the function as general"
    try:
        version = str(importlib.import_module(package).__version__)
    except ImportError as exc:
        absent = isinstance(exc, ModuleNotFoundError) and exc.name == package
        problem = "is not installed" if absent else f"cannot be imported ({summary(exc)})"
        message = f"`{label}` is a function of type {func_type}, but `{package}` {problem} in its environment"
        raise PillionError("package_missing", message, hint=hint, function=label) from exc
    if package == "pyarrow" and int(version.partition(".")[0]) < _MIN_PYARROW:
        message = f"`{label}` is a function of type arrow, for which pyarrow {version} in its environment is too old"
        raise PillionError("package_missing", message, hint=f"require `pyarrow>={_MIN_PYARROW}`", function=label)
    return importlib.import_module(f"pillion.convert_{func_type}")


def _pandas_call(label: str, function: Callable[..., Any], result: Type, convert: ModuleType) -> ScalarCall:
    to_series, from_result, index_of = convert.to_series, convert.from_result, convert.index_of

    def call(columns: list[Column], num_rows: int) -> tuple[Column, int]:
        index = index_of(num_rows)
        returned, elapsed = _timed(label, function, *[to_series(label, column, index) for column in columns])
        return from_result(label, returned, result, num_rows), elapsed

    return call


def _arrow_call(label: str, function: Callable[..., Any], result: Type, convert: ModuleType) -> ScalarCall:
    to_array, from_result = convert.to_array, convert.from_result

    def call(columns: list[Column], num_rows: int) -> tuple[Column, int]:
        returned, elapsed = _timed(label, function, *[to_array(label, column) for column in columns])
        return from_result(label, returned, result, num_rows), elapsed

    return call


def _general_call(
    label: str, function: Callable[..., Any], result: Type, names: list[str], null_on_error: bool
) -> ScalarCall:
    run = _rows_or_null if null_on_error else _rows

    def call(columns: list[Column], num_rows: int) -> tuple[Column, int]:
        values = [to_values(label, column) for column in columns]
        rows = zip(*values) if values else iter([()] * num_rows)
        started = perf_counter_ns()
        results = run(label, function, rows, names)
        elapsed = perf_counter_ns() - started
        return from_values(label, results, result), elapsed

    return call


def _rows(label: str, function: Callable[..., Any], rows: Iterator[tuple[Any, ...]], names: list[str]) -> list[Any]:
    results: list[Any] = []
    append = results.append
    row: tuple[Any, ...] = ()
    try:
        for row in rows:
            append(function(*row))
    except BaseException as exc:  # whatever it is, `sys.exit` too: it is the function's, and the worker lives on
        raise raised(label, exc, row=failed_row(len(results), names, row)) from exc
    return results


def _rows_or_null(
    label: str, function: Callable[..., Any], rows: Iterator[tuple[Any, ...]], names: list[str]
) -> list[Any]:
    results: list[Any] = []
    for row in rows:
        try:
            results.append(function(*row))
        except Exception:  # noqa: BLE001 - the caller chose null for rows that fail, however they fail
            results.append(None)
        except BaseException as exc:  # `sys.exit` is no failure of one row
            raise raised(label, exc, row=failed_row(len(results), names, row)) from exc
    return results


def _general_map(label: str, function: Callable[..., Any], fields: list[tuple[str, Type]]) -> MapCall:
    def call(batch: Batch) -> tuple[Batch, int]:
        names = tuple(batch.names)
        columns = [to_values(label, column) for column in batch.columns]
        started = perf_counter_ns()
        results: list[Any] = []
        for index, row in enumerate(make_rows(names, columns)):
            try:
                _collect(results, function(row))
            except BaseException as exc:
                raise raised(label, exc, row=failed_row(index, names, row)) from exc
        elapsed = perf_counter_ns() - started
        made = columns_of_rows(label, results, fields)
        return Batch.from_columns(made, [name for name, _ in fields], len(results)), elapsed

    return call


def _collect(results: list[Any], returned: Any) -> None:
    """Add what one call of a general map function returned: a row, None for no row, or several rows."""
    if isinstance(returned, (tuple, dict)):
        results.append(returned)
    elif isinstance(returned, list) or hasattr(returned, "__next__"):
        results.extend(returned)
    elif returned is not None:
        results.append(returned)


def _timed(label: str, function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    started = perf_counter_ns()
    try:
        returned = function(*arguments)
    except BaseException as exc:
        raise raised(label, exc) from exc
    return returned, perf_counter_ns() - started
