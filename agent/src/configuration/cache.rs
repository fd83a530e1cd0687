//! What revisions take, sealed on this node's disk, so that apps come up without a server.
//!
//! One file for each app, revision and attempt, sealed with AES-256-GCM under a key that is made once and lies with the node's
//! identity. Docs/decisions/0018 says what that protects from, and from whom it does not.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use longshore_model::name::AppName;
use zeroize::Zeroizing;

use super::Configuration;
use crate::durable;

/// Bytes of the key.
const KEY: usize = 32;
/// First byte of a file: how the rest is to be read.
const FORMAT: u8 = 1;
/// Only the agent's own user may read any of it.
const FILE_MODE: u32 = 0o600;

/// Why something cannot be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk refuses.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The cryptographic library failed.
    #[error("cannot seal an app's configuration")]
    Crypto,
}

impl CacheError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let Self::File { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Which revision of an app, by which attempt at it.
pub type Version = (u64, u32);

/// The directory of the files. All methods block.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    key_file: PathBuf,
    /// Held while the key is looked for and made: two apps that came first would each make one.
    making: Arc<Mutex<()>>,
}

impl Cache {
    /// A cache in this directory, sealed with the key in this file; touches nothing.
    #[must_use]
    pub fn new(directory: PathBuf, key_file: PathBuf) -> Self {
        Self { directory, key_file, making: Arc::default() }
    }

    /// Keeps what a revision takes, durably.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn keep(&self, app: &AppName, version: Version, configuration: &Configuration) -> Result<(), CacheError> {
        let key = self.key(true)?.ok_or(CacheError::Crypto)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| CacheError::Crypto)?;
        let mut content = configuration.pack().reveal().to_vec();
        let aad = Aad::from(place(app, version));
        let nonce = key.seal_in_place_append_tag(aad, &mut content).map_err(|_| CacheError::Crypto)?;
        let sealed = [&[FORMAT], nonce.as_ref().as_slice(), &content].concat();
        let directory = self.of(app);
        fs::create_dir_all(&directory).map_err(at("make", &directory))?;
        let path = self.file(app, version);
        durable::replace(&path, &sealed, FILE_MODE).map_err(at("write", &path))
    }

    /// What a revision takes, as it was kept; `None` where it was not, or where that cannot be opened any more.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn load(&self, app: &AppName, version: Version) -> Result<Option<Configuration>, CacheError> {
        let path = self.file(app, version);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &path)(error)),
        };
        let opened = self.key(false)?.and_then(|key| open(&key, place(app, version), &sealed));
        if opened.is_none() {
            tracing::warn!(%app, path = %path.display(), "an app's configuration cannot be opened; the server will be asked for it");
        }
        Ok(opened)
    }

    /// Forgets all of an app but these versions.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn retain(&self, app: &AppName, versions: &[Version]) -> Result<(), CacheError> {
        let directory = self.of(app);
        if versions.is_empty() {
            return remove(&directory);
        }
        let wanted: BTreeSet<PathBuf> = versions.iter().map(|version| self.file(app, *version)).collect();
        for path in entries(&directory)? {
            if !wanted.contains(&path) {
                durable::remove(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Forgets every app that is none of these.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn retain_apps(&self, apps: &BTreeSet<AppName>) -> Result<(), CacheError> {
        let wanted: BTreeSet<PathBuf> = apps.iter().map(|app| self.of(app)).collect();
        entries(&self.directory)?.into_iter().filter(|path| !wanted.contains(path)).try_for_each(|path| remove(&path))
    }

    fn of(&self, app: &AppName) -> PathBuf {
        self.directory.join(app.as_str())
    }

    fn file(&self, app: &AppName, (revision, attempt): Version) -> PathBuf {
        self.of(app).join(format!("{revision}-{attempt}"))
    }

    /// The key; makes one where there is none and one is wanted.
    fn key(&self, make: bool) -> Result<Option<Zeroizing<Vec<u8>>>, CacheError> {
        let path = &self.key_file;
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::read(path) {
            Ok(key) if key.len() == KEY => return Ok(Some(Zeroizing::new(key))),
            Ok(_) => tracing::warn!(path = %path.display(), "the key of kept configurations is damaged"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("read", path)(error)),
        }
        if !make {
            return Ok(None);
        }
        let mut key = Zeroizing::new(vec![0; KEY]);
        aws_lc_rs::rand::fill(&mut key).map_err(|_| CacheError::Crypto)?;
        durable::replace(path, &key, FILE_MODE).map_err(at("write", path))?;
        Ok(Some(key))
    }
}

fn open(key: &[u8], place: Vec<u8>, sealed: &[u8]) -> Option<Configuration> {
    let (format, rest) = sealed.split_first()?;
    let (nonce, content) = rest.split_first_chunk::<NONCE_LEN>()?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok().filter(|_| *format == FORMAT)?;
    let mut content = Zeroizing::new(content.to_vec());
    let opened = key.open_in_place(Nonce::from(nonce), Aad::from(place), &mut content).ok()?;
    Configuration::unpack(opened)
}

/// What a file is sealed for: under another name it does not open.
fn place(app: &AppName, (revision, attempt): Version) -> Vec<u8> {
    format!("{FORMAT} {app} {revision} {attempt}").into_bytes()
}

/// What is in a directory, which need not be there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(at("read", directory))?,
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(at("read", directory))).collect()
}

