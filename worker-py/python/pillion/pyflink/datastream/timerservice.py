"""`TimerService`."""

from pillion.stateful.context import TimerService

__all__ = ["TimerService"]
