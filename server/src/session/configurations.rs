//! Hands a node what its apps take from config maps and secrets.

use std::sync::Arc;

use longshore_model::app::{App, Desired};
use longshore_model::configuration::{self, Kind, Taken};
use longshore_model::limits::MAX_APP_CONFIGURATION;
use longshore_model::name::{AppName, ConfigurationName, JobId, NodeName};
use longshore_proto::v1;
use tonic::Status;

use super::AgentApi;
use crate::api::{configurations, status};
use crate::store::{StoreError, StoredConfiguration};

impl AgentApi {
    /// What a revision of an app that this node shall run takes: only its own job's spec decides what that is.
    pub(super) async fn configuration_for(
        &self,
        node: &NodeName,
        name: &AppName,
        revision: u64,
    ) -> Result<v1::FetchConfigurationResponse, Status> {
        let app = self.store.app(node, name).await.map_err(status::store)?;
        let Some((job, spec_revision)) = spec_of(&app, revision) else {
            return Err(status::store(StoreError::NotFound { kind: "app", name: name.to_string() }));
        };
        let job = self.store.job_with_spec(job, spec_revision).await.map_err(status::store)?;
        let (mut answer, mut bytes) = (v1::FetchConfigurationResponse::default(), 0);
        for ((kind, wanted), taken) in configuration::needs(&job.spec) {
            let stored = self.find(kind, wanted).await?;
            let fetched = self.fetched(stored, &taken).await?;
            bytes += fetched.data.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            if bytes > MAX_APP_CONFIGURATION {
                let message = format!(
                    "the config maps and secrets of {name} are larger than {MAX_APP_CONFIGURATION} bytes together"
                );
                return Err(status::precondition("CONFIGURATION_UNUSABLE", name.as_str(), &message));
            }
            match kind {
                Kind::ConfigMap => answer.config_maps.push(fetched),
                Kind::Secret => answer.secrets.push(fetched),
            }
        }
        let names = |all: &[v1::FetchedConfiguration]| all.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        let (config_maps, secrets) = (names(&answer.config_maps), names(&answer.secrets));
        tracing::info!(%node, app = %name, revision, ?config_maps, ?secrets, "configuration handed to a node");
        Ok(answer)
    }

    async fn find(&self, kind: Kind, wanted: &str) -> Result<StoredConfiguration, Status> {
        let missing = || {
            let message = format!("there is no {} {wanted:?} any more", kind.as_str());
            status::precondition("CONFIGURATION_MISSING", wanted, &message)
        };
        let name = ConfigurationName::parse(wanted).map_err(|_| missing())?;
        match self.store.configuration(kind, &name).await {
            Ok(stored) => Ok(stored),
            Err(StoreError::NotFound { .. }) => Err(missing()),
            Err(error) => Err(status::store(error)),
        }
    }

    /// The keys that are needed, and no others.
    async fn fetched(
        &self,
        stored: StoredConfiguration,
        taken: &Taken<'_>,
    ) -> Result<v1::FetchedConfiguration, Status> {
        let (vault, configuration) = (Arc::clone(&self.vault), stored.configuration.clone());
        let (kind, name, etag) = (configuration.kind.as_str(), configuration.name.to_string(), configuration.etag());
        if let Taken::Keys(keys) = taken
            && let Some(key) = keys.iter().find(|key| !configuration.keys.iter().any(|known| known == *key))
        {
            let message = format!("the {kind} {name} has no key {key:?} any more");
            return Err(status::precondition("CONFIGURATION_MISSING", &name, &message));
        }
        let opened = tokio::task::spawn_blocking(move || configurations::open(&vault, &stored)).await;
        let content = opened.map_err(|error| status::internal(&error))?.map_err(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, name, "a {kind} cannot be opened");
            let message = format!("the server cannot open the {kind} {name}; set its values anew");
            status::precondition("CONFIGURATION_UNUSABLE", &name, &message)
        })?;
        let data = content
            .into_iter()
            .filter(|(key, _)| taken.has(key))
            .map(|(key, value)| (key, value.reveal().to_vec()))
            .collect();
        Ok(v1::FetchedConfiguration { name, etag, data })
    }
}

/// The job, and which of its specs, the node runs as this revision: during an update it may go back to the one before.
fn spec_of(app: &App, revision: u64) -> Option<(&JobId, u32)> {
    if app.desired != Desired::Present {
        return None;
    }
    if app.revision == revision {
        return Some((&app.job, app.spec_revision));
    }
    let previous = app.previous.as_ref().filter(|previous| previous.revision == revision);
    previous.map(|previous| (&previous.job, previous.spec_revision))
}
