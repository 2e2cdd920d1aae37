"""Functions with every kind of cell: for the tests of state."""

from __future__ import annotations

from typing import Any

import pytest

import pillion
from pillion import (
    PICKLED,
    AggregateFunction,
    AggregatingStateDescriptor,
    KeyedProcessFunction,
    ListStateDescriptor,
    MapStateDescriptor,
    PillionError,
    ReducingStateDescriptor,
    ValueState,
    ValueStateDescriptor,
)

INPUT = {"user": "string", "amount": "bigint"}


def code_of(action: Any) -> str:
    with pytest.raises(PillionError) as caught:
        action()
    return caught.value.code


class Sum(KeyedProcessFunction):
    output = {"user": "string", "total": "bigint"}
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        total = (self.total.value() or 0) + value.amount
        self.total.update(total)
        yield ctx.get_current_key(), total


class Declared(KeyedProcessFunction):
    """Every kind of cell, declared in `open`."""

    def open(self, runtime_context):
        ttl = None
        self.last = runtime_context.get_state(ValueStateDescriptor("last", "row<a bigint, b string>"))
        self.all = runtime_context.get_list_state(ListStateDescriptor("all", "bigint"))
        self.counts = runtime_context.get_map_state(MapStateDescriptor("counts", "bigint", "bigint"))
        self.most = runtime_context.get_reducing_state(ReducingStateDescriptor("most", max, "bigint"))
        self.mean = runtime_context.get_aggregating_state(
            AggregatingStateDescriptor("mean", Mean(), "row<total bigint, n bigint>")
        )
        self.any = runtime_context.get_state(ValueStateDescriptor("any", PICKLED))
        assert ttl is None

    def process_element(self, value, ctx):
        amount = value.amount
        before = self.last.value()
        self.last.update((amount, str(amount)))
        self.all.add(amount)
        self.counts.put(amount, (self.counts.get(amount) or 0) + 1)
        self.most.add(amount)
        self.mean.add(amount)
        self.any.update({"seen": {amount, 1}})
        previous = None if before is None else before.b
        yield pillion.Row(
            user=value.user,
            previous=previous,
            all=self.all.get(),
            counts=dict(self.counts.items()),
            most=self.most.get(),
            mean=self.mean.get(),
        )


class Mean(AggregateFunction):
    accumulator = "row<total bigint, n bigint>"

    def create_accumulator(self):
        return 0, 0

    def add(self, value, accumulator):
        amount = value if isinstance(value, int) else value.amount
        return accumulator[0] + amount, accumulator[1] + 1

    def get_result(self, accumulator):
        return accumulator[0] / accumulator[1]

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]


OUTPUT = {
    "user": "string",
    "previous": "string",
    "all": "array<bigint>",
    "counts": "map<bigint, bigint>",
    "most": "bigint",
    "mean": "double",
}
