"""DataStream code as PyFlink's documentation writes it, run by the local environment. `scripts/compare_pyflink.py` runs
PyFlink's own examples on both sides.
"""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pillion import PillionError
from pillion.pyflink.common import Duration, Encoder, Instant, Row, Time, Types, WatermarkStrategy
from pillion.pyflink.common.constants import MAX_LONG_VALUE, MIN_LONG_VALUE
from pillion.pyflink.common.typeinfo import RowTypeInfo
from pillion.pyflink.common.watermark_strategy import TimestampAssigner
from pillion.pyflink.datastream import (
    AggregateFunction,
    AllWindowFunction,
    CoMapFunction,
    CountWindow,
    FlatMapFunction,
    KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction,
    KeyedProcessFunction,
    KeySelector,
    MapFunction,
    OutputTag,
    ProcessAllWindowFunction,
    ProcessFunction,
    ProcessWindowFunction,
    RuntimeContext,
    StreamExecutionEnvironment,
    TimeWindow,
    Trigger,
    WindowAssigner,
    WindowFunction,
)
from pillion.pyflink.datastream.connectors.file_system import FileSink, OutputFileConfig, RollingPolicy
from pillion.pyflink.datastream.state import (
    AggregatingStateDescriptor,
    ListStateDescriptor,
    MapStateDescriptor,
    ReducingStateDescriptor,
    StateTtlConfig,
    ValueStateDescriptor,
)
from pillion.pyflink.datastream.window import (
    CountTrigger,
    CountWindowSerializer,
    EventTimeSessionWindows,
    GlobalWindows,
    TimeWindowSerializer,
    TumblingEventTimeWindows,
)

PAIR = Types.TUPLE([Types.STRING(), Types.LONG()])
DATA = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)]


@pytest.fixture
def env() -> StreamExecutionEnvironment:
    made = StreamExecutionEnvironment.get_execution_environment().set_parallelism(1)
    made.processing_time = 0
    return made


class Second(TimestampAssigner):
    def extract_timestamp(self, value, record_timestamp) -> int:
        assert record_timestamp == MIN_LONG_VALUE
        return value[1]


STRATEGY = WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(2)).with_timestamp_assigner(Second())


def collected(stream: Any) -> list[Any]:
    return sorted(stream.execute_and_collect())


class Counts(MapFunction):
    """Every kind of state."""

    def open(self, runtime_context: RuntimeContext):
        ttl = StateTtlConfig.new_builder(Time.seconds(1)).update_ttl_on_read_and_write().never_return_expired().build()
        value = ValueStateDescriptor("value", Types.LONG())
        value.enable_time_to_live(ttl)
        self.value = runtime_context.get_state(value)
        self.list = runtime_context.get_list_state(ListStateDescriptor("list", Types.PICKLED_BYTE_ARRAY()))
        self.entries = runtime_context.get_map_state(MapStateDescriptor("map", Types.STRING(), Types.LONG()))
        self.sum = runtime_context.get_reducing_state(
            ReducingStateDescriptor("sum", lambda a, b: a + b, Types.BIG_INT())
        )
        self.mean = runtime_context.get_aggregating_state(
            AggregatingStateDescriptor("mean", Mean(), Types.TUPLE([Types.LONG(), Types.LONG()]))
        )

    def map(self, value):
        self.value.update((self.value.value() or 0) + value[1])
        self.list.add({"seen": value[1]})
        self.entries[value[0]] = value[1]
        self.sum.add(value[1])
        self.mean.add(value[1])
        return value[0], self.value.value(), [one["seen"] for one in self.list], self.entries["a"], self.mean.get()


class Mean(AggregateFunction):
    def create_accumulator(self):
        return 0, 0

    def add(self, value, accumulator):
        return accumulator[0] + (value if isinstance(value, int) else value[1]), accumulator[1] + 1

    def get_result(self, accumulator):
        return accumulator[0] / accumulator[1]

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]


def test_keyed_state(env: Any) -> None:
    stream = env.from_collection(DATA, PAIR).key_by(lambda value: value[0], key_type=Types.STRING()).map(Counts())
    assert collected(stream)[2] == ("a", 9, [1, 3, 5], 5, 3.0)


