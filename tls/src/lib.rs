//! Certificates and TLS configurations that server, agent and CLI share.
//!
//! Everything here speaks TLS 1.3 only, with the cryptography of aws-lc-rs, and trusts exactly one root: that of the
//! installation. No operating system's trust store plays a part.

mod causes;
mod connect;
mod credentials;
mod dial;
mod key;
mod peer;
mod pin;
mod server;
mod token;

pub use causes::with_causes;
pub use connect::{KeepAlive, connect, connect_for_streams, connect_patiently, connect_pinned, shown_chain};
pub use credentials::{CredentialError, Credentials};
pub use dial::{ConnectError, DIAL_TIMEOUT, PATIENT_DIAL_TIMEOUT};
pub use key::{KeyAndRequest, KeyError, make_key_and_csr, request_for_key};
pub use peer::{PeerCertificate, PeerError, validity, validity_of};
pub use pin::{Pin, PinError};
pub use server::{ClientCertificates, ConfigError, browser_config, server_config};
pub use token::{EnrollmentToken, TokenError};

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};

/// What TLS's ALPN calls HTTP/2.
const ALPN_H2: &[u8] = b"h2";
/// What it calls HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Ways to agree on a key, the best first: what is recorded today cannot be read by a quantum computer of tomorrow. The
/// others are for foreign clients that cannot do better. Named here and not left to rustls, whose order is a feature
/// flag that any crate of a build can turn.
const KEY_EXCHANGES: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// The one provider of cryptography; passed explicitly, so that no process-wide default matters.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: KEY_EXCHANGES.to_vec(), ..rustls::crypto::aws_lc_rs::default_provider() })
}
