"""Vectorized process functions, in each form that the environment has."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import pytest

from pillion import (
    PICKLED,
    ListState,
    MapState,
    OutputTag,
    PillionError,
    Ttl,
    ValueState,
    VectorizedProcessFunction,
    process,
)
from pillion.testing import Harness

INPUT = {"user": "bigint", "amount": "bigint"}
PACKAGES = {"pandas": ("numpy", "pandas"), "numpy": ("numpy",), "arrow": ("pyarrow",)}


def need(*names: str) -> None:
    for name in names:
        pytest.importorskip(name)


@pytest.fixture(params=list(PACKAGES))
def form(request: Any) -> str:
    need(*PACKAGES[request.param])
    return str(request.param)


def make(form: str, columns: dict[str, list[Any]]) -> Any:
    """A batch in this form."""
    if form == "pandas":
        import pandas as pd

        return pd.DataFrame(columns)
    if form == "arrow":
        import pyarrow as pa

        return pa.RecordBatch.from_pydict(columns)
    import numpy as np

    return {name: np.array(values) for name, values in columns.items()}


def plain(values: Any) -> list[Any]:
    """A column's values; whatever stands for null as None."""
    found = values.to_pylist() if hasattr(values, "to_pylist") else list(values)
    return [None if str(one) in ("<NA>", "nan", "None") or (one != one) else one for one in found]


def column(form: str, values: list[Any]) -> Any:
    if form == "arrow":
        import pyarrow as pa

        return pa.array(values)
    import numpy as np

    if form == "pandas":
        import pandas as pd

        return pd.Series(values, dtype=object)
    return np.array(values, dtype=object)


def function(form: str, call: Any, *, output: Any = "bigint", on_timers: Any = None, cells: Any = None) -> Any:
    """A vectorized function of a callable."""

    class Vectorized(VectorizedProcessFunction):
        func_type = form

        def process_batch(self, batch, ctx):
            return call(batch, ctx)

        def on_timers(self, timers, ctx):
            return None if on_timers is None else on_timers(timers, ctx)

    return process(Vectorized(), output=output, cells=cells or {})


def test_values(form: str) -> None:
    """Counts rows by key, with null for keys that have none yet."""

    def count(batch, ctx):
        index, keys = plain(ctx.key_index), plain(ctx.keys["user"])
        before = plain(ctx.state["n"])
        gone = [bool(one) for one in plain(ctx.state.absent("n"))]
        if form != "numpy":
            assert gone == [one is None for one in before]
        before = [0 if absent else one for one, absent in zip(before, gone)]
        after = [one + index.count(i) for i, one in enumerate(before)]
        ctx.state["n"] = column(form, after)
        assert plain(ctx.state["n"]) == after
        assert plain(batch["user"]) == [keys[i] for i in index]
        return make(form, {"user": keys, "n": after})

    declared = function(form, count, output={"user": "bigint", "n": "bigint"}, cells={"n": ValueState("bigint")})
    for deferred in ((), ("n",)):
        harness = Harness(declared, input=INPUT, key="user", deferred=deferred)
        harness.push_batch([(1, 0), (2, 0), (1, 0)])
        assert harness.output() == [(1, 2), (2, 1)]
        harness.push_batch([(3, 0), (1, 0)])
        assert harness.output() == [(3, 1), (1, 3)]
        assert [harness.state("n", key) for key in (1, 2, 3)] == [3, 1, 1]


def test_plain_functions(form: str) -> None:
    @process(output="bigint", cells={"n": ValueState("bigint")}, func_type=form)
    def first(batch, ctx):
        ctx.state["n"] = ctx.keys["user"]
        return batch["amount"]

    harness = Harness(first, input=INPUT, key="user")
    harness.push_batch([(1, 5), (2, 6)])
    assert (harness.output(), harness.state("n", 2)) == ([5, 6], 2)
    assert harness.prepared.functions[0]["func_type"] == form


def test_null_clears_and_masks_choose(form: str) -> None:
    def choose(batch, ctx):
        if ctx.current_processing_time() == 0:
            ctx.state["n"] = column(form, [1, 2, 3])
        elif ctx.current_processing_time() == 1:
            ctx.state["n"] = column(form, [None, 5, None])
        elif ctx.current_processing_time() == 2:
            ctx.state.put("n", column(form, [7]), keys=[0])
            ctx.state.clear("n", keys=[1])
            assert [bool(one) for one in plain(ctx.state.absent("n"))] == [False, True, True]
        else:
            mask = [True, False, True]
            if form != "arrow":
                import numpy as np

                mask = np.array(mask)
            ctx.state.put("n", column(form, [8, 9]), keys=mask)

    harness = Harness(function(form, choose, cells={"n": ValueState("bigint")}), input=INPUT, key="user")
    seen = []
    for time in range(4):
        harness.advance_processing_time(time)
        harness.push_batch([(10, 0), (20, 0), (30, 0)])
        seen.append([harness.state("n", key) for key in (10, 20, 30)])
    assert seen == [[1, 2, 3], [None, 5, None], [7, None, None], [8, None, 9]]


