//! The certificate authority: what it makes, for whom, and for how long.

use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use longshore_model::admission::Fingerprint;
use longshore_model::certificate::Validity;
use longshore_model::identity::{Identity, Role};
use longshore_model::name::NodeName;
use longshore_model::user::User;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::parse_x509_certificate;

use super::external::{self, AuthorityChain, ExternalError, Problem};

/// The root: as long as an installation may live, since replacing it means enrolling every node anew.
const ROOT_LIFE: SignedDuration = days(20 * 365);
/// The issuing authority.
const ISSUING_LIFE: SignedDuration = days(5 * 365);
/// A server's own certificate.
const SERVER_LIFE: SignedDuration = days(365);
/// The certificate of a person or program.
pub const USER_LIFE: SignedDuration = days(365);
/// A node's certificate, unless the server is told otherwise.
pub const NODE_LIFE: SignedDuration = days(30);
/// Bytes of a serial number; the standard allows 20.
const SERIAL_BYTES: usize = 16;
/// Bytes of a certificate request: one for a P-256 key has some 250.
pub const MAX_CSR_BYTES: usize = 4096;

const fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The request is not one, or its signature is not of the key in it.
    #[error("the certificate request is malformed, or not signed with the key in it")]
    Request(#[source] rcgen::Error),
    /// The request is too long.
    #[error("the certificate request is longer than {MAX_CSR_BYTES} bytes")]
    RequestTooLong,
    /// The key is of another kind.
    #[error("the certificate request is for another kind of key than ECDSA P-256")]
    KeyKind,
    /// A name cannot stand in a certificate.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    ServerName(String),
    /// The moment cannot stand in a certificate.
    #[error("the clock shows a time that no certificate can hold")]
    Clock,
    /// The authority's own time is over.
    #[error("the authority's own certificates are good until {0} only: it can certify nobody any more")]
    Ended(Timestamp),
    /// An authority of others cannot be used.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// Making or reading keys or certificates failed.
    #[error("cannot make or read a key or certificate")]
    Crypto(#[from] rcgen::Error),
}

/// A request for a certificate, of which only the public key counts.
pub struct CertificateRequest(CertificateSigningRequestParams);

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateRequest").field(&self.fingerprint()).finish()
    }
}

impl CertificateRequest {
    /// Reads PKCS#10 in DER.
    ///
    /// # Errors
    ///
    /// A request that is malformed, not signed with its own key, or for a key other than ECDSA P-256.
    pub fn read(csr_der: &[u8]) -> Result<Self, AuthorityError> {
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(AuthorityError::RequestTooLong);
        }
        let request = CertificateSigningRequestParams::from_der(&csr_der.into()).map_err(AuthorityError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::KeyKind);
        }
        Ok(Self(request))
    }

    /// SHA-256 of the public key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.0.public_key.subject_public_key_info()).into())
    }
}

/// The issuing authority, with its key.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, and those of the authorities between it and the root.
    issuing_pem: String,
    issuing_der: CertificateDer<'static>,
    root_pem: String,
    node_life: SignedDuration,
    /// When the first of these certificates ends: nothing that is certified may be good for longer.
    end: Timestamp,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// A certificate and its private key, in PEM.
pub struct Issued {
    /// The certificate, alone.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A new authority, and the keys that have to be kept with it, in PEM.
pub struct Founded {
    /// The key of a root that was made for it alone.
    pub root_key: Option<String>,
    /// The authority's own key.
    pub issuing_key: String,
    /// Ready to issue.
    pub authority: Authority,
}

impl fmt::Debug for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Founded").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a root and an issuing authority.
    ///
    /// # Errors
    ///
    /// No randomness, or a clock far off.
    pub fn found(trust_domain: &str, now: Timestamp) -> Result<Founded, AuthorityError> {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut root = authority_params(&format!("Longshore root {trust_domain}"), 1);
        valid(&mut root, now, ROOT_LIFE, Timestamp::MAX)?;
        let root_pem = root.self_signed(&root_key)?.pem();
        let root_key_pem = root_key.serialize_pem();
        let (issuing_pem, key) = issuing(trust_domain, &Issuer::new(root, root_key), now, Timestamp::MAX)?;
        let authority = Self::from_pem(trust_domain.to_owned(), root_pem, issuing_pem, &key)?;
        Ok(Founded { root_key: Some(root_key_pem), issuing_key: key, authority })
    }

