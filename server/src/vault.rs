//! Secrets at rest: sealed with AES-256-GCM under a key that is not in the database.
//!
//! The key file lies beside the database, with mode 0600: a copy of the database alone, such as a backup, gives nobody a
//! password. It has one key a line, `<identifier> <key in base64>`. The first seals; all of them open, so that a new key
//! can be put in front while what the old ones sealed is still read.
//!
//! What is sealed is bound to its place: moved to another row, or kept while the row's registry is changed behind the
//! server's back, it does not open. Else whoever can write to the database could have a password sent to a host of theirs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longshore_model::secret::{Secret, SecretBytes};

use crate::owner::keep_owner;

/// Name of the key file in the data directory.
pub const KEY_FILE: &str = "secrets.key";
/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a key's identifier, which stands in front of what it sealed.
const ID: usize = 8;
/// Bytes of a line of the key file: the identifier, a space, the key in base64, and the line's end.
const LINE: usize = 2 * ID + 1 + KEY.div_ceil(3) * 4 + 1;
/// First byte of what is sealed: how the rest is to be read.
const FORMAT: u8 = 1;

/// The name of a key, which says nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; ID]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Why a secret cannot be sealed or opened. None of these says anything of the secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be made or read.
    #[error("cannot {action} the key file {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The key file is not one.
    #[error("line {line} of the key file {} is not an identifier and a key", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The key that sealed it is not in the key file.
    #[error("the key file has no key {0}")]
    UnknownKey(KeyId),
    /// It was sealed for another place, or is damaged.
    #[error("a sealed secret cannot be opened: it is damaged, or not where it was put")]
    Damaged,
    /// The cryptographic library failed.
    #[error("a secret cannot be sealed")]
    Crypto,
}

/// Seals and opens secrets. The key file is read when it is first needed, and made when something is to be sealed.
#[derive(Debug)]
pub struct Vault {
    path: PathBuf,
    keys: Mutex<Option<Arc<Keys>>>,
}

/// A key and its name.
type Key = ([u8; ID], zeroize::Zeroizing<[u8; KEY]>);

/// The keys, first the one that seals.
struct Keys(Vec<Key>);

impl Keys {
    /// The content of a key file.
    fn text(&self) -> zeroize::Zeroizing<String> {
        // As long as it will be, so that no shorter copy is left behind in memory.
        let mut text = zeroize::Zeroizing::new(String::with_capacity(self.0.len() * LINE));
        for (id, key) in &self.0 {
            let key = zeroize::Zeroizing::new(STANDARD.encode(key.as_slice()));
            text.extend([&hex::encode(id), " ", key.as_str(), "\n"]);
        }
        text
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| hex::encode(id))).finish()
    }
}

