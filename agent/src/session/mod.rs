//! The agent's one conversation with its server: dial, talk, and dial again.

pub mod channels;
mod checks;
mod connection;
mod inbound;
mod logs;
mod stream;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use longshore_model::backoff;
use longshore_tls::ConnectError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::channels::Openness;
use crate::bandwidth::Bandwidth;
use crate::supervisor::{Context, Supervisor};
use crate::usage::Newest;

/// Shortest wait before an agent dials again that is refused, or that another agent of the same name has pushed out:
/// only a person can help, and nothing is gained by asking every second.
const SLOW_RETRY: Duration = Duration::from_secs(30);

/// What a person can do for a node that is refused.
const WAY_BACK: &str = "where it has expired or the node was deleted, `longshore-agent enroll --renew` brings the node \
                        back, with a token from `longshore node token --name NAME`";

/// Opens a connection to the server.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, Result<Channel, ConnectError>> + Send + Sync>;
/// Finds the address by which this node reaches the server; may block.
pub type HostIp = Arc<dyn Fn() -> Option<Ipv4Addr> + Send + Sync>;

/// What a session needs beside the supervisor.
pub struct Link {
    /// Opens a connection to the server.
    pub connect: Connector,
    /// Finds the address by which this node reaches it.
    pub host_ip: HostIp,
    /// The connection of the session, while there is one: what else is asked of the server goes over it.
    pub live: watch::Sender<Option<Channel>>,
    /// How fast lines of logs may leave this node.
    pub log_bandwidth: Arc<Bandwidth>,
    /// What was measured last of the node and its instances.
    pub usage: Newest,
    /// What this node lets people do inside its instances.
    pub openness: Openness,
    /// What the workers use too.
    pub context: Arc<Context>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// There was no connection.
    #[error("cannot connect to the server")]
    NotConnected(#[from] ConnectError),
    /// The server ended the call, or the connection broke.
    #[error("the server ended the session")]
    Call(#[from] Box<Status>),
    /// The server hung up without a word.
    #[error("the server closed the session")]
    Closed,
    /// The server did not begin the session in time.
    #[error("the server did not begin the session within {} s", stream::OPEN_TIMEOUT.as_secs())]
    Silent,
    /// The server is going away and asked for patience.
    #[error("the server is going away")]
    Drained(Duration),
    /// An update is missing.
    #[error("an update is missing: revision {got} came after {had}")]
    Gap {
        /// Revision of the message before.
        had: u64,
        /// Revision of this one.
        got: u64,
    },
    /// The server broke a rule of the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The machine's facts could not be read.
    #[error("cannot read the facts of this machine")]
    Facts(#[source] std::io::Error),
}

/// Keeps a session open until `shutdown`, applying what the server says to the supervisor.
pub async fn run(link: &Link, supervisor: &mut Supervisor, shutdown: &CancellationToken) {
    let mut failures: u32 = 0;
    loop {
        let mut welcomed = false;
        let end = tokio::select! {
            () = shutdown.cancelled() => return,
            end = stream::converse(link, supervisor, &mut welcomed) => end,
        };
        link.live.send_replace(None);
        failures = if welcomed { 1 } else { failures.saturating_add(1) };
        let delay = delay(&end, failures, rand::random());
        log(&end, delay);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// How long to wait before the next dial.
fn delay(end: &End, failures: u32, random: u64) -> Duration {
    match end {
        End::Drained(within) => backoff::part_of(*within, random),
        _ if needs_a_person(end) => SLOW_RETRY + backoff::part_of(SLOW_RETRY, random),
        _ => backoff::RECONNECT.jittered(failures, random),
    }
}

/// Whether dialling again soon cannot help.
fn needs_a_person(end: &End) -> bool {
    match end {
        End::NotConnected(error) => matches!(
            error,
            ConnectError::Refused { .. } | ConnectError::NotTrusted { .. } | ConnectError::Credentials(_)
        ),
        End::Call(status) => match ConnectError::in_chain(status.as_ref()) {
            Some(error) => needs_a_person(&End::NotConnected(error)),
            None => matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::Aborted
            ),
        },
        _ => false,
    }
}

fn log(end: &End, delay: Duration) {
    let source = std::error::Error::source(end).map(longshore_tls::with_causes);
    match end {
        End::Drained(_) => tracing::info!(?delay, "the server is going away; dialling again"),
        End::Call(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => {
            tracing::error!(
                message = status.message(),
                ?delay,
                "the server does not accept this node's identity: {WAY_BACK}"
            )
        }
        End::Call(status) if status.code() == Code::Aborted => tracing::error!(
            message = status.message(),
            ?delay,
            "another agent with this node's identity has taken over the session"
        ),
        End::NotConnected(ConnectError::Refused { .. }) => tracing::error!(
            %end,
            source,
            ?delay,
            "the server does not accept this node's certificate: {WAY_BACK}"
        ),
        _ if needs_a_person(end) => tracing::error!(%end, source, ?delay, "the session cannot begin"),
        _ => tracing::warn!(%end, source, ?delay, "the session ended; dialling again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_identity_is_retried_slowly_and_a_lost_server_with_full_jitter() {
        let refused = End::Call(Box::new(Status::unauthenticated("deleted")));
        assert!(delay(&refused, 1, 0) >= SLOW_RETRY);
        assert_eq!(delay(&End::Closed, 1, 0), Duration::ZERO);
        assert!(delay(&End::Closed, u32::MAX, u64::MAX) <= backoff::RECONNECT.cap);
        let drained = End::Drained(Duration::from_secs(8));
        assert!(delay(&drained, 1, u64::MAX) <= Duration::from_secs(8));
        assert!(delay(&drained, 1, u64::MAX / 2) >= Duration::from_secs(3));
    }
}
