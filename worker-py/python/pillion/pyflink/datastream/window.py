"""Windows, triggers, and this package's evictors."""

from typing import BinaryIO

from pillion import windows
from pillion.windows import *  # noqa: F403 - the same names, all of them
from pillion.windows.kinds import Window, decode

__all__ = ["CountWindowSerializer", "GlobalWindowSerializer", "TimeWindowSerializer"]
__all__ += windows.__all__


class _WindowSerializer:
    """Windows as bytes, as they are namespaces of state; asked for by nobody but user code."""

    size = 16

    def serialize(self, element: Window, stream: BinaryIO) -> None:
        """Write a window."""
        stream.write(element.encode())

    def deserialize(self, stream: BinaryIO) -> Window:
        """Read a window."""
        return decode(stream.read(self.size))


class TimeWindowSerializer(_WindowSerializer):
    """Of :class:`TimeWindow`."""


class CountWindowSerializer(_WindowSerializer):
    """Of :class:`CountWindow`."""

    size = 8


class GlobalWindowSerializer(_WindowSerializer):
    """Of :class:`GlobalWindow`."""

    size = 1
