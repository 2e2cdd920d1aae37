"""An environment that runs scripts over collections, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pillion.pyflink.common.typeinfo import TypeInformation
from pillion.pyflink.datastream.data_stream import DataStream


class StreamExecutionEnvironment:
    """Runs functions over collections as a sidecar would run them, one element at a time, in one process.

    The watermark passes when a collection ends, as it does in Flink where a collection ends before the first periodic
    watermark. It is for trying functions out, not for speed.
    """

    def __init__(self) -> None:
        self._sinks: list[Callable[[], None]] = []
        self.processing_time: int | None = None
        """What the clock shows, in ms; None for the time of day."""

    @staticmethod
    def get_execution_environment(configuration: Any = None) -> StreamExecutionEnvironment:
        """The environment."""
        return StreamExecutionEnvironment()

    def set_parallelism(self, parallelism: int) -> StreamExecutionEnvironment:
        """Taken, without effect."""
        return self

    set_max_parallelism = set_runtime_mode = set_buffer_timeout = set_parallelism

    def from_collection(self, collection: Iterable[Any], type_info: TypeInformation | None = None) -> DataStream:
        """A stream of these elements."""
        elements: list[tuple[Any, int | None]] = [(one, None) for one in collection]
        return DataStream(self, lambda: elements, type_info)

    def execute(self, job_name: str | None = None) -> None:
        """Run what leads to a sink."""
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            sink()
