//! Hands a node what it reads an image with.

use std::sync::Arc;

use longshore_model::app::Desired;
use longshore_model::limits::MAX_REGISTRY_CREDENTIALS;
use longshore_model::name::{AppName, NodeName};
use longshore_model::registry::{self, ChoiceError};
use longshore_model::spec::Image;
use longshore_proto::v1;
use tonic::Status;

use super::AgentApi;
use crate::api::{credentials, status};
use crate::store::StoreError;
use crate::store::sorting::Query;

impl AgentApi {
    /// The credential for an app that this node shall run: only its own job's image decides which one that is.
    pub(super) async fn credential_for(
        &self,
        node: &NodeName,
        name: &AppName,
    ) -> Result<v1::FetchRegistryCredentialResponse, Status> {
        let app = self.store.app(node, name).await.map_err(status::store)?;
        if app.desired != Desired::Present {
            return Err(status::store(StoreError::NotFound { kind: "app", name: name.to_string() }));
        }
        let job = self.store.job_with_spec(&app.job, app.spec_revision).await.map_err(status::store)?;
        let answer = self.credential_of(&job.spec.image).await?;
        if !answer.name.is_empty() {
            tracing::info!(%node, app = %name, credential = answer.name, "registry credential handed to a node");
        }
        Ok(answer)
    }

    /// The credential for the image of a plan that this node is asked for now, and for no other.
    pub(super) async fn credential_for_check(
        &self,
        node: &NodeName,
        id: &str,
    ) -> Result<v1::FetchRegistryCredentialResponse, Status> {
        let image = self.checks.image(node, id).ok_or_else(super::no_plan)?;
        let answer = self.credential_of(&image).await?;
        if !answer.name.is_empty() {
            tracing::info!(%node, check = id, credential = answer.name, "registry credential handed to a node for a plan");
        }
        Ok(answer)
    }

    /// What an image is read with, as things are now.
    async fn credential_of(&self, image: &Image) -> Result<v1::FetchRegistryCredentialResponse, Status> {
        let query = Query::first(MAX_REGISTRY_CREDENTIALS);
        let all = self.store.credentials(query).await.map_err(status::store)?.items;
        let chosen = registry::choose(image, all, |stored| &stored.credential).map_err(|error| {
            let subject = match &error {
                ChoiceError::Unknown(name) => name.clone(),
                ChoiceError::OtherRegistry { name, .. } => name.to_string(),
            };
            status::precondition("REGISTRY_CREDENTIAL_UNUSABLE", &subject, &error.to_string())
        })?;
        let Some(stored) = chosen else { return Ok(v1::FetchRegistryCredentialResponse::default()) };
        let (vault, credential) = (Arc::clone(&self.vault), stored.credential.clone());
        let opened = tokio::task::spawn_blocking(move || credentials::open(&vault, &stored)).await;
        let password = opened.map_err(|error| status::internal(&error))?.map_err(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, credential = %credential.name, "a registry credential cannot be opened");
            let message =
                format!("the server cannot open the registry credential {}; set its password anew", credential.name);
            status::precondition("REGISTRY_CREDENTIAL_UNUSABLE", credential.name.as_str(), &message)
        })?;
        Ok(v1::FetchRegistryCredentialResponse {
            name: credential.name.to_string(),
            registry: credential.registry.to_string(),
            username: credential.username,
            password: password.reveal().to_owned(),
            ca_certificate_pem: credential.ca_certificate_pem,
        })
    }
}
