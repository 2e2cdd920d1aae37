"""The fork server: imports the declared preloads once, then forks a worker whenever the engine asks for one.

It is the engine's direct child and is started as ``python -m pillion.fork_server --environment ID PADDING``. Its
standard input is a SOCK_SEQPACKET socket to the engine. A message is one JSON object of at most `MESSAGE_LIMIT` bytes;
file descriptors travel beside it (SCM_RIGHTS).

Engine to fork server:

- ``{"op": "configure", "cwd", "paths", "preload", "entry"}``: once, first.
- ``{"op": "fork", "request", "id", "endpoint", "token", "environment"}`` with two descriptors, the worker's stdout and
  stderr.

Fork server to engine:

- ``{"event": "ready"}`` or ``{"event": "failed", "message", "traceback"}``: the answer to ``configure``. After
  ``failed`` the fork server exits.
- ``{"event": "forked", "request", "pid"}`` with the worker's pidfd, ``{"event": "refused", "request", "threads"}`` when
  forking would not be safe, or ``{"event": "fork_failed", "request", "message"}``: the answer to ``fork``.
- ``{"event": "exited", "pid", "status", "user_seconds", "system_seconds", "max_resident_bytes"}``: a worker has ended,
  its process group was killed, and it is reaped. ``status`` is the wait status.

The fork server ends when the socket does. Its workers live on: they belong to the engine, which is a subreaper.

Rules: no module of a user is imported here, only declared preloads and the worker's own package; no thread is started;
a worker runs nothing before the engine has its pidfd, so that none can get lost.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from pillion._process import close_inherited, leave, prepare_streams, replace_standard_input, report_exit

#: The largest message either side sends, in bytes.
MESSAGE_LIMIT = 64 * 1024

#: Threads that survive a fork of their process unharmed, by name: pyarrow's jemalloc sets up its own fork handlers.
SAFE_THREADS = frozenset({"jemalloc_bg_thd"})

#: The source files between this module and one that it imports.
_IMPORT_MACHINERY = frozenset(
    {__file__, importlib.__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
)

#: What a worker runs after the fork: a function of one dictionary that returns the exit status. If its module has a
#: function `warm`, that is called once before.
Entry = Callable[[dict[str, Any]], int]


class Channel:
    """The socket to the engine."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over `connection`, a SOCK_SEQPACKET socket in blocking mode."""
        self._connection = connection

    @classmethod
    def from_standard_input(cls) -> Channel:
        """Take the socket that is standard input, and put /dev/null in its place."""
        connection = socket.socket(fileno=os.dup(0))
        replace_standard_input()
        return cls(connection)

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this process's end."""
        self._connection.close()

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send one message. Raises OSError if the engine is gone."""
        data = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._connection.sendmsg([data], rights)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for the next message and its descriptors; None when the engine is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, MESSAGE_LIMIT, 4)
        except ConnectionError:
            return None
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        return message, descriptors


class ForkServer:
    """Forks workers on request and reaps them."""

    def __init__(self, channel: Channel, entry: Entry) -> None:
        """Serve the engine behind `channel` with workers that run `entry`."""
        self._channel = channel
        self._entry = entry
        self._workers: set[int] = set()
        self._wakeup, self._wakeup_writer = socket.socketpair()

    def run(self) -> None:
        """Serve until the engine is gone."""
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake_up)
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.register(self._wakeup.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wakeup.fileno() in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._channel.fileno() in ready:
                received = self._channel.receive()
                if received is None:
                    return
                self._launch(*received)

    def _launch(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Answer a request for a worker."""
        try:
            threads = unsafe_threads()
            if threads:
                self._channel.send({"event": "refused", "request": request["request"], "threads": threads[:16]})
                return
            try:
                self._fork(request, descriptors)
            except OSError as error:
                message = f"{type(error).__name__}: {error}"
                self._channel.send({"event": "fork_failed", "request": request["request"], "message": message})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        go, go_writer = os.pipe()
        try:
            pid = _fork_quietly()
            if pid == 0:
                os.close(go_writer)
                self._become_worker(request, descriptors, go)
            self._workers.add(pid)
            pidfd = os.pidfd_open(pid)
            try:
                self._channel.send({"event": "forked", "request": request["request"], "pid": pid}, (pidfd,))
            finally:
                os.close(pidfd)
            # If this process ends before this line, the worker reads an end of file and leaves.
            os.write(go_writer, b"g")
        finally:
            os.close(go)
            os.close(go_writer)

    def _become_worker(self, request: dict[str, Any], descriptors: list[int], go: int) -> NoReturn:
        """Turn a fresh fork into a worker: wait until the engine knows it, then drop all that is the fork server's."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            if os.read(go, 1) != b"g":
                os._exit(0)
            os.close(go)
            os.setsid()
            stdout, stderr = descriptors
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            for descriptor in descriptors:
                os.close(descriptor)
            self._channel.close()
            self._wakeup.close()
            self._wakeup_writer.close()
            # Programs that the worker starts inherit it, by which the engine knows whose they were.
            os.environ["PILLION_WORKER_ID"] = request["id"]
            reset_signals()
            reseed()
            gc.enable()
            status = self._entry({**request, "forked": True})
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not unwind into the fork server's loop
            status = report_exit(error)
        finally:
            leave(status)

    def _reap(self) -> None:
        """Reap the workers that have ended, and nothing else, and report them."""
        for pid in tuple(self._workers):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                continue
            # As long as the worker is not reaped its number cannot name a stranger's group.
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            _, status, usage = os.wait4(pid, 0)
            self._workers.discard(pid)
            self._channel.send(
                {
                    "event": "exited",
                    "pid": pid,
                    "status": status,
                    "user_seconds": usage.ru_utime,
                    "system_seconds": usage.ru_stime,
                    "max_resident_bytes": usage.ru_maxrss * 1024,
                }
            )


def unsafe_threads() -> list[str]:
    """Return the names of this process's threads that a fork would break, the main thread aside."""
    main = str(os.getpid())
    names = []
    for thread in os.listdir("/proc/self/task"):
        if thread == main:
            continue
        try:
            with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
        except FileNotFoundError:
            continue  # ended in the meantime
        if name not in SAFE_THREADS:
            names.append(name)
    return sorted(names)


