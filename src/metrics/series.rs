//! The series that user metrics become in the recorder, one set for the process.
//!
//! The facade's histograms take one observation at a time, and exporters keep them until they are asked; a function may observe millions a second. So distributions and
//! histograms, which arrive added up, become what Prometheus makes of a histogram: counters per bucket, a count and a sum.

use metrics::{Counter, Gauge, Label, counter, gauge};
use pillion_wire::{
    metrics::series_of,
    proto::{Distribution, Histogram, MetricDelta, metric_delta::Value},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// What all user metrics begin with.
pub const PREFIX: &str = "pillion_user_";

/// Most series of a process, whatever its sessions are allowed: labels with ever new values must not fill the memory of whoever scrapes it.
const MAX_SERIES: usize = 20_000;

/// Labels that user labels must not hide.
const RESERVED: [&str; 6] = ["function", "group", "worker", "le", "quantile", "instance"];

/// One metric, as the recorder has it.
#[derive(Debug)]
pub(super) enum Series {
    Counter(Mutex<Updown>),
    Meter(Counter),
    Gauge(Gauge),
    Distribution { count: Counter, sum: Gauge, extent: Mutex<Extent> },
    Histogram { bounds: Vec<f64>, buckets: Vec<Counter>, count: Counter, sum: Gauge },
}

/// A counter, which Prometheus knows only to rise.
#[derive(Debug)]
pub(super) struct Updown {
    /// What it gained.
    gained: Counter,
    /// What it gained and lost.
    net: i64,
    /// Shows `net` once it lost something.
    shown: Option<Gauge>,
    name: String,
    labels: Vec<Label>,
}

#[derive(Debug)]
pub(super) struct Extent {
    min: f64,
    max: f64,
    gauges: [Gauge; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Default)]
struct Registered {
    series: HashMap<String, Arc<Series>>,
    /// Names of the exposition, each of one kind.
    kinds: HashMap<String, Kind>,
    size: usize,
}

static REGISTERED: LazyLock<Mutex<Registered>> = LazyLock::new(Mutex::default);

/// The series of a delta that was checked, by the identity of its metric.
///
/// # Errors
/// Why there is none.
pub(super) fn find(identity: &str, delta: &MetricDelta, value: &Value) -> Result<Arc<Series>, &'static str> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = registered.series.get(identity) {
        return Ok(found.clone());
    }
    let size = series_of(value);
    if registered.size + size > MAX_SERIES {
        return Err("this process has as many series of user metrics as it exports");
    }
    let made = Arc::new(registered.make(delta, value)?);
    registered.size += size;
    registered.series.insert(identity.to_owned(), made.clone());
    Ok(made)
}

impl Registered {
    fn make(&mut self, delta: &MetricDelta, value: &Value) -> Result<Series, &'static str> {
        use Kind::{Counter, Gauge};
        let name = name_of(&delta.name);
        let parts: &[(&str, Kind)] = match value {
            Value::Counter(_) | Value::Meter(_) => &[("_total", Counter)],
            Value::Gauge(_) => &[("", Gauge)],
            Value::Distribution(_) => &[("_count", Counter), ("_sum", Gauge), ("_min", Gauge), ("_max", Gauge)],
            Value::Histogram(_) => &[("_bucket", Counter), ("_count", Counter), ("_sum", Gauge)],
        };
        if parts.iter().any(|(part, kind)| self.kinds.get(&format!("{name}{part}")).is_some_and(|known| known != kind)) {
            return Err("another metric of this name is of another kind");
        }
        self.kinds.extend(parts.iter().map(|(part, kind)| (format!("{name}{part}"), *kind)));
        let labels = labels_of(delta, matches!(value, Value::Gauge(_)));
        let counted = |part: &str| counter!(format!("{name}{part}"), labels.clone());
        let gauged = |part: &str| gauge!(format!("{name}{part}"), labels.clone());
        Ok(match value {
            Value::Counter(_) => {
                let gained = counted("_total");
                Series::Counter(Mutex::new(Updown { gained, net: 0, shown: None, name, labels }))
            }
            Value::Meter(_) => Series::Meter(counted("_total")),
            Value::Gauge(_) => Series::Gauge(gauged("")),
            Value::Distribution(_) => {
                let extent = Extent { min: f64::INFINITY, max: f64::NEG_INFINITY, gauges: ["_min", "_max"].map(gauged) };
                Series::Distribution { count: counted("_count"), sum: gauged("_sum"), extent: Mutex::new(extent) }
            }
            Value::Histogram(Histogram { bounds, .. }) => {
                let ends = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
                let bucket = |end: String| {
                    let labels: Vec<_> = labels.iter().cloned().chain([Label::new("le", end)]).collect();
                    counter!(format!("{name}_bucket"), labels)
                };
                let buckets = ends.map(bucket).collect();
                Series::Histogram { bounds: bounds.clone(), buckets, count: counted("_count"), sum: gauged("_sum") }
            }
        })
    }

    /// Whether a gauge of this name may be shown.
    fn claim_gauge(&mut self, name: &str) -> bool {
        *self.kinds.entry(name.to_owned()).or_insert(Kind::Gauge) == Kind::Gauge
    }
}

