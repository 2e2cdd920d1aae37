"""The types of arguments and results, however their author prefers to write them."""

from __future__ import annotations

import datetime
import decimal
import types
import typing
from collections import abc
from collections.abc import Iterable, Mapping
from typing import Any

from pillion._native import Type
from pillion.errors import PillionError

# Python types as annotations. Every value may be None: annotations are rarely written with the rigour that `not null`
# asks for.
_PYTHON: dict[object, str] = {
    bool: "boolean",
    int: "bigint",
    float: "double",
    str: "string",
    bytes: "bytes",
    bytearray: "bytes",
    decimal.Decimal: "decimal(38, 18)",
    datetime.date: "date",
    datetime.datetime: "timestamp(6)",
    datetime.time: "time(6)",
    datetime.timedelta: "duration(us)",
    None: "null",
    type(None): "null",
}
_LISTS = (list, abc.Sequence, abc.MutableSequence)
_MAPS = (dict, abc.Mapping, abc.MutableMapping)
_UNIONS = (typing.Union, types.UnionType)


class DataType:
    """A type made by :class:`DataTypes`; nullable unless :meth:`not_null` was called."""

    __slots__ = ("_native",)

    def __init__(self, native: Type) -> None:
        self._native = native

    def nullable(self) -> DataType:
        """The same type, with nulls allowed."""
        return DataType(self._native.with_nullable(True))

    def not_null(self) -> DataType:
        """The same type, with nulls refused: a result that has one fails with `result_null`."""
        return DataType(self._native.with_nullable(False))

    def __arrow_c_schema__(self) -> object:
        """The type for Arrow libraries: `pyarrow.field(DataTypes.BIGINT())`."""
        return self._native.__arrow_c_schema__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataType) and self._native == other._native

    def __hash__(self) -> int:
        return hash(self._native)

    def __repr__(self) -> str:
        return f"DataType({str(self._native)!r})"


class DataTypes:
    """Types under their SQL names, as in PyFlink. Every method takes `nullable` last; its default is True."""

    @staticmethod
    def NULL() -> DataType:
        """A column of nulls."""
        return _sql("null")

    @staticmethod
    def BOOLEAN(nullable: bool = True) -> DataType:
        """True or False."""
        return _sql("boolean", nullable)

    @staticmethod
    def TINYINT(nullable: bool = True) -> DataType:
        """Integers of 8 bits."""
        return _sql("tinyint", nullable)

    @staticmethod
    def SMALLINT(nullable: bool = True) -> DataType:
        """Integers of 16 bits."""
        return _sql("smallint", nullable)

    @staticmethod
    def INT(nullable: bool = True) -> DataType:
        """Integers of 32 bits."""
        return _sql("int", nullable)

    @staticmethod
    def BIGINT(nullable: bool = True) -> DataType:
        """Integers of 64 bits."""
        return _sql("bigint", nullable)

    @staticmethod
    def FLOAT(nullable: bool = True) -> DataType:
        """Floating point numbers of 32 bits, as in SQL. Python's `float` is DOUBLE."""
        return _sql("float", nullable)

    @staticmethod
    def DOUBLE(nullable: bool = True) -> DataType:
        """Floating point numbers of 64 bits."""
        return _sql("double", nullable)

    @staticmethod
    def DECIMAL(precision: int, scale: int, nullable: bool = True) -> DataType:
        """Exact numbers of `precision` digits, `scale` of them behind the point."""
        return _sql(f"decimal({precision}, {scale})", nullable)

    @staticmethod
    def CHAR(length: int, nullable: bool = True) -> DataType:
        """Text. The length is documentation; it is neither padded nor checked."""
        return _sql(f"char({length})", nullable)

    @staticmethod
    def VARCHAR(length: int, nullable: bool = True) -> DataType:
        """Text. The length is documentation; it is not checked."""
        return _sql(f"varchar({length})", nullable)

    @staticmethod
    def STRING(nullable: bool = True) -> DataType:
        """Text."""
        return _sql("string", nullable)

    @staticmethod
    def BINARY(length: int, nullable: bool = True) -> DataType:
        """Bytes. The length is documentation; it is neither padded nor checked."""
        return _sql("bytes", nullable)

    @staticmethod
    def VARBINARY(length: int, nullable: bool = True) -> DataType:
        """Bytes. The length is documentation; it is not checked."""
        return _sql("bytes", nullable)

    @staticmethod
    def BYTES(nullable: bool = True) -> DataType:
        """Bytes."""
        return _sql("bytes", nullable)

    @staticmethod
    def DATE(nullable: bool = True) -> DataType:
        """Days."""
        return _sql("date", nullable)

    @staticmethod
    def TIME(precision: int = 0, nullable: bool = True) -> DataType:
        """Times of day with `precision` digits of a second."""
        return _sql(f"time({precision})", nullable)

    @staticmethod
    def TIMESTAMP(precision: int = 6, nullable: bool = True) -> DataType:
        """Date and time without a zone, with `precision` digits of a second (kept as s, ms, us or ns)."""
        return _sql(f"timestamp({precision})", nullable)

    @staticmethod
    def TIMESTAMP_LTZ(precision: int = 6, nullable: bool = True) -> DataType:
        """Instants, with `precision` digits of a second."""
        return _sql(f"timestamp_ltz({precision})", nullable)

    TIMESTAMP_WITH_LOCAL_TIME_ZONE = TIMESTAMP_LTZ

    @staticmethod
    def ARRAY(element_type: object, nullable: bool = True) -> DataType:
        """Lists of one element type."""
        return _sql(f"array<{to_type(element_type)}>", nullable)

    @staticmethod
    def MAP(key_type: object, value_type: object, nullable: bool = True) -> DataType:
        """Dicts; keys are never null."""
        return _sql(f"map<{to_type(key_type).with_nullable(True)}, {to_type(value_type)}>", nullable)

    @staticmethod
    def FIELD(name: str, data_type: object, description: str | None = None) -> tuple[str, object]:
        """One field of a ROW."""
        return name, data_type

    @staticmethod
    def ROW(row_fields: Iterable[tuple[str, object]] | Mapping[str, object], nullable: bool = True) -> DataType:
        """Structs with named fields, given as FIELDs, as `(name, type)` pairs or as a dict."""
        return DataType(_row(row_fields).with_nullable(nullable))


