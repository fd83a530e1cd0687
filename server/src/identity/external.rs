//! Authorities of others, below which an installation can stand: their keys and certificates, read and checked.
//!
//! Everything that agents or people would stumble over later is found here, and named with its file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_model::certificate::Validity;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates from an authority up to its root: each is one more that is sent with every connection and has to be verified.
pub const MAX_CHAIN: usize = 5;
/// Bytes of a file with certificates or a key: some ten times what the longest chain needs.
const MAX_FILE: u64 = 64 * 1024;

/// Keys with which an authority of others can sign here.
const KEYS: [&rcgen::SignatureAlgorithm; 4] =
    [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256];

/// What is wrong with the key or the certificates of an authority.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The file is too long.
    #[error("it is longer than {MAX_FILE} bytes")]
    TooLong,
    /// There is no certificate in it.
    #[error("it has no certificate in PEM; the authority's and those up to its root are expected")]
    NoCertificate,
    /// A certificate in it is damaged.
    #[error("certificate {0} in it cannot be parsed")]
    Unparsable(usize),
    /// The way to the root is too long.
    #[error("it has more than {MAX_CHAIN} certificates; those from the authority up to its root are expected")]
    TooMany,
    /// The key is protected by a password.
    #[error("the key is encrypted; decrypt it first, with `openssl pkey -in FILE -out FILE`")]
    KeyEncrypted,
    /// There is no key in it, or none of a kind that can be used.
    #[error(
        "it has no private key that can be used; ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits is \
         expected, in PEM"
    )]
    NoKey,
    /// No certificate is for the key.
    #[error("none of its certificates is for the key in {}", .0.display())]
    OtherKey(PathBuf),
    /// A certificate of somebody who may certify nobody.
    #[error("{0:?} is not a certificate authority: its basic constraints have to say CA:TRUE")]
    NoAuthority(String),
    /// Its key is for something else.
    #[error("{0:?} may sign no certificates: its key usage has to name keyCertSign")]
    MayNotSign(String),
    /// It certifies for other purposes only.
    #[error(
        "{0:?} certifies for other purposes: its extended key usage has to name serverAuth and clientAuth, or be absent"
    )]
    Purposes(String),
    /// It is over, or not yet valid.
    #[error("{subject:?} is valid only from {} to {}; is the clock right?", validity.not_before, validity.not_after)]
    NotValid {
        /// Whose certificate it is.
        subject: String,
        /// From when to when.
        validity: Validity,
    },
    /// It does not reach up to a root.
    #[error(
        "{subject:?} is certified by {issuer:?}, which is not in it; add the certificates up to the self-signed root"
    )]
    NoRoot {
        /// Whose certificate it is.
        subject: String,
        /// Who certified it.
        issuer: String,
    },
    /// A certificate has nothing to do with the others.
    #[error("{subject:?} is not on the way from {authority:?}, whose key this is, to its root; leave it out")]
    Stranger {
        /// Whose certificate it is.
        subject: String,
        /// Whose the key is.
        authority: String,
    },
    /// The names fit and the signature does not, or is of a kind that nobody here verifies.
    #[error("{subject:?} is not signed with the key of {issuer:?} by an algorithm that can be used")]
    Signature {
        /// Whose certificate it is.
        subject: String,
        /// Who should have signed it.
        issuer: String,
    },
    /// An authority so far below another one is not allowed.
    #[error("{subject:?} allows {allowed} authorities below it, and there are {found}")]
    TooDeep {
        /// Whose certificate it is.
        subject: String,
        /// Its path length constraint.
        allowed: u32,
        /// How many there are.
        found: u32,
    },
    /// It is the answer to a request of another installation, or by another root.
    #[error(
        "it is not for the authority that is here: the name has to be that of pki/issuing.crt, and the root that of \
         pki/root.crt, which agents and people know"
    )]
    OtherAuthority,
    /// Its name cannot stand in the certificates that it issues.
    #[error(
        "the name {0:?} cannot be repeated in certificates, since a part of it is there twice or of a rare kind; let the \
         authority sign a request instead: `longshore-server init --csr`"
    )]
    Name(String),
}

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used", path.display())]
pub struct ExternalError {
    path: PathBuf,
    #[source]
    problem: Problem,
}

impl ExternalError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

