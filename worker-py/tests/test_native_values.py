"""Values to Arrow and back, for every type."""

import datetime as dt
import decimal
import zoneinfo

import pytest
from conftest import pyarrow_knows

from pillion._native import Column, ConversionError, Type

D = decimal.Decimal
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
INSTANT = dt.datetime(2024, 3, 31, 1, 30, tzinfo=dt.timezone.utc)

VALUES = {
    "boolean": [True, False, None, True],
    "tinyint": [0, -128, 127, None],
    "smallint": [0, -32768, 32767, None],
    "int": [0, -(2**31), 2**31 - 1, None],
    "bigint": [0, -(2**63), 2**63 - 1, None],
    "uint8": [0, 255, None],
    "uint16": [0, 65535, None],
    "uint32": [0, 2**32 - 1, None],
    "uint64": [0, 2**64 - 1, None],
    "float16": [0.0, -1.5, 65504.0, float("inf"), None],
    "float": [0.0, -1.5, 3.4028234663852886e38, float("-inf"), None],
    "double": [0.0, 0.1, -1e308, float("inf"), None],
    "string": ["", "a", "grüße", "\U0001f600 \x00", None, "x" * 100],
    "large_string": ["", "a", None],
    "string_view": ["", "short", "much longer than twelve bytes", None],
    "bytes": [b"", b"\x00\xff", None],
    "large_bytes": [b"", b"\x00\xff", None],
    "bytes_view": [b"", b"much longer than twelve bytes", None],
    "fixed_binary(3)": [b"abc", None, b"\x00\x01\x02"],
    "decimal(10, 2)": [D("0.00"), D("-12345678.90"), D("99999999.99"), None],
    "decimal(38, 0)": [D(10**38 - 1), D(-(10**38) + 1), None],
    "decimal32(5, 2)": [D("123.45"), None],
    "decimal64(15, 5)": [D("-1234567890.12345"), None],
    "decimal256(60, 10)": [D("1" * 40 + "." + "2" * 10), None],
    "date": [
        dt.date(1970, 1, 1),
        dt.date(1, 1, 1),
        dt.date(9999, 12, 31),
        dt.date(2000, 2, 29),
        dt.date(1900, 3, 1),
        None,
    ],
    "date64": [dt.date(1970, 1, 1), dt.date(1969, 12, 31), None],
    "time(0)": [dt.time(0), dt.time(23, 59, 59), None],
    "time(3)": [dt.time(12, 0, 0, 1000), None],
    "time(6)": [dt.time(23, 59, 59, 999999), None],
    "time(9)": [dt.time(23, 59, 59, 999999), None],
    "timestamp(0)": [dt.datetime(1970, 1, 1), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59), None],
    "timestamp(3)": [dt.datetime(1969, 12, 31, 23, 59, 59, 999000), None],
    "timestamp(6)": [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(2262, 1, 1), None],
    "timestamp(9)": [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), None],
    "timestamp(6, 'UTC')": [INSTANT, None],
    "timestamp(6, 'Europe/Berlin')": [
        INSTANT.astimezone(BERLIN),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
        None,
    ],
    "timestamp(6, '+05:30')": [INSTANT.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))), None],
    "duration(s)": [dt.timedelta(days=-3, seconds=5), None],
    "duration(us)": [dt.timedelta(days=106751, microseconds=-1), dt.timedelta(microseconds=-1), None],
    "duration(ns)": [dt.timedelta(microseconds=7), None],
    "array<bigint>": [[1, None, 3], [], None, [4]],
    "large_array<string>": [["a", None], None, []],
    "fixed_array<double, 2>": [[1.0, None], None, [3.0, 4.0]],
    "array<array<int>>": [[[1], [], None], None, [], [[2, 3]]],
    "map<string, bigint>": [{"a": 1, "b": None}, {}, None],
    "row<a bigint, b string>": [{"a": 1, "b": "x"}, {"a": None, "b": None}, None],
    "array<row<a int, b array<string>>>": [[{"a": 1, "b": ["x"]}, None], None, [{"a": None, "b": None}]],
    "row<>": [{}, None],
    "dictionary<int, string>": ["a", "b", None, "a"],
    "null": [None, None],
}


@pytest.mark.parametrize("text", VALUES)
def test_round_trip(text: str) -> None:
    values = VALUES[text]
    column = Column.from_pylist(values, Type.parse(text), "c")
    assert column.name == "c"
    assert len(column) == len(values)
    assert column.null_count == values.count(None)
    back = column.to_pylist()
    assert back == values
    assert [type(v) for v in back] == [type(v) for v in values]


