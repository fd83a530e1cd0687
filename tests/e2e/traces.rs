//! Spans, as a collector of OpenTelemetry gets them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use longshore_proto::v1;
use longshore_tests::cluster::Cluster;
use longshore_tests::{spec, wait};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span: the service that it is of, its name, its attributes.
type Span = (String, String, BTreeMap<String, String>);

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_one in request.into_inner().resource_spans {
            let resource = attributes(&of_one.resource.unwrap_or_default().attributes);
            for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let found = (resource["service.name"].clone(), span.name, attributes(&span.attributes));
                self.0.lock().unwrap().push(found);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn has(&self, service: &str, name: &str, pairs: &[(&str, &str)]) -> bool {
        self.0.lock().unwrap().iter().any(|(of, called, attributes)| {
            let fits = |(key, value): &(&str, &str)| attributes.get(*key).is_some_and(|found| found == value);
            of == service && called == name && pairs.iter().all(fits)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_calls_and_steps_and_is_not_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::default();
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let serving = tokio::spawn(serving);

    let mut cluster = Cluster::start().await;
    cluster.restart_server_with(&["--otlp-endpoint", &endpoint]).await;
    let arguments = ["--runtime", "fake", "--otlp-endpoint", &endpoint];
    let mut node = cluster.node_with("edge-1", &[], None, &arguments).await;
    let client = cluster.client().await;
    let mut app = spec::app("", &[]);
    app.image.as_mut().unwrap().source = Some(v1::image::Source::Reference("fake/app:1".to_owned()));
    let job = client.create(app.clone(), &["edge-1"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), v1::JobState::Succeeded);

    let of_job = [("job", job.job_id.as_str()), ("attempt", "1"), ("app", job.app_name.as_str())];
    wait::until("the spans are with the collector", async || {
        let call = [("method", "longshore.v1.JobService/CreateJob")];
        let steps = ["check", "pull", "create", "start"];
        collector.has("longshore-server", "call", &call)
            && steps.iter().all(|step| collector.has("longshore-agent", step, &of_job))
    })
    .await;
    let spans = collector.0.lock().unwrap().clone();
    let call = spans.iter().find(|(_, name, _)| name == "call").unwrap();
    assert!(call.2.contains_key("request_id"), "{call:?}");
    assert!(spans.iter().all(|(_, name, _)| ["call", "check", "pull", "create", "start"].contains(&name.as_str())));

    // Without a collector everything goes on, and ends in time.
    serving.abort();
    let job = client.create(app, &["edge-1"]).await;
    assert_eq!(client.rest(&job.job_id).await.state(), v1::JobState::Succeeded);
    assert!(node.stop());
    assert!(cluster.stop_server());
}