    /// Stands below an authority of others: as one of its own if that one may certify authorities, and else in its place.
    ///
    /// # Errors
    ///
    /// The other's name cannot be written into certificates, or its time is over.
    pub fn below(
        trust_domain: &str,
        above: &AuthorityChain,
        key: KeyPair,
        now: Timestamp,
    ) -> Result<Founded, AuthorityError> {
        let its_key = key.serialize_pem();
        let itself = Self::in_place_of(trust_domain, above, &its_key)?;
        if !above.may_certify_authorities() {
            return Ok(Founded { root_key: None, issuing_key: its_key, authority: itself });
        }
        let (own, issuing_key) = issuing(trust_domain, &itself.issuer, now, itself.end)?;
        let pem = own + &above.above_pem();
        let authority = Self::from_pem(trust_domain.to_owned(), above.root_pem(), pem, &issuing_key)?;
        Ok(Founded { root_key: None, issuing_key, authority })
    }

    /// Takes the place of an authority of others, whose key this is in PEM.
    ///
    /// # Errors
    ///
    /// The other's name cannot be written into certificates.
    pub fn in_place_of(trust_domain: &str, other: &AuthorityChain, key: &str) -> Result<Self, AuthorityError> {
        let nameless = || external::wrong(other.path())(Problem::Name(other.subject()));
        let itself = Self::from_pem(trust_domain.to_owned(), other.root_pem(), other.authority_pem(), key);
        let itself = itself.map_err(|_| nameless())?;
        // A trial: what it signs has to name it byte by byte.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let trial = named("trial").signed_by(&key, &itself.issuer)?;
        if external::is_named_by(trial.der(), &itself.issuing_der) { Ok(itself) } else { Err(nameless().into()) }
    }

    /// Reads an authority that was founded before, all in PEM; `issuing_pem` holds its certificate and those of the authorities
    /// between it and the root.
    ///
    /// # Errors
    ///
    /// A text is not what it should be.
    pub fn from_pem(
        trust_domain: String,
        root_pem: String,
        issuing_pem: String,
        issuing_key: &str,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(&issuing_pem, KeyPair::from_pem(issuing_key)?)?;
        let chain = external::ders(&issuing_pem);
        let unreadable = || AuthorityError::Crypto(rcgen::Error::CouldNotParseCertificate);
        let issuing_der = chain.first().ok_or_else(unreadable)?.clone().into();
        let mut end = Timestamp::MAX;
        for der in chain.iter().chain(&external::ders(&root_pem)) {
            end = end.min(longshore_tls::validity_of(der).map_err(|_| unreadable())?.not_after);
        }
        Ok(Self { trust_domain, issuer, issuing_pem, issuing_der, root_pem, node_life: NODE_LIFE, end })
    }

    /// A request to certify this authority's key for longer, in PEM.
    ///
    /// # Errors
    ///
    /// No randomness.
    pub fn request_next(&self) -> Result<String, AuthorityError> {
        Ok(issuing_params(&self.trust_domain).serialize_request(self.issuer.key())?.pem()?)
    }

    /// Whether this is the same authority as another one, with another certificate: who knows the one knows the other.
    #[must_use]
    pub fn succeeds(&self, before: &Self) -> bool {
        external::ders(&self.root_pem) == external::ders(&before.root_pem)
            && external::is_same_subject(&self.issuing_der, &before.issuing_der)
    }

    /// The same, but certificates of nodes live this long.
    #[must_use]
    pub fn with_node_life(self, node_life: SignedDuration) -> Self {
        Self { node_life, ..self }
    }

    /// How long certificates of nodes live.
    #[must_use]
    pub fn node_life(&self) -> SignedDuration {
        self.node_life
    }

