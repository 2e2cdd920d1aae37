"""Rows that fail alone: what they did is undone, and they are left out or sent aside."""

from __future__ import annotations

import logging
import pickle
import random
from typing import Any

import pytest

from pillion import (
    PICKLED,
    AggregateFunction,
    AggregatingState,
    BroadcastState,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    ListState,
    MapState,
    OutputTag,
    PillionError,
    ReducingState,
    Ttl,
    ValueState,
    process,
    windows,
)
from pillion.stateful.failing import ERRORS, FAILED
from pillion.testing import Harness

INPUT = {"user": "string", "n": "bigint"}
SIDE = OutputTag("side", "bigint")
READS = Ttl(1_000, count_reads=True)


class Collected(AggregateFunction):
    """Changes its accumulator in place, as many do."""

    def create_accumulator(self) -> list[int]:
        return []

    def add(self, value: int, accumulator: list[int]) -> list[int]:
        accumulator.append(value)
        if value < 0:
            raise ValueError("negative")
        return accumulator

    def get_result(self, accumulator: list[int]) -> int:
        return sum(accumulator)


class Everything(KeyedProcessFunction):
    """Does with each of its cells what the program of a row says."""

    value = ValueState("bigint")
    read = ValueState("bigint", ttl=READS)
    rows = ValueState("row<a bigint, b array<bigint>>")
    pickled = ValueState(PICKLED)
    most = ReducingState("bigint", max)
    collected = AggregatingState(PICKLED, Collected)
    numbers = ListState("bigint")
    read_list = ListState("bigint", ttl=READS)
    objects = ListState(PICKLED)
    counts = MapState("string", "bigint")
    read_map = MapState("string", "bigint", ttl=READS)
    arrays = MapState("string", "array<bigint>")

    def __init__(self, programs: dict[int, list[tuple[Any, ...]]]) -> None:
        self.programs = programs

    def process_element(self, row: Any, ctx: Any) -> Any:
        for what, *arguments in self.programs[row.n]:
            yield from getattr(self, what)(ctx, *arguments) or ()

    def fail(self, ctx: Any) -> None:
        """Changes all objects in place first."""
        for held in (self.pickled.value() or {}, *self.objects.get(), *self.arrays.values()):
            held.clear()
        raise RuntimeError("as planned")

    def out(self, ctx: Any, n: int) -> Any:
        yield (ctx.get_current_key(), n)
        yield SIDE, n

    def shown(self, ctx: Any) -> Any:
        """Everything that can be read, as output: what a failed row has left shows at once."""
        cells = [self.value.value(), self.rows.value(), self.pickled.value(), self.most.get(), self.collected.get()]
        cells += [self.numbers.get(), self.objects.get(), sorted(self.counts.items()), sorted(self.arrays.items())]
        yield (ctx.get_current_key(), len(repr(cells)) + sum(map(ord, repr(cells))))

    def reads(self, ctx: Any, n: int) -> None:
        (self.read.value, self.read_list.get, lambda: self.read_map.get(str(n)), self.read_map.items)[n % 4]()

    def values(self, ctx: Any, n: int) -> None:
        for cell in (self.value, self.read):
            cell.update((cell.value() or 0) + n) if n % 5 else cell.clear()
        old = self.rows.value()
        array = [] if old is None else old.b
        array.append(n)
        self.rows.update((n, array))
        held = self.pickled.value() or {}
        held[n] = [n]
        for one in held.values():
            one.append(n)
        self.pickled.update(held)

    def merged(self, ctx: Any, n: int) -> None:
        self.most.add(n)
        self.collected.add(n)

    def lists(self, ctx: Any, n: int) -> None:
        for cell in (self.numbers, self.read_list):
            if n % 4 == 0:
                cell.clear()
            elif n % 4 == 1:
                cell.update([n, n])
            else:
                cell.add(n)
        if n % 2:
            held = self.objects.get()
            for one in held:
                one.append(n)
            self.objects.update([*held, [n]])
        else:
            self.objects.add([n])

    def maps(self, ctx: Any, n: int) -> None:
        key = str(n % 3)
        for cell in (self.counts, self.read_map):
            cell.put(key, (cell.get(key) or 0) + n) if n % 4 else cell.remove(key)
            if n % 7 == 0:
                cell.clear()
            if n % 5 == 0:
                cell.clear_prefix(key)
        array = self.arrays.get(key) or []
        array.append(n)
        self.arrays.put(key, array)
        if n % 6 == 0:
            self.arrays.clear_prefix(key)

    def timer(self, ctx: Any, n: int) -> None:
        service = ctx.timer_service()
        (service.register_event_time_timer, service.delete_event_time_timer)[n % 2](100 + n % 4)


