"""A harness for stateful functions, like Flink's operator test harness: push elements, let time pass, look inside.

    from pillion.testing import Harness

    harness = Harness(Count(), input={"user": "string"}, key="user")
    harness.push(("ann",), timestamp=1000)
    harness.advance_watermark(2000)
    assert harness.output() == [("ann", 1)]

It runs the very code that a worker runs, over columns, and keeps state and timers as the sidecar does, with clocks that
stand still until a test moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pillion._native import Batch, Column, Type
from pillion.bundle import (
    EVENT,
    INT64,
    MAX_TIME,
    MIN_TIME,
    PROCESSING,
    TIMER_FIELDS,
    UINT32,
    Bundle,
    Effects,
    Found,
    Wanted,
)
from pillion.convert_rows import from_values, to_values
from pillion.errors import PillionError
from pillion.functions import OutputTag
from pillion.loading import LoadedFunction
from pillion.plan import FAIL, SIDE, SKIP
from pillion.stateful.declare import StatefulFunction
from pillion.stateful.outputs import Output
from pillion.stateful.prepare import PreparedProcess
from pillion.testing.model import CellModel, Key, Timer, TimerModel

__all__ = ["Harness", "Timer"]

Keys = "str | Sequence[str] | Callable[[Any], Any] | None"


_ON_ERROR = {"fail": FAIL, "skip": SKIP, "side": SIDE}


class Harness:
    """One operator instance with a function, its state and its timers.

    Args:
        function: an instance or class of a stateful function, or what `process` made.
        input: the columns of the input, as `{"name": type}`; a list of them for several inputs. A type that is no row
            makes elements single values.
        key: name or names of the key columns, or a function from an element to its key; a list with one of these per
            input where they differ; None without a key.
        key_type: the type that a key function gives.
        output: the columns of the output, where the function does not say them.
        processing_time: what the clock shows, in ms.
        rows_per_bundle: where to cut bundles; they are not cut unless this says so.
        timers_per_bundle: how many timers fire in one call.
        deferred: cells whose values never come with the bundle, but are fetched.
        page: how many elements or entries of a list or map are fetched at a time; all, unless this says so.
        on_error: what becomes of a row that raises: it fails its bundle (`"fail"`); it is left out, and what it did is
            undone (`"skip"`); or besides it goes to the side output `pillion.errors` (`"side"`).
    """

    def __init__(
        self,
        function: Any,
        *,
        input: Any,
        key: Any = None,
        key_type: object = "string",
        output: object = None,
        processing_time: int = 0,
        rows_per_bundle: int = 2**31,
        timers_per_bundle: int = 2**31,
        deferred: Iterable[str] = (),
        page: int | None = None,
        on_error: str = "fail",
    ) -> None:
        declared = function if isinstance(function, StatefulFunction) else StatefulFunction(function)
        self._inputs = [Output.of(one) for one in (input if isinstance(input, list) else [input])]
        several = isinstance(key, (list, tuple)) and len(key) == len(self._inputs) > 1
        self._key_of = [_key_reader(key[i] if several else key, one) for i, one in enumerate(self._inputs)]
        self._key_fields = _key_fields(key[0] if several else key, self._inputs[0], key_type)
        label = declared.name
        if on_error not in _ON_ERROR:
            raise ValueError(f"on_error is one of {', '.join(_ON_ERROR)}, not {on_error!r}")
        self.prepared = PreparedProcess(
            LoadedFunction(label, declared),
            self._inputs,
            self._key_fields,
            result_type=output,
            on_error=_ON_ERROR[on_error],
        )
        self.cells = {one["name"]: CellModel(one) for one in self.prepared.cells}
        self.timer_model = TimerModel()
        self.processing_time = processing_time
        self._watermarks = [MIN_TIME] * len(self._inputs)
        self._rows_per_bundle, self._timers_per_bundle = rows_per_bundle, timers_per_bundle
        self._deferred, self._page = frozenset(deferred), page
        self._outputs: dict[int, list[tuple[Batch, int | None]]] = {}
        self._declared = declared
        self.effects: list[Effects] = []
        """What each bundle brought about."""

    # Input.

    def push(self, element: Any, timestamp: int | None = None, *, input: int = 0) -> None:
        """One element, in a bundle of its own."""
        self.push_batch([element], [timestamp], input=input)

    def push_batch(self, elements: Any, timestamps: Sequence[int | None] | None = None, *, input: int = 0) -> None:
        """Elements of one bundle: a list of rows, or a batch (of this package, of pyarrow, ...)."""
        self._push(elements, timestamps, input, broadcast=False)

    def broadcast(self, *elements: Any, timestamp: int | None = None) -> None:
        """Broadcast elements, of the last input."""
        stamps = [timestamp] * len(elements)
        self._push(list(elements), stamps, len(self._inputs) - 1, broadcast=True)

    def advance_watermark(self, timestamp: int, *, input: int | None = None) -> None:
        """Let event time pass, on one input or on all, and fire what is due. Unless the watermark advances, the least
        of all inputs, nothing fires, not even timers of the past. Raises `ValueError` if it goes back.
        """
        before = self.watermark
        for position in range(len(self._inputs)) if input is None else [input]:
            if timestamp < self._watermarks[position]:
                raise ValueError(f"the watermark would go back from {self._watermarks[position]} to {timestamp}")
            self._watermarks[position] = timestamp
        if self.watermark > before:
            self._fire(EVENT, self.watermark)

    def advance_processing_time(self, timestamp: int) -> None:
        """Let the clock pass, and fire what is due. Raises `ValueError` if it would go back."""
        if timestamp < self.processing_time:
            raise ValueError(f"the clock would go back from {self.processing_time} to {timestamp}")
        self.processing_time = timestamp
        self._fire(PROCESSING, timestamp)

    def finish(self) -> None:
        """End the input: event timers fire, timers of processing time are dropped."""
        self._watermarks = [MAX_TIME] * len(self._inputs)
        self._fire(EVENT, MAX_TIME)
        for one in [one for one in self.timer_model.pending if one[1] == PROCESSING]:
            del self.timer_model.pending[one]

    def clean_up(self) -> None:
        """Drop state that has expired."""
        for cell in self.cells.values():
            cell.clean_up(self.processing_time)

    def close(self) -> None:
        """Close the function."""
        self._declared.close()

    # What came of it.

    @property
    def watermark(self) -> int:
        """The watermark: the least of all inputs."""
        return min(self._watermarks)

    def output(self) -> list[Any]:
        """The elements of the main output since the last look."""
        return self._drain(0, self.prepared.main)

    def output_batches(self) -> list[Batch]:
        """The same as batches."""
        return [batch for batch, _ in self._outputs.pop(0, [])]

    def timestamped_output(self, tag: OutputTag | None = None) -> list[tuple[Any, int | None]]:
        """The elements of an output with their timestamps: that of the row or timer that they came of. Known where
        bundles have one row or timer.
        """
        position = 0 if tag is None else self.prepared.outputs.position(tag) + 1
        output = self.prepared.main if tag is None else self.prepared.outputs.sides[position - 1][1]
        return [
            (one, stamp) for batch, stamp in self._outputs.pop(position, []) for one in output.read("output", batch)
        ]

    def side_output(self, tag: OutputTag | str) -> list[Any]:
        """The elements of a side output since the last look. Raises `KeyError` for one that is not declared."""
        wanted = tag if isinstance(tag, str) else tag.tag_id
        for position, (one, output) in enumerate(self.prepared.outputs.sides):
            if one.tag_id == wanted:
                return self._drain(position + 1, output)
        raise KeyError(wanted)

    def state(self, cell: str, key: Any = None, namespace: bytes | None = None) -> Any:
        """What a cell holds for a key: a value, a list, or a dict; None if nothing."""
        model = self.cells[cell]
        at = () if model.kind == "broadcast" else _as_key(key, len(self._key_fields))
        column = model.column([(at, namespace)], self.processing_time)
        store_cell = self.prepared.store.cells[cell]
        return store_cell.decode(column)[0]

    def keys(self, cell: str) -> list[Any]:
        """The keys that have a value in a cell, at any namespace."""
        model = self.cells[cell]
        found = [at for at, space in model.data if model.read((at, space), self.processing_time) is not None]
        return [key[0] if len(key) == 1 else key for key in dict.fromkeys(found)]

    def timers(self, key: Any = None) -> list[Timer]:
        """The pending timers, of one key or of all, by timestamp."""
        wanted = None if key is None else _as_key(key, len(self._key_fields))
        found = [one for one in self.timer_model.pending if wanted is None or one[0] == wanted]
        return [Timer(one[0][0] if len(one[0]) == 1 else one[0], *one[1:]) for one in sorted(found, key=lambda t: t[4])]

    # Bundles.

    def _push(self, elements: Any, timestamps: Sequence[int | None] | None, input: int, broadcast: bool) -> None:
        form = self._inputs[input]
        if isinstance(elements, list):
            batch = form.batch(self.prepared.name, elements, "input")
        else:
            batch = Batch.from_arrow(elements)
        stamps = list(timestamps) if timestamps is not None else [None] * len(batch)
        if len(stamps) != len(batch):
            raise ValueError(f"{len(stamps)} timestamps for {len(batch)} rows")
        for start in range(0, len(batch), self._rows_per_bundle):
            rows = batch.slice(start, min(self._rows_per_bundle, len(batch) - start))
            keys: list[Key] = []
            bundle = Bundle(
                rows=rows,
                input=input,
                timestamps=Column.from_pylist(
                    stamps[start : start + len(rows)], INT64.with_nullable(True), "timestamp"
                ),
                broadcast=broadcast,
            )
            if self._key_fields and not broadcast:
                index, keys = _distinct(self._key_of[input](rows))
                bundle.key_index = Column.from_pylist(index, UINT32)
            self._run(bundle, keys)
            self._fire(PROCESSING, self.processing_time)

    def _fire(self, domain: str, until: int) -> None:
        while fired := self.timer_model.due(domain, until, self._timers_per_bundle):
            index, keys = _distinct([one[0] for one in fired])
            fields = zip(*((at, *one[1:3], one[3] or b"", one[4]) for at, one in zip(index, fired)))
            kinds = TIMER_FIELDS[:5]
            columns = [Column.from_pylist(list(values), kind, name) for values, (name, kind) in zip(fields, kinds)]
            bundle = Bundle(timers=Batch.from_columns(columns, [name for name, _ in kinds], len(fired)))
            spaced = [(one[0], one[3]) for one in fired]
            if any(space is not None for _, space in spaced):
                bundle.timer_state = {
                    name: cell.column(spaced, self.processing_time)
                    for name, cell in self.cells.items()
                    if cell.kind != "broadcast" and name not in self._deferred
                }
            try:
                self._run(bundle, keys)
            except BaseException:
                self.timer_model.pending.update(dict.fromkeys(fired))  # nothing of the bundle has happened
                raise
            if domain == EVENT:
                self._fire(PROCESSING, self.processing_time)

    def _run(self, bundle: Bundle, keys: list[Key]) -> None:
        now = self.processing_time
        bundle.keys = self._key_batch(keys)
        bundle.watermark, bundle.processing_time = self.watermark, now
        for name, cell in self.cells.items():
            if name not in self._deferred:
                at = [()] if cell.kind == "broadcast" else keys
                bundle.state[name] = cell.column([(key, None) for key in at], now)

        def fetch(wanted: list[Wanted]) -> list[Found]:
            return [self.cells[name].fetched(asked, keys, now, self._page) for name, asked in wanted]

        bundle.fetch = fetch
        effects = self.prepared.call(bundle)
        for name, batch in effects.writes:
            self.cells[name].apply(batch, keys, now)
        if effects.timers is not None:
            self.timer_model.apply(effects.timers, keys)
        for position, batch in effects.outputs:
            self._outputs.setdefault(position, []).append((batch, _stamp(bundle)))
        self.effects.append(effects)

    def _key_batch(self, keys: list[Key]) -> Batch:
        columns = [
            from_values("key", [key[i] for key in keys], kind, name) for i, (name, kind) in enumerate(self._key_fields)
        ]
        return Batch.from_columns(columns, [name for name, _ in self._key_fields], len(keys))

    def _drain(self, position: int, output: Output) -> list[Any]:
        return [one for batch, _ in self._outputs.pop(position, []) for one in output.read("output", batch)]


def _stamp(bundle: Bundle) -> int | None:
    """The timestamp of a bundle's only row or timer."""
    stamps = bundle.timestamps if bundle.timers is None else bundle.timers.columns[4]
    found: list[int | None] = [] if stamps is None else stamps.to_pylist()
    return found[0] if len(found) == 1 else None


