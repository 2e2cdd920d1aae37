"""The fork server on its own: a test plays the engine at the other end of its socket."""

from __future__ import annotations

import array
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pillion import _process, fork_server

ENTRY = """
import os, signal

def serve(settings):
    os.write(1, settings["id"].encode())
    if settings["token"] == "wait":
        signal.pause()
    return int(settings["token"])
"""


class Engine:
    """The engine's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self.connection = connection

    def send(self, message: dict[str, Any], *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.connection.sendmsg([json.dumps(message).encode()], rights)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self.connection, fork_server.MESSAGE_LIMIT, 4)
        return json.loads(data or b"null"), descriptors

    def fork(self, worker: str, token: str) -> tuple[dict[str, Any], list[int], int]:
        """Ask for a worker: the answer, its descriptors, and the reading end of the worker's stdout."""
        stdout, stdout_writer = os.pipe()
        self.send(
            {"op": "fork", "request": 7, "id": worker, "environment": "e", "endpoint": "", "token": token},
            stdout_writer,
            2,
        )
        os.close(stdout_writer)
        return *self.receive(), stdout


@contextmanager
def running(folder: Path, *preload: str) -> Iterator[tuple[Engine, subprocess.Popen[bytes], dict[str, Any]]]:
    """A fork server in `folder`, its process, and its answer to the configuration."""
    (folder / "entry_of_test.py").write_text(ENTRY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    package = Path(fork_server.__file__).parent.parent
    command = [sys.executable, "-m", "pillion.fork_server", "--environment", "e"]
    with subprocess.Popen(command, stdin=theirs, cwd=package) as process, ours, theirs:
        theirs.close()
        engine = Engine(ours)
        configuration = {"paths": [str(folder)], "cwd": str(folder), "preload": preload, "entry": "entry_of_test:serve"}
        engine.send({"op": "configure", **configuration})
        answer, _ = engine.receive()
        yield engine, process, answer
        ours.close()
        process.wait(30)


def test_forks_a_worker_and_reports_its_end(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, answer):
        assert answer == {"event": "ready"}
        forked, (pidfd,), stdout = engine.fork("w-1", "3")
        assert (forked["event"], forked["request"]) == ("forked", 7)
        assert select.select([pidfd], [], [], 30)[0] == [pidfd], "the pidfd names the worker"
        assert os.read(stdout, 100) == b"w-1"
        exited, _ = engine.receive()
        assert (exited["event"], exited["pid"]) == ("exited", forked["pid"])
        assert os.waitstatus_to_exitcode(exited["status"]) == 3
        assert exited["max_resident_bytes"] > 1 << 20


def test_a_killed_worker_is_reported_with_its_signal(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        _, (pidfd,), stdout = engine.fork("w-1", "wait")
        assert os.read(stdout, 100) == b"w-1"
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        exited, _ = engine.receive()
        assert os.waitstatus_to_exitcode(exited["status"]) == -signal.SIGTERM


def test_workers_live_on_when_it_ends(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, process, _):
        _, (pidfd,), stdout = engine.fork("w-1", "wait")
        assert os.read(stdout, 100) == b"w-1"
        engine.connection.close()
        assert process.wait(30) == 0
        assert select.select([pidfd], [], [], 0)[0] == []
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def test_a_preload_that_raises_is_reported_with_its_own_frames(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    with running(tmp_path, "broken") as (_, process, answer):
        assert (answer["event"], answer["message"]) == ("failed", "RuntimeError: two\nlines")
        assert "broken.py" in answer["traceback"] and "importlib" not in answer["traceback"]
        assert process.wait(30) == 1


def test_a_preload_that_exits_is_reported_too(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("raise SystemExit(5)\n")
    with running(tmp_path, "leaving") as (_, _, answer):
        assert (answer["event"], answer["message"]) == ("failed", "SystemExit: 5")


def test_refuses_to_fork_with_a_thread(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with running(tmp_path, "threaded") as (engine, _, answer):
        assert answer == {"event": "ready"}
        refused, descriptors, _ = engine.fork("w-1", "0")
        assert (refused["event"], refused["request"], descriptors) == ("refused", 7, [])
        assert len(refused["threads"]) == 1


def test_unsafe_threads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fork_server.unsafe_threads()
    stop, started = threading.Event(), threading.Event()

    def run() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("some_thread")
        started.set()
        stop.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        assert sorted([*before, "some_thread"]) == fork_server.unsafe_threads()
        monkeypatch.setattr(fork_server, "SAFE_THREADS", frozenset({"some_thread"}))
        assert "some_thread" not in fork_server.unsafe_threads()
    finally:
        stop.set()
        thread.join()


def test_reseed_changes_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[None] = []
    numpy_random = types.SimpleNamespace(seed=lambda: seeds.append(None))
    monkeypatch.setitem(sys.modules, "numpy.random", numpy_random)  # type: ignore[arg-type]
    random.seed(1)
    first = random.random()
    random.seed(1)
    fork_server.reseed()
    assert random.random() != first
    assert seeds == [None]


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit(256 + 4), 4, ""),
        (SystemExit("why"), 1, "why\n"),
        (KeyboardInterrupt(), 1, "KeyboardInterrupt\n"),
        (ValueError("x"), 1, "ValueError: x\n"),
    ],
)
def test_exit_statuses_are_the_interpreters(
    error: BaseException, status: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _process.report_exit(error) == status
    assert capsys.readouterr().err == printed


def test_leaving_runs_exit_handlers_and_flushes() -> None:
    program = """
import atexit, sys, threading
from pillion._process import leave
threading.Thread(target=threading.Event().wait).start()
atexit.register(print, "handler")
atexit.register(lambda: 1 / 0)
sys.stdout.write("text ")
leave(9)
"""
    package = Path(fork_server.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=package, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (9, "text handler\n")
    assert "ZeroDivisionError" in done.stderr
