"""Labels for a click model: an item that was shown to a user and clicked within ten minutes gets 1, else 0.

    pillion run examples/label_generation.py:labels --input clicks.csv --output labels.csv --key-by user,item --event-time at

The input has the columns user, item, kind (`expose` or `click`) and at (ms). An exposure sets a timer ten minutes ahead; a click in time
gives the label and deletes the timer. Timers fire when the watermark has come by, which may be some rows late: an event that finds a wait
that has ended ends it first, so that labels do not depend on how batches are cut. `labels_by_batch` does the same with whole columns.
"""

import numpy as np
import pandas as pd

from pillion import KeyedProcessFunction, ValueState, VectorizedProcessFunction, process

WAIT = 10 * 60 * 1000
LABELS = {"user": "bigint", "item": "bigint", "shown": "bigint", "label": "int"}


class Labels(KeyedProcessFunction):
    """One event at a time, of one user and item."""

    shown = ValueState("bigint")

    def process_element(self, event, ctx):
        """An exposure waits; a click ends the wait."""
        shown, now, timers = self.shown.value(), ctx.timestamp(), ctx.timer_service()
        over = shown is not None and now >= shown + WAIT
        clicked = not over and shown is not None and event.kind == "click" and shown <= now
        if over or clicked:
            timers.delete_event_time_timer(shown + WAIT)
            self.shown.clear()
            yield event.user, event.item, shown, int(clicked)
        if event.kind == "expose" and (shown is None or over):
            self.shown.update(now)
            timers.register_event_time_timer(now + WAIT)

    def on_timer(self, timestamp, ctx):
        """Nobody has clicked."""
        key = ctx.get_current_key()
        self.shown.clear()
        yield key.user, key.item, timestamp - WAIT, 0


class LabelsByBatch(VectorizedProcessFunction):
    """All events of a bundle in one call. Nulls of the cell are keys that wait for nothing."""

    func_type = "numpy"
    shown = ValueState("bigint")

    def process_batch(self, events, ctx):
        """Rows are taken in rounds: the first row of each key, then the second, and so on, each round as columns."""
        index, at = ctx.key_index, ctx.timestamps
        shown = np.where(ctx.state.absent("shown"), -1, ctx.state["shown"])
        before = shown.copy()
        exposes = events["kind"] == "expose"
        rounds = pd.Series(index).groupby(index).cumcount().to_numpy()
        found = []
        for one in range(int(rounds.max()) + 1):
            rows = np.flatnonzero(rounds == one)
            keys, times = index[rows], at[rows]
            since = shown[keys]
            over = (since >= 0) & (times >= since + WAIT)
            clicked = ~exposes[rows] & (since >= 0) & (since <= times) & ~over
            ended = over | clicked
            found.append(np.column_stack([rows[ended], since[ended], clicked[ended]]))
            shown[keys[ended]] = -1
            begins = exposes[rows] & ((since < 0) | over)
            shown[keys[begins]] = times[begins]
        rows, since, label = np.concatenate(found).T
        ctx.state.clear("shown", keys=shown < 0)
        ctx.state.put("shown", shown[shown >= 0], keys=shown >= 0)
        changed = shown != before
        ctx.delete_timers(before[changed & (before >= 0)] + WAIT, keys=changed & (before >= 0))
        ctx.set_timers(shown[changed & (shown >= 0)] + WAIT, keys=changed & (shown >= 0))
        return self.labels(events["user"][rows], events["item"][rows], since, label)

    def on_timers(self, timers, ctx):
        """Nobody has clicked."""
        keys = timers["key"]
        ctx.state.clear("shown", keys=keys)
        label = np.zeros(len(keys), dtype=np.int64)
        return self.labels(ctx.keys["user"][keys], ctx.keys["item"][keys], timers["timestamp"] - WAIT, label)

    def labels(self, user, item, shown, label):
        """Rows of the result."""
        return {"user": user, "item": item, "shown": shown, "label": label}


labels = process(Labels, output=LABELS)
labels_by_batch = process(LabelsByBatch, output=LABELS)
