//! Renews the node's certificate, over the connection of the live session.
//!
//! The agent's clock decides when, so that it has to be right to within a third of a certificate's life; the server's
//! clock decides what is valid.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::v1::RenewCertificateRequest;
use longshore_proto::v1::agent_service_client::AgentServiceClient;
use longshore_tls::{KeyError, make_key_and_csr};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use crate::identity::{Identity, IdentityError};

/// Longest time without a look at the clock: a machine that slept, or whose clock was set, renews soon after.
const LOOK: Duration = Duration::from_secs(3600);
/// Time for one attempt.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The server said no, or the connection broke.
    #[error("the server did not renew the certificate: {}", .0.message())]
    Refused(Box<Status>),
    /// What came cannot be used or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The thread that writes ended by a panic.
    #[error("the certificate was not written")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Renews, again and again, whenever it is time and a session is live. Dropping the future ends it; a renewal that is
/// under way is then done or not, and either is well.
pub async fn run(identity: &Arc<Identity>, mut live: watch::Receiver<Option<Channel>>) -> Infallible {
    let mut attempts: u32 = 0;
    let mut place = rand::random();
    loop {
        let wait = identity.validity().wait_to_renew(Timestamp::now(), attempts, place, rand::random());
        tokio::time::sleep(wait.min(LOOK)).await;
        if wait > LOOK {
            continue;
        }
        let channel = match live.wait_for(Option::is_some).await {
            Ok(channel) => channel.clone(),
            // The session is over for good, and with it soon this future.
            Err(_) => std::future::pending().await,
        };
        let Some(channel) = channel else { continue };
        attempts = attempts.saturating_add(1);
        match renew(identity, channel).await {
            Ok(()) => {
                let validity = identity.validity();
                tracing::info!(until = %validity.not_after, "the certificate is renewed");
                place = rand::random();
                if validity.renewal(place) > Timestamp::now() {
                    attempts = 0;
                }
            }
            Err(error) => {
                let (source, until) = (std::error::Error::source(&error), identity.validity().not_after);
                tracing::warn!(%error, source, %until, attempts, "cannot renew the certificate; trying again");
            }
        }
    }
}

async fn renew(identity: &Arc<Identity>, channel: Channel) -> Result<(), RenewalError> {
    let made = make_key_and_csr()?;
    let mut request = tonic::Request::new(RenewCertificateRequest { csr_der: made.csr_der });
    request.set_timeout(CALL_TIMEOUT);
    let answer = AgentServiceClient::new(channel).renew_certificate(request).await;
    let chain = answer.map_err(|status| RenewalError::Refused(Box::new(status)))?.into_inner().certificate_chain_pem;
    let identity = Arc::clone(identity);
    Ok(tokio::task::spawn_blocking(move || identity.replace(&chain, &made.key_pem)).await??)
}
