//! What was measured: the numbers behind the table, the page and the JSON file, which is this, as it stands here.

use hdrhistogram::Histogram;
use pillion::host::Timing;
use serde::Serialize;

use super::advice::Advice;
use super::variant::Variant;

/// One run of `pillion bench`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of pillion.
    pub version: &'static str,
    pub machine: Machine,
    pub function: Function,
    /// What was sent.
    pub data: String,
    /// Workers of each engine.
    pub workers: usize,
    /// How long measuring took, set-up included.
    pub seconds: f64,
    pub variants: Vec<Measured>,
    /// Variants without a row, and why.
    pub absent: Vec<Absent>,
    pub advice: Option<Advice>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub system: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Function {
    pub name: String,
    /// `scalar` or `map`.
    pub kind: String,
    /// `general`, `pandas` or `arrow`.
    pub func_type: String,
    pub python: String,
    /// With versions.
    pub packages: Vec<String>,
}

/// A variant that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: String,
    #[serde(flatten)]
    pub variant: Variant,
    /// From nothing to the first session, worker included.
    pub start_ms: f64,
    pub latency: Latency,
    pub sizes: Vec<Size>,
}

impl Measured {
    /// Where the time of a batch of `rows` goes, if that was measured. Of one row, the round trips for latency say it: they are more.
    pub fn stages(&self, rows: usize) -> Option<Stages> {
        match rows {
            1 => Some(self.latency.stages),
            _ => self.sizes.iter().find(|size| size.rows == rows)?.result.as_ref().map(|result| result.stages),
        }
    }
}

/// A variant without a row.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    pub name: String,
    /// The code of the error, or `answers_differ`.
    pub code: String,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Round trips of one row, one at a time.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    pub stages: Stages,
    /// Percentiles and their microseconds, for a chart.
    pub curve: Vec<(f64, f64)>,
}

/// Batches of one size.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    pub rows: usize,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub result: Option<Throughput>,
}

/// What batches of one size did.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Pipelined; the median of the rounds.
    pub rows_per_second: f64,
    /// The slowest and the fastest round.
    pub low: f64,
    pub high: f64,
    /// Arguments and results together.
    pub bytes_per_second: f64,
    /// One batch at a time, there and back, on average.
    pub round_trip_us: f64,
    pub stages: Stages,
}

/// Where the time of one batch goes on average, one at a time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stages {
    pub queue_us: f64,
    pub wire_us: f64,
    pub convert_us: f64,
    pub user_us: f64,
    /// In the host and on its way to the engine: the rest of the round trip.
    pub host_us: f64,
}

impl Stages {
    /// The names of the stages, in the order of a batch's way.
    pub const NAMES: [&str; 5] = ["queue", "wire", "convert", "user", "host"];

    /// In the order of [`Self::NAMES`].
    pub fn parts(&self) -> [f64; 5] {
        [self.queue_us, self.wire_us, self.convert_us, self.user_us, self.host_us]
    }

    /// All of them.
    pub fn total(&self) -> f64 {
        self.parts().iter().sum()
    }
}

/// Sums up round trips.
#[derive(Clone, Debug)]
pub struct Trips {
    histogram: Histogram<u64>,
    timing: Timing,
    total_ns: u64,
}

/// The longest round trip that is told apart from longer ones, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

impl Trips {
    /// None; or nothing, if three figures were no precision.
    pub fn new() -> Option<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).ok()?;
        Some(Self { histogram, timing: Timing::default(), total_ns: 0 })
    }

    /// One more.
    pub fn add(&mut self, took_ns: u64, timing: &Timing) {
        self.histogram.saturating_record(took_ns.clamp(1, LONGEST));
        self.total_ns += took_ns;
        self.timing.queue_ns += timing.queue_ns;
        self.timing.wire_ns += timing.wire_ns;
        self.timing.convert_ns += timing.convert_ns;
        self.timing.user_ns += timing.user_ns;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The average, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.total_ns as f64 / 1e3 / self.count().max(1) as f64
    }

    /// Where the time of one went on average.
    pub fn stages(&self) -> Stages {
        let each = |ns: u64| ns as f64 / 1e3 / self.count().max(1) as f64;
        let Timing { queue_ns, wire_ns, convert_ns, user_ns, .. } = self.timing;
        let known = queue_ns + wire_ns + convert_ns + user_ns;
        Stages {
            queue_us: each(queue_ns),
            wire_us: each(wire_ns),
            convert_us: each(convert_ns),
            user_us: each(user_ns),
            host_us: each(self.total_ns.saturating_sub(known)),
        }
    }

    /// As it is reported.
    pub fn latency(&self) -> Latency {
        let us = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        // As many nines as there are observations to tell them.
        let mut percentiles = vec![0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];
        percentiles.retain(|percentile| (100.0 - percentile) / 100.0 * self.count() as f64 > 0.999);
        Latency {
            count: self.count(),
            mean_us: self.mean_us(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.histogram.max() as f64 / 1e3,
            stages: self.stages(),
            curve: percentiles.into_iter().map(|percentile| (percentile, us(percentile / 100.0))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_stages_come_from_all_trips() {
        let mut trips = Trips::new().unwrap();
        let timing = Timing { queue_ns: 100, wire_ns: 300, convert_ns: 50, user_ns: 250, state_ns: 0 };
        for i in 1..=1000u64 {
            trips.add(i * 1000, &timing);
        }
        let latency = trips.latency();
        assert!((latency.p50_us - 500.0).abs() < 2.0 && (latency.p99_us - 990.0).abs() < 2.0, "{latency:?}");
        assert_eq!(latency.count, 1000);
        assert_eq!(latency.curve.last().map(|point| point.0), Some(99.9), "no figure that one observation in ten thousand would make");
        let stages = trips.stages();
        assert!((stages.total() - latency.mean_us).abs() < 1e-6, "the stages add up: {stages:?}");
        assert!((stages.queue_us - 0.1).abs() < 1e-9 && (stages.user_us - 0.25).abs() < 1e-9);
    }
}