@pytest.mark.parametrize("text", VALUES)
def test_every_slice(text: str) -> None:
    # Slices have offsets into shared buffers, in every nested part.
    values = VALUES[text] * 3
    column = Column.from_pylist(values, Type.parse(text))
    for start in range(len(values) + 1):
        for length in range(0, len(values) + 1 - start, 3):
            assert column.slice(start, length).to_pylist() == values[start : start + length]
    with pytest.raises(IndexError):
        column.slice(1, len(values))


@pytest.mark.parametrize("text", VALUES)
def test_empty_and_all_null(text: str) -> None:
    assert Column.from_pylist([], Type.parse(text)).to_pylist() == []
    nulls = Column.from_pylist([None] * 70, Type.parse(text))
    assert nulls.to_pylist() == [None] * 70
    assert nulls.null_count == 70


def in_utc(values: list[object]) -> list[object]:
    """Instants compare whatever library their zones come from."""
    zoned = (isinstance(value, dt.datetime) and value.tzinfo is not None for value in values)
    return [value.astimezone(dt.timezone.utc) if has else value for value, has in zip(values, zoned)]


@pytest.mark.parametrize("text", VALUES)
def test_pyarrow_sees_the_same(text: str) -> None:
    pa = pytest.importorskip("pyarrow")
    if not pyarrow_knows(text):
        pytest.skip("this pyarrow is too old for the type")
    values = VALUES[text]
    column = Column.from_pylist(values, Type.parse(text))
    array = pa.array(column)
    array.validate(full=True)
    assert Type.from_arrow(array.type) == Type.parse(text)
    if "map" not in text:  # pyarrow gives lists of pairs
        assert in_utc(array.to_pylist()) == in_utc(values)
    parts = [array, array.slice(1)]
    chunked = pa.chunked_array([array.slice(0, 1), array.slice(1)])
    if hasattr(chunked, "__arrow_c_stream__"):  # since pyarrow 16
        parts.append(chunked)
    for part in parts:
        assert Column.from_arrow(part, Type.parse(text), "n").to_pylist() == values[len(values) - len(part) :]


def test_equivalent_inputs() -> None:
    def one(value: object, text: str) -> object:
        return Column.from_pylist([value], Type.parse(text)).to_pylist()[0]

    assert one(3.0, "bigint") == 3
    assert one(3, "double") == 3.0
    assert one(2**60, "double") == float(2**60)
    assert one(7, "decimal(5, 2)") == D("7.00")
    assert one(D("1E+3"), "decimal(6, 2)") == D("1000.00")
    assert one(D("1.500"), "decimal(3, 1)") == D("1.5")
    assert one(D("-0E-9"), "decimal(3, 1)") == D("0.0")
    assert one(bytearray(b"x"), "bytes") == b"x"
    assert one(memoryview(b"xy"), "bytes") == b"xy"
    assert one(dt.datetime(2020, 1, 2), "date") == dt.date(2020, 1, 2)
    assert one(dt.datetime(2020, 1, 2), "timestamp(6, 'UTC')") == dt.datetime(2020, 1, 2, tzinfo=dt.timezone.utc)
    assert one((1, 2), "array<int>") == [1, 2]
    assert one(range(3), "array<int>") == [0, 1, 2]
    assert one({5}, "array<int>") == [5]
    assert one((1, "x"), "row<a int, b string>") == {"a": 1, "b": "x"}
    assert one({"a": 1}, "row<a int, b string>") == {"a": 1, "b": None}
    assert one([("k", 1)], "map<string, int>") == {"k": 1}
    assert one(0.1, "float") == pytest.approx(0.1, rel=1e-7)

    class Index:
        def __index__(self) -> int:
            return 5

    class Pair:
        a = 1
        b = "x"

    assert one(Index(), "bigint") == 5
    assert one(Pair(), "row<a int, b string>") == {"a": 1, "b": "x"}


