"""The declaration of stateful functions."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pillion.cells import Declaration, StateDescriptor
from pillion.context import FunctionContext
from pillion.errors import PillionError
from pillion.functions import KeyedProcessFunction, OutputTag, VectorizedProcessFunction, declared_cells
from pillion.stateful.context import RuntimeContext, broadcast_spec_of
from pillion.stateful.outputs import Output
from pillion.stateful.store import Store

FUNC_TYPES = ("general", "pandas", "arrow", "numpy")


class StatefulFunction:
    """A stateful function with its declaration. Made by :func:`process`, whose arguments `declared` holds."""

    kind = "process"

    def __init__(self, target: Any, declared: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.target = _instance(target, declared.get("func_type"))
        own = type(target).__name__ if hasattr(self.target, "pillion_stateful") else type(self.target).__name__
        self.name: str = declared.get("name") or getattr(target, "__name__", None) or own
        self.form: str = self.target.pillion_stateful
        self.func_type = str(getattr(self.target, "func_type", "general"))
        self.deterministic = True
        self.__doc__ = _doc_of(target)
        _check(self.name, self.target, self.func_type)
        output = declared.get("output")
        if output is None:
            output = getattr(self.target, "output", None)
        self.output: Output | None = None if output is None else Output.of(output)

        def both(what: str) -> list[Any]:
            return [*declared.get(what, ()), *getattr(self.target, what, ())]

        self.side_outputs = [(tag, Output.of(_type_of(tag))) for tag in dict.fromkeys(both("side_outputs"))]
        self.timers = list(dict.fromkeys(both("timers")))
        self.cells: dict[str, Declaration] = dict(declared.get("cells") or {})
        self.broadcast = both("broadcast")
        self.store: Store | None = None

    def copy(self) -> StatefulFunction:
        """The same function around a copy of the target, not opened."""
        made = copy.copy(self)
        made.target, made.store = copy.deepcopy(self.target), None
        return made

    def open(self, context: FunctionContext) -> None:
        """Declare the cells and open the function, unless it is open."""
        if self.store is not None:
            return
        store = Store(context.function_name)
        for attribute, declaration in declared_cells(self.target).items():
            setattr(self.target, attribute, store.declare(declaration.spec(declaration.name or attribute)).plain)
        for name, one in self.cells.items():
            store.declare(one.spec(one.name or name))
        for one in self.broadcast:
            store.declare(broadcast_spec_of(one))
        self.target.open(RuntimeContext(context.function_name, store, context.metrics))
        store.sealed = True
        self.store = store

    def close(self) -> None:
        """Close the function if it is open."""
        if self.store is not None:
            self.store = None
            self.target.close()

    def __repr__(self) -> str:
        return f"<stateful function `{self.name}`>"


def process(
    target: Any = None,
    *,
    output: object = None,
    side_outputs: Iterable[OutputTag] = (),
    cells: Mapping[str, Declaration] | None = None,
    timers: Iterable[str] = (),
    broadcast: Iterable[Any] = (),
    func_type: str | None = None,
    name: str | None = None,
) -> Any:
    """Declare a stateful function: rows, state and timers in; rows, state and timers out.

    Use it as `@process(output=...)` on a class, or as `process(instance, output=...)`. A class without it works too, if
    it has `output` (and `side_outputs`, `timers`) as attributes.

    Args:
        target: an instance or class of :class:`pillion.KeyedProcessFunction` or one of its like; or a function
            `f(value, ctx)`, called per row, or with another `func_type` `f(batch, ctx)`, called per bundle.
        output: the columns of the main output, as `{"name": type}`; a single type is one column `value`.
        side_outputs: the :class:`pillion.OutputTag`\\ s that it sends to.
        cells: cells by name, for a plain function: it finds them in `ctx.state`.
        timers: names of its timers.
        broadcast: MapStateDescriptors of its broadcast state.
        func_type: `"general"` for a plain function that is called per row; `"pandas"`, `"arrow"` or `"numpy"` for a
            vectorized one.
        name: shown in place of its own name.

    Raises:
        PillionError: `declaration_invalid`, or `not_a_function`.
    """
    declared: dict[str, Any] = {
        "output": output,
        "side_outputs": side_outputs,
        "cells": cells,
        "timers": timers,
        "broadcast": broadcast,
        "func_type": func_type,
        "name": name,
    }
    if target is None:
        return functools.partial(StatefulFunction, declared=declared)
    return StatefulFunction(target, declared)


class _Plain(KeyedProcessFunction):
    """A plain function that is called per row."""

    pillion_stateful = "process"

    def __init__(self, function: Any) -> None:
        self.process_element = function


class _PlainVectorized(VectorizedProcessFunction):
    """A plain function that is called per bundle."""

    def __init__(self, function: Any, func_type: str) -> None:
        self.process_batch = function
        self.func_type: str = func_type


def _instance(target: Any, func_type: str | None) -> Any:
    """An object of a class that the runtime knows. Raises `not_a_function`."""
    is_class = isinstance(target, type)
    known = bool(getattr(target, "pillion_stateful", None))
    if is_class and known:
        target = target()
    if known:
        if func_type is not None:
            target.func_type = func_type
        return target
    if callable(target) and not is_class:
        if func_type in (None, "general"):
            return _Plain(target)
        return _PlainVectorized(target, str(func_type))
    what = f"the class `{target.__name__}`" if is_class else f"a value of type `{type(target).__name__}`"
    raise PillionError(
        "not_a_function",
        f"{what} is no stateful function",
        hint="derive it from `pillion.KeyedProcessFunction` or one of its like",
    )


def _doc_of(target: Any) -> str | None:
    """The author's text, not that of the class that theirs derives from."""
    if inspect.isroutine(target):
        return inspect.getdoc(target)
    written = vars(target if isinstance(target, type) else type(target)).get("__doc__")
    return inspect.cleandoc(written) if isinstance(written, str) else None


def _check(name: str, target: Any, func_type: str) -> None:
    missing = [one for one in target.pillion_needs if not callable(getattr(target, one, None))]
    if missing:
        raise PillionError("declaration_invalid", f"`{name}` has no {' and no '.join(f'`{one}`' for one in missing)}")
    if func_type not in FUNC_TYPES:
        known = ", ".join(f"`{one}`" for one in FUNC_TYPES)
        raise PillionError(
            "declaration_invalid", f"`{name}` has the unknown func_type `{func_type}`", hint=f"choose one of {known}"
        )
    for one in target.pillion_needs:
        code = getattr(target, one)
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise PillionError("declaration_invalid", f"`{one}` of `{name}` is an async function")


def _type_of(tag: OutputTag) -> object:
    from pillion.cells import PICKLED

    return PICKLED if tag.type_info is None else tag.type_info


def descriptors_of(target: object) -> list[StateDescriptor]:
    """The descriptors that an object keeps as attributes, and those that its parts keep."""
    found: list[StateDescriptor] = []
    for value in vars(target).values() if hasattr(target, "__dict__") else ():
        if isinstance(value, StateDescriptor):
            found.append(value)
        elif hasattr(value, "on_element"):  # a trigger within a trigger
            found += descriptors_of(value)
    return found
