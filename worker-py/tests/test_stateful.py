"""Cells of row-at-a-time functions, through the harness."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest
from stateful_functions import INPUT, OUTPUT, Declared, Mean, Sum

from pillion import (
    PICKLED,
    FilterFunction,
    FlatMapFunction,
    KeyedProcessFunction,
    ListState,
    ListStateDescriptor,
    MapFunction,
    MapState,
    MapStateDescriptor,
    PillionError,
    ReduceFunction,
    Row,
    Ttl,
    ValueState,
    ValueStateDescriptor,
    process,
)
from pillion._native import Type
from pillion.stateful.codec import Codec
from pillion.testing import Harness


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
@pytest.mark.parametrize(("deferred", "page"), [((), None), (CELLS, None), (CELLS, 1)])
def test_every_kind_of_cell(rows_per_bundle: int, deferred: tuple[str, ...], page: int | None) -> None:
    function = process(Declared(), output=OUTPUT)
    harness = Harness(function, input=INPUT, key="user", rows_per_bundle=rows_per_bundle, deferred=deferred, page=page)
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
    binaries = MapState("bytes", "bigint", ttl=Ttl(1_000, count_reads=True))

    def process_element(self, value, ctx):
        getattr(self, value.op)(value.arg)
        yield (self.seen(),)

    def seen(self):
        found = self.value.value(), self.items.get(), sorted(self.entries.items()), sorted(self.pickles.items())
        return repr((*found, sorted(self.binaries.items())))

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

    def path(self, arg):
        self.entries[path(arg)] = arg
        self.binaries[path(arg).encode()] = arg

    def unpath(self, arg):
        self.entries.clear_prefix(path(arg))
        self.binaries.clear_prefix(path(arg).encode())

    def look(self, arg):
        known = dict(self.entries.items())
        for one in map(path, range(10)):
            assert self.entries.get(one) == known.get(one) and (one in self.entries) == (one in known)
        assert ("0" in self.entries) == self.entries.contains("0")
        assert len(self.entries) == len(self.entries.keys()) == len(list(self.entries)) == len(self.entries.values())
        assert self.entries.is_empty() == (not self.entries.items())


def path(arg: int) -> str:
    """Ten strings of which some begin with others, with zeros among them."""
    return ("", "0", "a", "a\0", "a\0b", "ab", "aba", "ä", "\0", "b")[arg]


class Model:
    """What `Script` would see without any state service."""

    def __init__(self) -> None:
        self.value: Any = None
        self.items: list[str] = []
        self.entries: dict[str, int] = {}
        self.pickles: dict[Any, Any] = {}
        self.binaries: dict[bytes, int] = {}

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
        elif op == "path":
            self.entries[path(arg)] = self.binaries[path(arg).encode()] = arg
        elif op == "unpath":
            self.entries = {key: one for key, one in self.entries.items() if not key.startswith(path(arg))}
            binary = path(arg).encode()
            self.binaries = {key: one for key, one in self.binaries.items() if not key.startswith(binary)}
        maps = [sorted(one.items()) for one in (self.entries, self.pickles, self.binaries)]
        return repr((self.value, self.items, *maps))


OPS = ("set", "drop", "add", "replace", "forget", "put", "remove", "clear", "look", "path", "path", "path", "unpath")


@pytest.mark.parametrize("seed", range(20))
def test_programs_like_a_model(seed: int) -> None:
    chance = random.Random(seed)
    deferred = [name for name in ("value", "items", "entries", "pickles", "binaries") if chance.random() < 0.3]
    harness = Harness(
        Script,
        input={"user": "bigint", "op": "string", "arg": "bigint"},
        key="user",
        rows_per_bundle=chance.choice([1, 3, 7, 1000]),
        deferred=deferred,
        page=chance.choice([None, 1, 2]),
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


@pytest.mark.parametrize("deferred", [(), ("paths",)])
def test_clearing_a_prefix_reads_nothing(deferred: tuple[str, ...]) -> None:
    @process(output="bigint", cells={"paths": MapState("string", "bigint")})
    def work(value, ctx):
        paths = ctx.state.paths
        paths.put("a/2", 2)
        paths.clear_prefix("a/")
        paths.clear_prefix("a/b/")  # is gone already
        paths.put("a/3", 3)
        assert "a/1" not in paths and paths["a/3"] == 3

    harness = Harness(work, input=INPUT, key="user", deferred=deferred)
    harness.push(("ann", 1))
    (name, writes), *others = harness.effects[0].writes
    assert (name, others, writes.names) == ("paths", [], ["key", "op", "sub", "value"])
    assert [column.to_pylist() for column in writes.columns] == [[0, 0], [5, 0], ["a/", "a/3"], [None, 3]]
    assert harness.state("paths", "ann") == {"a/3": 3}


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
@pytest.mark.parametrize("deferred", [(), ("value", "items", "entries")])
def test_time_to_live(ttl: Any, seen: list[Any], deferred: tuple[str, ...]) -> None:
    harness = Harness(Remember(ttl), input=INPUT, key="user", deferred=deferred, page=1)
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


@pytest.mark.parametrize("a", [None, 0, 127, 128, -129, True, 1.0, "1"])
@pytest.mark.parametrize("b", [None, 2**63 - 1, 2**63, "text"])
@pytest.mark.parametrize("shape", [tuple, lambda ab: Row(a=ab[0], b=ab[1]), lambda ab: Row(b=ab[1], a=ab[0]), list])
def test_rows_are_checked_alike_by_both_ways(a: Any, b: Any, shape: Any) -> None:
    """The quick way says what the way through a column says."""

    def checked(codec: Codec) -> Any:
        try:
            return codec.check(shape((a, b)))
        except PillionError as exc:
            return exc.code, exc.message

    quick, slow = (Codec("cell", Type.parse("row<a tinyint, b bigint not null>"), False) for _ in range(2))
    assert quick._row is not None
    slow._row = None
    assert repr(checked(quick)) == repr(checked(slow))
