"""Keys of the local environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pillion.errors import PillionError

_BASIC = {str: "string", int: "bigint", float: "double", bool: "boolean", bytes: "bytes"}


def selector(key_selector: Any) -> Callable[[Any], Any]:
    """A KeySelector, a callable, or the position or name of a field, as a callable."""
    if hasattr(key_selector, "get_key"):
        found: Callable[[Any], Any] = key_selector.get_key
        return found
    if isinstance(key_selector, (int, str)):
        return lambda element: element[key_selector]
    if callable(key_selector):
        chosen: Callable[[Any], Any] = key_selector
        return chosen
    raise PillionError("declaration_invalid", f"a value of type `{type(key_selector).__name__}` selects no key")


def key_type_of(keys: list[Any]) -> str:
    """The type of these keys, where nobody has declared it. Raises `declaration_invalid`."""
    kinds = {_kind(one) for one in keys} or {"string"}
    if len(kinds) > 1:
        message = f"keys have several types: {', '.join(sorted(kinds))}"
        raise PillionError("declaration_invalid", message, hint="declare one with `key_type`")
    return kinds.pop()


def _kind(key: Any) -> str:
    if isinstance(key, tuple):
        return f"row<{', '.join(f'f{i} {_kind(one)}' for i, one in enumerate(key))}>"
    found = _BASIC.get(type(key))
    if found is None:
        message = f"a value of type `{type(key).__name__}` is no key"
        raise PillionError("declaration_invalid", message, hint="declare its type with `key_type`")
    return found
