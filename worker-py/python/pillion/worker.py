"""The worker process: sets itself up, then hands the one Python thread to the native main loop.

A worker is forked by `pillion.fork_server`, which calls `serve`, or started as ``python -m pillion.worker --id ID
--environment ID`` with its settings as JSON on standard input, so that the token is on no command line.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from typing import Any, NoReturn

from pillion import _native, logs
from pillion._process import close_inherited, leave, prepare_streams, replace_standard_input, report_exit
from pillion._runtime import Runtime

#: The signal on which every thread's stack is written to the stacks pipe, even while a call is stuck in C.
STACKS_SIGNAL = signal.SIGUSR2

#: Raises the chance that the kernel picks this process when memory runs out: a worker can be replaced, the engine not.
OOM_SCORE = "500"


def serve(settings: dict[str, Any]) -> int:
    """Run the worker until the engine ends it; the exit status.

    `settings` has ``id``, ``environment``, ``endpoint`` (``unix:/path``) and ``token``, all strings, and ``forked``.
    """
    if settings.get("forked"):
        arguments = f"-m pillion.worker --id {settings['id']} --environment {settings['environment']}"
        show_title(f"{sys.executable} {arguments}")
        sys.argv[:] = ["pillion.worker", *arguments.split()[2:]]
    raise_oom_score()
    stacks = install_faulthandler()
    logs.install()
    runtime = Runtime()
    return _native.run(
        endpoint=settings["endpoint"],
        worker_id=settings["id"],
        token=settings["token"],
        runtime=runtime,
        stacks_fd=stacks,
        stacks_signal=int(STACKS_SIGNAL),
    )


def warm() -> None:
    """Do once, before the fork, what all workers would do alike: package metadata is slow to read."""
    Runtime().environment()


def show_title(title: str) -> None:
    """Show `title` as this process's command line."""
    try:
        _native.set_process_title(title)
    except OSError:
        pass  # without it the worker looks like its fork server


def raise_oom_score() -> None:
    """Let the kernel prefer this process to the engine when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
    except OSError:
        pass  # a sandbox may forbid it, and it is only a preference


def install_faulthandler() -> int:
    """Write stacks to standard error on a crash, and to a pipe on `STACKS_SIGNAL`; return the pipe's reading end."""
    faulthandler.enable(file=2, all_threads=True)
    reader, writer = os.pipe()
    # A full pipe cuts the stacks short; it must not block the thread that the signal interrupted.
    os.set_blocking(writer, False)
    faulthandler.register(STACKS_SIGNAL, file=writer, all_threads=True, chain=False)
    return reader


def read_settings() -> dict[str, Any]:
    """Read the settings of a spawned worker from standard input, and put /dev/null in its place."""
    with open(0, "rb", closefd=False) as file:
        settings: dict[str, Any] = json.load(file)
    replace_standard_input()
    # The working directory so far was the package's, which `-m` made the first entry of `sys.path`.
    sys.path[1:1] = settings["paths"]
    os.chdir(settings["cwd"])
    return settings


def main() -> NoReturn:
    """Run a spawned worker."""
    os.setsid()
    close_inherited()
    prepare_streams()
    try:
        status = serve(read_settings())
    except BaseException as error:  # noqa: BLE001 - all of them end the process, with a status of their own
        status = report_exit(error)
    leave(status)


if __name__ == "__main__":
    main()
