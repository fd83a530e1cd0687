//! The one place where errors become gRPC statuses.
//!
//! Every status that is our own carries `google.rpc.ErrorInfo` with a reason for machines; its message is a sentence for
//! people. What only we can do something about is logged here, once, and answered as INTERNAL without details.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use longshore_model::admission::PendingNode;
use longshore_model::identity::Identity;
use longshore_model::name::NodeName;
use longshore_model::validate::Violations;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::watch::CursorRefused;
use crate::fleet::FleetError;
use crate::hub::HubError;
use crate::identity::authority::AuthorityError;
use crate::identity::caller::{Caller, Peer};
use crate::listen::PassedOn;
use crate::store::StoreError;

/// Domain of every `ErrorInfo`.
const DOMAIN: &str = "longshore";
/// When to try again after the server was too busy: long enough for a full queue of writes to be committed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How often a machine asks whether it was approved: a person who approves waits no longer than this, and a thousand
/// machines are two hundred calls a second.
const APPROVAL_POLL: Duration = Duration::from_secs(5);

/// How tonic begins to say that a message is larger than it may be.
const TOO_LARGE: [&str; 2] = ["Error, decoded message length too large", "Error, encoded message length too large"];
/// How tonic begins to say that a message is none.
const UNREADABLE: [&str; 5] = [
    "failed to decode Protobuf message",
    "protocol error: received message",
    "Unexpected EOF decoding stream",
    "Missing request message",
    // In base64 that is none, where that was said to come.
    "tonic-web: ",
];

/// How it begins to say that a message is compressed in a way that it does not know.
const COMPRESSED: [&str; 1] = ["Content is compressed with"];
/// How its health service says that it does not know the service.
const NO_SERVICE: [&str; 1] = ["service not registered"];