    /// When a node's certificate that is issued at this moment ends.
    #[must_use]
    pub fn node_end(&self, issued: Timestamp) -> Timestamp {
        self.end_of(issued, self.node_life)
    }

    /// When a certificate ends that is issued at this moment and shall live so long: with the authority, at the latest.
    /// Certificates count whole seconds.
    #[must_use]
    pub fn end_of(&self, issued: Timestamp, life: SignedDuration) -> Timestamp {
        let end = issued.checked_add(life).unwrap_or(Timestamp::MAX).min(self.end);
        Timestamp::from_second(end.as_second()).unwrap_or(end)
    }

    /// Checks that the authority can certify at this moment.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Ended`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), AuthorityError> {
        if now < self.end { Ok(()) } else { Err(AuthorityError::Ended(self.end)) }
    }

    /// Whether a certificate for a server that is issued now would be good for longer than until this moment.
    #[must_use]
    pub fn outlasts(&self, end: Timestamp, now: Timestamp) -> bool {
        self.end_of(now, SERVER_LIFE) > end
    }

    /// When the authority ends: the first of its own certificate, those above it, and the root.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// The trust domain of every identity that it certifies.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root certificate in PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The issuing authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.issuing_der
    }

    /// The given certificate and those of all authorities below the root, in PEM: what its owner presents.
    #[must_use]
    pub fn chain(&self, certificate: &str) -> String {
        format!("{certificate}{}", self.issuing_pem)
    }

    /// The same for a server. Machines that enrol know the root by its hash only: a server presents it.
    #[must_use]
    pub fn server_chain(&self, certificate: &str) -> String {
        let root = if self.issuing_pem == self.root_pem { "" } else { &self.root_pem };
        self.chain(certificate) + root
    }

    /// The issuing authority's certificate and those of the authorities between it and the root, in PEM.
    #[must_use]
    pub fn issuing_pem(&self) -> &str {
        &self.issuing_pem
    }

    /// Certifies a server that is reached by these DNS names and IP addresses.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::ServerName`] for a name that is neither.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<Issued, AuthorityError> {
        self.issue(self.server_params(names, now)?, &Identity::Server)
    }

    /// Certifies the key that a server has, in PEM, anew for these names; returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// The text is no key, or a name is none.
    pub fn renew_server(&self, names: &[String], key: &str, now: Timestamp) -> Result<String, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        Ok(self.sign(self.server_params(names, now)?, &Identity::Server, &key)?.pem())
    }

    fn server_params(&self, names: &[String], now: Timestamp) -> Result<CertificateParams, AuthorityError> {
        let mut params = leaf_params("Longshore server", ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            check_server_name(name)?;
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        valid(&mut params, now, SERVER_LIFE, self.end)?;
        Ok(params)
    }

    /// Whether this authority has signed a certificate in DER.
    #[must_use]
    pub fn has_issued(&self, der: &[u8]) -> bool {
        match (parse_x509_certificate(&self.issuing_der), parse_x509_certificate(der)) {
            (Ok((_, issuing)), Ok((_, certificate))) => {
                certificate.verify_signature(Some(issuing.public_key())).is_ok()
            }
            _ => false,
        }
    }

    /// Certifies a person or program, with a key that is made here.
    ///
    /// # Errors
    ///
    /// No randomness, or a clock far off.
    pub fn issue_user(&self, name: &str, role: Role, now: Timestamp) -> Result<Issued, AuthorityError> {
        let mut params = leaf_params(name, ExtendedKeyUsagePurpose::ClientAuth);
        valid(&mut params, now, USER_LIFE, self.end)?;
        self.issue(params, &Identity::User { name: name.to_owned(), role })
    }

    /// Certifies a user for the key in a request, from the user's [`User::issue_time`] to their [`User::certificate_end`],
    /// and returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// The authority's time is over, or there is no randomness.
    pub fn certify_user(&self, user: &User, request: &CertificateRequest) -> Result<String, AuthorityError> {
        let mut params = leaf_params(&user.name, ExtendedKeyUsagePurpose::ClientAuth);
        let life = user.certificate_end.duration_since(user.issue_time);
        valid(&mut params, user.issue_time, life, self.end)?;
        let identity = Identity::User { name: user.name.clone(), role: user.role };
        Ok(self.sign(params, &identity, &request.0.public_key)?.pem())
    }

    /// When the issuing authority was made, at the latest: before anybody was certified.
    ///
    /// # Errors
    ///
    /// Its certificate cannot be read.
    pub fn since(&self) -> Result<Timestamp, AuthorityError> {
        let unreadable = AuthorityError::Crypto(rcgen::Error::CouldNotParseCertificate);
        longshore_tls::validity_of(&self.issuing_der).map(|validity| validity.not_before).map_err(|_| unreadable)
    }

    /// Certifies a node for the key in its request (PKCS#10 in DER), and returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// As [`CertificateRequest::read`].
    pub fn issue_node(&self, node: &NodeName, csr_der: &[u8], now: Timestamp) -> Result<String, AuthorityError> {
        self.certify_node(node, &CertificateRequest::read(csr_der)?, now)
    }

    /// Certifies a node for the key in a request, and returns the certificate in PEM. The name is the given one, whatever
    /// the request says.
    ///
    /// # Errors
    ///
    /// No randomness, or a clock far off.
    pub fn certify_node(
        &self,
        node: &NodeName,
        request: &CertificateRequest,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let mut params = leaf_params(node.as_str(), ExtendedKeyUsagePurpose::ClientAuth);
        valid(&mut params, now, self.node_life, self.end)?;
        Ok(self.sign(params, &Identity::Node(node.clone()), &request.0.public_key)?.pem())
    }

    fn issue(&self, params: CertificateParams, identity: &Identity) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = self.sign(params, identity, &key)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        identity: &Identity,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, AuthorityError> {
        let uri = identity.to_uri(&self.trust_domain);
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        Ok(params.signed_by(key, &self.issuer)?)
    }
}

