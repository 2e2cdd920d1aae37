//! User metrics: their limits, the buckets of histograms, and the check of what a worker says (`proto/pillion/v1/metrics.proto`).

use crate::{
    CHUNK_BYTES,
    proto::{Distribution, Histogram, MetricDelta, metric_delta::Value},
};

/// Longest name of a metric, a group or a label, and longest value of a label, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// Longest name of a function, in bytes.
const MAX_FUNCTION_BYTES: usize = 1024;
/// Most groups, and most labels, of one metric.
pub const MAX_GROUPS: usize = 16;
/// Most bounds of a histogram.
pub const MAX_BOUNDS: usize = 64;
/// What the deltas of one batch may take, in bytes: they travel beside the headers and the first chunk of its result.
pub const MAX_DELTAS_BYTES: usize = CHUNK_BYTES / 2;
/// Series that a function may have unless the sidecar says otherwise.
pub const DEFAULT_SERIES: u32 = 1000;

/// Bounds for seconds: from a call of a vectorized function to something that takes its time.
pub const SECONDS: [f64; 16] = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
/// Bounds for bytes: powers of 4 from 64 B to 16 GiB.
const BYTES: [f64; 15] = {
    let (mut bounds, mut at) = ([64.0; 15], 1);
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 4.0;
        at += 1;
    }
    bounds
};
/// Bounds for parts of a whole, closer at both ends.
const RATIO: [f64; 15] = [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Bounds for anything else.
const GENERAL: [f64; 28] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4,
    5e4, 1e5, 2e5, 5e5, 1e6,
];

/// The bounds of a histogram's buckets, by the unit that its name ends in: `_seconds`, `_bytes`, `_ratio`, or none of these.
pub fn bounds_for(name: &str) -> &'static [f64] {
    match name.rsplit('_').next() {
        Some("seconds") => &SECONDS,
        Some("bytes") => &BYTES,
        Some("ratio") => &RATIO,
        _ => &GENERAL,
    }
}

/// Whether a list can be the bounds of a histogram: 1 to [`MAX_BOUNDS`], finite and ascending.
pub fn are_bounds(bounds: &[f64]) -> bool {
    let finite = bounds.iter().all(|bound| bound.is_finite());
    (1..=MAX_BOUNDS).contains(&bounds.len()) && finite && bounds.is_sorted_by(|a, b| a < b)
}

/// Whether a text can be a name, or the value of a label.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.contains(char::is_control)
}

/// Checks a delta against the contract.
///
/// # Errors
/// What is wrong with it.
pub fn check(delta: &MetricDelta) -> Result<&Value, &'static str> {
    if !is_name(&delta.name) || !delta.groups.iter().all(|group| is_name(group)) {
        return Err("a name is empty, too long or has control characters");
    }
    if !delta.labels.iter().all(|(key, value)| is_name(key) && is_name(value)) {
        return Err("a label is empty, too long or has control characters");
    }
    if delta.function.len() > MAX_FUNCTION_BYTES || delta.function.contains(char::is_control) {
        return Err("its function has an impossible name");
    }
    if delta.groups.len() > MAX_GROUPS || delta.labels.len() > MAX_GROUPS {
        return Err("it is in too many groups");
    }
    let value = delta.value.as_ref().ok_or("it has no value")?;
    match value {
        Value::Counter(_) | Value::Gauge(_) => Ok(value),
        Value::Meter(events) if *events < 0 => Err("a meter cannot run backwards"),
        Value::Meter(_) => Ok(value),
        Value::Distribution(Distribution { count, sum, min, max }) => {
            let real = *count > 0 && sum.is_finite() && min.is_finite() && max.is_finite() && min <= max;
            real.then_some(value).ok_or("its observations contradict each other")
        }
        Value::Histogram(Histogram { bounds, counts, sum }) => {
            let real = are_bounds(bounds) && counts.len() == bounds.len() + 1 && sum.is_finite();
            let total = counts.iter().try_fold(0_u64, |total, count| total.checked_add(*count));
            (real && total.is_some()).then_some(value).ok_or("its buckets contradict each other")
        }
    }
}