/// The status with the code that gRPC has for it, when it is tonic's own about a message that it could not take.
pub(crate) fn of_transport(status: &Status) -> Option<Status> {
    let begins = |all: &[&str]| all.iter().any(|text| status.message().starts_with(text));
    match status.code() {
        Code::OutOfRange if begins(&TOO_LARGE) => {
            Some(plain(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", status.message()))
        }
        Code::Internal if begins(&UNREADABLE) => {
            Some(plain(Code::InvalidArgument, "MESSAGE_UNREADABLE", status.message()))
        }
        Code::Unimplemented if begins(&COMPRESSED) => {
            Some(plain(Code::Unimplemented, "ENCODING_UNSUPPORTED", status.message()))
        }
        Code::NotFound if begins(&NO_SERVICE) => Some(plain(Code::NotFound, "SERVICE_NOT_FOUND", status.message())),
        _ => None,
    }
}

/// The same for an error that a stream's reader meets.
pub(crate) fn of_stream(status: Status) -> Status {
    of_transport(&status).unwrap_or(status)
}

/// INVALID_ARGUMENT with everything that is wrong.
pub(crate) fn invalid(violations: Violations) -> Status {
    let message = violations.to_string();
    let mut details = with_reason("INVALID_REQUEST");
    let fields = violations.0.into_iter().map(|found| FieldViolation::new(found.field, found.description));
    details.set_bad_request(fields.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A status with a reason and nothing else.
pub(crate) fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, with_reason(reason))
}

/// FAILED_PRECONDITION with what stands in the way of `subject`.
pub(crate) fn precondition(reason: &str, subject: &str, message: &str) -> Status {
    let mut details = with_reason(reason);
    details.add_precondition_failure_violation(reason, subject, message);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// RESOURCE_EXHAUSTED or UNAVAILABLE, with advice to come back.
pub(crate) fn later(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let mut details = with_reason(reason);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, message, details)
}

/// RESOURCE_EXHAUSTED for a machine that has to wait before it may try to enrol again.
pub(crate) fn too_many_attempts(wait: Duration) -> Status {
    let seconds = wait.as_secs().saturating_add(1);
    let message = format!("too many attempts to enrol have failed; try again in {seconds} s");
    let mut details = with_reason("TOO_MANY_ATTEMPTS");
    details.set_retry_info(Some(Duration::from_secs(seconds)));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// FAILED_PRECONDITION for a machine that waits for approval, with the time after which it shall ask again.
pub(crate) fn approval_pending(machine: &PendingNode) -> Status {
    let message = format!("a person has to approve of {}, whose key has the fingerprint {}", machine.name, machine.key);
    let metadata = [("key_fingerprint", machine.key.to_string()), ("expire_time", machine.expire_time.to_string())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let mut details = ErrorDetails::with_error_info("APPROVAL_PENDING", DOMAIN, metadata);
    details.add_precondition_failure_violation("APPROVAL_PENDING", machine.name.as_str(), message.clone());
    details.set_retry_info(Some(APPROVAL_POLL));
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// UNAUTHENTICATED for a node that was deleted.
pub(crate) fn node_deleted(node: &NodeName) -> Status {
    plain(Code::Unauthenticated, "NODE_DELETED", format!("there is no node {node}: it was deleted"))
}

/// UNAUTHENTICATED for a user who was revoked, or whose certificate is that of one who was.
pub(crate) fn user_revoked(name: &str) -> Status {
    let message = format!("the user {name} was revoked, or this certificate is of an earlier user of that name");
    plain(Code::Unauthenticated, "USER_REVOKED", message)
}

/// INTERNAL; the error is logged here and its text stays here.
pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error, "a call failed");
    plain(Code::Internal, "INTERNAL", "the server failed; its log says how")
}

/// ALREADY_EXISTS for something of this kind and name.
pub(crate) fn taken(kind: &str, name: &str, message: &str) -> Status {
    let mut details = with_reason(&format!("{}_ALREADY_EXISTS", screaming(kind)));
    details.set_resource_info(kind, name, "", message);
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// What a failure of the store means for a caller.
pub(crate) fn store(error: StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::NotFound { kind, name } => {
            let mut details = with_reason(&format!("{}_NOT_FOUND", screaming(kind)));
            details.set_resource_info(kind, name, "", message.clone());
            Status::with_error_details(Code::NotFound, message, details)
        }
        StoreError::AlreadyExists { kind, name } => taken(kind, &name, &message),
        StoreError::Refused(refused) => {
            let mut details = with_reason("JOB_STATE");
            details.add_precondition_failure_violation("JOB_STATE", refused.state.as_str(), message.clone());
            Status::with_error_details(Code::FailedPrecondition, message, details)
        }
        StoreError::Changed { kind, name } => {
            let mut details = with_reason("ETAG_MISMATCH");
            details.set_resource_info(kind, name, "", message.clone());
            Status::with_error_details(Code::Aborted, message, details)
        }
        StoreError::TokenShown(id) => {
            let mut details = with_reason("TOKEN_SHOWN_ONCE");
            details.set_resource_info("enrolment token", id, "", message.clone());
            Status::with_error_details(Code::AlreadyExists, message, details)
        }
        StoreError::RequestReused(_) => {
            let mut details = with_reason("REQUEST_ID_REUSED");
            details.add_bad_request_violation("request_id", message.clone());
            Status::with_error_details(Code::InvalidArgument, message, details)
        }
        StoreError::NoneChosen => invalid(Violations::one("filter", message)),
        StoreError::AppBusy { app, .. } => precondition("APP_BUSY", app.as_str(), &message),
        StoreError::TemplateAliased { alias, .. } => precondition("TEMPLATE_ALIASED", alias.as_str(), &message),
        StoreError::TooManyLabels(error) => invalid(Violations::one("node.labels", error.to_string())),
        StoreError::BadToken => plain(Code::PermissionDenied, "TOKEN_INVALID", message),
        StoreError::TokenForOther(_) => plain(Code::PermissionDenied, "TOKEN_FOR_OTHER_NODE", message),
        StoreError::LastAdmin(name) => precondition("LAST_ADMIN", &name, &message),
        StoreError::Denied(_) => plain(Code::PermissionDenied, "ENROLMENT_DENIED", message),
        StoreError::TooMany { .. } => plain(Code::ResourceExhausted, "LIMIT_REACHED", message),
        StoreError::Busy => later(Code::ResourceExhausted, "STORE_BUSY", message),
        StoreError::Closed => later(Code::Unavailable, "SHUTTING_DOWN", "the server is shutting down"),
        error @ StoreError::Database(_) => internal(&error),
    }
}

/// What it means for a caller that its certificate request was not met.
pub(crate) fn uncertified(error: AuthorityError) -> Status {
    match error {
        AuthorityError::Request(_) | AuthorityError::RequestTooLong | AuthorityError::KeyKind => {
            invalid(Violations::one("csr_der", error.to_string()))
        }
        AuthorityError::Ended(_) => precondition("AUTHORITY_ENDED", "authority", &error.to_string()),
        AuthorityError::ServerName(_)
        | AuthorityError::Clock
        | AuthorityError::External(_)
        | AuthorityError::Crypto(_) => internal(&error),
    }
}

/// What a failure of a watch means for a caller.
pub(crate) fn hub(error: HubError) -> Status {
    match error {
        HubError::Full | HubError::TooManyTasks => {
            later(Code::ResourceExhausted, "TOO_MANY_WATCHERS", error.to_string())
        }
        HubError::Closed => later(Code::Unavailable, "SHUTTING_DOWN", error.to_string()),
    }
}

/// What it means for a caller that a watch cannot go on from its cursor.
pub(super) fn cursor(refused: CursorRefused) -> Status {
    match refused {
        CursorRefused::OtherJob => {
            plain(Code::OutOfRange, "CURSOR_OF_OTHER_JOB", "the cursor is of a watch of another job; watch without it")
        }
        CursorRefused::OtherHistory => {
            let message = "the cursor is of a history that the server does not have: its database was put back to an \
                           older state, or is another one; watch without it";
            plain(Code::OutOfRange, "CURSOR_EXPIRED", message)
        }
    }
}

/// What it means for a caller that a node cannot be reached.
pub(crate) fn fleet(error: FleetError, node: &NodeName) -> Status {
    match error {
        FleetError::NotConnected => {
            later(Code::Unavailable, "NODE_NOT_CONNECTED", format!("the node {node} is not connected at the moment"))
        }
        FleetError::Draining => later(Code::Unavailable, "SHUTTING_DOWN", error.to_string()),
    }
}

/// Where a call comes from.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<SocketAddr, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.map(|peer| peer.address).ok_or_else(|| plain(Code::Internal, "INTERNAL", "the connection has no address"))
}

/// Counts what of a call's bytes somebody has taken.
pub(crate) fn passed_on<T>(request: &Request<T>) -> PassedOn {
    request.extensions().get::<Peer>().map(|peer| peer.passed_on.clone()).unwrap_or_default()
}

/// Who calls, as the listener found out from the certificate.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<&Identity, Status> {
    let identity = request.extensions().get::<Identity>();
    identity.ok_or_else(|| plain(Code::Unauthenticated, "NO_IDENTITY", "a client certificate is needed for this call"))
}

/// Who calls, with the certificate.
pub(crate) fn certified<T>(request: &Request<T>) -> Result<&Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.ok_or_else(|| plain(Code::Unauthenticated, "NO_IDENTITY", "a client certificate is needed for this call"))
}