/// A certificate authority that may have this many more below it.
fn authority_params(name: &str, authorities_below: u8) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The authority that certifies everybody, and no further authority.
fn issuing_params(trust_domain: &str) -> CertificateParams {
    authority_params(&format!("Longshore issuing {trust_domain}"), 0)
}

fn leaf_params(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = named(name);
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn serial_number() -> SerialNumber {
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    // A positive number of the full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

/// An issuing authority of our own below another one: its certificate and key, in PEM.
fn issuing(
    trust_domain: &str,
    above: &Issuer<'_, KeyPair>,
    now: Timestamp,
    end: Timestamp,
) -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = issuing_params(trust_domain);
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number());
    valid(&mut params, now, ISSUING_LIFE, end)?;
    Ok((params.signed_by(&key, above)?.pem(), key.serialize_pem()))
}

/// A key for an issuing authority, and a request to have it certified, both in PEM.
///
/// # Errors
///
/// No randomness.
pub fn request_authority(trust_domain: &str) -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = issuing_params(trust_domain).serialize_request(&key)?.pem()?;
    Ok((request, key.serialize_pem()))
}

/// Sets from when to when a certificate is valid: at most until `end`.
fn valid(
    params: &mut CertificateParams,
    now: Timestamp,
    life: SignedDuration,
    end: Timestamp,
) -> Result<(), AuthorityError> {
    if now >= end {
        return Err(AuthorityError::Ended(end));
    }
    let validity = Validity::starting(now, life).ok_or(AuthorityError::Clock)?;
    let validity = Validity { not_after: validity.not_after.min(end), ..validity };
    let moment =
        |moment: Timestamp| OffsetDateTime::from_unix_timestamp(moment.as_second()).map_err(|_| AuthorityError::Clock);
    params.not_before = moment(validity.not_before)?;
    params.not_after = moment(validity.not_after)?;
    Ok(())
}

/// Checks that a text can be a name of a server: an IP address, or a DNS name as `rustls` will read it.
///
/// # Errors
///
/// [`AuthorityError::ServerName`] for one that is neither.
pub fn check_server_name(name: &str) -> Result<(), AuthorityError> {
    match rustls_pki_types::ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => Err(AuthorityError::ServerName(name.to_owned())),
    }
}
