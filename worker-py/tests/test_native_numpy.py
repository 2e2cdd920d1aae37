"""NumPy arrays and scalars, through `__array_interface__` alone."""

import datetime as dt
import gc
import sys

import pytest

from pillion._native import Column, ConversionError, Type

np = pytest.importorskip("numpy")

DTYPES = {
    "tinyint": "i1",
    "smallint": "i2",
    "int": "i4",
    "bigint": "i8",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "float16": "f2",
    "float": "f4",
    "double": "f8",
    "boolean": "?",
    "date": "M8[D]",
    "timestamp(0)": "M8[s]",
    "timestamp(3)": "M8[ms]",
    "timestamp(6)": "M8[us]",
    "timestamp(9)": "M8[ns]",
    "timestamp(6, 'UTC')": "M8[us]",
    "duration(s)": "m8[s]",
    "duration(ms)": "m8[ms]",
    "duration(us)": "m8[us]",
    "duration(ns)": "m8[ns]",
}


def sample(dtype: str, n: int) -> "np.ndarray":
    if dtype == "?":
        return np.arange(n) % 3 == 0
    return (np.arange(n) % 100).astype("i8").astype(dtype)


@pytest.mark.parametrize("text", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 7, 100_000])
def test_round_trip(text: str, n: int) -> None:
    array = sample(DTYPES[text], n)
    column = Column.from_numpy(array, Type.parse(text), name="x")
    back = np.asarray(column)
    assert back.dtype == np.dtype(DTYPES[text])
    assert (back == array).all()
    assert not back.flags.writeable
    if n:
        sliced = np.asarray(column.slice(n // 2, n - n // 2))
        assert (sliced == array[n // 2 :]).all()


@pytest.mark.parametrize("text", DTYPES)
def test_layouts(text: str) -> None:
    array = sample(DTYPES[text], 100)
    base = np.zeros(100, [("a", "i1"), ("b", array.dtype)])
    base["b"] = array
    for view in (array[::2], array[::-1], array[5:50:3], np.broadcast_to(array[3], (9,)), base["b"], array[:0:2]):
        assert (np.asarray(Column.from_numpy(view, Type.parse(text))) == view).all()


@pytest.mark.parametrize("text", DTYPES)
def test_mask(text: str) -> None:
    array = sample(DTYPES[text], 100)
    mask = np.arange(100) % 7 == 2
    column = Column.from_numpy(array, Type.parse(text), mask=mask)
    assert column.null_count == mask.sum()
    assert (np.asarray(column.null_mask()) == mask).all()
    assert (np.asarray(column.values_interface())[~mask] == array[~mask]).all()
    with pytest.raises(AttributeError, match="nulls"):
        column.__array_interface__  # noqa: B018
    part = column.slice(3, 50)
    assert (np.asarray(part.null_mask()) == mask[3:53]).all()
    assert (np.asarray(part.values_interface())[~mask[3:53]] == array[3:53][~mask[3:53]]).all()


def test_large_arrays_are_shared_and_kept_alive() -> None:
    array = np.arange(100_000, dtype="i8")
    before = sys.getrefcount(array)
    column = Column.from_numpy(array, Type.parse("bigint"))
    assert np.asarray(column).__array_interface__["data"][0] == array.__array_interface__["data"][0]
    assert sys.getrefcount(array) > before
    view = np.asarray(column.slice(10, 20))
    del column
    gc.collect()
    assert (view == array[10:30]).all()
    del view
    gc.collect()
    assert sys.getrefcount(array) == before


def test_numpy_keeps_the_column_alive() -> None:
    view = np.asarray(Column.from_pylist(list(range(50_000)), Type.parse("bigint")))
    days = np.asarray(Column.from_pylist([dt.date(2020, 1, 1)] * 10, Type.parse("date")))
    mask = np.asarray(Column.from_pylist([None] * 1000, Type.parse("date")).null_mask())
    gc.collect()
    junk = [bytes(400_000) for _ in range(50)]
    assert (view == np.arange(50_000)).all()
    assert (days == np.datetime64("2020-01-01")).all()
    assert mask.all()
    del junk


def test_nat_and_nan() -> None:
    times = np.array(["2020-01-01", "NaT"], "M8[us]")
    assert Column.from_numpy(times, Type.parse("timestamp(6)")).to_pylist() == [dt.datetime(2020, 1, 1), None]
    assert Column.from_numpy(times, Type.parse("date")).to_pylist() == [dt.date(2020, 1, 1), None]
    assert Column.from_numpy(times.astype("M8[h]"), Type.parse("timestamp(9)")).to_pylist() == [
        dt.datetime(2020, 1, 1),
        None,
    ]
    assert Column.from_numpy(np.array([1, "NaT"], "m8[D]"), Type.parse("duration(us)")).to_pylist() == [
        dt.timedelta(1),
        None,
    ]
    floats = np.array([1.0, np.nan, -0.0])
    assert Column.from_numpy(floats, Type.parse("bigint")).to_pylist() == [1, None, 0]
    assert Column.from_numpy(floats, Type.parse("double")).null_count == 0
    assert Column.from_numpy(floats, Type.parse("double"), nan_is_null=True).to_pylist() == [1.0, None, 0.0]
    empty = np.full(3, np.nan)
    for text in ("boolean", "date", "timestamp(3)", "string", "array<int>"):
        assert Column.from_numpy(empty, Type.parse(text)).to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("array", "text", "row"),
    [
        (np.array([1.0, 1.5]), "bigint", 1),
        (np.array([1.0, np.inf]), "bigint", 1),
        (np.array([1.0, 1e30]), "bigint", 1),
        (np.array([1, 300]), "tinyint", 1),
        (np.array([-1]), "uint32", 0),
        (np.array([2**53 + 1]), "double", 0),
        (np.array([2**63 - 1]), "double", 0),
        (np.array([1.0, 1e300]), "float", 1),
        (np.array([1000, 1001], "M8[ms]"), "timestamp(0)", 1),
        (np.array([2**40], "M8[s]"), "timestamp(9)", 0),
        (np.array(["2020-01-01T01"], "M8[h]"), "date", 0),
        (np.array([2**60], "M8[D]"), "timestamp(6)", 0),
        (np.array([1, "x"], object), "bigint", 1),
    ],
)
def test_lossy_values_are_refused(array: "np.ndarray", text: str, row: int) -> None:
    with pytest.raises(ConversionError) as caught:
        Column.from_numpy(array, Type.parse(text), name="n")
    assert caught.value.row == row
    assert f"column `n`, row {row}: " in str(caught.value)


@pytest.mark.parametrize(
    ("array", "text", "message"),
    [
        (np.array([1.5]), "string", "`double` cannot be converted to `string`"),
        (np.array([True]), "bigint", "`boolean` cannot be converted to `bigint`"),
        (np.array([1]), "timestamp(3)", "`bigint` cannot be converted to `timestamp(3)`"),
        (np.zeros((2, 2)), "double", "2 dimensions"),
        (np.array(1.0), "double", "0 dimensions"),
        (np.array([1], ">i8"), "bigint", "byte order"),
        (np.array([1j]), "double", "dtype `c16`"),
        ([1, 2], "bigint", "__array_interface__"),
    ],
)
def test_types_that_do_not_fit(array: object, text: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Column.from_numpy(array, Type.parse(text), name="n")
    assert message in str(caught.value)
    assert "column `n`: " in str(caught.value)


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="mask has 2 rows, the values have 3"):
        Column.from_numpy(np.arange(3), Type.parse("bigint"), mask=np.zeros(2, bool))
    with pytest.raises(TypeError, match="no boolean array"):
        Column.from_numpy(np.arange(3), Type.parse("bigint"), mask=np.zeros(3))


def test_objects_and_text() -> None:
    objects = np.array(["a", None, "b"], object)
    assert Column.from_numpy(objects, Type.parse("string")).to_pylist() == ["a", None, "b"]
    mask = np.array([True, False, False])
    assert Column.from_numpy(objects, Type.parse("string"), mask=mask).to_pylist() == [None, None, "b"]
    assert Column.from_numpy(np.array(["a", "bc"]), Type.parse("string")).to_pylist() == ["a", "bc"]
    assert Column.from_numpy(np.array([b"a"]), Type.parse("bytes")).to_pylist() == [b"a"]


def test_scalars_in_lists() -> None:
    def one(value: object, text: str) -> object:
        return Column.from_pylist([value], Type.parse(text)).to_pylist()[0]

    assert one(np.int16(3), "bigint") == 3
    assert one(np.uint64(2**64 - 1), "uint64") == 2**64 - 1
    assert one(np.float32(1.5), "double") == 1.5
    assert one(np.float32(2), "bigint") == 2
    assert one(np.float64(2), "bigint") == 2
    assert one(np.bool_(True), "boolean") is True
    assert one(np.str_("x"), "string") == "x"
    assert one(np.datetime64("2020-01-01T01:02:03.000000004"), "timestamp(9)") == dt.datetime(2020, 1, 1, 1, 2, 3)
    assert one(np.datetime64("2020-01-01"), "date") == dt.date(2020, 1, 1)
    assert one(np.timedelta64(5, "m"), "duration(s)") == dt.timedelta(minutes=5)
    assert one(np.array([1, 2]), "array<int>") == [1, 2]
    with pytest.raises(ConversionError, match="ndarray"):
        one(np.array([1]), "bigint")
    with pytest.raises(ConversionError, match="ndarray"):
        one(np.array([1.0]), "double")
    if not hasattr(np.bool_, "__index__"):  # in old versions it counts as a number
        with pytest.raises(ConversionError, match="bool"):
            one(np.bool_(True), "bigint")


def test_what_has_no_dtype() -> None:
    for text in ("string", "decimal(5, 2)", "time(6)", "array<int>"):
        column = Column.from_pylist([], Type.parse(text))
        with pytest.raises(AttributeError, match="no dtype"):
            column.__array_interface__  # noqa: B018
        with pytest.raises(TypeError, match="no dtype"):
            column.values_interface()


def test_pandas_scalars() -> None:
    pd = pytest.importorskip("pandas")
    ns = Type.parse("timestamp(9)")
    column = Column.from_pylist([pd.Timestamp(1), pd.NaT, pd.NA, None], ns)
    assert (np.asarray(column.values_interface())[:1].astype("i8") == [1]).all()
    assert column.null_count == 3
    aware = Column.from_pylist([pd.Timestamp("2020-01-01", tz="Europe/Berlin")], Type.parse("timestamp(6, 'UTC')"))
    assert aware.to_pylist() == [dt.datetime(2019, 12, 31, 23, tzinfo=dt.timezone.utc)]
    deltas = Column.from_pylist([pd.Timedelta(7, "ns"), pd.NaT], Type.parse("duration(ns)"))
    assert deltas.null_count == 1
    assert np.asarray(deltas.values_interface())[0] == np.timedelta64(7, "ns")
    assert Column.from_pylist([pd.NA, 1], Type.parse("bigint")).to_pylist() == [None, 1]
    assert Column.from_pylist([pd.NaT], Type.parse("date")).to_pylist() == [None]
