"""The main job on real input: what `make demo` runs.

    python examples/demo.py target/release/pillion

Runs `pillion run` as a person would, looks at what it wrote, and shows some of it. Needs nothing but Python: pandas is installed by Pillion
into an environment of its own, the first time.
"""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("demo-output/weather.csv")
ROWS = 26_115
FILLED = ["wind_gust", "pressure"]
COMMAND = [
    *["run", "examples/interpolate.py:weather"],
    *["--input", "examples/data/weather.parquet", "--output", str(OUTPUT)],
    *["--batch-by", "origin", "--workers", "2", "--requirements", "examples/requirements-pandas.txt"],
]
SHOWN_PER_AIRPORT = 3


def say(text: str = "") -> None:
    """Prints a line, in order with what the command prints."""
    print(text, flush=True)


def check(rows: list[dict[str, str]]) -> list[str]:
    """What is wrong with the result; an empty list if nothing is."""
    problems = [] if len(rows) == ROWS else [f"{ROWS:,} rows were expected, but there are {len(rows):,}"]
    for column in FILLED:
        gaps = sum(row[column] == "" for row in rows)
        if gaps:
            problems.append(f"{column} still has {gaps:,} gaps")
    return problems


def show(rows: list[dict[str, str]]) -> None:
    """Prints the first rows of each airport."""
    airports: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        airports.setdefault(row["origin"], []).append(row)
    columns = list(rows[0])
    lines = [[row[column] for column in columns] for airport in airports.values() for row in airport[:SHOWN_PER_AIRPORT]]
    lines = [[rounded(value) for value in line] for line in lines]
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    for line in [columns, *lines]:
        say("  " + "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def rounded(value: str) -> str:
    """A number with two decimals; anything else as it is."""
    try:
        return f"{float(value):.2f}"
    except ValueError:
        return value


def main() -> int:
    """Runs the command and shows what came of it; returns the exit status."""
    pillion = sys.argv[1] if len(sys.argv) > 1 else "pillion"
    say("A year of hourly weather at three New York airports. Most readings have no wind gust,")
    say("one in ten has no pressure; a pandas function fills the gaps of each airport, in two")
    say("Python processes behind the engine of the sidecar.")
    say()
    say("$ pillion " + shlex.join(COMMAND).replace(" --", " \\\n    --"))
    (ROOT / OUTPUT).parent.mkdir(exist_ok=True)
    status = subprocess.run([Path(pillion).resolve(), *COMMAND], cwd=ROOT).returncode
    if status:
        return status
    with (ROOT / OUTPUT).open(newline="") as file:
        rows = list(csv.DictReader(file))
    say()
    say(f"The first rows of each airport in {OUTPUT}:")
    show(rows)
    problems = check(rows)
    say()
    say(f"wrong: {'; '.join(problems)}" if problems else f"All {len(rows):,} rows are there, and no gap is left.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
