"""Which elements a window drops before it gives its result, as in Flink's Java API; PyFlink has none.

A window with an evictor keeps all its elements with their timestamps, also where it aggregates.
"""

from __future__ import annotations

from typing import Any

from pillion.windows.kinds import invalid, milliseconds

Element = tuple[Any, "int | None"]
"""A value and its timestamp."""


class Evictor:
    """`evict_before(elements, window)` gives the elements that stay; so does `evict_after`, called after the result."""

    def evict_before(self, elements: list[Element], window: Any, context: Any) -> list[Element]:
        """The elements that the result is made of, and that stay."""
        return elements

    def evict_after(self, elements: list[Element], window: Any, context: Any) -> list[Element]:
        """The elements that stay after the result was given."""
        return elements


class CountEvictor(Evictor):
    """Keeps the last so many elements."""

    def __init__(self, max_count: int) -> None:
        invalid(max_count <= 0, "`CountEvictor` needs a positive count")
        self._max_count = max_count

    @staticmethod
    def of(max_count: int) -> CountEvictor:
        """One that keeps so many."""
        return CountEvictor(max_count)

    def evict_before(self, elements: list[Element], window: Any, context: Any) -> list[Element]:
        return elements[-self._max_count :]


class TimeEvictor(Evictor):
    """Keeps what is at most so much older than the latest element."""

    def __init__(self, window_size: int) -> None:
        invalid(window_size <= 0, "`TimeEvictor` needs a positive time")
        self._window_size = window_size

    @staticmethod
    def of(window_size: Any) -> TimeEvictor:
        """One that keeps so much time."""
        return TimeEvictor(milliseconds(window_size))

    def evict_before(self, elements: list[Element], window: Any, context: Any) -> list[Element]:
        stamps = [stamp for _, stamp in elements if stamp is not None]
        if not stamps:
            return elements
        oldest = max(stamps) - self._window_size
        return [one for one in elements if one[1] is None or one[1] > oldest]
