//! Admins, made and revoked on the server's own machine: for when nobody is left who can call.
//!
//! Whoever may read the authority's key can be anybody anyway; here they leave a trace, and what they make can be revoked like
//! any other user. No server may run meanwhile, since it alone knows what its database says.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use longshore_model::identity::Role;
use longshore_model::limits::MAX_PAGE;
use longshore_model::name::{MAX_NAME_LENGTH, NameError, check_label};
use longshore_model::user::User;
use longshore_tls::{KeyError, make_key_and_csr};

use crate::identity::authority::{Authority, AuthorityError, CertificateRequest};
use crate::identity::pki::{self, PkiError, Secrecy};
use crate::serve::STORE_FILE;
use crate::store::sorting::Query;
use crate::store::{Change, Observer, SqliteStore, Store, StoreError, Terms};

/// Who adds these admins, in the list of users: no user can have the name.
pub const CREATOR: &str = "(server)";

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server runs.
    #[error(
        "a server runs on {}: stop it first, or let an admin who can call it use `longshore user`", .0.display()
    )]
    Running(PathBuf),
    /// The name cannot be a user's.
    #[error("the name {0}")]
    Name(#[from] NameError),
    /// The authority's files cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The database does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory for the credentials cannot be made.
    #[error("cannot make {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The database and the authority of a server that does not run.
struct Offline {
    store: SqliteStore,
    authority: Authority,
}

/// Nobody watches.
struct Nobody;

impl Observer for Nobody {
    fn committed(&self, _: Vec<Change>) {}
}

impl Offline {
    async fn open(data_dir: &Path) -> Result<Self, Error> {
        let (authority, first_admin) = pki::load_authority(data_dir)?;
        let path = data_dir.join(STORE_FILE);
        if SqliteStore::is_in_use(&path) {
            return Err(Error::Running(data_dir.to_owned()));
        }
        let store = SqliteStore::open(&path, Arc::new(Nobody))?;
        // Where no server ever ran.
        store.adopt_first_user(first_admin).await?;
        Ok(Self { store, authority })
    }
}

/// Adds an admin, and writes their credentials into a directory that is made for them: root.crt, client.crt and client.key.
///
/// # Errors
///
/// See [`Error`]; the directory is gone then.
pub async fn create(
    data_dir: &Path,
    name: &str,
    life: SignedDuration,
    out: &Path,
    now: Timestamp,
) -> Result<User, Error> {
    check_label(name, MAX_NAME_LENGTH)?;
    let offline = Offline::open(data_dir).await?;
    offline.authority.check_time(now)?;
    let made = make_key_and_csr()?;
    // Before there is a user: one whose credentials cannot be kept is of no use.
    let failed = |source| Error::Directory { path: out.to_owned(), source };
    fs::DirBuilder::new().mode(0o700).create(out).map_err(failed)?;
    let added = add(&offline, name, life, &CertificateRequest::read(&made.csr_der)?, now).await;
    let written = added.and_then(|(user, chain)| {
        pki::write_file(&out.join("root.crt"), Secrecy::Public, offline.authority.root_pem())?;
        pki::write_file(&out.join("client.crt"), Secrecy::Public, &chain)?;
        pki::write_file(&out.join("client.key"), Secrecy::Secret, &made.key_pem)?;
        pki::sync_dir(out)?;
        Ok(user)
    });
    if written.is_err() {
        // Nothing in it is of any use now.
        let _ = fs::remove_dir_all(out);
    }
    written
}

async fn add(
    Offline { store, authority }: &Offline,
    name: &str,
    life: SignedDuration,
    request: &CertificateRequest,
    now: Timestamp,
) -> Result<(User, String), Error> {
    let user = User::new(name.to_owned(), Role::Admin, CREATOR.to_owned(), life, now, authority.end());
    let user = store.create_user(user, Terms::default()).await?;
    let certificate = authority.certify_user(&user, request)?;
    Ok((user, authority.chain(&certificate)))
}

/// All users, by name.
///
/// # Errors
///
/// See [`Error`].
pub async fn list(data_dir: &Path) -> Result<Vec<User>, Error> {
    let offline = Offline::open(data_dir).await?;
    let (mut users, mut next) = (Vec::new(), Some(Query::first(MAX_PAGE)));
    while let Some(query) = next {
        let page = offline.store.users(query.clone()).await?;
        next = query.next(&page);
        users.extend(page.items);
    }
    Ok(users)
}

/// Revokes a user: no certificate of theirs works again.
///
/// # Errors
///
/// See [`Error`]. The last admin with a good certificate stays.
pub async fn revoke(data_dir: &Path, name: &str, now: Timestamp) -> Result<User, Error> {
    let offline = Offline::open(data_dir).await?;
    Ok(offline.store.revoke_user(name, Terms::default(), now).await?)
}

/// Users in columns, for people.
#[must_use]
pub fn table(users: &[User], now: Timestamp) -> String {
    let mut text = format!("{:24} {:8} {:20} {:12} CERTIFICATE UNTIL\n", "NAME", "ROLE", "ADDED", "BY");
    for user in users {
        let until = match user.revoke_time {
            Some(revoked) => format!("revoked {}", seconds(revoked)),
            None if user.certificate_end <= now => format!("expired {}", seconds(user.certificate_end)),
            None => seconds(user.certificate_end),
        };
        let (name, role, added, creator) = (&user.name, user.role, seconds(user.create_time), &user.creator);
        text.push_str(&format!("{name:24} {role:8} {added:20} {creator:12} {until}\n"));
    }
    text
}

/// A moment without what nobody reads.
fn seconds(moment: Timestamp) -> String {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use longshore_tls::{Credentials, PeerCertificate};

    use super::*;
    use crate::identity::pki::NewPki;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn credentials(dir: &Path) -> Credentials {
        let file = |name: &str| dir.join(name);
        Credentials::load(&file("root.crt"), &file("client.crt"), &file("client.key")).unwrap()
    }

    #[tokio::test]
    async fn an_admin_comes_when_the_others_are_lost_and_lets_them_be_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let made: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        pki::init(dir.path(), &NewPki::default(), made).unwrap();
        let later = made + HOUR * 24 * 400;
        let out = dir.path().join("eva");
        let eva = create(dir.path(), "eva", HOUR * 48, &out, later).await.unwrap();
        let certificate = PeerCertificate::from_der(credentials(&out).leaf()).unwrap();
        assert_eq!(certificate.validity.not_after, later + HOUR * 48);
        assert!(eva.owns(Role::Admin, certificate.validity.issued()));
        assert_eq!(credentials(&out).root(), credentials(&dir.path().join("admin")).root());

        let revoked = revoke(dir.path(), "admin", later).await.unwrap();
        assert_eq!(revoked.revoke_time, Some(later));
        let last = revoke(dir.path(), "eva", later).await.unwrap_err();
        assert!(matches!(last, Error::Store(StoreError::LastAdmin(_))), "{last}");
        let users = list(dir.path()).await.unwrap();
        let expected = "\
NAME                     ROLE     ADDED                BY           CERTIFICATE UNTIL
admin                    admin    2026-03-01T12:00:00Z init         revoked 2027-04-05T12:00:00Z
eva                      admin    2027-04-05T12:00:00Z (server)     2027-04-07T12:00:00Z
";
        assert_eq!(table(&users, later), expected);
        assert!(table(&users, later + HOUR * 48).contains("expired 2027-04-07T12:00:00Z"));
    }

    #[tokio::test]
    async fn what_cannot_be_done_leaves_nothing_behind() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::now());
        let out = dir.path().join("eva");
        let create = |name: &'static str| create(dir.path(), name, HOUR, &out, now);
        assert!(matches!(create("eva").await, Err(Error::Pki(PkiError::NotFound(_)))));
        pki::init(dir.path(), &NewPki::default(), now).unwrap();
        assert!(matches!(create("Eva B").await, Err(Error::Name(_))));
        assert!(matches!(create("admin").await, Err(Error::Store(StoreError::AlreadyExists { .. }))));
        let store = SqliteStore::open(&dir.path().join(STORE_FILE), Arc::new(Nobody)).unwrap();
        let running = create("eva").await.unwrap_err();
        assert!(matches!(running, Error::Running(_)), "{running}");
        drop(store);
        assert!(!out.exists());
        fs::create_dir(&out).unwrap();
        fs::write(out.join("client.key"), "somebody's").unwrap();
        assert!(matches!(create("eva").await, Err(Error::Directory { .. })));
        assert_eq!(fs::read_to_string(out.join("client.key")).unwrap(), "somebody's");
        assert_eq!(list(dir.path()).await.unwrap().len(), 1);
    }
}
