"""A function as it was written for PyFlink, but for its imports."""

from pillion import process
from pillion.pyflink.common import Types
from pillion.pyflink.datastream import AggregateFunction, KeyedProcessFunction, RuntimeContext
from pillion.pyflink.datastream.state import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    ValueStateDescriptor,
)


class Mean(AggregateFunction):
    def create_accumulator(self):
        return 0, 0

    def add(self, value, accumulator):
        return accumulator[0] + value, accumulator[1] + 1

    def get_result(self, accumulator):
        return accumulator[0] // accumulator[1]

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]


class Everything(KeyedProcessFunction):
    """Every kind of state: the sum, how many, the largest, the mean, how many different, and what was pickled."""

    def open(self, runtime_context: RuntimeContext):
        self.total = runtime_context.get_state(ValueStateDescriptor("total", Types.LONG()))
        self.seen = runtime_context.get_list_state(ListStateDescriptor("seen", Types.LONG()))
        self.counts = runtime_context.get_map_state(MapStateDescriptor("counts", Types.LONG(), Types.LONG()))
        self.largest = runtime_context.get_reducing_state(ReducingStateDescriptor("largest", max, Types.LONG()))
        self.mean = runtime_context.get_aggregating_state(AggregatingStateDescriptor("mean", Mean(), Types.PICKLED_BYTE_ARRAY()))
        self.pickled = runtime_context.get_state(ValueStateDescriptor("pickled", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value, ctx: "KeyedProcessFunction.Context"):
        number = value[1]
        self.total.update((self.total.value() or 0) + number)
        self.seen.add(number)
        self.counts.put(number, (self.counts.get(number) or 0) + 1)
        self.largest.add(number)
        self.mean.add(number)
        before = self.pickled.value() or {"calls": 0}
        self.pickled.update({"calls": before["calls"] + 1})
        different = len(list(self.counts.keys()))
        yield value[0], self.total.value(), len(list(self.seen.get())), self.largest.get(), self.mean.get(), different, before["calls"]


everything = process(
    Everything(),
    output={name: "bigint" for name in ("key", "total", "seen", "largest", "mean", "different", "calls")},
)