/// The node that calls.
pub(crate) fn calling_node<T>(request: &Request<T>) -> Result<NodeName, Status> {
    match caller(request)? {
        Identity::Node(node) => Ok(node.clone()),
        other => Err(plain(Code::PermissionDenied, "NOT_A_NODE", format!("this call is for agents, not for {other}"))),
    }
}

fn with_reason(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

fn screaming(kind: &str) -> String {
    kind.to_ascii_uppercase().replace(' ', "_")
}

/// A code as gRPC writes it.
pub(crate) fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test may fail by panicking.
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_the_store_has_its_code_and_reason() {
        let node = NodeName::parse("shop-1").unwrap();
        let (kind, name) = ("enrolment token", "x".to_owned());
        let cases = [
            (StoreError::NotFound { kind, name: name.clone() }, Code::NotFound, "ENROLMENT_TOKEN_NOT_FOUND"),
            (StoreError::AlreadyExists { kind, name }, Code::AlreadyExists, "ENROLMENT_TOKEN_ALREADY_EXISTS"),
            (StoreError::Changed { kind: "job", name: "x".to_owned() }, Code::Aborted, "ETAG_MISMATCH"),
            (StoreError::RequestReused("x".to_owned()), Code::InvalidArgument, "REQUEST_ID_REUSED"),
            (StoreError::TokenShown("x".to_owned()), Code::AlreadyExists, "TOKEN_SHOWN_ONCE"),
            (StoreError::BadToken, Code::PermissionDenied, "TOKEN_INVALID"),
            (StoreError::TokenForOther(node), Code::PermissionDenied, "TOKEN_FOR_OTHER_NODE"),
            (StoreError::Busy, Code::ResourceExhausted, "STORE_BUSY"),
            (StoreError::Closed, Code::Unavailable, "SHUTTING_DOWN"),
            (StoreError::Database("secret".into()), Code::Internal, "INTERNAL"),
        ];
        for (error, code, reason) in cases {
            let status = store(error);
            let details = status.get_error_details();
            assert_eq!((status.code(), details.error_info().unwrap().reason.as_str()), (code, reason));
            let come_back = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            assert_eq!(details.retry_info().is_some(), come_back, "{reason}");
            assert!(!format!("{status:?}").contains("secret"), "the cause stays here");
        }
    }
}
