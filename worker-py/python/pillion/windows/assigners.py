"""Which windows an element belongs to. Names and behaviour are PyFlink's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from pillion.cells import ValueStateDescriptor
from pillion.errors import PillionError
from pillion.windows.kinds import CountWindow, GlobalWindow, TimeWindow, invalid, milliseconds

T = TypeVar("T")
W = TypeVar("W")


class WindowAssigner(Generic[T, W]):
    """Says which windows an element belongs to. May be derived from, with windows of this module."""

    trigger: ClassVar[str] = "NeverTrigger"
    """The default trigger, by its name in `pillion.windows.triggers`; it is given `trigger_arguments()`."""

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[Any]:
        """The windows of an element."""
        raise NotImplementedError

    def is_event_time(self) -> bool:
        """Whether its windows end by event time."""
        return False

    def get_default_trigger(self, env: Any = None) -> Any:
        """The trigger where none is asked for."""
        from pillion.windows import triggers

        return getattr(triggers, self.trigger)(*self.trigger_arguments())

    def trigger_arguments(self) -> tuple[Any, ...]:
        """For the default trigger."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(str(one) for one in vars(self).values())})"


class MergingWindowAssigner(WindowAssigner[T, W]):
    """One whose windows may merge: sessions."""

    def merge_windows(
        self, windows: Iterable[TimeWindow], callback: Callable[[list[TimeWindow], TimeWindow], None]
    ) -> None:
        """Call `callback(merged, result)` for each group of windows that become one."""
        groups: list[tuple[TimeWindow, list[TimeWindow]]] = []
        for one in sorted(windows):
            if groups and groups[-1][0].intersects(one):
                cover, members = groups[-1]
                groups[-1] = (cover.cover(one), members if one in members else [*members, one])
            else:
                groups.append((one, [one]))
        for cover, members in groups:
            if len(members) > 1:
                callback(members, cover)


def _of_event_time(timestamp: int | None, assigner: object) -> int:
    if timestamp is None:
        raise PillionError(
            "argument_type",
            f"an element has no timestamp, but `{type(assigner).__name__}` goes by event time",
            hint="name the column of event time, for example `--event-time at`",
        )
    return timestamp


class _Tumbling(WindowAssigner[Any, TimeWindow]):
    def __init__(self, size: int, offset: int = 0) -> None:
        invalid(size <= 0 or abs(offset) >= size, f"`{type(self).__name__}` needs 0 < size and abs(offset) < size")
        self._size, self._offset = size, offset

    @classmethod
    def of(cls, size: Any, offset: Any = 0) -> Any:
        """Windows of this size, that begin at its multiples, or so much later."""
        return cls(milliseconds(size), milliseconds(offset or 0))

    def _at(self, timestamp: int) -> list[TimeWindow]:
        start = TimeWindow.get_window_start_with_offset(timestamp, self._offset, self._size)
        return [TimeWindow(start, start + self._size)]


class _Sliding(WindowAssigner[Any, TimeWindow]):
    def __init__(self, size: int, slide: int, offset: int = 0) -> None:
        name = type(self).__name__
        invalid(size <= 0 or slide <= 0 or abs(offset) >= slide, f"`{name}` needs 0 < size and abs(offset) < slide")
        self._size, self._slide, self._offset = size, slide, offset

    @classmethod
    def of(cls, size: Any, slide: Any, offset: Any = 0) -> Any:
        """Windows of this size, one of which begins with each slide."""
        return cls(milliseconds(size), milliseconds(slide), milliseconds(offset or 0))

    def _at(self, timestamp: int) -> list[TimeWindow]:
        last = TimeWindow.get_window_start_with_offset(timestamp, self._offset, self._slide)
        size = self._size
        return [TimeWindow(start, start + size) for start in range(last, timestamp - size, -self._slide)]


class _EventTime:
    trigger: ClassVar[str] = "EventTimeTrigger"
    _at: Any

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[TimeWindow]:
        """The windows of an element's timestamp."""
        found: Collection[TimeWindow] = self._at(_of_event_time(timestamp, self))
        return found

    def is_event_time(self) -> bool:
        """Always."""
        return True


class _ProcessingTime:
    trigger: ClassVar[str] = "ProcessingTimeTrigger"
    _at: Any

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[TimeWindow]:
        """The windows of the clock."""
        found: Collection[TimeWindow] = self._at(context.get_current_processing_time())
        return found


class TumblingEventTimeWindows(_EventTime, _Tumbling):
    """Windows side by side, by event time."""


class TumblingProcessingTimeWindows(_ProcessingTime, _Tumbling):
    """Windows side by side, by the clock."""


class SlidingEventTimeWindows(_EventTime, _Sliding):
    """Windows that overlap, by event time."""


class SlidingProcessingTimeWindows(_ProcessingTime, _Sliding):
    """Windows that overlap, by the clock."""


