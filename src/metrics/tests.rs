//! User metrics from deltas to the page that Prometheus reads.

use super::{MetricTotal, MetricTotals, user::UserMetrics};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pillion_wire::{
    metrics::{MAX_DELTAS_BYTES, MAX_NAME_BYTES},
    proto::{Distribution, Histogram, MetricDelta, metric_delta::Value},
};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// A function that no other test has: series belong to the process.
fn function() -> String {
    static FUNCTIONS: AtomicU64 = AtomicU64::new(0);
    format!("f{}.py:f", FUNCTIONS.fetch_add(1, Ordering::SeqCst))
}

fn delta(function: &str, name: &str, value: Value) -> MetricDelta {
    MetricDelta { function: function.into(), name: name.into(), value: Some(value), ..Default::default() }
}

/// Runs with a recorder of its own; gives the lines about user metrics, without comments.
fn page(test: impl FnOnce()) -> Vec<String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle: PrometheusHandle = recorder.handle();
    metrics::with_local_recorder(&recorder, test);
    let mut lines: Vec<_> = handle.render().lines().filter(|line| line.starts_with("pillion_user")).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn histogram(counts: &[u64]) -> Value {
    Value::Histogram(Histogram { bounds: vec![0.5, 1.0], counts: counts.to_vec(), sum: 1.5 })
}

