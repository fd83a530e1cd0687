//! What a program shows of itself and whom it trusts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{ALPN_H2, provider};

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A text holds no certificate.
    #[error("there is no certificate in the {0}")]
    NoCertificate(&'static str),
    /// A text is not PEM, or what it should hold is missing.
    #[error("the {what} is not valid PEM")]
    Pem {
        /// Which of the texts.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The root cannot serve as one.
    #[error("the root certificate cannot be used")]
    Root(#[source] rustls::Error),
    /// Certificate and key are refused, or do not belong together.
    #[error("the certificate and its key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// A certificate chain with its key, and the one root that is trusted.
///
/// Clones share the TLS sessions that can be resumed.
pub struct Credentials {
    root: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    /// Reads three PEM files: the root, the chain (own certificate first), and the chain's private key.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or does not hold what it should.
    pub fn load(root: &Path, chain: &Path, key: &Path) -> Result<Self, CredentialError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| CredentialError::Read { path: path.to_owned(), source });
        Self::from_pem(&read(root)?, &read(chain)?, &read(key)?)
    }

    /// Takes the same three as PEM texts.
    ///
    /// # Errors
    ///
    /// A text that does not hold what it should, or a key that is not that of the certificate.
    pub fn from_pem(root: &[u8], chain: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let root = certificates(root, "root certificate")?.swap_remove(0);
        let chain = certificates(chain, "certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|source| CredentialError::Pem { what: "private key", source })?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(only_root(&root)?)
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Self { root, chain, key, client: Arc::new(client) })
    }

    /// The trusted root.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Own certificate, the first of the chain.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        // `certificates` returns at least one.
        &self.chain[0]
    }

    /// Whether the root is in the chain that is shown: who enrols needs to see it there.
    #[must_use]
    pub fn shows_root(&self) -> bool {
        self.chain.contains(&self.root)
    }

    /// Checks that whoever trusts the root accepts the chain as that of a server of this name at this moment.
    ///
    /// # Errors
    ///
    /// Why they would not.
    pub fn check_as_server(&self, name: &str, now: Timestamp) -> Result<(), CredentialError> {
        let bad_name = |_| rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
        let name = ServerName::try_from(name).map_err(bad_name)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(self.leaf(), &self.chain[1..], &name, &[], unix_time(now))?;
        Ok(())
    }

    /// Checks that whoever trusts the root accepts the chain as that of a client at this moment.
    ///
    /// # Errors
    ///
    /// Why they would not.
    pub fn check_as_client(&self, now: Timestamp) -> Result<(), CredentialError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_client_cert(self.leaf(), &self.chain[1..], unix_time(now))?;
        Ok(())
    }

    /// The configuration with which these credentials dial.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(crate) fn roots(&self) -> Result<RootCertStore, CredentialError> {
        only_root(&self.root)
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            client: Arc::clone(&self.client),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

fn unix_time(moment: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or_default()))
}

/// A store that trusts `root` and nothing else.
pub(crate) fn only_root(root: &CertificateDer<'static>) -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).map_err(CredentialError::Root)?;
    Ok(roots)
}

/// Every certificate of a PEM text, at least one.
pub(crate) fn certificates(text: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let found = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialError::Pem { what, source })?;
    if found.is_empty() { Err(CredentialError::NoCertificate(what)) } else { Ok(found) }
}