pub(super) fn wrong(path: &Path) -> impl Fn(Problem) -> ExternalError {
    |problem| ExternalError { path: path.to_owned(), problem }
}

/// Reads the private key of an authority from a PEM file.
///
/// # Errors
///
/// It cannot be read, or not be used.
pub fn read_key(path: &Path) -> Result<KeyPair, ExternalError> {
    let blocks = read_pem(path)?;
    let secret = |block: &&pem::Pem| block.tag().ends_with("PRIVATE KEY");
    let key = blocks.iter().find(secret).ok_or_else(|| wrong(path)(Problem::NoKey))?;
    // As PKCS#8 has it, and as OpenSSL had it before.
    let encrypted = key.tag() == "ENCRYPTED PRIVATE KEY" || key.headers().get("DEK-Info").is_some();
    if encrypted {
        return Err(wrong(path)(Problem::KeyEncrypted));
    }
    let key = KeyPair::try_from(key.contents()).map_err(|_| wrong(path)(Problem::NoKey))?;
    if KEYS.contains(&key.algorithm()) { Ok(key) } else { Err(wrong(path)(Problem::NoKey)) }
}

fn read_pem(path: &Path) -> Result<Vec<pem::Pem>, ExternalError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
    let length = read.map_err(|error| wrong(path)(Problem::Read(error)))?;
    if length as u64 > MAX_FILE {
        return Err(wrong(path)(Problem::TooLong));
    }
    Ok(pem::parse_many(&text).unwrap_or_default())
}

/// The certificates from an authority up to its root, checked.
pub struct AuthorityChain {
    path: PathBuf,
    /// First the authority, last the root; these may be the same.
    certificates: Vec<Vec<u8>>,
    may_certify_authorities: bool,
}

impl fmt::Debug for AuthorityChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityChain").field("path", &self.path).finish_non_exhaustive()
    }
}

impl AuthorityChain {
    /// Reads a PEM file with the certificate of the authority whose public key this is (SubjectPublicKeyInfo in DER), and
    /// those up to its root, in any order. `key` is the file of the key, for people.
    ///
    /// # Errors
    ///
    /// Nobody would accept what that authority certifies at this moment.
    pub fn read(path: &Path, public_key: &[u8], key: &Path, now: Timestamp) -> Result<Self, ExternalError> {
        let wrong = wrong(path);
        let blocks = read_pem(path)?;
        let mut ders: Vec<&[u8]> = Vec::new();
        for block in blocks.iter().filter(|block| block.tag() == "CERTIFICATE") {
            if !ders.contains(&block.contents()) {
                ders.push(block.contents());
            }
        }
        if ders.len() > MAX_CHAIN {
            return Err(wrong(Problem::TooMany));
        }
        let parsed: Result<Vec<_>, _> = ders
            .iter()
            .enumerate()
            .map(|(index, der)| match X509Certificate::from_der(der) {
                Ok(([], certificate)) => Ok(certificate),
                _ => Err(wrong(Problem::Unparsable(index + 1))),
            })
            .collect();
        let mut left = parsed?;
        if left.is_empty() {
            return Err(wrong(Problem::NoCertificate));
        }
        let first = left.iter().position(|certificate| certificate.public_key().raw == public_key);
        let first = first.ok_or_else(|| wrong(Problem::OtherKey(key.to_owned())))?;
        let chain = climb(left.swap_remove(first), left).map_err(&wrong)?;
        for (place, certificate) in chain.iter().enumerate() {
            check(certificate, place + 1 == chain.len(), now).map_err(&wrong)?;
        }
        let may_certify_authorities = depth(&chain).map_err(&wrong)?;
        let certificates = chain.iter().map(|certificate| certificate.as_raw().to_vec()).collect();
        Ok(Self { path: path.to_owned(), certificates, may_certify_authorities })
    }

    /// The file that it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether one more authority may stand below the first one.
    #[must_use]
    pub fn may_certify_authorities(&self) -> bool {
        self.may_certify_authorities
    }