#[test]
fn names_and_labels_are_made_fit() {
    let f = function();
    let lines = page(|| {
        let labels = [("le", "1"), ("9th", "x"), ("a-b", "say \"hi\"")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let groups = vec!["model".into(), "cache".into()];
        UserMetrics::new(&f, 100).add(vec![MetricDelta { labels, groups, ..delta(&f, "größe.2", Value::Counter(2)) }]);
    });
    let labels = format!("a_b=\"say \\\"hi\\\"\",function=\"{f}\",group=\"model.cache\",user_9th=\"x\",user_le=\"1\"");
    assert_eq!(lines, [format!("pillion_user_gr__e_2_total{{{labels}}} 2")]);
}

#[test]
fn counters_that_fall_are_gauges_too() {
    let f = function();
    let lines = page(|| {
        let user = UserMetrics::new(&f, 100);
        for gained in [5, -2, 4] {
            user.add(vec![delta(&f, "falling", Value::Counter(gained))]);
        }
        user.add(vec![delta(&f, "rising", Value::Counter(1))]);
    });
    let expected = [
        format!("pillion_user_falling_total{{function=\"{f}\"}} 9"),
        format!("pillion_user_falling{{function=\"{f}\"}} 7"),
        format!("pillion_user_rising_total{{function=\"{f}\"}} 1"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_limit_is_of_series() {
    let f = function();
    let lines = page(|| {
        let user = UserMetrics::new(&f, 7);
        let count = |name: &str| delta(&f, name, Value::Counter(1));
        // 5 and 1; 5 more are too many, 1 is not; what is known goes on.
        assert_eq!(user.add(vec![delta(&f, "limit_h", histogram(&[1, 0, 0])), count("limit_a")]).len(), 2);
        let kept = user.add(vec![delta(&f, "limit_i", histogram(&[1, 0, 0])), count("limit_b"), count("limit_c"), count("limit_a")]);
        assert_eq!(kept.iter().map(|delta| delta.name.as_str()).collect::<Vec<_>>(), ["limit_b", "limit_a"]);
    });
    assert_eq!(lines.len(), 7, "{lines:?}");
}

#[test]
fn what_is_wrong_is_left_out_alone() {
    let f = function();
    page(|| {
        let user = UserMetrics::new(&f, 1000);
        let good = delta(&f, "good", Value::Counter(1));
        let kept = user.add(vec![delta(&f, "", Value::Counter(1)), good.clone(), delta(&f, "bad", Value::Meter(-1))]);
        assert_eq!(kept, [good]);
        let many = (0..1000).map(|at| delta(&f, &format!("{at:0>MAX_NAME_BYTES$}"), Value::Counter(1))).collect();
        let bytes: usize = user.add(many).iter().map(prost::Message::encoded_len).sum();
        assert!((MAX_DELTAS_BYTES / 2..=MAX_DELTAS_BYTES).contains(&bytes), "{bytes}");
    });
}

#[test]
fn one_name_has_one_kind_in_prometheus_and_hosts_have_their_own() {
    let f = function();
    let lines = page(|| {
        let user = UserMetrics::new(&f, 1000);
        let gauge = delta(&f, "kind_total", Value::Gauge(1.0));
        let counter = delta(&f, "kind", Value::Counter(1));
        assert_eq!(user.add(vec![gauge.clone(), counter.clone()]), [gauge, counter]);
        // Another session of an edited function, with other buckets.
        user.add(vec![delta(&f, "edited", histogram(&[1, 0, 0]))]);
        let edited = delta(&f, "edited", Value::Histogram(Histogram { bounds: vec![7.0], counts: vec![1, 0], sum: 1.0 }));
        assert_eq!(UserMetrics::new(&f, 1000).add(vec![edited]).len(), 1);
    });
    assert!(lines.contains(&format!("pillion_user_kind_total{{function=\"{f}\",worker=\"0\"}} 1")), "{lines:?}");
    assert!(lines.contains(&format!("pillion_user_edited_count{{function=\"{f}\"}} 1")), "{lines:?}");
}

/// A metric of the model: its name says its kind.
fn any_value() -> impl Strategy<Value = (String, Value)> {
    let names = "[ab]";
    let observed = prop::collection::vec(0_u8..40, 1..20);
    prop_oneof![
        (names, -5_i64..100).prop_map(|(name, gained)| (format!("model_c{name}"), Value::Counter(gained))),
        (names, 0_i64..100).prop_map(|(name, events)| (format!("model_m{name}"), Value::Meter(events))),
        (names, -9_i8..9).prop_map(|(name, value)| (format!("model_g{name}"), Value::Gauge(value.into()))),
        (names, observed.clone()).prop_map(|(name, seen)| {
            let (min, max) = (*seen.iter().min().unwrap(), *seen.iter().max().unwrap());
            let sum = seen.iter().map(|value| f64::from(*value)).sum();
            let value = Distribution { count: seen.len() as u64, sum, min: min.into(), max: max.into() };
            (format!("model_d{name}"), Value::Distribution(value))
        }),
        (names, observed).prop_map(|(name, seen)| {
            let mut counts = vec![0; 3];
            seen.iter().for_each(|value| counts[if *value <= 10 { 0 } else { usize::from(*value > 20) + 1 }] += 1);
            let sum = seen.iter().map(|value| f64::from(*value)).sum();
            (format!("model_h{name}"), Value::Histogram(Histogram { bounds: vec![10.0, 20.0], counts, sum }))
        }),
    ]
}

/// What Prometheus should show, from what hosts add up.
fn expected(totals: &MetricTotals, fell: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
    let mut lines = BTreeMap::new();
    for (id, total) in totals.iter() {
        let name = &id.name;
        match total {
            // What rises and falls in between is not in the total.
            MetricTotal::Counter(net) if fell(name) => drop(lines.insert(name.clone(), *net as f64)),
            MetricTotal::Counter(count) | MetricTotal::Meter(count) => drop(lines.insert(format!("{name}_total"), *count as f64)),
            MetricTotal::Gauge(values) => lines.extend(values.iter().map(|(worker, value)| (format!("{name}/{worker}"), *value))),
            MetricTotal::Distribution(seen) => {
                let parts = [("count", seen.count as f64), ("sum", seen.sum), ("min", seen.min), ("max", seen.max)];
                lines.extend(parts.map(|(part, value)| (format!("{name}_{part}"), value)));
            }
            MetricTotal::Histogram(seen) => {
                let [a, b, c] = seen.counts[..] else { panic!("{seen:?}") };
                let parts = [("bucket/10", a), ("bucket/20", a + b), ("bucket/+Inf", a + b + c), ("count", a + b + c)];
                lines.extend(parts.map(|(part, value)| (format!("{name}_{part}"), value as f64)));
                lines.insert(format!("{name}_sum"), seen.sum);
            }
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is added in whatever order, by several sessions: Prometheus shows what a host adds up.
    #[test]
    fn prometheus_shows_what_hosts_add_up(batches in prop::collection::vec((0..2_usize, 0..3_u32, prop::collection::vec(any_value(), 0..6)), 0..20)) {
        let f = function();
        let mut totals = MetricTotals::default();
        let mut fallen = std::collections::HashSet::new();
        let lines = page(|| {
            let sessions = [UserMetrics::new(&f, 1000), UserMetrics::new(&f, 1000)];
            for (session, worker, values) in &batches {
                let signed = |value: &Value| if matches!(value, Value::Gauge(_)) { *worker } else { 0 };
                let deltas: Vec<_> =
                    values.iter().map(|(name, value)| MetricDelta { worker: signed(value), ..delta(&f, name, value.clone()) }).collect();
                fallen.extend(values.iter().filter(|(_, value)| matches!(value, Value::Counter(gained) if *gained < 0)).map(|(name, _)| name.clone()));
                totals.add(&sessions[*session].add(deltas));
            }
        });
        let found: BTreeMap<String, f64> = lines
            .iter()
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap();
                let inner = labels.split('"').collect::<Vec<_>>();
                let extra = if inner.len() > 3 { format!("/{}", inner[3]) } else { String::new() };
                (format!("{}{extra}", name.strip_prefix("pillion_user_").unwrap()), value.parse().unwrap())
            })
            // Of those that fell the gauge counts.
            .filter(|(name, _)| !name.strip_suffix("_total").is_some_and(|name| fallen.contains(name)))
            .collect();
        prop_assert_eq!(found, expected(&totals, |name| fallen.contains(name)));
    }
}
