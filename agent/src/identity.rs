//! The node's certificate and key: whoever dials takes the newest, and a newer one takes their place.

use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_model::certificate::Validity;
use longshore_tls::{CredentialError, Credentials, PeerCertificate, PeerError};

use crate::data_dir::{DataDir, DataDirError};

/// Why a certificate was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be used with the key that it should be for.
    #[error("the certificate cannot be used")]
    Credentials(#[from] CredentialError),
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable(#[from] PeerError),
    /// It is another one's.
    #[error("the certificate is for {given:?}, and this node is {own:?}")]
    Foreign {
        /// Whose it is.
        given: String,
        /// Who this node is.
        own: String,
    },
    /// It ends before the one that it should replace.
    #[error("the certificate ends before the one that the node has")]
    Older,
    /// It cannot be kept.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// The node's certificate as it is now.
#[derive(Debug)]
pub struct Identity {
    data: DataDir,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    certificate: PeerCertificate,
}

impl Identity {
    /// Reads what the enrolment, or the last renewal, left in the data directory.
    ///
    /// # Errors
    ///
    /// It is missing or damaged.
    pub fn load(data: &DataDir) -> Result<Self, IdentityError> {
        let credentials = data.credentials()?;
        let certificate = PeerCertificate::from_der(credentials.leaf())?;
        Ok(Self { data: data.clone(), held: Mutex::new(Held { credentials, certificate }) })
    }

    /// What to dial with now.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.held().credentials.clone()
    }

    /// From when to when the certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.held().certificate.validity
    }

    /// Takes a new certificate chain and its key, in PEM: first to the disk, then for every later dial. Blocks on the
    /// disk.
    ///
    /// # Errors
    ///
    /// It is not this node's next certificate, or cannot be kept; the old one then stays, here and on the disk.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), IdentityError> {
        let root = self.data.root_certificate()?;
        let credentials = Credentials::from_pem(root.as_bytes(), chain.as_bytes(), key.as_bytes())?;
        let certificate = PeerCertificate::from_der(credentials.leaf())?;
        let own = self.held().certificate.clone();
        if certificate.uri != own.uri {
            return Err(IdentityError::Foreign { given: certificate.uri, own: own.uri });
        }
        if certificate.validity.not_after < own.validity.not_after {
            return Err(IdentityError::Older);
        }
        self.data.replace_certificate(chain, key)?;
        *self.held() = Held { credentials, certificate };
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use longshore_model::name::NodeName;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::data_dir::Enrolment;

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        /// A certificate that is good for so many days, and its key.
        fn issue(&self, node: &str, days: i64) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(format!("spiffe://test/node/{node}").try_into().unwrap())];
            params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
            (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
        }
    }

    fn enrolled(authority: &Authority) -> (tempfile::TempDir, DataDir) {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(directory.path().to_owned());
        data.make().unwrap();
        let enrolment = Enrolment {
            node_name: NodeName::parse("edge-1").unwrap(),
            server: "localhost:7441".to_owned(),
            node_uid: "0123456789abcdef".to_owned(),
        };
        let (chain, key) = authority.issue("edge-1", 30);
        data.enrol(&enrolment, &authority.0.pem(), &chain, &key).unwrap();
        (directory, data)
    }

    #[test]
    fn the_next_certificate_is_used_at_once_and_after_a_restart() {
        let authority = Authority::new();
        let (_directory, data) = enrolled(&authority);
        let identity = Identity::load(&data).unwrap();
        let (chain, key) = authority.issue("edge-1", 60);
        identity.replace(&chain, &key).unwrap();
        let expected = Credentials::from_pem(authority.0.pem().as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(identity.credentials().leaf(), expected.leaf());
        let again = Identity::load(&data).unwrap();
        assert_eq!(again.credentials().leaf(), expected.leaf());
        assert_eq!(again.validity(), identity.validity());
    }

    #[test]
    fn whatever_is_not_the_nodes_next_certificate_changes_nothing() {
        let authority = Authority::new();
        let (_directory, data) = enrolled(&authority);
        let identity = Identity::load(&data).unwrap();
        let before = identity.credentials();
        let (good, key) = authority.issue("edge-1", 60);
        let (_, other_key) = authority.issue("edge-1", 60);
        let (foreign, foreign_key) = authority.issue("edge-2", 60);
        let (older, older_key) = authority.issue("edge-1", 20);
        let refusals = [
            identity.replace(&good, &other_key),
            identity.replace("no certificate", &key),
            identity.replace(&foreign, &foreign_key),
            identity.replace(&older, &older_key),
        ];
        assert!(matches!(
            refusals,
            [
                Err(IdentityError::Credentials(_)),
                Err(IdentityError::Credentials(_)),
                Err(IdentityError::Foreign { .. }),
                Err(IdentityError::Older)
            ]
        ));
        assert_eq!(identity.credentials().leaf(), before.leaf());
        assert_eq!(Identity::load(&data).unwrap().credentials().leaf(), before.leaf());
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_pair() {
        let authority = Authority::new();
        let (directory, data) = enrolled(&authority);
        let before = Identity::load(&data).unwrap();
        // What such a crash leaves: half of the next file beside the old one.
        let (chain, key) = authority.issue("edge-1", 60);
        let half = directory.path().join("identity/.node.pem.new");
        std::fs::write(&half, &key[..key.len() / 2]).unwrap();
        let after = Identity::load(&data).unwrap();
        assert_eq!(after.credentials().leaf(), before.credentials().leaf());
        after.replace(&chain, &key).unwrap();
        assert!(!half.exists());
    }
}
