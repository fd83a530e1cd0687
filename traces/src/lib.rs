//! What Longshore's programs tell a collector of OpenTelemetry: their spans, by OTLP over gRPC.
//!
//! Nothing waits for the collector. Spans go into a queue, and those that find it full are dropped; the library says so in
//! the log. Only spans of our own crates go out, without the events in them: names, identifiers and times, as in the log.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::runtime::Runtime;
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};
use url::Url;

/// Spans that wait for the collector: some seconds of a busy server, in about two megabytes.
const MAX_QUEUED_SPANS: usize = 4096;
/// Spans of one message.
const MAX_EXPORTED_SPANS: usize = 512;
/// Time for the collector's answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the last spans when the program ends; a collector that is away must not hold it up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a collector listens: `http://HOST:PORT`.
///
/// Plain HTTP/2, as for metrics: a collector belongs beside the program, and carries on by TLS what has to cross a network
/// that is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector(Url);

/// A text that is no collector's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be http://HOST:PORT of a collector of OTLP over gRPC, such as http://127.0.0.1:4317")]
pub struct NotACollector;

impl FromStr for Collector {
    type Err = NotACollector;

    fn from_str(text: &str) -> Result<Self, NotACollector> {
        let url = Url::parse(text).map_err(|_| NotACollector)?;
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let is_nobodys = url.username().is_empty() && url.password().is_none();
        let is_good = url.scheme() == "http" && url.has_host() && url.port().is_some() && is_bare && is_nobodys;
        is_good.then_some(Self(url)).ok_or(NotACollector)
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The threads that send them do not start.
    #[error("the thread that sends traces did not start")]
    Thread(#[from] std::io::Error),
    /// The library refuses.
    #[error("traces cannot be sent")]
    Export(#[from] ExporterBuildError),
}

/// Spans on their way to a collector; [`Traces::finish`] sends the last ones.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    /// What the connection lives on: the program's own threads start later, or not at all.
    runtime: Runtime,
}

impl Traces {
    fn start(collector: &Collector, service: &'static str, version: &'static str) -> Result<Self, TracesError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build()?;
        let entered = runtime.enter();
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(collector.to_string())
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED_SPANS)
            .with_max_export_batch_size(MAX_EXPORTED_SPANS)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let version = opentelemetry::KeyValue::new("service.version", version);
        let resource = Resource::builder().with_service_name(service).with_attribute(version).build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
        drop(entered);
        Ok(Self { provider, runtime })
    }

    /// Sends what is left, within a second, and ends.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
        self.runtime.shutdown_background();
    }
}

/// Lets everything that is logged go to `logs`, and our spans to the collector if there is one. Once in a program's life.
///
/// # Errors
///
/// Traces cannot be sent; the log works all the same.
pub fn install(
    logs: impl Layer<Registry> + Send + Sync,
    collector: Option<&Collector>,
    service: &'static str,
    version: &'static str,
) -> Result<Option<Traces>, TracesError> {
    let started = collector.map(|collector| Traces::start(collector, service, version)).transpose();
    let spans = started.as_ref().ok().and_then(Option::as_ref).map(|traces| {
        // Of ours only: the exporter's own connection would tell of itself for ever.
        let ours =
            filter_fn(|meta| meta.is_span() && *meta.level() <= Level::INFO && meta.target().starts_with("longshore"));
        tracing_opentelemetry::layer().with_tracer(traces.provider.tracer("longshore")).with_filter(ours)
    });
    tracing_subscriber::registry().with(logs).with(spans).init();
    started
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn collectors_have_addresses() {
        for (text, shown) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://collector.example:4317/", "http://collector.example:4317"),
            ("http://[::1]:4317", "http://[::1]:4317"),
        ] {
            assert_eq!(text.parse::<Collector>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "127.0.0.1:4317",
            "https://collector.example:4317",
            "http://collector.example",
            "http://user:secret@collector.example:4317",
            "http://127.0.0.1:4317/v1/traces",
            "http://127.0.0.1:4317?x",
            "ftp://127.0.0.1:1",
        ] {
            assert_eq!(bad.parse::<Collector>(), Err(NotACollector), "{bad}");
        }
    }
}
