"""Memory for results: what a function builds where the host will read it need not be copied there."""

from __future__ import annotations

from typing import Any

from pillion._native import space
from pillion.types import DataType

_DTYPES = {
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
}


def empty(dtype: Any, rows: int) -> Any:
    """A writable, uninitialised NumPy array of `rows` values, like `numpy.empty`.

    In a worker that shares memory with the host it lies there: a function that fills it and returns it (as it is, or as
    a `pandas.Series` or `pyarrow.array` over it) gives its result without a copy. Elsewhere, and for small arrays, it
    is ordinary memory. Make a new one for each call: the host reads it after the function has returned.

    `dtype` is anything that `numpy.dtype` takes, or one of the numbers in `DataTypes`.

        @udf(result_type=DataTypes.BIGINT(), func_type="pandas")
        def plus_one(a):
            out = pillion.empty("int64", len(a))
            numpy.add(a.to_numpy(), 1, out=out)
            return pandas.Series(out)
    """
    import numpy as np

    if isinstance(dtype, DataType):
        name = str(dtype._native).removesuffix(" not null")
        if name not in _DTYPES:
            raise TypeError(f"`{name}` has no array of plain numbers")
        dtype = _DTYPES[name]
    dtype = np.dtype(dtype)
    shared = None if dtype.hasobject else space(dtype.str, dtype.itemsize, rows)
    return np.empty(rows, dtype) if shared is None else np.asarray(shared)
