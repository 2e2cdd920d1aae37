"""Runs `pillion bench` on its example and writes the table into `docs/modes.md`.

python3 benches/modes_table.py [more arguments of `pillion bench`]
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches" / "peers"))

from report import into  # noqa: E402


def micros(us):
    return f"{us:,.0f} µs" if us >= 10 else f"{us:.1f} µs"


def rate(number):
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number / 1e3:,.1f} k"


def markdown(figures):
    machine, function = figures["machine"], figures["function"]
    packages = ", ".join(function["packages"])
    where = f"{machine['cores']} cores, {machine['cpu']}, {machine['system'].partition('-')[0]}"
    lines = [f"{where}; Python {function['python']}, {packages}; pillion {figures['version']}; one worker.", ""]
    sizes = [size["rows"] for size in figures["variants"][0]["sizes"]]
    heads = ["", "1 row, p50", "p99", "p99.9", *(f"rows/s, batches of {rows:,}" for rows in sizes)]
    lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for variant in figures["variants"]:
        latency = variant["latency"]
        cells = [variant["name"], *(micros(latency[name]) for name in ("p50_us", "p99_us", "p999_us"))]
        cells += [rate(size["rows_per_second"]) if "rows_per_second" in size else "" for size in variant["sizes"]]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- not measured: {absent['name']}: {absent['reason']} (`{absent['code']}`)" for absent in figures["absent"])]
    advice = figures["advice"]
    if advice:
        lines += ["", f"Recommended there: {advice['variant']}, batches of {advice['batch_rows']:,} rows.", ""]
        lines += [f"- {reason}" for reason in advice["reasons"]]
    return "\n".join(lines).strip()


def main():
    command = [ROOT / "target/release/pillion", "bench", "--json", "-", *sys.argv[1:]]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    text = markdown(figures)
    print(text)
    into(ROOT / "docs" / "modes.md", "modes", text)


if __name__ == "__main__":
    main()
