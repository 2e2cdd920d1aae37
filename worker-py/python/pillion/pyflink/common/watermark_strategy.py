"""Timestamps and watermarks of a stream."""

from __future__ import annotations

from typing import Any

from pillion.windows.kinds import milliseconds


class TimestampAssigner:
    """`extract_timestamp(value, record_timestamp)` gives the event time of an element in ms."""

    def extract_timestamp(self, value: Any, record_timestamp: int) -> int:
        """The timestamp."""
        raise NotImplementedError(f"`{type(self).__name__}` has no `extract_timestamp`")


class WatermarkStrategy:
    """How far watermarks stay behind, and where timestamps come from."""

    def __init__(self, delay: int | None) -> None:
        self.delay = delay
        """In ms; None if there are no watermarks before the end."""
        self.timestamp_assigner: TimestampAssigner | None = None

    def with_timestamp_assigner(self, timestamp_assigner: TimestampAssigner) -> WatermarkStrategy:
        """Take timestamps from here."""
        self.timestamp_assigner = timestamp_assigner
        return self

    def with_idleness(self, idle_timeout: Any) -> WatermarkStrategy:
        """Without effect: a collection is never idle."""
        milliseconds(idle_timeout)
        return self

    @staticmethod
    def for_monotonous_timestamps() -> WatermarkStrategy:
        """Timestamps never go back."""
        return WatermarkStrategy(1)

    @staticmethod
    def for_bounded_out_of_orderness(max_out_of_orderness: Any) -> WatermarkStrategy:
        """Timestamps go back by no more than this."""
        return WatermarkStrategy(milliseconds(max_out_of_orderness) + 1)

    @staticmethod
    def no_watermarks() -> WatermarkStrategy:
        """No watermark before the end."""
        return WatermarkStrategy(None)
