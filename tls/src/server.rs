//! What a listener needs.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;

use crate::credentials::{CredentialError, Credentials, only_root};
use crate::{ALPN_H2, ALPN_HTTP1, provider};

/// What a listener asks of those who connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A certificate of our authority.
    Required,
    /// A certificate of our authority or none: whoever has none can do only what needs none.
    Optional,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The root cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Certificate and key are refused, or do not belong together.
    #[error("the certificate and key cannot be used")]
    Tls(#[from] rustls::Error),
    /// Clients cannot be verified with this root.
    #[error("the root cannot verify certificates")]
    Verifier(#[from] VerifierBuilderError),
}

/// The configuration of one listener: TLS 1.3, HTTP/2, sessions resumable by stateless tickets.
///
/// Of clients only those are known whom `issuer` itself has certified: the root may be one that certifies others too, and what
/// these do is none of this installation's.
///
/// Resumption skips the check of the client's chain: hold [`crate::PeerCertificate::is_valid_at`] against every
/// connection. Each call makes a ticket key of its own, so that a ticket from a listener that asks for no certificate
/// opens no session on one that does.
///
/// # Errors
///
/// The credentials cannot be used.
pub fn server_config(
    credentials: &Credentials,
    issuer: &CertificateDer<'static>,
    clients: ClientCertificates,
) -> Result<Arc<ServerConfig>, ConfigError> {
    config(credentials, issuer, clients, &[ALPN_H2])
}

/// The configuration of a listener that browsers call as well. They ask whether a page may call over a connection to which
/// they bring no certificate, so none is required; and they, or what is between, may speak HTTP/1.1.
///
/// # Errors
///
/// The credentials cannot be used.
pub fn browser_config(
    credentials: &Credentials,
    issuer: &CertificateDer<'static>,
) -> Result<Arc<ServerConfig>, ConfigError> {
    config(credentials, issuer, ClientCertificates::Optional, &[ALPN_H2, ALPN_HTTP1])
}

fn config(
    credentials: &Credentials,
    issuer: &CertificateDer<'static>,
    clients: ClientCertificates,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(only_root(issuer)?), Arc::clone(&provider));
    let verifier = match clients {
        ClientCertificates::Required => verifier,
        ClientCertificates::Optional => verifier.allow_unauthenticated(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(credentials.chain(), credentials.key())?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // rustls' default keeps sessions in a small table, of which nothing is left when ten thousand agents come back.
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
