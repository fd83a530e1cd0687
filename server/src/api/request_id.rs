//! What each call is called: by its caller, or else by us.

use std::future::Future;

use http::{HeaderMap, HeaderValue};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// Header of a call and of its answer.
pub const HEADER: &str = "x-request-id";
/// Longest identifier of a caller: a UUID has 36 characters, a trace with its span 55.
const MAX_LENGTH: usize = 64;

tokio::task_local! {
    static CURRENT: String;
}

/// The caller's identifier, if it can stand in logs and headers: letters, digits, `-`, `_`, `.` and `:`.
#[must_use]
pub fn given(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (!text.is_empty() && text.len() <= MAX_LENGTH && text.bytes().all(is_good)).then_some(text)
}

/// Runs a call under its identifier.
pub fn scope<F: Future>(id: String, call: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(id, call)
}

/// The identifier of the call that is being handled, if one is.
#[must_use]
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

/// The status with the identifier among its details.
#[must_use]
pub fn into_details(status: &Status, id: &str) -> Status {
    let mut details: ErrorDetails = status.get_error_details();
    details.set_request_info(id, "");
    Status::with_error_details_and_metadata(status.code(), status.message(), details, status.metadata().clone())
}

/// The identifier as a header's value.
#[must_use]
pub fn value(id: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(id).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_stand_in_a_log_is_taken() {
        let taken = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text.parse().unwrap());
            given(&headers).map(str::to_owned)
        };
        for good in ["a", "9f1c9a3e-8d0b-4a53-a0de-2f6a1f0c7b11", "trace:1.2_3"] {
            assert_eq!(taken(good).as_deref(), Some(good));
        }
        for bad in ["", "two words", "a=b", "\"", &"x".repeat(65)] {
            assert_eq!(taken(bad), None, "{bad}");
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }
}
