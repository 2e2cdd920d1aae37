"""The stateful functions of the benchmarks: what `benches/keyed.rs` calls, by row and in columns."""

import os

import numpy as np

from pillion import KeyedProcessFunction, ValueState, VectorizedProcessFunction


class Sum(KeyedProcessFunction):
    """The running sum of each key: reads and writes a cell at each row."""

    output = {"key": "bigint", "sum": "bigint"}
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        total = (self.total.value() or 0) + value.value
        self.total.update(total)
        yield value.key, total


class Sums(VectorizedProcessFunction):
    """The sum of each row's key at the end of its batch."""

    func_type = "numpy"
    output = {"key": "bigint", "sum": "bigint"}
    total = ValueState("bigint")

    def process_batch(self, batch, ctx):
        index = ctx.key_index
        totals = ctx.state["total"] + np.bincount(index, weights=batch["value"]).astype(np.int64)
        ctx.state["total"] = totals
        return {"key": batch["key"], "sum": totals[index]}


class Wake(KeyedProcessFunction):
    """A timer at the time of each row; it tells the key's sum."""

    output = {"key": "bigint", "at": "bigint", "sum": "bigint"}
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        self.total.update(value.value)
        ctx.timer_service().register_event_time_timer(ctx.timestamp())

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), timestamp, self.total.value()


class Wakes(VectorizedProcessFunction):
    """The same in columns."""

    func_type = "numpy"
    output = {"key": "bigint", "at": "bigint", "sum": "bigint"}
    total = ValueState("bigint")

    def process_batch(self, batch, ctx):
        index = ctx.key_index
        totals = np.empty(len(ctx.keys["key"]), np.int64)
        totals[index] = batch["value"]
        ctx.state["total"] = totals
        ctx.set_timers(ctx.timestamps, keys=index)

    def on_timers(self, timers, ctx):
        at = timers["key"]
        return {"key": ctx.keys["key"][at], "at": timers["timestamp"], "sum": ctx.state["total"][at]}


class Blobs(VectorizedProcessFunction):
    """A KiB for each key, other bytes at each batch."""

    func_type = "numpy"
    output = {"key": "bigint"}
    blob = ValueState("bytes")

    def process_batch(self, batch, ctx):
        keys = len(ctx.keys["key"])
        made = os.urandom(keys << 10)
        ctx.state["blob"] = np.array([made[at << 10 : at + 1 << 10] for at in range(keys)], dtype=object)
        return {"key": batch["key"]}
