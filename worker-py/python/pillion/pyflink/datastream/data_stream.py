"""Streams of the local environment: each is a list of elements with timestamps, made when somebody asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pillion import windows
from pillion.cells import PICKLED
from pillion.functions import (
    AggregateFunction,
    FilterFunction,
    FlatMapFunction,
    MapFunction,
    OutputTag,
    ReduceFunction,
)
from pillion.pyflink.common.typeinfo import TupleTypeInfo, TypeInformation
from pillion.pyflink.datastream.keys import key_type_of, selector
from pillion.row import Row
from pillion.stateful.declare import StatefulFunction
from pillion.testing import Harness

Element = tuple[Any, "int | None"]


class DataStream:
    """A stream without a key."""

    def __init__(self, env: Any, make: Callable[[], list[Element]], type_info: TypeInformation | None) -> None:
        self._env, self._make, self._type = env, make, type_info
        self._made: list[Element] | None = None
        self._sides: dict[str, DataStream] = {}
        self._tags: list[OutputTag] = []

    # What becomes of its elements.

    def map(self, func: Any, output_type: TypeInformation | None = None) -> DataStream:
        """One element for each."""
        return self._through(_as(MapFunction, "map", func), output_type)

    def flat_map(self, func: Any, output_type: TypeInformation | None = None) -> DataStream:
        """Any number of elements for each."""
        return self._through(_as(FlatMapFunction, "flat_map", func), output_type)

    def filter(self, func: Any) -> DataStream:
        """The elements for which the function says so."""
        return self._through(_as(FilterFunction, "filter", func), self._type)

    def process(self, func: Any, output_type: TypeInformation | None = None) -> DataStream:
        """What a process function makes."""
        return self._through(func, output_type)

    def key_by(self, key_selector: Any, key_type: TypeInformation | None = None) -> KeyedStream:
        """The same elements by key."""
        return KeyedStream(self, key_selector, key_type)

    def window_all(self, window_assigner: Any) -> WindowedStream:
        """Windows of all elements."""
        return self.key_by(lambda element: 0).window(window_assigner)

    def assign_timestamps_and_watermarks(self, watermark_strategy: Any) -> DataStream:
        """The same elements with timestamps."""
        assigner = watermark_strategy.timestamp_assigner

        def make() -> list[Element]:
            if assigner is None:
                return self.elements()
            lowest = -(2**63)
            return [
                (one, assigner.extract_timestamp(one, lowest if stamp is None else stamp))
                for one, stamp in self.elements()
            ]

        return DataStream(self._env, make, self._type)

    def union(self, *streams: DataStream) -> DataStream:
        """The elements of all, one stream after the other."""
        every = (self, *streams)
        return DataStream(self._env, lambda: [one for stream in every for one in stream.elements()], self._type)

    def connect(self, stream: Any) -> Any:
        """Two streams for one function; with a broadcast stream, its elements come first."""
        from pillion.pyflink.datastream.connected import ConnectedStreams

        return ConnectedStreams(self, stream)

    def broadcast(self, *descriptors: Any) -> Any:
        """The same elements for all keys."""
        from pillion.pyflink.datastream.connected import BroadcastStream

        return BroadcastStream(self, descriptors)

    def get_side_output(self, output_tag: OutputTag) -> DataStream:
        """What the function sent there. Ask before the stream is run."""
        if output_tag.tag_id not in self._sides:
            if output_tag not in self._tags:
                self._tags.append(output_tag)

            def make() -> list[Element]:
                self.elements()  # the function's run fills its side outputs, too
                return self._sides[output_tag.tag_id]._made or []

            kind = output_tag.type_info if isinstance(output_tag.type_info, TypeInformation) else None
            self._sides[output_tag.tag_id] = DataStream(self._env, make, kind)
        return self._sides[output_tag.tag_id]

    # Where they go.

    def print(self) -> DataStream:
        """Print them when the environment runs."""
        self._env._sinks.append(lambda: [print(shown(one)) for one, _ in self.elements()])
        return self

    def sink_to(self, sink: Any) -> DataStream:
        """Write them when the environment runs."""
        self._env._sinks.append(lambda: sink.write([shown(one) for one, _ in self.elements()]))
        return self

    def execute_and_collect(self, job_execution_name: str | None = None, limit: int | None = None) -> Iterator[Any]:
        """The elements."""
        values = [one for one, _ in self.elements()]
        return iter(values if limit is None else values[:limit])

    def name(self, name: str) -> DataStream:
        """Taken, without effect."""
        return self

    uid = set_parallelism = set_max_parallelism = set_description = slot_sharing_group = name

    # How they are made.

    def elements(self) -> list[Element]:
        """The elements and their timestamps."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _through(self, func: Any, output_type: TypeInformation | None, **options: Any) -> DataStream:
        return through(self._env, [self], func, output_type, **options)


