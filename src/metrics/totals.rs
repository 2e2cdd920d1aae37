//! User metrics added up by a host.

use pillion_wire::proto::{Distribution, Histogram, MetricDelta, metric_delta::Value};
use std::collections::BTreeMap;

/// What identifies a user metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricId {
    /// The function that has it.
    pub function: String,
    /// The groups that it is in, outermost first.
    pub groups: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What became of a user metric so far.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricTotal {
    /// The count of a counter.
    Counter(i64),
    /// The events of a meter.
    Meter(i64),
    /// The last value of a gauge, by worker.
    Gauge(BTreeMap<u32, f64>),
    /// All observations of a distribution.
    Distribution(Distribution),
    /// All observations of a histogram.
    Histogram(Histogram),
}

/// Adds up the deltas of [`Output::metrics`](crate::host::Output::metrics), for a host that shows user metrics as its own.
#[derive(Clone, Debug, Default)]
pub struct MetricTotals(BTreeMap<MetricId, MetricTotal>);

impl MetricTotals {
    /// Adds the deltas of one result.
    pub fn add(&mut self, deltas: &[MetricDelta]) {
        for delta in deltas {
            let Some(value) = &delta.value else { continue };
            let MetricDelta { function, groups, name, labels, .. } = delta.clone();
            let first = || match value {
                Value::Counter(_) => MetricTotal::Counter(0),
                Value::Meter(_) => MetricTotal::Meter(0),
                Value::Gauge(_) => MetricTotal::Gauge(BTreeMap::new()),
                Value::Distribution(_) => {
                    MetricTotal::Distribution(Distribution { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Default::default() })
                }
                Value::Histogram(seen) => MetricTotal::Histogram(Histogram {
                    bounds: seen.bounds.clone(),
                    counts: vec![0; seen.counts.len()],
                    ..Default::default()
                }),
            };
            self.0.entry(MetricId { function, groups, name, labels }).or_insert_with(first).add(delta.worker, value);
        }
    }

    /// All metrics, by function, groups and name.
    pub fn iter(&self) -> impl Iterator<Item = (&MetricId, &MetricTotal)> {
        self.0.iter()
    }

    /// True if nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl MetricTotal {
    /// Adds a delta of the same kind; another is no delta of this metric.
    fn add(&mut self, worker: u32, value: &Value) {
        match (self, value) {
            (MetricTotal::Counter(total), Value::Counter(gained)) | (MetricTotal::Meter(total), Value::Meter(gained)) => {
                *total = total.saturating_add(*gained);
            }
            (MetricTotal::Gauge(values), Value::Gauge(value)) => drop(values.insert(worker, *value)),
            (MetricTotal::Distribution(total), Value::Distribution(seen)) => {
                total.count += seen.count;
                total.sum += seen.sum;
                (total.min, total.max) = (total.min.min(seen.min), total.max.max(seen.max));
            }
            (MetricTotal::Histogram(total), Value::Histogram(seen)) if total.bounds == seen.bounds => {
                total.counts.iter_mut().zip(&seen.counts).for_each(|(total, seen)| *total += seen);
                total.sum += seen.sum;
            }
            _ => {}
        }
    }
}
