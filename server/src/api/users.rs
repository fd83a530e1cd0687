//! UserService.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use longshore_model::identity::{Identity, Role};
use longshore_model::limits::{DEFAULT_USER_TTL, MAX_PAGE};
use longshore_model::name::{MAX_NAME_LENGTH, check_label};
use longshore_model::user::User;
use longshore_model::validate::{self, Path, Violations};
use longshore_proto::convert::FromWire;
use longshore_proto::v1;
use tonic::{Code, Request, Response, Status};
use v1::user_service_server::UserService;

use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, filters, record, status};
use crate::identity::Authority;
use crate::identity::authority::CertificateRequest;
use crate::store::StoreError;

/// UserService.
pub struct UserApi {
    /// What it works with.
    pub context: Context,
    /// Certifies users.
    pub authority: Arc<Authority>,
}

impl UserApi {
    fn certify(&self, user: &User, request: &CertificateRequest) -> Result<String, Status> {
        let certificate = self.authority.certify_user(user, request);
        certificate.map(|made| self.authority.chain(&made)).map_err(status::uncertified)
    }
}

#[async_trait]
impl UserService for UserApi {
    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::CreateUserResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        if let Err(error) = check_label(&request.name, MAX_NAME_LENGTH) {
            bad.add(Path::Root.field("name"), error.to_string());
        }
        let role = Role::from_wire(request.role, Path::Root.field("role"), &mut bad);
        let life = read_ttl(request.ttl, &mut bad);
        let csr = CertificateRequest::read(&request.csr_der);
        if let Err(error) = &csr {
            bad.add(Path::Root.field("csr_der"), error.to_string());
        }
        let (Some(role), Ok(csr)) = (role, csr) else { return Err(status::invalid(bad)) };
        bad.or(()).map_err(status::invalid)?;
        let now = Timestamp::now();
        self.authority.check_time(now).map_err(status::uncertified)?;
        let user = User::new(request.name, role, caller.name(), life, now, self.authority.end());
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        let user = self.context.store.create_user(user, terms).await.map_err(status::store)?;
        let mut answer = v1::CreateUserResponse { user: Some(v1::User::from(&user)), ..Default::default() };
        if !validate_only {
            answer.certificate_chain_pem = self.certify(&user, &csr)?;
            answer.root_certificate_pem = self.authority.root_pem().to_owned();
            tracing::info!(user = user.name, role = %user.role, by = user.creator, "user created");
        }
        Ok(Response::new(answer))
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.filter.as_str()];
        let listing = Listing::new("ListUsers", &filters);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::USERS, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        while scan.goes_on() {
            let page = self.context.store.users(scan.query()).await.map_err(status::store)?;
            scan.take(page, |user| filter.matches(|field| filters::user(user, field)));
        }
        let found = scan.finish();
        let (users, next_page_token) = listing.close(&found, found.items.iter().map(v1::User::from).collect());
        Ok(Response::new(v1::ListUsersResponse { users, next_page_token }))
    }

    async fn revoke_user(
        &self,
        request: Request<v1::RevokeUserRequest>,
    ) -> Result<Response<v1::RevokeUserResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = request.name;
        if let Err(error) = check_label(&name, MAX_NAME_LENGTH) {
            bad.add(Path::Root.field("name"), error.to_string());
        }
        bad.or(()).map_err(status::invalid)?;
        let (validate_only, terms) = (beside.validate_only, beside.terms());
        let user = self.context.store.revoke_user(&name, terms, Timestamp::now()).await.map_err(status::store)?;
        if !validate_only {
            tracing::info!(user = name, by = %caller, "user revoked");
        }
        Ok(Response::new(v1::RevokeUserResponse { user: Some(v1::User::from(&user)) }))
    }

    async fn renew_user_certificate(
        &self,
        request: Request<v1::RenewUserCertificateRequest>,
    ) -> Result<Response<v1::RenewUserCertificateResponse>, Status> {
        let caller = status::certified(&request)?;
        let Identity::User { name, role } = caller.identity() else {
            return Err(status::plain(Code::PermissionDenied, "NOT_A_USER", "this call is for users"));
        };
        let (name, role, issued) = (name.clone(), *role, caller.certificate().validity.issued());
        record::about(format!("users/{name}"), false);
        let csr = CertificateRequest::read(&request.get_ref().csr_der).map_err(status::uncertified)?;
        let (now, end) = (Timestamp::now(), self.authority.end());
        self.authority.check_time(now).map_err(status::uncertified)?;
        let renewed = self.context.store.renew_user(&name, role, issued, now, end).await;
        let user = renewed.map_err(|error| match error {
            // Revoked since the call was let in.
            StoreError::NotFound { .. } => status::user_revoked(&name),
            other => status::store(other),
        })?;
        let certificate_chain_pem = self.certify(&user, &csr)?;
        tracing::info!(user = name, until = %user.certificate_end, "user's certificate renewed");
        let user = Some(v1::User::from(&user));
        Ok(Response::new(v1::RenewUserCertificateResponse { user, certificate_chain_pem }))
    }
}

fn read_ttl(ttl: Option<prost_types::Duration>, bad: &mut Violations) -> SignedDuration {
    let ttl = match ttl.map(|ttl| Duration::read_field(ttl, "ttl")) {
        None => Ok(DEFAULT_USER_TTL),
        Some(read) => read.and_then(|ttl| validate::user_ttl(ttl).map(|()| ttl)),
    };
    let ttl = ttl.unwrap_or_else(|found| {
        bad.0.extend(found.0);
        DEFAULT_USER_TTL
    });
    // Certificates count whole seconds.
    SignedDuration::from_secs(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))
}
