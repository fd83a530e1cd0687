//! The layer that asks the table of roles before any handler sees a request.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use jiff::Timestamp;
use longshore_model::identity::{Identity, Role};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::caller::{Caller, Peer, PeerCredentials};
use super::roles::{self, Access};
use super::users::Users;
use crate::api::status;
use crate::store::{Store, StoreError};

/// The one call that a revocation does not cut off: whoever revokes themselves is told that it is done.
const REVOKE: &str = "/longshore.v1.UserService/RevokeUser";
/// Domain of the reasons in error details.
const ERROR_DOMAIN: &str = "longshore";

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Denied {
    /// There is no such RPC.
    NoSuchRpc,
    /// It takes a certificate.
    NoCertificate,
    /// The certificate names nobody that we know.
    Unknown(String),
    /// The certificate is not valid now.
    NotValid { not_before: Timestamp, not_after: Timestamp },
    /// The caller's role is not enough.
    Role { caller: String, allowed: &'static [Role] },
}

/// Whether the peer may call the RPC with this path now, and as whom.
fn decide(path: &str, peer: &PeerCredentials, now: Timestamp) -> Result<Option<Caller>, Denied> {
    let allowed = match roles::access(path) {
        None => return Err(Denied::NoSuchRpc),
        Some(Access::Anyone) => return Ok(None),
        Some(Access::Roles(allowed)) => allowed,
    };
    let caller = match peer {
        PeerCredentials::None => return Err(Denied::NoCertificate),
        PeerCredentials::Unknown(why) => return Err(Denied::Unknown(why.to_string())),
        PeerCredentials::Known(caller) => caller,
    };
    if !caller.is_valid_at(now) {
        let not_before = caller.certificate().validity.not_before;
        return Err(Denied::NotValid { not_before, not_after: caller.valid_until() });
    }
    match caller.identity().role() {
        Some(role) if allowed.contains(&role) => Ok(Some(caller.clone())),
        _ => Err(Denied::Role { caller: caller.identity().to_string(), allowed }),
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchRpc => f.write_str("there is no such call"),
            Self::NoCertificate => f.write_str("this call takes a client certificate"),
            Self::Unknown(why) => f.write_str(why),
            Self::NotValid { not_before, not_after } => {
                write!(f, "the certificate is valid only from {not_before} to {not_after}")
            }
            Self::Role { caller, allowed } => {
                let allowed: Vec<&str> = allowed.iter().map(|role| role.as_str()).collect();
                write!(f, "{caller} may not do this; it takes one of these roles: {}", allowed.join(", "))
            }
        }
    }
}

impl Denied {
    fn status(&self, path: &str) -> Status {
        let (code, reason) = match self {
            Self::NoSuchRpc => (tonic::Code::Unimplemented, "NO_SUCH_CALL"),
            Self::NoCertificate => (tonic::Code::Unauthenticated, "CERTIFICATE_REQUIRED"),
            Self::Unknown(_) => (tonic::Code::Unauthenticated, "CERTIFICATE_UNKNOWN"),
            Self::NotValid { .. } => (tonic::Code::Unauthenticated, "CERTIFICATE_NOT_VALID"),
            Self::Role { .. } => (tonic::Code::PermissionDenied, "ROLE_REQUIRED"),
        };
        let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, [("method".to_owned(), path.to_owned())]);
        Status::with_error_details(code, self.to_string(), details)
    }
}

/// Lets through what the table of roles allows and puts the [`Caller`] and its [`longshore_model::identity::Identity`] into the request's
/// extensions.
///
/// UNAUTHENTICATED without a certificate, with one that has expired since the connection was made, or with that of a
/// node that was deleted or of a user who was revoked, and what a user watches or reads ends with it; PERMISSION_DENIED for another role; UNIMPLEMENTED for an RPC that is not in the table.
#[derive(Clone)]
pub struct AccessLayer {
    store: Arc<dyn Store>,
    users: Arc<Users>,
}

impl AccessLayer {
    /// A layer that looks nodes up in this store, and users here.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, users: Arc<Users>) -> Self {
        Self { store, users }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, store: Arc::clone(&self.store), users: Arc::clone(&self.users) }
    }
}

/// See [`AccessLayer`].
#[derive(Clone)]
pub struct AccessService<S> {
    inner: S,
    store: Arc<dyn Store>,
    users: Arc<Users>,
}

impl<S> Service<Request<Body>> for AccessService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        // A request of a connection that nobody looked at is anonymous.
        let credentials = peer.map_or(&PeerCredentials::None, |peer| &peer.credentials);
        match decide(request.uri().path(), credentials, Timestamp::now()) {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some(caller)) => {
                let extensions = request.extensions_mut();
                extensions.insert(caller.identity().clone());
                extensions.insert(caller.clone());
                if let Identity::User { name, role } = caller.identity() {
                    let issued = caller.certificate().validity.issued();
                    let Some(revoked) = self.users.admit(name, *role, issued) else {
                        tracing::info!(user = name, "refused a user who was revoked");
                        let response = status::user_revoked(name).into_http();
                        return Box::pin(std::future::ready(Ok(response)));
                    };
                    if request.uri().path() == REVOKE {
                        return Box::pin(self.inner.call(request));
                    }
                    return Box::pin(until_revoked(name.clone(), revoked, self.inner.call(request)));
                }
                // The service that was polled ready is the one to call; its clone takes its place.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let store = Arc::clone(&self.store);
                Box::pin(async move {
                    match enrolled(&*store, &caller).await {
                        Ok(()) => inner.call(request).await,
                        Err(status) => Ok(status.into_http()),
                    }
                })
            }
            Err(denied) => {
                let path = request.uri().path();
                tracing::info!(path, peer = ?peer.map(|peer| peer.address), %denied, "refused a call");
                let response = denied.status(path).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}

