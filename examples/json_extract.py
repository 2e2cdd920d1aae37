"""Take values out of JSON texts, row by row: general functions, which need no package but Python itself.

pillion run examples/json_extract.py:customer --input examples/data/events.jsonl --output customers.csv
pillion run examples/json_extract.py:is_large --input examples/data/events.jsonl --output large.jsonl --where
pillion run examples/json_extract.py:items --input examples/data/events.jsonl --output items.csv
"""

import json
from collections.abc import Iterator
from typing import Optional

from pillion import Row, map_function, udf


@udf
def customer(payload: Optional[str]) -> Optional[str]:
    """The customer's name, or null where the payload names none."""
    return None if payload is None else json.loads(payload).get("customer", {}).get("name")


@udf
def is_large(payload: str) -> bool:
    """Whether the items of an order cost more than 100 together; for `--where`."""
    return sum(item["price"] * item["count"] for item in json.loads(payload).get("items", [])) > 100


@map_function(result_type={"event": "bigint", "article": "string", "count": "int", "price": "double"})
def items(row: Row) -> Iterator[Row]:
    """One row per item: none for an event without items, several for an order of several articles."""
    for item in json.loads(row.payload).get("items", []):
        yield Row(event=row.event, article=item["article"], count=item["count"], price=item["price"])
