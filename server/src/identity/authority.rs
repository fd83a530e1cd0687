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
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::users::FIRST_ADMIN;

/// The root: as long as an installation may live, since replacing it means enrolling every node anew.
const ROOT_LIFE: SignedDuration = days(20 * 365);
/// The issuing authority.
const ISSUING_LIFE: SignedDuration = days(5 * 365);
/// A server's own certificate.
const SERVER_LIFE: SignedDuration = days(365);
/// The certificate of a person or program.
const USER_LIFE: SignedDuration = days(365);
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
    issuing_pem: String,
    root_pem: String,
    node_life: SignedDuration,
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

/// A new authority: what [`super::pki::init`] writes down.
#[derive(Debug)]
pub struct Founded {
    /// The root.
    pub root: Issued,
    /// What the root has certified, and what certifies everybody.
    pub issuing: Issued,
    /// The same, ready to issue.
    pub authority: Authority,
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
        valid(&mut root, now, ROOT_LIFE)?;
        let root_certificate = root.self_signed(&root_key)?;
        let root_issued = Issued { certificate: root_certificate.pem(), key: root_key.serialize_pem() };
        let root_issuer = Issuer::new(root, root_key);

        let issuing_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut issuing = authority_params(&format!("Longshore issuing {trust_domain}"), 0);
        valid(&mut issuing, now, ISSUING_LIFE)?;
        let certificate = issuing.signed_by(&issuing_key, &root_issuer)?;
        let issuing_issued = Issued { certificate: certificate.pem(), key: issuing_key.serialize_pem() };

        let authority = Self {
            trust_domain: trust_domain.to_owned(),
            issuer: Issuer::new(issuing, issuing_key),
            issuing_pem: issuing_issued.certificate.clone(),
            root_pem: root_issued.certificate.clone(),
            node_life: NODE_LIFE,
        };
        Ok(Founded { root: root_issued, issuing: issuing_issued, authority })
    }

    /// Reads an authority that was founded before, all in PEM.
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
        Ok(Self { trust_domain, issuer, issuing_pem, root_pem, node_life: NODE_LIFE })
    }

    /// The same, but certificates of nodes live this long.
    #[must_use]
    pub fn with_node_life(self, node_life: SignedDuration) -> Self {
        Self { node_life, ..self }
    }

    /// When a node's certificate that is issued at this moment ends.
    #[must_use]
    pub fn node_end(&self, issued: Timestamp) -> Timestamp {
        issued.checked_add(self.node_life).unwrap_or(Timestamp::MAX)
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

    /// The given certificate and its issuer's, in PEM: what its owner presents.
    #[must_use]
    pub fn chain(&self, certificate: &str) -> String {
        format!("{certificate}{}", self.issuing_pem)
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
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if is_dns_name(name) => SanType::DnsName(name.as_str().try_into()?),
                Err(_) => return Err(AuthorityError::ServerName(name.clone())),
            });
        }
        valid(&mut params, now, SERVER_LIFE)?;
        Ok(params)
    }

    /// Whether this authority has signed a certificate in DER.
    #[must_use]
    pub fn has_issued(&self, der: &[u8]) -> bool {
        let Ok((_, issuing)) = x509_parser::pem::parse_x509_pem(self.issuing_pem.as_bytes()) else { return false };
        match (issuing.parse_x509(), x509_parser::parse_x509_certificate(der)) {
            (Ok(issuing), Ok((_, certificate))) => certificate.verify_signature(Some(issuing.public_key())).is_ok(),
            _ => false,
        }
    }

    /// Certifies a person or program.
    ///
    /// # Errors
    ///
    /// No randomness, or a clock far off.
    pub fn issue_user(&self, name: &str, role: Role, now: Timestamp) -> Result<Issued, AuthorityError> {
        let mut params = leaf_params(name, ExtendedKeyUsagePurpose::ClientAuth);
        valid(&mut params, now, USER_LIFE)?;
        self.issue(params, &Identity::User { name: name.to_owned(), role })
    }

    /// Certifies a person or program for the key in a request, and returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// No randomness, or a clock far off.
    pub fn certify_user(
        &self,
        name: &str,
        role: Role,
        request: &CertificateRequest,
        issued: Timestamp,
        life: SignedDuration,
    ) -> Result<String, AuthorityError> {
        let mut params = leaf_params(name, ExtendedKeyUsagePurpose::ClientAuth);
        valid(&mut params, issued, life)?;
        Ok(self.sign(params, &Identity::User { name: name.to_owned(), role }, &request.0.public_key)?.pem())
    }

    /// When the issuing authority was made, at the latest: before anybody was certified.
    ///
    /// # Errors
    ///
    /// Its certificate cannot be read.
    pub fn since(&self) -> Result<Timestamp, AuthorityError> {
        let unreadable = || AuthorityError::Crypto(rcgen::Error::CouldNotParseCertificate);
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.issuing_pem.as_bytes()).map_err(|_| unreadable())?;
        let certificate = pem.parse_x509().map_err(|_| unreadable())?;
        Timestamp::from_second(certificate.validity().not_before.timestamp()).map_err(|_| AuthorityError::Clock)
    }

    /// The user that an installation begins with: whoever holds what `init` made.
    ///
    /// # Errors
    ///
    /// As [`Authority::since`].
    pub fn first_admin(&self) -> Result<User, AuthorityError> {
        let create_time = self.since()?;
        let certificate_end = create_time.checked_add(USER_LIFE).map_err(|_| AuthorityError::Clock)?;
        let (name, creator) = (FIRST_ADMIN.to_owned(), "init".to_owned());
        Ok(User { name, role: Role::Admin, create_time, creator, life: USER_LIFE, certificate_end, revoke_time: None })
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
        valid(&mut params, now, self.node_life)?;
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
    let mut params = base_params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = base_params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn base_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let mut serial: [u8; SERIAL_BYTES] = rand::random();
    // A positive number of the full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn valid(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) -> Result<(), AuthorityError> {
    let validity = Validity::starting(now, life).ok_or(AuthorityError::Clock)?;
    let moment =
        |moment: Timestamp| OffsetDateTime::from_unix_timestamp(moment.as_second()).map_err(|_| AuthorityError::Clock);
    params.not_before = moment(validity.not_before)?;
    params.not_after = moment(validity.not_after)?;
    Ok(())
}

/// Whether a text can be the DNS name of a host; `rustls` is what will read it.
pub fn is_dns_name(name: &str) -> bool {
    rustls_pki_types::DnsName::try_from(name).is_ok()
}
