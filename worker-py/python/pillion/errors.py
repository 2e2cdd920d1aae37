"""Errors as data: a stable code, one sentence for a person, a hint, the internal detail apart, and the user's
exception.
"""

from __future__ import annotations

import linecache
import os
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

# What the protocol allows (`proto/pillion/v1/error.proto`).
_MAX_MESSAGE = 16 * 1024
_MAX_SOURCE = 512
_MAX_REPR = 256
_MAX_FRAMES = 64
_MAX_CAUSES = 8

# Codes of what user code raised: the cause is the user's exception.
_RAISED = ("function_raised", "open_failed", "import_failed")
# Found while the user's module is imported: the line of the declaration is worth showing.
_DECLARATION = ("declaration_invalid", "not_a_function")
# Found while user code uses state and timers: so is the line that does.
_IN_CALL = ("state_undeclared", "state_without_key", "state_type", "state_read_only", "timer_out_of_range")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_FILE_MODULE = re.compile(r"^(.+)__pillion_[0-9a-f]{12}$")


class PillionError(Exception):
    """Something that the author of a function, or of a plan, can act on.

    `code` is a slug of the catalogue (`docs/errors.md`). If user code raised, its exception is the `__cause__`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        detail: str = "",
        function: str = "",
        row: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail
        self.function = function
        self.row = row

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def failed_row(index: int, names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """The `row` of an error record: a 0-based index in the batch, and the values as cut `repr`s."""
    return {"index": index, "values": [(name, safe_repr(value)) for name, value in zip(names, values)]}


def raised(function: str, exc: BaseException, *, row: dict[str, Any] | None = None) -> PillionError:
    """The error for an exception that the user's code raised in a call; to be raised from `exc`."""
    message = f"`{function}` raised {summary(exc)}"
    if row is not None:
        message += f" in row {row['index']}"
    hint = ""
    if isinstance(exc, ValueError) and "read-only" in safe_str(exc):
        hint = "columns are read-only; copy what you change in place, for example `values = values.copy()`"
    return PillionError("function_raised", message, hint=hint, function=function, row=row)


def of_row(exc: BaseException) -> bool:
    """Whether an exception that a call for one row raised is a failure of that row: of the function's own code, and not
    of what lies beneath it.
    """
    if isinstance(exc, PillionError):
        # With a cause it is not about what the row did: for example, a stored value cannot be unpickled.
        return exc.__cause__ is None and exc.code in (*_IN_CALL, "result_type", "metric_invalid")
    return isinstance(exc, Exception)


def error_record(exc: BaseException) -> dict[str, Any]:
    """`exc` as the plain data that travels to the host. Never raises for a broken exception."""
    exception = None
    if isinstance(exc, PillionError):
        user, detail = exc.__cause__, exc.detail
        if user is not None and exc.code in _RAISED:
            exception = _exception_record(user, exc.row, 0)
        elif user is not None:
            detail = detail or summary(user)
        elif exc.code in (*_DECLARATION, *_IN_CALL) and _user_frames(exc.__traceback__):
            exception = _exception_record(exc, exc.row, 0)
        code, message, hint, function = exc.code, exc.message, exc.hint, exc.function
    else:
        code, message, hint, function = "invariant_broken", f"the worker runtime raised {summary(exc)}", "", ""
        if isinstance(exc, MemoryError):
            code, message, hint = "memory_exceeded", "the worker ran out of memory", "send smaller batches"
        detail = _trace(exc)
    texts = {"code": code, "message": message, "hint": hint, "detail": detail, "function": function}
    return {**{key: _cut(text, _MAX_MESSAGE) for key, text in texts.items()}, "exception": exception}


def summary(exc: BaseException) -> str:
    """`TypeName: first line of its message`."""
    first = safe_str(exc).strip().partition("\n")[0]
    return _cut(f"{type_name(exc)}: {first}" if first else type_name(exc), 1024)


def type_name(exc: BaseException) -> str:
    """`ValueError`, or `module.Name` for what is not built in."""
    cls = type(exc)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{display_module(cls.__module__)}.{cls.__qualname__}"


def type_and_message(exc: BaseException) -> tuple[str, str]:
    """Of an error row: the type's name and the whole message, as far as the protocol takes it."""
    message = exc.message if isinstance(exc, PillionError) else safe_str(exc)
    return type_name(exc), _cut(message, _MAX_MESSAGE)