class KeyedStream(DataStream):
    """A stream by key."""

    def __init__(self, stream: DataStream, key_selector: Any, key_type: TypeInformation | None) -> None:
        super().__init__(stream._env, stream.elements, stream._type)
        self.key_of = selector(key_selector)
        self.key_type = key_type

    def reduce(self, func: Any) -> DataStream:
        """The merged element of a key, at each of its elements."""
        return self._through(_as(ReduceFunction, "reduce", func), self._type)

    def sum(self, position_to_sum: int | str = 0) -> DataStream:
        """The rolling sum of a field."""
        return self.reduce(lambda a, b: _with(a, position_to_sum, _field(a, b, position_to_sum, lambda x, y: x + y)))

    def min(self, position_to_min: int | str = 0) -> DataStream:
        """The rolling minimum of a field."""
        return self.reduce(lambda a, b: _with(a, position_to_min, _field(a, b, position_to_min, min)))

    def max(self, position_to_max: int | str = 0) -> DataStream:
        """The rolling maximum of a field."""
        return self.reduce(lambda a, b: _with(a, position_to_max, _field(a, b, position_to_max, max)))

    def window(self, window_assigner: Any) -> WindowedStream:
        """Windows of each key."""
        return WindowedStream(self, window_assigner)

    def count_window(self, size: int, slide: int = 0) -> WindowedStream:
        """Windows of so many elements."""
        return WindowedStream(self, windows.count_window(size, slide))

    def _through(self, func: Any, output_type: TypeInformation | None, **options: Any) -> DataStream:
        return through(self._env, [self], func, output_type, keys=[self], **options)


class WindowedStream:
    """Windows of a keyed stream."""

    def __init__(self, stream: KeyedStream, assigner: Any) -> None:
        self._stream = stream
        self._options: dict[str, Any] = {"assigner": assigner}

    def trigger(self, trigger: Any) -> WindowedStream:
        """When they give their result."""
        self._options["trigger"] = trigger
        return self

    def evictor(self, evictor: Any) -> WindowedStream:
        """Which elements they drop before that."""
        self._options["evictor"] = evictor
        return self

    def allowed_lateness(self, time_ms: int) -> WindowedStream:
        """How long they take late elements."""
        self._options["lateness"] = time_ms
        return self

    def side_output_late_data(self, output_tag: OutputTag) -> WindowedStream:
        """Where elements go that are too late."""
        self._options["late"] = output_tag
        return self

    def reduce(
        self, reduce_function: Any, window_function: Any = None, output_type: TypeInformation | None = None
    ) -> DataStream:
        """Merge elements as they come."""
        if window_function is None:
            output_type = output_type or self._stream._type
        return self._made(output_type, reduce=reduce_function, process=window_function)

    def aggregate(
        self,
        aggregate_function: AggregateFunction,
        window_function: Any = None,
        accumulator_type: TypeInformation | None = None,
        output_type: TypeInformation | None = None,
    ) -> DataStream:
        """Add elements to an accumulator as they come."""
        return self._made(
            output_type, aggregate=aggregate_function, process=window_function, accumulator=accumulator_type
        )

    def process(self, process_window_function: Any, output_type: TypeInformation | None = None) -> DataStream:
        """Rows of whole windows."""
        return self._made(output_type, process=process_window_function)

    apply = process

    def _made(self, output_type: TypeInformation | None, **how: Any) -> DataStream:
        options = {**self._options, **how}
        function = windows.window(options.pop("assigner"), output=output_type or PICKLED, **options)
        return self._stream._through(function, output_type)


