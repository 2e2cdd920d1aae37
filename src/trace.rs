//! What is done for a session is traced as part of what its host does (DESIGN D11): spans `session`, `bundle` and `worker`, the first a child of the host's.

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span of a session. `traceparent` is the host's W3C trace context, or empty; one that cannot be read is as good as none.
pub(crate) fn session(id: &str, name: &str, traceparent: &str, functions: &str) -> Span {
    let span = tracing::info_span!("session", id, name, traceparent, functions);
    if !traceparent.is_empty() {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        // Where nothing exports spans they have no parents either.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    span
}
