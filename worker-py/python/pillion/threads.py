"""Thread mode: what the engine calls once it has loaded this interpreter into its own process.

`start` sets the interpreter up and returns the table of C functions; the other functions are called by that table.
"""

from __future__ import annotations

import atexit
import faulthandler
import importlib
import itertools
import json
import os
import sys
import tempfile
import traceback
import weakref
from typing import Any

from pillion import _native, logs
from pillion._process import flush_streams, prepare_streams
from pillion._runtime import Runtime


class Abandoned(BaseException):
    """Raised in a function whose session is gone, so that its thread comes free."""


_numbers = itertools.count(1)
"""Of runtimes: several engines of one process may call their workers alike."""


def start(settings: str) -> object:
    """Set the interpreter up, and return the table in a capsule; the text of the traceback if that fails.

    `settings` is JSON: ``paths`` for `sys.path`, ``variables`` for the environment, ``preload``, and ``joined``, true
    if the interpreter is the host's own, whose streams and logging stay as they are.
    """
    try:
        return _start(json.loads(settings))
    except BaseException:  # noqa: BLE001 - a preload may raise anything, SystemExit too
        return traceback.format_exc()


def _start(settings: dict[str, Any]) -> object:
    os.environ.update(settings["variables"])
    # The package's folder, which holds nothing else, is the first.
    sys.path[1:1] = [path for path in settings["paths"] if path not in sys.path]
    if not settings["joined"]:
        prepare_streams()
        logs.install()
    for preload in settings["preload"]:
        importlib.import_module(preload)
    return _native.table()


def runtime(worker: str) -> Runtime:
    """Return the runtime of a worker, which has functions of its own. Pickles are the engine's to refuse."""
    return Runtime(allow_pickled_functions=True, worker=f"{worker}-{next(_numbers)}")


def environment() -> dict[str, Any]:
    """Return the interpreter and the versions of the packages that conversions use."""
    return Runtime().environment()


def stacks() -> str:
    """Return the stacks of all threads, as `faulthandler` writes them."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def leave() -> None:
    """Run the exit handlers and flush: the process is about to end, or at least nobody uses this interpreter."""
    atexit._run_exitfuncs()
    # They believe that the process ends, and would do nothing for an engine that comes later.
    weakref.finalize._shutdown = False  # type: ignore[attr-defined]
    flush_streams()
