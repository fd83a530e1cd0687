//! The authority's files: made once by `init`, read at every start.
//!
//! `pki/` holds the authority and the server's own certificate, `admin/` what the first admin needs. `request/` is there while
//! an authority of others is asked to certify this one's.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_model::certificate::Validity;
use longshore_model::identity::Role;
use longshore_model::user::User;
use longshore_tls::{CredentialError, Credentials, Pin};

use super::authority::{Authority, AuthorityError, USER_LIFE};
use super::external::{self, ExternalError};
use super::own::{OwnError, ServerCertificate};
use super::users::FIRST_ADMIN;

mod init;

pub use init::{CertifiedBy, Holder, NewPki, init, install, request};

/// The first admin's certificate, which says since when and until when they are one.
const FIRST_ADMIN_FILE: &str = "first-admin.crt";
/// Longest trust domain, as SPIFFE has it.
const MAX_TRUST_DOMAIN: usize = 255;

/// Why files were not made or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// There is an authority already.
    #[error("{} exists already: nothing was changed", .0.display())]
    Exists(PathBuf),
    /// An authority of others was asked, and has not answered yet.
    #[error(
        "{} is a request that was not answered yet: install the answer with `longshore-server init --install FILE`, or \
         remove the directory", .0.display()
    )]
    Requested(PathBuf),
    /// There is nothing to install an answer to.
    #[error("there is no request in {}; run `longshore-server init --csr` first", .0.display())]
    NoRequest(PathBuf),
    /// `init` was never run here.
    #[error("there is no certificate authority in {}; run `longshore-server init` first", .0.display())]
    NotFound(PathBuf),
    /// A trust domain of the wrong form.
    #[error(
        "{0:?} is not a trust domain: lower-case letters, digits, '-' and '.' are allowed, at most {MAX_TRUST_DOMAIN}"
    )]
    TrustDomain(String),
    /// A file or directory cannot be made or read.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An authority of others cannot be used.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// What the authority certifies is worth nothing.
    #[error("{whose} certificate for {name:?} would not be accepted; the authorities above have to allow it")]
    Refused {
        /// A server's or an admin's.
        whose: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: CredentialError,
    },
    /// A certificate cannot be made or read.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The server's own certificate cannot be used.
    #[error("the server's certificate in {} cannot be used", path.display())]
    Credentials {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: CredentialError,
    },
    /// The server's own certificate cannot be read.
    #[error("the server's certificate cannot be used")]
    Own(#[source] Box<OwnError>),
    /// The server's own certificate has expired, or the clock is wrong.
    #[error("the server's certificate is valid only from {not_before} to {not_after}; is the clock right?")]
    NotValid {
        /// From.
        not_before: Timestamp,
        /// To.
        not_after: Timestamp,
    },
}

impl PkiError {
    fn own(error: OwnError) -> Self {
        Self::Own(Box::new(error))
    }
}

/// What a running server needs of the files.
#[derive(Debug)]
pub struct Pki {
    /// Issues certificates.
    pub authority: Authority,
    /// The server's own certificate, and the root.
    pub credentials: Credentials,
    /// Hash of the root, for enrolment tokens.
    pub pin: Pin,
    /// The user that an installation begins with: whoever holds what `init` made.
    pub first_admin: User,
}

/// Reads what `init` made, and checks that the server's certificate is valid now, or can be renewed.
///
/// # Errors
///
/// Something is missing, damaged, or expired.
pub fn load(data_dir: &Path, now: Timestamp) -> Result<Pki, PkiError> {
    let (authority, first_admin) = load_authority(data_dir)?;
    let credentials = own_credentials(data_dir, &own_files(data_dir)?)?;
    let ServerCertificate { validity, .. } = ServerCertificate::from_der(credentials.leaf()).map_err(PkiError::own)?;
    let Validity { not_before, not_after } = validity;
    // One of our own that is over is renewed before anybody sees it.
    if now < not_before || (now > not_after && !authority.has_issued(credentials.leaf())) {
        return Err(PkiError::NotValid { not_before, not_after });
    }
    let pin = Pin::of(credentials.root());
    Ok(Pki { authority, credentials, pin, first_admin })
}

/// Reads the authority that `init` made, and the user that the installation began with.
///
/// # Errors
///
/// Something is missing or damaged.
pub fn load_authority(data_dir: &Path) -> Result<(Authority, User), PkiError> {
    let dir = data_dir.join("pki");
    if !dir.try_exists().map_err(failed("look at", &dir))? {
        return Err(PkiError::NotFound(data_dir.to_owned()));
    }
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(failed("read", &path))
    };
    let trust_domain = checked_trust_domain(read("trust-domain")?.trim())?.to_owned();
    let authority = Authority::from_pem(trust_domain, read("root.crt")?, read("issuing.crt")?, &read("issuing.key")?)?;
    let first_admin = first_admin(&dir, &authority)?;
    Ok((authority, first_admin))
}

