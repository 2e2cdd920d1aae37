"""The examples of stateful functions, through the harness, against what they should give."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from pillion.testing import Harness

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def load(name: str, *packages: str) -> Any:
    for package in packages:
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLICKS = {"user": "bigint", "item": "bigint", "kind": "string"}
MINUTE = 60_000


def clicks(seed: int, events: int) -> list[tuple[int, tuple[int, int, str]]]:
    chance = random.Random(seed)
    found = []
    for _ in range(events):
        kind = chance.choice(["expose", "click"])
        found.append((chance.randrange(120 * MINUTE), (chance.randrange(3), chance.randrange(3), kind)))
    return sorted(found)


def expected_labels(events: list[tuple[int, tuple[int, int, str]]]) -> list[tuple[int, int, int, int]]:
    """By looking ahead in each key's events."""
    found = []
    for key in {event[:2] for _, event in events}:
        mine = [(at, event[2]) for at, event in events if event[:2] == key]
        free = 0
        for position, (at, kind) in enumerate(mine):
            if kind == "expose" and at >= free:
                click = next((then for then, one in mine[position + 1 :] if one == "click"), None)
                label = int(click is not None and click < at + 10 * MINUTE)
                free = (click if label else at + 10 * MINUTE) or 0
                found.append((*key, at, label))
    return sorted(found)


