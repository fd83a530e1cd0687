//! How an authority's files come to be: on its own, below an authority of others, or certified by one that was asked.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_model::identity::Role;
use longshore_tls::{CredentialError, Credentials};
use rcgen::PublicKeyData;

use super::{
    FIRST_ADMIN_FILE, PkiError, Secrecy, checked_trust_domain, failed, load_authority, make_private_dir,
    own_credentials, own_files, replace, replace_own, sync_dir, write_dir,
};
use crate::identity::authority::{Authority, Founded, Issued, check_server_name, request_authority};
use crate::identity::external::{self, AuthorityChain, Problem};
use crate::identity::own::{self, ServerCertificate};
use crate::identity::users::FIRST_ADMIN;

/// Names by which every server is reached from its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Directory of what waits for the answer of an authority of others.
const REQUEST: &str = "request";
/// The request in it.
const CSR: &str = "issuing.csr";

/// A new installation's parameters.
#[derive(Clone, Debug, Default)]
pub struct NewPki {
    /// DNS names and IP addresses by which the server is reached, beside the local ones.
    pub names: Vec<String>,
    /// Its trust domain; without one, a random one is made.
    pub trust_domain: Option<String>,
    /// The authority of others that certifies it; without one, it has a root of its own.
    pub certified_by: Option<CertifiedBy>,
}

/// The files of an authority of others.
#[derive(Clone, Debug)]
pub struct CertifiedBy {
    /// Its certificate, and those up to its root.
    pub certificates: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl NewPki {
    fn trust_domain(&self) -> Result<String, PkiError> {
        match &self.trust_domain {
            Some(given) => Ok(checked_trust_domain(given)?.to_owned()),
            None => Ok(format!("longshore-{:08x}", rand::random::<u32>())),
        }
    }

    /// All names of the server.
    fn all_names(&self) -> Vec<String> {
        let given = self.names.iter().filter(|name| !LOCAL_NAMES.contains(&name.as_str())).cloned();
        LOCAL_NAMES.map(str::to_owned).into_iter().chain(given).collect()
    }
}

/// Makes an authority with a server's and the first admin's certificate under `data_dir`, all or nothing.
///
/// # Errors
///
/// Anything exists already, a name or the trust domain is malformed, the authority of others cannot be used, or a file cannot
/// be written.
pub fn init(data_dir: &Path, new: &NewPki, now: Timestamp) -> Result<(), PkiError> {
    let trust_domain = new.trust_domain()?;
    expect_nothing(data_dir)?;
    if data_dir.join(REQUEST).exists() {
        return Err(PkiError::Requested(data_dir.join(REQUEST)));
    }
    let founded = match &new.certified_by {
        None => Authority::found(&trust_domain, now)?,
        Some(CertifiedBy { certificates, key }) => {
            let pair = external::read_key(key)?;
            let above = AuthorityChain::read(certificates, &pair.subject_public_key_info(), key, now)?;
            Authority::below(&trust_domain, &above, pair, now)?
        }
    };
    write(data_dir, &founded, &new.all_names(), now)
}

/// Whose certificate is asked for, or was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An authority that is being made.
    New,
    /// The one that there was, which stays who it is.
    Existing,
}

/// Makes a key for an authority, and a request (PKCS#10 in PEM) that an authority of others may answer with a certificate;
/// returns its path. Where there is an authority already, the request is for the next certificate of its key. What was asked
/// for stays until [`install`].
///
/// # Errors
///
/// Anything exists already, a name or the trust domain is malformed, or a file cannot be written.
pub fn request(data_dir: &Path, new: &NewPki) -> Result<(PathBuf, Holder), PkiError> {
    let dir = data_dir.join(REQUEST);
    if dir.exists() {
        return Err(PkiError::Requested(dir));
    }
    let is_new = !new.names.is_empty() || new.trust_domain.is_some();
    if !is_new && data_dir.join("pki").exists() {
        let csr = load_authority(data_dir)?.0.request_next()?;
        stage(data_dir, |staging| {
            write_dir(&staging.join(REQUEST), &[(CSR, Secrecy::Public, &csr)])?;
            move_in(staging, data_dir, REQUEST)
        })?;
        return Ok((dir.join(CSR), Holder::Existing));
    }
    let trust_domain = new.trust_domain()?;
    let names = new.all_names();
    names.iter().try_for_each(|name| check_server_name(name))?;
    expect_nothing(data_dir)?;
    let (csr, key) = request_authority(&trust_domain)?;
    stage(data_dir, |staging| {
        write_dir(
            &staging.join(REQUEST),
            &[
                ("trust-domain", Secrecy::Public, &trust_domain),
                ("names", Secrecy::Public, &names.join("\n")),
                (CSR, Secrecy::Public, &csr),
                ("issuing.key", Secrecy::Secret, &key),
            ],
        )?;
        move_in(staging, data_dir, REQUEST)
    })?;
    Ok((dir.join(CSR), Holder::New))
}

