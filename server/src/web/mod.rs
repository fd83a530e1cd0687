//! Browsers: which web pages may call the API, and how they are spoken to.
//!
//! A browser shows its client certificate to every page that makes it call, so a page of anybody could act for the visitor.
//! What a browser cannot leave out is the header `Origin`: a call that has one is refused unless it was allowed
//! ([`GuardLayer`]), on every port and whether or not pages may call at all. Pages of allowed origins speak gRPC-Web,
//! which tonic-web translates, over HTTP/2 or HTTP/1.1.

mod guard;
mod origin;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tonic_web::GrpcWebLayer;
use tower::layer::util::Stack;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use guard::{GuardLayer, GuardService, MAX_HEADERS};
pub use origin::{Origin, OriginError};

use crate::api::request_id;

/// How long a browser remembers that a page may call: the longest time that Chromium keeps to.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(2 * 3600);
/// What pages send beside what every page may send.
const REQUEST_HEADERS: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static(request_id::HEADER),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
];
/// What pages may read of an answer: an error without a body is in its headers.
const ANSWER_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static(request_id::HEADER),
];

/// Answers a browser that asks whether a page may call, and translates gRPC-Web.
pub type WebLayer = Stack<GrpcWebLayer, CorsLayer>;

/// The layer for pages of these origins; `None` when there are none. It must be the outermost: everything within sees
/// gRPC, and no preflight.
#[must_use]
pub fn layer(origins: &Arc<[Origin]>) -> Option<WebLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = Arc::clone(origins);
    let is_allowed = move |origin: &HeaderValue, parts: &http::request::Parts| {
        let is_allowed = allowed.iter().any(|allowed| allowed == origin);
        if !is_allowed && parts.method == Method::OPTIONS {
            tracing::info!(?origin, path = parts.uri.path(), "told a browser that a page may not call");
        }
        is_allowed
    };
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        // Without it browsers send no client certificate along.
        .allow_credentials(true)
        .allow_methods([Method::POST])
        .allow_headers(REQUEST_HEADERS)
        .expose_headers(ANSWER_HEADERS)
        .max_age(PREFLIGHT_LIFE);
    Some(Stack::new(GrpcWebLayer::new(), cors))
}
