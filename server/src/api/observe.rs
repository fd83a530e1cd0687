//! Names, counts and times every call.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use longshore_metrics::SECONDS;
use longshore_metrics::client::metrics::counter::Counter;
use longshore_metrics::client::metrics::family::Family;
use longshore_metrics::client::metrics::histogram::Histogram;
use longshore_metrics::client::registry::{Registry, Unit};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::request_id;
use super::status::name_of;
use crate::ids::Ids;

/// What a call counts as that asks for nothing known: names out of requests must not become labels.
const UNKNOWN: &str = "unknown";

type Call = [(&'static str, MethodOrCode); 2];
type Refusal = [(&'static str, String); 1];
type MethodOrCode = std::borrow::Cow<'static, str>;

/// What is counted of calls; clones share their counts.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    /// Full names of everything that can be called.
    methods: Arc<HashSet<String>>,
    calls: Family<Call, Histogram, fn() -> Histogram>,
    refused: Family<Refusal, Counter>,
}

impl Default for CallMetrics {
    fn default() -> Self {
        let sets = [longshore_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let sets = sets.into_iter().filter_map(|bytes| FileDescriptorSet::decode(bytes).ok());
        let mut methods = HashSet::new();
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let name = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| name(method.name())));
            }
        }
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        Self { methods: Arc::new(methods), calls: Family::new_with_constructor(histogram), refused: Family::default() }
    }
}

impl CallMetrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Calls by method and code, and the time to their answer; for streams, to its beginning";
        registry.register_with_unit("call_duration", help, Unit::Seconds, self.calls.clone());
        let help = "Calls that were not answered with OK, by the reason in the error's details";
        registry.register("refused_calls", help, self.refused.clone());
    }

    fn method(&self, path: &str) -> MethodOrCode {
        self.methods.get(path.trim_start_matches('/')).map_or(UNKNOWN.into(), |name| name.clone().into())
    }

    fn count<B>(&self, method: MethodOrCode, begun: Instant, response: &Response<B>) {
        let status = response.extensions().get::<Status>();
        let code = status.map_or(Code::Ok, Status::code);
        let labels = [("method", method), ("code", name_of(code).into())];
        self.calls.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
        if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
            let details = status.get_error_details();
            // Every reason is one of docs/errors.md; tonic's own errors have none.
            let reason = details.error_info().map_or_else(|| UNKNOWN.to_owned(), |info| info.reason.clone());
            self.refused.get_or_create(&[("reason", reason)]).inc();
        }
    }
}

/// Names, counts and times every call that comes through; it must be outside of whatever refuses calls.
///
/// A call's identifier is in every line that is logged while it is handled, in the answer's headers, and in the details of
/// an error. Of a stream that holds for its beginning.
#[derive(Clone, Debug, Default)]
pub struct ObserveLayer(pub CallMetrics, pub Arc<Ids>);

impl<S> Layer<S> for ObserveLayer {
    type Service = ObserveService<S>;

    fn layer(&self, inner: S) -> ObserveService<S> {
        ObserveService { inner, metrics: self.0.clone(), ids: Arc::clone(&self.1) }
    }
}

/// See [`ObserveLayer`].
#[derive(Clone, Debug)]
pub struct ObserveService<S> {
    inner: S,
    metrics: CallMetrics,
    ids: Arc<Ids>,
}

impl<S> Service<Request<Body>> for ObserveService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (begun, metrics) = (Instant::now(), self.metrics.clone());
        let method = metrics.method(request.uri().path());
        let id = request_id::given(request.headers()).map_or_else(|| self.ids.text(), str::to_owned);
        let span = tracing::info_span!("call", %method, request_id = id);
        let call = span.in_scope(|| self.inner.call(request));
        Box::pin(async move {
            let mut response = request_id::scope(id.clone(), call.instrument(span)).await?;
            metrics.count(method, begun, &response);
            if let Some(status) = response.extensions().get::<Status>() {
                let code = response.status();
                response = request_id::into_details(status, &id).into_http();
                *response.status_mut() = code;
            }
            if let Some(value) = request_id::value(&id) {
                response.headers_mut().insert(request_id::HEADER, value);
            }
            Ok(response)
        })
    }
}
