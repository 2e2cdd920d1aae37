"""The functions of the benchmarks: what `benches/modes.rs` calls. Those over mixed columns get all ten and use the first."""

import functools
import json

import pyarrow.compute as pc

from pillion import udf


@udf(result_type="bigint", func_type="arrow")
def identity(a, *rest):
    return a


@udf(result_type="string", func_type="arrow")
def text_identity(text):
    return text


@udf(result_type="bigint", func_type="arrow")
def arrow_add(a, b):
    return pc.add(a, b)


@udf(result_type="bigint", func_type="pandas")
def pandas_add(a, b):
    return a + b


@udf(result_type="string")
def json_name(text):
    return json.loads(text)["name"]


@functools.cache
def model():
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    inputs = np.arange(400, dtype="float64").reshape(200, 2)
    return LogisticRegression().fit(inputs / 400, inputs[:, 0] > 200)


@udf(result_type="double", func_type="pandas")
def sklearn_model(a, b):
    import numpy as np

    return model().predict_proba(np.column_stack([a, b]) / 100_000.0)[:, 1]
