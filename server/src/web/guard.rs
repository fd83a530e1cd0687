//! Refuses what no gRPC client sends, before anything else looks at it.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{HeaderMap, Request, Response, StatusCode, header};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Origin;
use crate::api::status;

/// How the content of every gRPC call begins to be named.
const GRPC: &str = "application/grpc";
/// Bytes of a request's headers, counted as HTTP/2 counts them: metadata is names and times, not data.
pub const MAX_HEADERS: usize = 16 * 1024;
/// What HTTP/2 adds for each header (RFC 9113, 6.5.2).
const HEADER_OVERHEAD: usize = 32;

/// Refuses calls of web pages, unless their origin is among those that are allowed, calls whose content is not gRPC, and
/// those with more than [`MAX_HEADERS`].
///
/// A browser names a page's origin with every POST, also with one that it sends without asking first, such as a form.
/// Clients that are no browsers name none. (Rejected: to trust in preflights alone. tonic reads a message of any content
/// type, and for `text/plain` browsers ask nobody.)
#[derive(Clone, Debug)]
pub struct GuardLayer(pub Arc<[Origin]>);

impl<S> Layer<S> for GuardLayer {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> GuardService<S> {
        GuardService { inner, origins: Arc::clone(&self.0) }
    }
}

/// See [`GuardLayer`].
#[derive(Clone, Debug)]
pub struct GuardService<S> {
    inner: S,
    origins: Arc<[Origin]>,
}

impl<S> Service<Request<Body>> for GuardService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match refusal(&self.origins, request.headers()) {
            None => Either::Left(self.inner.call(request)),
            Some((code, status)) => {
                tracing::info!(path = request.uri().path(), why = status.message(), "refused what no client sends");
                let mut response = status.into_http();
                *response.status_mut() = code;
                Either::Right(ready(Ok(response)))
            }
        }
    }
}

/// Why a request is refused, if it is.
fn refusal(allowed: &[Origin], headers: &HeaderMap) -> Option<(StatusCode, Status)> {
    // More than one is as good as none that is allowed.
    let is_allowed = |origin| allowed.iter().any(|allowed| allowed == origin);
    if !headers.get_all(header::ORIGIN).iter().all(is_allowed) {
        let message = "pages of this origin may not call; the server's setting cors-origin names those that may";
        let status = status::plain(Code::PermissionDenied, "ORIGIN_NOT_ALLOWED", message);
        return Some((StatusCode::FORBIDDEN, status));
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD).sum();
    if size > MAX_HEADERS {
        let message = format!("the headers are {size} bytes, and may be {MAX_HEADERS}");
        let status = status::plain(Code::ResourceExhausted, "HEADERS_TOO_LARGE", message);
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, status));
    }
    let content = headers.get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
    let rest = content.and_then(|content| content.strip_prefix(GRPC.as_bytes()));
    if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';'))) {
        let message = "this port takes application/grpc; gRPC-Web it takes only where cors-origin allows pages to call";
        let status = status::plain(Code::Unimplemented, "CONTENT_TYPE_UNSUPPORTED", message);
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, status));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::convert::Infallible;

    use tonic_types::StatusExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The HTTP status and the reason; an empty one when the request went through.
    async fn answered(origins: &[&str], headers: &[(&'static str, &str)]) -> (u16, String) {
        let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        let handler = service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty()))));
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let response = GuardLayer(origins).layer(handler).oneshot(request).await.unwrap();
        let status = response.extensions().get::<Status>();
        let reason = status.map(|status| status.get_details_error_info().unwrap().reason);
        (response.status().as_u16(), reason.unwrap_or_default())
    }

    const GRPC_CONTENT: (&str, &str) = ("content-type", "application/grpc");
    const CONSOLE: &str = "https://console.example";

    #[tokio::test]
    async fn a_page_calls_only_when_its_origin_is_allowed() {
        let refused = (403, "ORIGIN_NOT_ALLOWED".to_owned());
        let passed = (200, String::new());
        let none: [&str; 0] = [];
        for origin in [CONSOLE, "null", "https://evil.example", ""] {
            assert_eq!(answered(&none, &[GRPC_CONTENT, ("origin", origin)]).await, refused, "{origin}");
        }
        assert_eq!(answered(&none, &[GRPC_CONTENT]).await, passed, "no browser");
        let allowed = [CONSOLE, "https://other.example:8443"];
        for origin in allowed {
            assert_eq!(answered(&allowed, &[GRPC_CONTENT, ("origin", origin)]).await, passed, "{origin}");
        }
        let others = [
            "null",
            "https://console.example.evil.example",
            "https://console.example:444",
            "http://console.example",
            "https://Console.example",
            "https://console.example/",
            "https://console.example https://evil.example",
        ];
        for origin in others {
            assert_eq!(answered(&allowed, &[GRPC_CONTENT, ("origin", origin)]).await, refused, "{origin}");
        }
        let both = [GRPC_CONTENT, ("origin", CONSOLE), ("origin", "https://evil.example")];
        assert_eq!(answered(&allowed, &both).await, refused);
    }

    #[tokio::test]
    async fn headers_have_a_limit() {
        let text = "x".repeat(MAX_HEADERS - 2 * HEADER_OVERHEAD - "content-typeapplication/grpca".len());
        let answered = |text: String| async move { answered(&[], &[GRPC_CONTENT, ("a", &text)]).await };
        assert_eq!(answered(text.clone()).await, (200, String::new()));
        assert_eq!(answered(text + "x").await, (431, "HEADERS_TOO_LARGE".to_owned()));
    }

    #[tokio::test]
    async fn content_that_is_not_grpc_goes_no_further() {
        let refused = (415, "CONTENT_TYPE_UNSUPPORTED".to_owned());
        for bad in ["text/plain", "application/grpc-web", "application/grpc-web+proto", "application/grpcx", "", "a"] {
            assert_eq!(answered(&[CONSOLE], &[("content-type", bad)]).await, refused, "{bad}");
        }
        assert_eq!(answered(&[CONSOLE], &[]).await, refused);
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            assert_eq!(answered(&[], &[("content-type", good)]).await, (200, String::new()), "{good}");
        }
    }
}
