"""Python `logging` to the sidecar, which attributes the records to the worker and its function."""

from __future__ import annotations

import logging

from pillion import _native
from pillion.errors import display_module

_MAX_MESSAGE = 16 * 1024


class PillionHandler(logging.Handler):
    """Hands each record to the worker's log stream.

    Never blocks and never raises: the stream's queue is bounded, and drops and counts when it is full; a record that
    cannot be formatted is reported as such.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record: message, exception and stack, cut at 16 KiB."""
        try:
            message = self._text(record)
            name = display_module(record.name)
            _native.log(int(record.created * 1e9), record.levelno, name, message, record.pathname, record.lineno)
        except Exception:  # noqa: BLE001
            # There is nobody left to tell; a log statement must not fail the function that makes it.
            pass

    def _text(self, record: logging.LogRecord) -> str:
        try:
            message = self.format(record)
        except Exception as exc:  # noqa: BLE001 - the arguments' own `__str__` may raise anything
            message = f"a log record could not be formatted ({type(exc).__name__}): {record.msg!r}"
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def install(level: int = logging.INFO) -> PillionHandler:
    """Add the handler to the root logger, once, and return it.

    The root level becomes `level` unless user code (a preload) has chosen one already; levels of other loggers are
    respected as ever.
    """
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, PillionHandler):
            return handler
    handler = PillionHandler()
    root.addHandler(handler)
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(level)
    return handler
