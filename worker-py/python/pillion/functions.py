"""The classes that authors of stateful functions derive from, under the names that PyFlink gives them.

None is abstract in Python's sense: a method that is missing is reported when the function is declared.
"""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

from pillion.cells import Declaration
from pillion.errors import PillionError

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
W = TypeVar("W")


class TimeDomain(enum.Enum):
    """Which time a timer goes by."""

    EVENT_TIME = 0
    PROCESSING_TIME = 1


class OutputTag:
    """Names a side output: `yield tag, value` sends a value there.

    The type is that of a row, or of the value; without one, values are pickled.
    """

    def __init__(self, tag_id: str, type_info: object = None) -> None:
        if not tag_id:
            raise PillionError("declaration_invalid", "the tag of a side output is empty")
        self.tag_id = tag_id
        self.type_info = type_info

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputTag) and other.tag_id == self.tag_id

    def __hash__(self) -> int:
        return hash(self.tag_id)

    def __repr__(self) -> str:
        return f"OutputTag({self.tag_id!r})"


class Function:
    """What has a life: `open` runs once per worker before the first call, `close` when the worker ends."""

    pillion_stateful = ""
    """How the runtime calls it; empty for what cannot run by itself."""
    pillion_needs: tuple[str, ...] = ()
    """The methods that must be there."""

    def open(self, runtime_context: Any) -> None:
        """Load what is needed; cells may be declared here with `runtime_context.get_state(...)` and its like."""

    def close(self) -> None:
        """Release it."""


class Base:
    """The contexts, as annotations name them; what a function gets is the runtime's own."""

    class Context:
        """Given to each call."""

    class OnTimerContext(Context):
        """Given to `on_timer`."""

    class ReadOnlyContext(Context):
        """Given to calls that may not change broadcast state."""


class MapFunction(Function):
    """`map(value)` gives one row."""

    pillion_stateful, pillion_needs = "map", ("map",)


class FlatMapFunction(Function):
    """`flat_map(value)` gives any number of rows."""

    pillion_stateful, pillion_needs = "flat_map", ("flat_map",)


class FilterFunction(Function):
    """`filter(value)` says whether the row passes."""

    pillion_stateful, pillion_needs = "filter", ("filter",)


class CoMapFunction(Function):
    """`map1(value)` and `map2(value)`, for the rows of two inputs."""

    pillion_stateful, pillion_needs = "co_map", ("map1", "map2")


class CoFlatMapFunction(Function):
    """`flat_map1(value)` and `flat_map2(value)`, for the rows of two inputs."""

    pillion_stateful, pillion_needs = "co_flat_map", ("flat_map1", "flat_map2")


class ReduceFunction(Function):
    """`reduce(value1, value2)` merges two rows into one. By itself it gives the merged row of a key at each row."""

    pillion_stateful, pillion_needs = "reduce", ("reduce",)


class AggregateFunction(Function):
    """`create_accumulator()`, `add(value, accumulator)`, `get_result(accumulator)`; `merge(a, b)` for session windows.

    By itself it gives the result of a key at each row.
    """

    pillion_stateful, pillion_needs = "aggregate", ("create_accumulator", "add", "get_result")
    accumulator: object = None
    """The type of the accumulator; without one it is pickled."""


class KeySelector(Function):
    """`get_key(value)`."""


class ProcessFunction(Base, Function):
    """`process_element(value, ctx)`, without a key."""

    pillion_stateful, pillion_needs = "process", ("process_element",)


class KeyedProcessFunction(Base, Function):
    """`process_element(value, ctx)` for each row, and `on_timer(timestamp, ctx)` for each timer, of a key.

    Both are generators, or return an iterable or None.
    """

    pillion_stateful, pillion_needs = "keyed_process", ("process_element",)

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        """Called when a timer fires."""


class CoProcessFunction(Base, Function):
    """`process_element1(value, ctx)` and `process_element2(value, ctx)`, for the rows of two inputs, without a key."""

    pillion_stateful, pillion_needs = "co_process", ("process_element1", "process_element2")


class KeyedCoProcessFunction(Base, Function):
    """As :class:`CoProcessFunction`, with a key, state and timers."""

    pillion_stateful, pillion_needs = "keyed_co_process", ("process_element1", "process_element2")

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        """Called when a timer fires."""


class BaseBroadcastProcessFunction(Base, Function):
    """Rows meet broadcast elements: state that every key sees."""

    pillion_needs = ("process_element", "process_broadcast_element")


class BroadcastProcessFunction(BaseBroadcastProcessFunction, Generic[A, B, C]):
    """`process_element(value, ctx)` reads broadcast state, `process_broadcast_element(value, ctx)` changes it."""

    pillion_stateful = "broadcast"


class KeyedBroadcastProcessFunction(BaseBroadcastProcessFunction, Generic[A, B, C, D]):
    """The same with a key, state and timers for the rows."""

    pillion_stateful = "keyed_broadcast"

    def on_timer(self, timestamp: int, ctx: Any) -> Any:
        """Called when a timer fires."""


class WindowFunction(Function, Generic[A, B, C, D]):
    """`apply(key, window, inputs)` gives the rows of a window."""


class ProcessWindowFunction(Function, Generic[A, B, C, D]):
    """`process(key, context, elements)` gives the rows of a window; `clear(context)` drops what it kept of it."""

    class Context(Generic[W]):
        """`window()`, `current_watermark()`, `current_processing_time()`, `window_state()`, `global_state()`."""

    def clear(self, context: Any) -> None:
        """Called when the window is dropped."""


class AllWindowFunction(Function, Generic[A, B, C]):
    """`apply(window, inputs)`: a WindowFunction that does not care for the key."""


class ProcessAllWindowFunction(Function, Generic[A, B, C]):
    """`process(context, elements)`: a ProcessWindowFunction that does not care for the key."""

    class Context(Generic[W]):
        """As that of a ProcessWindowFunction."""

    def clear(self, context: Any) -> None:
        """Called when the window is dropped."""


class VectorizedProcessFunction(Function):
    """`process_batch(batch, ctx)` gets all rows of a bundle with their state as columns; `on_timers(timers, ctx)` all
    timers. Both return a batch or None.

    `func_type` says in which form: `"pandas"`, `"arrow"` or `"numpy"`.
    """

    pillion_stateful, pillion_needs = "vectorized", ("process_batch",)
    func_type = "pandas"

    def on_timers(self, timers: Any, ctx: Any) -> Any:
        """Called with the timers that fired."""


class ProcessTableFunction(Function):
    """A table in, a table out, as in Flink 2: `eval(ctx, row)` for each row of a key, `on_timer(ctx)` for each timer.

    State is declared as class attributes; timers have names, and a name has one timer at a time.
    """

    pillion_stateful, pillion_needs = "table", ("eval",)

    def on_timer(self, ctx: Any) -> Any:
        """Called when a timer fires."""


def declared_cells(function: object) -> dict[str, Declaration]:
    """The cells that are attributes of the function's class, by attribute."""
    found: dict[str, Declaration] = {}
    for cls in reversed(type(function).__mro__):
        found |= {name: one for name, one in vars(cls).items() if isinstance(one, Declaration)}
    return found
