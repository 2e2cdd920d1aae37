"""When a window gives its result. Names and behaviour are PyFlink's; one's own may be derived from :class:`Trigger`.

A trigger keeps its state in descriptors that are its attributes, and asks for them with `get_partitioned_state`.
"""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

from pillion.cells import ReducingStateDescriptor
from pillion.windows.kinds import invalid, milliseconds

T = TypeVar("T")
W = TypeVar("W")


class TriggerResult(enum.Enum):
    """What becomes of a window: it gives a result, it forgets its elements, both, or neither."""

    CONTINUE = (False, False)
    FIRE_AND_PURGE = (True, True)
    FIRE = (True, False)
    PURGE = (False, True)

    def is_fire(self) -> bool:
        """Whether it gives a result."""
        return self.value[0]

    def is_purge(self) -> bool:
        """Whether it forgets its elements."""
        return self.value[1]


CONTINUE, FIRE = TriggerResult.CONTINUE, TriggerResult.FIRE


class Trigger(Generic[T, W]):
    """Decides at each element and each timer."""

    class TriggerContext:
        """Time, timers and state of the window."""

    class OnMergeContext(TriggerContext):
        """The same while windows merge."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        """Called for each element of the window."""
        raise NotImplementedError

    def on_processing_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        """Called when a timer of processing time fires."""
        return CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        """Called when a timer of event time fires."""
        return CONTINUE

    def can_merge(self) -> bool:
        """Whether it works with windows that merge."""
        return False

    def on_merge(self, window: Any, ctx: Any) -> None:
        """Called when windows have become this one."""

    def clear(self, window: Any, ctx: Any) -> None:
        """Called when the window is dropped: delete timers and state."""


class _EventTime:
    """What triggers that go by event time do with it."""

    @staticmethod
    def _now(ctx: Any) -> int:
        return int(ctx.get_current_watermark())

    @staticmethod
    def _register(ctx: Any, time: int) -> None:
        ctx.register_event_time_timer(time)

    @staticmethod
    def _delete(ctx: Any, time: int) -> None:
        ctx.delete_event_time_timer(time)


class _ProcessingTime:
    """The same for the clock."""

    @staticmethod
    def _now(ctx: Any) -> int:
        return int(ctx.get_current_processing_time())

    @staticmethod
    def _register(ctx: Any, time: int) -> None:
        ctx.register_processing_time_timer(time)

    @staticmethod
    def _delete(ctx: Any, time: int) -> None:
        ctx.delete_processing_time_timer(time)


class _Timed(Trigger[Any, Any]):
    """Sets timers of one of the two."""

    def can_merge(self) -> bool:
        return True

    def _now(self, ctx: Any) -> int:
        raise NotImplementedError

    def _register(self, ctx: Any, time: int) -> None:
        raise NotImplementedError

    def _delete(self, ctx: Any, time: int) -> None:
        raise NotImplementedError


class _AtEnd(_Timed):
    @classmethod
    def create(cls) -> Any:
        """The trigger."""
        return cls()

    def on_merge(self, window: Any, ctx: Any) -> None:
        end = window.max_timestamp()
        if end > self._now(ctx):
            self._register(ctx, end)

    def clear(self, window: Any, ctx: Any) -> None:
        self._delete(ctx, window.max_timestamp())


class EventTimeTrigger(_EventTime, _AtEnd):
    """Fires when the watermark passes the end."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        end = window.max_timestamp()
        if end <= ctx.get_current_watermark():
            return FIRE
        ctx.register_event_time_timer(end)
        return CONTINUE

    def on_event_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return FIRE if time == window.max_timestamp() else CONTINUE


