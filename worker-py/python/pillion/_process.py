"""Beginnings and ends of the processes that `pillion.fork_server` and `pillion.worker` run in."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from typing import NoReturn


def replace_standard_input() -> None:
    """Make /dev/null standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def close_inherited() -> None:
    """Close the descriptors that the engine's host let its children inherit, the standard ones aside.

    What this interpreter has opened itself is not inheritable (PEP 446), and stays open.
    """
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if descriptor > 2 and os.get_inheritable(descriptor):
                os.close(descriptor)
        except OSError:
            pass  # the one that `listdir` itself used


def prepare_streams() -> None:
    """Make what is printed arrive line by line, and never fail for its characters."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def report_exit(error: BaseException) -> int:
    """Return the exit status that `error` asks for, and print it as the interpreter would at its end."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    traceback.print_exception(type(error), error, error.__traceback__)
    return 1


def leave(status: int) -> NoReturn:
    """End this process: exit handlers run and output is flushed, but threads are not waited for."""
    try:
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - an exit handler may raise anything; the interpreter only prints it, too
        traceback.print_exc()
    flush_streams()
    os._exit(status)


def flush_streams() -> None:
    """Write out what was printed, as far as that is possible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