def to_type(declared: object) -> Type:
    """The Arrow type that `declared` means.

    Accepts :class:`DataTypes`, SQL-like names (`"array<double>"`), everything with `__arrow_c_schema__` (pyarrow's
    types, fields and schemas), Python annotations (`int`, `list[str]`, `Optional[float]`), and for rows a dict of types
    or a list of pairs. Raises `declaration_invalid` for anything else.
    """
    if isinstance(declared, DataType):
        return declared._native
    if isinstance(declared, Type):
        return declared
    if isinstance(declared, str):
        return _parse(declared)
    if isinstance(declared, Mapping) or (isinstance(declared, (list, tuple)) and declared):
        return _row(declared)
    if hasattr(declared, "__arrow_c_schema__"):
        try:
            found = Type.from_arrow(declared)
        except (TypeError, ValueError) as exc:
            raise PillionError(
                "declaration_invalid", f"the Arrow type `{declared}` is not supported", detail=str(exc)
            ) from None
        # Only fields say whether they are nullable; schemas, which travel as structs, do not.
        return found if hasattr(declared, "nullable") else found.with_nullable(True)
    annotated = from_annotation(declared)
    if annotated is None:
        hint = "use a name such as `bigint`, a type of `DataTypes`, a pyarrow type, or a Python type such as `int`"
        if type(declared).__module__.startswith("pyarrow"):
            hint = "types of pyarrow are understood from version 14 on"
        raise PillionError("declaration_invalid", f"`{_show(declared)}` is no type", hint=hint)
    return annotated


def from_annotation(annotation: object) -> Type | None:
    """The type that a Python annotation stands for; None if it says nothing about one value (`pandas.Series`,
    `Any`).
    """
    if isinstance(annotation, DataType):
        return annotation._native
    try:
        name = _PYTHON.get(annotation)
    except TypeError:  # unhashable
        return None
    if name is not None:
        return Type.parse(name)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        marked = next((data for data in arguments[1:] if isinstance(data, (DataType, Type, str))), None)
        return to_type(marked) if marked is not None else from_annotation(arguments[0])
    if origin in _UNIONS:
        members = [argument for argument in arguments if argument is not type(None)]
        return from_annotation(members[0]) if len(members) == 1 else None
    inner = [from_annotation(argument) for argument in arguments]
    if origin in _LISTS and len(inner) == 1 and inner[0] is not None:
        return Type.parse(f"array<{inner[0]}>")
    if origin in _MAPS and len(inner) == 2 and inner[0] is not None and inner[1] is not None:
        return Type.parse(f"map<{inner[0]}, {inner[1]}>")
    if isinstance(annotation, type) and annotation.__module__ == "numpy":
        try:
            return Type.parse(annotation.__name__.rstrip("_"))
        except ValueError:
            return None
    return None


def quoted(name: str) -> str:
    """A field name as it stands in type text."""
    return "`" + name.replace("`", "``") + "`"


def _row(fields: Iterable[tuple[str, object]] | Mapping[str, object]) -> Type:
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    parts = []
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise PillionError(
                "declaration_invalid",
                f"`{_show(pair)}` is no field of a row",
                hint='a row is declared as {"name": type, ...} or [("name", type), ...]',
            )
        parts.append(f"{quoted(pair[0])} {to_type(pair[1])}")
    return _parse(f"row<{', '.join(parts)}>")


def _sql(text: str, nullable: bool = True) -> DataType:
    return DataType(_parse(text).with_nullable(nullable))


def _parse(text: str) -> Type:
    try:
        return Type.parse(text)
    except ValueError as exc:
        hint = "a type is for example `bigint` or `array<double>`"
        raise PillionError("declaration_invalid", str(exc), hint=hint) from None


def _show(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)[:80]
