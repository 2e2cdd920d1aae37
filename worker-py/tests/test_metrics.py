"""User metrics: what functions count, and what is reported of it."""

from __future__ import annotations

import dis
import logging
from typing import Any

import pytest
from conftest import batch_of, reference

from pillion import Counter, FunctionContext, KeyedProcessFunction, ScalarFunction, udf
from pillion.metrics import MetricGroup, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("f.py:f")


def gained(metrics: Metrics) -> dict[str, Any]:
    """What was gained, by group, name and labels."""
    return {
        ".".join([*groups, name]) + "".join(f"[{key}={value}]" for key, value in labels.items()): value
        for _, name, groups, labels, value in metrics.take()
    }


def test_counters_and_meters_report_what_they_gained(metrics: Metrics) -> None:
    hits, events = metrics.group.counter("hits"), metrics.group.meter("events", 30)
    hits.inc()
    hits.inc(4)
    hits.count += 1
    events.mark_event()
    events.mark_event(9)
    assert gained(metrics) == {"hits": 6, "events": 10}
    assert gained(metrics) == {}
    hits.dec(2)
    assert (hits.get_count(), events.get_count()) == (4, 10)
    assert gained(metrics) == {"hits": -2}


def test_a_failed_batch_leaves_no_trace(metrics: Metrics) -> None:
    group = metrics.group
    hits, events, size, times = group.counter("a"), group.meter("b"), group.distribution("c"), group.histogram("d")
    hits.inc(3)
    assert gained(metrics) == {"a": 3}
    hits.inc(5)
    events.mark_event(5)
    size.update(5)
    times.update(5)
    metrics.drop()
    assert gained(metrics) == {}
    assert (hits.get_count(), events.get_count()) == (3, 0)


def test_gauges_give_their_last_value_each_time(metrics: Metrics) -> None:
    value = 1
    metrics.group.gauge("called", lambda: value)
    mine = metrics.group.gauge("set")
    assert gained(metrics) == {"called": 1.0}
    value = 7
    mine.set(0.5)
    assert gained(metrics) == gained(metrics) == {"called": 7.0, "set": 0.5}


def test_distributions_and_histograms(metrics: Metrics) -> None:
    size, times = metrics.group.distribution("size"), metrics.group.histogram("t", [1, 10])
    for value in (2.0, 1, 10, 11, float("nan"), float("inf"), -3):
        size.update(value)
        times.update(value)
    assert gained(metrics) == {"size": (5, 21.0, -3.0, 11.0), "t": ([1.0, 10.0], [2, 2, 1], 21.0)}
    assert gained(metrics) == {}


def test_whole_columns(metrics: Metrics) -> None:
    size, times = metrics.group.distribution("size"), metrics.group.histogram("t", [1, 10])
    columns: list[Any] = [[1, 2.5, 100], (3,)]
    try:
        import numpy

        columns += [numpy.array([1, 5], "int8"), numpy.array([numpy.nan, 0.0, numpy.inf]), numpy.array([])]
        import pyarrow

        columns.append(pyarrow.array([7, None, 8]))
        import pandas

        columns.append(pandas.Series([9.0, None]))
    except ImportError:
        pass  # what the environment has not cannot be observed
    for column in columns:
        size.update_all(column)
        times.update_all(column)
    plain, counted = metrics.group.distribution("plain"), metrics.group.histogram("counted", [1, 10])
    for column in columns:
        for value in column:
            value = getattr(value, "as_py", lambda value=value: value)()
            if value is not None:
                plain.update(value)
                counted.update(value)
    found = gained(metrics)
    assert found["size"] == found["plain"]
    assert found["t"] == found["counted"]


def test_buckets_go_by_the_unit(metrics: Metrics) -> None:
    group = metrics.group
    assert group.histogram("request_seconds").bounds[0] == 0.00005
    assert group.histogram("bytes").bounds[:2] == [64.0, 256.0]
    assert group.histogram("hit_ratio").bounds[-1] == 1.0
    assert group.histogram("items").bounds[-1] == 1e6


