//! What tonic answers in its own words, put into ours.
//!
//! tonic says CANCELLED when a call's deadline has passed, OUT_OF_RANGE when a message is too large, and INTERNAL when
//! one cannot be decoded. Clients decide by the code whether to try again, and whose fault it was.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::status;

/// Header with the time that a client gives its call.
const TIMEOUT: &str = "grpc-timeout";
/// Digits of that time, as gRPC has it.
const MAX_DIGITS: usize = 8;

/// Keeps a call's deadline, and gives tonic's own errors the codes that gRPC has for them. Only up to the first message
/// of an answer: the handlers of streams do the same for what they read.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallLayer;

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner }
    }
}

/// See [`CallLayer`].
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for CallService<S>
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
        let deadline = timeout(request.headers()).and_then(|timeout| Instant::now().checked_add(timeout));
        let call = self.inner.call(request);
        Box::pin(async move {
            let Some(answer) = until(deadline, call).await else {
                let status = status::plain(Code::DeadlineExceeded, "DEADLINE", "the call's deadline has passed");
                return Ok(status.into_http());
            };
            let response = answer?;
            let ours = response.extensions().get::<Status>().and_then(status::of_transport);
            Ok(ours.map_or(response, Status::into_http))
        })
    }
}

/// What the call gives, or `None` once its deadline has passed.
async fn until<F: Future>(deadline: Option<Instant>, call: F) -> Option<F::Output> {
    let Some(deadline) = deadline else { return Some(call.await) };
    let mut call = pin!(call);
    let mut over = pin!(tokio::time::sleep_until(deadline));
    poll_fn(|context| {
        if let Poll::Ready(output) = call.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        // tonic's own timer for the same moment may be the one that woke us: the clock decides.
        if over.as_mut().poll(context).is_ready() || Instant::now() >= deadline {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// The time that a client gives its call: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn answered(time: &str, status: Option<Status>) -> Code {
        let handler = service_fn(move |_: Request<Body>| {
            let status = status.clone();
            async move {
                match status {
                    Some(status) => Ok::<_, Infallible>(status.into_http::<Body>()),
                    None => std::future::pending().await,
                }
            }
        });
        let request = Request::builder().header(TIMEOUT, time).body(Body::empty()).unwrap();
        let response = CallLayer.layer(handler).oneshot(request).await.unwrap();
        Status::from_header_map(response.headers()).unwrap().code()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_has_exceeded_its_deadline() {
        let start = Instant::now();
        assert_eq!(answered("250m", None).await, Code::DeadlineExceeded);
        assert_eq!(start.elapsed(), Duration::from_millis(250));
        assert_eq!(answered("1S", Some(Status::not_found("nothing there"))).await, Code::NotFound);
    }

    #[tokio::test]
    async fn errors_of_the_transport_get_the_codes_that_grpc_has_for_them() {
        let too_large = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        assert_eq!(answered("1S", Some(Status::out_of_range(too_large))).await, Code::ResourceExhausted);
        let damaged = "failed to decode Protobuf message: invalid wire type";
        assert_eq!(answered("1S", Some(Status::internal(damaged))).await, Code::InvalidArgument);
        let named = |status: Status| {
            super::status::of_transport(&status).map(|status| {
                use tonic_types::StatusExt;
                status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
            })
        };
        let compressed = "Content is compressed with `br` which isn't supported";
        assert_eq!(named(Status::unimplemented(compressed)).as_deref(), Some("ENCODING_UNSUPPORTED"));
        assert_eq!(named(Status::not_found("service not registered")).as_deref(), Some("SERVICE_NOT_FOUND"));
        assert_eq!(answered("1S", Some(Status::internal("the server failed"))).await, Code::Internal);
        assert_eq!(answered("1S", Some(Status::out_of_range("page 9"))).await, Code::OutOfRange);
    }

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.parse().unwrap());
            timeout(&headers)
        };
        let cases = [("2H", 7200), ("3M", 180), ("99999999S", 99_999_999), ("4000m", 4), ("5000000u", 5)];
        for (text, seconds) in cases {
            assert_eq!(read(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for text in ["", "S", "1", "123456789S", "-1S", "+1S", "1 S", "1x", "1.5S"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