/// The user that an installation begins with, as of their first certificate.
fn first_admin(dir: &Path, authority: &Authority) -> Result<User, PkiError> {
    let path = dir.join(FIRST_ADMIN_FILE);
    let (issued, end) = match fs::read_to_string(&path) {
        Ok(text) => {
            let certificate = external::ders(&text).into_iter().next();
            let unreadable = || PkiError::own(OwnError::Unreadable);
            let validity = certificate.and_then(|der| longshore_tls::validity_of(&der).ok()).ok_or_else(unreadable)?;
            (validity.issued(), validity.not_after)
        }
        // Made by an earlier version: then the authority was made at the same moment.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (authority.since()?, Timestamp::MAX),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    Ok(User::new(FIRST_ADMIN.to_owned(), Role::Admin, "init".to_owned(), USER_LIFE, issued, end))
}

/// What is in the files of the server's own certificate.
#[derive(PartialEq, Eq)]
pub struct OwnFiles {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl OwnFiles {
    /// The same key with another certificate, in PEM with those above it.
    pub(super) fn with_chain(self, chain: &str) -> Self {
        Self { chain: chain.as_bytes().to_owned(), ..self }
    }

    /// The private key in PEM.
    pub(super) fn key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

impl fmt::Debug for OwnFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnFiles").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// The files of the server's own certificate as they are.
///
/// # Errors
///
/// One cannot be read.
pub fn own_files(data_dir: &Path) -> Result<OwnFiles, PkiError> {
    let read = |name: &str| {
        let path = data_dir.join("pki").join(name);
        fs::read(&path).map_err(failed("read", &path))
    };
    Ok(OwnFiles { chain: read("server.crt")?, key: read("server.key")? })
}

/// The server's credentials of these files. The root is added to the chain where it is not in it: machines that enrol know
/// it by its hash only.
///
/// # Errors
///
/// They cannot be used.
pub fn own_credentials(data_dir: &Path, files: &OwnFiles) -> Result<Credentials, PkiError> {
    let OwnFiles { chain, key } = files;
    let path = data_dir.join("pki");
    let root = fs::read(path.join("root.crt")).map_err(failed("read", &path.join("root.crt")))?;
    let credentials = Credentials::from_pem(&root, chain, key).and_then(|credentials| match credentials.shows_root() {
        true => Ok(credentials),
        false => Credentials::from_pem(&root, &[chain.as_slice(), b"\n", &root].concat(), key),
    });
    credentials.map_err(|source| PkiError::Credentials { path, source })
}

/// Replaces the server's own certificate, at once: a crash leaves the old one or the new one.
///
/// # Errors
///
/// It cannot be written.
pub fn replace_own(data_dir: &Path, chain: &str) -> Result<(), PkiError> {
    replace(data_dir, "server.crt", chain)
}

fn replace(data_dir: &Path, name: &str, text: &str) -> Result<(), PkiError> {
    let dir = data_dir.join("pki");
    let (unfinished, path) = (dir.join(format!(".{name}.new")), dir.join(name));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &unfinished)(error)),
        _ => {}
    }
    write_file(&unfinished, Secrecy::Public, text)?;
    fs::rename(&unfinished, &path).map_err(failed("write", &path))?;
    sync_dir(&dir)
}

fn checked_trust_domain(text: &str) -> Result<&str, PkiError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN || !text.chars().all(allowed) {
        return Err(PkiError::TrustDomain(text.to_owned()));
    }
    Ok(text)
}

/// Whether others may read a file.
#[derive(Clone, Copy)]
pub(crate) enum Secrecy {
    Public,
    Secret,
}

impl Secrecy {
    fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Secret => 0o600,
        }
    }
}

fn write_dir(dir: &Path, files: &[(&str, Secrecy, &str)]) -> Result<(), PkiError> {
    make_private_dir(dir)?;
    for (name, secrecy, text) in files {
        write_file(&dir.join(name), *secrecy, text)?;
    }
    sync_dir(dir)
}

pub(crate) fn write_file(path: &Path, secrecy: Secrecy, text: &str) -> Result<(), PkiError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(secrecy.mode())
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(failed("write", path))
}

fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().mode(0o700).create(dir).map_err(failed("make", dir))
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), PkiError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
