"""User metrics: what a function counts and measures, kept per worker and reported per batch.

Each batch's answer carries what its function's metrics have gained; a batch that fails, or whose worker is lost,
reports nothing, and its metrics are as they were before it. So each batch is counted once, however often it was tried.
"""

from __future__ import annotations

import logging
import operator
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from pillion import _native
from pillion.errors import PillionError, summary

_logger = logging.getLogger("pillion")

_INFINITY = float("inf")
_MOST = 2**63 - 1
_MAX_GROUPS = 16
"""As `wire/src/metrics.rs` has it."""

DEFAULT_SERIES = 1000
"""Series that a function may have unless the sidecar says otherwise."""


class _Metric(Protocol):
    """What a registry wants of a metric."""

    def _take(self) -> Any:
        """What was gained since the last time; None if nothing was."""

    def _drop(self) -> None:
        """Forget what was gained."""


class Counter:
    """Counts up and down. `counter.count += n` is the same as `counter.inc(n)`, for the tightest of loops."""

    __slots__ = ("_taken", "count")

    def __init__(self) -> None:
        self.count = 0
        self._taken = 0

    def inc(self, n: int = 1) -> None:
        """Add `n`."""
        self.count += n

    def dec(self, n: int = 1) -> None:
        """Subtract `n`."""
        self.count -= n

    def get_count(self) -> int:
        """The count in this worker, of batches that took effect and of the one that runs."""
        return self.count

    def _take(self) -> int | None:
        try:
            count = operator.index(self.count)
        except TypeError:
            message = f"counts in whole numbers, and cannot become {self.count!r}"
            self._drop()
            raise ValueError(message) from None
        gained = count - self._taken
        self.count = self._taken = count
        if not -_MOST <= gained <= _MOST:
            raise ValueError("gained more than a 64-bit number can hold")
        return gained or None

    def _drop(self) -> None:
        self.count = self._taken


class Meter:
    """Measures the rate of events: the sidecar is told how many there were, and its readers divide by time."""

    __slots__ = ("_counter",)

    def __init__(self) -> None:
        self._counter = Counter()

    def mark_event(self, value: int = 1) -> None:
        """So many events happened."""
        self._counter.count += value

    def get_count(self) -> int:
        """Events in this worker, of batches that took effect and of the one that runs."""
        return self._counter.count

    def _take(self) -> int | None:
        gained = self._counter._take()
        if gained is not None and gained < 0:
            raise ValueError("cannot run backwards")
        return gained

    def _drop(self) -> None:
        self._counter._drop()


class Gauge:
    """A value at a time: what was set last, or what a callable gives after each batch."""

    __slots__ = ("_read", "_value")

    def __init__(self, read: Callable[[], float] | None = None) -> None:
        self._read = read
        self._value: float | None = None

    def set(self, value: float) -> None:
        """Set the value, for a gauge without a callable."""
        self._value = value

    def _take(self) -> float | None:
        value = self._value if self._read is None else self._read()
        return None if value is None else float(value)

    def _drop(self) -> None:
        pass  # a value is no gain; it stays until the next batch


class Distribution:
    """Number, sum, least and greatest of the values seen. Values that are not finite are left out."""

    __slots__ = ("_count", "_max", "_min", "_sum")

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._min = _INFINITY
        self._max = -_INFINITY

    def update(self, value: float) -> None:
        """One value was seen."""
        if -_INFINITY < value < _INFINITY:
            self._count += 1
            self._sum += value
            if value < self._min:
                self._min = value
            if value > self._max:
                self._max = value

    def update_all(self, values: Iterable[float]) -> None:
        """All values of a column were seen: a list, a NumPy array, a `pandas.Series`, a `pyarrow.Array`."""
        array = _finite(values)
        if array is None:
            for value in values:
                self.update(value)
        elif array.size:
            self._count += int(array.size)
            self._sum += float(array.sum())
            self._min = min(self._min, float(array.min()))
            self._max = max(self._max, float(array.max()))

    def _take(self) -> tuple[int, float, float, float] | None:
        if not self._count:
            return None
        gained = (self._count, float(self._sum), float(self._min), float(self._max))
        self._drop()
        if not -_INFINITY < gained[1] < _INFINITY:
            raise ValueError("has seen values too large to add up")
        return gained

    def _drop(self) -> None:
        self._count, self._sum, self._min, self._max = 0, 0.0, _INFINITY, -_INFINITY


