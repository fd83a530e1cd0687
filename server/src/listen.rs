//! The accept loop: from a TCP socket to a connection whose other end is known.
//!
//! tonic's own loop has no deadline for handshakes, closes no silent connection, and spins when descriptors run out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longshore_tls::PeerCertificate;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::identity::caller::{Caller, Peer, PeerCredentials};

mod budget;
mod connection;
mod metrics;

pub use connection::Connection;
pub use metrics::{ConnectionMetrics, ListenerMetrics};

/// Time for a TLS handshake: a client at the far end of a bad link needs a second or two.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the 24 bytes with which HTTP/2 begins, once TLS stands.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Life of a connection whose other end is not known: enough for an enrolment over a bad link. Without an end, anybody
/// who can reach the agents' port could hold all of the server's descriptors.
pub const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// Handshakes under way at once: some 20 KB each, and more than a core finishes in a third of a second. The rest waits
/// in the kernel's queue.
pub const MAX_HANDSHAKES: usize = 1024;
/// Pause after `accept` failed: without descriptors it fails again at once, and a loop would take a whole core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Finished handshakes that wait to be served: serving starts a task and no more.
const READY_QUEUE: usize = 64;

/// What a listener does with a connection.
#[derive(Clone, Debug)]
pub struct Accepting {
    /// How TLS is spoken: each handshake takes what holds when it begins.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Whose certificates count.
    pub trust_domain: Arc<str>,
    /// Time for a handshake.
    pub handshake_timeout: Duration,
    /// Time for HTTP/2's first bytes.
    pub preface_timeout: Duration,
    /// Life of a connection whose other end is not known.
    pub anonymous_life: Duration,
    /// Counts.
    pub metrics: ListenerMetrics,
}

impl Accepting {
    /// With the timeouts that this module names.
    #[must_use]
    pub fn new(tls: watch::Receiver<Arc<ServerConfig>>, trust_domain: &str) -> Self {
        Self {
            tls,
            trust_domain: trust_domain.into(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            preface_timeout: PREFACE_TIMEOUT,
            anonymous_life: ANONYMOUS_LIFE,
            metrics: ListenerMetrics::default(),
        }
    }
}

/// Accepts connections until the stream that is returned is dropped; the listener is closed then.
#[must_use]
pub fn accept(listener: TcpListener, accepting: Accepting) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    tokio::spawn(accept_loop(listener, accepting, ready));
    ReceiverStream::new(connections)
}

async fn accept_loop(listener: TcpListener, accepting: Accepting, ready: mpsc::Sender<io::Result<Connection>>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = next(&listener, &handshakes) => accepted,
        };
        match accepted {
            Ok((tcp, address, permit)) => {
                tokio::spawn(shake_hands(tcp, address, accepting.clone(), ready.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, address) = listener.accept().await?;
    Ok((tcp, address, permit))
}

/// Makes a TCP connection one that can be served; one that cannot be is closed.
async fn shake_hands(
    tcp: TcpStream,
    address: SocketAddr,
    accepting: Accepting,
    ready: mpsc::Sender<io::Result<Connection>>,
    permit: OwnedSemaphorePermit,
) {
    let handshake = async {
        tcp.set_nodelay(true)?;
        let tls = Arc::clone(&accepting.tls.borrow());
        TlsAcceptor::from(tls).accept(tcp).await
    };
    let tls = match tokio::time::timeout(accepting.handshake_timeout, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            accepting.metrics.handshake_failed();
            tracing::debug!(%address, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            accepting.metrics.handshake_timed_out();
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    drop(permit);
    let credentials = credentials(tls.get_ref().1.peer_certificates(), &accepting.trust_domain);
    // One that has expired already (a resumed session says so to nobody) is answered call by call for a while, so that
    // its owner is told why.
    let end = connection::expiry(&credentials).unwrap_or_else(|| Instant::now() + accepting.anonymous_life);
    let connection =
        Connection::new(tls, Peer { address, credentials }, accepting.preface_timeout, end, accepting.metrics.open());
    // Nobody takes it when the server is going away.
    let _ = ready.send(Ok(connection)).await;
}

/// What a verified chain says of who showed it.
fn credentials(chain: Option<&[CertificateDer<'_>]>, trust_domain: &str) -> PeerCredentials {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return PeerCredentials::None };
    let known = PeerCertificate::from_der(leaf).map_err(|error| error.to_string()).and_then(|certificate| {
        let identity = certificate.identity(trust_domain).map_err(|error| error.to_string())?;
        Ok(Caller::new(identity, certificate))
    });
    match known {
        Ok(caller) => PeerCredentials::Known(caller),
        Err(why) => PeerCredentials::Unknown(why.into()),
    }
}
