"""How each kind of row-at-a-time function is called: always `call(value, ctx)`, which gives an iterable or None."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pillion.cells import PICKLED, AggregatingState, MapState, ReducingState
from pillion.errors import PillionError
from pillion.stateful.outputs import Output
from pillion.stateful.store import Store
from pillion.stateful.tables import TableContext

Call = Callable[[Any, Any], "Iterable[Any] | None"]

CO = ("co_process", "keyed_co_process", "co_map", "co_flat_map")
KEYED = ("keyed_process", "keyed_co_process", "keyed_broadcast", "reduce", "aggregate", "window", "table")
ROWS = ("process", "keyed_process", "broadcast", "keyed_broadcast", "map", "flat_map", "filter", "reduce", "aggregate")


@dataclass
class Calls:
    """What to call: by input, for broadcast elements, and for timers."""

    inputs: list[Call]
    broadcast: Call | None = None
    on_timer: Callable[[int, Any], Iterable[Any] | None] | None = None


def calls_of(kind: str, target: Any, store: Store, element: Output) -> Calls:
    """The calls of a function of this kind; cells that it needs itself are declared in `store`."""
    if kind in ("process", "keyed_process"):
        return Calls([target.process_element], None, _timer(target))
    if kind in ("co_process", "keyed_co_process"):
        return Calls([target.process_element1, target.process_element2], None, _timer(target))
    if kind in ("broadcast", "keyed_broadcast"):
        return Calls([target.process_element], target.process_broadcast_element, _timer(target))
    if kind == "table":
        return table_calls(target, store)
    if kind == "map":
        return Calls([_one(target.map)])
    if kind == "co_map":
        return Calls([_one(target.map1), _one(target.map2)])
    if kind == "flat_map":
        return Calls([_many(target.flat_map)])
    if kind == "co_flat_map":
        return Calls([_many(target.flat_map1), _many(target.flat_map2)])
    if kind == "filter":
        keep = target.filter
        return Calls([lambda value, ctx: (value,) if keep(value) else None])
    if kind == "reduce":
        cell = store.declare(ReducingState(element.element, target, name="_reduce_state").spec()).plain
    elif kind == "aggregate":
        accumulator = PICKLED if target.accumulator is None else target.accumulator
        cell = store.declare(AggregatingState(accumulator, target, name="_aggregate_state").spec()).plain
    else:
        raise PillionError("not_a_function", f"functions of the kind `{kind}` are not called by row")

    def running(value: Any, ctx: Any) -> Iterable[Any]:
        cell.add(value)
        return (cell.get(),)

    return Calls([running])


def table_calls(target: Any, store: Store) -> Calls:
    """The calls of a process table function."""
    timers = store.declare(MapState("string", "bigint", name="pillion.timers").spec()).plain
    context: TableContext | None = None

    def of(ctx: Any) -> TableContext:
        nonlocal context
        if context is None:
            context = TableContext(ctx, timers)  # a plan has one
        return context

    def on_timer(timestamp: int, ctx: Any) -> Any:
        of(ctx)._fired(timestamp)
        return target.on_timer(of(ctx))

    return Calls([lambda value, ctx: target.eval(of(ctx), value)], None, on_timer)


def _timer(target: Any) -> Any:
    return getattr(target, "on_timer", None)


def _one(function: Callable[[Any], Any]) -> Call:
    return lambda value, ctx: (function(value),)


def _many(function: Callable[[Any], Any]) -> Call:
    return lambda value, ctx: function(value)
