"""Windows, and lists and maps that are too large to come with their bundle, of `tests/windows.rs`. Input: key, value, time."""

import os
import threading

from pillion import AggregateFunction, KeyedProcessFunction, ListState, MapState, Ttl, ValueState
from pillion import windows as w
from pillion.stateful import store

OUTPUT = {"key": "bigint", "end": "bigint", "count": "bigint", "sum": "bigint"}


class CountAndSum(AggregateFunction):
    accumulator = "row<count bigint, sum bigint>"

    def create_accumulator(self):
        return (0, 0)

    def add(self, row, accumulator):
        return (accumulator[0] + 1, accumulator[1] + row.value)

    def get_result(self, accumulator):
        return tuple(accumulator)

    def merge(self, a, b):
        return (a[0] + b[0], a[1] + b[1])


def end_of(window):
    return getattr(window, "end", -1)


def of_result(key, context, elements):
    ((count, total),) = elements
    return [(key, end_of(context.window()), count, total)]


def of_rows(key, context, elements):
    values = [row.value for row in elements]
    return [(key, end_of(context.window()), len(values), sum(values))]


def both(assigner, **more):
    """Incremental, and over all rows."""
    incremental = w.window(assigner(), aggregate=CountAndSum, process=of_result, output=OUTPUT, **more)
    return incremental, w.window(assigner(), process=of_rows, output=OUTPUT, **more)


tumbling, tumbling_rows = both(lambda: w.TumblingEventTimeWindows.of(10))
sliding, sliding_rows = both(lambda: w.SlidingEventTimeWindows.of(20, 5))
sessions, sessions_rows = both(lambda: w.EventTimeSessionWindows.with_gap(4))
counted, counted_rows = both(lambda: w.count_window(3))


class History(KeyedProcessFunction):
    """Appends to a list as many texts of a kibibyte as the value says; how many there are, and of how many values."""

    output = {"key": "bigint", "count": "bigint", "different": "bigint"}
    texts = ListState("string")

    def process_element(self, value, ctx):
        self.texts.add_all([f"{value.value:04}" * 256] * value.value)
        found = self.texts.get() if value.time else list(self.texts)
        yield value.key, len(found), len({text[:4] for text in found})


class Inventory(KeyedProcessFunction):
    """A map into which 0 puts ten thousand entries. Others look up, remove the entry, and count what is left."""

    output = {"key": "bigint", "found": "bigint", "left": "bigint"}
    entries = MapState("bigint", "string")

    def process_element(self, value, ctx):
        if value.value == 0:
            self.entries.put_all({one: f"{one}" * 8 for one in range(10_000)})
            yield value.key, -1, len(self.entries)
            return
        found = self.entries.get(value.value)
        self.entries.remove(value.value)
        left = sum(1 for _ in self.entries.items()) if value.time else len(list(self.entries))
        yield value.key, -1 if found is None else int(found[: len(found) // 8]), left


class Paths(KeyedProcessFunction):
    """A large map and a small one of paths. 0 fills eleven folders; others empty one, all but its last file. What is left."""

    output = {"key": "bigint", "large": "bigint", "small": "bigint", "found": "bigint"}
    large = MapState("string", "string")
    small = MapState("bytes", "bigint")

    def process_element(self, value, ctx):
        if value.value == 0:
            self.large.put_all({f"{folder}/{file}": "x" * 200 for folder in range(1, 12) for file in range(200)})
            self.small.put_all({f"{folder}/".encode(): folder for folder in range(1, 12)})
        else:
            self.large.put(f"{value.value}/first", "")
            self.large.clear_prefix(f"{value.value}/")
            self.large.put(f"{value.value}/last", "")
            self.small.clear_prefix(f"{value.value}".encode())
        yield value.key, len(self.large), len(self.small), int(f"{value.value + 1}/199" in self.large)


class Remembered(KeyedProcessFunction):
    """What was read or written less than 100 ms of processing time ago: a value, a list and an entry of a map."""

    output = {"key": "bigint", "value": "bigint", "list": "bigint", "entry": "bigint"}
    value = ValueState("bigint", ttl=Ttl(100, count_reads=True))
    items = ListState("bigint", ttl=Ttl(100, count_reads=True))
    entries = MapState("bigint", "bigint", ttl=Ttl(100, count_reads=True))

    def process_element(self, value, ctx):
        if value.value:
            self.value.update(value.value)
            self.items.add(value.value)
            self.entries.put(1, value.value)
        else:
            yield value.key, self.value.value(), sum(self.items.get()) or None, self.entries.get(1)


def _dying(fetch_all):
    """The first worker that asks for state ends while another of its threads waits for it."""

    def fetch_and_die(bundle, asked):
        try:
            os.close(os.open(os.environ["TEST_MARK"], os.O_CREAT | os.O_EXCL))
        except (FileExistsError, KeyError):
            return fetch_all(bundle, asked)
        asking = threading.Event()

        def ask():
            asking.set()
            fetch_all(bundle, asked)

        threading.Thread(target=ask, daemon=True).start()
        asking.wait()
        os._exit(9)

    return fetch_and_die


if "TEST_MARK" in os.environ:
    from pillion.windows import engine

    store.fetch_all = engine.fetch_all = _dying(store.fetch_all)