def reset_signals() -> None:
    """Give a forked worker the signal handling of a fresh interpreter."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def reseed() -> None:
    """Give a forked worker its own random numbers: without this all workers draw the same."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _wake_up(_signal: int, _frame: object) -> None:
    """Let the signal write to the wakeup descriptor, and do no more."""


def _fork_quietly() -> int:
    """Fork. The interpreter's warning about threads is left out: `unsafe_threads` has looked at them already."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _prepare(configuration: dict[str, Any]) -> Entry:
    """Import the worker's package and the preloads, and put all of it out of the garbage collector's reach."""
    # The working directory so far was the package's, which `-m` made the first entry of `sys.path`.
    sys.path[1:1] = configuration["paths"]
    os.chdir(configuration["cwd"])
    # The collector would touch, and so unshare, every page with an object on it.
    gc.disable()
    name, function = configuration["entry"].split(":")
    module = importlib.import_module(name)
    entry: Entry = getattr(module, function)
    for preload in configuration["preload"]:
        importlib.import_module(preload)
    if hasattr(module, "warm"):
        module.warm()
    gc.collect()
    gc.freeze()
    return entry


def _below_imports(frames: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the imported module; all of it if it does not get there."""
    below = frames
    while below is not None and below.tb_frame.f_code.co_filename in _IMPORT_MACHINERY:
        below = below.tb_next
    return below or frames


def main() -> int:
    """Run the fork server of the engine behind standard input; the exit status."""
    # Ctrl-C in a terminal is the engine's to handle.
    os.setsid()
    close_inherited()
    # Workers inherit the streams' settings.
    prepare_streams()
    channel = Channel.from_standard_input()
    received = channel.receive()
    if received is None:
        return 0
    try:
        entry = _prepare(received[0])
    except BaseException as error:  # noqa: BLE001 - a preload may raise anything, SystemExit too
        text = "".join(traceback.format_exception(type(error), error, _below_imports(error.__traceback__)))
        message = traceback.format_exception_only(type(error), error)[-1].strip()
        channel.send({"event": "failed", "message": message[:2000], "traceback": text[-16000:]})
        return 1
    try:
        channel.send({"event": "ready"})
        ForkServer(channel, entry).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the engine is gone
    return 0


if __name__ == "__main__":
    leave(main())