/// Takes the answer to a [`request`]: the certificate, and those up to the root. Makes the rest as [`init`] does; an authority
/// that is there already stays who it is, and is certified for longer.
///
/// # Errors
///
/// There is no request, or the certificates are not what they should be; the request stays then.
pub fn install(data_dir: &Path, answer: &Path, now: Timestamp) -> Result<Holder, PkiError> {
    let dir = data_dir.join(REQUEST);
    if !dir.exists() {
        return Err(PkiError::NoRequest(data_dir.to_owned()));
    }
    if data_dir.join("pki").exists() {
        certify_anew(data_dir, answer, now)?;
        fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
        return Ok(Holder::Existing);
    }
    expect_nothing(data_dir)?;
    let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(failed("read", &dir.join(name)));
    let trust_domain = checked_trust_domain(read("trust-domain")?.trim())?.to_owned();
    let names: Vec<String> = read("names")?.lines().map(str::to_owned).collect();
    let issuing_key = external::read_key(&dir.join("issuing.key"))?;
    let above = AuthorityChain::read(answer, &issuing_key.subject_public_key_info(), &dir.join("issuing.key"), now)?;
    let issuing_key = issuing_key.serialize_pem();
    let authority = Authority::in_place_of(&trust_domain, &above, &issuing_key)?;
    write(data_dir, &Founded { root_key: None, issuing_key, authority }, &names, now)?;
    fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
    Ok(Holder::New)
}

/// Puts the next certificate of the authority's key into the place of the one that it has. Name and root stay, so that all
/// that was issued stays good.
fn certify_anew(data_dir: &Path, answer: &Path, now: Timestamp) -> Result<(), PkiError> {
    let (before, _) = load_authority(data_dir)?;
    let path = data_dir.join("pki").join("issuing.key");
    let key = external::read_key(&path)?;
    let above = AuthorityChain::read(answer, &key.subject_public_key_info(), &path, now)?;
    let next = Authority::in_place_of(before.trust_domain(), &above, &key.serialize_pem())?;
    if !next.succeeds(&before) {
        return Err(external::wrong(answer)(Problem::OtherAuthority).into());
    }
    // All is issued and checked before any file changes: what the authority above now forbids cuts nobody off.
    let own = own_credentials(data_dir, &own_files(data_dir)?)?;
    let names = ServerCertificate::from_der(own.leaf()).map_err(PkiError::own)?.names;
    let is_ours = next.has_issued(own.leaf());
    let chain = is_ours.then(|| own::issue_next(data_dir, &next, &names, now)).transpose().map_err(PkiError::own)?;
    let trial = next.issue_user(FIRST_ADMIN, Role::Admin, now)?;
    check_client(&next, &next.chain(&trial.certificate), &trial, now)?;
    replace(data_dir, "issuing.crt", next.issuing_pem())?;
    chain.map_or(Ok(()), |chain| replace_own(data_dir, &chain))
}

fn expect_nothing(data_dir: &Path) -> Result<(), PkiError> {
    for target in ["pki", "admin"].map(|name| data_dir.join(name)) {
        if target.try_exists().map_err(failed("look at", &target))? {
            return Err(PkiError::Exists(target));
        }
    }
    Ok(())
}

