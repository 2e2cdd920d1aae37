"""Pillion runs your Python functions beside a stream or query engine.

Declare a function with :func:`udf` (columns in, one column out) or :func:`map_function` (rows in, rows out), and try it
by calling it in a shell: a declared function stays an ordinary callable.

    from pillion import DataTypes, udf

    @udf(result_type=DataTypes.DOUBLE(), func_type="pandas")
    def fahrenheit(celsius):
        return celsius * 1.8 + 32

A function is *general* (called once per row with plain Python values; needs no other package), *pandas* (called once
per batch with `pandas.Series`) or *arrow* (called once per batch with `pyarrow.Array`). Code written for PyFlink runs
after changing its import line.
"""

from pillion.context import FunctionContext
from pillion.declare import ScalarFunction, UserDefinedFunction, map_function, udf
from pillion.errors import PillionError
from pillion.memory import empty
from pillion.row import Row
from pillion.types import DataType, DataTypes

__version__ = "0.1.0"

__all__ = [
    "DataType",
    "DataTypes",
    "FunctionContext",
    "PillionError",
    "Row",
    "ScalarFunction",
    "UserDefinedFunction",
    "empty",
    "map_function",
    "udf",
]
