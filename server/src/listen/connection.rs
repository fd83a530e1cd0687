//! A connection as it is served.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use jiff::Timestamp;
use longshore_tls::ALPN_HTTP1;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::budget::Budget;
use super::metrics::Open;
use crate::identity::caller::{Peer, PeerCredentials};

/// Bytes with which every HTTP/2 client begins.
const PREFACE_BYTES: usize = 24;
/// Bytes after which a client of HTTP/1.1 has begun; who serves it has a deadline for the rest.
const HTTP1_PREFACE_BYTES: usize = 1;
/// Time after which a peer that acknowledges nothing is gone, where HTTP has no PING of its own.
const PEER_TIMEOUT: Duration = Duration::from_secs(40);
/// Time of silence after which the kernel asks such a peer for an acknowledgement.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// A TLS connection that ends when its client does not begin to speak in time, and when its client's certificate
/// expires and was not renewed: a session may live longer than that. A client without a valid one has a short time. What
/// a client sends is read no faster than a budget allows, or somebody takes it.
#[derive(Debug)]
pub struct Connection {
    /// Boxed: a connection's task holds what it serves more than once, and this is the largest part of it.
    tls: Box<TlsStream<TcpStream>>,
    peer: Peer,
    /// Bytes of the preface still to come.
    preface_left: usize,
    /// When the client's certificate expires, or what it is given without one is over.
    end: Instant,
    /// The next moment at which reading fails; boxed, since it is large and must not move.
    limit: Pin<Box<Sleep>>,
    /// What may be read now.
    budget: Budget,
    /// Until when nothing is read, while the budget is overdrawn.
    pause: Option<Pin<Box<Sleep>>>,
    /// Counts this connection for as long as it is there.
    _open: Open,
}

impl Connection {
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        peer: Peer,
        preface_timeout: Duration,
        end: Instant,
        open: Open,
    ) -> Self {
        let tls = Box::new(tls);
        let limit = Box::pin(tokio::time::sleep(preface_timeout));
        let budget = Budget::new(Instant::now());
        let mut new = Self { tls, peer, preface_left: PREFACE_BYTES, end, limit, budget, pause: None, _open: open };
        if new.speaks_http1() {
            new.preface_left = HTTP1_PREFACE_BYTES;
        }
        new
    }

    /// Whether the client has chosen HTTP/1.1, from a listener that offers it.
    #[must_use]
    pub fn speaks_http1(&self) -> bool {
        self.tls.get_ref().1.alpn_protocol() == Some(ALPN_HTTP1)
    }

    /// Lets the kernel find out that the peer is gone.
    pub(super) fn probe_peer(&self) -> io::Result<()> {
        let socket = SockRef::from(self.tls.get_ref().0);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER))?;
        socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))
    }

    /// Goes from the limit for the preface to that for the connection once the whole preface is there.
    fn count(&mut self, bytes: usize) {
        if self.preface_left == 0 {
            return;
        }
        self.preface_left = self.preface_left.saturating_sub(bytes);
        if self.preface_left == 0 {
            self.limit.as_mut().reset(self.end);
        }
    }

    /// Waits until the client has had its time.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.limit.as_mut().poll(cx));
            let why = if self.preface_left > 0 {
                "the client does not speak"
            } else if let Some(later) = expiry(&self.peer.credentials) {
                // Renewed meanwhile, or the wall clock was set back.
                self.limit.as_mut().reset(later);
                continue;
            } else {
                "the client is valid no longer"
            };
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

/// When a client's certificate expires, by the clock that timers use; `None` without one that is valid now.
pub(super) fn expiry(credentials: &PeerCredentials) -> Option<Instant> {
    let now = Timestamp::now();
    match credentials {
        PeerCredentials::Known(caller) if caller.is_valid_at(now) => {
            // It is valid through the second in which it ends.
            let left = Duration::try_from(caller.valid_until().duration_since(now)).ok()?;
            Instant::now().checked_add(left + Duration::from_millis(1))
        }
        PeerCredentials::Known(_) | PeerCredentials::None | PeerCredentials::Unknown(_) => None,
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let paused = this.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
        if !paused {
            this.pause = None;
            let before = into.filled().len();
            if let Poll::Ready(read) = Pin::new(&mut this.tls).poll_read(cx, into) {
                read?;
                let bytes = into.filled().len() - before;
                this.count(bytes);
                this.budget.give_back(this.peer.passed_on.take());
                this.pause = this.budget.spend(bytes, Instant::now()).map(|wait| Box::pin(tokio::time::sleep(wait)));
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_limit(cx).map(Err)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