impl Series {
    /// Adds a delta.
    ///
    /// # Errors
    /// Why it does not fit what was added before.
    pub fn add(&self, value: &Value) -> Result<(), &'static str> {
        match (self, value) {
            (Series::Counter(counter), Value::Counter(gained)) => counter.lock().unwrap_or_else(PoisonError::into_inner).add(*gained),
            (Series::Meter(counter), Value::Meter(events)) => counter.increment(events.unsigned_abs()),
            (Series::Gauge(gauge), Value::Gauge(value)) => gauge.set(*value),
            (Series::Distribution { count, sum, extent }, Value::Distribution(seen)) => {
                count.increment(seen.count);
                sum.increment(seen.sum);
                extent.lock().unwrap_or_else(PoisonError::into_inner).widen(seen);
            }
            (Series::Histogram { bounds, buckets, count, sum }, Value::Histogram(seen)) => {
                if *bounds != seen.bounds {
                    return Err("a histogram has other buckets than before");
                }
                let mut below = 0;
                for (bucket, inside) in buckets.iter().zip(&seen.counts) {
                    below += inside;
                    bucket.increment(below);
                }
                count.increment(below);
                sum.increment(seen.sum);
            }
            // The kind is part of the identity.
            _ => return Err("a metric has changed its kind"),
        }
        Ok(())
    }
}

impl Updown {
    fn add(&mut self, gained: i64) {
        self.net = self.net.saturating_add(gained);
        match u64::try_from(gained) {
            Ok(gained) => self.gained.increment(gained),
            Err(_) if self.shown.is_none() => {
                let free = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).claim_gauge(&self.name);
                self.shown = free.then(|| gauge!(self.name.clone(), self.labels.clone()));
            }
            Err(_) => {}
        }
        if let Some(shown) = &self.shown {
            shown.set(self.net as f64);
        }
    }
}

impl Extent {
    fn widen(&mut self, seen: &Distribution) {
        (self.min, self.max) = (self.min.min(seen.min), self.max.max(seen.max));
        for (gauge, value) in self.gauges.iter().zip([self.min, self.max]) {
            gauge.set(value);
        }
    }
}

/// A name as Prometheus allows it.
fn name_of(name: &str) -> String {
    PREFIX.chars().chain(name.chars()).map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// Function, groups, labels, and for what each worker has by itself the worker.
fn labels_of(delta: &MetricDelta, per_worker: bool) -> Vec<Label> {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in &delta.labels {
        let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        let hidden = RESERVED.contains(&&*key) || key.starts_with("__") || key.starts_with(|c: char| c.is_ascii_digit());
        labels.insert(if hidden { format!("user_{key}") } else { key }, value.clone());
    }
    labels.insert("function".into(), delta.function.clone());
    if !delta.groups.is_empty() {
        labels.insert("group".into(), delta.groups.join("."));
    }
    if per_worker {
        labels.insert("worker".into(), delta.worker.to_string());
    }
    labels.into_iter().map(|(key, value)| Label::new(key, value)).collect()
}
