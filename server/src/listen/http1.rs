//! Connections that speak HTTP/1.1: proxies, and programs that speak gRPC-Web like a browser.
//!
//! tonic would serve them too, with a deadline and buffers of its own choice.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};

use super::Connection;

/// Time for the line and headers of a request, counted from the end of the one before: a connection that nobody uses is
/// closed after it.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a request's line and headers, and of what is read ahead.
pub const MAX_HEAD: usize = 16 * 1024;

/// Serves connections that speak HTTP/1.1.
#[derive(Debug)]
pub struct Http1<S> {
    service: S,
    head_timeout: Duration,
    closing: CancellationToken,
    connections: TaskTracker,
}

impl<S> Http1<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Serves by this service, until `closing` is cancelled; then what was begun is answered and no more is taken.
    /// `head_timeout` is the time for a request's line and headers, such as [`HEAD_TIMEOUT`].
    pub fn new(service: S, head_timeout: Duration, closing: CancellationToken) -> Self {
        Self { service, head_timeout, closing, connections: TaskTracker::new() }
    }

    /// Serves a connection in a task of its own.
    pub fn serve(&self, connection: Connection) {
        if let Err(error) = connection.probe_peer() {
            tracing::debug!(%error, "a peer that is gone will be found out late");
        }
        let peer = connection.connect_info();
        let service = self.service.clone().map_request(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(self.head_timeout).max_buf_size(MAX_HEAD);
        let serving = server.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        let closing = self.closing.clone();
        self.connections.spawn(async move {
            let mut serving = pin!(serving);
            let served = tokio::select! {
                served = serving.as_mut() => served,
                () = closing.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP/1.1 connection failed");
            }
        });
    }

    /// Waits until every connection has ended.
    pub async fn ended(&self) {
        self.connections.close();
        self.connections.wait().await;
    }
}
