"""Windows that merge: which windows a key has, and at which window each keeps its state. As in Flink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pillion.windows.kinds import TimeWindow, decode

Merge = Callable[[TimeWindow, "list[TimeWindow]", TimeWindow, "list[TimeWindow]"], None]
"""Called with a merged window, the windows it is made of, where it keeps its state, and where these kept theirs."""

MERGING = "merging-window-set"
"""The map cell: encoded window -> the encoded window at which its state is."""


class MergingWindows:
    """The windows of one key."""

    def __init__(self, assigner: Any, cell: Any) -> None:
        self._assigner = assigner
        self._cell = cell
        found = {decode(one): decode(other) for one, other in cell.items()}
        self._before: dict[Any, Any] = found
        self.mapping: dict[Any, Any] = dict(found)

    def persist(self) -> None:
        """Write what changed."""
        for one in self._before.keys() - self.mapping.keys():
            self._cell.remove(one.encode())
        for one, other in self.mapping.items():
            if self._before.get(one) != other:
                self._cell.put(one.encode(), other.encode())

    def state_window(self, window: Any) -> Any:
        """Where a window keeps its state; None if there is no such window."""
        return self.mapping.get(window)

    def retire(self, window: Any) -> None:
        """Forget a window."""
        self.mapping.pop(window, None)

    def add(self, new: TimeWindow, merge: Merge) -> TimeWindow:
        """Add a window; the result is the window that it has become part of."""
        groups: list[tuple[list[TimeWindow], TimeWindow]] = []
        self._assigner.merge_windows([*self.mapping, new], lambda group, result: groups.append((group, result)))
        result_window, merged_new = new, False
        for group, result in groups:
            members = [one for one in group if one != new]  # windows of a key never overlap, so it was not there before
            if new in group:
                merged_new, result_window = True, result
            kept = self.mapping[members[0]]
            states = [self.mapping.pop(one) for one in members]
            self.mapping[result] = kept
            states.remove(kept)
            if members != [result]:
                merge(result, members, kept, states)
        if not groups or (result_window == new and not merged_new):
            self.mapping.setdefault(result_window, result_window)
        return result_window