@pytest.mark.parametrize(
    ("values", "text", "row", "message"),
    [
        ([1, "abc"], "bigint", 1, "row 1: a `str` value 'abc' cannot be converted to `bigint`"),
        ([1, True], "bigint", 1, "a `bool` value True"),
        ([1.5], "bigint", 0, "no whole number"),
        ([float("nan")], "bigint", 0, "no whole number"),
        ([float("inf")], "bigint", 0, "no whole number"),
        ([1e300], "bigint", 0, "out of range"),
        ([300], "tinyint", 0, "out of range"),
        ([-1], "uint64", 0, "out of range"),
        ([2**64], "uint64", 0, "out of range"),
        ([2**63], "bigint", 0, "out of range"),
        ([2**53 + 1], "double", 0, "no `double` equals it"),
        ([10**400], "double", 0, "out of range"),
        ([1e300], "float", 0, "out of range"),
        (["1"], "double", 0, "a `str` value '1'"),
        ([1], "string", 0, "a `int` value 1 cannot be converted to `string`"),
        (["\ud800"], "string", 0, "surrogates"),
        (["a"], "bytes", 0, "`str`"),
        ([b"ab"], "fixed_binary(3)", 0, "width 3"),
        ([1], "boolean", 0, "`int`"),
        ([D("1.234")], "decimal(5, 2)", 0, "more than 2 digits after the point"),
        ([D("12345.6")], "decimal(5, 1)", 0, "more than 5 digits"),
        ([D("1E+400000")], "decimal(5, 1)", 0, "more than 5 digits"),
        ([D("NaN")], "decimal(5, 1)", 0, "no number"),
        ([1.5], "decimal(5, 1)", 0, "`float` value 1.5"),
        (["2020-01-01"], "date", 0, "`str`"),
        ([dt.datetime(2020, 1, 1, 1)], "date", 0, "time of day"),
        ([dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)], "timestamp(6)", 0, "time zone"),
        ([dt.datetime(2020, 1, 1, microsecond=1)], "timestamp(3)", 0, "finer than the unit"),
        ([dt.datetime(2500, 1, 1)], "timestamp(9)", 0, "out of range"),
        ([dt.date(2020, 1, 1)], "timestamp(6)", 0, "`date` value"),
        ([dt.timedelta(microseconds=1)], "duration(s)", 0, "finer"),
        ([[1], ["x"]], "array<int>", 1, "row 1: a `str` value 'x'"),
        (["ab"], "array<string>", 0, "no list"),
        ([{"a": 1}], "array<string>", 0, "no list"),
        ([[1, 2], [1]], "fixed_array<int, 2>", 1, "1 items do not have the size 2"),
        ([[None]], "array<int not null>", 0, "an item is null"),
        ([None, {"a": 1}, {"a": "x"}], "row<a int>", 2, "in field `a`"),
        ([{"a": 1, "c": 2}], "row<a int>", 0, "no field for key `c`"),
        ([{"a": None}], "row<a int not null>", 0, "field `a` is null"),
        ([(1, 2)], "row<a int>", 0, "2 values for the 1 fields"),
        ([5], "row<a int>", 0, "has no `a`"),
        ([{"k": "x"}], "map<string, int>", 0, "in value"),
        ([{None: 1}], "map<string, int>", 0, "in key"),
        ([5], "map<string, int>", 0, "no dict"),
        ([0], "null", 0, "`int` value 0"),
    ],
)
def test_what_does_not_fit_names_its_row(values: list[object], text: str, row: int, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        Column.from_pylist(values, Type.parse(text), "price")
    assert caught.value.row == row
    assert message in str(caught.value)
    assert f"column `price`, row {row}: " in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_nan_is_null_only_if_wanted() -> None:
    nan = float("nan")
    assert Column.from_pylist([nan, 1.0], Type.parse("double")).null_count == 0
    assert Column.from_pylist([nan, 1.0], Type.parse("double"), nan_is_null=True).to_pylist() == [None, 1.0]
    for text, value in {"bigint": 1, "string": "a", "boolean": True, "date": dt.date(2020, 1, 1)}.items():
        assert Column.from_pylist([nan, value], Type.parse(text), nan_is_null=True).to_pylist() == [None, value]


def test_exceptions_of_values_come_through() -> None:
    class Broken:
        def __index__(self) -> int:
            raise KeyError("mine")

        @property
        def a(self) -> int:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Column.from_pylist([Broken()], Type.parse("row<a int>"))
    assert ConversionError.row is None


def test_a_list_that_shrinks_while_it_is_read() -> None:
    values: list[object] = []

    class Shrink:
        def __index__(self) -> int:
            values.clear()
            return 1

    values.extend([1, Shrink(), 3, 4])
    assert Column.from_pylist(values, Type.parse("bigint")).to_pylist() == [1, 1]


def test_years_that_datetime_cannot_hold() -> None:
    np = pytest.importorskip("numpy")
    column = Column.from_numpy(np.array(["12000-01-01"], "M8[s]"), Type.parse("timestamp(0)"))
    with pytest.raises(OverflowError):
        column.to_pylist()


def test_nanoseconds_are_cut_downwards() -> None:
    np = pytest.importorskip("numpy")
    column = Column.from_numpy(np.array([-1, 1999], "M8[ns]"), Type.parse("timestamp(9)"))
    assert column.to_pylist() == [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(1970, 1, 1, 0, 0, 0, 1)]