def through(
    env: Any,
    inputs: list[DataStream],
    func: Any,
    output_type: TypeInformation | None,
    *,
    keys: list[Any] | None = None,
    broadcast: tuple[Any, ...] = (),
) -> DataStream:
    """The stream that a function makes of others."""

    def make() -> list[Element]:
        declared = _declared(func, output_type, result._tags, broadcast)
        harness = _harness(env, declared, inputs, keys, bool(broadcast))
        found = _elements(harness.timestamped_output(), output_type)
        for tag, _ in harness.prepared.outputs.sides:
            side = result._sides.get(tag.tag_id)
            if side is not None:
                kind = tag.type_info if isinstance(tag.type_info, TypeInformation) else None
                side._made = _elements(harness.timestamped_output(tag), kind)
        harness.close()
        return found

    result = DataStream(env, make, output_type)
    return result


def _declared(func: Any, output_type: Any, tags: list[OutputTag], broadcast: tuple[Any, ...]) -> StatefulFunction:
    if isinstance(func, StatefulFunction):
        known = [tag for tag, _ in func.side_outputs]
        tags = [*known, *(one for one in tags if one not in known)]
        declared = {"name": func.name, "output": output_type or PICKLED, "side_outputs": tags}
        return StatefulFunction(func.target, declared)
    return StatefulFunction(func, {"output": output_type or PICKLED, "side_outputs": tags, "broadcast": broadcast})


def _harness(
    env: Any, declared: StatefulFunction, inputs: list[DataStream], keys: list[Any] | None, broadcast: bool
) -> Harness:
    """Push all elements, then end the input."""
    streams = [one.elements() for one in inputs]
    now = int(time.time() * 1000) if env.processing_time is None else env.processing_time
    types: list[Any] = [one._type or PICKLED for one in inputs]
    key: Any = None
    options: dict[str, Any] = {}
    if keys is not None:
        readers = [one.key_of for one in keys]
        found = [read(value) for read, elements in zip(readers, streams) for value, _ in elements]
        key = readers if len(types) > 1 else readers[0]
        options["key_type"] = keys[0].key_type or key_type_of(found)
        if broadcast:
            key = [readers[0], readers[0]]
    harness = Harness(
        declared,
        input=types if len(types) > 1 else types[0],
        key=key,
        processing_time=now,
        rows_per_bundle=1,
        timers_per_bundle=1,
        **options,
    )
    if broadcast:
        for value, stamp in streams.pop():
            harness.broadcast(value, timestamp=stamp)
    for row in range(max(map(len, streams), default=0)):
        for position, elements in enumerate(streams):
            if row < len(elements):
                harness.push(elements[row][0], elements[row][1], input=position)
    harness.finish()
    return harness


def _elements(found: list[Element], kind: TypeInformation | None) -> list[Element]:
    """Tuples where tuples are declared: a row is one, but does not look like it."""
    return [(tuple(one), stamp) for one, stamp in found] if isinstance(kind, TupleTypeInfo) else found


def _as(base: type, method: str, func: Any) -> Any:
    """A function object of a plain callable."""
    if isinstance(func, base) or hasattr(func, method):
        return func
    made = base()
    setattr(made, method, func)
    return made


def _field(a: Any, b: Any, position: int | str, merge: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(a, tuple):
        return merge(a, b)
    at: Any = position  # rows take names, too
    return merge(a[at], b[at])


def _with(element: Any, position: int | str, value: Any) -> Any:
    if not isinstance(element, tuple):
        return value
    at = element._fields.index(position) if isinstance(position, str) and isinstance(element, Row) else int(position)
    return (*element[:at], value, *element[at + 1 :])


def shown(element: Any) -> str:
    """An element as Flink prints it."""
    if isinstance(element, Row):
        return f"+I[{', '.join(map(str, element))}]"
    return f"({','.join(map(str, element))})" if type(element) is tuple else str(element)
