//! The key pair of a machine that enrols.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

/// Why no key could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key pair")]
pub struct KeyError(#[from] rcgen::Error);

/// A fresh private key and the request to certify its public half.
pub struct KeyAndRequest {
    /// The private key: PKCS#8 in PEM. It never leaves the machine.
    pub key_pem: String,
    /// PKCS#10 in DER, for `EnrollRequest.csr_der`.
    pub csr_der: Vec<u8>,
}

impl fmt::Debug for KeyAndRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndRequest").field("csr_der", &self.csr_der.len()).finish_non_exhaustive()
    }
}

/// Makes an ECDSA P-256 key and a request that names nobody: the name is the server's to give.
///
/// # Errors
///
/// The system has no randomness to give.
pub fn make_key_and_csr() -> Result<KeyAndRequest, KeyError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok(KeyAndRequest { key_pem: key.serialize_pem(), csr_der: request.der().to_vec() })
}
