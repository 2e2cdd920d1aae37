"""Functions that count."""

import os
import signal
import time

from pillion import KeyedProcessFunction, ScalarFunction, Ttl, ValueState, udf


class Everything(ScalarFunction):
    """Has one metric of each kind."""

    def open(self, context):
        group = context.get_metric_group()
        model = group.add_group("model").add_group("version", "v1")
        self.rows = group.counter("rows")
        self.open_rows = model.counter("open rows")
        self.events = model.meter("events")
        self.sizes = model.distribution("sizes")
        self.times = model.histogram("times", [10, 100])
        self.last = group.gauge("last")
        group.gauge("pid", os.getpid)
        # Of the first batch.
        group.counter("opened").inc()

    def eval(self, a):
        self.rows.inc()
        self.open_rows.inc(2)
        self.open_rows.dec()
        self.events.mark_event(2)
        self.sizes.update(a)
        self.times.update(a)
        self.last.set(a)
        return 100 // a


everything = udf(Everything(), result_type="bigint")


class Late(ScalarFunction):
    """Asks for its metrics in its calls."""

    def open(self, context):
        self.group = context.get_metric_group()

    def eval(self, a):
        if a:
            self.group.add_group("value", str(a)).counter("seen").inc()
        return a


late = udf(Late(), result_type="bigint")


class KilledOnce(ScalarFunction):
    """Kills its worker in the middle of the batch in which the file that a row names does not exist yet."""

    def open(self, context):
        self.rows = context.get_metric_group().counter("rows")

    def eval(self, path):
        self.rows.inc()
        if path.startswith("/") and not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return path


killed_once = udf(KilledOnce(), result_type="string")


class Slow(ScalarFunction):
    def open(self, context):
        self.rows = context.get_metric_group().counter("rows")

    def eval(self, a):
        self.rows.inc()
        time.sleep(a / 1000)
        return a


slow = udf(Slow(), result_type="bigint")


class Large(ScalarFunction):
    """Its result is over the limit, which is found out after the call."""

    def open(self, context):
        self.rows = context.get_metric_group().counter("rows")

    def eval(self, a):
        self.rows.inc()
        return "x" * a


large = udf(Large(), result_type="string")


class Kept(KeyedProcessFunction):
    """Keeps a value per key and sets a timer, at `put`; else it reads the value."""

    output = {"key": "bigint", "there": "bigint"}
    kept = ValueState("bigint", ttl=Ttl(100, count_reads=True))

    def process_element(self, value, ctx):
        if value.path == "put":
            self.kept.update(value.key)
            ctx.timer_service().register_event_time_timer(1_000)
        else:
            yield value.key, int(self.kept.value() is not None)


class Keyed(KeyedProcessFunction):
    """Counts rows; even keys give no results. Kills its worker in the middle of a bundle as `KilledOnce` does."""

    output = {"key": "bigint", "total": "bigint"}
    total = ValueState("bigint")

    def open(self, runtime_context):
        group = runtime_context.get_metrics_group()
        self.rows = group.counter("rows")
        self.sizes = group.distribution("sizes")

    def process_element(self, value, ctx):
        self.rows.inc()
        total = (self.total.value() or 0) + 1
        self.sizes.update(total)
        self.total.update(total)
        if value.path.startswith("/") and not os.path.exists(value.path):
            open(value.path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if value.key % 2:
            yield value.key, total
