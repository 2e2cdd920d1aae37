"""PySpark: a local session with one core per worker; `pandas` or `arrow` functions."""

import json
import os
import sys
import time

from common import BATCH, PERIOD, TEXT_SQL, installed, paced, serve


def functions(kind):
    from pyspark.sql.functions import pandas_udf

    if kind == "pandas":
        import pandas as pd

        @pandas_udf("long")
        def add(a: pd.Series, b: pd.Series) -> pd.Series:
            return a + b

        @pandas_udf("string")
        def name(text: pd.Series) -> pd.Series:
            return text.map(lambda value: json.loads(value)["customer"]["name"])

        return {"add": add, "json": name}
    import pyarrow as pa
    from pyspark.sql.functions import arrow_udf

    @arrow_udf("long")
    def arrow_add(a: pa.Array, b: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        return pc.add(a, b)

    @arrow_udf("string")
    def arrow_name(text: pa.Array) -> pa.Array:
        return pa.array([json.loads(value)["customer"]["name"] for value in text.to_pylist()], pa.string())

    return {"add": arrow_add, "json": arrow_name}


class PySpark:
    def __init__(self, kind):
        from pyspark.sql import SparkSession

        # Workers are started with this interpreter, not with whatever `python3` is.
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        builder = SparkSession.builder.master("local[1]").appName("peer")
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "2g",
            "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH),
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.adaptive.enabled": "false",
        }
        for key, value in settings.items():
            builder = builder.config(key, value)
        self.spark = builder.getOrCreate()
        self.spark.sparkContext.setLogLevel("ERROR")
        self.functions = functions(kind)

    def versions(self):
        return {**installed("pyspark", "pandas", "pyarrow"), "java": self.spark._jvm.System.getProperty("java.version")}

    def query(self, work, rows):
        source = self.spark.range(0, rows, 1, 1).selectExpr(f"id % {PERIOD} AS a")
        if work == "add":
            source = source.selectExpr("a", "1000000 - 7 * a AS b")
            return source.select(self.functions[work]("a", "b").alias("r"))
        return source.selectExpr(f"{TEXT_SQL} AS text").select(self.functions[work]("text").alias("r"))

    def run(self, work, rows):
        figure = "SUM(r)" if work == "add" else "SUM(LENGTH(r))"
        query = self.query(work, rows).selectExpr("COUNT(r)", figure)
        begun = time.perf_counter()
        count, total = query.collect()[0]
        return time.perf_counter() - begun, count, total

    def values(self, work, rows):
        return [row.r for row in self.query(work, rows).collect()]

    def latency(self, work, count, rate):
        query = self.query(work, 1)
        return paced(query.collect, count, rate), "a query of one row: there is no smaller request"

    def close(self):
        self.spark.stop()


if __name__ == "__main__":
    serve(PySpark(sys.argv[1]))
