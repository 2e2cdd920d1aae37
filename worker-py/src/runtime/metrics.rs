//! User metrics on their way from Python: what the functions of a plan have gained with a batch.

use std::collections::BTreeMap;

use pillion_wire::metrics::MAX_DELTAS_BYTES;
use pillion_wire::proto::metric_delta::Value;
use pillion_wire::proto::{Distribution, Histogram, MetricDelta};
use prost::Message;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// The bounds of a histogram that names none, by the unit in its name.
#[pyfunction]
pub fn metric_bounds(name: &str) -> Vec<f64> {
    pillion_wire::metrics::bounds_for(name).to_vec()
}

/// Whether numbers can be the bounds of a histogram.
#[pyfunction]
pub fn are_metric_bounds(bounds: Vec<f64>) -> bool {
    pillion_wire::metrics::are_bounds(&bounds)
}

/// Whether a text can be the name of a metric, a group or a label, or the value of a label.
#[pyfunction]
pub fn is_metric_name(text: &str) -> bool {
    pillion_wire::metrics::is_name(text)
}

/// The metrics of a plan's functions.
pub struct Metrics(Vec<Function>);

/// A `pillion.metrics.Metrics`.
struct Function {
    metrics: Py<PyAny>,
    /// Its `series`; empty as long as the function has no metrics, so that looking costs next to nothing.
    series: Py<PyList>,
    label: String,
}

impl Metrics {
    /// Of what `Runtime.prepare` gave.
    pub fn of(prepared: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = prepared.py();
        let functions: Vec<Bound<'_, PyAny>> = prepared.getattr(intern!(py, "metrics"))?.extract()?;
        let functions = functions.into_iter().map(|metrics| {
            let series = metrics.getattr(intern!(py, "series"))?.cast_into::<PyList>()?.unbind();
            let label = metrics.getattr(intern!(py, "function"))?.extract()?;
            PyResult::Ok(Function { metrics: metrics.unbind(), series, label })
        });
        Ok(Metrics(functions.collect::<PyResult<_>>()?))
    }

    /// Those that have metrics.
    fn used<'a, 'py: 'a>(&'a self, py: Python<'py>) -> impl Iterator<Item = (&'a str, &'a Bound<'py, PyAny>)> {
        self.0
            .iter()
            .filter(move |function| !function.series.bind(py).is_empty())
            .map(move |function| (&*function.label, function.metrics.bind(py)))
    }

    /// What was gained with a batch that went well.
    pub fn take(&self, py: Python<'_>) -> Vec<MetricDelta> {
        let mut deltas = Vec::new();
        let mut room = MAX_DELTAS_BYTES;
        for (function, metrics) in self.used(py) {
            let taken = metrics.call_method0(intern!(py, "take")).and_then(|gained| {
                for one in gained.cast::<PyList>()?.iter() {
                    let delta = delta(function, &one)?;
                    // With what stands around a repeated field.
                    let size = delta.encoded_len() + 8;
                    if size > room {
                        return metrics.call_method1(intern!(py, "overflow"), (MAX_DELTAS_BYTES,)).map(drop);
                    }
                    room -= size;
                    deltas.push(delta);
                }
                Ok(())
            });
            // The batch is done, whatever is wrong with the metrics.
            if let Err(raised) = taken {
                raised.write_unraisable(py, Some(metrics));
            }
        }
        deltas
    }

    /// Forgets what was gained with a batch that failed.
    pub fn drop(&self, py: Python<'_>) {
        for (_, metrics) in self.used(py) {
            if let Err(raised) = metrics.call_method0(intern!(py, "drop")) {
                raised.write_unraisable(py, Some(metrics));
            }
        }
    }
}

/// Kind, name, groups, labels and value of one metric.
type Gained<'py> = (String, String, Vec<String>, BTreeMap<String, String>, Bound<'py, PyAny>);

fn delta(function: &str, gained: &Bound<'_, PyAny>) -> PyResult<MetricDelta> {
    let (kind, name, groups, labels, value): Gained<'_> = gained.cast::<PyTuple>()?.extract()?;
    let value = match kind.as_str() {
        "counter" => Value::Counter(value.extract()?),
        "meter" => Value::Meter(value.extract()?),
        "gauge" => Value::Gauge(value.extract()?),
        "distribution" => {
            let (count, sum, min, max) = value.extract()?;
            Value::Distribution(Distribution { count, sum, min, max })
        }
        _ => {
            let (bounds, counts, sum) = value.extract()?;
            Value::Histogram(Histogram { bounds, counts, sum })
        }
    };
    Ok(MetricDelta { name, labels, function: function.to_owned(), groups, worker: 0, value: Some(value) })
}
