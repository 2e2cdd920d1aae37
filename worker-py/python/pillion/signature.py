"""What a function takes and gives, from its declaration, its signature and its annotations."""

from __future__ import annotations

import functools
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from pillion._native import Column, ConversionError, Type
from pillion.declare import UserDefinedFunction
from pillion.errors import PillionError, summary
from pillion.types import from_annotation

# Which columns may be given for a parameter of a general function that is annotated with a type of this kind. Python
# itself takes an int for a float; everything else must be what it says.
_INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_FLOATS = {"float16", "float32", "float64"}
_DECIMALS = {"decimal32", "decimal64", "decimal128", "decimal256"}
_ACCEPTED: dict[str, set[str]] = {
    "bool": {"bool"},
    "int64": _INTEGERS,
    "float64": _FLOATS | _INTEGERS,
    "utf8": {"utf8", "large_utf8", "utf8_view", "dictionary"},
    "binary": {"binary", "large_binary", "binary_view", "fixed_size_binary"},
    "decimal128": _DECIMALS | _INTEGERS,
    "date32": {"date32", "date64", "timestamp"},
    "timestamp": {"timestamp"},
    "time64": {"time32", "time64"},
    "duration": {"duration"},
    "list": {"list", "large_list", "fixed_size_list", "list_view", "large_list_view"},
    "map": {"map", "struct"},
}


@dataclass(frozen=True)
class Parameter:
    """One parameter; `type` is the declared or annotated one, None if unknown."""

    name: str
    type: Type | None
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Signature:
    """Parameters in order, and the result (None only for a map function whose output is as its input)."""

    parameters: tuple[Parameter, ...]
    result: Type | None

    def parameter(self, position: int) -> Parameter:
        """The parameter that takes argument `position`."""
        return self.parameters[min(position, len(self.parameters) - 1)]


def signature_of(udf: UserDefinedFunction, result_type: Type | None) -> Signature:
    """The signature of `udf`; `result_type` is the caller's override. Raises `declaration_invalid`."""
    hints, failure = _hints(udf.function)
    result = result_type or udf.result_type
    if result is None:
        result = from_annotation(hints["return"]) if "return" in hints else None
    if udf.kind == "map":
        if result is not None and result.kind != "struct":
            _invalid(
                f"`{udf.name}` is a map function, but its result type `{result}` names no columns",
                'for example `result_type={"id": "bigint", "temperature": "double"}`',
            )
    elif result is None:
        _no_result(udf, hints, failure)
    parameters = _parameters(udf, hints)
    if udf.kind == "map" and (not parameters or sum(not p.optional and not p.variadic for p in parameters) > 1):
        _invalid(
            f"`{udf.name}` is a map function, which takes one argument, but it has {len(parameters)}",
            "take the row or the batch",
        )
    if udf.kind == "scalar" and udf.func_type != "general" and not parameters:
        _invalid(f"`{udf.name}` takes no column, so that its result has no length", "declare it as a general function")
    return Signature(parameters, result)


def check_count(udf: UserDefinedFunction, signature: Signature, given: int) -> None:
    """Raise `argument_count` if the function cannot be called with so many columns."""
    required = sum(not p.optional and not p.variadic for p in signature.parameters)
    variadic = any(p.variadic for p in signature.parameters)
    most = len(signature.parameters)
    batch_function_without_columns = given == 0 and udf.func_type != "general"
    if required <= given and (variadic or given <= most) and not batch_function_without_columns:
        return
    required = max(required, 1) if udf.func_type != "general" else required
    takes = f"at least {required}" if variadic else str(most) if required == most else f"{required} to {most}"
    plural = "" if (required if variadic else most) == 1 else "s"
    names = ", ".join(("*" if p.variadic else "") + p.name for p in signature.parameters) or "no parameters"
    raise PillionError(
        "argument_count",
        f"`{udf.name}` takes {takes} column{plural}, but the plan gives it {given}",
        hint=f"its parameters are: {names}",
    )