    /// The root in PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.certificates.last().map_or_else(String::new, |root| to_pem(root))
    }

    /// The authority and all above it but the root, in PEM; the root alone where it is the authority.
    #[must_use]
    pub fn authority_pem(&self) -> String {
        let below_root = self.certificates.len().saturating_sub(1).max(1);
        self.certificates.iter().take(below_root).map(|der| to_pem(der)).collect()
    }

    /// All above a new authority that stands below this one, but the root, in PEM.
    #[must_use]
    pub fn above_pem(&self) -> String {
        let below_root = self.certificates.len().saturating_sub(1);
        self.certificates.iter().take(below_root).map(|der| to_pem(der)).collect()
    }

    /// Whose certificate the authority's is, for people.
    #[must_use]
    pub fn subject(&self) -> String {
        let first = self.certificates.first().and_then(|der| X509Certificate::from_der(der).ok());
        first.map_or_else(String::new, |(_, certificate)| certificate.subject().to_string())
    }
}

/// From one certificate to the root, each signed by the next; all have to be on the way.
fn climb<'a>(
    first: X509Certificate<'a>,
    mut left: Vec<X509Certificate<'a>>,
) -> Result<Vec<X509Certificate<'a>>, Problem> {
    let authority = first.subject().to_string();
    let mut chain = vec![first];
    while let Some(current) = chain.last()
        && current.subject() != current.issuer()
    {
        let (subject, issuer) = (current.subject().to_string(), current.issuer().to_string());
        let named: Vec<usize> = (0..left.len()).filter(|&index| left[index].subject() == current.issuer()).collect();
        if named.is_empty() {
            return Err(Problem::NoRoot { subject, issuer });
        }
        let signed = |index: &&usize| current.verify_signature(Some(left[**index].public_key())).is_ok();
        let next = *named.iter().find(signed).ok_or(Problem::Signature { subject, issuer })?;
        chain.push(left.swap_remove(next));
    }
    match left.first() {
        Some(stranger) => Err(Problem::Stranger { subject: stranger.subject().to_string(), authority }),
        None => Ok(chain),
    }
}

/// Whether this one may certify, at this moment and for our purposes.
fn check(certificate: &X509Certificate<'_>, is_root: bool, now: Timestamp) -> Result<(), Problem> {
    let subject = || certificate.subject().to_string();
    if !certificate.is_ca() {
        return Err(Problem::NoAuthority(subject()));
    }
    // Without the extension, all is allowed.
    if !certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())) {
        return Err(Problem::MayNotSign(subject()));
    }
    let purposes = certificate.extended_key_usage().ok().flatten().map(|usage| usage.value);
    // Verifiers do not look at a root's.
    if purposes.is_some_and(|usage| !(is_root || usage.any || usage.server_auth && usage.client_auth)) {
        return Err(Problem::Purposes(subject()));
    }
    let validity = longshore_tls::validity(certificate);
    if validity.contains(now) { Ok(()) } else { Err(Problem::NotValid { subject: subject(), validity }) }
}

/// Whether all of them allow one authority more below the first; an error where they do not even allow the first.
fn depth(chain: &[X509Certificate<'_>]) -> Result<bool, Problem> {
    let mut one_more = true;
    for (certificate, found) in chain.iter().zip(0..) {
        let constraints = certificate.basic_constraints().ok().flatten();
        if let Some(allowed) = constraints.and_then(|constraints| constraints.value.path_len_constraint) {
            if allowed < found {
                return Err(Problem::TooDeep { subject: certificate.subject().to_string(), allowed, found });
            }
            one_more &= allowed > found;
        }
    }
    Ok(one_more)
}

/// The certificates of a PEM text in DER.
pub(super) fn ders(text: &str) -> Vec<Vec<u8>> {
    let blocks = pem::parse_many(text).unwrap_or_default();
    blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect()
}

/// Whether a certificate names as its issuer, byte by byte, whom the other one is for; both in DER. Verifiers compare names so.
pub(super) fn is_named_by(certificate: &[u8], issuer: &[u8]) -> bool {
    match (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer)) {
        (Ok((_, certificate)), Ok((_, issuer))) => certificate.issuer().as_raw() == issuer.subject().as_raw(),
        _ => false,
    }
}

/// Whether two certificates in DER are for the same name, byte by byte.
pub(super) fn is_same_subject(one: &[u8], other: &[u8]) -> bool {
    match (X509Certificate::from_der(one), X509Certificate::from_der(other)) {
        (Ok((_, one)), Ok((_, other))) => one.subject().as_raw() == other.subject().as_raw(),
        _ => false,
    }
}

fn to_pem(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
pub(super) mod tests;
