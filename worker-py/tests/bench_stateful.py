"""How fast stateful functions run inside a worker: `PreparedProcess.call` over bundles made beforehand.

python3 worker-py/tests/bench_stateful.py [--rows 100000] [--keys 10000] [--seconds 2]
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from pillion import AggregateFunction, KeyedProcessFunction, ValueState, VectorizedProcessFunction, windows
from pillion._native import Batch, Column, Type
from pillion.bundle import INT64, SPACE, TEXT, UINT32, Bundle
from pillion.loading import LoadedFunction
from pillion.stateful.declare import StatefulFunction
from pillion.stateful.prepare import PreparedProcess

FIELDS = [("key", Type.parse("bigint")), ("amount", Type.parse("bigint"))]


class Sum(KeyedProcessFunction):
    """Reads and writes a value cell at each row."""

    total = ValueState("bigint")
    output = {"key": "bigint", "total": "bigint"}

    def process_element(self, value: Any, ctx: Any) -> Any:
        """Add."""
        total = (self.total.value() or 0) + value[1]
        self.total.update(total)
        yield value[0], total


class Wake(KeyedProcessFunction):
    """Sets a timer at each row."""

    total = ValueState("bigint")
    output = {"key": "bigint", "at": "bigint"}

    def process_element(self, value: Any, ctx: Any) -> Any:
        """Set it."""
        ctx.timer_service().register_event_time_timer(ctx.timestamp() + 1000)

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        """Tell."""
        yield ctx.get_current_key(), timestamp


class Vectorized(VectorizedProcessFunction):
    """The same sums, in columns."""

    total = ValueState("bigint")
    output = {"key": "bigint", "total": "bigint"}

    def __init__(self, func_type: str) -> None:
        self.func_type = func_type

    def process_batch(self, batch: Any, ctx: Any) -> Any:
        """Running totals: sums over rows sorted by key."""
        import numpy as np

        index = np.asarray(ctx.key_index)
        order = np.argsort(index, kind="stable")
        sums = np.cumsum(np.asarray(batch["amount"])[order])
        ends = np.cumsum(np.bincount(index, minlength=len(ctx.keys["key"]))) - 1
        before = np.concatenate(([0], sums[ends[:-1]]))
        state = ctx.state["total"]
        start = np.asarray(state.fillna(0) if self.func_type == "pandas" else state)
        running = np.empty_like(sums)
        running[order] = sums + (start - before)[index[order]]
        ctx.state["total"] = start + sums[ends] - before
        return self.frame({"key": np.asarray(batch["key"]), "total": running})

    def on_timers(self, timers: Any, ctx: Any) -> Any:
        """Tell."""
        import numpy as np

        keys = np.asarray(ctx.keys["key"])
        return self.frame({"key": keys[np.asarray(timers["key"])], "total": np.asarray(timers["timestamp"])})

    def frame(self, columns: Any) -> Any:
        """The result in the form of this function."""
        if self.func_type == "numpy":
            return columns
        if self.func_type == "arrow":
            import pyarrow as pa

            return pa.RecordBatch.from_arrays([pa.array(one) for one in columns.values()], names=list(columns))
        import pandas as pd

        return pd.DataFrame(columns, copy=False)


class VectorizedWake(Vectorized):
    """A timer for each row, in columns."""

    def process_batch(self, batch: Any, ctx: Any) -> Any:
        """Set them."""
        import numpy as np

        ctx.set_timers(np.asarray(ctx.timestamps) + 1000, keys=ctx.key_index)


class Mean(AggregateFunction):
    """A mean, by row."""

    accumulator = "row<total bigint, n bigint>"

    def create_accumulator(self) -> Any:
        """Nothing yet."""
        return 0, 0

    def add(self, value: Any, accumulator: Any) -> Any:
        """One more."""
        return accumulator[0] + value[1], accumulator[1] + 1

    def get_result(self, accumulator: Any) -> Any:
        """The mean."""
        return accumulator[0] / accumulator[1]


def windows_of(size: int, slide: int, **how: Any) -> Any:
    """Sliding windows, from rows that are a millisecond apart."""
    return windows.window(windows.SlidingEventTimeWindows.of(size, slide), output={"mean": "double"}, **how)


def rows_bundle(rows: int, keys: int) -> Bundle:
    """Rows in random order of their keys."""
    index = [(i * 7919) % keys for i in range(rows)]
    columns = [Column.from_pylist(index, FIELDS[0][1]), Column.from_pylist([1] * rows, FIELDS[1][1])]
    distinct = Column.from_pylist(list(range(keys)), FIELDS[0][1])
    return Bundle(
        rows=Batch.from_columns(columns, ["key", "amount"]),
        timestamps=Column.from_pylist(list(range(rows)), INT64),
        key_index=Column.from_pylist(index, UINT32),
        keys=Batch.from_columns([distinct], ["key"]),
        state={"total": Column.from_pylist([5] * keys, FIELDS[0][1])},
    )


def timers_bundle(timers: int) -> Bundle:
    """Each key's only timer."""
    keys = Column.from_pylist(list(range(timers)), FIELDS[0][1])
    columns = [
        Column.from_pylist(list(range(timers)), UINT32),
        Column.from_pylist(["event"] * timers, TEXT),
        Column.from_pylist([""] * timers, TEXT),
        Column.from_pylist([b""] * timers, SPACE),
        Column.from_pylist(list(range(timers)), INT64),
    ]
    return Bundle(
        timers=Batch.from_columns(columns, ["key", "domain", "name", "namespace", "timestamp"]),
        keys=Batch.from_columns([keys], ["key"]),
        state={"total": Column.from_pylist([5] * timers, FIELDS[0][1])},
        watermark=10**9,
    )


