"""Types under their Java names, as declarations of this package take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillion._native import Type
from pillion.types import quoted


class TypeInformation:
    """A type; `pickled` if it has no Arrow type, so that values are pickled."""

    nullable = True

    def __init__(self, text: str, *, pickled: bool = False, fields: Sequence[TypeInformation] = ()) -> None:
        self._text = text
        self.pickled = pickled
        self.fields = tuple(fields)

    def __arrow_c_schema__(self) -> object:
        return Type.parse(self._text).__arrow_c_schema__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypeInformation) and (self._text, self.pickled) == (other._text, other.pickled)

    def __hash__(self) -> int:
        return hash((self._text, self.pickled))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text})"


class RowTypeInfo(TypeInformation):
    """Rows; with a field that is pickled, the whole row is."""

    def __init__(self, field_types: Sequence[TypeInformation], field_names: Sequence[str] | None = None) -> None:
        names = list(field_names) if field_names else [f"f{i}" for i in range(len(field_types))]
        self.field_names = names
        parts = (f"{quoted(name)} {one._text}" for name, one in zip(names, field_types))
        super().__init__(f"row<{', '.join(parts)}>", pickled=_any_pickled(*field_types), fields=field_types)

    def get_field_names(self) -> list[str]:
        """The names."""
        return self.field_names

    def get_field_types(self) -> list[TypeInformation]:
        """The types."""
        return list(self.fields)


class TupleTypeInfo(RowTypeInfo):
    """Tuples, whose fields are called `f0`, `f1`, and so on."""

    def __init__(self, field_types: Sequence[TypeInformation]) -> None:
        super().__init__(field_types)


def _any_pickled(*types: TypeInformation) -> bool:
    return any(one.pickled for one in types)


def _basic(text: str) -> Any:
    return staticmethod(lambda: TypeInformation(text))


class Types:
    """All types."""

    STRING = _basic("string")
    BYTE = _basic("tinyint")
    BOOLEAN = _basic("boolean")
    SHORT = _basic("smallint")
    INT = _basic("int")
    LONG = _basic("bigint")
    FLOAT = _basic("float")
    DOUBLE = _basic("double")
    CHAR = _basic("string")
    BIG_INT = _basic("decimal(38, 0)")
    BIG_DEC = _basic("decimal(38, 18)")
    SQL_DATE = _basic("date")
    SQL_TIME = _basic("time(3)")
    SQL_TIMESTAMP = _basic("timestamp(3)")

    @staticmethod
    def INSTANT() -> TypeInformation:
        """Instants, which are pickled."""
        return Types.PICKLED_BYTE_ARRAY()

    @staticmethod
    def PICKLED_BYTE_ARRAY() -> TypeInformation:
        """Any Python object."""
        return TypeInformation("bytes", pickled=True)

    @staticmethod
    def ROW(field_types: list[TypeInformation]) -> TypeInformation:
        """Rows with fields `f0`, `f1`, and so on."""
        return RowTypeInfo(field_types)

    @staticmethod
    def ROW_NAMED(field_names: list[str], field_types: list[TypeInformation]) -> TypeInformation:
        """Rows with these fields."""
        return RowTypeInfo(field_types, field_names)

    @staticmethod
    def TUPLE(field_types: list[TypeInformation]) -> TypeInformation:
        """Tuples."""
        return TupleTypeInfo(field_types)

    @staticmethod
    def LIST(element_type_info: TypeInformation) -> TypeInformation:
        """Lists."""
        pickled = element_type_info.pickled
        return TypeInformation(f"array<{element_type_info._text}>", pickled=pickled, fields=[element_type_info])

    PRIMITIVE_ARRAY = BASIC_ARRAY = OBJECT_ARRAY = LIST

    @staticmethod
    def MAP(key_type_info: TypeInformation, value_type_info: TypeInformation) -> TypeInformation:
        """Dicts."""
        text = f"map<{key_type_info._text}, {value_type_info._text}>"
        pickled = _any_pickled(key_type_info, value_type_info)
        return TypeInformation(text, pickled=pickled, fields=[key_type_info, value_type_info])
