//! What a certificate says of whoever showed it.

use jiff::Timestamp;
use longshore_model::certificate::Validity;
use longshore_model::identity::{Identity, IdentityError};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Not a certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Malformed(String),
    /// Not exactly one URI among its names.
    #[error("the certificate has {0} URIs; exactly 1 is expected")]
    Uris(usize),
}

/// The parts of a certificate by which its owner is known. Its signature is not checked here: TLS has done that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The SAN URI.
    pub uri: String,
    /// From when to when.
    pub validity: Validity,
    /// SHA-256 of the public key (its SubjectPublicKeyInfo in DER): tells apart two certificates of one name.
    pub key_hash: [u8; 32],
}

/// From when to when a certificate in DER is valid, whoever's it is.
///
/// # Errors
///
/// It cannot be parsed.
pub fn validity_of(der: &[u8]) -> Result<Validity, PeerError> {
    parse(der).map(|certificate| validity(&certificate))
}

/// The same of one that is parsed.
#[must_use]
pub fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity::of_seconds(validity.not_before.timestamp(), validity.not_after.timestamp())
}

impl PeerCertificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    ///
    /// It cannot be parsed, or does not have exactly one SAN URI.
    pub fn from_der(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = parse(der)?;
        let malformed = |why: &dyn std::fmt::Display| PeerError::Malformed(why.to_string());
        let names = certificate.subject_alternative_name().map_err(|why| malformed(&why))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else { return Err(PeerError::Uris(uris.len())) };
        Ok(Self {
            uri: (*uri).to_owned(),
            validity: validity(&certificate),
            key_hash: Sha256::digest(certificate.public_key().raw).into(),
        })
    }

    /// Whose certificate it is.
    ///
    /// # Errors
    ///
    /// Its URI is of another trust domain, or names nobody.
    pub fn identity(&self, trust_domain: &str) -> Result<Identity, IdentityError> {
        Identity::from_uri(&self.uri, trust_domain)
    }

    /// Whether it is valid at this moment. A resumed TLS session skips this check, so that it has to be made again.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.validity.contains(now)
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed("there are bytes after its end".to_owned())),
        Err(why) => Err(PeerError::Malformed(why.to_string())),
    }
}
