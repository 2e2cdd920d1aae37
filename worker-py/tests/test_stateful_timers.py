"""Timers and side outputs of row-at-a-time functions, through the harness."""

from __future__ import annotations

import pytest
from stateful_functions import INPUT

from pillion import (
    KeyedProcessFunction,
    OutputTag,
    PillionError,
    ProcessFunction,
    TimeDomain,
    process,
)
from pillion.testing import Harness, Timer


class Wake(KeyedProcessFunction):
    output = {"user": "string", "at": "bigint", "domain": "string", "name": "string"}

    def process_element(self, value, ctx):
        service = ctx.timer_service()
        if value.amount >= 0:
            service.register_event_time_timer(value.amount)
            service.register_event_time_timer(value.amount)
            service.register_processing_time_timer(value.amount, "named")
        else:
            service.delete_event_time_timer(-value.amount)
            service.delete_processing_time_timer(-value.amount, "named")

    def on_timer(self, timestamp, ctx):
        assert ctx.timestamp() == timestamp
        if ctx.time_domain() is TimeDomain.EVENT_TIME and timestamp == 10:
            ctx.timer_service().register_event_time_timer(15)
            ctx.timer_service().delete_event_time_timer(20)
        yield ctx.get_current_key(), timestamp, ctx.time_domain().name, ctx.timer_name


def test_timers() -> None:
    harness = Harness(Wake, input=INPUT, key="user")
    harness.push_batch([("a", 10), ("b", 5), ("a", 20), ("b", 30), ("b", -30)])
    assert harness.timers("b") == [Timer("b", "event", "", None, 5), Timer("b", "processing", "named", None, 5)]
    harness.advance_watermark(19)
    assert harness.output() == [
        ("b", 5, "EVENT_TIME", ""),
        ("a", 10, "EVENT_TIME", ""),
        ("a", 15, "EVENT_TIME", ""),  # set by the timer at 10, which was taken before it
    ]
    harness.advance_watermark(25)
    assert harness.output() == []  # the timer at 10 has deleted it
    harness.advance_processing_time(10)
    assert harness.output() == [("b", 5, "PROCESSING_TIME", "named"), ("a", 10, "PROCESSING_TIME", "named")]
    harness.finish()
    assert harness.output() == []
    assert harness.timers() == []


def test_past_timers() -> None:
    harness = Harness(Wake, input=INPUT, key="user", processing_time=100)
    harness.advance_watermark(50)
    harness.push(("a", 5))
    assert harness.output() == [("a", 5, "PROCESSING_TIME", "named")]  # at once
    harness.advance_watermark(50)
    assert harness.output() == []  # the same again is no advance
    harness.advance_watermark(51)
    assert harness.output() == [("a", 5, "EVENT_TIME", "")]  # at the next advance
    with pytest.raises(ValueError, match="back"):
        harness.advance_watermark(50)
    with pytest.raises(ValueError, match="back"):
        harness.advance_processing_time(99)
    harness.finish()
    harness.push(("a", 6))
    assert harness.output() == [("a", 6, "PROCESSING_TIME", "named")]
    harness.finish()
    assert harness.output() == [("a", 6, "EVENT_TIME", "")]  # at the end, though time cannot advance any more


def test_rows_see_the_watermark_before_theirs() -> None:
    @process(output={"watermark": "bigint", "clock": "bigint", "at": "bigint"})
    class Tell(ProcessFunction):
        def process_element(self, value, ctx):
            service = ctx.timer_service()
            yield service.current_watermark(), service.current_processing_time(), ctx.timestamp()

    harness = Harness(Tell, input=INPUT, processing_time=7)
    harness.push(("a", 1), 3)
    harness.advance_watermark(3)
    harness.push(("a", 1))
    assert harness.output() == [(-(2**63), 7, 3), (3, 7, None)]


LATE = OutputTag("late", {"user": "string"})
ANY = OutputTag("any")
PLAIN = OutputTag("plain", "bigint")


def test_side_outputs() -> None:
    @process(output="bigint", side_outputs=[LATE, ANY, PLAIN])
    class Sides(KeyedProcessFunction):
        def process_element(self, value, ctx):
            yield value.amount
            yield LATE, (value.user,)
            yield ANY, {"whatever": value.amount}
            yield PLAIN, -value.amount

    harness = Harness(Sides, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("b", 2)])
    assert harness.output() == [1, 2]
    assert harness.side_output(LATE) == [("a",), ("b",)]
    assert harness.side_output("any") == [{"whatever": 1}, {"whatever": 2}]
    assert harness.side_output(PLAIN) == [-1, -2]
    assert [tag for tag, _ in harness.prepared.side_outputs] == ["late", "any", "plain"]


@pytest.mark.parametrize("sides", [(), (LATE,)])
def test_side_outputs_that_are_not_declared(sides: tuple[OutputTag, ...]) -> None:
    @process(output={"a": "bigint", "b": "bigint"}, side_outputs=sides)
    class Sides(KeyedProcessFunction):
        def process_element(self, value, ctx):
            yield ANY, 1

    harness = Harness(Sides, input=INPUT, key="user")
    with pytest.raises(PillionError, match="`any`, which it does not declare"):
        harness.push(("a", 1))