/// How many series of a monitoring system a value becomes.
pub fn series_of(value: &Value) -> usize {
    match value {
        Value::Counter(_) | Value::Gauge(_) | Value::Meter(_) => 1,
        Value::Distribution(_) => 4,
        // The buckets, the one beyond them, count and sum.
        Value::Histogram(histogram) => histogram.bounds.len() + 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(value: Value) -> MetricDelta {
        MetricDelta { name: "n".into(), groups: vec!["g".into()], value: Some(value), ..Default::default() }
    }

    #[test]
    fn buckets_go_by_the_unit_of_the_name() {
        assert_eq!(bounds_for("latency_seconds"), SECONDS);
        assert_eq!(bounds_for("bytes"), BYTES);
        assert_eq!(bounds_for("hit_ratio"), RATIO);
        assert_eq!(bounds_for("items"), GENERAL);
        assert_eq!(bounds_for("microseconds"), GENERAL, "a unit is a word of its own");
        assert!([&SECONDS[..], &BYTES, &RATIO, &GENERAL].iter().all(|bounds| are_bounds(bounds)));
        assert_eq!((BYTES[0], BYTES[14]), (64.0, (16_u64 << 30) as f64));
    }

    #[test]
    fn good_deltas_pass() {
        let histogram = Histogram { bounds: vec![1.0, 2.0], counts: vec![0, 5, 1], sum: 9.0 };
        let distribution = Distribution { count: 1, sum: -2.0, min: -2.0, max: -2.0 };
        for value in
            [Value::Counter(-1), Value::Gauge(f64::NAN), Value::Meter(0), Value::Histogram(histogram), Value::Distribution(distribution)]
        {
            assert!(check(&delta(value.clone())).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn each_wrong_delta_is_refused() {
        let named = |name: &str| MetricDelta { name: name.into(), ..delta(Value::Counter(1)) };
        let labelled = |key: &str, value: &str| MetricDelta { labels: [(key.into(), value.into())].into(), ..delta(Value::Counter(1)) };
        let histogram = |bounds: &[f64], counts: &[u64], sum| {
            delta(Value::Histogram(Histogram { bounds: bounds.to_vec(), counts: counts.to_vec(), sum }))
        };
        let distribution = |count, sum, min, max| delta(Value::Distribution(Distribution { count, sum, min, max }));
        let wrong = [
            named(""),
            named(&"n".repeat(MAX_NAME_BYTES + 1)),
            named("two\nlines"),
            labelled("", "v"),
            labelled("k", ""),
            labelled("k", "\0"),
            MetricDelta { groups: vec!["g".into(); MAX_GROUPS + 1], ..named("n") },
            MetricDelta { groups: vec![String::new()], ..named("n") },
            MetricDelta { labels: (0..=MAX_GROUPS).map(|at| (format!("k{at}"), "v".into())).collect(), ..named("n") },
            MetricDelta { value: None, ..named("n") },
            MetricDelta { function: "f".repeat(MAX_FUNCTION_BYTES + 1), ..named("n") },
            MetricDelta { function: "f\n".into(), ..named("n") },
            delta(Value::Meter(-1)),
            distribution(0, 0.0, 0.0, 0.0),
            distribution(1, f64::NAN, 0.0, 0.0),
            distribution(1, 0.0, 1.0, 0.0),
            histogram(&[], &[1], 0.0),
            histogram(&[1.0], &[1], 0.0),
            histogram(&[2.0, 1.0], &[1, 1, 1], 0.0),
            histogram(&[1.0, 1.0], &[1, 1, 1], 0.0),
            histogram(&[f64::INFINITY], &[1, 1], 0.0),
            histogram(&[1.0], &[1, 1], f64::INFINITY),
            histogram(&[1.0], &[u64::MAX, 1], 0.0),
            histogram(&[0.0; MAX_BOUNDS + 1], &[0; MAX_BOUNDS + 2], 0.0),
        ];
        for delta in wrong {
            assert!(check(&delta).is_err(), "{delta:?}");
        }
    }
}
