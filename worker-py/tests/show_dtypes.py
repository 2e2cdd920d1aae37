"""Prints what a pandas function sees of each type: `test_pandas.py` compares interpreters with pyarrow and without."""

from __future__ import annotations

import sys

from conftest import Harness

if sys.argv[1] == "without-pyarrow":
    sys.modules["pyarrow"] = None  # every import of it fails

from test_pandas import DTYPES

from pillion import udf


def show(series):
    """Print one series."""
    masked = "masked " if hasattr(series.array, "_mask") else ""
    types = sorted({type(value).__name__ for value in series.tolist()})
    print(f"{masked}{series.dtype} {series.array.__class__.__name__} {types}")
    return series


def main() -> None:
    """Show every type, whole and with nulls."""
    for kind, _, _, value in DTYPES:
        for values in ([value, value], [value, None], [None]):
            Harness().scalar(udf(show, result_type=kind, func_type="pandas"), (kind, values))


if __name__ == "__main__":
    main()
