"""State: descriptors, and the cells that they get (here for annotations)."""

from __future__ import annotations

import enum
from typing import Any

from pillion.cells import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateDescriptor,
    Ttl,
    ValueStateDescriptor,
)
from pillion.stateful.collections import BroadcastCell as BroadcastState
from pillion.stateful.collections import ListCell as ListState
from pillion.stateful.collections import MapCell as MapState
from pillion.stateful.handles import AggregatingCell as AggregatingState
from pillion.stateful.handles import ReducingCell as ReducingState
from pillion.stateful.handles import ValueCell as ValueState
from pillion.windows.kinds import milliseconds

ReadOnlyBroadcastState = BroadcastState

__all__ = [
    "AggregatingState",
    "AggregatingStateDescriptor",
    "BroadcastState",
    "ListState",
    "ListStateDescriptor",
    "MapState",
    "MapStateDescriptor",
    "ReadOnlyBroadcastState",
    "ReducingState",
    "ReducingStateDescriptor",
    "StateDescriptor",
    "StateTtlConfig",
    "ValueState",
    "ValueStateDescriptor",
]


class StateTtlConfig:
    """How long state lives. Cleaning up is the sidecar's business: settings for it are taken, and change nothing."""

    class UpdateType(enum.Enum):
        """What makes a value young again."""

        Disabled = 0
        OnCreateAndWrite = 1
        OnReadAndWrite = 2

    class StateVisibility(enum.Enum):
        """Whether an expired value may still be seen."""

        ReturnExpiredIfNotCleanedUp = 0
        NeverReturnExpired = 1

    class TtlTimeCharacteristic(enum.Enum):
        """By which time it lives."""

        ProcessingTime = 0

    def __init__(self, ttl: Any, update_type: UpdateType, visibility: StateVisibility) -> None:
        self._ttl, self._update_type, self._visibility = ttl, update_type, visibility

    @staticmethod
    def new_builder(ttl: Any) -> StateTtlConfig.Builder:
        """A builder with this time to live."""
        return StateTtlConfig.Builder(ttl)

    def get_ttl(self) -> Any:
        """The time to live."""
        return self._ttl

    def get_update_type(self) -> UpdateType:
        """What makes a value young again."""
        return self._update_type

    def get_state_visibility(self) -> StateVisibility:
        """Whether an expired value may still be seen."""
        return self._visibility

    def is_enabled(self) -> bool:
        """Whether values expire at all."""
        return self._update_type is not StateTtlConfig.UpdateType.Disabled

    def to_ttl(self) -> Ttl | None:
        """The same as this package has it."""
        if not self.is_enabled():
            return None
        reads = self._update_type is StateTtlConfig.UpdateType.OnReadAndWrite
        expired = self._visibility is StateTtlConfig.StateVisibility.ReturnExpiredIfNotCleanedUp
        return Ttl(milliseconds(self._ttl), reads, expired)

    class Builder:
        """Makes a :class:`StateTtlConfig`."""

        def __init__(self, ttl: Any) -> None:
            self._ttl = ttl
            self._update_type = StateTtlConfig.UpdateType.OnCreateAndWrite
            self._visibility = StateTtlConfig.StateVisibility.NeverReturnExpired

        def set_ttl(self, ttl: Any) -> StateTtlConfig.Builder:
            """Another time to live."""
            self._ttl = ttl
            return self

        def set_update_type(self, update_type: StateTtlConfig.UpdateType) -> StateTtlConfig.Builder:
            """What makes a value young again."""
            self._update_type = update_type
            return self

        def update_ttl_on_create_and_write(self) -> StateTtlConfig.Builder:
            """Writing does."""
            return self.set_update_type(StateTtlConfig.UpdateType.OnCreateAndWrite)

        def update_ttl_on_read_and_write(self) -> StateTtlConfig.Builder:
            """Reading does, too."""
            return self.set_update_type(StateTtlConfig.UpdateType.OnReadAndWrite)

        def set_state_visibility(self, state_visibility: StateTtlConfig.StateVisibility) -> StateTtlConfig.Builder:
            """Whether an expired value may still be seen."""
            self._visibility = state_visibility
            return self

        def return_expired_if_not_cleaned_up(self) -> StateTtlConfig.Builder:
            """It may, until it is cleaned up."""
            return self.set_state_visibility(StateTtlConfig.StateVisibility.ReturnExpiredIfNotCleanedUp)

        def never_return_expired(self) -> StateTtlConfig.Builder:
            """It may not."""
            return self.set_state_visibility(StateTtlConfig.StateVisibility.NeverReturnExpired)

        def use_processing_time(self) -> StateTtlConfig.Builder:
            """The only time there is for it."""
            return self

        def set_ttl_time_characteristic(self, characteristic: Any) -> StateTtlConfig.Builder:
            """The only time there is for it."""
            return self

        def cleanup_full_snapshot(self) -> StateTtlConfig.Builder:
            """Taken, without effect."""
            return self

        def cleanup_incrementally(
            self, cleanup_size: int, run_cleanup_for_every_record: bool
        ) -> StateTtlConfig.Builder:
            """Taken, without effect."""
            return self

        def cleanup_in_rocksdb_compact_filter(self, *settings: Any) -> StateTtlConfig.Builder:
            """Taken, without effect."""
            return self

        def disable_cleanup_in_background(self) -> StateTtlConfig.Builder:
            """Taken, without effect."""
            return self

        def build(self) -> StateTtlConfig:
            """The configuration."""
            return StateTtlConfig(self._ttl, self._update_type, self._visibility)
