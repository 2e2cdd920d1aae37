"""The declaration of a window: an assigner, a trigger, and what becomes of the elements."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from pillion.cells import PICKLED, AggregatingState, ListState, ReducingState, aggregator, reducer
from pillion.errors import PillionError
from pillion.functions import Function, OutputTag, declared_cells
from pillion.stateful.declare import StatefulFunction, descriptors_of
from pillion.stateful.outputs import PICKLED as PICKLED_FORM
from pillion.stateful.outputs import Output
from pillion.stateful.store import Store
from pillion.windows.assigners import MergingWindowAssigner
from pillion.windows.kinds import invalid, milliseconds

CONTENTS = "window-contents"
"""The cell with the elements, or the accumulator, of a window."""


class WindowOperation(Function):
    """The target of a declared window."""

    pillion_stateful = "window"

    def __init__(
        self,
        assigner: Any,
        *,
        process: Any,
        reduce: Any,
        aggregate: Any,
        accumulator: object,
        trigger: Any,
        evictor: Any,
        lateness: Any,
        late: OutputTag | None,
        func_type: str | None,
    ) -> None:
        self.assigner = assigner
        self.merging = isinstance(assigner, MergingWindowAssigner)
        self.trigger = assigner.get_default_trigger(None) if trigger is None else trigger
        self.evictor = evictor
        self.lateness = milliseconds(lateness)
        self.late = late
        self.func_type = func_type or "general"
        self.process = process() if isinstance(process, type) else process
        self.reduce = None if reduce is None else reducer(reduce)
        self.aggregate = None if aggregate is None else aggregator(aggregate)
        self.accumulator = accumulator
        self._parts = [one for one in (self.process, reduce, self.aggregate) if isinstance(one, Function)]
        self._check()

    def open(self, runtime_context: Any) -> None:
        """Open the functions, and declare what they, the trigger and the assigner keep."""
        store: Store = runtime_context._store
        for part in self._parts:
            for attribute, one in declared_cells(part).items():
                setattr(part, attribute, store.declare(one.spec(one.name or attribute)).plain)
            part.open(runtime_context)
        for part in (self.assigner, self.trigger, self.process):
            for descriptor in descriptors_of(part):
                store.declare(descriptor.spec())

    def close(self) -> None:
        """Close the functions."""
        for part in self._parts:
            part.close()

    def contents(self, store: Store, element: Output) -> Any:
        """The cell of the contents, for elements of this type."""
        if self.evictor is not None:
            kept: object = (
                PICKLED if element.form == PICKLED_FORM else {"value": element.element, "timestamp": "bigint"}
            )
            return store.declare(ListState(kept, name=CONTENTS).spec())
        if self.reduce is not None:
            return store.declare(ReducingState(element.element, self.reduce, name=CONTENTS).spec())
        if self.aggregate is not None:
            declared = (
                self.accumulator if self.accumulator is not None else getattr(self.aggregate, "accumulator", None)
            )
            kept = PICKLED if declared is None else declared
            return store.declare(AggregatingState(kept, self.aggregate, name=CONTENTS).spec())
        return store.declare(ListState(element.element, name=CONTENTS).spec())

    def _check(self) -> None:
        invalid(self.reduce is not None and self.aggregate is not None, "a window reduces or aggregates, not both")
        nothing = self.process is None and self.reduce is None and self.aggregate is None
        invalid(nothing, "a window needs `process`, `reduce` or `aggregate`")
        invalid(self.lateness < 0, "the allowed lateness of a window is negative")
        invalid(bool(self.lateness) and not self.assigner.is_event_time(), "allowed lateness is for event time only")
        cannot = self.merging and not self.trigger.can_merge()
        invalid(cannot, f"`{type(self.trigger).__name__}` cannot be used with windows that merge")
        vectorized = self.func_type != "general"
        plain = callable(self.process) and not isinstance(self.process, Function)
        invalid(vectorized and not plain, f"a window of func_type {self.func_type} needs a plain function `process`")
        invalid(self.func_type not in ("general", "pandas", "arrow"), f"windows have no func_type `{self.func_type}`")
        merged = self.reduce is not None or self.aggregate is not None
        invalid(vectorized and merged, f"a window of func_type {self.func_type} cannot aggregate")
        if self.merging and self.aggregate is not None and self.evictor is None:
            merges = callable(getattr(self.aggregate, "merge", None))
            invalid(not merges, f"`{type(self.aggregate).__name__}` needs `merge`, since its windows merge")
        if (
            self.process is not None
            and not plain
            and not any(hasattr(self.process, one) for one in ("process", "apply"))
        ):
            raise PillionError(
                "not_a_function",
                f"a value of type `{type(self.process).__name__}` is no window function",
                hint="derive it from `pillion.ProcessWindowFunction`, or give a function",
            )


def window(
    assigner: Any,
    *,
    process: Any = None,
    reduce: Any = None,
    aggregate: Any = None,
    accumulator: object = None,
    output: object = None,
    trigger: Any = None,
    evictor: Any = None,
    lateness: Any = 0,
    late: OutputTag | None = None,
    side_outputs: Iterable[OutputTag] = (),
    func_type: str | None = None,
    name: str | None = None,
) -> StatefulFunction:
    """A function over windows of a keyed stream.

    Args:
        assigner: which windows an element belongs to, for example `TumblingEventTimeWindows.of(60_000)`.
        process: what makes rows of a whole window: a :class:`pillion.ProcessWindowFunction`, a
            :class:`pillion.WindowFunction`, a function `f(key, context, elements)`; with a `func_type` a function
            `f(frame, context)` of one DataFrame or RecordBatch. With `reduce` or `aggregate`, its only element is their
            result.
        reduce: merges elements as they come.
        aggregate: an :class:`pillion.AggregateFunction`, to which elements are added as they come.
        accumulator: the type of its accumulator; else its attribute `accumulator`; else it is pickled.
        output: the columns of the result; left out with `reduce` alone, those of the input.
        trigger: when a window gives its result; left out, what suits the assigner.
        evictor: which elements it drops before that.
        lateness: how long after its end a window still takes elements, in ms.
        late: where elements go that are too late; they are dropped without it.
        side_outputs: further tags that `process` sends to.
        func_type: `"pandas"` or `"arrow"`.
        name: shown in messages.

    Raises:
        PillionError: `declaration_invalid`, `not_a_function`.
    """
    operation = WindowOperation(
        assigner,
        process=process,
        reduce=reduce,
        aggregate=aggregate,
        accumulator=accumulator,
        trigger=trigger,
        evictor=evictor,
        lateness=lateness,
        late=late,
        func_type=func_type,
    )
    tags = [*side_outputs, *(() if late is None else (late,))]
    shown = name or _name_of(process or aggregate or reduce)
    made = StatefulFunction(operation, {"output": output, "side_outputs": tags, "name": shown})
    made.__doc__ = inspect.getdoc(process) if inspect.isroutine(process) else None
    return made


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
