//! The server's own certificate: renewed before it expires, or read anew when its files change, while connections live on.
//!
//! One that the server's own authority has issued is renewed for the same names and the same key, so that only one file
//! changes. One that came from elsewhere is left to whoever brought it; their changes are found within [`LOOK`], or at once on
//! SIGHUP. What is on the disk and cannot be used changes nothing but the log.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::certificate::Validity;
use longshore_tls::{ClientCertificates, ConfigError, CredentialError, Credentials, browser_config, server_config};
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::authority::{Authority, AuthorityError};
use super::pki::{self, OwnFiles, PkiError};

/// Between looks at the files and the clock.
pub const LOOK: Duration = Duration::from_secs(5);
/// Between two attempts to renew: a disk that is full has time to be cleared, and the log is not flooded.
const RETRY: Duration = Duration::from_secs(600);
/// From when on a certificate is warned of that the server cannot renew itself.
const WARNING: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 14);
/// Between two such warnings.
const WARN_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Why a certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// Its files cannot be read or written.
    #[error(transparent)]
    Files(#[from] PkiError),
    /// Agents and people would not accept it.
    #[error("nobody would accept the certificate as this server's")]
    NotAccepted(#[source] CredentialError),
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It names nobody.
    #[error("the certificate has neither a DNS name nor an IP address")]
    NoNames,
    /// It cannot be issued.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS does not take it.
    #[error(transparent)]
    Tls(#[from] ConfigError),
}

/// What a certificate says of a server.
#[derive(Debug)]
pub struct ServerCertificate {
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// From when to when.
    pub validity: Validity,
}

impl ServerCertificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    ///
    /// It is none, or names no server.
    pub fn from_der(der: &[u8]) -> Result<Self, OwnError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| OwnError::Unreadable)?;
        let alternative = certificate.subject_alternative_name().map_err(|_| OwnError::Unreadable)?;
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        };
        let names: Vec<String> =
            alternative.iter().flat_map(|names| &names.value.general_names).filter_map(name).collect();
        if names.is_empty() {
            Err(OwnError::NoNames)
        } else {
            Ok(Self { names, validity: longshore_tls::validity(&certificate) })
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The configurations of the listeners, as of the newest certificate.
#[derive(Debug)]
pub struct OwnCertificate {
    data_dir: PathBuf,
    authority: Arc<Authority>,
    /// What is used, or was looked at last and found unusable.
    seen: OwnFiles,
    certificate: ServerCertificate,
    /// Whether our own authority has issued it.
    is_ours: bool,
    /// Place of the renewal in its window.
    place: u64,
    /// Whether browsers call the API.
    browsers: bool,
    api: watch::Sender<Arc<ServerConfig>>,
    agents: watch::Sender<Arc<ServerConfig>>,
    expiry: watch::Sender<Timestamp>,
}

impl OwnCertificate {
    /// Reads the certificate and makes the configurations; one of our own that is over, or soon will be, is renewed first.
    /// Only where `browsers` call the API, whoever connects to it need not show a certificate.
    ///
    /// # Errors
    ///
    /// There is none that can be used.
    pub fn load(data_dir: &Path, authority: Arc<Authority>, browsers: bool, now: Timestamp) -> Result<Self, OwnError> {
        let (seen, mut credentials) = read(data_dir)?;
        let mut certificate = ServerCertificate::from_der(credentials.leaf())?;
        let is_ours = authority.has_issued(credentials.leaf());
        let place = rand::random();
        let mut seen = seen;
        if is_ours && is_due(&authority, certificate.validity, place, now) {
            renew(data_dir, &authority, &certificate.names, now)?;
            (seen, credentials) = read(data_dir)?;
            certificate = ServerCertificate::from_der(credentials.leaf())?;
        }
        check(&credentials, &certificate, now)?;
        let [api, agents] = configurations(&credentials, &authority, browsers)?;
        Ok(Self {
            data_dir: data_dir.to_owned(),
            authority,
            seen,
            expiry: watch::Sender::new(certificate.validity.not_after),
            certificate,
            is_ours,
            place,
            browsers,
            api: watch::Sender::new(api),
            agents: watch::Sender::new(agents),
        })
    }

    /// How to speak TLS with people, now and later.
    #[must_use]
    pub fn api(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.api.subscribe()
    }

    /// How to speak TLS with agents, now and later.
    #[must_use]
    pub fn agents(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.agents.subscribe()
    }

    /// When the certificate expires.
    #[must_use]
    pub fn expiry(&self) -> watch::Receiver<Timestamp> {
        self.expiry.subscribe()
    }

    /// Keeps it up to date, for ever. Dropping the future stops that.
    pub async fn run(mut self, reload: Arc<Notify>) -> Infallible {
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = reload.notified() => tracing::info!("looking at the server's certificate"),
            }
            // Small files on a local disk: the writer of the store blocks far longer on its own thread.
            let now = Timestamp::now();
            if tokio::time::Instant::now() >= next {
                next = tokio::time::Instant::now() + self.renew_or_warn(now);
            }
            if let Err(error) = self.take(now) {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the server's new certificate cannot be used; the old one stays");
            }
        }
    }

    /// Renews the certificate or warns of its end, if it is time to; returns how long to wait before the next attempt.
    fn renew_or_warn(&self, now: Timestamp) -> Duration {
        let validity = self.certificate.validity;
        let until = validity.not_after;
        if self.is_ours && is_due(&self.authority, validity, self.place, now) {
            if let Err(error) = renew(&self.data_dir, &self.authority, &self.certificate.names, now) {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, %until, "cannot renew the server's certificate; trying again");
            }
            return RETRY;
        }
        if until.duration_since(now) >= WARNING {
            return Duration::ZERO;
        }
        if self.is_ours && !self.authority.outlasts(until, now) {
            tracing::warn!(%until, "the certificate authority ends soon, and with it every certificate that it has issued");
        } else if !self.is_ours {
            tracing::warn!(%until, "the server's certificate expires soon, and another authority has to renew it");
        }
        WARN_AGAIN
    }

    /// Uses what is on the disk, if that is new.
    fn take(&mut self, now: Timestamp) -> Result<(), OwnError> {
        let (seen, credentials) = match read(&self.data_dir) {
            Ok(read) => read,
            // Told once for each state of the files.
            Err(error) => match pki::own_files(&self.data_dir) {
                Ok(files) if files == self.seen => return Ok(()),
                Ok(files) => {
                    self.seen = files;
                    return Err(error);
                }
                Err(_) => return Err(error),
            },
        };
        if seen == self.seen {
            return Ok(());
        }
        self.seen = seen;
        let certificate = ServerCertificate::from_der(credentials.leaf())?;
        check(&credentials, &certificate, now)?;
        let [api, agents] = configurations(&credentials, &self.authority, self.browsers)?;
        self.is_ours = self.authority.has_issued(credentials.leaf());
        self.place = rand::random();
        self.api.send_replace(api);
        self.agents.send_replace(agents);
        self.expiry.send_replace(certificate.validity.not_after);
        tracing::info!(until = %certificate.validity.not_after, "new connections are shown another certificate");
        self.certificate = certificate;
        Ok(())
    }
}

