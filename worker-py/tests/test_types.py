"""Types, in every way of writing them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Optional

import pytest

from pillion import DataTypes, PillionError
from pillion._native import Type
from pillion.types import from_annotation, to_type


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (DataTypes.NULL(), "null"),
        (DataTypes.BOOLEAN(), "boolean"),
        (DataTypes.TINYINT(), "tinyint"),
        (DataTypes.SMALLINT(), "smallint"),
        (DataTypes.INT(), "int"),
        (DataTypes.BIGINT(), "bigint"),
        (DataTypes.FLOAT(), "float"),
        (DataTypes.DOUBLE(), "double"),
        (DataTypes.DECIMAL(10, 2), "decimal(10, 2)"),
        (DataTypes.CHAR(3), "string"),
        (DataTypes.VARCHAR(20), "string"),
        (DataTypes.STRING(), "string"),
        (DataTypes.BINARY(4), "bytes"),
        (DataTypes.VARBINARY(4), "bytes"),
        (DataTypes.BYTES(), "bytes"),
        (DataTypes.DATE(), "date"),
        (DataTypes.TIME(3), "time(3)"),
        (DataTypes.TIMESTAMP(3), "timestamp(3)"),
        (DataTypes.TIMESTAMP_LTZ(3), "timestamp(3, 'UTC')"),
        (DataTypes.TIMESTAMP_WITH_LOCAL_TIME_ZONE(9), "timestamp(9, 'UTC')"),
        (DataTypes.ARRAY(DataTypes.ARRAY(DataTypes.INT())), "array<array<int>>"),
        (DataTypes.MAP(DataTypes.STRING().not_null(), DataTypes.INT()), "map<string, int>"),
        (DataTypes.ROW([DataTypes.FIELD("a", DataTypes.INT()), ("b c", "string")]), "row<a int, `b c` string>"),
        (DataTypes.ROW({"a": DataTypes.INT().not_null(), "tick`": int}), "row<a int not null, `tick``` bigint>"),
        (DataTypes.BIGINT(False), "bigint not null"),
        (DataTypes.BIGINT().not_null(), "bigint not null"),
        (DataTypes.BIGINT().not_null().nullable(), "bigint"),
        ("BIGINT", "bigint"),
        ("array<double>", "array<double>"),
        ("decimal(5, 1) not null", "decimal(5, 1) not null"),
        ({"id": "bigint", "name": str}, "row<id bigint, name string>"),
        ([("id", "bigint")], "row<id bigint>"),
        (int, "bigint"),
        (list[str], "array<string>"),
        (Type.parse("date"), "date"),
    ],
)
def test_declared(declared: object, text: str) -> None:
    assert str(to_type(declared)) == text
    assert to_type(text) == to_type(declared)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "boolean"),
        (int, "bigint"),
        (float, "double"),
        (str, "string"),
        (bytes, "bytes"),
        (Decimal, "decimal(38, 18)"),
        (datetime.date, "date"),
        (datetime.datetime, "timestamp(6)"),
        (datetime.time, "time(6)"),
        (datetime.timedelta, "duration(us)"),
        (None, "null"),
        (Optional[float], "double"),
        (float | None, "double"),
        (list[int], "array<bigint>"),
        (Sequence[Optional[str]], "array<string>"),
        (dict[str, list[float]], "map<string, array<double>>"),
        (Annotated[int, DataTypes.INT()], "int"),
        (Annotated[int, "smallint"], "smallint"),
        (Annotated[float, "any text of the author"], None),
        (Annotated[float, 17], "double"),
    ],
)
def test_annotations(annotation: object, text: str | None) -> None:
    if text is None:
        with pytest.raises(PillionError):
            from_annotation(annotation)
    else:
        assert str(from_annotation(annotation)) == text


@pytest.mark.parametrize(
    "annotation", [Any, object, list, dict, int | str, list[Any], complex, Harmless := type("Harmless", (), {})]
)
def test_annotations_that_name_no_type(annotation: object) -> None:
    assert from_annotation(annotation) is None


@pytest.mark.parametrize(
    "declared", ["bigin", "array<", "", "decimal(x)", 17, object(), [("a",)], {"a": 1}, {1: "int"}]
)
def test_nonsense(declared: object) -> None:
    with pytest.raises(PillionError) as caught:
        to_type(declared)
    assert caught.value.code == "declaration_invalid"
    assert caught.value.hint


def test_text_names_the_token() -> None:
    with pytest.raises(PillionError, match="bigin"):
        to_type("row<a bigin>")


def test_data_types_compare() -> None:
    assert DataTypes.BIGINT() == DataTypes.BIGINT()
    assert DataTypes.BIGINT() != DataTypes.BIGINT().not_null()
    assert len({DataTypes.INT(), DataTypes.INT(), DataTypes.STRING()}) == 2
    assert repr(DataTypes.INT()) == "DataType('int')"


def test_pyarrow_types() -> None:
    pa = pytest.importorskip("pyarrow")
    assert str(to_type(pa.int64())) == "bigint"
    assert str(to_type(pa.list_(pa.float64()))) == "array<double>"
    assert str(to_type(pa.field("x", pa.string(), nullable=False))) == "string not null"
    assert (
        str(to_type(pa.schema([("a", pa.int32()), ("b", pa.timestamp("ms", "UTC"))])))
        == "row<a int, b timestamp(3, 'UTC')>"
    )
    if int(pa.__version__.partition(".")[0]) >= 15:
        assert pa.field(DataTypes.BIGINT().not_null()) == pa.field("", pa.int64(), nullable=False)


def test_numpy_scalars_as_annotations() -> None:
    np = pytest.importorskip("numpy")
    assert str(from_annotation(np.int32)) == "int"
    assert str(from_annotation(np.float64)) == "double"
    assert str(from_annotation(np.bool_)) == "boolean"
    assert from_annotation(np.ndarray) is None
