"""Columns to pandas and back, without pyarrow and without the slow `to_pandas`.

What a function sees, whatever packages are installed beside pandas:

| column | without nulls | with nulls |
| --- | --- | --- |
| integers, booleans | `int64`, `bool`, ... | masked: `Int64`, `boolean`, ...: integers stay exact |
| floats | `float64`, ... | the same, NaN for null |
| timestamps | `datetime64[unit]` (`[ns]` before pandas 2), with the zone if any | the same, NaT for null |
| durations | `timedelta64[unit]` (`[ns]` before pandas 2) | the same, NaT for null |
| everything else | `object` with Python values | the same, None for null |

Columns of fixed width are not copied for a Series: their memory is shared and read-only. A DataFrame's columns are
copies, since changing frames in place is what everybody does. In results NaN, NaT and `pandas.NA` mean null, and an
index is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from pillion._native import Batch, Column, Type
from pillion.convert_rows import from_values
from pillion.results import arrow_data, check_length, converted, positions, unsupported, wrong_type

_UNITS = int(pd.__version__.partition(".")[0]) >= 2
"""Whether pandas keeps the unit of timestamps; before version 2 there were nanoseconds only."""


def index_of(num_rows: int) -> Any:
    """The index that all columns of a batch share; none for longer, since functions may change it."""
    return pd.RangeIndex(num_rows)


def to_series(function: str, column: Column, index: Any) -> Any:
    """`column` as a `pandas.Series` over the same memory where it is of fixed width. Raises `unsupported_type`."""
    try:
        array = _READERS.get(column.type.kind, _objects)(column)
        return _series(array, index, column.name or None)
    except (TypeError, ValueError, OverflowError) as exc:
        raise unsupported(function, column, exc) from exc


def to_frame(function: str, batch: Batch) -> Any:
    """`batch` as a `pandas.DataFrame` of its own memory. Raises `unsupported_type`."""
    index = index_of(batch.num_rows)
    columns = [_frame_column(function, column, index) for column in batch.columns]
    frame = pd.DataFrame(dict(enumerate(columns)), index=index, copy=False)
    frame.columns = _names(tuple(batch.names)).view()
    return frame


@lru_cache(maxsize=64)
def _names(names: tuple[str, ...]) -> Any:
    """Names of columns as pandas keeps them. Frames get views, which share the table that columns are found by: making
    it takes longer than all else about a small frame.
    """
    return pd.Index(names)


def _frame_column(function: str, column: Column, index: Any) -> Any:
    read = _READERS.get(column.type.kind)
    if read is None:
        return to_series(function, column, index)  # objects, which are nobody else's
    if read in (_timestamps, _durations):
        return to_series(function, column, index).copy()
    return read(column).copy()


def from_result(function: str, result: Any, wanted: Type, num_rows: int) -> Column:
    """The column that a pandas function returned. Raises `result_type`, `result_length` and `result_null`."""
    if isinstance(result, pd.DataFrame) and wanted.kind == "struct":
        check_length(function, len(result), num_rows)
        rows = from_frame(function, result, wanted.children)
        return converted(function, lambda: Column.from_arrow(rows, wanted), wanted)
    if isinstance(result, (list, tuple)):
        check_length(function, len(result), num_rows)
        return from_values(function, list(result), wanted, nan_is_null=True)
    if not isinstance(result, (pd.Series, pd.Index, np.ndarray, pd.api.extensions.ExtensionArray)):
        hint = "return one value per row; to repeat a scalar use `pandas.Series(value, index=column.index)`"
        raise wrong_type(function, f"`{function}` returned a `{type(result).__name__}`, not a `pandas.Series`", hint)
    if isinstance(result, np.ndarray) and result.ndim != 1:
        raise wrong_type(function, f"`{function}` returned an array of {result.ndim} dimensions, not a `pandas.Series`")
    check_length(function, len(result), num_rows)
    return _column(function, result, wanted, "result")


def from_frame(function: str, result: Any, fields: list[tuple[str, Type]]) -> Batch:
    """The batch that a pandas map function returned. Raises as :func:`from_result`, and `result_columns`."""
    if not isinstance(result, pd.DataFrame):
        hint = "return a `pandas.DataFrame`"
        raise wrong_type(function, f"`{function}` returned a `{type(result).__name__}`, not a `pandas.DataFrame`", hint)
    names = [name for name, _ in fields]
    given = list(result.columns)
    unnamed = given == list(range(len(names)))  # made from arrays: taken by position
    order = range(len(names)) if unnamed else positions(function, names, given)
    series = [one for _, one in result.items()]  # by position: nothing has been looked up by name in a new frame
    columns = [
        _column(function, series[position], wanted, f"column `{name}`")
        for position, (name, wanted) in zip(order, fields)
    ]
    return Batch.from_columns(columns, names, len(result))


# Columns to arrays.


def _public_series(array: Any, index: Any, name: str | None) -> Any:
    dtype = object if array.dtype == np.dtype(object) else None  # else pandas 3 would look for strings
    return pd.Series(array, index=index, dtype=dtype, name=name, copy=False)


def _series_constructor() -> Callable[[Any, Any, str | None], Any]:
    """A Series over an array, without the checks of `pandas.Series`, which take three quarters of a conversion.

    This is how pandas does it itself since version 2.1, and private: where it gives anything else, or does not exist,
    the public way is taken.
    """
    try:
        manager, wrap = type(pd.Series([0])._mgr), pd.Series._from_mgr

        def construct(array: Any, index: Any, name: str | None) -> Any:
            block = manager.from_array(array, index)
            series = wrap(block, block.axes)
            series.name = name
            return series

        objects = np.array(["a", None], dtype=object)
        for array in (np.arange(2), objects, np.arange(2).view("M8[us]"), pd.array([1, None], dtype="Int64")):
            made = construct(array, pd.RangeIndex(2), "a")
            pd.testing.assert_series_equal(made, _public_series(array, pd.RangeIndex(2), "a"))
    except Exception:  # noqa: BLE001 - whatever a version of pandas does instead
        return _public_series
    return construct


def _integers(column: Column) -> Any:
    if not column.null_count:
        return np.asarray(column)
    return pd.arrays.IntegerArray(np.asarray(column.values_interface()), np.asarray(column.null_mask()))


def _booleans(column: Column) -> Any:
    values = np.asarray(column.values_interface())
    if not column.null_count:
        return values
    return pd.arrays.BooleanArray(values, np.asarray(column.null_mask()))


def _floats(column: Column) -> Any:
    return _with_missing(column, np.nan)


def _timestamps(column: Column) -> Any:
    values = _with_missing(column, np.datetime64("NaT"))
    timezone = column.type.timezone
    if timezone is None:
        return values
    if _UNITS:
        return pd.array(values.view(np.int64), dtype=_zoned(column.type.unit or "ns", timezone))
    return pd.DatetimeIndex(values).tz_localize("UTC").tz_convert(timezone).array


def _durations(column: Column) -> Any:
    return _with_missing(column, np.timedelta64("NaT"))


def _objects(column: Column) -> Any:
    values = column.to_pylist()
    array: Any = np.empty(len(values), dtype=object)
    if column.type.kind in _NESTED:
        for position, value in enumerate(values):  # a slice assignment would take lists for dimensions
            array[position] = value
    else:
        array[:] = values
    return array


def _with_missing(column: Column, missing: Any) -> Any:
    if not column.null_count:
        return np.asarray(column)
    values = np.array(column.values_interface())
    values[np.asarray(column.null_mask())] = missing
    return values


@lru_cache(maxsize=32)
def _zoned(unit: str, timezone: str) -> Any:
    return pd.DatetimeTZDtype(unit, timezone)


_NESTED = {"list", "large_list", "fixed_size_list", "list_view", "large_list_view", "map", "struct", "dictionary"}
_READERS: dict[str, Callable[[Column], Any]] = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), _integers),
    **dict.fromkeys(("float16", "float32", "float64"), _floats),
    "bool": _booleans,
    "timestamp": _timestamps,
    "duration": _durations,
}


_series = _series_constructor()


# Arrays to columns.


def _column(function: str, values: Any, wanted: Type, where: str) -> Column:
    """A column of the values of a Series, an index or an array."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        array = values if isinstance(values, np.ndarray) else values.to_numpy()
        if dtype.kind in "biufmM":
            return converted(function, lambda: _from_numpy(array, None, wanted), wanted, where)
        return _from_objects(function, array.astype(object), wanted, where)
    array = values if isinstance(values, pd.api.extensions.ExtensionArray) else values.array
    if isinstance(dtype, _MASKED):
        mask = np.asarray(array.isna())
        # The public way to the values fills the nulls, which takes as long as all the rest.
        plain = getattr(array, "_data", None)
        if not isinstance(plain, np.ndarray):
            plain = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return converted(function, lambda: _from_numpy(plain, mask, wanted), wanted, where)
    if isinstance(dtype, pd.DatetimeTZDtype):
        if wanted.kind == "timestamp" and wanted.timezone is None:
            hint = f"declare `timestamp_ltz`, or remove the zone with `.dt.tz_localize(None)`; the result has `{dtype}`"
            raise wrong_type(
                function, f"the {where} of `{function}` has a time zone, but its type `{wanted}` has none", hint
            )
        instants = array.tz_convert("UTC").tz_localize(None).to_numpy()
        return converted(function, lambda: _from_numpy(instants, None, wanted), wanted, where)
    if isinstance(dtype, pd.SparseDtype):
        return _column(function, np.asarray(array), wanted, where)
    if _is_arrow(dtype):
        chunks = array.__arrow_array__()
        return converted(function, lambda: Column.from_arrow(arrow_data(chunks), wanted), wanted, where)
    return _from_objects(function, np.asarray(array.astype(object)), wanted, where)


def _from_numpy(values: Any, mask: Any, wanted: Type) -> Column:
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return Column.from_numpy(values, wanted, mask, "", True)


def _from_objects(function: str, values: Any, wanted: Type, where: str) -> Column:
    return from_values(function, values.tolist(), wanted, where, nan_is_null=True)


_MASKED = (
    pd.Int8Dtype,
    pd.Int16Dtype,
    pd.Int32Dtype,
    pd.Int64Dtype,
    pd.UInt8Dtype,
    pd.UInt16Dtype,
    pd.UInt32Dtype,
    pd.UInt64Dtype,
    pd.Float32Dtype,
    pd.Float64Dtype,
    pd.BooleanDtype,
)


def _is_arrow(dtype: Any) -> bool:
    arrow = getattr(pd, "ArrowDtype", None)
    return (arrow is not None and isinstance(dtype, arrow)) or getattr(dtype, "storage", None) == "pyarrow"
