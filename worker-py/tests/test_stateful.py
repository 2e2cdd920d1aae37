"""Row-at-a-time stateful functions, through the harness: cells, timers, side outputs, and every bad use."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest
from conftest import batch_of, reference

import pillion
from pillion import (
    PICKLED,
    AggregateFunction,
    AggregatingState,
    AggregatingStateDescriptor,
    FilterFunction,
    FlatMapFunction,
    KeyedProcessFunction,
    ListState,
    ListStateDescriptor,
    MapFunction,
    MapState,
    MapStateDescriptor,
    OutputTag,
    PillionError,
    ProcessFunction,
    ReduceFunction,
    ReducingState,
    ReducingStateDescriptor,
    TimeDomain,
    Ttl,
    ValueState,
    ValueStateDescriptor,
    process,
)
from pillion.testing import Harness, Timer

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


@pytest.mark.parametrize("rows_per_bundle", [1, 2, 100])
@pytest.mark.parametrize("deferred", [(), ("total",)])
def test_value_cell(rows_per_bundle: int, deferred: tuple[str, ...]) -> None:
    harness = Harness(Sum, input=INPUT, key="user", rows_per_bundle=rows_per_bundle, deferred=deferred)
    harness.push_batch([("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)])
    assert harness.output() == [("a", 1), ("b", 2), ("a", 4), ("c", 4), ("b", 7)]
    assert [harness.state("total", key) for key in "abcd"] == [4, 7, 4, None]
    assert harness.keys("total") == ["a", "b", "c"]


CELLS = ("last", "all", "counts", "most", "mean", "any")


@pytest.mark.parametrize("rows_per_bundle", [1, 3, 100])
@pytest.mark.parametrize("deferred", [(), CELLS])
def test_every_kind_of_cell(rows_per_bundle: int, deferred: tuple[str, ...]) -> None:
    function = process(Declared(), output=OUTPUT)
    harness = Harness(function, input=INPUT, key="user", rows_per_bundle=rows_per_bundle, deferred=deferred)
    harness.push_batch([("a", 1), ("b", 2), ("a", 3), ("a", 1)])
    last = harness.output()[-1]
    assert last == ("a", "3", [1, 3, 1], {1: 2, 3: 1}, 3, 5 / 3)
    assert harness.state("last", "a") == (1, "1")
    assert harness.state("all", "a") == [1, 3, 1]
    assert harness.state("counts", "a") == {1: 2, 3: 1}
    assert harness.state("any", "b") == {"seen": {1, 2}}
    cells = {one["name"]: one for one in harness.prepared.cells}
    assert [cells[name]["kind"] for name in CELLS] == ["value", "list", "map", "reducing", "aggregating", "value"]
    assert str(cells["counts"]["map_key_type"]) == "bigint"
    assert cells["any"]["pickled"] and not cells["all"]["pickled"]


class Script(KeyedProcessFunction):
    """Does to its cells what its input says."""

    output = {"seen": "string"}
    value = ValueState("bigint")
    items = ListState("string")
    entries = MapState("string", "bigint")
    pickles = MapState(PICKLED, PICKLED)

    def process_element(self, value, ctx):
        getattr(self, value.op)(value.arg)
        yield (self.seen(),)

    def seen(self):
        found = self.value.value(), self.items.get(), sorted(self.entries.items()), sorted(self.pickles.items())
        return repr(found)

    def set(self, arg):
        self.value.update(arg)

    def drop(self, arg):
        self.value.clear()

    def add(self, arg):
        self.items.add(str(arg))

    def replace(self, arg):
        self.items.update([str(arg)] * (arg % 3))

    def forget(self, arg):
        self.items.clear()

    def put(self, arg):
        self.entries[str(arg % 3)] = arg
        self.pickles.put((arg % 2, "k"), [arg])

    def remove(self, arg):
        del self.entries[str(arg % 3)]
        self.pickles.remove((arg % 2, "k"))

    def clear(self, arg):
        self.entries.clear()
        self.pickles.clear()

    def look(self, arg):
        assert ("0" in self.entries) == self.entries.contains("0")
        assert len(self.entries) == len(self.entries.keys()) == len(list(self.entries)) == len(self.entries.values())
        assert self.entries.is_empty() == (not self.entries.items())


class Model:
    """What `Script` would see without any state service."""

    def __init__(self) -> None:
        self.value: Any = None
        self.items: list[str] = []
        self.entries: dict[str, int] = {}
        self.pickles: dict[Any, Any] = {}

    def do(self, op: str, arg: int) -> str:
        if op == "set":
            self.value = arg
        elif op == "drop":
            self.value = None
        elif op == "add":
            self.items.append(str(arg))
        elif op == "replace":
            self.items = [str(arg)] * (arg % 3)
        elif op == "forget":
            self.items = []
        elif op == "put":
            self.entries[str(arg % 3)] = arg
            self.pickles[arg % 2, "k"] = [arg]
        elif op == "remove":
            self.entries.pop(str(arg % 3), None)
            self.pickles.pop((arg % 2, "k"), None)
        elif op == "clear":
            self.entries, self.pickles = {}, {}
        return repr((self.value, self.items, sorted(self.entries.items()), sorted(self.pickles.items())))


OPS = ("set", "drop", "add", "replace", "forget", "put", "remove", "clear", "look")


@pytest.mark.parametrize("seed", range(20))
def test_programs_like_a_model(seed: int) -> None:
    chance = random.Random(seed)
    deferred = [name for name in ("value", "items", "entries", "pickles") if chance.random() < 0.3]
    harness = Harness(
        Script,
        input={"user": "bigint", "op": "string", "arg": "bigint"},
        key="user",
        rows_per_bundle=chance.choice([1, 3, 7, 1000]),
        deferred=deferred,
    )
    rows = [(chance.randrange(4), chance.choice(OPS), chance.randrange(10)) for _ in range(200)]
    models = [Model() for _ in range(4)]
    expected = [(models[user].do(op, arg),) for user, op, arg in rows]
    harness.push_batch(rows)
    assert harness.output() == expected


def test_rows_that_are_only_added_read_nothing() -> None:
    @process(output={"n": "bigint"}, cells={"all": ListState("bigint")})
    def add(value, ctx):
        ctx.state.all.add(value.amount)

    harness = Harness(add, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("b", 2)])
    (name, writes), *others = harness.effects[0].writes
    assert (name, others) == ("all", [])
    assert [column.to_pylist() for column in writes.columns] == [[0, 1], [1, 1], [1, 2]]
    assert writes.names == ["key", "op", "value"]


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
    assert harness.output() == [("a", 5, "EVENT_TIME", "")]  # at the next advance
    with pytest.raises(ValueError, match="back"):
        harness.advance_watermark(49)
    with pytest.raises(ValueError, match="back"):
        harness.advance_processing_time(99)


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


def test_simple_functions() -> None:
    class Double(MapFunction):
        def map(self, value):
            return value.user, value.amount * 2

    class Twice(FlatMapFunction):
        def flat_map(self, value):
            return [value, value]

    class Odd(FilterFunction):
        def filter(self, value):
            return value.amount % 2

    class Add(ReduceFunction):
        def reduce(self, value1, value2):
            return value1.user, value1.amount + value2.amount

    rows = [("a", 1), ("b", 2), ("a", 3)]
    for function, expected in [
        (process(Double(), output=INPUT), [("a", 2), ("b", 4), ("a", 6)]),
        (process(Twice(), output=INPUT), [rows[0], rows[0], rows[1], rows[1], rows[2], rows[2]]),
        (Odd, [("a", 1), ("a", 3)]),
        (Add, [("a", 1), ("b", 2), ("a", 4)]),
        (process(Mean, output="double"), [1.0, 2.0, 2.0]),
    ]:
        harness = Harness(function, input=INPUT, key="user", rows_per_bundle=2)
        harness.push_batch(rows)
        assert harness.output() == expected


def test_several_key_columns_and_structs() -> None:
    @process(output={"key": "row<a bigint, b date>"})
    class Tell(KeyedProcessFunction):
        def process_element(self, value, ctx):
            key = ctx.get_current_key()
            assert key.a == value.a
            yield (key,)

    day = datetime.date(2026, 1, 2)
    harness = Harness(Tell, input={"a": "bigint", "b": "date"}, key=["a", "b"])
    harness.push((1, day))
    assert harness.output() == [((1, day),)]


# Time to live.


class Remember(KeyedProcessFunction):
    output = {"value": "bigint", "items": "array<bigint>", "entries": "map<bigint, bigint>"}

    def __init__(self, ttl: Any) -> None:
        self.ttl = ttl

    def open(self, runtime_context):
        self.cells = []
        for descriptor, get in (
            (ValueStateDescriptor("value", "bigint"), runtime_context.get_state),
            (ListStateDescriptor("items", "bigint"), runtime_context.get_list_state),
            (MapStateDescriptor("entries", "bigint", "bigint"), runtime_context.get_map_state),
        ):
            descriptor.enable_time_to_live(self.ttl)
            self.cells.append(get(descriptor))

    def process_element(self, value, ctx):
        one, items, entries = self.cells
        if value.amount:
            one.update(value.amount)
            items.add(value.amount)
            entries.put(value.amount, value.amount)
        else:
            yield one.value(), items.get(), dict(entries.items())


@pytest.mark.parametrize(
    ("ttl", "seen"),
    [
        (
            datetime.timedelta(seconds=1),
            [(1, [1], {1: 1}), (2, [1, 2], {1: 1, 2: 2}), (2, [2], {2: 2}), (None, [], {})],
        ),
        (
            Ttl(1000, count_reads=True),
            [(1, [1], {1: 1}), (2, [1, 2], {1: 1, 2: 2}), (2, [1, 2], {1: 1, 2: 2}), (2, [1, 2], {1: 1, 2: 2})],
        ),
        (
            Ttl(1000, return_expired=True),
            [(1, [1], {1: 1}), (2, [1, 2], {1: 1, 2: 2}), (2, [1, 2], {1: 1, 2: 2}), (2, [1, 2], {1: 1, 2: 2})],
        ),
    ],
)
def test_time_to_live(ttl: Any, seen: list[Any]) -> None:
    harness = Harness(Remember(ttl), input=INPUT, key="user")
    harness.push(("a", 1))
    for time, row in [(500, ("a", 0)), (600, ("a", 2)), (999, ("a", 0)), (1100, ("a", 0)), (1900, ("a", 0))]:
        harness.advance_processing_time(time)
        harness.push(row)
    assert harness.output() == seen
    harness.advance_processing_time(10_000)
    harness.clean_up()
    assert harness.keys("value") == harness.keys("items") == harness.keys("entries") == []


def test_time_to_live_of_reads_within_a_map() -> None:
    @process(
        output="bigint",
        cells={"m": MapState("bigint", "bigint", ttl=Ttl(100, count_reads=True))},
    )
    def touch(value, ctx):
        if value.amount < 0:
            yield ctx.state.m.get(-value.amount)
        else:
            ctx.state.m.put(value.amount, value.amount)

    harness = Harness(touch, input=INPUT, key="user")
    harness.push_batch([("a", 1), ("a", 2)])
    harness.advance_processing_time(60)
    harness.push(("a", -1))
    harness.advance_processing_time(120)
    assert harness.state("m", "a") == {1: 1}


# What goes wrong.


@pytest.mark.parametrize(
    ("use", "code"),
    [
        (lambda cells: cells.total.update("text"), "state_type"),
        (lambda cells: cells.total.update(1.5), "state_type"),
        (lambda cells: cells.total.update(2**70), "state_type"),
        (lambda cells: cells.names.add(1), "state_type"),
        (lambda cells: cells.names.add(None), "state_type"),
        (lambda cells: cells.entries.put("text", 1), "state_type"),
        (lambda cells: cells.entries.put(None, 1), "state_type"),
        (lambda cells: cells.entries.put(1, "text"), "state_type"),
        (lambda cells: cells.rows.update((1, 2, 3)), "state_type"),
        (lambda cells: cells.anything.update(lambda: 0), "state_type"),
        (lambda cells: cells.other, "state_undeclared"),
    ],
)
def test_values_of_a_wrong_type(use: Any, code: str) -> None:
    cells = {
        "total": ValueState("bigint"),
        "names": ListState("string"),
        "entries": MapState("bigint", "bigint"),
        "rows": ValueState("row<a bigint, b bigint>"),
        "anything": ValueState(PICKLED),
    }
    harness = Harness(process(lambda value, ctx: use(ctx.state), output="bigint", cells=cells), input=INPUT, key="user")
    assert code_of(lambda: harness.push(("ann", 1))) == code
    assert not any(harness.keys(name) for name in cells)


def test_wrong_values_say_where(harness: Any) -> None:
    class Wrong(KeyedProcessFunction):
        output = {"user": "string"}
        total = ValueState("bigint")

        def process_element(self, value, ctx):
            self.total.update(value.user)

    with pytest.raises(PillionError) as caught:
        Harness(Wrong, input=INPUT, key="user").push(("ann", 1))
    record = harness.runtime.error_record(caught.value)
    assert record["code"] == "state_type"
    assert record["exception"]["frames"][-1]["source"] == "self.total.update(value.user)"
    assert record["exception"]["row"]["values"][0] == ("user", "'ann'")


def test_numbers_of_other_classes_are_converted() -> None:
    cells = {"small": ValueState("int"), "real": ValueState("double")}

    @process(output={"real": "double"}, cells=cells)
    def keep(value, ctx):
        ctx.state.small.update(True if value.amount == 0 else value.amount)
        ctx.state.real.update(value.amount)
        yield (ctx.state.real.value(),)

    harness = Harness(keep, input=INPUT, key="user")
    harness.push(("a", 3))
    assert harness.output() == [(3.0,)]


def test_state_outside_of_a_call() -> None:
    class Early(KeyedProcessFunction):
        output = "bigint"
        total = ValueState("bigint")

        def open(self, runtime_context):
            self.total.update(1)

        def process_element(self, value, ctx):
            pass

    with pytest.raises(PillionError, match="outside of a call"):
        Harness(Early, input=INPUT, key="user")
    with pytest.raises(PillionError, match="before the function was opened"):
        Sum().total.value()
    function = Sum()
    harness = Harness(function, input=INPUT, key="user")
    harness.push(("a", 1))
    for use in (function.total.value, lambda: function.total.update(1), function.total.clear):
        assert code_of(use) == "state_without_key"
    keeper = Declared()
    Harness(process(keeper, output=OUTPUT), input=INPUT, key="user")
    uses = (keeper.all.get, lambda: keeper.all.add(1), keeper.all.clear, keeper.counts.items, keeper.counts.clear)
    for use in (*uses, lambda: keeper.counts.put(1, 1), lambda: keeper.counts.get(1), lambda: keeper.most.add(1)):
        assert code_of(use) == "state_without_key"


def test_state_and_timers_without_a_key() -> None:
    @process(output="bigint", cells={"total": ValueState("bigint"), "all": ListState("bigint")})
    class Keyless(ProcessFunction):
        def process_element(self, value, ctx):
            if value.amount == 0:
                ctx.state["total"].value()
            elif value.amount == 1:
                ctx.timer_service().register_event_time_timer(1)
            elif value.amount == 2:
                ctx.timer_service().delete_processing_time_timer(1)
            elif value.amount == 3:
                ctx.state["all"].add(1)
            else:
                ctx.get_current_key()

    for amount in range(5):
        harness = Harness(Keyless, input=INPUT)
        assert code_of(lambda harness=harness, amount=amount: harness.push(("a", amount))) == "state_without_key"


@pytest.mark.parametrize("timestamp", [2**63, -(2**63) - 1])
def test_timers_out_of_range(timestamp: int) -> None:
    for method in (
        "register_event_time_timer",
        "register_processing_time_timer",
        "delete_event_time_timer",
        "delete_processing_time_timer",
    ):
        function = process(lambda value, ctx, m=method: getattr(ctx.timer_service(), m)(timestamp), output="bigint")
        assert code_of(lambda f=function: Harness(f, input=INPUT, key="user").push(("a", 1))) == "timer_out_of_range"


def test_cells_declared_too_late_or_twice() -> None:
    class Late(KeyedProcessFunction):
        output = "bigint"

        def open(self, runtime_context):
            self.context = runtime_context

        def process_element(self, value, ctx):
            self.context.get_state(ValueStateDescriptor("late", "bigint"))

    assert code_of(lambda: Harness(Late, input=INPUT, key="user").push(("a", 1))) == "state_undeclared"

    class Twice(Late):
        def open(self, runtime_context):
            same = ValueStateDescriptor("cell", "bigint")
            assert runtime_context.get_state(same) is runtime_context.get_state(same)
            runtime_context.get_list_state(ListStateDescriptor("cell", "bigint"))

    assert code_of(lambda: Harness(Twice, input=INPUT, key="user")) == "open_failed"


@pytest.mark.parametrize(
    "declare",
    [
        lambda: ValueState("no such type"),
        lambda: ValueState("bigint", ttl="soon"),
        lambda: ValueState("bigint", ttl=0),
        lambda: ReducingState("bigint", 5),
        lambda: AggregatingState("bigint", max),
        lambda: OutputTag(""),
        lambda: process(type("Empty", (KeyedProcessFunction,), {}), output="bigint"),
        lambda: process(lambda value, ctx: None, output="bigint", func_type="polars"),
        lambda: Harness(process(lambda value, ctx: None), input=INPUT),
    ],
)
def test_bad_declarations(declare: Any) -> None:
    assert code_of(declare) == "declaration_invalid"


def test_bad_plans() -> None:
    assert code_of(lambda: process(5, output="bigint")) == "not_a_function"
    assert code_of(lambda: process(int, output="bigint")) == "not_a_function"
    assert code_of(lambda: Harness(Sum, input=INPUT)) == "plan_invalid"
    assert code_of(lambda: Harness(Sum, input=[INPUT, INPUT], key="user")) == "plan_invalid"
    assert code_of(lambda: Harness(Sum, input=INPUT, key="nobody")) == "plan_invalid"


def test_user_errors_leave_nothing_behind(harness: Any) -> None:
    class Fails(KeyedProcessFunction):
        output = {"user": "string"}
        total = ValueState("bigint")

        def process_element(self, value, ctx):
            self.total.update(1)
            ctx.timer_service().register_event_time_timer(5)
            yield (value.user,)
            if value.amount == 2:
                raise KeyError("two")

        def on_timer(self, timestamp, ctx):
            raise SystemExit(3)

    local = Harness(Fails, input=INPUT, key="user")
    with pytest.raises(PillionError) as caught:
        local.push_batch([("a", 1), ("b", 2)])
    record = harness.runtime.error_record(caught.value)
    assert (record["code"], record["exception"]["row"]["index"]) == ("function_raised", 1)
    assert record["exception"]["type"] == "KeyError"
    assert (local.output(), local.timers(), local.keys("total")) == ([], [], [])
    local.push(("a", 1))
    with pytest.raises(PillionError, match="in the timer at 5 of the key 'a'"):
        local.advance_watermark(9)
    assert len(local.timers()) == 1


def test_results_that_are_no_rows() -> None:
    for result in ([5], [("a", "b", "c")], [("a", "text")], 5):
        function = process(lambda value, ctx, r=result: r, output=INPUT)
        with pytest.raises(PillionError):
            Harness(function, input=INPUT, key="user").push(("a", 1))


# As a worker runs them.


def test_runtime(harness: Any) -> None:
    batch = batch_of({"user": ("string", ["a"]), "amount": ("bigint", [1])})
    plan = {"calls": [{"function": reference(Sum), "arguments": []}], "outputs": [], "input": batch.schema}
    prepared = harness.runtime.prepare({**plan, "keys": batch.schema[:1]})
    assert prepared.kind == "process"
    assert [name for name, _ in prepared.output] == ["user", "total"]
    described = harness.describe(Sum())
    assert (described["kind"], described["func_type"]) == ("process", "general")
    assert [cell["name"] for cell in described["cells"]] == ["total"]
    assert described["result_schema"] == [("user", "string"), ("total", "bigint")]
    described = harness.describe(process(Sum(), output="bigint", timers=["wake"], side_outputs=[LATE], name="s"))
    assert described["timers"] == ["wake"]
    assert [tag for tag, _ in described["side_outputs"]] == ["late"]
    two = {**plan, "calls": plan["calls"] * 2}
    assert harness.error(harness.runtime.prepare, two)["code"] == "plan_invalid"
    assert harness.error(harness.runtime.prepare, {**plan, "keys": []})["code"] == "plan_invalid"


def test_a_result_type_of_the_plan(harness: Any) -> None:
    class Untold(KeyedProcessFunction):
        def process_element(self, value, ctx):
            yield (value.user,)

    assert harness.describe(Untold())["result_schema"] == []
    fields = batch_of({"user": ("string", [])}).schema
    call = {"function": {**reference(Untold), "result_type": "row<user string>"}, "arguments": []}
    prepared = harness.runtime.prepare({"calls": [call], "outputs": [], "input": fields, "keys": fields})
    assert [name for name, _ in prepared.output] == ["user"]
    call = {"function": reference(Untold), "arguments": []}
    record = harness.error(harness.runtime.prepare, {"calls": [call], "outputs": [], "input": fields})
    assert record["code"] == "declaration_invalid"


def test_functions_of_threads_are_their_own() -> None:
    declared = process(Sum(), output=Sum.output)
    copied = declared.copy()
    Harness(declared, input=INPUT, key="user").push(("a", 1))
    Harness(copied, input=INPUT, key="user").push(("a", 1))
    assert copied.target is not declared.target
    assert "Sum" in repr(copied)
