"""The last five items that each user visited, in time order, over five minutes, every 30 seconds.

    pillion run examples/last_items.py:last_items --input visits.csv --output last.csv --key-by user --event-time at

Twice the same: `last_items` is a pandas function of each window's rows; `last_items_incremental` is an aggregate that keeps five items per
window, so that no row is kept.
"""

import heapq

import pandas as pd

from pillion import AggregateFunction
from pillion.windows import SlidingEventTimeWindows, window

MINUTES, EVERY, LAST = 5 * 60 * 1000, 30 * 1000, 5
RESULT = {"user": "bigint", "window_end": "bigint", "items": "array<bigint>"}


def last_items_of(visits: pd.DataFrame, context) -> pd.DataFrame:
    """Of one user and window."""
    newest = visits.sort_values(["at", "item"]).tail(LAST)
    return pd.DataFrame({"user": [context.key], "window_end": [context.window().end], "items": [newest["item"].tolist()]})


class LastItems(AggregateFunction):
    """Keeps the latest visits."""

    accumulator = "array<row<at bigint, item bigint>>"

    def create_accumulator(self):
        """None yet."""
        return []

    def add(self, visit, accumulator):
        """Take a visit if it is among the latest."""
        return self.merge(accumulator, [(visit.at, visit.item)])

    def get_result(self, accumulator):
        """In time order."""
        return [item for _, item in accumulator]

    def merge(self, a, b):
        """The latest of both."""
        return sorted(heapq.nlargest(LAST, [tuple(one) for one in (*a, *b)]))


def with_window(key, context, elements):
    """Say whose items they are."""
    (items,) = elements
    return [(key, context.window().end, items)]


sliding = SlidingEventTimeWindows.of(MINUTES, EVERY)
last_items = window(sliding, process=last_items_of, func_type="pandas", output=RESULT)
last_items_incremental = window(sliding, aggregate=LastItems, process=with_window, output=RESULT)