/// Whether it is time to renew a certificate of our own authority, and would gain something: near the authority's end it would
/// not.
fn is_due(authority: &Authority, validity: Validity, place: u64, now: Timestamp) -> bool {
    let is_over = validity.not_after <= now;
    is_over || validity.renewal(place) <= now && authority.outlasts(validity.not_after, now)
}

fn read(data_dir: &Path) -> Result<(OwnFiles, Credentials), OwnError> {
    let files = pki::own_files(data_dir)?;
    let credentials = pki::own_credentials(data_dir, &files)?;
    Ok((files, credentials))
}

/// Whether agents and people will accept it at this moment: a mistake found here cuts nobody off.
fn check(credentials: &Credentials, certificate: &ServerCertificate, now: Timestamp) -> Result<(), OwnError> {
    let name = certificate.names.first().ok_or(OwnError::NoNames)?;
    credentials.check_as_server(name, now).map_err(OwnError::NotAccepted)
}

fn configurations(
    credentials: &Credentials,
    authority: &Authority,
    browsers: bool,
) -> Result<[Arc<ServerConfig>; 2], ConfigError> {
    let issuer = authority.certificate();
    let api = match browsers {
        true => browser_config(credentials, issuer),
        false => server_config(credentials, issuer, ClientCertificates::Required),
    };
    Ok([api?, server_config(credentials, issuer, ClientCertificates::Optional)?])
}

/// Issues the next certificate for the same names and key, and checks that it will be accepted under each of the names;
/// returns its chain in PEM.
pub(super) fn issue_next(
    data_dir: &Path,
    authority: &Authority,
    names: &[String],
    now: Timestamp,
) -> Result<String, OwnError> {
    let files = pki::own_files(data_dir)?;
    let chain = authority.server_chain(&authority.renew_server(names, &files.key(), now)?);
    let credentials = pki::own_credentials(data_dir, &files.with_chain(&chain))?;
    for name in names {
        credentials.check_as_server(name, now).map_err(OwnError::NotAccepted)?;
    }
    Ok(chain)
}

/// Puts the next certificate into the place of the one that there is. Only the one file changes, and at once.
fn renew(data_dir: &Path, authority: &Authority, names: &[String], now: Timestamp) -> Result<(), OwnError> {
    pki::replace_own(data_dir, &issue_next(data_dir, authority, names, now)?)?;
    tracing::info!("the server's certificate is renewed");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use longshore_model::identity::Role;

    use super::*;

    #[test]
    fn what_cannot_be_used_changes_nothing_and_is_told_once() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::now());
        pki::init(dir.path(), &pki::NewPki::default(), now).unwrap();
        let authority = Arc::new(pki::load(dir.path(), now).unwrap().authority);
        let other = Authority::found("other", now).unwrap().authority;
        let mut own = OwnCertificate::load(dir.path(), Arc::clone(&authority), false, now).unwrap();
        own.take(now).unwrap();
        let before = own.api().borrow().clone();
        let (chain, key) = (dir.path().join("pki/server.crt"), dir.path().join("pki/server.key"));
        let names = ["localhost".to_owned()];
        let good = authority.issue_server(&names, now).unwrap();
        let year = jiff::SignedDuration::from_hours(24 * 366);
        let bad = [
            authority.issue_user("eve", Role::Admin, now).unwrap(),
            other.issue_server(&names, now).unwrap(),
            authority.issue_server(&names, now - year).unwrap(),
            authority.issue_server(&names, now + year).unwrap(),
            authority.issue_server(&[], now).unwrap(),
        ];
        for issued in &bad {
            std::fs::write(&chain, authority.chain(&issued.certificate)).unwrap();
            std::fs::write(&key, &issued.key).unwrap();
            assert!(own.take(now).is_err(), "{}", issued.certificate);
            assert!(own.take(now).is_ok(), "told twice");
        }
        // A pair that does not fit, as between two renames.
        std::fs::write(&chain, authority.chain(&good.certificate)).unwrap();
        assert!(own.take(now).is_err());
        assert!(own.take(now).is_ok(), "told twice");
        assert!(Arc::ptr_eq(&before, &own.api().borrow()));

        std::fs::write(&key, &good.key).unwrap();
        own.take(now).unwrap();
        assert!(!Arc::ptr_eq(&before, &own.api().borrow()));
        assert!(own.is_ours);
    }
}