def program(chance: random.Random) -> list[tuple[Any, ...]]:
    kinds = ["out", "shown", "reads", "values", "merged", "lists", "maps", "timer"]
    picked = [chance.choice(kinds) for _ in range(chance.randrange(1, 6))]
    return [(one,) if one == "shown" else (one, chance.randrange(1, 40)) for one in picked]


def effects_of(harness: Harness) -> list[Any]:
    def plain(batch: Any) -> Any:
        columns = [[pickle.loads(v) if v.__class__ is bytes else v for v in one.to_pylist()] for one in batch.columns]
        return sorted(map(repr, zip(*columns)))

    shown = [[(name, plain(batch)) for name, batch in one.writes] for one in harness.effects]
    return [shown, harness.output(), harness.side_output(SIDE), harness.timers()]


@pytest.mark.parametrize("on_error", ["skip", "side"])
@pytest.mark.parametrize("deferred", [(), ("value", "pickled", "numbers", "objects", "counts", "arrays")])
@pytest.mark.parametrize("page", [None, 2])
@pytest.mark.parametrize("seed", range(25))
def test_failed_rows_leave_nothing(seed: int, page: int | None, deferred: tuple[str, ...], on_error: str) -> None:
    """A run with rows that fail brings about what one without these rows does: writes, timers, outputs."""
    chance = random.Random(seed)
    programs: dict[int, list[tuple[Any, ...]]] = {-1: [("shown",)]}
    bundles, failing = [], []
    for _ in range(4):
        rows = [("a", -1), ("b", -1)]  # so that both runs have the same keys in the same order
        for _ in range(chance.randrange(1, 12)):
            n = len(programs) - 1
            programs[n] = program(chance)
            if chance.random() < 0.4:
                where, how = chance.randrange(len(programs[n]) + 1), chance.choice([("fail",), ("merged", -1)])
                programs[n].insert(where, how)
                failing.append(n)
            rows.append((chance.choice("ab"), n))
        bundles.append(rows)
    declared = {"output": {"user": "string", "n": "bigint"}, "side_outputs": [SIDE]}
    found = []
    for mode, left_out in ((on_error, []), ("fail", failing)):
        function = process(Everything(programs), **declared)
        harness = Harness(function, input=INPUT, key="user", deferred=deferred, page=page, on_error=mode)
        for rows in bundles:
            harness.push_batch([row for row in rows if row[1] not in left_out])
        if mode == "side":
            assert [row.n for row in harness.side_output(ERRORS)] == failing
        harness.effects = [one for one in harness.effects if one.writes]
        found.append(effects_of(harness))
    assert found[0] == found[1]


class Picky(KeyedProcessFunction):
    """Takes even numbers."""

    output = {"user": "string", "n": "bigint"}
    total = ValueState("bigint")

    def process_element(self, row: Any, ctx: Any) -> Any:
        self.total.update((self.total.value() or 0) + row.n)
        yield row.user, self.total.value()
        if row.n % 2:
            raise KeyError(f"odd: {row.n}")
        if row.n == 100:
            self.total.update("many")  # type: ignore[arg-type]
        if row.n == 200:
            raise SystemExit(3)
        if row.n == 300:
            ctx.timer_service().register_event_time_timer(10)

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        raise ValueError("timers are no rows")


