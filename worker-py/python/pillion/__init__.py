"""Pillion runs your Python functions beside a stream or query engine.

Declare a function with :func:`udf` (columns in, one column out) or :func:`map_function` (rows in, rows out), and try it
by calling it in a shell: a declared function stays an ordinary callable.

    from pillion import DataTypes, udf

    @udf(result_type=DataTypes.DOUBLE(), func_type="pandas")
    def fahrenheit(celsius):
        return celsius * 1.8 + 32

Functions with state and timers are classes such as :class:`KeyedProcessFunction`, declared with :func:`process`.

A function is *general* (called once per row with plain Python values; needs no other package), *pandas* (called once
per batch with `pandas.Series`) or *arrow* (called once per batch with `pyarrow.Array`). Code written for PyFlink runs
after changing its import line.
"""

from pillion.cells import (
    PICKLED,
    AggregatingState,
    AggregatingStateDescriptor,
    BroadcastState,
    ListState,
    ListStateDescriptor,
    MapState,
    MapStateDescriptor,
    ReducingState,
    ReducingStateDescriptor,
    Ttl,
    ValueState,
    ValueStateDescriptor,
)
from pillion.context import FunctionContext
from pillion.declare import ScalarFunction, UserDefinedFunction, map_function, udf
from pillion.errors import PillionError
from pillion.functions import (
    AggregateFunction,
    BroadcastProcessFunction,
    CoFlatMapFunction,
    CoMapFunction,
    CoProcessFunction,
    FilterFunction,
    FlatMapFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    MapFunction,
    OutputTag,
    ProcessFunction,
    ProcessTableFunction,
    ProcessWindowFunction,
    ReduceFunction,
    TimeDomain,
    VectorizedProcessFunction,
    WindowFunction,
)
from pillion.memory import empty
from pillion.metrics import Counter, Distribution, Gauge, Histogram, Meter, MetricGroup
from pillion.row import Row
from pillion.stateful.declare import process
from pillion.types import DataType, DataTypes

__version__ = "0.1.0"

__all__ = [
    "PICKLED",
    "AggregateFunction",
    "AggregatingState",
    "AggregatingStateDescriptor",
    "BroadcastProcessFunction",
    "BroadcastState",
    "CoFlatMapFunction",
    "CoMapFunction",
    "CoProcessFunction",
    "Counter",
    "DataType",
    "DataTypes",
    "Distribution",
    "FilterFunction",
    "FlatMapFunction",
    "FunctionContext",
    "Gauge",
    "Histogram",
    "KeyedBroadcastProcessFunction",
    "KeyedCoProcessFunction",
    "KeyedProcessFunction",
    "ListState",
    "ListStateDescriptor",
    "MapFunction",
    "MapState",
    "MapStateDescriptor",
    "Meter",
    "MetricGroup",
    "OutputTag",
    "PillionError",
    "ProcessFunction",
    "ProcessTableFunction",
    "ProcessWindowFunction",
    "ReduceFunction",
    "ReducingState",
    "ReducingStateDescriptor",
    "Row",
    "ScalarFunction",
    "TimeDomain",
    "Ttl",
    "UserDefinedFunction",
    "ValueState",
    "ValueStateDescriptor",
    "VectorizedProcessFunction",
    "WindowFunction",
    "empty",
    "map_function",
    "process",
    "udf",
]
