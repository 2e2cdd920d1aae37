"""Functions of two inputs, of broadcast elements, and of tables."""

from __future__ import annotations

from typing import Any

import pytest

from pillion import (
    BroadcastProcessFunction,
    BroadcastState,
    CoFlatMapFunction,
    CoMapFunction,
    CoProcessFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    MapStateDescriptor,
    PillionError,
    ProcessTableFunction,
    Row,
    ValueState,
    process,
)
from pillion.testing import Harness

ORDERS = {"user": "string", "amount": "bigint"}
PAYMENTS = {"payer": "string", "paid": "double"}


class Match(KeyedCoProcessFunction):
    output = {"user": "string", "what": "string"}
    open_amount = ValueState("bigint")

    def process_element1(self, value, ctx):
        self.open_amount.update(value.amount)
        ctx.timer_service().register_event_time_timer(ctx.timestamp() + 10)

    def process_element2(self, value, ctx):
        if self.open_amount.value() == value.paid:
            self.open_amount.clear()
            yield ctx.get_current_key(), "paid"
        else:
            yield value.payer, "wrong"

    def on_timer(self, timestamp, ctx):
        if self.open_amount.value() is not None:
            yield ctx.get_current_key(), f"open at {timestamp}"


def test_keyed_co_process() -> None:
    harness = Harness(Match, input=[ORDERS, PAYMENTS], key=["user", "payer"])
    harness.push(("a", 5), 1)
    harness.push(("b", 6), 2)
    harness.push(("a", 5.0), input=1)
    harness.push(("b", 5.0), input=1)
    assert harness.output() == [("a", "paid"), ("b", "wrong")]
    harness.advance_watermark(100, input=0)
    assert harness.output() == []  # the other input has none yet
    harness.advance_watermark(50, input=1)
    assert harness.output() == [("b", "open at 12")]
    assert harness.watermark == 50


def test_without_a_key() -> None:
    class Both(CoProcessFunction):
        output = "string"

        def process_element1(self, value, ctx):
            yield f"order {value.amount}"

        def process_element2(self, value, ctx):
            yield f"payment {value.paid}"

    class Maps(CoMapFunction):
        output = "string"

        def map1(self, value):
            return f"order {value.amount}"

        def map2(self, value):
            return f"payment {value.paid}"

    class FlatMaps(CoFlatMapFunction):
        output = "string"

        def flat_map1(self, value):
            yield f"order {value.amount}"

        def flat_map2(self, value):
            return [f"payment {value.paid}"]

    for function in (Both, Maps, FlatMaps):
        harness = Harness(function, input=[ORDERS, PAYMENTS])
        harness.push(("a", 5))
        harness.push(("b", 1.5), input=1)
        assert harness.output() == ["order 5", "payment 1.5"]
        with pytest.raises(PillionError, match="takes 2 inputs"):
            Harness(function, input=ORDERS)


RULES = MapStateDescriptor("rules", "string", "bigint")


class Limits(KeyedBroadcastProcessFunction):
    """Tells what goes beyond a limit; limits are broadcast, and taken away with a null."""

    output = {"user": "string", "amount": "bigint", "limit": "bigint"}
    broadcast = (RULES,)
    spent = ValueState("bigint")

    def process_element(self, value, ctx):
        self.spent.update((self.spent.value() or 0) + value.amount)
        rules = ctx.get_broadcast_state(RULES)
        limit = rules.get("limit")
        if "limit" in rules and self.spent.value() > limit:
            yield ctx.get_current_key(), self.spent.value(), limit
        ctx.timer_service().register_event_time_timer(100)
        if value.amount == 666:
            rules.put("limit", 0)

    def process_broadcast_element(self, value, ctx):
        rules = ctx.get_broadcast_state(RULES)
        if value.amount is None:
            rules.remove(value.name)
        elif value.amount < 0:
            self.spent.value()
        else:
            rules[value.name] = value.amount
            yield Row(user=value.name, amount=None, limit=value.amount)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), timestamp, ctx.get_broadcast_state("rules").get("limit")


