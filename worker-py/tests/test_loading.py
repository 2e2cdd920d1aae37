"""Finding user code: files, modules, pickles; reloading; and everything that can be wrong with it."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillion._runtime import ALLOW_PICKLED_FUNCTIONS, Runtime

Write = Callable[..., dict[str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a file and refers to a name in it."""
    before = list(sys.path)

    def write(source: str, name: str = "f", file: str = "functions.py") -> dict[str, str]:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return {"file": str(path), "name": name}

    yield write
    sys.path[:] = before


def frames(record: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    return [(os.path.basename(f["file"]), f["line"], f["function"], f["source"]) for f in record["exception"]["frames"]]


def test_file(harness: Any, write: Write) -> None:
    function = write("def f(a: int) -> int:\n    return a + 1\n")
    assert harness.describe(function)["name"] == "functions.py:f"
    assert harness.scalar(function, ("bigint", [1])).to_pylist() == [2]


def test_an_edited_file_is_loaded_anew(harness: Any, write: Write) -> None:
    function = write("def f(a: int) -> int:\n    return a + 1\n")
    stamp = os.stat(function["file"])
    assert harness.scalar(function, ("bigint", [1])).to_pylist() == [2]
    write("def f(a: int) -> int:\n    return a + 2\n")
    os.utime(function["file"], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the same size and time: only content tells
    assert harness.scalar(function, ("bigint", [1])).to_pylist() == [3]


def test_files_of_one_name_in_two_folders(harness: Any, write: Write) -> None:
    one = write("def f(a: int) -> int:\n    return 1\n", file="a/functions.py")
    two = write("def f(a: int) -> int:\n    return 2\n", file="b/functions.py")
    assert harness.scalar(one, ("bigint", [0])).to_pylist() == [1]
    assert harness.scalar(two, ("bigint", [0])).to_pylist() == [2]


def test_a_file_finds_its_neighbours_and_itself(harness: Any, write: Write) -> None:
    write("OFFSET = 40\n", file="neighbour_of_functions.py")
    function = write(
        """
        from __future__ import annotations
        import dataclasses, sys
        import neighbour_of_functions

        @dataclasses.dataclass
        class Pair:
            a: int

        def f(a: int) -> int:
            assert sys.modules[__name__].Pair is Pair
            assert __name__ != "__main__"
            from neighbour_of_functions import OFFSET
            return Pair(a).a + OFFSET
        """
    )
    assert harness.scalar(function, ("bigint", [2])).to_pylist() == [42]


def test_names_reach_into_classes(harness: Any, write: Write) -> None:
    function = write(
        "class Tools:\n    @staticmethod\n    def double(a: int) -> int:\n        return 2 * a\n", "Tools.double"
    )
    assert harness.scalar(function, ("bigint", [2])).to_pylist() == [4]


def test_open_and_close_run_once_per_worker(harness: Any, write: Write, tmp_path: Path) -> None:
    function = write(
        f"""
        from pillion import ScalarFunction, udf

        class Model(ScalarFunction):
            def open(self, context):
                self.note("open " + context.function_name)

            def close(self):
                self.note("close")

            def eval(self, a):
                return a

            def note(self, text):
                with open({str(tmp_path / "notes")!r}, "a") as notes:
                    notes.write(text + "\\n")

        f = udf(Model, result_type="bigint")
        """
    )
    harness.describe(function)
    assert not (tmp_path / "notes").exists()
    for _ in range(3):
        harness.scalar(function, ("bigint", [1]))
    harness.runtime.close()
    harness.runtime.close()
    assert (tmp_path / "notes").read_text().splitlines() == ["open functions.py:f", "close"]


def test_open_that_raises_is_tried_again(harness: Any, write: Write, tmp_path: Path) -> None:
    function = write(
        f"""
        from pillion import ScalarFunction, udf

        class Model(ScalarFunction):
            def open(self, context):
                self.model = open({str(tmp_path / "model")!r}).read()

            def eval(self, a: int) -> str:
                return self.model

        f = udf(Model)
        """
    )
    record = harness.error(harness.scalar, function, ("bigint", [1]))
    assert record["code"] == "open_failed"
    assert record["message"].startswith("`open` of `functions.py:f` raised FileNotFoundError")
    assert record["exception"]["type"] == "FileNotFoundError"
    assert frames(record)[-1][2] == "open"
    (tmp_path / "model").write_text("weights")
    assert harness.scalar(function, ("bigint", [1])).to_pylist() == ["weights"]


def test_close_that_raises_is_logged(harness: Any, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    function = write(
        """
        from pillion import ScalarFunction
        class Model(ScalarFunction):
            def close(self):
                raise RuntimeError("stuck")
            def eval(self, a: int) -> int:
                return a
        """,
        "Model",
    )
    harness.scalar(function, ("bigint", [1]))
    harness.runtime.close()
    assert "`close` of `functions.py:Model` raised" in caplog.text


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        (
            {"file": "/no/such/file.py", "name": "f"},
            "module_not_found",
            "`/no/such/file.py` cannot be read: No such file",
        ),
        ({"file": "/", "name": "f"}, "module_not_found", "Is a directory"),
        ({"module": "no_such_module", "name": "f"}, "module_not_found", "there is no module `no_such_module`"),
        ({"module": "json.no_such", "name": "f"}, "module_not_found", "there is no module `json.no_such`"),
        ({"module": "json", "name": "dumpz"}, "function_not_found", "has no `dumpz`"),
        ({"module": "json", "name": "JSONEncoder"}, "not_a_function", "the class `JSONEncoder`"),
        ({"module": "json", "name": "__name__"}, "not_a_function", "a value of type `str`"),
        ({"module": "json", "name": "decoder"}, "not_a_function", "a value of type `module`"),
    ],
)
def test_not_there(harness: Any, function: dict[str, str], code: str, says: str) -> None:
    record = harness.error(harness.describe, function)
    assert record["code"] == code
    assert says in record["message"]
    assert record["hint"]
    assert record["exception"] is None


def test_a_name_that_is_nearly_right(harness: Any, write: Write) -> None:
    function = write("def interpolate(a: int) -> int:\n    return a\n", "interplate")
    record = harness.error(harness.describe, function)
    assert (record["code"], record["hint"]) == ("function_not_found", "did you mean `interpolate`?")
    record = harness.error(harness.describe, {**function, "name": "other"})
    assert record["hint"] == "it has: interpolate"


def test_syntax_error(harness: Any, write: Write) -> None:
    function = write("import os\n\ndef f(a):\n    return a +* 1\n")
    record = harness.error(harness.describe, function)
    assert record["code"] == "import_failed"
    assert record["exception"]["type"] == "SyntaxError"
    assert record["exception"]["message"] == "invalid syntax"
    assert frames(record) == [("functions.py", 4, "<module>", "return a +* 1")]
    assert record["exception"]["caret"].index("^") == "return a +* 1".index("*")


def test_import_error_shows_its_own_traceback(harness: Any, write: Write) -> None:
    function = write("def helper():\n    return 1 / 0\n\nX = helper()\n")
    record = harness.error(harness.describe, function)
    assert record["code"] == "import_failed"
    assert "raised ZeroDivisionError: division by zero" in record["message"]
    assert frames(record) == [
        ("functions.py", 4, "<module>", "X = helper()"),
        ("functions.py", 2, "helper", "return 1 / 0"),
    ]


def test_a_package_that_is_missing(harness: Any, write: Write) -> None:
    record = harness.error(harness.describe, write("import no_such_package.part\n"))
    assert record["code"] == "import_failed"
    assert record["exception"]["type"] == "ModuleNotFoundError"
    assert record["hint"] == "is `no_such_package` among the requirements of the environment?"
    write("import no_such_package\n", file="broken_module.py")
    write("", file="ignored.py")
    harness.error(harness.describe, write("import broken_module\n"))
    record = harness.error(harness.describe, {"module": "broken_module", "name": "f"})
    assert (record["code"], record["exception"]["type"]) == ("import_failed", "ModuleNotFoundError")


@pytest.mark.parametrize("statement", ["import sys; sys.exit(3)", "raise KeyboardInterrupt", "raise SystemExit"])
def test_leaving_at_import(harness: Any, write: Write, statement: str) -> None:
    record = harness.error(harness.describe, write(statement + "\n"))
    assert record["code"] == "import_failed"
    assert record["exception"]["type"] in ("SystemExit", "KeyboardInterrupt")


def test_a_failed_import_leaves_nothing_behind(harness: Any, write: Write) -> None:
    modules = set(sys.modules)
    harness.error(harness.describe, write("raise ValueError('no')\n"))
    assert {name for name in set(sys.modules) - modules if "__pillion_" in name} == set()


def test_a_wrong_declaration_shows_its_line(harness: Any, write: Write) -> None:
    function = write("from pillion import udf\n\n@udf(result_type='bigin')\ndef f(a):\n    return a\n")
    record = harness.error(harness.describe, function)
    assert record["code"] == "declaration_invalid"
    assert record["function"] == "functions.py:f"
    line = 3 if sys.version_info >= (3, 11) else 4  # where older versions locate the call of a decorator
    assert frames(record)[0][:3] == ("functions.py", line, "<module>")


def test_a_class_that_cannot_be_made(harness: Any, write: Write) -> None:
    source = "from pillion import ScalarFunction\nclass Model(ScalarFunction):\n    def __init__(self, path): pass\n"
    record = harness.error(harness.describe, write(source, "Model"))
    assert record["code"] == "function_raised"
    assert record["exception"]["type"] == "TypeError"
    assert "instantiated without arguments" in record["hint"]


def test_source_is_that_of_the_loaded_file(harness: Any, write: Write) -> None:
    function = write("def f(a: int) -> int:\n    return a / 0  # first\n")
    harness.describe(function)
    prepared = harness.runtime.prepare(
        {
            "calls": [{"function": function, "arguments": [("column", 0)]}],
            "outputs": [("x", ("call", 0))],
            "input": [("a", _bigint())],
        }
    )
    Path(function["file"]).write_text("# replaced\n# while it runs\n")
    record = harness.error(prepared.call, _batch())
    assert frames(record) == [("functions.py", 2, "f", "return a / 0  # first")]


def test_pickles(harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"pickled": pickle.dumps(len), "result_type": "int"}
    record = harness.error(harness.describe, data)
    assert record["code"] == "pickle_refused"
    allowed = Runtime(allow_pickled_functions=True)
    assert allowed.describe(data)["result_type"] == "int"
    broken = {"pickled": b"not a pickle"}
    with pytest.raises(Exception, match="cannot be loaded") as caught:
        allowed.describe(broken)
    assert allowed.error_record(caught.value)["code"] == "import_failed"
    monkeypatch.setenv(ALLOW_PICKLED_FUNCTIONS, "1")
    assert Runtime().describe(data)["kind"] == "scalar"


def _bigint() -> Any:
    from pillion._native import Type

    return Type.parse("bigint")


def _batch() -> Any:
    from pillion._native import Batch, Column

    return Batch.from_columns([Column.from_pylist([1], _bigint(), "a")], ["a"], 1)


def test_loaders_that_share_an_interpreter_share_no_functions(write: Write, tmp_path: Path) -> None:
    from pillion.loading import Loader

    source = """
        from pillion import ScalarFunction, udf

        class Count(ScalarFunction):
            def open(self, context):
                self.opened = getattr(self, "opened", 0) + 1

            def eval(self, a):
                return self.opened

        f = udf(Count(), result_type="bigint")
        """
    file = write(source, file="shared_count.py")
    module = {"module": "shared_count", "name": "f"}
    sys.path.insert(0, str(tmp_path))
    modules = set(sys.modules)
    loaders = [Loader(allow_pickled_functions=False, worker=worker) for worker in ("w-1", "w-2")]
    for function in (file, module):
        one, two = (loader.load(function) for loader in loaders)
        assert one.udf is not two.udf and one.udf.target is not two.udf.target
        for loaded in (one, two):
            loaded.open()
            assert loaded.udf(0) == 1
        one.close()
        assert two.udf(0) == 1, "closing one must leave the other open"
    for loader in loaders:
        loader.close()
    assert set(sys.modules) - modules <= {"shared_count"}, "modules of one worker go with it"