def test_simple_functions(env: Any) -> None:
    class Split(FlatMapFunction):
        def flat_map(self, value):
            yield from value.split()

    words = env.from_collection(["to be", "or not", "to be"], Types.STRING())
    counted = (
        words.flat_map(Split(), Types.STRING())
        .map(lambda word: (word, 1), PAIR)
        .key_by(lambda pair: pair[0])
        .reduce(lambda a, b: (a[0], a[1] + b[1]))
    )
    assert collected(counted)[-2:] == [("to", 1), ("to", 2)]
    assert all(type(one) is tuple for one in counted.execute_and_collect())
    assert list(words.filter(lambda line: "be" in line).execute_and_collect(limit=1)) == ["to be"]
    keyed = env.from_collection(DATA, PAIR).key_by(0)
    assert collected(keyed.sum(1))[2] == ("a", 9)
    assert collected(keyed.max(1))[-1] == ("b", 4)
    assert collected(keyed.min(1))[0] == ("a", 1)
    both = env.from_collection(DATA, PAIR).union(env.from_collection(DATA, PAIR))
    assert len(collected(both)) == 10


LATE = OutputTag("late", PAIR)


def test_process_functions_and_side_outputs(env: Any, capsys: Any) -> None:
    class Sides(ProcessFunction):
        def process_element(self, value, ctx):
            if value[1] > 2:
                yield LATE, value
            else:
                yield value

    main = env.from_collection(DATA, PAIR).process(Sides(), PAIR)
    side = main.get_side_output(LATE)
    main.print()
    env.execute()
    assert capsys.readouterr().out == "(a,1)\n(b,2)\n"
    assert collected(side.map(lambda value: value[1])) == [3, 4, 5]
    again = env.from_collection(DATA).process(Sides())
    again.get_side_output(OutputTag("late")).print()
    env.execute()
    assert capsys.readouterr().out == "(a,3)\n(b,4)\n(a,5)\n"


def test_timers(env: Any) -> None:
    class Wake(KeyedProcessFunction):
        def process_element(self, value, ctx: KeyedProcessFunction.Context):
            ctx.timer_service().register_event_time_timer(ctx.timestamp() + 10)

        def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext):
            yield ctx.get_current_key(), timestamp, ctx.timer_service().current_watermark() == MAX_LONG_VALUE

    stream = env.from_collection(DATA, PAIR).assign_timestamps_and_watermarks(STRATEGY).key_by(lambda value: value[0])
    fired = stream.process(Wake(), Types.TUPLE([Types.STRING(), Types.LONG(), Types.BOOLEAN()]))
    assert collected(fired)[:2] == [("a", 11, True), ("a", 13, True)]


class CountAll(ProcessWindowFunction[tuple, tuple, str, TimeWindow]):
    def process(self, key: str, context: ProcessWindowFunction.Context[TimeWindow], elements) -> Any:
        return [(key, context.window().start, context.window().end, len(list(elements)))]


class SumAll(WindowFunction[tuple, tuple, str, TimeWindow]):
    def apply(self, key, window, inputs):
        return [(key, sum(one[1] for one in inputs))]


def test_windows(env: Any) -> None:
    stream = env.from_collection(DATA, PAIR).assign_timestamps_and_watermarks(STRATEGY)
    keyed = stream.key_by(lambda value: value[0], key_type=Types.STRING())
    tumbling = keyed.window(TumblingEventTimeWindows.of(Time.milliseconds(4)))
    output = Types.TUPLE([Types.STRING(), Types.INT(), Types.INT(), Types.INT()])
    assert collected(tumbling.process(CountAll(), output)) == [
        ("a", 0, 4, 2),
        ("a", 4, 8, 1),
        ("b", 0, 4, 1),
        ("b", 4, 8, 1),
    ]
    sessions = keyed.window(EventTimeSessionWindows.with_gap(Time.milliseconds(3)))
    mean = sessions.aggregate(Mean(), accumulator_type=Types.TUPLE([Types.LONG(), Types.LONG()]))
    assert collected(mean) == [3.0, 3.0]
    assert collected(sessions.aggregate(Mean(), SumOne())) == [("a", 3.0), ("b", 3.0)]
    assert collected(keyed.count_window(2).apply(SumAll(), PAIR)) == [("a", 4), ("b", 6)]
    merged = keyed.window(GlobalWindows.create()).trigger(CountTrigger.of(2)).reduce(lambda a, b: (a[0], a[1] + b[1]))
    assert collected(merged) == [("a", 4), ("b", 6)]
    whole = stream.window_all(TumblingEventTimeWindows.of(Time.seconds(1))).allowed_lateness(5)
    assert collected(whole.side_output_late_data(LATE).process(CountAll())) == [(0, 0, 1000, 5)]
    chained = tumbling.process(CountAll(), output).key_by(0).window(TumblingEventTimeWindows.of(Duration.of_seconds(1)))
    assert collected(chained.process(CountAll())) == [("a", 0, 1000, 2), ("b", 0, 1000, 2)]


