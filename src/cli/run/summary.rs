//! What is said at the end of a run.

use std::time::Duration;

use pillion::metrics::{MetricId, MetricTotal, MetricTotals};

use super::flow::Totals;
use crate::cli::progress::{count, rate, short};

/// Metrics of functions that are shown; labels can make many.
const MAX_METRICS: usize = 20;

/// Rows, rows per second, and where the time went. `start` is the time before the first batch.
pub fn text(totals: &Totals, start: Duration) -> String {
    let mut text = format!(
        "{} rows in, {} rows out, {} in {} ({} rows/s)",
        count(totals.rows_in),
        count(totals.rows_out),
        counted(totals.batches, "batch", "batches"),
        short(totals.elapsed),
        count(rate(totals.rows_in, totals.elapsed)),
    );
    if !totals.filled.is_empty() {
        let filled: Vec<String> = totals.filled.iter().map(|(name, gaps)| format!("{name} {}", count(*gaps))).collect();
        text += &format!("\ngaps filled: {}", filled.join(", "));
    }
    if totals.retries > 0 {
        text += &format!("\n{}: workers died or hung, and their batches ran again", counted(totals.retries, "retry", "retries"));
    }
    let checkpoints = totals.checkpoints.line();
    if !checkpoints.is_empty() {
        text += &format!("\n{checkpoints}");
    }
    for (tag, rows) in &totals.left_out {
        text += &format!("\nside output {tag}: {} not written; `--side {tag}=FILE` keeps them", counted(*rows, "row", "rows"));
    }
    text += &metrics(&totals.metrics);
    let stages = [
        ("read", totals.read),
        ("wire", totals.wire),
        ("convert", totals.convert),
        ("user", totals.user),
        ("state", totals.state),
        ("write", totals.write),
    ];
    let used = stages.iter().filter(|(name, time)| *name != "state" || !time.is_zero());
    let stages: Vec<String> = used.map(|(name, time)| format!("{name} {}", short(*time))).collect();
    // The stages overlap, and several workers add up, so they are no parts of the whole. All batches in the queue wait at once: their sum says nothing.
    let queue = totals.queue / u32::try_from(totals.batches.max(1)).unwrap_or(u32::MAX);
    text + &format!("\ntime: start {}, {}; queue {} per batch", short(start), stages.join(", "), short(queue))
}

/// A line for each metric of the functions.
fn metrics(totals: &MetricTotals) -> String {
    let mut lines: String =
        totals.iter().take(MAX_METRICS).map(|(id, total)| format!("\n{}: {} {}", id.function, full_name(id), shown(total))).collect();
    let more = totals.iter().count().saturating_sub(MAX_METRICS);
    if more > 0 {
        lines += &format!("\nand {}", counted(more as u64, "metric more", "metrics more"));
    }
    lines
}

/// `group.name{label="value"}`.
fn full_name(id: &MetricId) -> String {
    let path: Vec<&str> = id.groups.iter().chain([&id.name]).map(String::as_str).collect();
    let labels: Vec<String> = id.labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    if labels.is_empty() { path.join(".") } else { format!("{}{{{}}}", path.join("."), labels.join(", ")) }
}

fn shown(total: &MetricTotal) -> String {
    match total {
        MetricTotal::Counter(number) | MetricTotal::Meter(number) => {
            format!("{}{}", if *number < 0 { "-" } else { "" }, count(number.unsigned_abs()))
        }
        MetricTotal::Gauge(values) => values.values().map(|value| plain(*value)).collect::<Vec<_>>().join(", "),
        MetricTotal::Distribution(seen) => {
            let mean = plain(seen.sum / seen.count as f64);
            format!("{}, mean {mean}, from {} to {}", counted(seen.count, "value", "values"), plain(seen.min), plain(seen.max))
        }
        MetricTotal::Histogram(seen) => {
            let number: u64 = seen.counts.iter().sum();
            let median = below(&seen.bounds, &seen.counts, number.div_ceil(2));
            let most = below(&seen.bounds, &seen.counts, (number - number / 100).max(1));
            format!("{}, mean {}, half {median}, 99% {most}", counted(number, "value", "values"), plain(seen.sum / number as f64))
        }
    }
}

/// The bucket in which the value of this rank is.
fn below(bounds: &[f64], counts: &[u64], rank: u64) -> String {
    let mut before = 0;
    let at = counts.iter().position(|count| {
        before += count;
        before >= rank
    });
    match at.and_then(|at| bounds.get(at)) {
        Some(bound) => format!("up to {}", plain(*bound)),
        None => format!("over {}", plain(bounds.last().copied().unwrap_or_default())),
    }
}

/// A number with as many digits as matter.
fn plain(value: f64) -> String {
    if value == 0.0 || (0.001..1e15).contains(&value.abs()) { format!("{}", (value * 1e4).round() / 1e4) } else { format!("{value:.3e}") }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_shown_with_their_names() {
        use pillion_wire::proto::{Distribution, Histogram, MetricDelta, metric_delta::Value};
        let delta =
            |name: &str, value| MetricDelta { function: "f.py:f".into(), name: name.into(), value: Some(value), ..Default::default() };
        let mut totals = MetricTotals::default();
        let cached = MetricDelta {
            groups: vec!["cache".into()],
            labels: [("model".to_owned(), "v1".to_owned())].into(),
            ..delta("hits", Value::Counter(1234))
        };
        let histogram = Histogram { bounds: vec![0.1, 1.0], counts: vec![60, 39, 1], sum: 50.0 };
        totals.add(&[
            cached.clone(),
            delta("active", Value::Counter(-2)),
            delta("events", Value::Meter(7)),
            delta("loss", Value::Gauge(0.25)),
            MetricDelta { worker: 1, ..delta("loss", Value::Gauge(1e-9)) },
            delta("size", Value::Distribution(Distribution { count: 3, sum: 10.0, min: 1.0, max: 8.0 })),
            delta("time", Value::Histogram(histogram)),
            cached,
        ]);
        let lines = metrics(&totals);
        let expected = [
            "",
            "f.py:f: active -2",
            "f.py:f: events 7",
            "f.py:f: loss 0.25, 1.000e-9",
            "f.py:f: size 3 values, mean 3.3333, from 1 to 8",
            "f.py:f: time 100 values, mean 0.5, half up to 0.1, 99% up to 1",
            "f.py:f: cache.hits{model=\"v1\"} 2,468",
        ];
        assert_eq!(lines, expected.join("\n"));
        (0..MAX_METRICS).for_each(|at| totals.add(&[delta(&format!("m{at}"), Value::Counter(1))]));
        assert!(metrics(&totals).ends_with("\nand 6 metrics more"), "{}", metrics(&totals));
    }

    #[test]
    fn a_summary_has_rows_gaps_retries_and_times() {
        let totals = Totals {
            rows_in: 26_115,
            rows_out: 26_115,
            batches: 3,
            retries: 1,
            filled: vec![("pressure".into(), 2729)],
            elapsed: Duration::from_millis(500),
            user: Duration::from_millis(120),
            queue: Duration::from_secs(6),
            ..Totals::default()
        };
        let shown = text(&totals, Duration::from_secs(1));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "26,115 rows in, 26,115 rows out, 3 batches in 500 ms (52,230 rows/s)");
        assert_eq!(lines[1], "gaps filled: pressure 2,729");
        assert!(lines[2].starts_with("1 retry: "));
        assert!(
            lines[3].contains("start 1.0 s") && lines[3].contains("user 120 ms") && lines[3].ends_with("queue 2.0 s per batch"),
            "{}",
            lines[3]
        );
    }
}
