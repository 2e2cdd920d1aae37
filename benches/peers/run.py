"""The same work through PyFlink, PySpark, arrow-udf, Daft and Pillion, in one run on the same cores, taking turns.

    make bench-peers            (or: python3 benches/peers/run.py; after `make build`)

The first run installs each peer into an environment of its own below `target/peers`. PyFlink and PySpark need Java 17
(and `javac`), PyFlink CPython 3.10 to 3.12. Writes the tables into `docs/benchmarks.md`. A side that cannot be installed or
run is listed with the reason; a side whose answers are not those of everybody else has no row.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import report
from adapter import Adapter, Failed
from common import digest, expected, expected_values

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLACE = ROOT / "target" / "peers"

# Name, environment, and the command line of the adapter. Environments and their packages stand below.
PEERS = [
    ("PyFlink process", "pyflink", ["pyflink_peer.py", "process"]),
    ("PyFlink process, pandas", "pyflink", ["pyflink_peer.py", "process-pandas"]),
    ("PyFlink thread", "pyflink", ["pyflink_peer.py", "thread"]),
    ("PySpark pandas", "pyspark", ["pyspark_peer.py", "pandas"]),
    ("PySpark Arrow", "pyspark", ["pyspark_peer.py", "arrow"]),
    ("arrow-udf over Flight", "arrow_udf", ["arrow_udf_peer.py"]),
    ("Daft process", "daft", ["daft_peer.py", "process"]),
    ("Daft thread", "daft", ["daft_peer.py", "thread"]),
]
PACKAGES = {
    "pyflink": ["apache-flink==2.2.1"],
    "pyspark": ["pyspark==4.1.4", "pandas==2.3.3", "pyarrow"],
    "arrow_udf": ["arrow-udf==0.3.2", "pyarrow"],
    "daft": ["daft==0.7.26"],
    "pillion": ["pyarrow"],
}
PILLION = ["process inline", "process shm", "thread"]
# A batch on its caller's own thread, which is a matter of latency alone.
CALLERS_THREAD = "thread here, embedded"
WORKS = {"add": "two int64 columns added", "json": "a field taken from JSON text, row by row"}
# Rows of the smallest run, by which the fixed cost is told.
SMALL = 100_000
MOST_ROWS = 400_000_000


class Side:
    """One engine in one mode, and what it did."""

    def __init__(self, name, command):
        self.name, self.command = name, command
        self.adapter = None
        self.versions = {}
        self.start = None
        # By work: rows of the larger run; by round, rows per second and seconds of fixed cost; microseconds of one row.
        self.rows, self.rates, self.fixed, self.latency, self.note = {}, {}, {}, {}, {}
        self.problems = []

    def give_up(self, where, reason):
        self.problems.append((where, str(reason)))
        print(f"  {self.name}: {where}: {reason}", flush=True)


def python_of(environment, log):
    """The interpreter of an environment; it is made if it is not there."""
    folder = PLACE / environment
    python = folder / "bin" / "python"
    wanted = "\n".join(PACKAGES[environment])
    stamp = folder / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"installing {', '.join(PACKAGES[environment])}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, stdout=log, stderr=log)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[environment]]
        done = subprocess.run(install, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1800)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise Failed("not installed: " + (lines or done.stderr.splitlines() or ["pip failed"])[-1])
        stamp.write_text(wanted)
    return str(python)


def sides(only, log):
    """Every side that can be set up, and those that cannot."""
    found = []
    binary, peer = ROOT / "target/release/pillion", ROOT / "target/release/examples/peer"
    for way in PILLION:
        for door in ("embedded", "connect"):
            found.append(
                (f"Pillion {way}, {door}", "pillion", lambda python, name=f"{way}, {door}": [str(peer), name, str(binary), python])
            )
    found.append((f"Pillion {CALLERS_THREAD}", "pillion", lambda python: [str(peer), CALLERS_THREAD, str(binary), python]))
    for name, environment, words in PEERS:
        found.append((name, environment, lambda python, words=words: [python, str(HERE / words[0]), *words[1:]]))
    made = []
    for name, environment, command in found:
        if only and not any(word.lower() in name.lower() for word in only):
            continue
        side = Side(name, None)
        made.append(side)
        try:
            side.command = command(python_of(environment, log))
        except (Failed, subprocess.SubprocessError, OSError) as error:
            side.give_up("set-up", error)
    return made


def begin(side, log):
    """Starts an adapter and checks its answers on a few rows."""
    begun = time.perf_counter()
    try:
        side.adapter = Adapter(side.command, log)
        side.versions = side.adapter.ask("hello")["versions"]
        side.start = time.perf_counter() - begun
    except Failed as error:
        side.give_up("start", error)
        end(side)


def end(side):
    if side.adapter:
        side.adapter.end()
        side.adapter = None


def calibrate(side, work, seconds):
    """Checks the answers, and finds how many rows take about `seconds`."""
    answer = side.adapter.ask("values", work=work, rows=3000)
    found = answer.get("digest") or digest(answer["values"])
    if found != digest(expected_values(work, 3000)):
        raise Failed("its answers are not those of the others")
    timed(side, work, SMALL)
    small = timed(side, work, SMALL)
    rows = SMALL
    while True:
        rows *= 4
        took = timed(side, work, rows)
        # The first sizes only show the fixed cost.
        if took - small > seconds / 8 or rows >= MOST_ROWS or took > 10 * seconds:
            break
    rate = (rows - SMALL) / max(took - small, 1e-3)
    side.rows[work] = int(min(max(rate * seconds, 4 * SMALL), MOST_ROWS)) // SMALL * SMALL
    side.rates[work], side.fixed[work] = {}, {}


def timed(side, work, rows):
    answer = side.adapter.ask("run", work=work, rows=rows)
    if answer["count"] != rows or answer["check"] != expected(work, rows):
        raise Failed(f"its answer to {rows} rows is not that of the others")
    return answer["seconds"]


def measure(side, work, number):
    """Two sizes; the difference is the steady state, the rest is the fixed cost."""
    for _ in range(3):
        rows = side.rows[work]
        small = timed(side, work, rows // 4)
        large = timed(side, work, rows)
        if large > 1.5 * small or rows >= MOST_ROWS:
            break
        # The fixed cost hides the difference: more rows show it.
        side.rows[work] = min(2 * rows, MOST_ROWS)
    if large <= small:
        raise Failed(f"{rows} rows took no longer than {rows // 4}: the machine was disturbed")
    rate = (rows - rows // 4) / (large - small)
    side.rates[work][number] = rate
    side.fixed[work][number] = max(0.0, small - (rows // 4) / rate)


def delay(side, work, count):
    answer = side.adapter.ask("latency", work=work, count=count, rate=100)
    side.latency.setdefault(work, []).extend(answer["us"])
    side.note[work] = answer["note"]


def compare(made, options):
    """Everything, round by round; a side that fails is left out from there on."""

    def each(where, among, what, *arguments):
        for side in among:
            if side.adapter is None or (what is not delay and side.name.endswith(CALLERS_THREAD)):
                continue
            try:
                what(side, *arguments)
                print(f"  {where}: {side.name}", flush=True)
            except Failed as error:
                side.give_up(where, error)
                if side.adapter.is_over():
                    end(side)

    for work in options.works:
        each(f"{work}, calibration", made, calibrate, work, options.seconds)
        for number in range(options.rounds):
            each(f"{work}, round {number + 1}", [side for side in made if work in side.rows], measure, work, number)
    # A row is looked at in turns too: what disturbs one side disturbs all.
    for number in range(options.rounds):
        each(f"one row, round {number + 1}", made, delay, "add", options.count // options.rounds)


def machine(cores):
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    return f"{cpu or platform.machine()}, {len(cores)} cores used, {platform.system()} {platform.release().partition('-')[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", help="sides whose names contain this; can be given several times")
    parser.add_argument("--works", default="add,json", type=lambda text: text.split(","), help="of %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of steady state in each measurement")
    parser.add_argument("--count", type=int, default=500, help="rows, one at a time at 100 a second, over all rounds")
    parser.add_argument("--cores", default=None, help="such as 0,1; default: the first two that this process may use")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()

    allowed = sorted(os.sched_getaffinity(0))
    cores = [int(core) for core in options.cores.split(",")] if options.cores else allowed[:2]
    # Children inherit it: every side runs on these cores.
    os.sched_setaffinity(0, cores)
    PLACE.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    with open(PLACE / "adapters.log", "w") as log:
        made = sides(options.only, log)
        try:
            for side in made:
                if side.command:
                    begin(side, log)
            compare(made, options)
        finally:
            for side in made:
                end(side)
    summary = report.Summary(made, WORKS, machine(cores), time.time() - begun, options)
    (PLACE / "figures.json").write_text(json.dumps(summary.figures(), indent=1))
    text = summary.markdown()
    print(text)
    if not options.no_docs:
        report.into(ROOT / "docs" / "benchmarks.md", "peers", text)


if __name__ == "__main__":
    main()
