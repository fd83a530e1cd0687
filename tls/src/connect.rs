//! Channels to a server.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tonic::transport::{Channel, Endpoint};

use crate::credentials::Credentials;
use crate::dial::{ConnectError, DIAL_TIMEOUT, Dialer, PATIENT_DIAL_TIMEOUT};
use crate::pin::{Pin, PinVerifier};
use crate::{ALPN_H2, provider};

/// Bytes that a stream of [`connect_for_streams`] may have on its way while nobody takes them.
const STREAM_WINDOW: u32 = 64 * 1024;

/// HTTP/2 PINGs by which a dead connection is noticed, idle or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time between PINGs.
    pub interval: Duration,
    /// Time that an answer may take.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    /// 20 s and 10 s: a cut cable is noticed within half a minute.
    fn default() -> Self {
        Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(10) }
    }
}

/// Connects to `address` (`host:port`) with mutual TLS and returns once the server has accepted our certificate.
///
/// The channel dials again by itself when a call finds the connection lost; [`ConnectError::in_chain`] finds the reason
/// in the `Status` of a call that failed so. Connections made with clones of the same credentials resume TLS sessions.
///
/// # Errors
///
/// A malformed address, nobody there, or one side's refusal of the other.
pub async fn connect(address: &str, credentials: &Credentials, keep_alive: KeepAlive) -> Result<Channel, ConnectError> {
    open(address, credentials.client(), keep_alive, DIAL_TIMEOUT).await
}

/// As [`connect`], for so many streams at once whose answers are taken at their own pace each: none that is not read holds up
/// another.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_for_streams(
    address: &str,
    credentials: &Credentials,
    streams: u32,
) -> Result<Channel, ConnectError> {
    let room = |endpoint: Endpoint| {
        // What all of them together may have on its way has to fit.
        let together = STREAM_WINDOW.saturating_mul(streams.saturating_add(1));
        endpoint.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(together)
    };
    open_as(address, credentials.client(), KeepAlive::default(), DIAL_TIMEOUT, room).await
}

/// As [`connect`], for those of whom thousands may dial at once: each attempt is given [`PATIENT_DIAL_TIMEOUT`].
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_patiently(
    address: &str,
    credentials: &Credentials,
    keep_alive: KeepAlive,
) -> Result<Channel, ConnectError> {
    open(address, credentials.client(), keep_alive, PATIENT_DIAL_TIMEOUT).await
}

/// Connects without a certificate of one's own to a server whose chain holds the certificate of this pin: for
/// enrolment.
///
/// # Errors
///
/// As [`connect`]; a server without that certificate in its chain, or one that does not verify with it, is not trusted.
pub async fn connect_pinned(address: &str, pin: Pin) -> Result<Channel, ConnectError> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ConnectError::Credentials(Arc::new(error.into())))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier::new(pin, provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    open(address, Arc::new(config), KeepAlive::default(), DIAL_TIMEOUT).await
}

/// The certificates that the server at `address` shows, its own first, once it was found to be the one that is trusted and has
/// accepted ours.
///
/// # Errors
///
/// As [`connect`].
pub async fn shown_chain(
    address: &str,
    credentials: &Credentials,
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    Dialer::new(address, credentials.client(), DIAL_TIMEOUT)?.shown_chain().await
}

async fn open(
    address: &str,
    config: Arc<ClientConfig>,
    keep_alive: KeepAlive,
    timeout: Duration,
) -> Result<Channel, ConnectError> {
    open_as(address, config, keep_alive, timeout, |endpoint| endpoint).await
}

async fn open_as(
    address: &str,
    config: Arc<ClientConfig>,
    keep_alive: KeepAlive,
    timeout: Duration,
    shape: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, ConnectError> {
    let dialer = Dialer::new(address, config, timeout)?;
    let uri = |scheme: &str| {
        format!("{scheme}://{address}").parse::<Uri>().map_err(|_| ConnectError::Address(address.to_owned()))
    };
    // tonic refuses to dial `https` when TLS is not its own business; requests say `https` all the same.
    let endpoint = Endpoint::from(uri("http")?)
        .origin(uri("https")?)
        .http2_keep_alive_interval(keep_alive.interval)
        .keep_alive_timeout(keep_alive.timeout)
        .keep_alive_while_idle(true);
    shape(endpoint).connect_with_connector(dialer).await.map_err(|error| {
        ConnectError::in_chain(&error)
            .unwrap_or_else(|| ConnectError::Handshake { address: address.to_owned(), source: Arc::new(error) })
    })
}
