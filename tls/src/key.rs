//! The key pair of a machine that enrols.

use std::fmt;

use longshore_model::admission::Fingerprint;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use sha2::{Digest, Sha256};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("cannot make or read a key pair")]
pub struct KeyError(#[from] rcgen::Error);

/// A fresh private key and the request to certify its public half.
pub struct KeyAndRequest {
    /// The private key: PKCS#8 in PEM. It never leaves the machine.
    pub key_pem: String,
    /// PKCS#10 in DER, for `EnrollRequest.csr_der`.
    pub csr_der: Vec<u8>,
    /// SHA-256 of the public key, by which people know it.
    pub fingerprint: Fingerprint,
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
    request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A request for a key that was made before, in PEM: whoever asks again asks with the same key.
///
/// # Errors
///
/// The text is not a key.
pub fn request_for_key(key_pem: &str) -> Result<KeyAndRequest, KeyError> {
    request(&KeyPair::from_pem(key_pem)?)
}

fn request(key: &KeyPair) -> Result<KeyAndRequest, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key)?;
    let fingerprint = Fingerprint(Sha256::digest(key.subject_public_key_info()).into());
    Ok(KeyAndRequest { key_pem: key.serialize_pem(), csr_der: request.der().to_vec(), fingerprint })
}
