"""Lengths of time, and instants."""

from __future__ import annotations


class Time:
    """A length of time."""

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def to_milliseconds(self) -> int:
        """Itself in ms."""
        return self._milliseconds

    @classmethod
    def milliseconds(cls, milliseconds: int) -> Time:
        """So many ms."""
        return cls(milliseconds)

    @classmethod
    def seconds(cls, seconds: int) -> Time:
        """So many seconds."""
        return cls(seconds * 1000)

    @classmethod
    def minutes(cls, minutes: int) -> Time:
        """So many minutes."""
        return cls(minutes * 60_000)

    @classmethod
    def hours(cls, hours: int) -> Time:
        """So many hours."""
        return cls(hours * 3_600_000)

    @classmethod
    def days(cls, days: int) -> Time:
        """So many days."""
        return cls(days * 86_400_000)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Time) and self._milliseconds == other._milliseconds

    def __hash__(self) -> int:
        return hash(self._milliseconds)

    def __repr__(self) -> str:
        return f"{self._milliseconds} ms"


class Duration(Time):
    """A length of time, under the names of Java."""

    @classmethod
    def of_millis(cls, millis: int) -> Duration:
        """So many ms."""
        return cls(millis)

    @classmethod
    def of_seconds(cls, seconds: int) -> Duration:
        """So many seconds."""
        return cls(seconds * 1000)

    @classmethod
    def of_minutes(cls, minutes: int) -> Duration:
        """So many minutes."""
        return cls(minutes * 60_000)

    @classmethod
    def of_hours(cls, hours: int) -> Duration:
        """So many hours."""
        return cls(hours * 3_600_000)

    @classmethod
    def of_days(cls, days: int) -> Duration:
        """So many days."""
        return cls(days * 86_400_000)

    @classmethod
    def of_nanos(cls, nanos: int) -> Duration:
        """So many ns, cut to ms."""
        return cls(nanos // 1_000_000)


class Instant:
    """A point in time."""

    def __init__(self, seconds: int, nanos: int) -> None:
        self.seconds, self.nanos = seconds, nanos

    def to_epoch_milli(self) -> int:
        """Milliseconds since 1970."""
        return self.seconds * 1000 + self.nanos // 1_000_000

    @staticmethod
    def of_epoch_milli(epoch_milli: int) -> Instant:
        """From milliseconds since 1970."""
        return Instant(epoch_milli // 1000, epoch_milli % 1000 * 1_000_000)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instant) and (self.seconds, self.nanos) == (other.seconds, other.nanos)

    def __hash__(self) -> int:
        return hash((self.seconds, self.nanos))

    def __repr__(self) -> str:
        return f"Instant<{self.seconds}, {self.nanos}>"