class Histogram:
    """Counts the values seen by size, and adds them up. Values that are not finite are left out."""

    __slots__ = ("_counts", "_sum", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = list(bounds)
        """The greatest value of each bucket but the last, which has none."""
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def update(self, value: float) -> None:
        """One value was seen."""
        if -_INFINITY < value < _INFINITY:
            self._sum += value
            self._counts[bisect_left(self.bounds, value)] += 1

    def update_all(self, values: Iterable[float]) -> None:
        """All values of a column were seen: a list, a NumPy array, a `pandas.Series`, a `pyarrow.Array`."""
        array = _finite(values)
        if array is None:
            for value in values:
                self.update(value)
            return
        numpy = sys.modules["numpy"]
        found = numpy.bincount(numpy.searchsorted(self.bounds, array), minlength=len(self._counts))
        self._counts = [one + more for one, more in zip(self._counts, found.tolist())]
        self._sum += float(array.sum())

    def _take(self) -> tuple[list[float], list[int], float] | None:
        if not any(self._counts):
            return None
        gained = (self.bounds, self._counts, float(self._sum))
        self._drop()
        if not -_INFINITY < gained[2] < _INFINITY:
            raise ValueError("has seen values too large to add up")
        return gained

    def _drop(self) -> None:
        self._counts, self._sum = [0] * (len(self.bounds) + 1), 0.0


def _finite(values: Iterable[float]) -> Any:
    """The finite values as a NumPy array; None if they are plain Python, or NumPy is not there."""
    if isinstance(values, (list, tuple)) or not (
        hasattr(values, "__array__") or hasattr(values, "__array_interface__")
    ):
        return None
    import numpy

    array = numpy.asarray(values, dtype="float64")
    return array[numpy.isfinite(array)]


_M = TypeVar("_M", Counter, Gauge, Meter, Distribution, Histogram)


class MetricGroup:
    """Where a function finds its metrics by name, and further groups. The same name gives the same metric again.

    Get one by :meth:`pillion.FunctionContext.get_metric_group` in `open`, and keep the metrics that you ask it for.
    """

    def __init__(
        self, metrics: Metrics, groups: tuple[str, ...] = (), labels: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._metrics = metrics
        self._groups = groups
        self._labels = labels

    def add_group(self, name: str, extra: str | None = None) -> MetricGroup:
        """A group within this one. With `extra` its metrics get a label instead: `name` is its key, `extra` its value.

        Labels are for what has few values, such as the version of a model: each value makes series of its own.
        """
        _check("group" if extra is None else "label", name)
        if extra is None:
            group = MetricGroup(self._metrics, (*self._groups, name), self._labels)
        else:
            _check("label value", extra)
            # As in Flink, the innermost value of a key counts.
            labels = {**dict(self._labels), name: extra}
            group = MetricGroup(self._metrics, self._groups, tuple(sorted(labels.items())))
        if max(len(group._groups), len(group._labels)) > _MAX_GROUPS:
            raise _invalid(f"a metric can be in {_MAX_GROUPS} groups and have {_MAX_GROUPS} labels, not more")
        return group

    def counter(self, name: str) -> Counter:
        """What counts up, and down if need be."""
        return self._find("counter", Counter, name, Counter)

    def meter(self, name: str, time_span_in_seconds: int = 60) -> Meter:
        """What measures the rate of events. Over which time is for the reader to choose, as with any counter of
        Prometheus; `time_span_in_seconds` is taken for PyFlink's sake, and not used.
        """
        return self._find("meter", Meter, name, Meter)

    def gauge(self, name: str, obj: Callable[[], float] | None = None) -> Gauge:
        """A value at a time. `obj` is called after each batch; without it, :meth:`Gauge.set` says the value."""
        if obj is not None and not callable(obj):
            raise _invalid(f"the gauge `{name}` needs something to call, not a value of type `{type(obj).__name__}`")
        found = self._find("gauge", Gauge, name, Gauge)
        if obj is not None:
            found._read = obj
        return found

    def distribution(self, name: str) -> Distribution:
        """Number, sum, least and greatest of values."""
        return self._find("distribution", Distribution, name, Distribution)

    def histogram(self, name: str, buckets: Sequence[float] | None = None) -> Histogram:
        """How values are distributed. `buckets` are upper bounds, ascending; if left out they go by the unit that the
        name ends in: `_seconds`, `_bytes`, `_ratio`, else 1, 2, 5, 10 and so on from 0.001 to 1,000,000.
        """
        _check("metric", name)
        bounds = _native.metric_bounds(name) if buckets is None else [float(bound) for bound in buckets]
        if not _native.are_metric_bounds(bounds):
            raise _invalid(f"the buckets of `{name}` are not 1 to 64 finite numbers, each greater than the one before")
        found = self._find("histogram", Histogram, name, lambda: Histogram(bounds))
        if found.bounds != bounds:
            raise _invalid(f"the histogram `{name}` exists with other buckets")
        return found

    def _find(self, kind: str, expected: type[_M], name: str, make: Callable[[], _M]) -> _M:
        _check("metric", name)
        return self._metrics.find((self._groups, self._labels, name), kind, expected, make)


class Metrics:
    """All metrics of one function in one worker."""

    def __init__(self, function: str, limit: int = DEFAULT_SERIES) -> None:
        self.function = function
        self.limit = limit
        """Series that the function may have, as the sidecar says."""
        self.series: list[tuple[str, str, list[str], dict[str, str], _Metric]] = []
        """Kind, name, groups, labels and metric. Empty for a function without metrics, which then costs nothing."""
        self.group = MetricGroup(self)
        self._found: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._size = 0
        self._complained: set[str] = set()

    def find(self, key: tuple[Any, ...], kind: str, expected: type[_M], make: Callable[[], _M]) -> _M:
        """The metric of this name and group, made if it is new. Raises `metric_invalid` if it is of another kind."""
        groups, labels, name = key
        if key in self._found:
            existing, metric = self._found[key]
            if not isinstance(metric, expected):
                raise _invalid(f"the metric `{name}` is a {existing} already, and cannot be a {kind}")
            return metric
        metric = make()
        size = {"distribution": 4, "histogram": 4}.get(kind, 1)
        if isinstance(metric, Histogram):
            size = len(metric.bounds) + 3
        if self._size + size > self.limit:
            # Whoever asked can use it; nobody else keeps it.
            self._complain(
                "",
                f"`{self.function}` has {self._size} series of metrics, which is as many as the sidecar takes: "
                f"`{name}` is the first that is not reported; `limits.metric_series` allows more",
            )
            return metric
        self._size += size
        self._found[key] = (kind, metric)
        self.series.append((kind, name, list(groups), dict(labels), metric))
        return metric

    def take(self) -> list[tuple[str, str, list[str], dict[str, str], Any]]:
        """What was gained since the last time, and what gauges say. Does not raise."""
        gained = []
        for kind, name, groups, labels, metric in self.series:
            try:
                value = metric._take()
            except BaseException as exc:  # noqa: BLE001 - gauges call user code, and what was counted may be anything
                reason = str(exc) if isinstance(exc, ValueError) else f"raised {summary(exc)}"
                self._complain(name, f"the {kind} `{name}` of `{self.function}` is left out: it {reason}")
                continue
            if value is not None:
                gained.append((kind, name, groups, labels, value))
        return gained

    def drop(self) -> None:
        """Forget what was gained: the batch has failed."""
        for *_, metric in self.series:
            metric._drop()

    def overflow(self, limit: int) -> None:
        """Called when the deltas of one batch take more bytes than fit beside its result."""
        self._complain(
            "", f"the metrics of `{self.function}` take more than {limit} bytes per batch; the last ones are left out"
        )

    def _complain(self, about: str, message: str) -> None:
        """Once for each; a function may do the same wrong with every row."""
        if about not in self._complained:
            self._complained.add(about)
            _logger.warning("%s", message)


def _check(what: str, name: object) -> None:
    try:
        valid = isinstance(name, str) and _native.is_metric_name(name)
    except UnicodeError:
        valid = False
    if not valid:
        rule = "a name is a text of 1 to 200 bytes without control characters"
        raise _invalid(f"{name!r:.100} cannot be the name of a {what}: {rule}")


def _invalid(message: str) -> PillionError:
    return PillionError("metric_invalid", message)