/// A call of a user, and the stream that it answers, for as long as the user is not revoked.
async fn until_revoked<E>(
    name: String,
    revoked: CancellationToken,
    call: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, E> {
    let response = tokio::select! {
        response = call => response?,
        () = revoked.cancelled() => return Ok(status::user_revoked(&name).into_http()),
    };
    Ok(response.map(|body| Body::new(Revocable { body, name, revoked: Box::pin(revoked.cancelled_owned()) })))
}

/// The body of an answer to a user, which ends with UNAUTHENTICATED once they are revoked.
struct Revocable {
    body: Body,
    name: String,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Revocable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.revoked.as_mut().poll(cx).is_ready() {
            tracing::info!(user = self.name, "ended a call of a user who was revoked");
            let (head, _) = status::user_revoked(&self.name).into_http::<Body>().into_parts();
            self.body = Body::empty();
            self.revoked = Box::pin(CancellationToken::new().cancelled_owned());
            return Poll::Ready(Some(Ok(Frame::trailers(head.headers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Whether a calling node is enrolled: that very one, and not a deleted predecessor of the same name.
async fn enrolled(store: &dyn Store, caller: &Caller) -> Result<(), Status> {
    let Some(name) = caller.node() else { return Ok(()) };
    match store.node(name).await {
        Ok(node) if caller.is(&node) => Ok(()),
        Ok(_) | Err(StoreError::NotFound { .. }) => {
            tracing::info!(node = %name, "refused a node that was deleted");
            let details = ErrorDetails::with_error_info("NODE_DELETED", ERROR_DOMAIN, HashMap::new());
            let message = format!("the node {name} that this certificate was issued to was deleted");
            Err(Status::with_error_details(tonic::Code::Unauthenticated, message, details))
        }
        Err(error) => Err(status::store(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use longshore_model::certificate::Validity;
    use longshore_tls::PeerCertificate;

    use super::*;

    const CREATE: &str = "/longshore.v1.JobService/CreateJob";

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn known(uri: &str) -> PeerCredentials {
        let hour = jiff::SignedDuration::from_hours(1);
        let certificate = PeerCertificate {
            uri: uri.to_owned(),
            validity: Validity { not_before: now() - hour, not_after: now() + hour },
            key_hash: [0; 32],
        };
        PeerCredentials::Known(Caller::new(Identity::from_uri(uri, "t").unwrap(), certificate))
    }

    #[test]
    fn the_role_decides() {
        let cases = [
            ("spiffe://t/user/admin/ann", CREATE, true),
            ("spiffe://t/user/operator/olga", CREATE, true),
            ("spiffe://t/user/viewer/vic", CREATE, false),
            ("spiffe://t/node/edge-1", CREATE, false),
            ("spiffe://t/server", CREATE, false),
            ("spiffe://t/node/edge-1", "/longshore.v1.AgentService/OpenSession", true),
            ("spiffe://t/user/admin/ann", "/longshore.v1.AgentService/OpenSession", false),
            ("spiffe://t/user/operator/olga", "/longshore.v1.NodeService/DeleteNode", false),
            ("spiffe://t/user/viewer/vic", "/longshore.v1.JobService/WatchJob", true),
        ];
        for (uri, path, allowed) in cases {
            match decide(path, &known(uri), now()) {
                Ok(caller) => {
                    assert!(allowed, "{uri} {path}");
                    assert_eq!(caller.unwrap().certificate().uri, uri);
                }
                Err(denied) => {
                    assert!(!allowed, "{uri} {path}: {denied}");
                    assert_eq!(denied.status(path).code(), tonic::Code::PermissionDenied);
                }
            }
        }
    }

    #[test]
    fn whoever_cannot_be_known_is_unauthenticated() {
        let late = now() + jiff::SignedDuration::from_hours(2);
        let cases = [
            (PeerCredentials::None, now(), "CERTIFICATE_REQUIRED"),
            (PeerCredentials::Unknown("of another trust domain".into()), now(), "CERTIFICATE_UNKNOWN"),
            (known("spiffe://t/user/admin/ann"), late, "CERTIFICATE_NOT_VALID"),
        ];
        for (peer, moment, reason) in cases {
            let status = decide(CREATE, &peer, moment).unwrap_err().status(CREATE);
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
            assert_eq!(status.get_details_error_info().unwrap().reason, reason);
        }
        assert!(decide("/longshore.v1.EnrollmentService/Enroll", &PeerCredentials::None, now()).unwrap().is_none());
    }

    #[test]
    fn an_unknown_path_goes_nowhere() {
        let denied = decide("/longshore.v1.JobService/Nope", &known("spiffe://t/user/admin/ann"), now()).unwrap_err();
        let status = denied.status("/x");
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["method"].as_str()), ("NO_SUCH_CALL", "/x"));
    }
}
