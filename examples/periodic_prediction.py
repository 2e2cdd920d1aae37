"""A prediction at each event of a user, and again every five minutes until the next one.

    pillion run examples/periodic_prediction.py:predictions --input events.csv --output predictions.csv --key-by user

The model is loaded once per worker, in `open`; here it is a small table of weights. The clock is that of processing time.
"""

import json
import math
from pathlib import Path

from pillion import KeyedProcessFunction, ValueState, process

EVERY = 5 * 60 * 1000
WEIGHTS = {"visit": 0.5, "buy": 2.0, "bias": -1.0, "decay": 0.1}


class Predictions(KeyedProcessFunction):
    """How likely it is that a user comes back, from what they did last, and how long ago."""

    last = ValueState("row<kind string, at bigint>")
    due = ValueState("bigint")

    def open(self, runtime_context):
        """Load the model."""
        path = runtime_context.get_job_parameter("MODEL", "")
        self.weights = json.loads(Path(path).read_text()) if path else WEIGHTS

    def process_element(self, event, ctx):
        """Predict now, and in five minutes instead of when it was due."""
        service = ctx.timer_service()
        now = service.current_processing_time()
        self.last.update((event.kind, now))
        yield self.predict(ctx.get_current_key(), now)
        self.wake(service, now + EVERY)

    def on_timer(self, timestamp, ctx):
        """Predict again."""
        yield self.predict(ctx.get_current_key(), timestamp)
        self.due.clear()
        self.wake(ctx.timer_service(), timestamp + EVERY)

    def wake(self, service, at):
        """Move the timer."""
        due = self.due.value()
        if due is not None:
            service.delete_processing_time_timer(due)
        service.register_processing_time_timer(at)
        self.due.update(at)

    def predict(self, user, now):
        """The model."""
        last = self.last.value()
        minutes = (now - last.at) / 60_000
        score = self.weights["bias"] + self.weights.get(last.kind, 0.0) - self.weights["decay"] * minutes
        return user, now, 1 / (1 + math.exp(-score))


predictions = process(Predictions, output={"user": "bigint", "at": "bigint", "probability": "double"})
