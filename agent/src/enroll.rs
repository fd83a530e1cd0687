//! Makes this machine a node: proves a token to a server that the token pins, and keeps the certificate.

use std::time::Duration;

use longshore_model::admission::Fingerprint;
use longshore_model::name::NodeName;
use longshore_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use longshore_proto::v1::{EnrollRequest, EnrollResponse};
use longshore_tls::{ConnectError, EnrollmentToken, KeyError, Pin, make_key_and_csr, request_for_key};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::data_dir::{DataDir, DataDirError, Enrolment};

/// The server's reason for letting a machine wait.
const APPROVAL_PENDING: &str = "APPROVAL_PENDING";
/// Between two questions when the server does not say, and at most.
const POLL: Duration = Duration::from_secs(30);
/// Between two questions at least.
const MIN_POLL: Duration = Duration::from_secs(1);

/// Why a machine did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// No key could be made, or the one that was is damaged.
    #[error("cannot make or read the key")]
    Key(#[from] KeyError),
    /// The server cannot be reached, or is not the one that the token names.
    #[error("cannot connect to the server")]
    Connect(#[from] ConnectError),
    /// The token is for another installation than the node's.
    #[error("the token is of another server than this node's; --force makes this machine a node there")]
    OtherServer,
    /// The server said no.
    #[error("the server refused: {}", .0.message())]
    Refused(Box<Status>),
    /// The server gave a name that is none.
    #[error("the server answered with a name that is not one")]
    Name(#[from] longshore_model::name::NameError),
}

/// Enrols this machine. The key is made here and never leaves; the token's pin decides whom to tell the token.
///
/// Where the token requires it, waits until a person has approved or denied. Dropping the future loses nothing: called again
/// with the same token and name it goes on with the same key.
///
/// # Errors
///
/// See [`EnrollError`]. An enrolled directory is left alone, unless `force` is given.
pub async fn enroll(
    data: &DataDir,
    server: &str,
    token: &EnrollmentToken,
    name: &NodeName,
    force: bool,
) -> Result<Enrolment, EnrollError> {
    data.make()?;
    // A running agent must not have its identity changed under its feet.
    let _lock = data.lock()?;
    let node_uid = match data.enrolment() {
        Ok(old) if !force => {
            return Err(DataDirError::Enrolled { directory: data.path().to_owned(), name: old.node_name }.into());
        }
        // What already runs in the directory is found by this name.
        Ok(old) => old.node_uid,
        Err(DataDirError::NotEnrolled(_)) => format!("{:016x}", rand::random::<u64>()),
        Err(_) if force => format!("{:016x}", rand::random::<u64>()),
        Err(error) => return Err(error.into()),
    };
    let wanted = Enrolment { node_name: name.clone(), server: server.to_owned(), node_uid };
    become_node(data, token, wanted).await
}

/// Enrols this machine again as the node that it is, when its certificate has expired or is lost: name, apps and ledger
/// stay. The token has to be made for exactly that name. `server` may give the server a new address.
///
/// # Errors
///
/// See [`EnrollError`]. Nothing is changed unless the server accepts.
pub async fn renew(data: &DataDir, server: Option<&str>, token: &EnrollmentToken) -> Result<Enrolment, EnrollError> {
    let old = data.enrolment()?;
    let _lock = data.lock()?;
    let root = Pin::of_pem(&data.root_certificate()?).map_err(DataDirError::from)?;
    if root != token.pin() {
        return Err(EnrollError::OtherServer);
    }
    let server = server.map_or(old.server, str::to_owned);
    become_node(data, token, Enrolment { server, ..old }).await
}

async fn become_node(data: &DataDir, token: &EnrollmentToken, wanted: Enrolment) -> Result<Enrolment, EnrollError> {
    // The key is on the disk before anybody hears of it: with the same one an enrolment goes on that was broken off.
    let made = match data.enrolling(token.id(), &wanted.node_name)? {
        Some(key) => request_for_key(&key)?,
        None => {
            let made = make_key_and_csr()?;
            data.begin_enrolling(token.id(), &wanted.node_name, &made.key_pem)?;
            made
        }
    };
    let channel = longshore_tls::connect_pinned(&wanted.server, token.pin()).await?;
    let request = EnrollRequest {
        token: token.to_string(),
        node_name: wanted.node_name.to_string(),
        csr_der: made.csr_der.clone(),
    };
    let answer = ask(EnrollmentServiceClient::new(channel), request, &made.fingerprint).await?;
    let enrolment = Enrolment { node_name: NodeName::parse(&answer.node_name)?, ..wanted };
    data.enrol(&enrolment, &answer.root_certificate_pem, &answer.certificate_chain_pem, &made.key_pem)?;
    data.end_enrolling()?;
    Ok(enrolment)
}

/// Asks until there is an answer: while a person has to approve, again and again.
async fn ask(
    mut client: EnrollmentServiceClient<Channel>,
    request: EnrollRequest,
    fingerprint: &Fingerprint,
) -> Result<EnrollResponse, EnrollError> {
    let mut waits = false;
    loop {
        let status = match client.enroll(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let is_pending = status.get_details_error_info().is_some_and(|info| info.reason == APPROVAL_PENDING);
        // A server that restarts meanwhile does not end the waiting.
        if !(is_pending || waits && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)) {
            return Err(EnrollError::Refused(Box::new(status)));
        }
        if !waits {
            tracing::info!(
                %fingerprint, node = request.node_name,
                "waiting for approval: on the server's side `longshore node pending` must show this fingerprint, then \
                 `longshore node approve` lets this machine in"
            );
            waits = true;
        }
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or(POLL);
        tokio::time::sleep(delay.clamp(MIN_POLL, POLL)).await;
    }
}