def test_groups_and_labels(metrics: Metrics) -> None:
    group = metrics.group.add_group("model")
    group.add_group("version", "v1").add_group("cache").counter("hits").inc()
    group.add_group("version", "v2").add_group("cache").counter("hits").inc(2)
    group.counter("hits").inc(3)
    assert gained(metrics) == {"model.cache.hits[version=v1]": 1, "model.cache.hits[version=v2]": 2, "model.hits": 3}
    inner = group.add_group("version", "v1").add_group("version", "v3").counter("hits")
    inner.inc()
    assert gained(metrics) == {"model.hits[version=v3]": 1}


def test_a_name_means_one_metric(metrics: Metrics, declaration_error: Any) -> None:
    group = metrics.group
    assert group.counter("n") is group.counter("n")
    assert group.add_group("g").counter("n") is group.add_group("g").counter("n")
    assert group.add_group("g").counter("n") is not group.counter("n")
    error = declaration_error(lambda: group.meter("n"))
    assert error.code == "metric_invalid"
    assert error.message == "the metric `n` is a counter already, and cannot be a meter"
    group.histogram("h", [1, 2])
    assert group.histogram("h", [1, 2]) is not None
    assert "other buckets" in declaration_error(lambda: group.histogram("h")).message


@pytest.mark.parametrize(
    "wrong",
    [
        lambda group: group.counter(""),
        lambda group: group.counter(5),
        lambda group: group.counter("two\nlines"),
        lambda group: group.counter("n" * 201),
        lambda group: group.counter("\ud800"),
        lambda group: group.add_group(""),
        lambda group: group.add_group("key", ""),
        lambda group: group.add_group("key", 5),
        lambda group: group.gauge("g", 5),
        lambda group: group.histogram("h", []),
        lambda group: group.histogram("h", [2, 1]),
        lambda group: group.histogram("h", [1, float("inf")]),
        lambda group: group.histogram("h", range(65)),
    ],
)
def test_what_cannot_be_a_metric(metrics: Metrics, declaration_error: Any, wrong: Any) -> None:
    assert declaration_error(lambda: wrong(metrics.group)).code == "metric_invalid"
    assert metrics.series == []


def test_groups_have_an_end(metrics: Metrics, declaration_error: Any) -> None:
    def nest() -> None:
        group: MetricGroup = metrics.group
        for level in range(17):
            group = group.add_group(f"g{level}")

    assert declaration_error(nest).code == "metric_invalid"


def test_beyond_the_limit_metrics_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics("f.py:f", limit=10)
    group = metrics.group
    with caplog.at_level(logging.WARNING, "pillion"):
        for user in range(20):
            group.add_group("user", str(user)).counter("seen").inc()
        group.histogram("h", [1.0]).update(1)
    assert len(gained(metrics)) == 10
    assert len(metrics._found) == 10
    assert [record.getMessage() for record in caplog.records] == [
        "`f.py:f` has 10 series of metrics, which is as many as the sidecar takes: "
        "`seen` is the first that is not reported; `limits.metric_series` allows more"
    ]


