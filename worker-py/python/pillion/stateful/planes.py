"""Where a cell's values are during a bundle: a sequence by the position of their key, or a mapping by (position,
namespace). What is not there yet is fetched; outside of calls there is a plane that only raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pillion.errors import PillionError

Fetcher = Callable[[Sequence[Any]], list[Any]]
"""Gives the decoded values at these addresses."""

PAGE = 16
"""How many keys a deferred cell fetches at once: those of the next rows are likely among them."""


class Nowhere:
    """The plane between bundles, and of functions without a key: every use is an error."""

    __slots__ = ("_cell", "_hint", "_why")

    def __init__(self, cell: str, why: str, hint: str) -> None:
        self._cell, self._why, self._hint = cell, why, hint

    def _raise(self, *_: Any) -> Any:
        raise PillionError("state_without_key", f"the cell `{self._cell}` was used {self._why}", hint=self._hint)

    __getitem__ = __setitem__ = __contains__ = __iter__ = get = setdefault = pop = _raise


class Lazy:
    """Values of a column that is decoded when the first of them is read: a bundle that only appends reads nothing."""

    __slots__ = ("_decode", "_values")

    def __init__(self, decode: Callable[[], list[Any]]) -> None:
        self._decode = decode
        self._values: list[Any] | None = None

    def __getitem__(self, position: int) -> Any:
        values = self._values
        if values is None:
            values = self._values = self._decode()
        return values[position]

    def __setitem__(self, position: int, value: Any) -> None:
        self[position]
        if self._values is not None:
            self._values[position] = value


class Deferred(dict[int, Any]):
    """Single values that did not come with the bundle, a page at a time."""

    def __init__(self, fetch: Fetcher, size: int) -> None:
        super().__init__()
        self._fetch, self._size = fetch, size

    def __missing__(self, position: int) -> Any:
        page = [one for one in range(position, min(position + PAGE, self._size)) if one not in self]
        for one, value in zip(page, self._fetch(page)):
            self.setdefault(one, value)
        return self[position]


class Spaced(dict[tuple[int, bytes], Any]):
    """Values by (position, namespace). Whoever knows the addresses loads them at once; a forgotten one is fetched."""

    def __init__(self, fetch: Fetcher) -> None:
        super().__init__()
        self._fetch = fetch
        self._offered: dict[tuple[int, bytes], Callable[[], Any]] = {}

    def offer(self, addresses: Sequence[tuple[int, bytes]], decode: Callable[[], list[Any]]) -> None:
        """Values that came with the bundle, decoded when the first of them is read."""
        column = Lazy(decode)
        for position, address in enumerate(addresses):
            self._offered[address] = partial(column.__getitem__, position)

    def missing(self, addresses: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """The addresses that neither are here nor came with the bundle."""
        return [one for one in addresses if one not in self and one not in self._offered]

    def __missing__(self, address: tuple[int, bytes]) -> Any:
        offered = self._offered.get(address)
        value = self[address] = self._fetch([address])[0] if offered is None else offered()
        return value
