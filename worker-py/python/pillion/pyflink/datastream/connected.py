"""Two streams for one function."""

from __future__ import annotations

from typing import Any

from pillion.functions import CoFlatMapFunction, CoMapFunction
from pillion.pyflink.common.typeinfo import TypeInformation
from pillion.pyflink.datastream.data_stream import DataStream, KeyedStream, through


class BroadcastStream:
    """Elements for all keys."""

    def __init__(self, stream: DataStream, descriptors: tuple[Any, ...]) -> None:
        self.stream, self.descriptors = stream, descriptors


class ConnectedStreams:
    """A stream, and another or a broadcast one. Elements of two streams are taken in turns."""

    def __init__(self, first: DataStream, second: Any) -> None:
        self._first, self._second = first, second

    def key_by(self, key_selector1: Any, key_selector2: Any, key_type: Any = None) -> ConnectedStreams:
        """Both by key."""
        second = self._second.key_by(key_selector2, key_type)
        return ConnectedStreams(self._first.key_by(key_selector1, key_type), second)

    def process(self, func: Any, output_type: TypeInformation | None = None) -> DataStream:
        """What a function of two inputs makes."""
        if isinstance(self._second, BroadcastStream):
            inputs = [self._first, self._second.stream]
            keys = [self._first] if isinstance(self._first, KeyedStream) else None
            given = self._second.descriptors
            return through(self._first._env, inputs, func, output_type, keys=keys, broadcast=given)
        keyed = isinstance(self._first, KeyedStream) and isinstance(self._second, KeyedStream)
        both = [self._first, self._second]
        return through(self._first._env, both, func, output_type, keys=both if keyed else None)

    def map(self, func: CoMapFunction, output_type: TypeInformation | None = None) -> DataStream:
        """One element for each."""
        return self.process(func, output_type)

    def flat_map(self, func: CoFlatMapFunction, output_type: TypeInformation | None = None) -> DataStream:
        """Any number of elements for each."""
        return self.process(func, output_type)
