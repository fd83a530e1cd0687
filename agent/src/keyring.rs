//! Asks the server what an app reads its image with, over the connection of the live session.

use std::time::Duration;

use async_trait::async_trait;
use longshore_model::backoff;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::registry::Scope;
use longshore_model::secret::Secret;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::runtime::{Keyring, RegistryCredential, RuntimeError};

/// Time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the server each time and keeps nothing, so that a changed password is used from the next pull on.
pub struct ServerKeyring {
    live: watch::Receiver<Option<Channel>>,
    /// The check that it is asked for, in the place of an app's task.
    check: Option<String>,
}

impl ServerKeyring {
    /// Asks over the connection of whichever session is live.
    #[must_use]
    pub fn new(live: watch::Receiver<Option<Channel>>) -> Self {
        Self { live, check: None }
    }

    /// Asks for what the image of a check of this identifier is read with.
    #[must_use]
    pub fn for_check(live: watch::Receiver<Option<Channel>>, check: String) -> Self {
        Self { live, check: Some(check) }
    }
}

#[async_trait]
impl Keyring for ServerKeyring {
    async fn credential(&self, app: &AppName) -> Result<Option<RegistryCredential>, RuntimeError> {
        let mut live = self.live.clone();
        let mut failures: u32 = 0;
        loop {
            let channel = live.wait_for(Option::is_some).await.ok().map(|channel| channel.clone());
            // The session is over for good, and with it soon this future.
            let Some(channel) = channel else { return std::future::pending().await };
            let Some(channel) = channel else { continue };
            let mut request = Request::new(match &self.check {
                Some(check) => v1::FetchRegistryCredentialRequest { check_id: check.clone(), ..Default::default() },
                None => v1::FetchRegistryCredentialRequest { app_name: app.to_string(), ..Default::default() },
            });
            request.set_timeout(CALL_TIMEOUT);
            let status = match AgentServiceClient::new(channel).fetch_registry_credential(request).await {
                Ok(answer) => return read(answer.into_inner()),
                Err(status) => status,
            };
            match status.code() {
                // An older server knows no credentials.
                Code::Unimplemented => return Ok(None),
                Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument => {
                    return Err(denied(status.message().to_owned()));
                }
                _ => {}
            }
            // The task has a deadline of its own, and new orders end the wait.
            failures = failures.saturating_add(1);
            tracing::warn!(%app, code = ?status.code(), reason = status.message(), "cannot ask for a registry credential");
            tokio::time::sleep(backoff::RECONNECT.jittered(failures, rand::random())).await;
        }
    }
}

fn read(answer: v1::FetchRegistryCredentialResponse) -> Result<Option<RegistryCredential>, RuntimeError> {
    if answer.name.is_empty() {
        return Ok(None);
    }
    let registry = Scope::parse(&answer.registry)
        .map_err(|error| denied(format!("the registry of the credential {} {error}", answer.name)))?;
    Ok(Some(RegistryCredential {
        name: answer.name,
        registry,
        username: answer.username,
        password: Secret::new(answer.password),
        ca_certificate_pem: answer.ca_certificate_pem,
    }))
}

fn denied(message: String) -> RuntimeError {
    RuntimeError { reason: FailureReason::ImageAccessDenied, message }
}
