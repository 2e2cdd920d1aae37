//! Spans and metrics for an OpenTelemetry collector, over OTLP with gRPC.

use std::time::Duration;

use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use pillion::config::TelemetryConfig;
use pillion::{Code, Error, metrics};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// How long what was not sent yet may take on its way at the end, spans and metrics each.
const LAST: Duration = Duration::from_secs(3);

/// How both are named.
const NAME: &str = "pillion";

/// What is sent, until it ends.
pub struct Otlp {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Otlp {
    /// As configured; `None` if it is off. Needs the async runtime, on which it connects; a collector that is not there is tried again and again.
    ///
    /// # Errors
    /// `config_invalid` for an endpoint that is no URI.
    pub fn new(config: &TelemetryConfig) -> Result<Option<Self>, Error> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named =
            set("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|_| set("OTEL_EXPORTER_OTLP_PROTOCOL").is_none_or(|protocol| protocol == "grpc"));
        let Some(endpoint) = config.otlp_endpoint.clone().or(named) else { return Ok(None) };
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let failed = |error: ExporterBuildError| {
            Error::new(Code::ConfigInvalid, format!("telemetry cannot be sent to `{endpoint}`: {error}"))
                .hint("set `telemetry.otlp_endpoint` to a collector near by, such as `http://127.0.0.1:4317`")
        };
        let spans = SpanExporter::builder().with_tonic().with_endpoint(&endpoint).build().map_err(failed)?;
        let metrics = MetricExporter::builder().with_tonic().with_endpoint(&endpoint).build().map_err(failed)?;
        let mut resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if set("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(NAME);
        }
        let resource = resource.build();
        Ok(Some(Self {
            spans: SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build(),
            metrics: SdkMeterProvider::builder().with_periodic_exporter(metrics).with_resource(resource).build(),
        }))
    }

    /// Sends the spans of the engine, down to level debug, with their events.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>(&self) -> impl Layer<S> + use<S> {
        let ours = |metadata: &Metadata<'_>| {
            let most = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
            metadata.target().starts_with(NAME) && *metadata.level() <= most
        };
        let layer = tracing_opentelemetry::layer().with_tracer(self.spans.tracer(NAME));
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(filter_fn(ours))
    }

    /// Sends what is recorded.
    pub fn recorder(&self) -> OpenTelemetryRecorder {
        let mut recorder = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(self.metrics.meter(NAME)));
        recorder.set_histogram_bounds_mut([metrics::STAGE_SECONDS, metrics::WORKER_START_SECONDS].into_iter(), &metrics::SECONDS);
        recorder
    }

    /// Sends what is left, as far as that is possible in a few seconds.
    pub async fn end(self) {
        // On a thread that may wait: the connection needs those of the runtime.
        let ended = tokio::task::spawn_blocking(move || {
            let spans = self.spans.shutdown_with_timeout(LAST);
            spans.and(self.metrics.shutdown_with_timeout(LAST))
        });
        if let Ok(Err(error)) = ended.await {
            tracing::warn!("the last spans and metrics could not be sent: {error}");
        }
    }
}
