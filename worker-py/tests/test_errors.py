"""Error records: what arrives of an exception, whatever the user's code does to it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from pillion import udf
from pillion.errors import error_record, safe_repr


def record_of(harness: Any, function: Any, *columns: Any) -> dict[str, Any]:
    return harness.error(harness.scalar, function, *(columns or [("bigint", [1])]))


def helper(value: int) -> int:
    raise LookupError(f"no {value}")


def test_frames_are_the_user_s(harness: Any) -> None:
    def outer(a: int) -> int:
        return helper(a)

    record = record_of(harness, outer)
    assert [(f["function"], f["source"]) for f in record["exception"]["frames"]] == [
        ("outer", "return helper(a)"),
        ("helper", 'raise LookupError(f"no {value}")'),
    ]
    assert all(frame["file"] == __file__ and frame["line"] > 0 for frame in record["exception"]["frames"])
    assert record["exception"]["message"] == "no 1"


def test_causes(harness: Any) -> None:
    def chained(a: int) -> int:
        try:
            helper(a)
        except LookupError as exc:
            raise ValueError("outer") from exc

    def in_handling(a: int) -> int:
        try:
            helper(a)
        except LookupError:
            raise ValueError("outer")  # noqa: B904

    def suppressed(a: int) -> int:
        try:
            helper(a)
        except LookupError:
            raise ValueError("outer") from None

    for function, cause in ((chained, "LookupError"), (in_handling, "LookupError"), (suppressed, None)):
        exception = record_of(harness, function)["exception"]
        assert exception["type"] == "ValueError"
        assert (exception["cause"] and exception["cause"]["type"]) == cause
    exception = record_of(harness, chained)["exception"]
    assert exception["cause"]["frames"][-1]["function"] == "helper"


def test_a_long_chain_of_causes_is_cut(harness: Any) -> None:
    def chained(a: int) -> int:
        exc: Exception = ValueError("0")
        for number in range(1, 50):
            following = ValueError(str(number))
            following.__cause__ = exc
            exc = following
        raise exc

    depth, exception = 0, record_of(harness, chained)["exception"]
    while exception["cause"] is not None:
        depth, exception = depth + 1, exception["cause"]
    assert depth == 8


def test_a_circle_of_causes_ends(harness: Any) -> None:
    def circle(a: int) -> int:
        one, two = ValueError("1"), ValueError("2")
        one.__cause__, two.__cause__ = two, one
        raise one

    assert record_of(harness, circle)["exception"]["type"] == "ValueError"


class BrokenError(Exception):
    """Whose every description raises."""

    def __str__(self) -> str:
        raise RuntimeError("broken too")

    __repr__ = __str__


class WithoutText(Exception):
    """Whose `__str__` gives no text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class Hidden:
    """A value whose `repr` leaves the interpreter."""

    def __repr__(self) -> str:
        sys.exit(1)


@pytest.mark.parametrize("kind", [BrokenError, WithoutText])
def test_broken_exceptions(harness: Any, kind: type[Exception]) -> None:
    def fail(a: int) -> int:
        raise kind

    record = record_of(harness, fail)
    assert record["exception"]["type"] == f"{__name__}.{kind.__name__}"
    assert "whose str() raised" in record["exception"]["message"]


def test_broken_values() -> None:
    assert safe_repr(Hidden()) == "<Hidden whose repr() raised SystemExit>"
    assert len(safe_repr("x" * 1000)) == 256


def test_long_and_odd_texts(harness: Any) -> None:
    def fail(a: int) -> int:
        raise ValueError("\ud800" + "x" * 100_000)

    record = record_of(harness, fail)
    assert record["exception"]["message"].startswith("\\ud800xxx")
    assert len(record["exception"]["message"]) == 16 * 1024
    assert len(record["message"]) < 2048
    assert "\n" not in record_of(harness, udf(lambda a: int("a\nb"), result_type="int"))["message"]


