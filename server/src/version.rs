//! Tells callers which version serves them, in the header that HTTP has for it.

use http::header::SERVER;
use http::{HeaderValue, Response};

/// Name and version of this program.
const VERSION: HeaderValue = HeaderValue::from_static(concat!("longshore/", env!("CARGO_PKG_VERSION")));

/// Puts `server: longshore/<version>` into a response.
pub(crate) fn name_version<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(SERVER, VERSION);
    response
}
