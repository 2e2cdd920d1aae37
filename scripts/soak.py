"""Batches of random size for minutes, with kills and reconnects; nothing may grow, and no answer may be wrong.

    python scripts/soak.py                      # ten minutes
    python scripts/soak.py --seconds 120

Starts `pillion serve` (target/release/pillion) and a host (target/release/examples/soak, from `cargo build --release --example soak`) with
several sessions, some of which let batches travel together (`max_delay`), all of which end and come again. From then on, every `--every`
seconds, a random worker is killed; now and then the fork server, or the host, which is then started again.

Samples, of the sidecar: private and shared memory (smaps_rollup), open files, threads, shared-memory files (memfds and what lies in
`/dev/shm`), child processes; of the host, private memory, files and threads. Compares the second quarter of the time with the last by the
median of the samples. Exits with 0 only if every answer was right, faults were done, and nothing has grown by more than the tolerances
that are printed. Needs nothing but CPython, on Linux.
"""

import argparse
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chaos import ROOT, processes_below, send

# What may be more at the end than in the second quarter, and is no growth: allocators keep what they are given, and workers come and go.
TOLERANCES = {
    "private MiB": 12,
    "shared MiB": 12,
    "files": 8,
    "threads": 4,
    "memory files": 4,
    "children": 3,
    "host private MiB": 12,
    "host files": 6,
    "host threads": 3,
}


def memory(pid: int) -> tuple[float, float]:
    """Private and shared memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    shared = fields["Shared_Clean"] + fields["Shared_Dirty"]
    return private / 1024, shared / 1024


def files(pid: int) -> list[str]:
    """What the open files of a process are."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:  # closed meanwhile
            continue
    return found


