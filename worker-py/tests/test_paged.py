"""Lists and maps that are too large to come with their bundle: fetched in parts, of which a bounded part is kept."""

from __future__ import annotations

from typing import Any

import pytest
from stateful_functions import INPUT

from pillion import KeyedProcessFunction, ListState, MapState, PillionError, Ttl, process
from pillion.bundle import Bundle
from pillion.stateful import paged
from pillion.testing import Harness


def asked(harness: Harness) -> list[tuple[int, bool, bool]]:
    """Of each question: rows, whether it goes on with a list or map, and whether it looks up entries."""
    found: list[tuple[int, bool, bool]] = []
    run = harness.prepared.call

    def watched(bundle: Any) -> Any:
        fetch = bundle.fetch

        def fetching(wanted: Any) -> Any:
            ((_, batch),) = wanted
            found.append((len(batch), "after" in batch.names, "sub" in batch.names))
            return fetch(wanted)

        bundle.fetch = fetching
        return run(bundle)

    harness.prepared.call = watched  # type: ignore[method-assign]
    return found


def of(body: Any, page: int | None = 10, ttl: Any = None) -> Harness:
    """A function of one list and one map, which do not come along."""

    @process(output="bigint")
    class Function(KeyedProcessFunction):
        items = ListState("bigint", ttl=ttl)
        entries = MapState("bigint", "bigint", ttl=ttl)

        def process_element(self, value: Any, ctx: Any) -> Any:
            if value.amount == 0:
                self.items.update(range(100))
                self.entries.put_all({one: one * one for one in range(100)})
            else:
                yield from body(self.items, self.entries)

    harness = Harness(Function, input=INPUT, key="user", deferred=["items", "entries"], page=page)
    harness.push(("a", 0))
    return harness


def test_an_entry_is_looked_up() -> None:
    def body(items: Any, entries: Any) -> Any:
        yield entries.get(97)
        assert entries.get(3) == 9  # came with the first part
        assert 97 in entries
        assert 970 not in entries and entries.get(971) is None and "text" not in entries and None not in entries
        entries.put(97, 1)
        entries.remove(96)
        yield entries.get(97)
        assert 96 not in entries

    harness = of(body)
    questions = asked(harness)
    harness.push(("a", 1))
    assert harness.output() == [97 * 97, 1]
    # The first part of the keys around, and then each entry once.
    assert questions == [(1, False, False), *[(1, False, True)] * 3]


def test_iterating_reads_part_by_part() -> None:
    def body(items: Any, entries: Any) -> Any:
        items.add(100)
        entries.put(5, 0)
        entries.remove(6)
        entries.put(200, 1)
        first = iter(items)
        assert next(first) == 0
        assert [*first] == list(range(1, 101)) and items.get() == list(range(101))
        expected = {one: one * one for one in range(100) if one != 6} | {5: 0, 200: 1}
        seen = {}
        for key, value in entries.items():
            seen[key] = value
            entries.put(300, 1)  # changes do not disturb what is being read
        assert seen == expected
        expected[300] = 1
        assert dict(zip(entries.keys(), entries.values())) == expected
        assert (len(entries), sorted(entries), entries.is_empty()) == (101, sorted(expected), False)
        entries.clear()
        assert entries.is_empty() and [*entries.items()] == []
        yield 1

    harness = of(body)
    questions = asked(harness)
    harness.push(("a", 1))
    assert harness.output() == [1]
    # What was read once is kept: the first part and nine more of each.
    assert len(questions) == 20
    assert len(harness.state("items", "a")) == 101 and harness.state("entries", "a") is None


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "KEPT", 25)

    def body(items: Any, entries: Any) -> Any:
        for _ in range(2):
            assert [*items] == list(range(100))
            assert dict(entries.items()) == {one: one * one for one in range(100)}
            assert [entries.get(one) for one in range(100)] == [one * one for one in range(100)]
        assert len(items._values[0]) <= 25 and len(entries._values[0]) <= 25
        assert len(entries._values[0]._found) <= 25
        yield 1

    harness = of(body)
    harness.push(("a", 1))
    assert harness.output() == [1]


def test_the_keys_of_the_next_rows_are_fetched_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(items: Any, entries: Any) -> Any:
        yield sum(items.get())

    harness = of(body, page=None)
    users = [str(one) for one in range(64)]
    harness.push_batch([(user, 0) for user in users])
    questions = asked(harness)
    harness.push_batch([(user, 1) for user in users])
    assert harness.output() == [4950] * 64
    assert questions == [(16, False, False)] * 4
    monkeypatch.setattr(paged, "KEPT", 1600)
    del questions[:]
    harness.push_batch([(user, 1) for user in [*users, *users]])
    assert harness.output() == [4950] * 128
    assert len(questions) == 8


def test_a_prefix_of_a_large_map_is_cleared() -> None:
    @process(output="string")
    class Function(KeyedProcessFunction):
        paths = MapState("string", "bigint")

        def process_element(self, value: Any, ctx: Any) -> Any:
            if value.amount == 0:
                self.paths.put_all({f"{one:02}": one for one in range(100)})
                return
            self.paths.put("971", 5)
            self.paths.clear_prefix("97")
            self.paths.clear_prefix("0")
            assert "97" not in self.paths and self.paths.get("03") is None  # neither is looked up
            assert self.paths.get("98") == 98
            self.paths.put("05", 1)
            yield from sorted(self.paths)
            assert len(self.paths) == 90

    harness = Harness(Function, input=INPUT, key="user", deferred=["paths"], page=10)
    harness.push(("a", 0))
    questions = asked(harness)
    harness.push(("a", 1))
    expected = ["05", *(f"{one:02}" for one in range(10, 100) if one != 97)]
    assert harness.output() == expected and sorted(harness.state("paths", "a")) == expected
    assert questions == [(1, False, False), (1, False, True), *[(1, True, False)] * 9]


@pytest.mark.parametrize("read", ["items", "entries"])
def test_reads_of_parts_count(read: str) -> None:
    def body(items: Any, entries: Any) -> Any:
        yield sum(1 for _ in (items if read == "items" else entries.items()))

    harness = of(body, ttl=Ttl(100, count_reads=True))
    for time in (60, 120, 180, 290):
        harness.advance_processing_time(time)
        harness.push(("a", 1))
    assert harness.output() == [100, 100, 100, 0]


def test_a_bundle_without_state_behind_it_says_so() -> None:
    with pytest.raises(PillionError) as caught:
        Bundle().fetch([])
    assert caught.value.code == "unsupported"
