"""Elements that are too late for all of their windows."""

from __future__ import annotations

from typing import Any

from pillion.functions import OutputTag
from pillion.metrics import MetricGroup
from pillion.stateful.outputs import Outputs

DROPPED = "numLateRecordsDropped"
"""The counter of elements that were dropped, as in Flink: those that go to a side output are not among them."""


class LateElements:
    """Sends late elements to their side output, or counts what is dropped for want of one."""

    def __init__(self, tag: OutputTag | None, outputs: Outputs, metrics: MetricGroup) -> None:
        self.tag = tag
        self._outputs = outputs
        self._dropped = metrics.counter(DROPPED)

    def drop(self, count: int) -> None:
        """There is no side output."""
        if count:
            self._dropped.inc(count)

    def take(self, value: Any) -> None:
        """One element was too late."""
        if self.tag is None:
            self.drop(1)
        else:
            self._outputs.send(self.tag, value)
