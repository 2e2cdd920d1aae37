"""Bad uses of state and timers, and functions as a worker prepares them."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import batch_of, reference
from stateful_functions import INPUT, OUTPUT, Declared, Sum, code_of

from pillion import (
    PICKLED,
    AggregatingState,
    KeyedProcessFunction,
    ListState,
    ListStateDescriptor,
    MapState,
    OutputTag,
    PillionError,
    ProcessFunction,
    ReducingState,
    ValueState,
    ValueStateDescriptor,
    process,
)
from pillion._runtime import Runtime
from pillion.testing import Harness

LATE = OutputTag("late", {"user": "string"})

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
        (lambda cells: cells.entries.clear_prefix(1), "state_type"),
        (lambda cells: cells.paths.clear_prefix(1), "state_type"),
        (lambda cells: cells.paths.clear_prefix(b"a"), "state_type"),
        (lambda cells: cells.paths.clear_prefix(None), "state_type"),
        (lambda cells: cells.pickles.clear_prefix("a"), "state_type"),
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
        "paths": MapState("string", "bigint"),
        "pickles": MapState(PICKLED, "bigint"),
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
    assert harness.error(harness.runtime.prepare, {**plan, "on_error": 2})["code"] == "plan_invalid"


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


def test_functions_that_threads_cannot_have(harness: Any) -> None:
    import threading

    class Locked(Sum):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    runtimes = [Runtime(allow_pickled_functions=False, worker=name) for name in ("one", "two")]
    for function in (Locked(), process(Locked())):
        record = harness.error(runtimes[0].describe, reference(function))
        assert (record["code"], "cannot be copied" in record["message"]) == ("declaration_invalid", True)
    shared = reference(process(Sum()))
    first, second = (runtime._loader.load(shared).declared for runtime in runtimes)
    assert first is not second
