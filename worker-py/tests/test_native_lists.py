"""Columns of lists taken apart, and rows chosen by position."""

from __future__ import annotations

import random

import pytest

from pillion._native import Column, Type


def lists(values: list[list[int] | None]) -> Column:
    return Column.from_pylist(values, Type.parse("array<bigint>"))


def positions(values: list[int]) -> Column:
    return Column.from_pylist(values, Type.parse("uint32"))


@pytest.mark.parametrize("seed", range(5))
def test_flatten_like_a_model(seed: int) -> None:
    chance = random.Random(seed)
    values = [None if chance.random() < 0.3 else [chance.randrange(9)] * chance.randrange(4) for _ in range(50)]
    column = lists(values).slice(10, 30)
    ends, elements = column.flatten()
    flat, expected = [], []
    for one in values[10:40]:
        flat += one or []
        expected.append(len(flat))
    assert (ends, elements.to_pylist()) == (expected, flat)
    assert str(elements.type) == "bigint"


def test_flatten_leaves_out_what_lies_behind_nulls() -> None:
    pa = pytest.importorskip("pyarrow")
    hidden = pa.ListArray.from_buffers(
        pa.list_(pa.int64()),
        3,
        [pa.py_buffer(b"\x05"), pa.array([0, 2, 4, 5], pa.int32()).buffers()[1]],
        children=[pa.array([1, 2, 3, 4, 5], pa.int64())],
    )
    assert hidden.to_pylist() == [[1, 2], None, [5]]
    ends, elements = Column.from_arrow(hidden, Type.parse("array<bigint>")).flatten()
    assert (ends, elements.to_pylist()) == ([2, 2, 3], [1, 2, 5])


def test_flatten_of_nothing_and_of_others() -> None:
    ends, elements = lists([]).flatten()
    assert (ends, elements.to_pylist()) == ([], [])
    with pytest.raises(TypeError, match="no lists"):
        positions([1]).flatten()


def test_take() -> None:
    column = Column.from_pylist(["a", None, "c"], Type.parse("string"), "letters")
    taken = column.take(positions([2, 0, 2, 1]))
    assert taken.to_pylist() == ["c", "a", "c", None]
    assert (taken.name, str(taken.type)) == ("letters", "string")
    assert len(column.take(positions([]))) == 0
    with pytest.raises(IndexError):
        column.take(positions([3]))


def test_repeat() -> None:
    text = Type.parse("string")
    column = Column.repeat("a", 3, text, "letters")
    assert (column.to_pylist(), column.name, str(column.type)) == (["a"] * 3, "letters", "string")
    assert Column.repeat(None, 2, text).to_pylist() == [None, None]
    assert len(Column.repeat(7, 0, Type.parse("bigint"))) == 0
    with pytest.raises((TypeError, ValueError)):
        Column.repeat("a", 2, Type.parse("bigint"))


def test_sequence() -> None:
    column = Column.sequence(3)
    assert (column.to_pylist(), column.type) == ([0, 1, 2], Type.parse("uint32").with_nullable(False))
    assert Column.sequence(0).to_pylist() == []


def test_concat() -> None:
    text = Type.parse("string")
    parts = [
        Column.from_pylist(["a", None], text, "letters"),
        Column.from_pylist([], text),
        Column.repeat("b", 1, text),
    ]
    joined = Column.concat(parts)
    assert (joined.to_pylist(), joined.name) == (["a", None, "b"], "letters")
    with pytest.raises(ValueError, match="at least one"):
        Column.concat([])
    with pytest.raises(ValueError, match="different data types"):
        Column.concat([parts[0], Column.sequence(1)])


def test_repeated_texts_are_one_object() -> None:
    texts = Column.from_pylist(["one text"] * 3 + [None, "another"], Type.parse("string")).to_pylist()
    assert texts == ["one text"] * 3 + [None, "another"]
    assert texts[0] is texts[1] is texts[2]
