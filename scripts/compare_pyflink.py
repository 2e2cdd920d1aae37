"""Runs the stateful examples of PyFlink as they are, and again with nothing changed but their imports, and compares.

    python3 scripts/compare_pyflink.py [--pyflink target/peers/pyflink/bin/python] [--ours PYTHON]

`make bench-peers` makes the environment with `apache-flink`; it needs a JVM. Results are compared without their order, which in Flink
depends on how keys meet subtasks; numbers with the precision of their type: PyFlink's 32-bit state keeps 64 bits while it is cached.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = (
    "state_access.py",
    "event_time_timer.py",
    "windowing/session_with_dynamic_gap_window.py",
    "windowing/session_with_gap_window.py",
    "windowing/sliding_time_window.py",
    "windowing/tumbling_count_window.py",
    "windowing/tumbling_time_window.py",
)
TOKEN = re.compile(r"[^\s(),'\[\]]+")


def run(python: str, script: Path, **variables: str) -> list[list[str]]:
    """The rows that a script prints, as lists of values."""
    done = subprocess.run([python, str(script)], capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    if done.returncode:
        sys.exit(f"{script.name} failed:\n{done.stdout}{done.stderr}")
    lines = [re.sub(r"^\d+> ", "", line) for line in done.stdout.splitlines()]
    return [TOKEN.findall(line) for line in lines if line.startswith(("(", "+I["))]


def same(one: str, other: str) -> bool:
    """Whether two values are equal, as far as 32-bit numbers tell."""
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-6)
    except ValueError:
        return False


def matches(ours: list[list[str]], theirs: list[list[str]]) -> bool:
    """Whether each row has one like it on the other side."""
    rest = list(theirs)
    for row in ours:
        found = next((one for one in rest if len(one) == len(row) and all(map(same, row, one))), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest


def main() -> int:
    """Run and compare all examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyflink", default=str(ROOT / "target/peers/pyflink/bin/python"), help="the Python that has apache-flink")
    parser.add_argument("--ours", default=sys.executable, help="the Python that runs our side")
    options = parser.parse_args()
    where = "import pyflink.examples.datastream as d; print(list(d.__path__)[0])"
    located = subprocess.run([options.pyflink, "-c", where], capture_output=True, text=True, check=False)
    if located.returncode:
        sys.exit(f"{options.pyflink} has no apache-flink; `make bench-peers` makes an environment that has it")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in EXAMPLES:
            source = Path(located.stdout.strip()) / name
            changed = Path(folder) / source.name
            changed.write_text(re.sub(r"^from pyflink\.", "from pillion.pyflink.", source.read_text(), flags=re.MULTILINE))
            ours = run(options.ours, changed, PYTHONPATH=str(ROOT / "worker-py" / "python"))
            # Flink starts its workers by the name `python`.
            path = f"{Path(options.pyflink).parent}{os.pathsep}{os.environ['PATH']}"
            theirs = run(options.pyflink, source, PATH=path)
            equal = bool(ours) and matches(ours, theirs)
            failed += not equal
            print(f"{name:45} {len(ours):3} rows  {'the same' if equal else 'DIFFERENT'}", flush=True)
            if not equal:
                print(f"  ours:   {ours}\n  theirs: {theirs}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