/// Certifies a server and the first admin, checks that they would be accepted, and writes everything.
fn write(data_dir: &Path, founded: &Founded, names: &[String], now: Timestamp) -> Result<(), PkiError> {
    let Founded { root_key, issuing_key, authority } = founded;
    let server = authority.issue_server(names, now)?;
    let admin = authority.issue_user(FIRST_ADMIN, Role::Admin, now)?;
    let (server_chain, admin_chain) =
        (authority.server_chain(&server.certificate), authority.chain(&admin.certificate));
    check(authority, (&server_chain, &server), (&admin_chain, &admin), names, now)?;

    let root = authority.root_pem();
    let mut pki = vec![
        ("trust-domain", Secrecy::Public, authority.trust_domain()),
        ("root.crt", Secrecy::Public, root),
        ("issuing.crt", Secrecy::Public, authority.issuing_pem()),
        ("issuing.key", Secrecy::Secret, issuing_key),
        ("server.crt", Secrecy::Public, &server_chain),
        ("server.key", Secrecy::Secret, &server.key),
        (FIRST_ADMIN_FILE, Secrecy::Public, &admin.certificate),
    ];
    pki.extend(root_key.as_ref().map(|key| ("root.key", Secrecy::Secret, key.as_str())));
    stage(data_dir, |staging| {
        write_dir(&staging.join("pki"), &pki)?;
        write_dir(
            &staging.join("admin"),
            &[
                ("root.crt", Secrecy::Public, root),
                ("client.crt", Secrecy::Public, &admin_chain),
                ("client.key", Secrecy::Secret, &admin.key),
            ],
        )?;
        publish(staging, data_dir)
    })
}

/// Whether agents, people and the server itself would accept what was issued: what an authority above forbids shows here and not
/// on the machines.
fn check(
    authority: &Authority,
    (server_chain, server): (&str, &Issued),
    (admin_chain, admin): (&str, &Issued),
    names: &[String],
    now: Timestamp,
) -> Result<(), PkiError> {
    for name in names {
        let refused = |source| PkiError::Refused { whose: "a server's", name: name.clone(), source };
        read(authority, server_chain, server).and_then(|read| read.check_as_server(name, now)).map_err(refused)?;
    }
    check_client(authority, admin_chain, admin, now)
}

fn check_client(authority: &Authority, chain: &str, admin: &Issued, now: Timestamp) -> Result<(), PkiError> {
    let refused = |source| PkiError::Refused { whose: "a user's", name: FIRST_ADMIN.to_owned(), source };
    read(authority, chain, admin).and_then(|read| read.check_as_client(now)).map_err(refused)
}

fn read(authority: &Authority, chain: &str, issued: &Issued) -> Result<Credentials, CredentialError> {
    Credentials::from_pem(authority.root_pem().as_bytes(), chain.as_bytes(), issued.key.as_bytes())
}

/// Lets files be made in a directory beside their place. Whatever goes wrong, no key is left behind there.
fn stage(data_dir: &Path, make: impl FnOnce(&Path) -> Result<(), PkiError>) -> Result<(), PkiError> {
    fs::create_dir_all(data_dir).map_err(failed("make", data_dir))?;
    let staging = data_dir.join(format!(".init-{:08x}", rand::random::<u32>()));
    let made = make_private_dir(&staging).and_then(|()| make(&staging));
    let cleaned = fs::remove_dir_all(&staging).map_err(failed("remove", &staging));
    made.and(cleaned)
}

/// Moves the finished directories to their places. `pki` goes last: with it the authority exists.
fn publish(staging: &Path, data_dir: &Path) -> Result<(), PkiError> {
    move_in(staging, data_dir, "admin")?;
    if let Err(error) = move_in(staging, data_dir, "pki") {
        let admin = data_dir.join("admin");
        fs::remove_dir_all(&admin).map_err(failed("remove", &admin))?;
        return Err(error);
    }
    Ok(())
}

fn move_in(staging: &Path, data_dir: &Path, name: &str) -> Result<(), PkiError> {
    let target = data_dir.join(name);
    // Renaming onto a directory that is not empty fails, so that a race of two `init` cannot overwrite anything.
    fs::rename(staging.join(name), &target).map_err(failed("make", &target))?;
    sync_dir(data_dir)
}
