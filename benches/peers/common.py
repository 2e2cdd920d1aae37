"""What the adapters of the peers share: the work, and the protocol with `run.py`.

An adapter is a process that reads requests and writes answers, one JSON object a line:

    {"do": "hello"}                                       -> {"versions": {...}}
    {"do": "run", "work": "add", "rows": 1000000}         -> {"seconds": 0.8, "count": 1000000, "check": -1999997000000}
    {"do": "values", "work": "add", "rows": 1000}         -> {"digest": "..."}
    {"do": "latency", "work": "add", "count": 300, "rate": 100}  -> {"us": [...], "note": "..."}

`run` is timed by the adapter, from handing over to having seen every result. An error is {"error": "..."}.
Whatever else the engine prints goes to standard error.
"""

import hashlib
import json
import os
import sys
import time
import traceback

# Row i holds a = i mod PERIOD: enough different rows that caches do not hold them all, few enough to keep them ready.
PERIOD = 1_000_000
# Rows per batch wherever the peer lets one choose.
BATCH = 100_000


def text(a):
    return f'{{"id": {a}, "customer": {{"name": "somebody {a}", "city": "Springfield"}}, "tags": ["a", "b"]}}'


# The same texts as SQL, for engines that make their own rows.
TEXT_SQL = (
    """CONCAT('{"id": ', CAST(a AS STRING), ', "customer": {"name": "somebody ', CAST(a AS STRING), """
    """'", "city": "Springfield"}, "tags": ["a", "b"]}')"""
)


def expected(work, rows):
    """What `check` must be: the sum of the results, or of their lengths."""
    whole, rest = divmod(rows, PERIOD)
    return whole * _expected(work, PERIOD) + _expected(work, rest)


def _expected(work, rows):
    if work == "add":
        # a + b with b = 1,000,000 - 7 a
        return rows * 1_000_000 - 6 * (rows * (rows - 1) // 2)
    digits, low = 0, 0
    for length in range(1, 10):
        high = min(10**length, rows)
        digits += length * max(0, high - low)
        low = high
    return rows * len("somebody ") + digits


def expected_values(work, rows):
    if work == "add":
        return [1_000_000 - 6 * (i % PERIOD) for i in range(rows)]
    return [f"somebody {i % PERIOD}" for i in range(rows)]


def digest(values):
    """The same for the same values in any order."""
    return hashlib.sha256("\n".join(sorted(map(str, values))).encode()).hexdigest()


def table(work):
    """One period of the input as a `pyarrow.Table`."""
    import pyarrow as pa

    if work == "add":
        a = pa.array(range(PERIOD), pa.int64())
        return pa.table({"a": a, "b": pa.array((1_000_000 - 7 * i for i in range(PERIOD)), pa.int64())})
    return pa.table({"text": pa.array((text(i) for i in range(PERIOD)), pa.string())})


def batches(whole, rows):
    """`rows` rows as record batches of BATCH rows, from one period; nothing is copied."""
    left = rows
    while left > 0:
        for batch in whole.to_batches(max_chunksize=BATCH):
            if left <= 0:
                return
            yield batch.slice(0, min(left, batch.num_rows))
            left -= batch.num_rows


def check(work, column):
    """The figure of a result column, of pyarrow."""
    import pyarrow.compute as pc

    values = column if work == "add" else pc.utf8_length(column)
    return pc.sum(values).as_py() or 0


def paced(call, count, rate):
    """Calls `call` up to `rate` times a second; the time of each in microseconds. Ends early if the engine is much slower than the rate."""
    for _ in range(3):
        call()
    begun, took = time.perf_counter(), []
    for index in range(count):
        if time.perf_counter() - begun > 2 * count / rate:
            break
        wait = begun + index / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        start = time.perf_counter()
        call()
        took.append((time.perf_counter() - start) * 1e6)
    return took


def serve(adapter):
    """Answers requests until there are no more."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if do == "hello":
                answer = {"versions": adapter.versions()}
            elif do == "run":
                seconds, count, figure = adapter.run(**request)
                answer = {"seconds": seconds, "count": count, "check": figure}
            elif do == "values":
                answer = {"digest": digest(adapter.values(**request))}
            else:
                answer = dict(zip(("us", "note"), adapter.latency(**request)))
        except Exception as error:  # noqa: BLE001 (whatever an engine raises is an answer)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
        print(json.dumps(answer), file=channel)
    close = getattr(adapter, "close", None)
    if close:
        close()


def installed(*names):
    """The versions of packages, and of Python."""
    from importlib.metadata import version

    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