def test_what_cannot_be_reported_is_said_once(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> float:
        raise SystemExit(1)

    hits, sound = metrics.group.counter("hits"), metrics.group.counter("sound")
    metrics.group.gauge("text", lambda: "x")  # type: ignore[arg-type,return-value]
    metrics.group.gauge("leaving", leave)
    big, backwards = metrics.group.counter("big"), metrics.group.meter("backwards")
    with caplog.at_level(logging.WARNING, "pillion"):
        for _ in range(2):
            hits.inc(0.5)  # type: ignore[arg-type]
            big.inc(2**63)
            backwards.mark_event(-1)
            sound.inc()
            assert gained(metrics) == {"sound": 1}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5, said
    assert said[0] == "the counter `hits` of `f.py:f` is left out: it counts in whole numbers, and cannot become 0.5"
    assert hits.get_count() == 0
    hits.inc()
    assert gained(metrics) == {"hits": 1}


class Counting(ScalarFunction):
    def open(self, function_context: FunctionContext) -> None:
        group = function_context.get_metric_group()
        self.seen = group.counter("seen")
        group.counter("opened").inc()

    def eval(self, a: int) -> int:
        self.seen.inc()
        return 1 // a


def test_a_plan_knows_the_metrics_of_its_functions(harness: Any) -> None:
    def plain(a: int) -> int:
        return a

    counting, other = reference(udf(Counting(), result_type="bigint")), reference(udf(plain, result_type="bigint"))
    batch = batch_of({"a": ("bigint", [1, 2])})

    def prepare(*functions: Any, **more: Any) -> Any:
        calls = [{"function": function, "arguments": [("column", 0)]} for function in functions]
        return harness.runtime.prepare({"calls": calls, "outputs": [("r", ("call", 0))], "input": batch.schema, **more})

    plan = prepare(counting, other, counting, max_metric_series=5)
    assert [bool(metrics.series) for metrics in plan.metrics] == [True, False]
    assert plan.metrics[0].limit == 5
    plan.call(batch)
    assert gained(plan.metrics[0]) == {"opened": 1, "seen": 4}
    assert plan.metrics[0].function.endswith(counting["name"])


class AsInPyFlink(ScalarFunction):
    """The example of PyFlink's documentation on metrics."""

    def __init__(self) -> None:
        self.counter: Any = None
        self.length = 0

    def open(self, function_context: FunctionContext) -> None:
        group = function_context.get_metric_group()
        self.counter = (
            group.add_group("my_metrics").add_group("my_metrics_key", "my_metrics_value").counter("my_counter")
        )
        group.gauge("my_gauge", lambda: self.length)
        self.meter = group.meter("my_meter", time_span_in_seconds=120)
        self.distribution = group.distribution("my_distribution")

    def eval(self, i: int) -> int:
        self.counter.inc(i)
        self.length = i
        self.meter.mark_event(i)
        self.distribution.update(i)
        return i - 1


def test_pyflink_s_example(harness: Any) -> None:
    function = reference(udf(AsInPyFlink(), result_type="bigint"))
    batch = batch_of({"i": ("bigint", [1, 5])})
    call = {"function": function, "arguments": [("column", 0)]}
    plan = harness.runtime.prepare({"calls": [call], "outputs": [("r", ("call", 0))], "input": batch.schema})
    plan.call(batch)
    assert gained(plan.metrics[0]) == {
        "my_metrics.my_counter[my_metrics_key=my_metrics_value]": 6,
        "my_gauge": 5.0,
        "my_meter": 6,
        "my_distribution": (2, 6.0, 1.0, 5.0),
    }


def test_stateful_functions_have_them_too(harness: Any) -> None:
    class Keyed(KeyedProcessFunction):
        output = {"key": "bigint"}

        def open(self, runtime_context: Any) -> None:
            self.rows = runtime_context.get_metrics_group().counter("rows")
            assert runtime_context.get_metric_group().counter("rows") is self.rows

        def process_element(self, value: Any, ctx: Any) -> Any:
            self.rows.inc()
            yield (value.key,)

    call = {"function": reference(Keyed), "arguments": []}
    fields = batch_of({"key": ("bigint", [])}).schema
    plan = harness.runtime.prepare(
        {"calls": [call], "outputs": [], "input": fields, "keys": fields, "max_metric_series": 7}
    )
    assert [(metrics.limit, len(metrics.series)) for metrics in plan.metrics] == [(7, 1)]


def test_without_a_worker_metrics_just_count() -> None:
    counting = Counting()
    assert udf(counting, result_type="bigint")(1) == 1
    assert counting.seen.get_count() == 1


def test_errors_in_open_are_the_function_s(harness: Any) -> None:
    class Wrong(ScalarFunction):
        def open(self, function_context: FunctionContext) -> None:
            function_context.get_metric_group().counter("")

        def eval(self, a: int) -> int:
            return a

    record = harness.error(harness.scalar, udf(Wrong(), result_type="bigint"), ("bigint", [1]))
    assert record["code"] == "open_failed"
    assert "cannot be the name of a metric" in record["message"]


def test_an_increment_is_an_addition() -> None:
    """Nothing is called by it; said by the byte code, since times vary."""
    code = [instruction.opname for instruction in dis.get_instructions(Counter.inc)]
    assert not any(name.startswith("CALL") for name in code), code