def test_all_windows_and_own_parts(env: Any) -> None:
    class Whole(ProcessAllWindowFunction[tuple, int, TimeWindow]):
        def process(self, context: ProcessAllWindowFunction.Context[TimeWindow], elements):
            yield context.window().end, sum(one[1] for one in elements)

    class Size(AllWindowFunction[tuple, int, TimeWindow]):
        def apply(self, window, inputs):
            return [len(inputs)]

    class Thirds(WindowAssigner[tuple, CountWindow]):
        """An assigner of one's own, that keeps a map."""

        def __init__(self) -> None:
            self.seen = MapStateDescriptor("seen", Types.LONG(), Types.LONG())

        def assign_windows(self, element, timestamp, context):
            seen = context.get_runtime_context().get_map_state(self.seen)
            seen.put(element[1], timestamp)
            return [CountWindow((len(seen.keys()) - 1) // 3)]

        def get_default_trigger(self, env) -> Trigger[tuple, CountWindow]:
            return CountTrigger.of(3)

        def get_window_serializer(self):
            return CountWindowSerializer()

        def is_event_time(self) -> bool:
            return False

    stream = env.from_collection(DATA, PAIR).assign_timestamps_and_watermarks(STRATEGY)
    tumbling = stream.window_all(TumblingEventTimeWindows.of(Time.milliseconds(4)))
    assert collected(tumbling.process(Whole())) == [(4, 6), (8, 9)]
    assert collected(tumbling.apply(Size())) == [2, 3]
    assert collected(stream.window_all(Thirds()).apply(Size())) == [3]
    for serializer, window in ((CountWindowSerializer(), CountWindow(7)), (TimeWindowSerializer(), TimeWindow(-1, 5))):
        stream = BytesIO()
        serializer.serialize(window, stream)
        stream.seek(0)
        assert serializer.deserialize(stream) == window


class SumOne(WindowFunction):
    def apply(self, key, window, inputs):
        return [(key, inputs[0])]


def test_two_inputs_and_broadcast(env: Any) -> None:
    class Join(KeyedCoProcessFunction):
        def open(self, runtime_context):
            self.left = runtime_context.get_state(ValueStateDescriptor("left", Types.LONG()))

        def process_element1(self, value, ctx):
            self.left.update(value[1])

        def process_element2(self, value, ctx):
            yield value[0], self.left.value(), value[1]

    class Tell(CoMapFunction):
        def map1(self, value):
            return value[1]

        def map2(self, value):
            return -value

    left = env.from_collection([("a", 1), ("b", 2)], PAIR)
    right = env.from_collection([("a", 10), ("b", 20), ("c", 30)], PAIR)
    by = lambda value: value[0]  # noqa: E731 - as its users write it
    assert collected(left.connect(right).key_by(by, by).process(Join()))[:2] == [("a", 1, 10), ("b", 2, 20)]
    assert collected(left.key_by(by).connect(right.key_by(by)).process(Join()))[1] == ("b", 2, 20)
    assert collected(left.connect(env.from_collection([5], Types.LONG())).map(Tell())) == [-5, 1, 2]
    rules = MapStateDescriptor("rules", Types.STRING(), Types.LONG())

    class Apply(KeyedBroadcastProcessFunction):
        def process_element(self, value, ctx):
            yield value[0], value[1] * ctx.get_broadcast_state(rules).get(value[0])

        def process_broadcast_element(self, value, ctx):
            ctx.get_broadcast_state(rules).put(value[0], value[1])

    applied = left.key_by(by).connect(right.broadcast(rules)).process(Apply())
    assert collected(applied) == [("a", 10), ("b", 40)]


def test_keys(env: Any) -> None:
    class Select(KeySelector):
        def get_key(self, value):
            return value

    class Key(KeyedProcessFunction):
        def process_element(self, value, ctx):
            yield ctx.get_current_key()

    for values in ([1, 2], [1.5], [True], [b"x"], [("a", 1)]):
        assert list(env.from_collection(values).key_by(Select()).process(Key()).execute_and_collect()) == values
    for values in ([1, "a"], [{}]):
        with pytest.raises(PillionError):
            env.from_collection(values).key_by(Select()).process(Key()).execute_and_collect()
    with pytest.raises(PillionError):
        env.from_collection([]).key_by(1.5)


def test_sinks(env: Any, tmp_path: Path) -> None:
    config = OutputFileConfig.builder().with_part_prefix("prefix").with_part_suffix(".ext").build()
    sink = FileSink.for_row_format(str(tmp_path), Encoder.simple_string_encoder()).with_output_file_config(config)
    rows = env.from_collection([Row(1, "x")], Types.ROW_NAMED(["a", "b"], [Types.INT(), Types.STRING()]))
    rows.map(lambda row: row.b).name("b").sink_to(
        sink.with_rolling_policy(RollingPolicy.default_rolling_policy()).build()
    )
    rows.sink_to(FileSink(str(tmp_path / "rows"), Encoder()))
    env.execute()
    assert (tmp_path / "prefix-0.ext").read_text() == "x\n"
    assert (tmp_path / "rows" / "part-0").read_text() == "+I[1, x]\n"


def test_types_and_times() -> None:
    named = Types.ROW_NAMED(["a", "b"], [Types.INT(), Types.LIST(Types.MAP(Types.STRING(), Types.DOUBLE()))])
    assert isinstance(named, RowTypeInfo)
    assert (named.get_field_names(), len(named.get_field_types())) == (["a", "b"], 2)
    assert not named.pickled and Types.ROW([Types.INSTANT()]).pickled and Types.LIST(Types.INSTANT()).pickled
    assert Types.INT() == Types.INT() != Types.LONG()
    assert len({Types.INT(), Types.INT()}) == 1 and repr(Types.INT()) == "TypeInformation(int)"
    for name in ("BYTE", "SHORT", "CHAR", "BIG_DEC", "SQL_DATE", "SQL_TIME", "SQL_TIMESTAMP", "FLOAT", "BOOLEAN"):
        assert pickle.loads(pickle.dumps(getattr(Types, name)())) == getattr(Types, name)()
    times = [Time.days(1), Time.hours(24), Time.minutes(1440), Duration.of_days(1), Duration.of_hours(24)]
    assert {one.to_milliseconds() for one in times} == {86_400_000}
    assert Duration.of_minutes(1) == Duration.of_millis(60_000) == Duration.of_nanos(60 * 10**9)
    assert Instant.of_epoch_milli(1500) == Instant(1, 500_000_000)
    assert Instant(1, 500_000_000).to_epoch_milli() == 1500
    assert len({Time.seconds(1), Time.milliseconds(1000), Instant(1, 0)}) == 2


def test_ttl_config() -> None:
    builder = StateTtlConfig.new_builder(Time.seconds(5)).cleanup_full_snapshot().cleanup_incrementally(1, True)
    config = (
        builder.cleanup_in_rocksdb_compact_filter(1000).disable_cleanup_in_background().use_processing_time().build()
    )
    assert config.to_ttl().as_dict() == {
        "ms": 5000,
        "update": "create_and_write",
        "visibility": "never_return_expired",
    }
    config = (
        builder.set_ttl(Time.seconds(1)).update_ttl_on_create_and_write().return_expired_if_not_cleaned_up().build()
    )
    assert config.to_ttl().return_expired and config.get_ttl() == Time.seconds(1)
    assert config.get_state_visibility() is StateTtlConfig.StateVisibility.ReturnExpiredIfNotCleanedUp
    disabled = builder.set_update_type(StateTtlConfig.UpdateType.Disabled).build()
    assert disabled.to_ttl() is None and not disabled.is_enabled()
    descriptor = ValueStateDescriptor("x", Types.LONG())
    descriptor.enable_time_to_live(disabled)
    assert descriptor.spec().ttl is None and descriptor.get_name() == "x"


def test_table_functions() -> None:
    from pillion.pyflink.table import DataTypes
    from pillion.pyflink.table.udf import udf

    assert udf(lambda i: i + 1, result_type=DataTypes.BIGINT())(1) == 2