CELLS = {
    "items": ListState("string"),
    "entries": MapState("string", "bigint"),
    "pickle": ValueState(PICKLED),
    "pickles": MapState(PICKLED, PICKLED),
}


@pytest.mark.parametrize("seed", range(4))
def test_lists_and_maps_like_a_model(form: str, seed: int) -> None:
    chance = random.Random(seed)
    items: dict[int, list[str]] = {}
    entries: dict[int, dict[str, int]] = {}

    def work(batch, ctx):
        keys = plain(ctx.keys["user"])
        every = range(len(keys))
        for _ in range(6):
            op, at = chance.randrange(6), [one for one in every if chance.random() < 0.6]
            if not at:
                continue
            at = sorted([*at, at[0]]) if op == 0 else at
            names = [chance.choice(("0", "1", "10", "100", "")) for _ in at]
            numbers = [chance.randrange(100) for _ in at]
            if op == 0:
                ctx.state.append("items", column(form, names), keys=at)
                for key, name in zip(at, names):
                    items.setdefault(keys[key], []).append(name)
            elif op == 1:
                ctx.state.clear("items", keys=at)
                for key in at:
                    items.pop(keys[key], None)
            elif op == 2:
                ctx.state.put_entries("entries", column(form, names), column(form, numbers), keys=at)
                for key, name, number in zip(at, names, numbers):
                    entries.setdefault(keys[key], {})[name] = number
            elif op == 3:
                ctx.state.remove_entries("entries", column(form, names), keys=at)
                for key, name in zip(at, names):
                    entries.get(keys[key], {}).pop(name, None)
            elif op == 4:
                prefixes = [chance.choice(("", "0", "1", "10", "x")) for _ in at]
                ctx.state.clear_prefixes("entries", column(form, prefixes), keys=at)
                for key, prefix in zip(at, prefixes):
                    held = entries.get(keys[key], {})
                    entries[keys[key]] = {name: one for name, one in held.items() if not name.startswith(prefix)}
            elif form != "arrow":
                assert [list(one or ()) for one in ctx.state["items"]] == [items.get(key, []) for key in keys]
                assert [one or {} for one in ctx.state["entries"]] == [entries.get(key, {}) for key in keys]
        if form != "arrow":
            ctx.state["pickle"] = column(form, [{key} for key in keys])
            assert list(ctx.state["pickle"]) == [{key} for key in keys]

    declared = function(form, work, cells=CELLS)
    deferred = ["items", "entries"] if seed % 2 else []
    harness = Harness(declared, input=INPUT, key="user", rows_per_bundle=5, deferred=deferred, page=3)
    harness.push_batch([(chance.randrange(4), 0) for _ in range(50)])
    for key in range(4):
        assert (harness.state("items", key) or []) == items.get(key, [])
        assert (harness.state("entries", key) or {}) == entries.get(key, {})
        if form != "arrow":
            assert harness.state("pickle", key) == {key}


def test_timers(form: str) -> None:
    def wake(batch, ctx):
        ctx.set_timers(ctx.timestamps, keys=ctx.key_index)
        ctx.set_timers(100)
        ctx.delete_timers(100, keys=[0])
        ctx.set_timers(7, domain="processing", name="clock")

    def tell(timers, ctx):
        keys = plain(ctx.keys["user"])
        ctx.state["seen"] = column(form, plain(timers["timestamp"]))
        return make(
            form,
            {
                "user": [keys[i] for i in plain(timers["key"])],
                "at": plain(timers["timestamp"]),
                "name": [f"{domain}{name}" for domain, name in zip(plain(timers["domain"]), plain(timers["name"]))],
                "watermark": [ctx.current_watermark()] * len(keys),
            },
        )

    output = {"user": "bigint", "at": "bigint", "name": "string", "watermark": "bigint"}
    declared = function(form, wake, output=output, on_timers=tell, cells={"seen": ValueState("bigint")})
    harness = Harness(declared, input=INPUT, key="user")
    harness.push_batch([(1, 0), (2, 0), (1, 0)], [10, 20, 30])
    harness.advance_watermark(20)
    assert harness.output() == [(1, 10, "event", 20), (2, 20, "event", 20)]
    harness.advance_watermark(100)
    assert harness.output() == [(1, 30, "event", 100), (2, 100, "event", 100)]
    harness.advance_processing_time(8)
    assert harness.output() == [(1, 7, "processingclock", 100), (2, 7, "processingclock", 100)]
    assert harness.timers() == []


