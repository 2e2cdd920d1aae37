"""Rows. Unlike PyFlink's they are tuples, and do not change."""

from pillion.row import Row

__all__ = ["Row"]
