"""Millions of rows through a few workers while those are killed or stopped; the output must be what it would be without all that.

    python scripts/chaos.py --rows 10000000 --fault kill
    python scripts/chaos.py --rows 10000000 --fault fork-server
    python scripts/chaos.py --rows 10000000 --fault stop --deadline 2s

Starts `pillion run` (target/release/pillion) on a generated file, and from then on, every `--every` seconds, does one of:

    kill         SIGKILL to a random worker (a process of this run with `pillion.worker` on its command line)
    fork-server  SIGKILL to the fork server, and to a random worker so that a new one is needed
    stop         SIGSTOP to a random worker: only a deadline can notice

Then compares the output with a reference computed right here, row by row and in order. Exits with 0 only if they are the same and at least
one fault was done. Needs nothing but CPython, on Linux.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FUNCTION = '''
"""Mixes the bits of a number: cheap, and no two rows give the same."""

from pillion import udf

MASK = (1 << 62) - 1


@udf(input_types=["bigint"], result_type="bigint")
def mix(x):
    return (x * 6364136223846793005 + 1442695040888963407) & MASK
'''


def mix(x: int) -> int:
    """The reference: what the function must give."""
    return (x * 6364136223846793005 + 1442695040888963407) & ((1 << 62) - 1)


def write_input(path: Path, rows: int) -> None:
    """Writes the numbers from 0 as CSV."""
    with path.open("w") as file:
        file.write("x\n")
        step = 100_000
        for start in range(0, rows, step):
            file.write("\n".join(map(str, range(start, min(start + step, rows)))) + "\n")


def first_difference(path: Path, rows: int) -> str | None:
    """Compares the output with the reference, in order; None if they are the same."""
    with path.open() as file:
        if file.readline() != "x,mix\n":
            return "the header differs"
        for x in range(rows):
            line, expected = file.readline(), f"{x},{mix(x)}\n"
            if line != expected:
                return f"row {x:,}: expected {expected.strip()!r}, got {line.strip()!r}"
        return "there are more rows than expected" if file.read(1) else None


def processes_below(root: int) -> dict[int, str]:
    """The command lines of all descendants of a process."""
    parents, commands = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        # The name in parentheses may hold spaces; the parent is the second field after it.
        parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
        commands[int(entry)] = command
    below = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != root:
            ancestor = parents[ancestor]
        if ancestor == root and pid != root:
            below[pid] = commands[pid]
    return below


def send(pid: int, what: signal.Signals) -> bool:
    """Sends a signal; False if the process has gone."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def do_fault(fault: str, root: int) -> str | None:
    """Does one fault to a process of the run; returns what was done, or None if there was nobody to do it to."""
    below = processes_below(root)
    workers = [pid for pid, command in below.items() if "pillion.worker" in command]
    servers = [pid for pid, command in below.items() if "pillion.fork_server" in command]
    done = []
    if fault == "fork-server":
        done += [f"fork server {pid} killed" for pid in servers if send(pid, signal.SIGKILL)]
    if workers:
        pid = random.choice(workers)
        what = signal.SIGSTOP if fault == "stop" else signal.SIGKILL
        if send(pid, what):
            done.append(f"worker {pid} {'stopped' if fault == 'stop' else 'killed'}")
    return ", ".join(done) or None


def run(arguments: argparse.Namespace, folder: Path) -> tuple[int, int, float]:
    """Runs the command with faults until it ends; returns its exit status, the number of faults and the seconds it took."""
    command = [str(arguments.pillion), "run", f"{folder}/function.py:mix", "--input", f"{folder}/in.csv", "--output", f"{folder}/out.csv"]
    command += ["--workers", str(arguments.workers), "--batch-rows", str(arguments.batch_rows), "--deadline", arguments.deadline]
    started = time.monotonic()
    process = subprocess.Popen(command)
    faults = 0
    while True:
        try:
            status = process.wait(timeout=arguments.every)
            return status, faults, time.monotonic() - started
        except subprocess.TimeoutExpired:
            done = do_fault(arguments.fault, process.pid)
            if done:
                faults += 1
                if faults <= 5 or faults % 20 == 0:
                    print(f"fault {faults}: {done}", flush=True)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows to send (default: 10 million)")
    parser.add_argument("--fault", choices=["kill", "fork-server", "stop", "none"], default="kill", help="what to do (default: kill)")
    parser.add_argument("--every", type=float, default=0.3, help="seconds between faults (default: 0.3)")
    parser.add_argument("--workers", type=int, default=2, help="most workers at once (default: 2)")
    parser.add_argument("--batch-rows", type=int, default=10_000, help="rows per batch (default: 10,000)")
    parser.add_argument("--deadline", default="2s", help="longest time for a batch (default: 2s)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the choice of workers")
    parser.add_argument("--pillion", type=Path, default=ROOT / "target/release/pillion", help="the binary")
    return parser.parse_args()


def main() -> int:
    """Runs, compares, says how it went; returns the exit status."""
    arguments = parse()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "function.py").write_text(FUNCTION)
        print(f"writing {arguments.rows:,} rows", flush=True)
        write_input(folder / "in.csv", arguments.rows)
        status, faults, seconds = run(arguments, folder)
        print(f"`pillion run` ended with {status} after {seconds:.1f} s and {faults} faults ({arguments.fault})", flush=True)
        if status:
            return 1
        difference = first_difference(folder / "out.csv", arguments.rows)
        leftovers = sorted(path.name for path in folder.iterdir() if path.name not in ("function.py", "in.csv", "out.csv", "__pycache__"))
    if difference or leftovers:
        print(f"WRONG: {difference or f'files were left behind: {leftovers}'}")
        return 1
    if faults == 0 and arguments.fault != "none":
        print("WRONG: no fault could be done; take more rows")
        return 1
    print(f"same: all {arguments.rows:,} rows are identical to the reference, row by row and in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
