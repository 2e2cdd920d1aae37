"""The same sums over windows, declared in several ways: for the tests of windows."""

from __future__ import annotations

from typing import Any

from pillion import AggregateFunction, OutputTag, ProcessWindowFunction, ReduceFunction, Row
from pillion import windows as w

INPUT = {"user": "string", "amount": "bigint"}
OUTPUT = {"user": "string", "start": "bigint", "end": "bigint", "sum": "bigint", "n": "bigint"}
LATE = OutputTag("late")
NEVER = -(2**63)


class Sum(ProcessWindowFunction):
    """Over all elements of the window."""

    def process(self, key, context, elements):
        window, amounts = context.window(), [one.amount for one in elements]
        yield key, window.start, window.end, sum(amounts), len(amounts)


class Add(ReduceFunction):
    def reduce(self, value1, value2):
        return Row(value1.user, value1.amount + value2.amount)


class Total(AggregateFunction):
    accumulator = "row<sum bigint, n bigint>"

    def create_accumulator(self):
        return 0, 0

    def add(self, value, accumulator):
        return accumulator[0] + value.amount, accumulator[1] + 1

    def get_result(self, accumulator):
        return accumulator

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]


def of_total(key, context, elements):
    (total,) = elements
    window = context.window()
    return [(key, window.start, window.end, total[0], total[1])]


def declared(assigner: Any, way: str, **more: Any) -> Any:
    """The same sums, made in different ways."""
    if way == "process":
        return w.window(assigner, process=Sum, output=OUTPUT, **more)
    if way == "aggregate":
        return w.window(assigner, process=of_total, aggregate=Total, output=OUTPUT, **more)
    if way == "pickled":
        return w.window(assigner, process=of_total, aggregate=Pickled(), output=OUTPUT, **more)
    return w.window(assigner, process=Sum(), evictor=w.Evictor(), output=OUTPUT, **more)


class Pickled(Total):
    accumulator = None


WAYS = ("process", "aggregate", "pickled", "evictor")
