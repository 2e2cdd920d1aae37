"""Daft: batch functions over Arrow tables in memory; `process` or `thread`."""

import json
import sys
import time

import daft
import pyarrow as pa
import pyarrow.compute as pc
from common import check, expected_values, installed, paced, serve, table
from daft import DataType


def make(process):
    @daft.func.batch(return_dtype=DataType.int64(), use_process=process)
    def add(a, b):
        return pc.add(a.to_arrow(), b.to_arrow())

    @daft.func.batch(return_dtype=DataType.string(), use_process=process)
    def name(text):
        return [json.loads(value)["customer"]["name"] for value in text.to_pylist()]

    return {"add": lambda: add(daft.col("a"), daft.col("b")), "json": lambda: name(daft.col("text"))}


class Daft:
    def __init__(self, mode):
        daft.set_runner_native()
        self.functions = make(mode == "process")
        self.tables = {}

    def versions(self):
        return installed("daft", "pyarrow")

    def query(self, work, rows):
        if work not in self.tables:
            self.tables[work] = table(work)
        whole = self.tables[work]
        full, rest = divmod(rows, whole.num_rows)
        parts = pa.concat_tables([whole] * full + [whole.slice(0, rest)])
        return daft.from_arrow(parts).select(self.functions[work]().alias("r"))

    def run(self, work, rows):
        query = self.query(work, rows)
        begun = time.perf_counter()
        column = query.to_arrow()["r"]
        figure = check(work, column)
        return time.perf_counter() - begun, len(column), figure

    def values(self, work, rows):
        return self.query(work, rows).to_arrow()["r"].to_pylist()

    def latency(self, work, count, rate):
        query = self.query(work, 1)
        wanted = expected_values(work, 1)
        assert self.values(work, 1) == wanted
        us = paced(lambda: query.select(daft.col("r")).to_arrow(), count, rate)
        return us, "a query of one row: there is no smaller request"


if __name__ == "__main__":
    serve(Daft(sys.argv[1]))