def test_values_are_cut(harness: Any) -> None:
    function = udf(lambda text: 1 / 0, result_type="double")
    record = record_of(harness, function, ("string", ["x" * 10_000]))
    ((name, shown),) = record["exception"]["row"]["values"]
    assert (name, len(shown)) == ("text", 256)


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError])
def test_whatever_is_raised_is_the_function_s(harness: Any, leave: type[BaseException]) -> None:
    def fail(a: int) -> int:
        raise leave("now")

    for function in (fail, udf(fail, result_type="bigint")):
        record = record_of(harness, function)
        assert (record["code"], record["exception"]["type"]) == ("function_raised", leave.__name__)


def test_runaway_recursion(harness: Any) -> None:
    def dig(a: int) -> int:
        return dig(a + 1)

    record = record_of(harness, dig)
    assert record["exception"]["type"] == "RecursionError"
    assert len(record["exception"]["frames"]) == 64


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_notes(harness: Any) -> None:
    def fail(a: int) -> int:
        exc = ValueError("text")
        exc.add_note("while reading the map")
        raise exc

    assert record_of(harness, fail)["exception"]["message"] == "text\nwhile reading the map"


def test_a_bug_of_the_runtime_is_called_one() -> None:
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError as exc:
        record = error_record(exc)
    assert record["code"] == "invariant_broken"
    assert record["exception"] is None
    assert "Traceback" in record["detail"]
    assert error_record(MemoryError())["code"] == "memory_exceeded"


def test_every_record_has_the_same_shape(harness: Any) -> None:
    expected = {"code": str, "message": str, "hint": str, "detail": str, "function": str}
    for record in (
        record_of(harness, udf(lambda a: 1 / 0, result_type="int")),
        record_of(harness, udf(lambda a: "x", result_type="int")),
        harness.error(harness.describe, 7),
        error_record(ValueError()),
    ):
        assert set(record) == {*expected, "exception"}
        assert all(isinstance(record[key], kind) for key, kind in expected.items())
        assert not record["message"].endswith(".")


def test_missing_packages(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for func_type, package in (("pandas", "pandas"), ("arrow", "pyarrow")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"pillion.convert_{func_type}", raising=False)
        record = record_of(harness, udf(lambda a: a, result_type="bigint", func_type=func_type))
        assert record["code"] == "package_missing"
        assert f"`{package}`" in record["message"]
        assert f"add `{package}` to the requirements" in record["hint"]


def test_pyarrow_that_is_too_old(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = type(sys)("pyarrow")
    old.__version__ = "9.0.0"
    monkeypatch.setitem(sys.modules, "pyarrow", old)
    record = record_of(harness, udf(lambda a: a, result_type="bigint", func_type="arrow"))
    assert record["code"] == "package_missing"
    assert "pyarrow 9.0.0" in record["message"]


def test_user_logging_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from pillion import _native, logs

    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(_native, "log", lambda *arguments: sent.append(arguments), raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    handler = logs.install()
    try:
        assert logs.install() is handler
        logger = logging.getLogger("interpolate__pillion_0123456789ab")
        logger.info("filled %d gaps", 3)
        logger.debug("not shown")
        logger.error("broken %d", "x")
        logger.warning("\ud800" + "x" * 100_000)
        try:
            helper(1)
        except LookupError:
            logger.exception("failed")
        monkeypatch.setattr(_native, "log", None)
        logger.info("never raises")
    finally:
        root.setLevel(level)
    assert [(entry[1], entry[2]) for entry in sent] == [
        (20, "interpolate"),
        (40, "interpolate"),
        (30, "interpolate"),
        (40, "interpolate"),
    ]
    assert sent[0][3] == "filled 3 gaps"
    assert (sent[0][4], sent[0][5] > 0) == (__file__, True)
    assert "could not be formatted (TypeError)" in sent[1][3]
    assert len(sent[2][3]) == 16 * 1024
    assert "LookupError: no 1" in sent[3][3]
