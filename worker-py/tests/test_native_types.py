"""Types as text, and to and from other Arrow libraries."""

import pickle

import pytest
from conftest import pyarrow_knows

from pillion._native import Type, schema_from_ipc, schema_to_ipc

TEXTS = {
    "boolean": "bool",
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "bigint": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "float16": "float16",
    "float": "float32",
    "double": "float64",
    "string": "utf8",
    "large_string": "large_utf8",
    "string_view": "utf8_view",
    "bytes": "binary",
    "large_bytes": "large_binary",
    "bytes_view": "binary_view",
    "fixed_binary(16)": "fixed_size_binary",
    "decimal(10, 2)": "decimal128",
    "decimal32(5, 2)": "decimal32",
    "decimal64(15, -2)": "decimal64",
    "decimal256(50, 10)": "decimal256",
    "date": "date32",
    "date64": "date64",
    "time(0)": "time32",
    "time(3)": "time32",
    "time(6)": "time64",
    "time(9)": "time64",
    "timestamp(0)": "timestamp",
    "timestamp(3)": "timestamp",
    "timestamp(6)": "timestamp",
    "timestamp(9, 'Europe/Berlin')": "timestamp",
    "duration(us)": "duration",
    "array<bigint not null>": "list",
    "large_array<string>": "large_list",
    "fixed_array<double, 3>": "fixed_size_list",
    "map<string, array<int>>": "map",
    "row<a bigint, `two words` string not null, c row<d date>>": "struct",
    "dictionary<int, string>": "dictionary",
    "null": "null",
    "bigint not null": "int64",
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_read_back(text: str) -> None:
    parsed = Type.parse(text)
    assert str(parsed) == text
    assert parsed.kind == TEXTS[text]
    assert Type.parse(str(parsed)) == parsed
    assert hash(Type.parse(text)) == hash(parsed)
    assert pickle.loads(pickle.dumps(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("BIGINT", "bigint"),
        ("long", "bigint"),
        ("INTEGER NOT NULL", "int not null"),
        ("DOUBLE PRECISION", "double"),
        ("varchar(20)", "string"),
        ("VARBINARY(9)", "bytes"),
        ("decimal", "decimal(10, 0)"),
        ("numeric(5)", "decimal(5, 0)"),
        ("TIMESTAMP", "timestamp(6)"),
        ("timestamp(2)", "timestamp(3)"),
        ("TIMESTAMP_LTZ(3)", "timestamp(3, 'UTC')"),
        ("TIMESTAMP(3) WITH LOCAL TIME ZONE", "timestamp(3, 'UTC')"),
        ("timestamp[us, tz=+01:00]", "timestamp(6, '+01:00')"),
        ("timestamp[ns]", "timestamp(9)"),
        ("list<item: int64>", "array<bigint>"),
        ("struct<a: int64, b: string not null>", "row<a bigint, b string not null>"),
        ("ROW(a BIGINT, b STRING)", "row<a bigint, b string>"),
        ("fixed_size_list<item: float>[3]", "fixed_array<float, 3>"),
        ("dictionary<values=string, indices=int32, ordered=0>", "dictionary<int, string>"),
        ("date32[day]", "date"),
        ("time64[us]", "time(6)"),
        ("decimal128(10, 2)", "decimal(10, 2)"),
        ("fixed_size_binary[16]", "fixed_binary(16)"),
    ],
)
def test_other_spellings(text: str, means: str) -> None:
    assert str(Type.parse(text)) == means


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unexpected end"),
        ("bigintt", "unknown type `bigintt`"),
        ("array<bigint", "expected `>` at the end"),
        ("array<>", "expected a type, found `>`"),
        ("bigint bigint", "unexpected `bigint` after the type"),
        ("decimal(99, 1)", "precision `99`"),
        ("decimal(5, 6)", "scale `6`"),
        ("decimal(a)", "expected a number, found `a`"),
        ("row<a bigint, a string>", "field `a` is there twice"),
        ("row<a, b string>", "field `a` has no type"),
        ("timestamp(parsec)", "unknown unit `parsec`"),
        ("duration(day)", "unknown unit `day`"),
        ("map<string>", "expected `,`, found `>`"),
        ("dictionary<string, string>", "must be integers"),
        ("bigint;", "unexpected character `;`"),
        ("timestamp(3, 'UTC)", "missing closing '"),
        ("array<" * 200 + "int" + ">" * 200, "nested more than"),
    ],
)
def test_nonsense_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="invalid type") as caught:
        Type.parse(text)
    assert problem in str(caught.value)


def test_parts() -> None:
    row = Type.parse("row<a bigint not null, b timestamp(3, 'UTC')>")
    (name, first), (_, second) = row.children
    assert (name, first.kind, first.nullable) == ("a", "int64", False)
    assert (second.unit, second.timezone, second.nullable) == ("ms", "UTC", True)
    assert Type.parse("bigint").unit is None
    assert [(name, str(part)) for name, part in Type.parse("map<string, double>").children] == [
        ("key", "string not null"),
        ("value", "double"),
    ]
    decimal = Type.parse("decimal(12, 3)")
    assert (decimal.precision, decimal.scale) == (12, 3)


def test_equality_minds_nullability_and_names() -> None:
    assert Type.parse("bigint") != Type.parse("bigint not null")
    assert Type.parse("bigint").with_nullable(False) == Type.parse("bigint not null")
    assert Type.parse("row<a int>") != Type.parse("row<b int>")
    assert Type.parse("bigint") != "bigint"


def test_pyarrow_types() -> None:
    pa = pytest.importorskip("pyarrow")
    assert str(Type.from_arrow(pa.int64())) == "bigint"
    assert str(Type.from_arrow(pa.field("x", pa.string(), nullable=False))) == "string not null"
    assert str(Type.from_arrow(pa.list_(pa.field("element", pa.int32())))) == "array<int>"
    assert Type.from_arrow(pa.list_(pa.field("element", pa.int32()))) == Type.parse("array<int>")
    for text in TEXTS:
        if text != "bigint not null" and pyarrow_knows(text):
            exported = pa.DataType._import_from_c_capsule(Type.parse(text).__arrow_c_schema__())
            assert Type.from_arrow(exported) == Type.parse(text)
    with pytest.raises(TypeError, match="__arrow_c_schema__"):
        Type.from_arrow("bigint")


def test_schema_messages() -> None:
    columns = [(f"column {i}", Type.parse(text)) for i, text in enumerate(TEXTS)]
    assert schema_from_ipc(schema_to_ipc(columns)) == columns
    with pytest.raises(ValueError, match="not an ipc message"):
        schema_from_ipc(b"nonsense")
