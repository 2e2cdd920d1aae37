"""State, declared: cells as class attributes, and the descriptors of PyFlink."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pillion._native import Type
from pillion.errors import PillionError
from pillion.types import to_type

VALUE, LIST, MAP, REDUCING, AGGREGATING, BROADCAST = "value", "list", "map", "reducing", "aggregating", "broadcast"
"""The kinds of cells."""


class _Pickled:
    """The type of values that have no Arrow type."""

    pickled = True

    def __repr__(self) -> str:
        return "PICKLED"


PICKLED = _Pickled()
"""Any Python object, kept as a pickle: the exception, for values that have no Arrow type. It cannot be read outside of
Python, and not after its class has changed.
"""


@dataclass(frozen=True)
class Ttl:
    """How long a value lives after it was last written; or, if reads count, read."""

    ms: int
    count_reads: bool = False
    return_expired: bool = False
    """Whether an expired value is still given until it is cleaned up."""

    @staticmethod
    def of(declared: Any) -> Ttl | None:
        """A time to live from ms, a timedelta, a `Ttl`, or PyFlink's `StateTtlConfig`. Raises `declaration_invalid`."""
        if hasattr(declared, "to_ttl"):
            declared = declared.to_ttl()
        if declared is None or isinstance(declared, Ttl):
            return _positive(declared)
        if isinstance(declared, datetime.timedelta):
            return _positive(Ttl(declared // datetime.timedelta(milliseconds=1)))
        if isinstance(declared, int) and not isinstance(declared, bool):
            return _positive(Ttl(declared))
        raise PillionError(
            "declaration_invalid",
            f"a value of type `{type(declared).__name__}` is no time to live",
            hint="give milliseconds, a `datetime.timedelta` or a `pillion.Ttl`",
        )

    def as_dict(self) -> dict[str, Any]:
        """The plain data that travels to the sidecar."""
        return {
            "ms": self.ms,
            "update": "read_and_write" if self.count_reads else "create_and_write",
            "visibility": "return_expired" if self.return_expired else "never_return_expired",
        }


def _positive(ttl: Ttl | None) -> Ttl | None:
    if ttl is not None and ttl.ms <= 0:
        raise PillionError("declaration_invalid", f"a time to live of {ttl.ms} ms is not positive")
    return ttl


@dataclass(frozen=True)
class CellSpec:
    """What is declared of one cell."""

    name: str
    kind: str
    value: Type
    key: Type | None = None
    ttl: Ttl | None = None
    pickled: bool = False
    pickled_key: bool = False
    function: Any = None
    """The function of a reducing or aggregating cell."""

    def same(self, other: CellSpec) -> bool:
        """Whether both declare the same cell; functions are compared by nothing, since lambdas are not equal."""
        mine = (self.name, self.kind, self.value, self.key, self.ttl, self.pickled, self.pickled_key)
        theirs = (other.name, other.kind, other.value, other.key, other.ttl, other.pickled, other.pickled_key)
        return mine == theirs

    def as_dict(self) -> dict[str, Any]:
        """The plain data that travels to the sidecar; types stay native."""
        return {
            "name": self.name,
            "kind": self.kind,
            "value_type": self.value,
            "map_key_type": self.key,
            "ttl": None if self.ttl is None else self.ttl.as_dict(),
            "pickled": self.pickled,
        }


def stored_type(declared: object) -> tuple[Type, bool]:
    """The type of what is kept, and whether it is a pickle. Raises `declaration_invalid`."""
    if getattr(declared, "pickled", False):
        return Type.parse("bytes"), True
    return to_type(declared).with_nullable(True), False


class Declaration:
    """A cell, declared as a class attribute: within a call the attribute is the cell of the current key.

    `name` is needed where the declaration is not an attribute; else the attribute's name is taken.
    """

    kind = ""

    def __init__(
        self, value: object, *, key: object = None, ttl: Any = None, name: str = "", function: Any = None
    ) -> None:
        self.name = name
        self._value, self.pickled = stored_type(value)
        self._key: Type | None = None
        self.pickled_key = False
        if key is not None:
            self._key, self.pickled_key = stored_type(key)
        self.ttl = Ttl.of(ttl)
        self._function = function

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise PillionError(
            "state_without_key",
            f"the cell `{self.name}` was used before the function was opened",
            hint="state belongs to a key: use it in `process_element` or `on_timer`",
        )

    def spec(self, name: str = "") -> CellSpec:
        """The declaration as data. Raises `declaration_invalid` if it has no name."""
        name = name or self.name
        if not name:
            raise PillionError("declaration_invalid", "a cell has no name", hint='declare it with `name="..."`')
        return CellSpec(
            name, self.kind, self._value, self._key, self.ttl, self.pickled, self.pickled_key, self._function
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._value)!r}, name={self.name!r})"


class ValueState(Declaration):
    """One value per key: `value()`, `update(value)`, `clear()`."""

    kind = VALUE

    def __init__(self, value: object, *, ttl: Any = None, name: str = "") -> None:
        super().__init__(value, ttl=ttl, name=name)


