//! EnrollmentService: turns a machine with a token into a node, or into the node that it was before.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::name::NodeName;
use longshore_proto::v1;
use longshore_proto::v1::enrollment_service_server::EnrollmentService;
use longshore_tls::EnrollmentToken;
use tonic::{Request, Response, Status};

use super::attempts::Attempts;
use super::authority::Authority;
use super::caller::Peer;
use crate::api::status;
use crate::store::{Store, StoreError};

/// The service.
pub struct Enrollment {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    attempts: Mutex<Attempts>,
}

impl fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrollment").finish_non_exhaustive()
    }
}

impl Enrollment {
    /// A service that spends the store's tokens.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, authority: Arc<Authority>) -> Self {
        Self { store, authority, attempts: Mutex::default() }
    }

    async fn enroll(&self, request: &v1::EnrollRequest, now: Timestamp) -> Result<v1::EnrollResponse, Status> {
        let token: EnrollmentToken =
            request.token.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let node: NodeName = request
            .node_name
            .parse()
            .map_err(|error| Status::invalid_argument(format!("the node name {:?} {error}", request.node_name)))?;
        // The certificate is made before the token is spent and handed out only after, so that no request that cannot
        // be certified costs a token.
        let certificate = self.authority.issue_node(&node, &request.csr_der, now).map_err(status::uncertified)?;
        self.store.enroll(token.id(), token.secret_hash(), &node, now).await.map_err(unspent)?;
        Ok(v1::EnrollResponse {
            certificate_chain_pem: self.authority.chain(&certificate),
            root_certificate_pem: self.authority.root_pem().to_owned(),
            node_name: node.to_string(),
        })
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, address: IpAddr) -> Result<(), Status> {
        match self.attempts().must_wait(address, Instant::now()) {
            None => Ok(()),
            Some(wait) => Err(Status::resource_exhausted(format!(
                "too many failed attempts to enrol from this address; try again in {} s",
                wait.as_secs().saturating_add(1)
            ))),
        }
    }
}

#[async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let Some(address) = request.extensions().get::<Peer>().map(|peer| peer.address) else {
            return Err(Status::internal("the connection has no address"));
        };
        self.admit(address.ip())?;
        let request = request.into_inner();
        match self.enroll(&request, Timestamp::now()).await {
            Ok(response) => {
                tracing::info!(node = response.node_name, %address, "a node enrolled");
                Ok(Response::new(response))
            }
            Err(status) => {
                if is_a_guess(status.code()) {
                    self.attempts().failed(address.ip(), Instant::now());
                }
                tracing::info!(
                    node = request.node_name, %address, code = ?status.code(), reason = status.message(),
                    "refused to enrol a node"
                );
                Err(status)
            }
        }
    }
}

/// Whether a refusal means that the caller may be guessing, and not that the server has a problem.
fn is_a_guess(code: tonic::Code) -> bool {
    matches!(
        code,
        tonic::Code::InvalidArgument
            | tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied
            | tonic::Code::AlreadyExists
    )
}

fn unspent(error: StoreError) -> Status {
    match error {
        StoreError::BadToken => Status::unauthenticated(error.to_string()),
        StoreError::TokenForOther(_) => Status::permission_denied(error.to_string()),
        StoreError::AlreadyExists { .. } => {
            Status::already_exists(format!("{error}; a token made for exactly that name lets a machine take its place"))
        }
        StoreError::Busy | StoreError::Closed => Status::unavailable(error.to_string()),
        StoreError::NotFound { .. }
        | StoreError::Changed { .. }
        | StoreError::RequestReused(_)
        | StoreError::Refused(_)
        | StoreError::AppBusy { .. }
        | StoreError::Database(_) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot enrol a node");
            Status::internal("the server cannot enrol nodes; its log says why")
        }
    }
}