impl Vault {
    /// A vault whose key file is in this directory; touches nothing.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(KEY_FILE), keys: Mutex::new(None) }
    }

    /// Seals a secret for the place that `parts` say. Reads and may write the key file: blocks for a moment.
    ///
    /// # Errors
    ///
    /// The key file cannot be made or read.
    pub fn seal(&self, parts: &[&str], secret: &Secret) -> Result<Vec<u8>, VaultError> {
        self.seal_bytes(parts, secret.reveal().as_bytes())
    }

    /// As [`Vault::seal`], of bytes.
    ///
    /// # Errors
    ///
    /// The key file cannot be made or read.
    pub fn seal_bytes(&self, parts: &[&str], secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let keys = self.keys(true)?;
        let (id, key) = keys.0.first().ok_or(VaultError::Crypto)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| VaultError::Crypto)?;
        let mut content = secret.to_vec();
        let sealed = key.seal_in_place_append_tag(Aad::from(place(id, parts)), &mut content);
        let nonce = sealed.map_err(|_| VaultError::Crypto)?;
        Ok([&[FORMAT], id.as_slice(), nonce.as_ref().as_slice(), &content].concat())
    }

    /// Opens what was sealed for the place that `parts` say. Reads the key file: blocks for a moment.
    ///
    /// # Errors
    ///
    /// The key is not there, or it was sealed for another place.
    pub fn open(&self, parts: &[&str], sealed: &[u8]) -> Result<Secret, VaultError> {
        let bytes = self.open_bytes(parts, sealed)?;
        let text = std::str::from_utf8(bytes.reveal()).map_err(|_| VaultError::Damaged)?;
        Ok(Secret::new(text.to_owned()))
    }

    /// As [`Vault::open`], of bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Vault::open`].
    pub fn open_bytes(&self, parts: &[&str], sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        let (format, rest) = sealed.split_first().ok_or(VaultError::Damaged)?;
        let (id, rest) = rest.split_first_chunk::<ID>().ok_or(VaultError::Damaged)?;
        let (nonce, content) = rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Damaged)?;
        if *format != FORMAT {
            return Err(VaultError::Damaged);
        }
        let keys = self.keys(false)?;
        let key = keys.0.iter().find(|(known, _)| known == id).ok_or(VaultError::UnknownKey(KeyId(*id)))?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.1.as_slice()).map_err(|_| VaultError::Crypto)?;
        let mut content = zeroize::Zeroizing::new(content.to_vec());
        let aad = Aad::from(place(id, parts));
        let open = key.open_in_place(Nonce::from(nonce), aad, &mut content).map_err(|_| VaultError::Damaged)?;
        Ok(SecretBytes::new(open.to_vec()))
    }

    /// A fingerprint of something with a secret in it, by which nobody without the key can try out guesses.
    ///
    /// # Errors
    ///
    /// The key file cannot be made or read.
    pub fn fingerprint(&self, content: &[u8]) -> Result<[u8; 32], VaultError> {
        let keys = self.keys(true)?;
        let (_, key) = keys.0.first().ok_or(VaultError::Crypto)?;
        // A key of its own: one key is for one purpose.
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"longshore fingerprint").extract(key.as_slice());
        let info = [b"request".as_slice()];
        let okm = derived.expand(&info, hmac::HMAC_SHA256).map_err(|_| VaultError::Crypto)?;
        let tag = hmac::sign(&hmac::Key::from(okm), content);
        tag.as_ref().try_into().map_err(|_| VaultError::Crypto)
    }

    fn keys(&self, make: bool) -> Result<Arc<Keys>, VaultError> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = known.as_ref() {
            return Ok(Arc::clone(keys));
        }
        let keys = match fs::read_to_string(&self.path) {
            Ok(text) => self.parse(&zeroize::Zeroizing::new(text))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                let keys = random_key().map(|key| Keys(vec![key]));
                let made = keys.and_then(|keys| self.write(&keys).map(|()| keys));
                let keys = made.map_err(|source| self.failed("make", source))?;
                tracing::info!(path = %self.path.display(), "made the key that secrets are sealed with; back it up apart from the database");
                keys
            }
            Err(source) => return Err(self.failed("read", source)),
        };
        let keys = Arc::new(keys);
        *known = Some(Arc::clone(&keys));
        Ok(keys)
    }

    /// The content of the key file.
    ///
    /// # Errors
    ///
    /// The key file cannot be read.
    pub fn export(&self) -> Result<zeroize::Zeroizing<String>, VaultError> {
        Ok(self.keys(false)?.text())
    }

    /// Puts a new key in front of the others. Nobody else may have the vault open.
    ///
    /// # Errors
    ///
    /// The key file cannot be read or written; it is as it was then.
    pub fn add_key(&self) -> Result<KeyId, VaultError> {
        let old = self.keys(false)?;
        let key = random_key().map_err(|source| self.failed("write", source))?;
        let id = KeyId(key.0);
        let keys = Keys([key].into_iter().chain(old.0.iter().cloned()).collect());
        self.replace(keys)?;
        Ok(id)
    }

    /// Drops all keys but the first; returns how many they were. Nobody else may have the vault open.
    ///
    /// # Errors
    ///
    /// The key file cannot be read or written; it is as it was then.
    pub fn drop_old_keys(&self) -> Result<usize, VaultError> {
        let old = self.keys(false)?;
        self.replace(Keys(old.0.iter().take(1).cloned().collect()))?;
        Ok(old.0.len().saturating_sub(1))
    }

    /// A vault that has the first key alone, whatever is in the key file.
    ///
    /// # Errors
    ///
    /// The key file cannot be read.
    pub fn with_first_key_alone(&self) -> Result<Self, VaultError> {
        let keys = Keys(self.keys(false)?.0.iter().take(1).cloned().collect());
        Ok(Self { path: self.path.clone(), keys: Mutex::new(Some(Arc::new(keys))) })
    }

    fn replace(&self, keys: Keys) -> Result<(), VaultError> {
        self.write(&keys).map_err(|source| self.failed("write", source))?;
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        Ok(())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> VaultError {
        VaultError::File { action, path: self.path.clone(), source }
    }

    fn parse(&self, text: &str) -> Result<Keys, VaultError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let bad = || VaultError::BadKey { path: self.path.clone(), line: index + 1 };
            let (id, key) = line.split_once(' ').ok_or_else(bad)?;
            let id = u64::from_str_radix(id, 16).map_err(|_| bad())?.to_be_bytes();
            let mut bytes = zeroize::Zeroizing::new([0; KEY]);
            let length = STANDARD.decode_slice(key, bytes.as_mut_slice()).map_err(|_| bad())?;
            if length != KEY {
                return Err(bad());
            }
            keys.push((id, bytes));
        }
        if keys.is_empty() { Err(VaultError::BadKey { path: self.path.clone(), line: 1 }) } else { Ok(Keys(keys)) }
    }

    /// Writes the file, whole or not at all, and durable before anything depends on it.
    fn write(&self, keys: &Keys) -> io::Result<()> {
        let unfinished = self.path.with_extension("key.new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        keep_owner(&file, &unfinished)?;
        file.write_all(keys.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn random_key() -> io::Result<Key> {
    let mut key = zeroize::Zeroizing::new([0; KEY]);
    aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| io::Error::other("no random numbers"))?;
    let mut id = [0; ID];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no random numbers"))?;
    Ok((id, key))
}

/// The place that something is sealed for: no two lists of parts give the same bytes.
fn place(id: &[u8; ID], parts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(id);
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PLACE: [&str; 2] = ["shop", "registry.example.com"];

    fn secret() -> Secret {
        Secret::new("canary-4711".to_owned())
    }

    #[test]
    fn a_sealed_secret_opens_where_it_was_put_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = Vault::new(dir.path()).seal(&PLACE, &secret()).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        let vault = Vault::new(dir.path());
        assert_eq!(vault.open(&PLACE, &sealed).unwrap(), secret());
        assert_ne!(vault.seal(&PLACE, &secret()).unwrap(), sealed, "each time with a nonce of its own");
        for other in [["shop", "evil.test"], ["shopr", "egistry.example.com"], ["other", "registry.example.com"]] {
            assert!(matches!(vault.open(&other, &sealed), Err(VaultError::Damaged)), "{other:?}");
        }
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert!(vault.open(&PLACE, &damaged).is_err(), "byte {index}");
            assert!(vault.open(&PLACE, &sealed[..index]).is_err(), "{index} bytes");
        }
    }

    #[test]
    fn the_key_file_is_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let vault = Vault::new(dir.path());
        assert!(matches!(vault.open(&PLACE, &[FORMAT; 64]), Err(VaultError::File { action: "read", .. })));
        assert!(!path.exists(), "opening makes no key");
        vault.seal(&PLACE, &secret()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        Vault::new(dir.path()).seal(&PLACE, &secret()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(!format!("{vault:?}").contains(text.split_once(' ').unwrap().1.trim()));
    }

    #[test]
    fn an_older_key_still_opens_and_a_missing_one_is_named() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealed = Vault::new(old.path()).seal(&PLACE, &secret()).unwrap();
        let fresh = Vault::new(new.path());
        fresh.seal(&PLACE, &secret()).unwrap();
        let id = hex::encode(&sealed[1..=ID]);
        assert_eq!(fresh.open(&PLACE, &sealed).unwrap_err().to_string(), format!("the key file has no key {id}"));
        let read = |dir: &tempfile::TempDir| fs::read_to_string(dir.path().join(KEY_FILE)).unwrap();
        fs::write(new.path().join(KEY_FILE), read(&new) + &read(&old)).unwrap();
        let both = Vault::new(new.path());
        assert_eq!(both.open(&PLACE, &sealed).unwrap(), secret());
        assert_ne!(both.seal(&PLACE, &secret()).unwrap()[1..=ID], sealed[1..=ID], "the first one seals");
        fs::write(new.path().join(KEY_FILE), read(&new) + "nonsense\n").unwrap();
        let error = Vault::new(new.path()).open(&PLACE, &sealed).unwrap_err();
        assert!(error.to_string().starts_with("line 3 of the key file"), "{error}");
    }

    #[test]
    fn a_fingerprint_depends_on_the_key() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let print = |dir: &tempfile::TempDir, text: &str| Vault::new(dir.path()).fingerprint(text.as_bytes()).unwrap();
        assert_eq!(print(&one, "a"), print(&one, "a"));
        assert_ne!(print(&one, "a"), print(&one, "b"));
        assert_ne!(print(&one, "a"), print(&other, "a"));
    }
}