@pytest.mark.parametrize("name", ["labels", "labels_by_batch"])
@pytest.mark.parametrize("rows_per_bundle", [1, 7, 1000])
@pytest.mark.parametrize("rows_per_watermark", [1, 20, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_label_generation(name: str, rows_per_bundle: int, rows_per_watermark: int, seed: int) -> None:
    """Labels depend neither on where bundles are cut nor on how far watermarks lag behind."""
    module = load("label_generation", "numpy", "pandas")
    events = clicks(seed, 300)
    harness = Harness(getattr(module, name), input=CLICKS, key=["user", "item"], rows_per_bundle=rows_per_bundle)
    for start in range(0, len(events), rows_per_watermark):
        part = events[start : start + rows_per_watermark]
        harness.advance_watermark(part[0][0] - 1)
        harness.push_batch([event for _, event in part], [at for at, _ in part])
    harness.finish()
    assert sorted(harness.output()) == expected_labels(events)
    assert not harness.timers() and not harness.keys("shown")


def test_last_items() -> None:
    module = load("last_items", "pandas")
    chance = random.Random(1)
    visits = sorted((chance.randrange(20 * MINUTE), chance.randrange(3), chance.randrange(50)) for _ in range(200))
    wanted = []
    for user in range(3):
        for end in range(30_000, 26 * MINUTE, 30_000):
            inside = sorted((at, item) for at, who, item in visits if who == user and end - 5 * MINUTE <= at < end)
            if inside:
                wanted.append((user, end, [item for _, item in inside[-5:]]))
    for function in (module.last_items, module.last_items_incremental):
        harness = Harness(function, input={"user": "bigint", "item": "bigint", "at": "bigint"}, key="user")
        for start in range(0, len(visits), 30):
            part = visits[start : start + 30]
            harness.push_batch([(user, item, at) for at, user, item in part], [at for at, _, _ in part])
            harness.advance_watermark(part[-1][0] - 1)
        harness.finish()
        assert sorted(harness.output()) == sorted(wanted)
        assert not harness.keys("window-contents")


def test_periodic_prediction(tmp_path: Path, monkeypatch: Any) -> None:
    module = load("periodic_prediction")
    harness = Harness(module.predictions, input={"user": "bigint", "kind": "string"}, key="user")
    harness.push((1, "visit"))
    harness.advance_processing_time(2 * MINUTE)
    harness.push((1, "buy"))
    harness.push((2, "visit"))
    harness.advance_processing_time(13 * MINUTE)
    times = sorted((user, at // MINUTE) for user, at, _ in harness.output())
    assert times == [(1, 0), (1, 2), (1, 7), (1, 12), (2, 2), (2, 7), (2, 12)]
    assert len(harness.timers()) == 2
    model = tmp_path / "model.json"
    model.write_text('{"bias": 0, "decay": 0}')
    monkeypatch.setenv("MODEL", str(model))
    harness.close()
    harness = Harness(module.predictions, input={"user": "bigint", "kind": "string"}, key="user")
    harness.push((1, "visit"))
    assert harness.output() == [(1, 0, 0.5)]
    harness.close()


def test_dynamic_rules() -> None:
    module = load("dynamic_rules")
    events = {"user": "string", "amount": "double"}
    rules = {"name": "string", "field": "string", "over": "double", "times": "bigint"}
    harness = Harness(module.alerts, input=[events, rules], key=["user", "name"])
    harness.push(("ann", 1000.0))
    harness.broadcast(("large", "amount", 100.0, 1))
    harness.push_batch([("ann", 500.0), ("bob", 500.0), ("ann", 5.0), ("ann", 600.0)])
    assert harness.output() == [("ann", "large", 600.0)]
    harness.push(("eve", None))  # no value passes no limit, not even one below zero
    harness.broadcast(("large", None, None, None), ("refund", "amount", -10.0, 0))
    harness.push(("eve", None))
    assert harness.output() == []
    harness.broadcast(("refund", None, None, None))
    harness.push_batch([("bob", 500.0), ("bob", 500.0)])
    assert harness.output() == []
    changes = [("large", "set"), ("large", "dropped"), ("refund", "set"), ("refund", "dropped")]
    assert harness.side_output(module.CHANGES) == changes


def test_user_profiles() -> None:
    module = load("user_profiles")
    flights = {"origin": "string", "dest": "string", "dep_delay": "double"}
    rows = [("JFK", "LAX", 10.0), ("JFK", "SFO", None), ("EWR", "ORD", 3.0), ("JFK", "SFO", 20.0)]
    harness = Harness(module.profiles, input=flights, key="origin", rows_per_bundle=2)
    harness.push_batch(rows, [0, 1, 2, 3])
    assert harness.output() == [
        ("JFK", 1, "LAX", 10.0),
        ("JFK", 2, "LAX", 10.0),
        ("EWR", 1, "ORD", 3.0),
        ("JFK", 3, "SFO", 15.0),
    ]
    assert harness.state("history", "JFK") == [(0, "LAX", 10.0), (1, "SFO", None), (3, "SFO", 20.0)]
    harness.advance_watermark(module.DAY + 2)
    assert harness.side_output("quiet") == [("EWR", 1, "ORD", 3.0)]
    harness.finish()
    assert harness.side_output("quiet") == [("JFK", 3, "SFO", 15.0)]


@pytest.mark.parametrize("rows_per_watermark", [1, 3])
def test_quiet_days_do_not_depend_on_watermarks(rows_per_watermark: int) -> None:
    module = load("user_profiles")
    flights = {"origin": "string", "dest": "string", "dep_delay": "double"}
    harness = Harness(module.profiles, input=flights, key="origin")
    events = [(0, ("JFK", "LAX", 1.0)), (2 * module.DAY, ("JFK", "LAX", 3.0)), (3 * module.DAY, ("JFK", "SFO", 2.0))]
    for start in range(0, len(events), rows_per_watermark):
        part = events[start : start + rows_per_watermark]
        harness.advance_watermark(part[0][0] - 1)
        harness.push_batch([event for _, event in part], [at for at, _ in part])
    harness.finish()
    quiet = [("JFK", 1, "LAX", 1.0), ("JFK", 2, "LAX", 2.0), ("JFK", 3, "LAX", 2.0)]
    assert harness.side_output("quiet") == quiet
    assert len(harness.output()) == 3 and not harness.timers()


def test_user_profiles_of_flights() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    module = load("user_profiles")
    table = pq.read_table(EXAMPLES / "data" / "flights.parquet").select(["time_hour", "origin", "dest", "dep_delay"])
    table = table.sort_by("time_hour").slice(0, 4000)
    stamps = [int(one.timestamp() * 1000) for one in table.column("time_hour").to_pylist()]
    rows = table.combine_chunks().to_batches()[0]
    fields = {"time_hour": "timestamp_ltz(3)", "origin": "large_string", "dest": "large_string", "dep_delay": "double"}
    harness = Harness(module.profiles, input=fields, key="origin", rows_per_bundle=1000)
    harness.push_batch(rows, stamps)
    output = harness.output()
    last = {row.airport: row for row in output}
    origins = table.column("origin").to_pylist()
    assert len(output) == len(origins)
    assert {airport: row.departures for airport, row in last.items()} == {
        one: origins.count(one) for one in set(origins)
    }
