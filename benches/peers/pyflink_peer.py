"""PyFlink: a local job of one task; `process`, `process-pandas` or `thread`.

Rows come from Flink's own generator. For latency, the time is taken by a Java function before and behind the Python function; a bundle then
holds one row, since a row waits for the end of its bundle.
"""

import glob
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time

from common import BATCH, PERIOD, TEXT_SQL, installed, serve

HERE = os.path.dirname(os.path.abspath(__file__))


def functions(kind):
    from pyflink.table import DataTypes
    from pyflink.table.udf import udf

    if kind == "process-pandas":

        @udf(result_type=DataTypes.BIGINT(), func_type="pandas")
        def add(a, b):
            return a + b

        @udf(result_type=DataTypes.STRING(), func_type="pandas")
        def name(text):
            return text.map(lambda value: json.loads(value)["customer"]["name"])

        @udf(result_type=DataTypes.BIGINT(), func_type="pandas")
        def stamped(a, b, sent):
            return sent + 0 * (a + b)

    else:

        @udf(result_type=DataTypes.BIGINT())
        def add(a, b):
            return a + b

        @udf(result_type=DataTypes.STRING())
        def name(text):
            return json.loads(text)["customer"]["name"]

        @udf(result_type=DataTypes.BIGINT())
        def stamped(a, b, sent):
            return sent + 0 * (a + b)

    return {"py_add": add, "py_name": name, "py_stamped": stamped}


def nano_jar(folder):
    """Compiles the Java function against the jars of the installed PyFlink."""
    import pyflink

    jars = glob.glob(os.path.join(os.path.dirname(pyflink.__file__), "lib", "*.jar"))
    subprocess.run(["javac", "-nowarn", "-cp", ":".join(jars), "-d", folder, os.path.join(HERE, "Nano.java")], check=True)
    jar = os.path.join(folder, "nano.jar")
    subprocess.run(["jar", "cf", jar, "-C", folder, "Nano.class"], check=True)
    return jar


class PyFlink:
    def __init__(self, kind):
        self.kind = kind
        # The interpreter inside the JVM does not know of the virtual environment.
        os.environ["PYTHONPATH"] = sysconfig.get_paths()["purelib"]
        self.functions = functions(kind)
        self.folder = tempfile.TemporaryDirectory(prefix="peer-")
        self.jobs = self.environment("batch", BATCH)

    def environment(self, mode, bundle, **more):
        from pyflink.table import EnvironmentSettings, TableEnvironment

        settings = EnvironmentSettings.in_batch_mode() if mode == "batch" else EnvironmentSettings.in_streaming_mode()
        env = TableEnvironment.create(settings)
        config = {
            "parallelism.default": "1",
            "python.execution-mode": "thread" if self.kind == "thread" else "process",
            "python.fn-execution.bundle.size": str(bundle),
            "python.fn-execution.arrow.batch.size": str(min(bundle, 10_000)),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
            **more,
        }
        for key, value in config.items():
            env.get_config().set(key, value)
        for name, function in self.functions.items():
            env.create_temporary_system_function(name, function)
        return env

    def versions(self):
        from pyflink.java_gateway import get_gateway

        java = get_gateway().jvm.java.lang.System.getProperty("java.version")
        return {**installed("apache-flink", "apache-beam", "pyarrow"), "java": java}

    def source(self, env, work, rows, rate=1_000_000_000):
        env.execute_sql("DROP TEMPORARY TABLE IF EXISTS source")
        env.execute_sql(
            "CREATE TEMPORARY TABLE source (i BIGINT) WITH ('connector' = 'datagen', 'fields.i.kind' = 'sequence', 'fields.i.start' = '0', "
            f"'fields.i.end' = '{rows - 1}', 'number-of-rows' = '{rows}', 'rows-per-second' = '{rate}')"
        )
        numbered = f"SELECT MOD(i, {PERIOD}) AS a FROM source"
        if work == "add":
            return f"SELECT a, 1000000 - 7 * a AS b FROM ({numbered})", "py_add(a, b)"
        return f"SELECT a, {TEXT_SQL} AS text FROM ({numbered})", "py_name(text)"

    def run(self, work, rows):
        source, call = self.source(self.jobs, work, rows)
        figure = "SUM(r)" if work == "add" else "SUM(CHAR_LENGTH(r))"
        query = f"SELECT COUNT(r), {figure} FROM (SELECT {call} AS r FROM ({source}))"
        begun = time.perf_counter()
        with self.jobs.execute_sql(query).collect() as found:
            count, total = next(found)
        return time.perf_counter() - begun, count, total

    def values(self, work, rows):
        source, call = self.source(self.jobs, work, rows)
        with self.jobs.execute_sql(f"SELECT {call} AS r FROM ({source})").collect() as found:
            return [row[0] for row in found]

    def latency(self, work, count, rate):
        env = self.environment("streaming", 1, **{"pipeline.jars": "file://" + nano_jar(self.folder.name)})
        env.execute_sql("CREATE TEMPORARY SYSTEM FUNCTION nano AS 'Nano' LANGUAGE JAVA")
        warm = 100
        source, _ = self.source(env, work, warm + count, rate)
        # The time goes through the Python function, since the planner would take both times behind it otherwise.
        stamped = f"SELECT py_stamped(a, b, sent) AS sent FROM (SELECT a, b, nano(a) AS sent FROM ({source}))"
        query = f"SELECT nano(sent) - sent FROM ({stamped})"
        with env.execute_sql(query).collect() as found:
            us = [row[0] / 1e3 for row in found]
        return us[warm:], "bundles of one row; before to behind the Python operator"


if __name__ == "__main__":
    serve(PyFlink(sys.argv[1]))