def display_module(name: str) -> str:
    """The name of a module as its author knows it: that of a loaded file without the part that makes it unique."""
    matched = _FILE_MODULE.match(name)
    return matched[1] if matched else name


def safe_str(exc: BaseException) -> str:
    """`str(exc)`, for user classes whose `__str__` may itself fail."""
    return _guarded(str, exc)


def safe_repr(value: object) -> str:
    """`repr(value)` cut at 256 characters, for user classes whose `__repr__` may itself fail."""
    return _cut(_guarded(repr, value), _MAX_REPR)


def _guarded(function: Callable[[Any], str], value: object) -> str:
    try:
        # `str.__str__` on a subclass may run user code again later: a plain `str` cannot.
        return "".join(function(value))
    except BaseException as exc:  # noqa: BLE001 - a broken `__str__` may raise anything
        return f"<{type(value).__name__} whose {function.__name__}() raised {type(exc).__name__}>"


def _cut(text: str, limit: int) -> str:
    # Lone surrogates cannot travel as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _exception_record(exc: BaseException, row: dict[str, Any] | None, depth: int) -> dict[str, Any]:
    frames = [_frame(*frame) for frame in _shorten(_user_frames(exc.__traceback__))]
    caret = ""
    message = safe_str(exc)
    if isinstance(exc, SyntaxError) and isinstance(exc.lineno, int):
        frame, caret = _syntax_frame(exc)
        frames = [*frames[: _MAX_FRAMES - 1], frame]
        message = exc.msg if isinstance(exc.msg, str) else message
    notes = getattr(exc, "__notes__", None)
    if isinstance(notes, list):
        message = "\n".join([message, *(_guarded(str, note) for note in notes)])
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    while isinstance(cause, PillionError):  # the runtime's own wrapping is no news for the user
        cause = cause.__cause__
    return {
        "type": type_name(exc),
        "message": _cut(message, _MAX_MESSAGE >> depth),
        "frames": frames,
        "row": row,
        "cause": _exception_record(cause, None, depth + 1) if cause is not None and depth < _MAX_CAUSES else None,
        "caret": caret,
    }


def _user_frames(tb: TracebackType | None) -> list[tuple[str, int, str]]:
    """File, line and function of the user's frames, outermost first: below the runtime's first one, and none of its
    own.
    """
    frames: list[tuple[str, int, str]] = []
    in_runtime = False
    while tb is not None:
        code = tb.tb_frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            if not in_runtime:
                frames.clear()  # what called the runtime (a test, a shell) is no frame of the function
            in_runtime = True
        elif not code.co_filename.startswith("<frozen importlib"):
            frames.append((code.co_filename, tb.tb_lineno or 0, code.co_name))
        tb = tb.tb_next
    return frames


def _shorten(frames: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """At most 64: where a runaway recursion began and where it ended, not what lies between."""
    if len(frames) <= _MAX_FRAMES:
        return frames
    half = _MAX_FRAMES // 2
    return frames[:half] + frames[-half:]


def _frame(file: str, line: int, function: str) -> dict[str, Any]:
    linecache.checkcache(file)
    source = linecache.getline(file, line).strip()
    return {"file": file, "line": line, "function": function, "source": _cut(source, _MAX_SOURCE)}


def _syntax_frame(exc: SyntaxError) -> tuple[dict[str, Any], str]:
    text = exc.text or linecache.getline(exc.filename or "", exc.lineno or 0)
    source = text.rstrip().lstrip(" \n\f\t")
    frame = {
        "file": exc.filename or "<unknown>",
        "line": exc.lineno or 0,
        "function": "<module>",
        "source": _cut(source, _MAX_SOURCE),
    }
    if not source or not exc.offset:
        return frame, ""
    # `offset` counts from 1 in the unstripped line; `end_offset` is its own line's.
    start = max(exc.offset - 1 - (len(text.rstrip()) - len(source)), 0)
    end = exc.end_offset or 0
    width = end - exc.offset if exc.end_lineno in (None, exc.lineno) and end > exc.offset else 1
    return frame, _cut(" " * start + "^" * width, _MAX_SOURCE)


def _trace(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception as failure:  # noqa: BLE001 - reporting an error must not raise another
        return f"{summary(exc)} (no traceback: {type(failure).__name__})"
