"""Runs the tests of the Python package in several environments: old and new versions, and with packages missing.

    python3 worker-py/tests/matrix.py [--only NAME] [--extension PATH] [pytest arguments]

Environments are made once, under `target/test-envs`, and found again by what they hold. Each wants one of a few
versions of Python, looked for on PATH and among pyenv's; one that finds none is skipped, and the last line says so.
Needs the extension: `make build` makes it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent.parent
PACKAGE = TESTS.parent / "python" / "pillion"
EXTENSION = ROOT / "target" / "release" / "libpillion_worker.so"
ENVIRONMENTS = ROOT / "target" / "test-envs"
RUNNER = "pytest==9.0.2"


class Environment(NamedTuple):
    """What to install, and the versions of Python it may be installed in, best first."""

    pythons: tuple[str, ...]
    requirements: tuple[str, ...]


MATRIX = {
    "old": Environment(("3.10", "3.11"), ("numpy==1.24.4", "pandas==1.5.3", "pyarrow==14.0.2")),
    "bare": Environment(("3.11", "3.12", "3.13", "3.10"), ()),
    "no-pyarrow": Environment(("3.12", "3.11", "3.10"), ("numpy==1.26.4", "pandas==2.2.3")),
    "no-pandas": Environment(("3.12", "3.11", "3.13"), ("numpy==2.2.6", "pyarrow==20.0.0")),
    "new": Environment(("3.13", "3.12", "3.11"), ("numpy==2.4.6", "pandas==3.1.1", "pyarrow==26.0.1", "polars==2.1.0")),
}


def find_python(version: str) -> Path | None:
    """An interpreter of this minor version that starts; shims of pyenv on PATH may not."""
    wanted = tuple(int(part) for part in version.split("."))
    candidates = [shutil.which(f"python{version}"), sys.executable]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(str(path) for path in pyenv.glob(f"{version}.*/bin/python{version}"))
    for candidate in candidates:
        if candidate is None:
            continue
        show = f"import sys; print(sys.executable if sys.version_info[:2] == {wanted} else '')"
        shown = subprocess.run([candidate, "-c", show], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and shown.stdout.strip():
            return Path(shown.stdout.strip())
    return None


def environment(name: str, wanted: Environment) -> Path | None:
    """The interpreter of a ready environment, made if need be; None if no suitable Python is found."""
    python = next((found for version in wanted.pythons if (found := find_python(version))), None)
    if python is None:
        return None
    key = hashlib.sha256(repr((str(python.resolve()), RUNNER, wanted.requirements)).encode()).hexdigest()[:12]
    folder = ENVIRONMENTS / f"{name}-{key}"
    if not folder.exists():
        print(f"{name}: installing {' '.join(wanted.requirements) or 'nothing but pytest'}", flush=True)
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ENVIRONMENTS) as temporary:
            made = Path(temporary) / "venv"
            subprocess.run([python, "-m", "venv", made], check=True)
            install = [made / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:"]
            subprocess.run([*install, RUNNER, *wanted.requirements], check=True)
            try:
                made.rename(folder)  # whole or not at all; only its scripts know its path, and they are not used
            except OSError:
                if not folder.exists():  # else another run was faster
                    raise
    return folder / "bin" / "python"


def place_extension(built: Path) -> None:
    """Put the built extension into the package, where an import finds it, unless it is there."""
    target = PACKAGE / "_native.abi3.so"
    if not built.exists():
        if target.exists():
            return
        sys.exit(f"{built} is missing; run `make build`")
    if target.exists() and target.read_bytes() == built.read_bytes():
        return
    temporary = target.with_suffix(f".{os.getpid()}")
    shutil.copyfile(built, temporary)
    temporary.replace(target)


def main() -> int:
    """Run the tests everywhere; the status is that of the worst environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MATRIX, help="run in this environment alone")
    parser.add_argument("--extension", type=Path, default=EXTENSION, help="the built extension")
    options, pytest_arguments = parser.parse_known_args()
    place_extension(options.extension)
    failed, skipped = [], []
    for name, wanted in MATRIX.items():
        if options.only not in (None, name):
            continue
        python = environment(name, wanted)
        if python is None:
            skipped.append(f"{name} (no Python {' or '.join(wanted.pythons)})")
            continue
        print(f"{name}: {' '.join(wanted.requirements) or 'no packages'}", flush=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", str(TESTS), *pytest_arguments]
        variables = {**os.environ, "PILLION_TEST_ENVIRONMENT": name, "PYTHONDONTWRITEBYTECODE": "1"}
        if subprocess.run(command, cwd=TESTS.parent, env=variables, check=False).returncode:
            failed.append(name)
    if skipped:
        print(f"skipped: {', '.join(skipped)}")
    if failed:
        print(f"failed in: {', '.join(failed)}")
    return 1 if failed or len(skipped) == len(MATRIX) else 0


if __name__ == "__main__":
    sys.exit(main())
