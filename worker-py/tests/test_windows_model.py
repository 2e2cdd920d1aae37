"""Windows of event time against a simple model, and how often they read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from window_functions import INPUT, LATE, NEVER, WAYS, declared

from pillion import windows as w
from pillion.testing import Harness


class Model:
    """Windows of event time, one element and one watermark at a time."""

    def __init__(self, assigner: Any, lateness: int, gap: int) -> None:
        self.assigner, self.lateness, self.gap = assigner, lateness, gap
        self.watermark = NEVER
        self.open: dict[tuple[str, int, int], list[int]] = {}
        self.out: list[Any] = []
        self.late: list[Any] = []

    def push(self, user: str, amount: int, at: int) -> None:
        taken = False
        if self.gap:
            windows = [self.merged(user, at)]
        else:
            windows = [(user, one.start, one.end) for one in self.assigner.assign_windows(None, at, None)]
        for one in windows:
            if one[2] - 1 + self.lateness <= self.watermark:
                self.open.pop(one, None)
                continue
            taken = True
            self.open.setdefault(one, []).append(amount)
            if one[2] - 1 <= self.watermark:
                self.fire(one)
        if not taken and at + self.lateness <= self.watermark:
            self.late.append((user, amount))

    def merged(self, user: str, at: int) -> tuple[str, int, int]:
        start, end, amounts = at, at + self.gap, []
        for one in sorted(self.open):
            if one[0] == user and one[1] <= end and one[2] >= start:
                start, end = min(start, one[1]), max(end, one[2])
                amounts += self.open.pop(one)
        if amounts:
            self.open[user, start, end] = amounts
        return user, start, end

    def advance(self, watermark: int) -> None:
        before, self.watermark = self.watermark, watermark
        for one in sorted(self.open, key=lambda one: one[2]):
            if before < one[2] - 1 <= watermark:
                self.fire(one)
            if one[2] - 1 + self.lateness <= watermark:
                del self.open[one]

    def fire(self, one: tuple[str, int, int]) -> None:
        self.out.append((*one, sum(self.open[one]), len(self.open[one])))


ASSIGNERS = {
    "tumbling": (w.TumblingEventTimeWindows.of(10), 0),
    "offset": (w.TumblingEventTimeWindows.of(10, 3), 0),
    "sliding": (w.SlidingEventTimeWindows.of(10, 4), 0),
    "session": (w.EventTimeSessionWindows.with_gap(6), 6),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ASSIGNERS)
@pytest.mark.parametrize("seed", range(5))
def test_like_a_model(name: str, way: str, seed: int) -> None:
    chance = random.Random(f"{seed}{name}")
    assigner, gap = ASSIGNERS[name]
    lateness = chance.choice([0, 0, 5, 20])
    harness = Harness(
        declared(assigner, way, lateness=lateness, late=LATE),
        input=INPUT,
        key="user",
        rows_per_bundle=chance.choice([1, 3, 100]),
        timers_per_bundle=chance.choice([1, 2, 100]),
        deferred=chance.choice([(), ("window-contents",)]),
        page=chance.choice([None, 1, 2]),
    )
    model = Model(assigner, lateness, gap)
    watermark = 0
    for _ in range(25):
        rows = [(chance.choice("ab"), chance.randrange(9)) for _ in range(chance.randrange(6))]
        stamps = [max(watermark + chance.randrange(-25, 30), 0) for _ in rows]
        harness.push_batch(rows, stamps)
        for (user, amount), at in zip(rows, stamps):
            model.push(user, amount, at)
        assert sorted(harness.output()) == sorted(model.out)
        assert harness.side_output(LATE) == model.late
        model.out, model.late = [], []
        watermark += chance.choice([0, 1, 7, 15])
        harness.advance_watermark(watermark)
        model.advance(watermark)
        assert sorted(harness.output()) == sorted(model.out)
        model.out = []
    harness.finish()
    model.advance(2**62)
    assert sorted(harness.output()) == sorted(model.out)
    assert not harness.timers()
    assert not any(cell.data for cell in harness.cells.values())  # nothing is left behind


def counting(harness: Harness) -> list[int]:
    """How many cells each fetch has asked for."""
    calls: list[int] = []
    run = harness.prepared.call

    def counted(bundle: Any) -> Any:
        fetch = bundle.fetch
        bundle.fetch = lambda wanted: calls.append(len(wanted)) or fetch(wanted)
        return run(bundle)

    harness.prepared.call = counted  # type: ignore[method-assign]
    return calls


def test_fetches_are_few() -> None:
    """One for each bundle of rows that aggregates, however many keys and windows; none that only appends."""
    for way, expected in (("process", 0), ("aggregate", 1)):
        harness = Harness(declared(w.SlidingEventTimeWindows.of(10, 2), way), input=INPUT, key="user")
        calls = counting(harness)
        harness.push_batch([(str(i % 50), 1) for i in range(500)], list(range(500)))
        assert len(calls) == expected
        harness.advance_watermark(10_000)
        assert len(calls) == expected  # what fires comes with its timers
        assert len(harness.output()) > 500


EVERY = {
    "tumbling": (w.TumblingEventTimeWindows.of(10), None),
    "sliding": (w.SlidingEventTimeWindows.of(10, 2), None),
    "session": (w.EventTimeSessionWindows.with_gap(6), None),
    "session that counts": (w.EventTimeSessionWindows.with_gap(6), w.CountTrigger.of(2)),
    "tumbling that counts": (w.TumblingEventTimeWindows.of(10), w.CountTrigger.of(2)),
    "again and again": (w.TumblingEventTimeWindows.of(100), w.ContinuousEventTimeTrigger.of(7)),
    "count": (w.count_window(3), None),
    "global": (w.GlobalWindows.create(), w.PurgingTrigger.of(w.CountTrigger.of(3))),
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_no_fetch_is_for_one_key(name: str, kept: bool) -> None:
    """Whatever the windows: the trigger's cells, and then the contents, of all keys of a bundle at once."""
    assigner, trigger = EVERY[name]
    if kept:
        way: dict[str, Any] = {"process": lambda key, context, elements: [(key, len(list(elements)))], "output": INPUT}
    else:
        way = {"reduce": lambda a, b: (a[0], a[1] + b[1])}
    harness = Harness(w.window(assigner, trigger=trigger, **way), input=INPUT, key="user")
    calls = counting(harness)
    for start in (0, 40, 80):
        harness.push_batch([(str(i % 50), 1) for i in range(300)], [start + i % 30 for i in range(300)])
        harness.advance_watermark(start + 25)
    harness.finish()
    assert harness.output()
    assert len(calls) <= 2 * len(harness.effects), f"{len(calls)} fetches for {len(harness.effects)} bundles"
