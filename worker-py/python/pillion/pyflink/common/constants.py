"""Bounds of timestamps."""

from pillion.bundle import MAX_TIME as MAX_LONG_VALUE
from pillion.bundle import MIN_TIME as MIN_LONG_VALUE

__all__ = ["MAX_LONG_VALUE", "MIN_LONG_VALUE"]
