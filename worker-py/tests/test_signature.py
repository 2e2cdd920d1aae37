"""What `describe` says, and how plans are checked against it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Optional

import pytest

from pillion import Row, map_function, udf

if TYPE_CHECKING:
    from somewhere import Something


@udf(func_type="general")
def documented(name: str, times: int = 1, *rest: Optional[float]) -> list[str]:
    """Repeats.

    At length.
    """
    return [name] * times


def test_describe(harness: Any) -> None:
    described = harness.describe(documented)
    assert described == {
        "name": described["name"],
        "kind": "scalar",
        "func_type": "general",
        "parameters": [
            {"name": "name", "type": "string", "optional": False, "variadic": False},
            {"name": "times", "type": "bigint", "optional": True, "variadic": False},
            {"name": "rest", "type": "double", "optional": False, "variadic": True},
        ],
        "result_schema": [("documented", "array<string>")],
        "result_type": "array<string>",
        "deterministic": True,
        "doc": "Repeats.\n\nAt length.",
    }
    assert described["name"].startswith("functions_of_tests:")


def test_describe_a_map_function(harness: Any) -> None:
    described = harness.describe(map_function(lambda row: row, result_type={"a": "int", "b": "string"}))
    assert described["kind"] == "map"
    assert described["result_schema"] == [("a", "int"), ("b", "string")]
    described = harness.describe(map_function(lambda row: row))
    assert (described["result_schema"], described["result_type"]) == ([], "")


def test_result_type_of_the_caller_wins(harness: Any) -> None:
    assert harness.describe(documented, "string")["result_type"] == "string"
    assert harness.scalar(lambda a: a * 2, ("bigint", [1]), result_type="bigint").to_pylist() == [2]
    assert harness.error(harness.describe, documented, "strin")["code"] == "declaration_invalid"


def test_doc_of_a_partial_is_that_of_its_function(harness: Any) -> None:
    assert harness.describe(functools.partial(documented.function, "a"))["doc"].startswith("Repeats.")


def only_for_type_checkers(a: Something) -> int:
    return a


def series(a):
    return a


series.__annotations__ = {"return": type("Series", (), {})}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda a: a, "does not say the type of its result"),
        (series, "`Series` is not the type of a value"),
        (udf(lambda a: a, func_type="pandas"), "does not say the type of its result"),
        (only_for_type_checkers, "cannot be resolved (NameError"),
        (udf(lambda *, key: key, result_type="int"), "needs the keyword argument `key`"),
        (udf(lambda a, b: a, ["int"], "int"), "declares 1 input types but takes 2 arguments"),
        (udf(lambda a: a, ["int", "int"], "int"), "declares 2 input types but takes 1 arguments"),
        (udf(lambda: 1, result_type="int", func_type="pandas"), "takes no column"),
        (map_function(lambda row: row, result_type="int"), "names no columns"),
        (map_function(lambda a, b: a), "takes one argument, but it has 2"),
        (map_function(lambda: 1), "takes one argument, but it has 0"),
    ],
)
def test_declarations_that_say_too_little(harness: Any, function: Any, says: str) -> None:
    record = harness.error(harness.describe, function)
    assert record["code"] == "declaration_invalid"
    assert says in record["message"]
    assert record["hint"]
    assert record["exception"] is None


@pytest.mark.parametrize(
    ("given", "says"),
    [(0, "takes at least 1 column, but the plan gives it 0"), (4, None), (1, None)],
)
def test_count_of_variadic(harness: Any, given: int, says: str | None) -> None:
    columns = [("string", ["a"]), ("bigint", [1]), ("double", [1.0]), ("double", [2.0])][:given]
    if says is None:
        assert len(harness.scalar(documented, *columns)) == 1
    else:
        record = harness.error(harness.scalar, documented, *columns)
        assert record["code"] == "argument_count"
        assert says in record["message"]
        assert record["hint"] == "its parameters are: name, times, *rest"


def test_count(harness: Any) -> None:
    function = udf(lambda a, b=1: a, result_type="bigint")
    record = harness.error(harness.scalar, function, *[("bigint", [1])] * 3)
    assert record["code"] == "argument_count"
    assert record["message"] == "`<lambda>` takes 1 to 2 columns, but the plan gives it 3"
    assert record["function"].startswith("functions_of_tests:")


@pytest.mark.parametrize(
    ("annotation", "given", "fits"),
    [
        (float, "bigint", True),
        (float, "float", True),
        (int, "double", False),
        (int, "string", False),
        (int, "tinyint", True),
        (str, "bigint", False),
        (str, "string", True),
        (Optional[str], "null", True),
        (bool, "bigint", False),
        (list[int], "array<int>", True),
        (list[int], "bigint", False),
        (dict[str, int], "row<a int>", True),
        (Any, "bigint", True),
    ],
)
def test_annotated_arguments(harness: Any, annotation: Any, given: str, fits: bool) -> None:
    def function(value):
        return None

    function.__annotations__ = {"value": annotation, "return": int}
    if fits:
        assert harness.scalar(function, (given, [None])).to_pylist() == [None]
        return
    record = harness.error(harness.scalar, function, (given, [None]), names=["price"])
    assert record["code"] == "argument_type"
    assert f"column `price` is `{given}`, but parameter `value`" in record["message"]


def test_declared_input_types_convert(harness: Any) -> None:
    shown = udf(lambda a: repr(a), ["double"], "string")
    assert harness.scalar(shown, ("int", [1, None])).to_pylist() == ["1.0", "None"]
    record = harness.error(harness.scalar, shown, ("string", ["a"]))
    assert record["code"] == "argument_type"
    narrow = udf(lambda a: a, ["tinyint"], "bigint")
    assert harness.scalar(narrow, ("bigint", [100])).to_pylist() == [100]
    record = harness.error(harness.scalar, narrow, ("bigint", [1, 1000]), names=["price"])
    assert record["code"] == "argument_type"
    assert "`price`" in record["message"]


def test_input_types_of_variadic(harness: Any) -> None:
    total = udf(lambda *values: sum(values), ["bigint", "bigint"], "bigint")
    assert harness.scalar(total, ("bigint", [1]), ("bigint", [2])).to_pylist() == [3]
    assert harness.error(harness.scalar, total, ("bigint", [1]))["code"] == "argument_count"


def test_pyflink_rows(harness: Any) -> None:
    """A scalar function with a row for a result is what PyFlink's `table.map` takes."""
    function = udf(lambda row: Row(row.a + 1, "x"), result_type={"n": "bigint", "s": "string"})
    assert harness.map(function, {"a": ("bigint", [1, 2])}) == {"n": [2, 3], "s": ["x", "x"]}
