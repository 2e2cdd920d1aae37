"""A function whose rows say what it does, for programs that are compared with a model (`tests/exactly_once.rs`). It needs no package."""

from pillion import KeyedProcessFunction, ListState, MapState, ReducingState, ValueState

NOTHING = -1


class Program(KeyedProcessFunction):
    """A row's value is an operation and an argument below a thousand; what reads gives a row, as do timers."""

    output = {"key": "bigint", "what": "bigint", "first": "bigint", "second": "bigint"}
    value = ValueState("bigint")
    items = ListState("bigint")
    entries = MapState("bigint", "bigint")
    largest = ReducingState("bigint", max)

    def process_element(self, row, ctx):
        what, argument = divmod(row.value, 1000)
        timers = ctx.timer_service()
        if what == 0:
            yield row.key, what, self.read(), argument
        elif what == 1:
            self.value.update(argument)
        elif what == 2:
            self.value.clear()
        elif what == 3:
            self.items.add(argument)
        elif what == 4:
            items = list(self.items.get())
            yield row.key, what, sum(item * (at + 1) for at, item in enumerate(items)), len(items)
        elif what == 5:
            self.items.clear()
        elif what == 6:
            self.entries.put(argument % 5, argument)
        elif what == 7:
            self.entries.remove(argument % 5)
        elif what == 8:
            found = self.entries.get(argument % 5)
            yield row.key, what, NOTHING if found is None else found, sum(key * value for key, value in self.entries.items())
        elif what == 9:
            self.largest.add(argument)
        elif what == 10:
            found = self.largest.get()
            yield row.key, what, NOTHING if found is None else found, 0
        elif what == 11:
            timers.register_event_time_timer(argument)
        elif what == 12:
            timers.delete_event_time_timer(argument)

    def on_timer(self, timestamp, ctx):
        yield ctx.get_current_key(), 100, timestamp, self.read()
        self.value.update(timestamp)
        if timestamp % 3 == 0:
            ctx.timer_service().register_event_time_timer(timestamp + 7)

    def read(self):
        found = self.value.value()
        return NOTHING if found is None else found