def threads(pid: int) -> int:
    """The threads of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def sample(sidecar: int, host: int) -> dict[str, float]:
    """One look at both processes; the host may be between two lives."""
    private, shared = memory(sidecar)
    opened = files(sidecar)
    memfds = sum("memfd:" in name or name.startswith("/dev/shm/") for name in opened)
    left = sum("pillion" in path.name for path in Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else 0
    values = {
        "private MiB": private,
        "shared MiB": shared,
        "files": len(opened),
        "threads": threads(sidecar),
        "memory files": memfds + left,
        "children": len(processes_below(sidecar)),
    }
    try:
        return values | {"host private MiB": memory(host)[0], "host files": len(files(host)), "host threads": threads(host)}
    except (OSError, KeyError):
        return values


class Host:
    """The process with the sessions, as often as it is started, and what it says of itself."""

    def __init__(self, arguments: argparse.Namespace, endpoint: str, function: Path) -> None:
        self.command = [str(arguments.host), "--endpoint", endpoint, "--function", str(function), "--sessions", str(arguments.sessions)]
        self.seed = arguments.seed
        self.counts = {"batches": 0, "rows": 0, "sessions": 0}
        self.wrong = []
        self.start()

    def start(self) -> None:
        """Starts it, each time with another seed that follows from the first."""
        self.seed += 1
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `collect`
        self.process = subprocess.Popen([*self.command, "--seed", str(self.seed)], stdin=subprocess.PIPE, stdout=self.output)

    def collect(self, killed: bool) -> None:
        """Adds up what it has counted, after it has ended; its last line holds the totals so far."""
        status = self.process.wait(timeout=120)
        self.output.seek(0)
        lines = self.output.read().splitlines()
        self.output.close()
        counted = next((line for line in reversed(lines) if line.startswith("batches=")), None)
        for name, value in re.findall(r"(\w+)=(\d+)", counted or ""):
            self.counts[name] += int(value)
        self.wrong += [line for line in lines if line.startswith("WRONG")]
        if not killed and status != 0 and not self.wrong:
            self.wrong.append(f"the host ended with {status}")

    def kill(self) -> None:
        """Kills it in the middle, and starts it again."""
        self.process.kill()
        self.collect(killed=True)
        self.start()

    def finish(self) -> None:
        """Lets it end its sessions."""
        self.process.stdin.close()
        self.collect(killed=False)


def soak(arguments: argparse.Namespace, folder: Path) -> tuple[Host, dict[str, int], list[tuple[float, dict[str, float]]]]:
    """Runs both until the time is over; returns the host, the faults by kind, and the samples with their time."""
    listen = f"unix:{folder}/pillion.sock"
    serve = [str(arguments.pillion), "serve", "--listen", listen, "--log", "error", "--set", f"pool.max={arguments.workers}"]
    sidecar = subprocess.Popen([*serve, *arguments.serve], stdout=subprocess.PIPE, text=True)
    faults = {"workers": 0, "fork servers": 0, "hosts": 0}
    samples = []
    try:
        if not (sidecar.stdout.readline() or "").startswith("listening on "):
            sys.exit("the sidecar did not start")
        host = Host(arguments, listen, ROOT / "examples/soak.py")
        started = shown = time.monotonic()
        fault_at = started + 2
        while (now := time.monotonic()) - started < arguments.seconds:
            time.sleep(0.1)
            if sidecar.poll() is not None:
                host.wrong.append(f"the sidecar ended with {sidecar.returncode}")
                break
            if host.process.poll() is not None:
                host.wrong.append("the host ended by itself")
                host.collect(killed=False)
                return host, faults, samples
            if now >= fault_at:
                fault_at = now + arguments.every * random.uniform(0.5, 1.5)
                kind = fault(host, sidecar.pid)
                if kind:
                    faults[kind] += 1
            samples.append((now - started, sample(sidecar.pid, host.process.pid)))
            if now - shown >= 10:
                shown = now
                line = "  ".join(f"{name} {value:.0f}" for name, value in samples[-1][1].items())
                print(f"{now - started:6.0f} s  {line}", flush=True)
        host.finish()
        return host, faults, samples
    finally:
        sidecar.terminate()
        sidecar.wait(timeout=60)


def fault(host: Host, sidecar: int) -> str | None:
    """Kills something; returns what kind of process it was."""
    dice = random.random()
    if dice < 0.04:
        host.kill()
        return "hosts"
    wanted, kind = ("pillion.fork_server", "fork servers") if dice < 0.10 else ("pillion.worker", "workers")
    victims = [pid for pid, command in processes_below(sidecar).items() if wanted in command]
    return kind if victims and send(random.choice(victims), signal.SIGKILL) else None


def grown(samples: list[tuple[float, dict[str, float]]], seconds: float) -> bool:
    """Compares the second quarter with the last, and says so."""
    quarters = [[values for at, values in samples if begin <= at / seconds < end] for begin, end in ((0.25, 0.5), (0.75, 1.01))]
    any_grown = False
    print(f"{'':>18}  {'second quarter':>14}  {'last quarter':>12}  {'tolerated':>9}")
    for name, tolerated in TOLERANCES.items():
        before, after = (statistics.median([values[name] for values in quarter if name in values] or [0]) for quarter in quarters)
        # A tenth of what was there is within what such processes breathe.
        limit = tolerated + before / 10
        is_grown = after > before + limit
        any_grown |= is_grown
        print(f"{name:>18}  {before:14.1f}  {after:12.1f}  {limit:9.1f}  {'GROWN' if is_grown else 'not grown'}")
    return any_grown


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: 600)")
    parser.add_argument("--every", type=float, default=0.7, help="seconds between faults, about (default: 0.7)")
    parser.add_argument("--sessions", type=int, default=4, help="sessions at a time (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="most workers (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of sizes and of what is killed (default: 1)")
    parser.add_argument("--pillion", type=Path, default=ROOT / "target/release/pillion", help="the binary")
    parser.add_argument("--host", type=Path, default=ROOT / "target/release/examples/soak", help="the host")
    parser.add_argument("serve", nargs="*", help="further arguments of `pillion serve`, after `--`")
    return parser.parse_args()


def main() -> int:
    """Runs, compares, says how it went; returns the exit status."""
    arguments = parse()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        host, faults, samples = soak(arguments, Path(name))
    totals = host.counts | {f"{kind} killed": count for kind, count in faults.items()}
    counts = ", ".join(f"{count:,} {name}" for name, count in totals.items())
    print(f"{arguments.seconds:.0f} s: {counts}")
    any_grown = grown(samples, arguments.seconds)
    for line in host.wrong[:10]:
        print(line)
    if not host.counts["batches"] or not faults["workers"]:
        print("WRONG: nothing was done; give it more time")
        return 1
    if host.wrong or any_grown:
        return 1
    print("every answer was right, and nothing has grown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
