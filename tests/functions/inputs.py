"""Functions with two inputs, and a table function, for the end-to-end suites. General: they need no package."""

from pillion import (
    BroadcastState,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    ProcessTableFunction,
    ValueState,
)


class Join(KeyedCoProcessFunction):
    """Values of the first input times the latest factor of the key on the second; a timer says what was left."""

    output = {"key": "bigint", "product": "bigint", "factor": "bigint"}
    factor = ValueState("bigint")

    def process_element1(self, value, ctx):
        yield value.key, value.value * (self.factor.value() or 0), self.factor.value()

    def process_element2(self, value, ctx):
        self.factor.update(value.factor)
        ctx.timer_service().register_event_time_timer(ctx.timestamp() + 10)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), -timestamp, self.factor.value()


class Limits(KeyedBroadcastProcessFunction):
    """Sums per key, with the limit that was broadcast last and how many there were."""

    output = {"key": "bigint", "sum": "bigint", "limit": "bigint"}
    limits = BroadcastState("string", "bigint")
    total = ValueState("bigint")

    def process_element(self, value, ctx):
        self.total.update((self.total.value() or 0) + value.value)
        yield value.key, self.total.value(), self.limits.get("limit")

    def process_broadcast_element(self, value, ctx):
        self.limits.put("limit", value.limit)
        yield None, None, value.limit


class Counts(ProcessTableFunction):
    """Rows of a key until a pause of ten, by a named timer that each row moves."""

    output = {"key": "bigint", "rows": "bigint"}
    rows = ValueState("bigint")
    timers = ("pause",)

    def eval(self, ctx, row):
        self.rows.update((self.rows.value() or 0) + 1)
        times = ctx.time_context()
        times.register_on_time("pause", times.time() + 10)

    def on_timer(self, ctx):
        yield ctx.get_current_key(), self.rows.value()
        ctx.clear_all()
