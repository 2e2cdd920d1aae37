"""`Row`."""

from __future__ import annotations

import pickle

import pytest

from pillion import Row
from pillion.row import make_rows


def test_named() -> None:
    row = Row(id=1, count=2, name="a")
    assert (row.id, row.count, row.name) == (1, 2, "a")
    assert (row["id"], row[1], row[-1]) == (1, 2, "a")
    assert row.as_dict() == {"id": 1, "count": 2, "name": "a"}
    assert repr(row) == "Row(id=1, count=2, name='a')"
    assert row == (1, 2, "a")


def test_as_dict_reaches_into_rows_lists_and_dicts() -> None:
    row = Row(a=Row(b=1), c=[Row(d=2)], e={"k": Row(f=3)})
    assert row.as_dict(recursive=True) == {"a": {"b": 1}, "c": [{"d": 2}], "e": {"k": {"f": 3}}}
    assert isinstance(row.as_dict()["a"], Row)


def test_positional() -> None:
    row = Row(1, "a")
    assert row[1] == "a"
    assert repr(row) == "Row(1, 'a')"
    with pytest.raises(TypeError):
        row.as_dict()
    with pytest.raises(TypeError):
        Row(1, a=2)


def test_missing_fields() -> None:
    row = Row(id=1)
    with pytest.raises(AttributeError, match="no field `ident`; its fields are id"):
        _ = row.ident
    with pytest.raises(KeyError):
        row["ident"]


def test_names_that_are_no_identifiers() -> None:
    (row,) = make_rows(("a b", "__class__", "as_dict"), [[1], [2], [3]])
    assert (row["a b"], row["__class__"], row.as_dict) == (1, 2, 3)
    assert isinstance(row, Row)


def test_pickle() -> None:
    row = pickle.loads(pickle.dumps(Row(id=1, name="a")))
    assert row.name == "a"
    assert pickle.loads(pickle.dumps(Row(1, 2))) == (1, 2)
