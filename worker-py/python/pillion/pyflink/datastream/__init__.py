"""The DataStream API."""

from pillion.pyflink.datastream import functions
from pillion.pyflink.datastream.connected import BroadcastStream, ConnectedStreams
from pillion.pyflink.datastream.data_stream import DataStream, KeyedStream, WindowedStream
from pillion.pyflink.datastream.functions import *  # noqa: F403 - the same names, all of them
from pillion.pyflink.datastream.output_tag import OutputTag
from pillion.pyflink.datastream.stream_execution_environment import StreamExecutionEnvironment
from pillion.pyflink.datastream.time_domain import TimeDomain
from pillion.pyflink.datastream.window import (
    CountWindow,
    GlobalWindow,
    MergingWindowAssigner,
    TimeWindow,
    Trigger,
    TriggerResult,
    Window,
    WindowAssigner,
)

__all__ = [
    "BroadcastStream",
    "ConnectedStreams",
    "CountWindow",
    "DataStream",
    "GlobalWindow",
    "KeyedStream",
    "MergingWindowAssigner",
    "OutputTag",
    "StreamExecutionEnvironment",
    "TimeDomain",
    "TimeWindow",
    "Trigger",
    "TriggerResult",
    "Window",
    "WindowAssigner",
    "WindowedStream",
]
__all__ += functions.__all__