def test_side_outputs_and_broadcast_state(form: str) -> None:
    tag = OutputTag("rest", {"amount": "bigint"})

    class Sides(VectorizedProcessFunction):
        func_type = form
        output = "bigint"
        side_outputs = (tag,)

        def process_batch(self, batch, ctx):
            ctx.side_output(tag, make(form, {"amount": plain(batch["amount"])}))
            ctx.side_output("rest", make(form, {"amount": [ctx.input, 5]}))
            with pytest.raises(PillionError, match="does not declare"):
                ctx.side_output("other", batch)

    harness = Harness(Sides, input=INPUT)
    harness.push_batch([(1, 2), (3, 4)])
    assert (harness.output(), harness.side_output(tag)) == ([], [(2,), (4,), (0,), (5,)])


def test_reads_that_count_are_told(form: str) -> None:
    def read(batch, ctx):
        if ctx.current_processing_time() == 0:
            ctx.state["n"] = ctx.keys["user"]
        else:
            assert len(ctx.state["n"]) == 1

    cells = {"n": ValueState("bigint", ttl=Ttl(100, count_reads=True))}
    harness = Harness(function(form, read, cells=cells), input=INPUT, key="user")
    for time in (0, 60, 120):
        harness.advance_processing_time(time)
        harness.push((1, 0))
    assert harness.state("n", 1) == 1


@pytest.mark.parametrize(
    ("use", "code"),
    [
        (lambda ctx, form: ctx.state["other"], "state_undeclared"),
        (lambda ctx, form: ctx.state.put("n", column(form, ["text", "text"])), "state_type"),
        (lambda ctx, form: ctx.state.put("n", column(form, [1])), "result_length"),
        (lambda ctx, form: ctx.state.put("n", column(form, [1]), keys=[2]), "state_without_key"),
        (lambda ctx, form: ctx.state.put("items", column(form, ["a", "b"])), "state_type"),
        (lambda ctx, form: ctx.state.append("n", column(form, [1, 2])), "state_type"),
        (lambda ctx, form: ctx.state.append("items", column(form, ["a", None])), "state_type"),
        (lambda ctx, form: ctx.state.put_entries("n", column(form, [1, 2]), column(form, [1, 2])), "state_type"),
        (
            lambda ctx, form: ctx.state.put_entries("entries", column(form, [1, 2]), column(form, ["a", "b"])),
            "state_type",
        ),
        (lambda ctx, form: ctx.state.clear_prefixes("entries", column(form, ["a", None])), "state_type"),
        (lambda ctx, form: ctx.state.clear_prefixes("entries", column(form, ["a"])), "result_length"),
        (lambda ctx, form: ctx.state.clear_prefixes("pickles", column(form, ["a", "b"])), "state_type"),
        (lambda ctx, form: ctx.state.clear_prefixes("items", column(form, ["a", "b"])), "state_type"),
        (lambda ctx, form: ctx.set_timers(2**70), "timer_out_of_range"),
        (lambda ctx, form: ctx.set_timers(column(form, [1, 2, 3])), "result_length"),
        (lambda ctx, form: ctx.set_timers(1, domain="lunar"), "declaration_invalid"),
    ],
)
def test_bad_use(form: str, use: Any, code: str) -> None:
    cells = {"n": ValueState("bigint"), **CELLS}
    declared = function(form, lambda batch, ctx: use(ctx, form) and None, cells=cells)
    harness = Harness(declared, input=INPUT, key="user")
    with pytest.raises(PillionError) as caught:
        harness.push_batch([(1, 0), (2, 0)])
    assert caught.value.code == code
    assert not harness.keys("n")


def test_state_without_a_key_or_outside(form: str) -> None:
    kept = []

    def use(batch, ctx):
        kept.append(ctx)
        return ctx.state["n"]

    declared = function(form, use, cells={"n": ValueState("bigint")})
    for read in (lambda: Harness(declared, input=INPUT).push((1, 2)), lambda: kept[0].state["n"]):
        with pytest.raises(PillionError) as caught:
            read()
        assert caught.value.code == "state_without_key"


def test_user_errors(form: str) -> None:
    harness = Harness(function(form, lambda batch, ctx: 1 / 0), input=INPUT, key="user")
    with pytest.raises(PillionError, match="ZeroDivisionError"):
        harness.push((1, 2))


def test_missing_packages() -> None:
    for form, packages in PACKAGES.items():
        if not all(importlib.util.find_spec(name) for name in packages):
            with pytest.raises(PillionError) as caught:
                Harness(function(form, lambda batch, ctx: None), input=INPUT)
            assert caught.value.code == "package_missing"
