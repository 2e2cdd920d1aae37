//! User metrics: what functions count and measure, from the answers of workers to the recorder.
//!
//! A session adds up the deltas of the batches that it commits; what is wrong with one, or beyond the limits, is left out and said once. The series themselves are
//! the process's, as its recorder is: functions of several sessions share them.

use super::{
    USER_METRICS_REFUSED,
    series::{self, Series},
};
use metrics::{Counter, counter};
use pillion_wire::{
    metrics::{MAX_DELTAS_BYTES, check, series_of},
    proto::{MetricDelta, metric_delta::Value},
};
use prost::Message;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

/// The user metrics of one session.
pub(crate) struct UserMetrics {
    limit: usize,
    refused: Counter,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By identity; what stands for a series is empty if the process has no room for it.
    series: HashMap<String, Option<Arc<Series>>>,
    /// Of all series together, as [`series_of`] counts.
    size: usize,
    /// What was said already.
    said: HashSet<&'static str>,
    /// Room for an identity.
    identity: String,
}

/// The limit of the session is reached.
const TOO_MANY: &str = "the session has as many series of user metrics as `limits.metric_series` allows; further ones are left out";

impl UserMetrics {
    /// For a session of these functions, with at most so many series.
    pub fn new(functions: &str, limit: u32) -> Self {
        let refused = counter!(USER_METRICS_REFUSED, "function" => functions.to_owned());
        UserMetrics { limit: limit as usize, refused, known: Mutex::default() }
    }

    /// Adds the deltas of a batch that took effect, and gives those that are good: they are for the host.
    pub fn add(&self, mut deltas: Vec<MetricDelta>) -> Vec<MetricDelta> {
        if deltas.is_empty() {
            return deltas;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0;
        deltas.retain(|delta| {
            bytes += delta.encoded_len() + 8;
            let added = match check(delta) {
                Ok(_) if bytes > MAX_DELTAS_BYTES => Err("the metrics of one batch take too many bytes"),
                Ok(value) => known.add(delta, value, self.limit),
                Err(why) => Err(why),
            };
            if let Err(why) = added {
                self.refused.increment(1);
                if known.said.insert(why) {
                    tracing::warn!(function = delta.function, metric = delta.name, "a user metric is left out: {why}");
                }
            }
            added.is_ok()
        });
        deltas
    }
}

impl Known {
    fn add(&mut self, delta: &MetricDelta, value: &Value, limit: usize) -> Result<(), &'static str> {
        identify(delta, value, &mut self.identity);
        if !self.series.contains_key(&self.identity) {
            let size = series_of(value);
            if self.size + size > limit {
                return Err(TOO_MANY);
            }
            self.size += size;
            let found = series::find(&self.identity, delta, value);
            let series = found.map_err(|why| self.host_only(delta, why)).ok();
            self.series.insert(self.identity.clone(), series);
        }
        if let Some(Some(series)) = self.series.get(&self.identity)
            && let Err(why) = series.add(value)
        {
            self.host_only(delta, why);
        }
        Ok(())
    }

    /// Another session stands in the way of a metric, which is no matter of this one's host.
    fn host_only(&mut self, delta: &MetricDelta, why: &'static str) {
        if self.said.insert(why) {
            tracing::warn!(function = delta.function, metric = delta.name, "a user metric goes to the host only: {why}");
        }
    }
}

/// Writes what makes a metric one, in text. Names have no control characters, which keep the parts apart.
fn identify(delta: &MetricDelta, value: &Value, identity: &mut String) {
    identity.clear();
    let kind = match value {
        Value::Counter(_) => 'c',
        Value::Gauge(_) => 'g',
        Value::Meter(_) => 'm',
        Value::Distribution(_) => 'd',
        Value::Histogram(_) => 'h',
    };
    // Writing to a string does not fail.
    let _ = write!(identity, "{kind}{}\x1f{}\x1f{}", delta.worker, delta.function, delta.name);
    for group in &delta.groups {
        let _ = write!(identity, "\x1f{group}");
    }
    for (key, value) in &delta.labels {
        let _ = write!(identity, "\x1e{key}\x1f{value}");
    }
}
