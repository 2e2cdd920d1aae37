"""What a call costs inside the worker, over calling the function by hand: `python worker-py/tests/bench_calls.py`.

The budget for a pandas function over 1,000 rows is 100 µs: conversions, checks and the call itself, less what the
function takes by hand on Series that exist already.
"""

from __future__ import annotations

import sys
import time
import timeit
from typing import Any

from conftest import batch_of, reference

from pillion import map_function, udf
from pillion._runtime import Runtime

ROWS = 1_000


def best_us(action: Any, number: int = 300) -> float:
    """The best of several runs, in microseconds per call; of CPU time: the machine may be busy."""
    return min(timeit.repeat(action, number=number, repeat=7, timer=time.thread_time)) / number * 1e6


def overhead(label: str, function: Any, columns: dict[str, tuple[str, list[Any]]], by_hand: Any = None) -> float:
    """Print one line, and return the overhead in microseconds."""
    batch = batch_of(columns)
    scalar = function.kind == "scalar"
    prepared = Runtime().prepare(
        {
            "calls": [{"function": reference(function), "arguments": [("column", i) for i in range(len(columns))]}],
            "outputs": [("result", ("call", 0))] if scalar else [],
            "input": batch.schema,
        }
    )
    through = best_us(lambda: prepared.call(batch))
    hand = best_us(by_hand) if by_hand is not None else 0.0
    print(f"{label:48} {through:8.1f} {hand:8.1f} {through - hand:8.1f}", flush=True)
    return through - hand


def pandas_calls() -> list[float]:
    """The calls that the budget is about."""
    import pandas as pd

    numbers = {"a": ("bigint", list(range(ROWS))), "b": ("bigint", list(range(ROWS)))}
    floats = {"a": ("double", [i / 7 for i in range(ROWS)])}
    holed = {"a": ("bigint", [None if i % 7 == 0 else i for i in range(ROWS)])}
    gaps = {"a": ("double", [None if i % 7 == 0 else i / 7 for i in range(ROWS)])}
    texts = {"a": ("string", [f"text {i}" for i in range(ROWS)])}
    a, b = (pd.Series(values) for _, values in numbers.values())
    x = pd.Series(floats["a"][1])
    n = pd.Series(holed["a"][1], dtype="Int64")
    g = pd.Series(gaps["a"][1], dtype="float64")
    s = pd.Series(texts["a"][1], dtype=object)

    add = udf(lambda a, b: a + b, result_type="bigint", func_type="pandas")
    convert = udf(lambda a: a * 1.8 + 32, result_type="double", func_type="pandas")
    plus = udf(lambda a: a + 1, result_type="bigint", func_type="pandas")
    fill = udf(lambda a: a.interpolate(), result_type="double", func_type="pandas")
    same = udf(lambda a: a, result_type="string", func_type="pandas")
    return [
        overhead("pandas: 2 x bigint added", add, numbers, lambda: a + b),
        overhead("pandas: double scaled", convert, floats, lambda: x * 1.8 + 32),
        overhead("pandas: bigint with nulls, plus one", plus, holed, lambda: n + 1),
        overhead("pandas: double with nulls, interpolated", fill, gaps, lambda: g.interpolate()),
        overhead("pandas: strings, unchanged", same, texts, lambda: s),
    ]


def main() -> int:
    """Print the figures; the status tells whether pandas calls keep the budget."""
    print(f"{f'{ROWS} rows, µs':48} {'worker':>8} {'by hand':>8} {'over':>8}")
    numbers = {"a": ("bigint", list(range(ROWS))), "b": ("bigint", list(range(ROWS)))}
    general = udf(lambda a, b: a + b, result_type="bigint")
    columns = [values for _, values in numbers.values()]
    overhead("general: 2 x bigint added", general, numbers, lambda: [x + y for x, y in zip(*columns)])
    overhead("general map: row unchanged", map_function(lambda row: row), numbers)
    over = []
    try:
        over = pandas_calls()
        overhead("pandas map: frame unchanged", map_function(lambda frame: frame, func_type="pandas"), numbers)
    except ImportError:
        print("(pandas is not installed)")
    try:
        import pyarrow as pa
        import pyarrow.compute as pc

        add = udf(lambda a, b: pc.add(a, b), result_type="bigint", func_type="arrow")
        a, b = (pa.array(values) for values in columns)
        overhead("arrow: 2 x bigint added", add, numbers, lambda: pc.add(a, b))
        overhead("arrow map: batch unchanged", map_function(lambda batch: batch, func_type="arrow"), numbers)
    except ImportError:
        print("(pyarrow is not installed)")
    return 0 if all(one < 100 for one in over) else 1


if __name__ == "__main__":
    sys.exit(main())