def measure(name: str, function: Any, bundle: Bundle, size: int, seconds: float) -> None:
    """Print the best rate of several calls."""
    declared = function if isinstance(function, StatefulFunction) else StatefulFunction(function)
    bundle.fetch = lambda wanted: [
        (Column.from_pylist([None] * len(asked), prepared.store.cells[cell].codec.type), None) for cell, asked in wanted
    ]
    prepared = PreparedProcess(LoadedFunction(name, declared), [FIELDS], FIELDS[:1])
    prepared.call(bundle)
    best, until = 0.0, perf_counter() + seconds
    while perf_counter() < until:
        started = perf_counter()
        prepared.call(bundle)
        best = max(best, size / (perf_counter() - started))
    print(f"{name:40} {best / 1e6:8.3f} million/s")


def main() -> None:
    """Measure everything that the environment has packages for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    rows, timers = rows_bundle(options.rows, options.keys), timers_bundle(options.rows)
    measure("value cell, by row", Sum, rows, options.rows, options.seconds)
    measure("timers set, by row", Wake, rows, options.rows, options.seconds)
    measure("timers fired, by row", Wake, timers, options.rows, options.seconds)
    span = options.rows
    for name, slide in (("tumbling", span), ("sliding, 10 each", span // 10)):
        kept = windows_of(span, slide, process=lambda key, context, elements: [])
        measure(f"{name}, rows kept", kept, rows, options.rows, options.seconds)
        measure(f"{name}, aggregated", windows_of(span, slide, aggregate=Mean), rows, options.rows, options.seconds)
    for form in ("numpy", "pandas", "arrow"):
        if find_spec("numpy") and find_spec("pyarrow" if form == "arrow" else form):
            measure(f"value cell, {form}", Vectorized(form), rows, options.rows, options.seconds)
            measure(f"timers set, {form}", VectorizedWake(form), rows, options.rows, options.seconds)
            measure(f"timers fired, {form}", Vectorized(form), timers, options.rows, options.seconds)


if __name__ == "__main__":
    main()