def _key_reader(key: Any, form: Output) -> Callable[[Batch], list[Key]]:
    """How to find the keys of a batch of this input."""
    if key is None:
        return lambda batch: [()] * len(batch)
    if callable(key):
        return lambda batch: [(key(one),) for one in form.read("key", batch)]
    names = [key] if isinstance(key, str) else list(key)
    known = [name for name, _ in form.fields]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PillionError("plan_invalid", f"the input has no column `{unknown[0]}` for a key")
    positions = [known.index(name) for name in names]
    return lambda batch: list(zip(*(to_values("key", batch.columns[one]) for one in positions)))


def _key_fields(key: Any, form: Output, key_type: object) -> list[tuple[str, Type]]:
    if key is None:
        return []
    if callable(key):
        return [("key", Output.of({"key": key_type}).fields[0][1])]
    types = dict(form.fields)
    return [(name, types[name]) for name in ([key] if isinstance(key, str) else key) if name in types]


def _as_key(key: Any, width: int) -> Key:
    return (key,) if width == 1 else tuple(key)


def _distinct(keys: Iterable[Key]) -> tuple[list[int], list[Key]]:
    """The position of each key among the distinct ones, and these."""
    found: dict[Key, int] = {}
    return [found.setdefault(key, len(found)) for key in keys], list(found)
