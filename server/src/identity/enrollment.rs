//! EnrollmentService: turns a machine with a token into a node, or into the node that it was before.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_model::name::NodeName;
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use longshore_proto::v1::enrollment_service_server::EnrollmentService;
use longshore_tls::EnrollmentToken;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::attempts::Attempts;
use super::authority::{Authority, CertificateRequest};
use crate::api::{record, status};
use crate::store::{Enrolled, Enrolling, Store, StoreError};

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

    async fn enroll(
        &self,
        request: &v1::EnrollRequest,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<v1::EnrollResponse, Status> {
        let mut bad = Violations::default();
        let token = request.token.parse::<EnrollmentToken>();
        if let Err(error) = &token {
            bad.add(Path::Root.field("token"), error.to_string());
        }
        let node: Option<NodeName> =
            FromWire::from_wire(request.node_name.clone(), Path::Root.field("node_name"), &mut bad);
        // Read before the token is spent, so that no request that cannot be certified costs a token.
        let csr = CertificateRequest::read(&request.csr_der);
        if let Err(error) = &csr {
            bad.add(Path::Root.field("csr_der"), error.to_string());
        }
        let (Ok(token), Some(node), Ok(csr)) = (token, node, csr) else { return Err(status::invalid(bad)) };
        self.authority.check_time(now).map_err(status::uncertified)?;
        let enrolling = Enrolling {
            token_id: token.id().to_owned(),
            secret_hash: token.secret_hash(),
            node,
            key: csr.fingerprint(),
            address: address.to_canonical(),
        };
        let node = match self.store.enroll(enrolling, now).await.map_err(unspent)? {
            Enrolled::Node(node) => node,
            Enrolled::Waits(machine) => return Err(status::approval_pending(&machine)),
        };
        record::about(format!("nodes/{}", node.name), false);
        // It may have been approved after this request came: what is older than the enrolment is a predecessor's.
        let issued = now.max(node.enroll_time);
        let certificate = self.authority.certify_node(&node.name, &csr, issued).map_err(status::uncertified)?;
        // The machine has its certificate whether that is recorded or not; its first session makes up for it.
        if let Err(error) = self.store.certified_node(&node.name, self.authority.node_end(issued)).await {
            tracing::warn!(node = %node.name, %error, "cannot record when the certificate of a node ends");
        }
        Ok(v1::EnrollResponse {
            certificate_chain_pem: self.authority.chain(&certificate),
            root_certificate_pem: self.authority.root_pem().to_owned(),
            node_name: node.name.to_string(),
        })
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, address: IpAddr) -> Result<(), Status> {
        self.attempts().must_wait(address, Instant::now()).map_or(Ok(()), |wait| Err(status::too_many_attempts(wait)))
    }
}

#[async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let address = status::peer(&request)?;
        self.admit(address.ip())?;
        let request = request.into_inner();
        match self.enroll(&request, address.ip(), Timestamp::now()).await {
            Ok(response) => {
                tracing::info!(node = response.node_name, %address, "a node enrolled");
                Ok(Response::new(response))
            }
            Err(status) => {
                if is_a_guess(status.code()) {
                    self.attempts().failed(address.ip(), Instant::now());
                }
                // A machine that waits says so every few seconds.
                let waits = status.get_details_error_info().is_some_and(|info| info.reason == "APPROVAL_PENDING");
                if waits {
                    tracing::debug!(node = request.node_name, %address, "a machine waits for approval");
                    return Err(status);
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
        StoreError::AlreadyExists { kind: "node", name } => {
            let advice = "a token made for exactly that name lets a machine take its place";
            status::taken("node", &name, &format!("there already is a node {name:?}; {advice}"))
        }
        StoreError::AlreadyExists { kind, name } => {
            let advice = "deny it, or wait until its time is over";
            status::taken(kind, &name, &format!("another machine already waits for approval as {name:?}; {advice}"))
        }
        other => status::store(other),
    }
}