fn remove(directory: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", directory)(error)),
        _ => Ok(()),
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CacheError + use<'a> {
    move |source| CacheError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use longshore_model::configuration::Kind;
    use longshore_proto::v1;

    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn configuration(value: &str) -> Configuration {
        let data = [("password".to_owned(), value.as_bytes().to_vec())].into();
        let secret = v1::FetchedConfiguration { name: "db".to_owned(), etag: "1".to_owned(), data };
        Configuration::from_wire(v1::FetchConfigurationResponse { config_maps: vec![], secrets: vec![secret] })
    }

    fn cache(root: &Path) -> Cache {
        Cache::new(root.join("configuration"), root.join("key"))
    }

    #[test]
    fn what_is_kept_is_found_and_lies_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        assert_eq!(cache.load(&app("a"), (1, 1)).unwrap(), None);
        assert!(!dir.path().join("key").exists(), "reading makes no key");
        cache.keep(&app("a"), (1, 1), &configuration("canary-4711")).unwrap();
        let again = super::Cache::new(dir.path().join("configuration"), dir.path().join("key"));
        let found = again.load(&app("a"), (1, 1)).unwrap().unwrap();
        assert_eq!(found, configuration("canary-4711"));
        assert_eq!(found.content(Kind::Secret, "db").unwrap()["password"].reveal(), b"canary-4711");
        assert!(!format!("{found:?}").contains("canary"));
        for file in [dir.path().join("key"), dir.path().join("configuration/a/1-1")] {
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!fs::read(&file).unwrap().windows(6).any(|window| window == b"canary"));
        }
    }

    #[test]
    fn apps_that_come_first_at_once_share_a_key() {
        const APPS: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let start = std::sync::Barrier::new(APPS);
        let name = |number: usize| app(&format!("app-{number}"));
        std::thread::scope(|scope| {
            for number in 0..APPS {
                let (cache, start) = (&cache, &start);
                scope.spawn(move || {
                    start.wait();
                    cache.keep(&name(number), (1, 1), &configuration("secret")).unwrap();
                });
            }
        });
        for number in 0..APPS {
            assert_eq!(cache.load(&name(number), (1, 1)).unwrap(), Some(configuration("secret")), "app {number}");
        }
    }

    #[test]
    fn what_was_changed_or_moved_or_has_lost_its_key_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        cache.keep(&app("a"), (1, 1), &configuration("x")).unwrap();
        let file = dir.path().join("configuration/a/1-1");
        let sealed = fs::read(&file).unwrap();
        fs::write(dir.path().join("configuration/a/2-1"), &sealed).unwrap();
        assert_eq!(cache.load(&app("a"), (2, 1)).unwrap(), None, "it is another revision's");
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert_eq!(cache.load(&app("a"), (1, 1)).unwrap(), None, "byte {index}");
        }
        fs::write(&file, &sealed).unwrap();
        fs::remove_file(dir.path().join("key")).unwrap();
        assert_eq!(cache.load(&app("a"), (1, 1)).unwrap(), None);
        cache.keep(&app("a"), (1, 1), &configuration("y")).unwrap();
        assert_eq!(cache.load(&app("a"), (1, 1)).unwrap(), Some(configuration("y")), "under a key made anew");
    }

    #[test]
    fn what_is_not_needed_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for version in [(1, 1), (2, 1), (2, 2)] {
            cache.keep(&app("a"), version, &configuration("x")).unwrap();
        }
        cache.keep(&app("b"), (1, 1), &configuration("x")).unwrap();
        let is_there = |name: &str, version| cache.load(&app(name), version).unwrap().is_some();
        cache.retain(&app("a"), &[(1, 1), (2, 2)]).unwrap();
        assert_eq!([(1, 1), (2, 1), (2, 2)].map(|version| is_there("a", version)), [true, false, true]);
        cache.retain_apps(&[app("b"), app("c")].into()).unwrap();
        assert!(!is_there("a", (1, 1)) && is_there("b", (1, 1)));
        cache.retain(&app("b"), &[]).unwrap();
        cache.retain(&app("c"), &[]).unwrap();
        assert!(!is_there("b", (1, 1)));
    }
}
