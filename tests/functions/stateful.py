"""Stateful functions of the end-to-end suites. General: they need no package."""

import os

from pillion import KeyedProcessFunction, ListState, MapState, OutputTag, Ttl, ValueState

LARGE = OutputTag("large", {"key": "bigint", "value": "bigint"})


class Sum(KeyedProcessFunction):
    """The running sum of each key."""

    output = {"key": "bigint", "sum": "bigint"}
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        total = (self.total.value() or 0) + value.value
        self.total.update(total)
        yield value.key, total


class Histories(KeyedProcessFunction):
    """Every kind of cell: the sum of the values seen, how many, and how many were different."""

    output = {"key": "bigint", "sum": "bigint", "count": "bigint", "different": "bigint"}
    seen = ListState("bigint")
    counts = MapState("bigint", "bigint")
    last = ValueState("string")

    def process_element(self, value, ctx):
        self.seen.add(value.value)
        self.counts.put(value.value, (self.counts.get(value.value) or 0) + 1)
        self.last.update(f"{value.value}")
        seen = list(self.seen.get())
        yield value.key, sum(seen), len(seen), len(list(self.counts.keys()))


class Purge(KeyedProcessFunction):
    """A map and a list that a value of 0 clears."""

    output = {"key": "bigint", "entries": "bigint", "elements": "bigint"}
    entries = MapState("bigint", "bigint")
    elements = ListState("bigint")

    def process_element(self, value, ctx):
        if value.value == 0:
            self.entries.clear()
            self.elements.clear()
        else:
            self.entries.put(value.value, 1)
            self.elements.add(value.value)
        yield value.key, len(list(self.entries.keys())), len(list(self.elements.get()))


class Split(KeyedProcessFunction):
    """Values of 100 and more go aside."""

    output = {"key": "bigint", "value": "bigint"}
    side_outputs = [LARGE]

    def process_element(self, value, ctx):
        if value.value >= 100:
            yield LARGE, (value.key, value.value)
        else:
            yield value.key, value.value


class Remind(KeyedProcessFunction):
    """A timer ten after each element: what was summed up to it. One set in the timer follows five later, once."""

    output = {"key": "bigint", "at": "bigint", "sum": "bigint"}
    total = ValueState("bigint")
    again = ValueState("boolean")

    def process_element(self, value, ctx):
        self.total.update((self.total.value() or 0) + value.value)
        ctx.timer_service().register_event_time_timer(ctx.timestamp() + 10)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), timestamp, self.total.value()
        if not self.again.value():
            self.again.update(True)
            ctx.timer_service().register_event_time_timer(timestamp + 5)


class Alarm(KeyedProcessFunction):
    """A timer in processing time, ten after each element."""

    output = {"key": "bigint", "at": "bigint"}

    def process_element(self, value, ctx):
        service = ctx.timer_service()
        service.register_processing_time_timer(service.current_processing_time() + 10)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), timestamp


class Forget(KeyedProcessFunction):
    """What was written less than 100 ms of processing time ago."""

    output = {"key": "bigint", "before": "bigint"}
    kept = ValueState("bigint", ttl=Ttl(100))

    def process_element(self, value, ctx):
        yield value.key, self.kept.value()
        self.kept.update(value.value)


class DieOnce(Sum):
    """As `Sum`, but the first worker that sees a value of 13 ends."""

    def process_element(self, value, ctx):
        if value.value == 13:
            try:
                os.close(os.open(os.environ["TEST_MARK"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os._exit(9)
        yield from super().process_element(value, ctx)


class Raise(Sum):
    """Raises on 13, after it has written."""

    def process_element(self, value, ctx):
        yield from super().process_element(value, ctx)
        if value.value == 13:
            raise ValueError("thirteen")


class Ticker(KeyedProcessFunction):
    """Counts every millisecond of processing time from a value of 0 on, and gives the count; of another value the count so far, below zero."""

    output = {"key": "bigint", "count": "bigint"}
    count = ValueState("bigint")

    def next(self, ctx):
        service = ctx.timer_service()
        service.register_processing_time_timer(service.current_processing_time() + 1)

    def process_element(self, value, ctx):
        if value.value == 0:
            self.next(ctx)
        else:
            yield value.key, -(self.count.value() or 0)

    def on_timer(self, timestamp, ctx):
        count = (self.count.value() or 0) + 1
        self.count.update(count)
        self.next(ctx)
        yield ctx.get_current_key(), count


class Listed(KeyedProcessFunction):
    """A running sum, whatever the key is."""

    output = "bigint"
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        self.total.update((self.total.value() or 0) + value.value)
        yield self.total.value()


class Texts(KeyedProcessFunction):
    """A text that grows by as many letters as the value says; its length, now and when its timer fires at 50."""

    output = {"key": "bigint", "length": "bigint"}
    text = ValueState("string")

    def process_element(self, value, ctx):
        self.text.update((self.text.value() or "") + "x" * value.value)
        ctx.timer_service().register_event_time_timer(50)
        yield value.key, len(self.text.value())

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), -len(self.text.value())
