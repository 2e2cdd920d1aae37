"""The work of the comparison, for Pillion."""

import json

import pyarrow.compute as pc

from pillion import udf


@udf(result_type="bigint", func_type="arrow")
def add(a, b):
    return pc.add(a, b)


@udf(result_type="string")
def name(text):
    return json.loads(text)["customer"]["name"]
