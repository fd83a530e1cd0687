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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::identity::caller::{Caller, Peer, PeerCredentials};

mod budget;
mod connection;
mod http1;
mod metrics;

pub use budget::PassedOn;
pub use connection::Connection;
pub use http1::{HEAD_TIMEOUT, Http1, MAX_HEAD};
pub use metrics::{ConnectionMetrics, ListenerMetrics};

/// Time for a TLS handshake: a client at the far end of a bad link needs a second or two.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the 24 bytes with which HTTP/2 begins, or the first one of HTTP/1.1, once TLS stands.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Life of a connection whose other end is not known: enough for an enrolment over a bad link. Without an end, anybody
/// who can reach the agents' port could hold all of the server's descriptors.
pub const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// Handshakes under way at once: some 20 KB each, and about what a core finishes in a quarter of a second, so that in a
/// storm those that were begun end long before their deadline, and no work is thrown away.
pub const MAX_HANDSHAKES: usize = 512;
/// Connections that wait for their turn to shake hands, or have said nothing yet: a descriptor and some 2 KB each. Silent
/// ones take no turn, so that nobody keeps others out by keeping quiet.
pub const MAX_WAITING: usize = 4096;
/// Connections that the kernel completes for us beyond those; it takes its own `net.core.somaxconn` where that is less.
/// With the usual 1024, most of a fleet that dials at once would be dropped and would try again after seconds.
pub const LISTEN_BACKLOG: u32 = 16_384;
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
    /// Time for a client's first bytes, and again for the handshake once it is its turn.
    pub handshake_timeout: Duration,
    /// Time for HTTP's first bytes.
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

/// Listens on an address, with room for a fleet that dials at one moment.
///
/// # Errors
///
/// The address is in use or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started again takes its port back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Accepts connections until the stream that is returned is dropped; the listener is closed then.
#[must_use]
pub fn accept(listener: TcpListener, accepting: Accepting) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    tokio::spawn(accept_loop(listener, accepting, ready));
    ReceiverStream::new(connections)
}

async fn accept_loop(listener: TcpListener, accepting: Accepting, ready: mpsc::Sender<io::Result<Connection>>) {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = next(&listener, &waiting) => accepted,
        };
        match accepted {
            Ok((tcp, address, place)) => {
                let arrived = Arrived { tcp, address, place, handshakes: Arc::clone(&handshakes) };
                tokio::spawn(shake_hands(arrived, accepting.clone(), ready.clone()));
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
    waiting: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(waiting).acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, address) = listener.accept().await?;
    Ok((tcp, address, place))
}

/// A TCP connection that has said nothing yet.
struct Arrived {
    tcp: TcpStream,
    address: SocketAddr,
    /// Its place among those that wait.
    place: OwnedSemaphorePermit,
    handshakes: Arc<Semaphore>,
}

impl Arrived {
    /// Waits for the client's first bytes, then for its turn, first come, first served, and shakes hands.
    async fn shake_hands(
        self,
        tls: &watch::Receiver<Arc<ServerConfig>>,
        patience: Duration,
    ) -> io::Result<TlsStream<TcpStream>> {
        let Self { tcp, place, handshakes, .. } = self;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        tcp.set_nodelay(true)?;
        // Not `readable`, which may answer too early.
        tokio::time::timeout(patience, tcp.peek(&mut [0; 1])).await.map_err(late)??;
        let _turn = handshakes.acquire_owned().await.map_err(io::Error::other)?;
        drop(place);
        let tls = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        tokio::time::timeout(patience, tls.accept(tcp)).await.map_err(late)?
    }
}

/// Makes a TCP connection one that can be served; one that cannot be is closed.
async fn shake_hands(arrived: Arrived, accepting: Accepting, ready: mpsc::Sender<io::Result<Connection>>) {
    let address = arrived.address;
    let tls = match arrived.shake_hands(&accepting.tls, accepting.handshake_timeout).await {
        Ok(tls) => tls,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            accepting.metrics.handshake_timed_out();
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
        Err(error) => {
            accepting.metrics.handshake_failed();
            tracing::debug!(%address, %error, "TLS handshake failed");
            return;
        }
    };
    let credentials = credentials(tls.get_ref().1.peer_certificates(), &accepting.trust_domain);
    // One that has expired already (a resumed session says so to nobody) is answered call by call for a while, so that
    // its owner is told why.
    let end = connection::expiry(&credentials).unwrap_or_else(|| Instant::now() + accepting.anonymous_life);
    let connection = Connection::new(
        tls,
        Peer { address, credentials, passed_on: PassedOn::default() },
        accepting.preface_timeout,
        end,
        accepting.metrics.open(),
    );
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
