"""Windows in every way that they can be declared."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from window_functions import INPUT, LATE, OUTPUT, Add, Sum, Total, declared

from pillion import (
    ListState,
    PillionError,
    ProcessWindowFunction,
    ValueState,
    ValueStateDescriptor,
    WindowFunction,
)
from pillion import windows as w
from pillion.testing import Harness


def test_reduce_alone_and_window_functions() -> None:
    class Last(WindowFunction):
        def apply(self, key, window, inputs):
            (one,) = inputs
            return [(key, window.max_timestamp(), one.amount)]

    rows, stamps = [("a", 1), ("a", 2), ("b", 5), ("a", 7)], [1, 2, 3, 11]
    alone = w.window(w.TumblingEventTimeWindows.of(10), reduce=Add)
    both = w.window(
        w.TumblingEventTimeWindows.of(10),
        reduce=lambda a, b: (a[0], a[1] + b[1]),
        process=Last,
        output={"user": "string", "end": "bigint", "sum": "bigint"},
    )
    for function, expected in (
        (alone, [("a", 3), ("a", 7), ("b", 5)]),
        (both, [("a", 9, 3), ("a", 19, 7), ("b", 9, 5)]),
    ):
        harness = Harness(function, input=INPUT, key="user")
        harness.push_batch(rows, stamps)
        harness.finish()
        assert sorted(harness.output()) == expected


def test_aggregate_alone() -> None:
    function = w.window(w.TumblingEventTimeWindows.of(10), aggregate=Total, output={"sum": "bigint", "n": "bigint"})
    harness = Harness(function, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 2)], [1, 2])
    harness.finish()
    assert harness.output() == [(3, 2)]


COUNTS = {"user": "string", "sum": "bigint"}


def sums(key, context, elements):
    yield key, sum(one.amount for one in elements)


def test_count_windows() -> None:
    harness = Harness(w.window(w.count_window(2), process=sums, output=COUNTS), input=INPUT, key="user")
    harness.push_batch([("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)])
    harness.push_batch([("b", 6), ("b", 6)])
    assert harness.output() == [("a", 4), ("b", 6), ("b", 12)]
    harness = Harness(w.window(w.count_window(3, 1), process=sums, output=COUNTS), input=INPUT, key="user")
    for amount in range(1, 6):
        harness.push(("a", amount))
    assert harness.output() == [("a", 6), ("a", 9), ("a", 12)]


def test_processing_time() -> None:
    for assigner, end in (
        (w.TumblingProcessingTimeWindows.of(datetime.timedelta(milliseconds=10)), 10),
        (w.SlidingProcessingTimeWindows.of(10, 10), 10),
        (w.ProcessingTimeSessionWindows.with_gap(8), 14),
        (w.ProcessingTimeSessionWindows.with_dynamic_gap(lambda element: 8), 14),
    ):
        harness = Harness(w.window(assigner, process=sums, output=COUNTS), input=INPUT, key="user", processing_time=3)
        harness.push(("a", 1))
        harness.advance_processing_time(6)
        harness.push(("a", 2))
        harness.advance_processing_time(end - 2)
        assert harness.output() == []
        harness.advance_processing_time(end - 1)
        assert harness.output() == [("a", 3)]
        assert not any(cell.data for cell in harness.cells.values())


def test_global_windows_and_triggers() -> None:
    def run(trigger: Any, *, watermarks: tuple[int, ...] = ()) -> list[Any]:
        function = w.window(w.GlobalWindows.create(), trigger=trigger, process=sums, output=COUNTS)
        harness = Harness(function, input=INPUT, key="user", rows_per_bundle=3)
        harness.push_batch([("a", 1), ("a", 2), ("a", 3), ("a", 4)])
        return harness.output()

    assert run(None) == []
    assert run(w.CountTrigger.of(2)) == [("a", 3), ("a", 10)]
    assert run(w.PurgingTrigger.of(w.CountTrigger.of(2))) == [("a", 3), ("a", 7)]


def test_continuous_triggers() -> None:
    function = w.window(
        w.TumblingEventTimeWindows.of(100), trigger=w.ContinuousEventTimeTrigger.of(30), process=sums, output=COUNTS
    )
    harness = Harness(function, input=INPUT, key="user")
    harness.push(("a", 1), 5)
    harness.advance_watermark(29)
    assert harness.output() == []
    harness.advance_watermark(30)
    assert harness.output() == [("a", 1)]
    harness.push(("a", 2), 40)
    harness.advance_watermark(95)
    assert harness.output() == [("a", 3), ("a", 3)]
    harness.finish()
    assert harness.output() == [("a", 3)]
    assert not any(cell.data for cell in harness.cells.values())
    function = w.window(
        w.TumblingProcessingTimeWindows.of(100),
        trigger=w.ContinuousProcessingTimeTrigger.of(30),
        process=sums,
        output=COUNTS,
    )
    harness = Harness(function, input=INPUT, key="user", processing_time=5)
    harness.push(("a", 1))
    harness.advance_processing_time(60)
    assert harness.output() == [("a", 1), ("a", 1)]
    sessions = w.window(
        w.EventTimeSessionWindows.with_gap(20),
        trigger=w.ContinuousEventTimeTrigger.of(15),
        process=sums,
        output=COUNTS,
    )
    harness = Harness(sessions, input=INPUT, key="user", rows_per_bundle=1)
    harness.push_batch([("a", 1), ("a", 2), ("b", 5), ("a", 4)], [1, 30, 31, 15])
    harness.finish()
    assert harness.output()[-1] in [("a", 7), ("b", 5)]
    assert not any(cell.data for cell in harness.cells.values())


def test_count_trigger_merges() -> None:
    function = w.window(
        w.EventTimeSessionWindows.with_gap(10), trigger=w.CountTrigger.of(3), process=sums, output=COUNTS
    )
    harness = Harness(function, input=INPUT, key="user", rows_per_bundle=1)
    harness.push_batch([("a", 1), ("a", 2)], [0, 15])
    assert harness.output() == []
    harness.push(("a", 4), 8)  # joins both sessions
    assert harness.output() == [("a", 7)]


class Own(w.Trigger):
    """Fires at a negative amount, with state of its own."""

    def __init__(self) -> None:
        self.seen = ValueStateDescriptor("seen", "bigint")

    def on_element(self, element, timestamp, window, ctx):
        state = ctx.get_partitioned_state(self.seen)
        state.update((state.value() or 0) + 1)
        if element.amount < 0 and state.value() > 1:
            return w.TriggerResult.FIRE_AND_PURGE
        return w.TriggerResult.CONTINUE

    def clear(self, window, ctx):
        ctx.get_partitioned_state(self.seen).clear()


def test_own_triggers() -> None:
    function = w.window(w.GlobalWindows(), trigger=Own(), process=sums, output=COUNTS)
    harness = Harness(function, input=INPUT, key="user", rows_per_bundle=2)
    harness.push_batch([("a", -1), ("b", 2), ("a", 3), ("a", -1), ("b", -1)])
    assert harness.output() == [("a", 1), ("b", 1)]

    class Hidden(w.Trigger):
        def on_element(self, element, timestamp, window, ctx):
            return ctx.get_partitioned_state(ValueStateDescriptor("hidden", "bigint")).value()

    function = w.window(w.GlobalWindows(), trigger=Hidden(), process=sums, output=COUNTS)
    with pytest.raises(PillionError, match="attribute of the trigger") as caught:
        Harness(function, input=INPUT, key="user").push(("a", 1))
    assert caught.value.code == "state_undeclared"


def test_evictors() -> None:
    counts = w.window(
        w.GlobalWindows(), trigger=w.CountTrigger(2), evictor=w.CountEvictor.of(3), process=sums, output=COUNTS
    )
    harness = Harness(counts, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 2), ("a", 4), ("a", 8)])
    assert harness.output() == [("a", 3), ("a", 14)]
    assert harness.state("window-contents", "a", b"\0") == [(("a", 2), None), (("a", 4), None), (("a", 8), None)]
    times = w.window(w.TumblingEventTimeWindows.of(100), evictor=w.TimeEvictor.of(10), reduce=Add)
    harness = Harness(times, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 2), ("a", 4)], [1, 15, 20])
    harness.finish()
    assert harness.output() == [("a", 6)]
    totals = w.window(
        w.TumblingEventTimeWindows.of(9),
        evictor=w.CountEvictor(1),
        aggregate=Total,
        output={"s": "bigint", "n": "bigint"},
    )
    harness = Harness(totals, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 2)], [1, 2])
    harness.finish()
    assert harness.output() == [(2, 1)]


class Keeps(ProcessWindowFunction):
    """State per window and per key."""

    total = ValueState("bigint")

    def open(self, runtime_context):
        self.fired = ValueStateDescriptor("fired", "bigint")
        runtime_context.get_state(self.fired)

    def process(self, key, context, elements):
        fired = context.window_state().get_state(self.fired)
        fired.update((fired.value() or 0) + 1)
        self.total.update((self.total.value() or 0) + 1)
        overall = context.global_state().get_state(self.fired)
        overall.update((overall.value() or 0) + 10)
        yield key, fired.value(), self.total.value(), overall.value(), context.current_watermark()

    def clear(self, context):
        context.window_state().get_state(self.fired).clear()


def test_state_of_window_functions() -> None:
    output = {"user": "string", "fired": "bigint", "total": "bigint", "overall": "bigint", "watermark": "bigint"}
    function = w.window(w.TumblingEventTimeWindows.of(10), process=Keeps, output=output, lateness=5)
    harness = Harness(function, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 1)], [1, 11])
    harness.advance_watermark(9)
    harness.push(("a", 1), 2)
    harness.finish()
    assert harness.output() == [
        ("a", 1, 1, 10, 9),
        ("a", 2, 2, 20, 9),
        ("a", 1, 3, 30, 2**63 - 1),
    ]
    assert harness.state("fired", "a") == 30
    assert list(harness.cells["fired"].data) == [(("a",), None)]
    function = w.window(w.EventTimeSessionWindows.with_gap(10), process=Keeps, output=output)
    harness = Harness(function, input=INPUT, key="user")
    harness.push(("a", 1), 1)
    with pytest.raises(PillionError, match="windows that merge"):
        harness.finish()


def test_pandas_and_arrow() -> None:
    pd = pytest.importorskip("pandas")

    def largest(frame, context):
        assert list(frame.columns) == ["user", "amount"]
        best = frame.nlargest(1, "amount")
        return pd.DataFrame({"user": best.user, "end": context.window().end, "amount": best.amount})

    output = {"user": "string", "end": "bigint", "amount": "bigint"}
    function = w.window(w.TumblingEventTimeWindows.of(10), process=largest, output=output, func_type="pandas")
    harness = Harness(function, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("b", 7), ("a", 3), ("a", 2)], [1, 2, 3, 14])
    harness.finish()
    assert sorted(harness.output()) == [("a", 10, 3), ("a", 20, 2), ("b", 10, 7)]


def test_arrow() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.compute as pc

    def total(batch, context):
        return pa.record_batch([pa.array([context.key]), pa.array([pc.sum(batch.column(1)).as_py()])], ["user", "sum"])

    function = w.window(w.count_window(2), process=total, output=COUNTS, func_type="arrow")
    harness = Harness(function, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("b", 7), ("a", 3)])
    assert harness.output() == [("a", 4)]


@pytest.mark.parametrize(
    "declare",
    [
        lambda: w.TumblingEventTimeWindows.of(0),
        lambda: w.TumblingEventTimeWindows.of("1 s"),
        lambda: w.TumblingEventTimeWindows.of(10, 10),
        lambda: w.SlidingEventTimeWindows.of(10, 0),
        lambda: w.EventTimeSessionWindows.with_gap(0),
        lambda: w.count_window(0),
        lambda: w.CountTrigger.of(0),
        lambda: w.CountEvictor.of(0),
        lambda: w.TimeEvictor.of(0),
        lambda: w.ContinuousEventTimeTrigger.of(0),
        lambda: w.window(w.GlobalWindows(), output=OUTPUT),
        lambda: w.window(w.GlobalWindows(), process=sums, lateness=5, output=OUTPUT),
        lambda: w.window(w.TumblingEventTimeWindows.of(5), process=sums, lateness=-5, output=OUTPUT),
        lambda: w.window(w.EventTimeSessionWindows.with_gap(5), trigger=Own(), process=sums, output=OUTPUT),
        lambda: w.window(w.GlobalWindows(), reduce=max, aggregate=Total, output=OUTPUT),
        lambda: w.window(w.GlobalWindows(), process=Sum, func_type="pandas", output=OUTPUT),
        lambda: w.window(w.GlobalWindows(), process=sums, func_type="numpy", output=OUTPUT),
        lambda: w.window(w.GlobalWindows(), process=sums, reduce=max, func_type="arrow", output=OUTPUT),
        lambda: Harness(w.window(w.GlobalWindows(), process=sums), input=INPUT, key="user"),
    ],
)
def test_bad_declarations(declare: Any) -> None:
    with pytest.raises(PillionError) as caught:
        declare()
    assert caught.value.code == "declaration_invalid"


def test_bad_use(harness: Any) -> None:
    tumbling = w.TumblingEventTimeWindows.of(10)
    function = w.window(tumbling, process=sums, output=COUNTS)
    with pytest.raises(PillionError, match="no timestamp"):
        Harness(function, input=INPUT, key="user").push(("a", 1))
    with pytest.raises(PillionError) as caught:
        Harness(function, input=INPUT)
    assert caught.value.code == "plan_invalid"
    with pytest.raises(PillionError) as caught:
        w.window(tumbling, process=5, output=COUNTS)
    assert caught.value.code == "not_a_function"

    def fails(key, context, elements):
        raise KeyError("gone")

    local = Harness(w.window(tumbling, process=fails, output=COUNTS), input=INPUT, key="user")
    local.push(("a", 1), 1)
    with pytest.raises(PillionError, match="gone"):
        local.finish()

    class Picky(Total):
        def add(self, value, accumulator):
            return super().add(value, accumulator) if value.amount else 1 / 0

    local = Harness(
        w.window(tumbling, aggregate=Picky, output={"sum": "bigint", "n": "bigint"}), input=INPUT, key="user"
    )
    local.push_batch([("a", 1)] * 9, [1] * 9)
    with pytest.raises(PillionError, match="ZeroDivisionError: division by zero in row 2"):
        local.push_batch([("a", 1), ("b", 1), ("a", 0)], [1, 1, 1])
    extractor = w.EventTimeSessionWindows.with_dynamic_gap(lambda element: 0)
    local = Harness(w.window(extractor, process=sums, output=COUNTS), input=INPUT, key="user")
    with pytest.raises(PillionError, match="Dynamic session time gap") as caught:
        local.push_batch([("a", 1)], [1])
    assert harness.runtime.error_record(caught.value)["exception"]["row"]["index"] == 0


def test_windows_encode_in_order() -> None:
    windows = [w.TimeWindow(start, start + 5) for start in (-(2**40), -1, 0, 3, 2**40)]
    assert sorted(one.encode() for one in windows) == [one.encode() for one in windows]
    from pillion.windows.kinds import decode

    for one in (*windows, w.CountWindow(7), w.GlobalWindow()):
        assert decode(one.encode()) == one
        assert hash(decode(one.encode())) == hash(one)
        assert repr(one)


@pytest.mark.parametrize("assigner", [w.TumblingEventTimeWindows.of(10), w.EventTimeSessionWindows.with_gap(10)])
@pytest.mark.parametrize("how", ["aggregate", "process"])
def test_what_is_too_late_is_counted_or_put_aside(assigner: Any, how: str) -> None:
    for late in (None, LATE):
        harness = Harness(declared(assigner, how, late=late), input=INPUT, key="user")
        harness.push_batch([("a", 1), ("b", 2)], [1, 2])
        harness.advance_watermark(25)
        harness.push_batch([("a", 3), ("b", 4), ("a", 5)], [3, 24, 9])
        harness.finish()
        counted = [one[4] for one in harness.prepared.metrics[0].take() if one[1] == "numLateRecordsDropped"]
        assert sum(counted) == (2 if late is None else 0)
        if late is not None:
            assert harness.side_output(LATE) == [("a", 3), ("a", 5)]


def test_described(harness: Any) -> None:
    function = declared(w.TumblingEventTimeWindows.of(10), "aggregate", late=LATE)
    prepared = Harness(function, input=INPUT, key="user").prepared
    assert [one["name"] for one in prepared.cells] == ["window-contents"]
    assert prepared.side_outputs == [("late", prepared.side_outputs[0][1])]
    assert [name for name, _ in prepared.side_outputs[0][1]] == ["user", "amount"]
    assert prepared.functions[0]["name"] == "of_total"
    assert prepared.functions[0]["side_outputs"] == prepared.side_outputs
    assert harness.describe(function)["side_outputs"] == [("late", [])]
    assert ListState("bigint").kind == "list"
