"""The decorators with which authors declare functions."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

from pillion._native import Type
from pillion.context import FunctionContext
from pillion.errors import PillionError
from pillion.types import to_type

FuncType = Literal["general", "pandas", "arrow"]
Kind = Literal["scalar", "map"]
FUNC_TYPES = ("general", "pandas", "arrow")


class ScalarFunction:
    """Base class of functions that need set-up: override :meth:`eval`, and :meth:`open` and :meth:`close` as needed.

    One instance lives in each worker; `open` runs once before its first call (load a model there), `close` once when
    the worker ends.
    """

    def open(self, function_context: FunctionContext) -> None:
        """Called once per worker, before the first call."""

    def close(self) -> None:
        """Called once, when the worker ends in an orderly way."""

    def is_deterministic(self) -> bool:
        """Whether equal arguments always give equal results."""
        return True

    def eval(self, *args: Any) -> Any:
        """The function itself: called with one value, `pandas.Series` or `pyarrow.Array` per argument."""
        raise NotImplementedError(f"`{type(self).__name__}` has no `eval`")


class UserDefinedFunction:
    """A function with its declaration. Calling it calls the function, after opening it if need be."""

    def __init__(
        self,
        target: Callable[..., Any] | ScalarFunction,
        *,
        kind: Kind = "scalar",
        result_type: object = None,
        input_types: object = None,
        func_type: str = "general",
        deterministic: bool | None = None,
        name: str | None = None,
    ) -> None:
        self.target = target
        self.name = name or _name_of(target)
        self.kind: Kind = kind
        self.result_type: Type | None = None if result_type is None else to_type(result_type)
        self.input_types: tuple[Type, ...] | None = None if input_types is None else _input_types(input_types)
        self.func_type = _checked_func_type(self.name, func_type)
        self.function: Callable[..., Any] = target.eval if isinstance(target, ScalarFunction) else target
        if deterministic is None:
            deterministic = target.is_deterministic() if isinstance(target, ScalarFunction) else True
        self.deterministic = deterministic
        self._opened = False
        functools.update_wrapper(self, self.function, updated=())  # attributes of a callable object stay its own
        self.__doc__ = _doc_of(target)
        _refuse_coroutines(self.name, self.function, kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.open(FunctionContext(self.name))
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        result = f", result_type={str(self.result_type)!r}" if self.result_type is not None else ""
        return f"<{self.kind} function `{self.name}`, func_type={self.func_type!r}{result}>"

    def copy(self) -> UserDefinedFunction:
        """The same function around a copy of the target, not opened. Raises what copying the target raises."""
        target = copy.deepcopy(self.target)
        if target is self.target:
            return self
        made = copy.copy(self)
        made.target, made._opened = target, False
        made.function = target.eval if isinstance(target, ScalarFunction) else target
        return made

    def open(self, context: FunctionContext) -> None:
        """Open the function unless it is open."""
        if not self._opened:
            if isinstance(self.target, ScalarFunction):
                self.target.open(context)
            self._opened = True

    def close(self) -> None:
        """Close the function if it is open."""
        if self._opened:
            self._opened = False
            if isinstance(self.target, ScalarFunction):
                self.target.close()


@overload
def udf(f: Callable[..., Any] | ScalarFunction | type[ScalarFunction]) -> UserDefinedFunction: ...
@overload
def udf(
    f: Callable[..., Any] | ScalarFunction | type[ScalarFunction],
    input_types: object = None,
    result_type: object = None,
    deterministic: bool | None = None,
    name: str | None = None,
    func_type: FuncType = "general",
) -> UserDefinedFunction: ...
@overload
def udf(
    f: None = None,
    input_types: object = None,
    result_type: object = None,
    deterministic: bool | None = None,
    name: str | None = None,
    func_type: FuncType = "general",
) -> Callable[[Callable[..., Any] | ScalarFunction | type[ScalarFunction]], UserDefinedFunction]: ...
def udf(
    f: Callable[..., Any] | ScalarFunction | type[ScalarFunction] | None = None,
    input_types: object = None,
    result_type: object = None,
    deterministic: bool | None = None,
    name: str | None = None,
    func_type: FuncType = "general",
) -> Any:
    """Declare a scalar function: columns in, one column of the same length out.

    Use it as `@udf`, as `@udf(result_type=..., ...)`, or as `udf(something, result_type=...)` on a function, a lambda,
    a callable object, a `functools.partial`, or a :class:`ScalarFunction` (class or instance).

    Args:
        f: what to declare.
        input_types: one type or a list of them, to which the columns are converted; if left out, columns are given as
        they are, and checked against the annotations of a general function.
        result_type: the type of the result, see :func:`pillion.types.to_type`; if left out, the return annotation.
        deterministic: whether equal arguments give equal results; default True, or what `is_deterministic` says.
        name: shown in place of the function's own name.
        func_type: what the function is called with. `"general"`: plain Python values, once per row. `"pandas"`: one
        `pandas.Series` per argument, once per batch. `"arrow"`: one `pyarrow.Array` per argument, once per batch.

    Raises:
        PillionError: `declaration_invalid`, or `not_a_function`.
    """
    return _declare("scalar", f, input_types, result_type, deterministic, name, func_type)


def map_function(
    f: Callable[..., Any] | ScalarFunction | type[ScalarFunction] | None = None,
    *,
    result_type: object = None,
    deterministic: bool | None = None,
    name: str | None = None,
    func_type: FuncType = "general",
) -> Any:
    """Declare a map function: whole rows in, whole rows out, as many as it likes.

    Used like :func:`udf`. `result_type` names the columns of the output: a dict of types, `DataTypes.ROW([...])`, a
    pyarrow schema; if left out, the output has the columns of the input. With `func_type`

    * `"general"`, the function is called with one :class:`pillion.Row` per row, and returns a row (`Row`, tuple or
      dict), None to drop it, or a list or generator of rows;
    * `"pandas"`, it is called with one `pandas.DataFrame` per batch and returns a DataFrame, whose columns are matched
      by name (its index is ignored);
    * `"arrow"`, it is called with one `pyarrow.RecordBatch` and returns a RecordBatch or a Table, matched by name.
    """
    return _declare("map", f, None, result_type, deterministic, name, func_type)


def _declare(
    kind: Kind,
    f: Any,
    input_types: object,
    result_type: object,
    deterministic: bool | None,
    name: str | None,
    func_type: str,
) -> Any:
    def decorate(target: Any) -> UserDefinedFunction:
        return UserDefinedFunction(
            callable_target(target),
            kind=kind,
            result_type=result_type,
            input_types=input_types,
            func_type=func_type,
            deterministic=deterministic,
            name=name,
        )

    return decorate if f is None else decorate(f)


def callable_target(target: Any, name: str | None = None) -> Callable[..., Any] | ScalarFunction:
    """`target` as something that can be declared; a class of :class:`ScalarFunction` is instantiated.

    `name` is how it was found.
    """
    if isinstance(target, type) and issubclass(target, ScalarFunction):
        return target()
    if isinstance(target, UserDefinedFunction):
        return target.target
    if isinstance(target, ScalarFunction) or (callable(target) and not isinstance(target, type)):
        return target
    hint = "decorate a function, or an instance of a class with `__call__`"
    if isinstance(target, type):
        hint = f"derive `{target.__name__}` from `pillion.ScalarFunction`, or name a function"
    what = _describe(target) if name is None else f"`{name}`, {_describe(target)},"
    raise PillionError("not_a_function", f"{what} is no function that Pillion can run", hint=hint)


def _describe(target: object) -> str:
    return (
        f"the class `{target.__name__}`" if isinstance(target, type) else f"a value of type `{type(target).__name__}`"
    )


def _name_of(target: Any) -> str:
    while isinstance(target, functools.partial):
        target = target.func
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else type(target).__name__


def _doc_of(target: Any) -> str | None:
    """The author's text; for an object with `eval` or `__call__`, that of its class."""
    while isinstance(target, functools.partial):
        target = target.func
    return inspect.getdoc(target)


def _input_types(declared: object) -> tuple[Type, ...]:
    if isinstance(declared, (list, tuple)):
        return tuple(to_type(one) for one in declared)
    return (to_type(declared),)


def _checked_func_type(name: str, func_type: str) -> str:
    if func_type not in FUNC_TYPES:
        known: Iterable[str] = (f"`{one}`" for one in FUNC_TYPES)
        message = f"`{name}` has the unknown func_type `{func_type}`"
        raise PillionError("declaration_invalid", message, hint=f"choose one of {', '.join(known)}")
    return func_type


def _refuse_coroutines(name: str, function: Any, kind: Kind) -> None:
    while isinstance(function, functools.partial):
        function = function.func
    code = function if inspect.isroutine(function) else getattr(type(function), "__call__", function)
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise PillionError(
            "declaration_invalid",
            f"`{name}` is an async function",
            hint="declare an ordinary function; inside it, `asyncio.run(...)` runs a coroutine",
        )
    if kind == "scalar" and inspect.isgeneratorfunction(code):
        raise PillionError(
            "declaration_invalid",
            f"`{name}` is a generator, but a scalar function returns one value",
            hint="return the value, or declare it with `map_function` to produce any number of rows",
        )
