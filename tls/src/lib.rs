//! Certificates and TLS configurations that server, agent and CLI share.
//!
//! Everything here speaks TLS 1.3 only, with the cryptography of aws-lc-rs, and trusts exactly one root: that of the
//! installation. No operating system's trust store plays a part.

mod connect;
mod credentials;
mod dial;
mod key;
mod peer;
mod pin;
mod server;
mod token;

pub use connect::{KeepAlive, connect, connect_pinned};
pub use credentials::{CredentialError, Credentials};
pub use dial::{ConnectError, DIAL_TIMEOUT};
pub use key::{KeyAndRequest, KeyError, make_key_and_csr};
pub use peer::{PeerCertificate, PeerError};
pub use pin::{Pin, PinError};
pub use server::{ClientCertificates, ConfigError, server_config};
pub use token::{EnrollmentToken, TokenError};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What TLS's ALPN calls HTTP/2.
const ALPN_H2: &[u8] = b"h2";

/// The one provider of cryptography; passed explicitly, so that no process-wide default matters.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