class SessionWindowTimeGapExtractor:
    """`extract(element)` gives the gap, in ms, that ends a session after this element."""

    def extract(self, element: Any) -> int:
        """The gap."""
        raise NotImplementedError


class _Session(MergingWindowAssigner[Any, TimeWindow]):
    def __init__(self, session_gap: int) -> None:
        invalid(session_gap <= 0, f"`{type(self).__name__}` needs a positive gap")
        self._session_gap = session_gap

    @classmethod
    def with_gap(cls, size: Any) -> Any:
        """Sessions that end when nothing came for so long."""
        return cls(milliseconds(size))

    def _at(self, timestamp: int) -> list[TimeWindow]:
        return [TimeWindow(timestamp, timestamp + self._session_gap)]


class _DynamicSession(MergingWindowAssigner[Any, TimeWindow]):
    def __init__(self, extractor: Any) -> None:
        self._extract = extractor.extract if hasattr(extractor, "extract") else extractor

    def _window(self, element: Any, timestamp: int) -> list[TimeWindow]:
        gap = self._extract(element)
        if gap <= 0:
            raise ValueError("Dynamic session time gap must satisfy 0 < gap")
        return [TimeWindow(timestamp, timestamp + gap)]


class DynamicEventTimeSessionWindows(_DynamicSession):
    """Sessions by event time, with a gap for each element."""

    trigger = "EventTimeTrigger"

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[TimeWindow]:
        return self._window(element, _of_event_time(timestamp, self))

    def is_event_time(self) -> bool:
        return True


class DynamicProcessingTimeSessionWindows(_DynamicSession):
    """Sessions by the clock, with a gap for each element."""

    trigger = "ProcessingTimeTrigger"

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[TimeWindow]:
        return self._window(element, context.get_current_processing_time())


class EventTimeSessionWindows(_EventTime, _Session):
    """Sessions by event time."""

    @staticmethod
    def with_dynamic_gap(extractor: Any) -> DynamicEventTimeSessionWindows:
        """With a gap for each element."""
        return DynamicEventTimeSessionWindows(extractor)


class ProcessingTimeSessionWindows(_ProcessingTime, _Session):
    """Sessions by the clock."""

    @staticmethod
    def with_dynamic_gap(extractor: Any) -> DynamicProcessingTimeSessionWindows:
        """With a gap for each element."""
        return DynamicProcessingTimeSessionWindows(extractor)


class GlobalWindows(WindowAssigner[Any, GlobalWindow]):
    """One window of everything, which fires when its trigger says so."""

    @staticmethod
    def create() -> GlobalWindows:
        """The assigner."""
        return GlobalWindows()

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[GlobalWindow]:
        return [GlobalWindow.get()]


class CountTumblingWindowAssigner(WindowAssigner[Any, CountWindow]):
    """Windows of so many elements."""

    trigger = "CountTrigger"

    def __init__(self, window_size: int) -> None:
        invalid(window_size <= 0, "a count window needs a positive size")
        self._window_size = window_size
        self._count_descriptor = ValueStateDescriptor("tumble-count-assigner", "bigint")

    @staticmethod
    def of(window_size: int) -> CountTumblingWindowAssigner:
        """Windows of this size."""
        return CountTumblingWindowAssigner(window_size)

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[CountWindow]:
        state = context.get_runtime_context().get_state(self._count_descriptor)
        count = state.value() or 0
        state.update(count + 1)
        return [CountWindow(count // self._window_size)]

    def trigger_arguments(self) -> tuple[Any, ...]:
        return (self._window_size,)


class CountSlidingWindowAssigner(WindowAssigner[Any, CountWindow]):
    """Windows of so many elements, one of which begins with each `window_slide` of them."""

    trigger = "CountTrigger"

    def __init__(self, window_size: int, window_slide: int) -> None:
        invalid(window_size <= 0 or window_slide <= 0, "a count window needs a positive size and slide")
        self._window_size, self._window_slide = window_size, window_slide
        self._count_descriptor = ValueStateDescriptor("slide-count-assigner", "bigint")

    @staticmethod
    def of(window_size: int, window_slide: int) -> CountSlidingWindowAssigner:
        """Windows of this size and slide."""
        return CountSlidingWindowAssigner(window_size, window_slide)

    def assign_windows(self, element: Any, timestamp: int, context: Any) -> Collection[CountWindow]:
        state = context.get_runtime_context().get_state(self._count_descriptor)
        count = state.value() or 0
        state.update(count + 1)
        last = count // self._window_slide
        first = max((count - self._window_size) // self._window_slide + 1, 0)
        return [CountWindow(one) for one in range(last, first - 1, -1)]

    def trigger_arguments(self) -> tuple[Any, ...]:
        return (self._window_size,)