class ProcessingTimeTrigger(_ProcessingTime, _AtEnd):
    """Fires when the clock passes the end."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        ctx.register_processing_time_timer(window.max_timestamp())
        return CONTINUE

    def on_processing_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return FIRE


class _Continuous(_Timed):
    def __init__(self, interval: int) -> None:
        invalid(interval <= 0, f"`{type(self).__name__}` needs a positive interval")
        self.interval = interval
        self.state_desc = ReducingStateDescriptor("fire-time", min, "bigint")

    @classmethod
    def of(cls, interval: Any) -> Any:
        """A trigger that fires at multiples of this time."""
        return cls(milliseconds(interval))

    def on_merge(self, window: Any, ctx: Any) -> None:
        ctx.merge_partitioned_state(self.state_desc)
        time = ctx.get_partitioned_state(self.state_desc).get()
        if time is not None:
            self._register(ctx, time)

    def clear(self, window: Any, ctx: Any) -> None:
        state = ctx.get_partitioned_state(self.state_desc)
        time = state.get()
        if time is not None:
            self._delete(ctx, time)
            state.clear()

    def _begin(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        """An element has come: the first one of the window begins the intervals."""
        state = ctx.get_partitioned_state(self.state_desc)
        if state.get() is None:
            self._next(time - time % self.interval, window, ctx, state)
        return CONTINUE

    def _go_on(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        """A timer has fired: if it is that of the interval, the next one begins."""
        state = ctx.get_partitioned_state(self.state_desc)
        if state.get() != time:
            return CONTINUE
        state.clear()
        self._next(time, window, ctx, state)
        return FIRE

    def _next(self, time: int, window: Any, ctx: Any, state: Any) -> None:
        following = min(time + self.interval, window.max_timestamp())
        state.add(following)
        self._register(ctx, following)


class ContinuousEventTimeTrigger(_EventTime, _Continuous):
    """Fires at intervals of event time, and at the end."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        end = window.max_timestamp()
        if end <= ctx.get_current_watermark():
            return FIRE
        ctx.register_event_time_timer(end)
        return self._begin(timestamp, window, ctx)

    def on_event_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return FIRE if time == window.max_timestamp() else self._go_on(time, window, ctx)


class ContinuousProcessingTimeTrigger(_ProcessingTime, _Continuous):
    """Fires at intervals of the clock."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        return self._begin(ctx.get_current_processing_time(), window, ctx)

    def on_processing_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return self._go_on(time, window, ctx)


class CountTrigger(Trigger[Any, Any]):
    """Fires at every so many elements."""

    def __init__(self, window_size: int) -> None:
        invalid(window_size <= 0, "`CountTrigger` needs a positive count")
        self._window_size = window_size
        self._count_state_descriptor = ReducingStateDescriptor("count", lambda a, b: a + b, "bigint")

    @staticmethod
    def of(window_size: int) -> CountTrigger:
        """A trigger that fires at every so many elements."""
        return CountTrigger(window_size)

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        count = ctx.get_partitioned_state(self._count_state_descriptor)
        count.add(1)
        if count.get() >= self._window_size:
            count.clear()
            return FIRE
        return CONTINUE

    def can_merge(self) -> bool:
        return True

    def on_merge(self, window: Any, ctx: Any) -> None:
        ctx.merge_partitioned_state(self._count_state_descriptor)

    def clear(self, window: Any, ctx: Any) -> None:
        ctx.get_partitioned_state(self._count_state_descriptor).clear()


class PurgingTrigger(Trigger[Any, Any]):
    """Another trigger, after whose firing the elements are forgotten."""

    def __init__(self, nested_trigger: Trigger[Any, Any]) -> None:
        self.nested_trigger = nested_trigger

    @staticmethod
    def of(nested_trigger: Trigger[Any, Any]) -> PurgingTrigger:
        """Around this trigger."""
        return PurgingTrigger(nested_trigger)

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        return _purging(self.nested_trigger.on_element(element, timestamp, window, ctx))

    def on_event_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return _purging(self.nested_trigger.on_event_time(time, window, ctx))

    def on_processing_time(self, time: int, window: Any, ctx: Any) -> TriggerResult:
        return _purging(self.nested_trigger.on_processing_time(time, window, ctx))

    def can_merge(self) -> bool:
        return self.nested_trigger.can_merge()

    def on_merge(self, window: Any, ctx: Any) -> None:
        self.nested_trigger.on_merge(window, ctx)

    def clear(self, window: Any, ctx: Any) -> None:
        self.nested_trigger.clear(window, ctx)


def _purging(result: TriggerResult) -> TriggerResult:
    return TriggerResult.FIRE_AND_PURGE if result.is_fire() else result


class NeverTrigger(Trigger[Any, Any]):
    """Never fires."""

    def on_element(self, element: Any, timestamp: int, window: Any, ctx: Any) -> TriggerResult:
        return CONTINUE
