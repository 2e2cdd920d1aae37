"""`OutputTag`."""

from pillion.functions import OutputTag

__all__ = ["OutputTag"]
