//! Asks the server what apps take, over the connection of the live session.

use std::time::Duration;

use async_trait::async_trait;
use longshore_model::backoff;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_proto::v1;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{Configuration, Source};
use crate::runtime::RuntimeError;

/// Time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the server each time and keeps nothing.
pub struct ServerSource {
    live: watch::Receiver<Option<Channel>>,
}

impl ServerSource {
    /// Asks over the connection of whichever session is live.
    #[must_use]
    pub fn new(live: watch::Receiver<Option<Channel>>) -> Self {
        Self { live }
    }
}

#[async_trait]
impl Source for ServerSource {
    async fn fetch(&self, app: &AppName, revision: u64) -> Result<Configuration, RuntimeError> {
        let mut live = self.live.clone();
        let mut failures: u32 = 0;
        loop {
            let channel = live.wait_for(Option::is_some).await.ok().map(|channel| channel.clone());
            // The session is over for good, and with it soon this future.
            let Some(channel) = channel else { return std::future::pending().await };
            let Some(channel) = channel else { continue };
            let mut request = Request::new(v1::FetchConfigurationRequest { app_name: app.to_string(), revision });
            request.set_timeout(CALL_TIMEOUT);
            let status = match AgentServiceClient::new(channel).fetch_configuration(request).await {
                Ok(answer) => return Ok(Configuration::from_wire(answer.into_inner())),
                Err(status) => status,
            };
            if let Some(reason) = final_reason(&status) {
                return Err(RuntimeError { reason, message: status.message().to_owned() });
            }
            // The task has a deadline of its own, and new orders end the wait.
            failures = failures.saturating_add(1);
            tracing::warn!(%app, code = ?status.code(), reason = status.message(), "cannot ask for an app's configuration");
            tokio::time::sleep(backoff::RECONNECT.jittered(failures, rand::random())).await;
        }
    }
}

/// Why asking again would be answered the same.
fn final_reason(status: &Status) -> Option<FailureReason> {
    match status.code() {
        Code::FailedPrecondition => {
            let reason = status.get_details_error_info().map(|info| info.reason);
            let is_missing = reason.as_deref() == Some("CONFIGURATION_MISSING");
            Some(if is_missing { FailureReason::ConfigurationMissing } else { FailureReason::ConfigurationUnusable })
        }
        Code::NotFound => Some(FailureReason::ConfigurationMissing),
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange => Some(FailureReason::ConfigurationUnusable),
        _ => None,
    }
}
