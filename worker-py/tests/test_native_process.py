"""What the extension does to the process it is in."""

import subprocess
import sys
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parent.parent / "python")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    prefix = f"import sys; sys.path.insert(0, {PACKAGE!r})\n"
    return subprocess.run(
        [sys.executable, "-c", prefix + code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_title_replaces_the_command_line() -> None:
    code = """
from pillion._native import set_process_title
set_process_title("python -m pillion.worker --id w1")
print(open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").decode())
"""
    assert python(code, "x" * 100).stdout.strip() == "python -m pillion.worker --id w1"


def test_title_is_cut_to_fit_and_the_environment_stays() -> None:
    code = """
import os
from pillion._native import set_process_title
size = len(open("/proc/self/cmdline", "rb").read())
before = open("/proc/self/environ", "rb").read()
set_process_title("y" * 100_000)
assert open("/proc/self/cmdline", "rb").read() == b"y" * (size - 1) + b"\\0"
assert open("/proc/self/environ", "rb").read() == before
print("same")
"""
    done = python(code)
    assert done.stdout.strip() == "same", done.stderr


def test_import_starts_no_thread() -> None:
    code = """
import os, pillion._native as native
native.log(0, 40, "logger", "message before run", "file", 1)
print(len(os.listdir("/proc/self/task")))
"""
    done = python(code)
    assert done.stdout.strip() == "1", done.stderr


RUN = """
from pillion._native import run
class Runtime:
    def environment(self): return {"python_version": "3", "executable": "", "packages": {}}
    def close(self): print("closed")
sys.exit(run(endpoint=ENDPOINT, worker_id="w", token="t", runtime=Runtime(), stacks_fd=None, stacks_signal=10))
"""


def test_without_a_sidecar_it_says_so_and_fails() -> None:
    for endpoint, reason in {
        "unix:/nonexistent/sidecar.sock": "No such file",
        "http://127.0.0.1:1": "refused",
        "smoke:signals": "neither `unix:/path` nor `http://host:port`",
    }.items():
        done = python(RUN.replace("ENDPOINT", repr(endpoint)))
        assert done.returncode == 1
        assert done.stdout == "closed\n"
        assert f"no connection to the sidecar at `{endpoint}`" in done.stderr
        assert reason in done.stderr


def test_a_worker_gets_no_new_privileges() -> None:
    show = """
    def close(self): print([line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
sys.exit("""
    done = python(RUN.replace("ENDPOINT", repr("unix:/nonexistent/sidecar.sock")).replace("\nsys.exit(", show))
    assert done.stdout == "['NoNewPrivs:\\t1\\n']\n", done.stderr
