"""`TimeDomain`."""

from pillion.functions import TimeDomain

__all__ = ["TimeDomain"]
