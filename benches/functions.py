"""The functions of the benchmarks: what `benches/process.rs` calls."""

import json

import pyarrow.compute as pc

from pillion import udf


@udf(result_type="bigint", func_type="arrow")
def arrow_identity(a):
    return a


@udf(result_type="bigint", func_type="arrow")
def arrow_add(a, b):
    return pc.add(a, b)


@udf(result_type="bigint", func_type="pandas")
def pandas_add(a, b):
    return a + b


@udf(result_type="string")
def json_name(text):
    return json.loads(text)["name"]