class ListState(Declaration):
    """A list per key: `get()`, `add(value)`, `add_all(values)`, `update(values)`, `clear()`. Adding reads nothing."""

    kind = LIST

    def __init__(self, value: object, *, ttl: Any = None, name: str = "") -> None:
        super().__init__(value, ttl=ttl, name=name)


class MapState(Declaration):
    """A map per key, used like a dict: `get`, `put`, `remove`, `contains`, `items`, ..., `clear()`, and
    `clear_prefix(prefix)` where its keys are strings or bytes.
    """

    kind = MAP

    def __init__(self, key: object, value: object, *, ttl: Any = None, name: str = "") -> None:
        super().__init__(value, key=key, ttl=ttl, name=name)


class BroadcastState(Declaration):
    """A map that every key sees, and that only broadcast elements change."""

    kind = BROADCAST

    def __init__(self, key: object, value: object, *, name: str = "") -> None:
        super().__init__(value, key=key, name=name)


class ReducingState(Declaration):
    """One value per key, into which `add(value)` merges by `reduce(current, value)`; `get()` gives it."""

    kind = REDUCING

    def __init__(self, value: object, reduce: Any, *, ttl: Any = None, name: str = "") -> None:
        super().__init__(value, ttl=ttl, name=name, function=reducer(reduce))


class AggregatingState(Declaration):
    """An accumulator per key, into which `add(value)` merges by an AggregateFunction; `get()` gives its result.

    `value` is the type of the accumulator.
    """

    kind = AGGREGATING

    def __init__(self, value: object, aggregate: Any, *, ttl: Any = None, name: str = "") -> None:
        super().__init__(value, ttl=ttl, name=name, function=aggregator(aggregate))


def reducer(function: Any) -> Callable[[Any, Any], Any]:
    """A ReduceFunction (or its class) or callable of two values, as a callable. Raises `declaration_invalid`."""
    if isinstance(function, type) and hasattr(function, "reduce"):
        function = function()
    if hasattr(function, "reduce"):
        found: Callable[[Any, Any], Any] = function.reduce
        return found
    if callable(function):
        called: Callable[[Any, Any], Any] = function
        return called
    raise PillionError("declaration_invalid", "a reducing cell needs a ReduceFunction or a callable of two values")


def aggregator(function: Any) -> Any:
    """An AggregateFunction, instantiated if it is a class. Raises `declaration_invalid`."""
    if isinstance(function, type):
        function = function()
    if all(hasattr(function, name) for name in ("create_accumulator", "add", "get_result")):
        return function
    raise PillionError(
        "declaration_invalid",
        f"a value of type `{type(function).__name__}` is no AggregateFunction",
        hint="it has `create_accumulator`, `add`, `get_result` and, for windows that merge, `merge`",
    )


class StateDescriptor:
    """As in PyFlink: a name and a type, given to `RuntimeContext.get_state` and its like in `open`."""

    declaration: type[Declaration]

    def __init__(self, name: str, type_info: object) -> None:
        self.name = name
        self.type_info = type_info
        self._ttl: Any = None

    def get_name(self) -> str:
        """The cell's name."""
        return self.name

    def enable_time_to_live(self, ttl_config: Any) -> None:
        """Let values expire."""
        self._ttl = ttl_config

    def spec(self) -> CellSpec:
        """The declaration as data."""
        return self.declaration(self.type_info, ttl=self._ttl, name=self.name).spec()


class ValueStateDescriptor(StateDescriptor):
    """Of a :class:`ValueState`."""

    declaration = ValueState


class ListStateDescriptor(StateDescriptor):
    """Of a :class:`ListState`; the type is that of an element."""

    declaration = ListState


class MapStateDescriptor(StateDescriptor):
    """Of a :class:`MapState`, or of broadcast state."""

    def __init__(self, name: str, key_type_info: object, value_type_info: object) -> None:
        super().__init__(name, value_type_info)
        self.key_type_info = key_type_info

    def spec(self) -> CellSpec:
        """The declaration as data."""
        return MapState(self.key_type_info, self.type_info, ttl=self._ttl, name=self.name).spec()

    def broadcast_spec(self) -> CellSpec:
        """The same as broadcast state."""
        return BroadcastState(self.key_type_info, self.type_info, name=self.name).spec()


class ReducingStateDescriptor(StateDescriptor):
    """Of a :class:`ReducingState`."""

    def __init__(self, name: str, reduce_function: Any, type_info: object) -> None:
        super().__init__(name, type_info)
        self._reduce_function = reduce_function

    def get_reduce_function(self) -> Any:
        """The function."""
        return self._reduce_function

    def spec(self) -> CellSpec:
        """The declaration as data."""
        return ReducingState(self.type_info, self._reduce_function, ttl=self._ttl, name=self.name).spec()


class AggregatingStateDescriptor(StateDescriptor):
    """Of an :class:`AggregatingState`; the type is that of the accumulator."""

    def __init__(self, name: str, agg_function: Any, state_type_info: object) -> None:
        super().__init__(name, state_type_info)
        self._agg_function = agg_function

    def get_agg_function(self) -> Any:
        """The function."""
        return self._agg_function

    def spec(self) -> CellSpec:
        """The declaration as data."""
        return AggregatingState(self.type_info, self._agg_function, ttl=self._ttl, name=self.name).spec()