def test_keyed_broadcast() -> None:
    harness = Harness(Limits, input=[ORDERS, {"name": "string", "amount": "bigint"}], key=["user", "name"])
    harness.push(("a", 5))
    harness.broadcast(("limit", 7))
    assert harness.state("rules") == {"limit": 7}
    harness.push_batch([("a", 5), ("b", 7)])
    assert harness.output() == [("limit", None, 7), ("a", 10, 7)]
    harness.advance_watermark(100)
    assert sorted(harness.output()) == [("a", 100, 7), ("b", 100, 7)]
    harness.broadcast(("limit", None))
    assert harness.state("rules") is None
    for use, code in (
        (lambda: harness.push(("a", 666)), "state_read_only"),
        (lambda: harness.broadcast(("x", -1)), "state_without_key"),
    ):
        with pytest.raises(PillionError) as caught:
            use()
        assert caught.value.code == code


def test_broadcast_without_a_key() -> None:
    class Enrich(BroadcastProcessFunction):
        output = "string"
        names = BroadcastState("bigint", "string")

        def process_element(self, value, ctx):
            yield f"{value.user}: {self.names.get(value.amount)} {len(ctx.get_broadcast_state('names'))}"
            if value.amount == 9:
                ctx.get_broadcast_state(RULES)

        def process_broadcast_element(self, value, ctx):
            self.names.put(value.id, value.name)

    harness = Harness(Enrich, input=[ORDERS, {"id": "bigint", "name": "string"}])
    harness.push(("a", 1))
    harness.broadcast((1, "one"), (2, "two"))
    harness.push(("b", 1))
    assert harness.output() == ["a: None 0", "b: one 2"]
    with pytest.raises(PillionError) as caught:
        harness.push(("a", 9))
    assert caught.value.code == "state_undeclared"


class Sessions(ProcessTableFunction):
    """A table function: counts rows until a pause."""

    output = {"user": "string", "n": "bigint", "why": "string"}
    n = ValueState("bigint")
    timers = ("pause", "end")

    def eval(self, ctx, row):
        times = ctx.time_context()
        self.n.update((self.n.value() or 0) + 1)
        times.register_on_time("pause", times.time() + 10)
        times.register_on_time(times.time() + 1)
        if row.amount == 0:
            ctx.clear_all()
            yield ctx.get_current_key(), ctx.state.n.value(), "cleared"
        elif row.amount == 2:
            times.clear_timer(times.time() + 1)

    def on_timer(self, ctx):
        if ctx.current_timer() is None:
            yield ctx.get_current_key(), ctx.time_context().time(), "tick"
        else:
            yield ctx.get_current_key(), self.n.value(), ctx.current_timer()
            ctx.clear_state("n")


def test_process_table_functions() -> None:
    harness = Harness(Sessions, input=ORDERS, key="user")
    harness.push_batch([("a", 1), ("a", 2), ("b", 1)], [1, 5, 7])
    assert [(one.name, one.timestamp) for one in harness.timers("a")] == [("", 2), ("pause", 15)]
    harness.advance_watermark(15)
    assert harness.output() == [("a", 2, "tick"), ("b", 8, "tick"), ("a", 2, "pause")]
    assert (harness.state("n", "a"), harness.state("pillion.timers", "a")) == (None, None)
    harness.push(("b", 0), 16)
    assert (harness.output(), harness.timers()) == ([("b", None, "cleared")], [])
    with pytest.raises(PillionError):
        Harness(Sessions, input=ORDERS)


def test_bad_table_functions() -> None:
    def attempt(use: Any) -> str:
        class Bad(ProcessTableFunction):
            output = "bigint"

            def eval(self, ctx, row):
                use(ctx)

        with pytest.raises(PillionError) as caught:
            Harness(process(Bad), input=ORDERS, key="user").push(("a", 1), 1)
        return caught.value.code

    assert attempt(lambda ctx: ctx.clear_state("other")) == "state_undeclared"
    assert attempt(lambda ctx: ctx.time_context().register_on_time(2**64)) == "timer_out_of_range"
    assert attempt(lambda ctx: ctx.time_context().register_on_time("", 1)) == "declaration_invalid"