def check_argument(
    udf: UserDefinedFunction, parameter: Parameter, position: int, name: str, given: Type
) -> Type | None:
    """The type to convert column `name` to before each call, or None to give it as it is. Raises `argument_type`."""
    if udf.input_types is not None:
        wanted = parameter.type
        if wanted is None or wanted == given or wanted.with_nullable(given.nullable) == given:
            return None
        try:
            Column.from_arrow(Column.from_pylist([], given), wanted)
        except (TypeError, ConversionError) as exc:
            _argument(udf, parameter, position, name, given, str(exc))
        return wanted
    if udf.func_type == "general" and parameter.type is not None:
        accepted = _ACCEPTED.get(parameter.type.kind)
        if accepted is not None and given.kind not in accepted and given.kind != "null":
            _argument(udf, parameter, position, name, given, "")
    return None


def _argument(
    udf: UserDefinedFunction, parameter: Parameter, position: int, name: str, given: Type, detail: str
) -> typing.NoReturn:
    declared = f"parameter `{parameter.name}` of `{udf.name}` is declared as `{parameter.type}`"
    raise PillionError(
        "argument_type",
        f"column `{name}` is `{given}`, but {declared}",
        hint="convert the column, bind another one, or change the declaration",
        detail=detail or f"argument {position}",
    )


def _hints(function: Any) -> tuple[dict[str, Any], str]:
    """Resolved annotations; and why they could not be resolved, if so."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", function)
    try:
        return typing.get_type_hints(function, include_extras=True), ""
    except Exception as exc:  # noqa: BLE001 - annotations are expressions of user code
        # A name that exists only for type checkers spoils all annotations at once: keep those that are no strings.
        annotations = getattr(function, "__annotations__", None) or {}
        return {key: value for key, value in annotations.items() if not isinstance(value, str)}, summary(exc)


def _parameters(udf: UserDefinedFunction, hints: dict[str, Any]) -> tuple[Parameter, ...]:
    try:
        declared = inspect.signature(udf.function).parameters.values()
    except (TypeError, ValueError):  # functions written in C need not have one
        if udf.input_types is None:
            return (Parameter("args", None, variadic=True),)
        return tuple(Parameter(f"arg{i}", one) for i, one in enumerate(udf.input_types))
    found = []
    for one in declared:
        if one.kind is one.VAR_KEYWORD:
            continue
        if one.kind is one.KEYWORD_ONLY:
            if one.default is one.empty:
                _invalid(
                    f"`{udf.name}` needs the keyword argument `{one.name}`",
                    "columns are given by position; use `functools.partial`",
                )
            continue
        annotated = from_annotation(hints[one.name]) if one.name in hints else None
        found.append(Parameter(one.name, annotated, one.default is not one.empty, one.kind is one.VAR_POSITIONAL))
    if udf.input_types is None:
        return tuple(found)
    return _with_input_types(udf, found, udf.input_types)


def _with_input_types(
    udf: UserDefinedFunction, found: list[Parameter], types: tuple[Type, ...]
) -> tuple[Parameter, ...]:
    if any(one.variadic for one in found):
        # `*args` with declared types: exactly those arguments.
        fixed = [one for one in found if not one.variadic]
        names = [one.name for one in fixed] + [f"arg{i}" for i in range(len(fixed), len(types))]
        return tuple(Parameter(name, one) for name, one in zip(names, types))
    if len(types) > len(found) or any(not one.optional for one in found[len(types) :]):
        _invalid(
            f"`{udf.name}` declares {len(types)} input types but takes {len(found)} arguments",
            "declare one type per argument",
        )
    return tuple(Parameter(one.name, declared, one.optional) for one, declared in zip(found, types))


def _no_result(udf: UserDefinedFunction, hints: dict[str, Any], failure: str) -> typing.NoReturn:
    hint = 'declare it, for example `@udf(result_type="double")`'
    if udf.func_type == "general":
        hint += ", or annotate what it returns, for example `-> float`"
    if "return" in hints:
        shown = hints["return"]
        says = getattr(shown, "__name__", None) or str(shown)
        _invalid(f"`{udf.name}` does not say the type of its result: `{says}` is not the type of a value", hint)
    detail = f": its annotations cannot be resolved ({failure})" if failure else ""
    _invalid(f"`{udf.name}` does not say the type of its result{detail}", hint)


def _invalid(message: str, hint: str) -> typing.NoReturn:
    raise PillionError("declaration_invalid", message, hint=hint)
