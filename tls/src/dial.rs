//! One attempt to reach a server: TCP, TLS, and the first bytes from the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credentials::CredentialError;

/// How long one attempt may take, from the name's resolution to the server's first byte: longer than the server's own
/// deadline for handshakes, so that a busy server is not given up too early.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for those of whom thousands may dial at once: a storm of ten thousand takes some ten seconds of a server with two
/// cores, and whoever gives up in the queue makes it longer.
pub const PATIENT_DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read before a connection counts as made; the server's SETTINGS frame fits.
const FIRST_BYTES: usize = 128;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one.
    #[error("{0:?} is not an address; HOST:PORT is expected, an IPv6 address in brackets")]
    Address(String),
    /// Nobody answers there.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Somebody may be there, but did not answer in time.
    #[error("{address} did not answer within {} s", within.as_secs())]
    TimedOut {
        /// Where.
        address: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// We refuse the server: its certificate is of another authority, for another name, expired, or not the pinned one.
    #[error("{address} is not the server that was expected")]
    NotTrusted {
        /// Where.
        address: String,
        /// What is wrong with its certificate.
        source: Arc<rustls::Error>,
    },
    /// The server refuses us: no certificate, one of another authority, or an expired one.
    #[error("{address} refuses our certificate")]
    Refused {
        /// Where.
        address: String,
        /// The server's own word for it.
        source: Arc<rustls::Error>,
    },
    /// The other side does not speak as a Longshore server does.
    #[error("{address} does not speak TLS 1.3 with HTTP/2")]
    Handshake {
        /// Where.
        address: String,
        /// What it did.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Our own credentials cannot be used.
    #[error(transparent)]
    Credentials(Arc<CredentialError>),
}

impl ConnectError {
    /// Finds the error of a lost or never made connection among the sources of another one, such as a `tonic::Status`.
    #[must_use]
    pub fn in_chain(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found.clone());
            }
            next = error.source();
        }
        None
    }
}

/// Dials one address again and again, for tonic's channel.
#[derive(Clone)]
pub(crate) struct Dialer {
    address: Arc<str>,
    name: ServerName<'static>,
    tls: TlsConnector,
    timeout: Duration,
}

impl Dialer {
    /// Checks the address, `host:port` or `[v6]:port`.
    pub(crate) fn new(address: &str, config: Arc<ClientConfig>, timeout: Duration) -> Result<Self, ConnectError> {
        let bad = || ConnectError::Address(address.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(bad)?,
            None if host.contains(':') => return Err(bad()),
            None => host,
        };
        if port.parse::<u16>().is_ok_and(|port| port != 0) {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
            Ok(Self { address: address.into(), name, tls: TlsConnector::from(config), timeout })
        } else {
            Err(bad())
        }
    }

    async fn dial(self) -> Result<Dialled, ConnectError> {
        match tokio::time::timeout(self.timeout, self.attempt()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut { address: self.address.to_string(), within: self.timeout }),
        }
    }

    /// The certificates that the other side shows.
    pub(crate) async fn shown_chain(self) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
        let dialled = self.dial().await?;
        Ok(dialled.tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec())
    }

    async fn attempt(&self) -> Result<Dialled, ConnectError> {
        let unreachable = |source: io::Error| ConnectError::Unreachable {
            address: self.address.to_string(),
            source: Arc::new(source),
        };
        let tcp = TcpStream::connect(&*self.address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let mut tls = self.tls.connect(self.name.clone(), tcp).await.map_err(|error| self.classify(error))?;
        // With TLS 1.3 a client is done before the server has looked at its certificate: a refusal arrives in place of
        // the first bytes. A server's SETTINGS come without being asked for, so nothing is lost by waiting for them.
        let mut first = [0; FIRST_BYTES];
        match tls.read(&mut first).await {
            Ok(0) => Err(self.classify(io::ErrorKind::UnexpectedEof.into())),
            Ok(end) => Ok(Dialled { first, unread: 0..end, tls }),
            Err(error) => Err(self.classify(error)),
        }
    }

    /// Tells apart who refused whom.
    fn classify(&self, error: io::Error) -> ConnectError {
        let address = self.address.to_string();
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned() else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    ConnectError::Handshake { address, source: Arc::new(error) }
                }
                _ => ConnectError::Unreachable { address, source: Arc::new(error) },
            };
        };
        match tls {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                ConnectError::NotTrusted { address, source: Arc::new(tls) }
            }
            rustls::Error::AlertReceived(alert) if is_about_certificate(alert) => {
                ConnectError::Refused { address, source: Arc::new(tls) }
            }
            _ => ConnectError::Handshake { address, source: Arc::new(tls) },
        }
    }
}

/// Whether a server says by this alert that it does not accept the client's certificate.
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Dialled>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial().await.map(TokioIo::new) })
    }
}

/// A connection whose first bytes have been read already, and are read again by HTTP/2.
pub(crate) struct Dialled {
    first: [u8; FIRST_BYTES],
    unread: std::ops::Range<usize>,
    tls: TlsStream<TcpStream>,
}

impl AsyncRead for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.is_empty() {
            return Pin::new(&mut this.tls).poll_read(cx, into);
        }
        let end = this.unread.end.min(this.unread.start + into.remaining());
        into.put_slice(&this.first[this.unread.start..end]);
        this.unread.start = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dialled {
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