def test_error_rows(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(Picky, input=INPUT, key="user", on_error="side")
    with caplog.at_level(logging.WARNING, logger="pillion"):
        harness.push_batch([("a", 2), ("a", 3), ("b", 4), ("a", 100), (None, 7), ("a", 6)])
    assert harness.output() == [("a", 2), ("b", 4), ("a", 8)]
    errors = harness.side_output(ERRORS)
    assert [(row.user, row.n, row.error_type) for row in errors] == [
        ("a", 3, "KeyError"),
        ("a", 100, "pillion.errors.PillionError"),
        (None, 7, "KeyError"),
    ]
    assert errors[0].error_message == "'odd: 3'"
    assert errors[1].error_message == "a value of type `str` does not fit the cell `total` of `bigint`"
    assert [(name, fields) for name, fields in harness.prepared.functions[0]["side_outputs"]] == [
        (ERRORS, harness.prepared.side_outputs[0][1])
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "`Picky` raised KeyError: 'odd: 3' in row 1, which is sent to the side output `pillion.errors`, as are all "
        "that follow; the metric `numRecordsFailed` counts them"
    ]
    (metrics,) = harness.prepared.metrics
    assert metrics.take() == [("counter", FAILED, [], {}, 3)]


def test_skipped_rows() -> None:
    harness = Harness(Picky, input=INPUT, key="user", on_error="skip")
    harness.push_batch([("a", 1), ("a", 2), ("b", 3)])
    assert harness.output() == [("a", 2)]
    assert harness.keys("total") == ["a"]
    assert harness.prepared.side_outputs == []
    with pytest.raises(KeyError):
        harness.side_output(ERRORS)


def test_what_is_no_failure_of_one_row() -> None:
    """Leaving the interpreter, timers, and state that cannot be read: the bundle fails, and nothing of it happened."""
    harness = Harness(Picky, input=INPUT, key="user", on_error="skip")
    with pytest.raises(PillionError, match="SystemExit"):
        harness.push_batch([("a", 2), ("a", 200)])
    assert harness.keys("total") == [] and harness.output() == []
    harness.push(("a", 300))
    with pytest.raises(PillionError, match="timers are no rows"):
        harness.advance_watermark(10)
    assert len(harness.timers()) == 1
    broken = Harness(Picky, input=INPUT, key="user", on_error="skip", deferred=["total"])

    def column(*_: Any) -> Any:
        raise ConnectionError("gone")

    broken.cells["total"].fetched = column  # type: ignore[method-assign]
    with pytest.raises(PillionError, match="ConnectionError: gone"):
        broken.push(("a", 2))


class Two(KeyedCoProcessFunction):
    """Fails on both inputs."""

    output = "bigint"

    def process_element1(self, value: Any, ctx: Any) -> Any:
        yield 1 // value.n

    def process_element2(self, value: Any, ctx: Any) -> Any:
        yield len(value.text) // value.m


def test_error_rows_of_two_inputs() -> None:
    second = {"text": "string", "m": "bigint"}
    harness = Harness(Two, input=[INPUT, second], key=["user", "text"], on_error="side")
    harness.push_batch([("a", 0), ("a", 1)])
    harness.push_batch([("abcd", 2), ("abcd", 0)], input=1)
    assert harness.output() == [1, 2]
    assert [tuple(row)[:3] for row in harness.side_output(ERRORS)] == [("a", 0, "ZeroDivisionError")]
    assert [tuple(row)[:3] for row in harness.side_output(f"{ERRORS}.2")] == [("abcd", 0, "ZeroDivisionError")]


class Rules(KeyedBroadcastProcessFunction):
    """Fails on broadcast elements."""

    output = "bigint"
    rules = BroadcastState("string", "bigint")

    def process_element(self, value: Any, ctx: Any) -> Any:
        yield self.rules.get(value.user) or 0

    def process_broadcast_element(self, value: Any, ctx: Any) -> Any:
        self.rules.put(value.user, value.n)
        if value.n < 0:
            raise ValueError(value.n)


def test_failed_broadcast_elements_leave_nothing() -> None:
    harness = Harness(Rules, input=[INPUT, INPUT], key="user", on_error="side")
    harness.broadcast(("a", 1), ("a", -2), ("b", 3), ("c", -1))
    harness.push_batch([("a", 0), ("b", 0), ("c", 0)])
    assert harness.output() == [1, 3, 0]
    assert [row.n for row in harness.side_output(f"{ERRORS}.2")] == [-2, -1]


def test_where_rows_cannot_fail_alone(harness: Any) -> None:
    window = windows.window(windows.count_window(2), reduce=lambda a, b: a)
    for on_error in ("skip", "side"):
        with pytest.raises(PillionError, match="called with whole batches"):
            Harness(window, input=INPUT, key="user", on_error=on_error)
    with pytest.raises(PillionError, match="`error_type`, which is one of error rows"):
        Harness(Picky, input={**INPUT, "error_type": "string"}, key="user", on_error="side")
    taken = process(Picky, side_outputs=[OutputTag(ERRORS, "bigint")])
    with pytest.raises(PillionError, match="which is that of error rows"):
        Harness(taken, input=INPUT, key="user", on_error="side")
    for on_error in (3, 4):
        record = harness.error(harness.scalar, lambda a: a, ("bigint", [1]), on_error=on_error, result_type="bigint")
        assert record["code"] == "plan_invalid" and "keeps no state" in record["message"]


def test_the_runtime_takes_the_choice(harness: Any) -> None:
    from conftest import reference

    fields = Harness(Picky, input=INPUT, key="user")._inputs[0].fields
    plan = {"calls": [{"function": reference(Picky)}], "outputs": [], "input": fields, "keys": fields[:1]}
    assert [name for name, _ in harness.runtime.prepare({**plan, "on_error": 4}).side_outputs] == [ERRORS]
    assert harness.runtime.prepare({**plan, "on_error": 3}).side_outputs == []
