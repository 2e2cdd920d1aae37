"""Types, rows, time and watermark strategies."""

from pillion.pyflink.common.serialization import Encoder
from pillion.pyflink.common.time import Duration, Instant, Time
from pillion.pyflink.common.typeinfo import TypeInformation, Types
from pillion.pyflink.common.types import Row
from pillion.pyflink.common.watermark_strategy import WatermarkStrategy

__all__ = ["Duration", "Encoder", "Instant", "Row", "Time", "TypeInformation", "Types", "WatermarkStrategy"]
