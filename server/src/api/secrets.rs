//! SecretService.

use std::sync::Arc;

use async_trait::async_trait;
use longshore_model::configuration::{Kind, check_content};
use longshore_model::name::ConfigurationName;
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use tonic::{Request, Response, Status};
use v1::secret_service_server::SecretService;

use super::configurations::{self, Change, DATA, Desk, Held, New};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, status};
use crate::vault::Vault;

/// SecretService.
pub struct SecretApi(Desk);

impl SecretApi {
    /// The service over a store; `vault` seals the values.
    #[must_use]
    pub fn new(context: Context, vault: Arc<Vault>) -> Self {
        Self(Desk { kind: Kind::Secret, context, vault })
    }
}

fn answer(held: &Held) -> Option<v1::Secret> {
    Some(convert::secret(&held.configuration))
}

#[async_trait]
impl SecretService for SecretApi {
    async fn create_secret(
        &self,
        request: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::CreateSecretResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let given = request.secret.unwrap_or_default();
        let resource = Path::Root.field("secret");
        let name = ConfigurationName::from_wire(given.name, resource.field("name"), &mut bad);
        let content = configurations::content(request.data);
        check_content(&content, Path::Root.field(DATA), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let made = self.0.create(New { name, content, beside }).await?;
        Ok(Response::new(v1::CreateSecretResponse { secret: answer(&made) }))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let request = request.into_inner();
        let texts = [request.filter.as_str()];
        let listing = Listing::new("ListSecrets", &texts);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let found = self.0.list(&listing, &asked, &request.filter).await?;
        let items = found.items.iter().map(convert::secret).collect();
        let (secrets, next_page_token) = listing.close(&found, items);
        Ok(Response::new(v1::ListSecretsResponse { secrets, next_page_token }))
    }

    async fn get_secret(
        &self,
        request: Request<v1::GetSecretRequest>,
    ) -> Result<Response<v1::GetSecretResponse>, Status> {
        let held = self.0.get(request.into_inner().name).await?;
        Ok(Response::new(v1::GetSecretResponse { secret: answer(&held) }))
    }

    async fn update_secret(
        &self,
        request: Request<v1::UpdateSecretRequest>,
    ) -> Result<Response<v1::UpdateSecretResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let v1::UpdateSecretRequest { secret, data, update_mask, .. } = request;
        let given = secret.unwrap_or_default();
        let content = configurations::content(data);
        let named = configurations::masked(update_mask.as_ref(), &content, &mut bad);
        let resource = Path::Root.field("secret");
        let name = ConfigurationName::from_wire(given.name, resource.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let change = Change { name, etag: given.etag, named, content, beside };
        let changed = self.0.update(change, Path::Root.field(DATA)).await?;
        Ok(Response::new(v1::UpdateSecretResponse { secret: answer(&changed) }))
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = ConfigurationName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        self.0.delete(name, beside).await?;
        Ok(Response::new(v1::DeleteSecretResponse {}))
    }
}
