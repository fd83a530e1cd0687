//! The agent's data directory: what lies where, and the lock that keeps a second agent out.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use longshore_model::name::NodeName;
use longshore_tls::{CredentialError, Credentials};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::configuration::Cache;
use crate::durable;

/// The root that the node trusts.
const ROOT: &str = "root.crt";
/// The node's certificate chain and its private key, together.
const CERTIFICATE_AND_KEY: &str = "node.pem";

/// The key of an enrolment that has begun and not ended.
const ENROLLING: &str = "enrolling.json";
/// Name of the file with the key of kept configurations.
const CONFIGURATION_KEY: &str = "configuration.key";

/// An enrolment that has begun.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Enrolling {
    token_id: String,
    node_name: NodeName,
    key: String,
}

/// Who this node is, as enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// Its name.
    pub node_name: NodeName,
    /// Address of its server, `host:port`.
    pub server: String,
    /// Random; names this data directory's cgroups, so that several agents of one machine never meet.
    pub node_uid: String,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// This machine is no node yet.
    #[error("{} is not enrolled; run `longshore-agent enroll` first", .0.display())]
    NotEnrolled(PathBuf),
    /// There is a node already.
    #[error("{} is enrolled as {name} already; --renew keeps the node, --force makes it another", directory.display())]
    Enrolled {
        /// The directory.
        directory: PathBuf,
        /// The node's name.
        name: NodeName,
    },
    /// Another agent uses it.
    #[error("{} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The certificate or key is damaged.
    #[error("cannot use the node's certificate")]
    Credentials(#[from] CredentialError),
}

/// The directory of one agent.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// Held as long as an agent uses its directory; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl DataDir {
    /// Names a directory; it need not exist.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the directory, for root's eyes only.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn make(&self) -> Result<(), DataDirError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.identity());
        made.map_err(file("make", &self.identity()))
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// Another agent has it, or the directory cannot be written.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let path = self.lock_file();
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let opened = opened.map_err(file("open", &path))?;
        match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Lock { _file: held }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DataDirError::InUse(self.root.clone())),
            Err((_, error)) => Err(file("lock", &path)(error.into())),
        }
    }

    /// Who this node is.
    ///
    /// # Errors
    ///
    /// It is not enrolled, or the file is damaged.
    pub fn enrolment(&self) -> Result<Enrolment, DataDirError> {
        let path = self.root.join("agent.json");
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataDirError::NotEnrolled(self.root.clone()));
            }
            read => read.map_err(file("read", &path))?,
        };
        serde_json::from_slice(&text).map_err(|error| file("read", &path)(error.into()))
    }

    /// Keeps what an enrolment gave. `agent.json` comes last: without it there is no node.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn enrol(&self, enrolment: &Enrolment, root: &str, chain: &str, key: &str) -> Result<(), DataDirError> {
        let path = self.identity().join(ROOT);
        durable::replace(&path, root.as_bytes(), 0o644).map_err(file("write", &path))?;
        self.replace_certificate(chain, key)?;
        let text = serde_json::to_string_pretty(enrolment).unwrap_or_default();
        let path = self.root.join("agent.json");
        durable::replace(&path, text.as_bytes(), 0o644).map_err(file("write", &path))
    }

    /// Replaces certificate and key at once: they lie in one file, so that no crash can part them.
    ///
    /// # Errors
    ///
    /// The file cannot be written; the old ones are then still there.
    pub fn replace_certificate(&self, chain: &str, key: &str) -> Result<(), DataDirError> {
        let path = self.certificate_and_key();
        durable::replace(&path, format!("{key}{chain}").as_bytes(), 0o600).map_err(file("write", &path))
    }

    /// The key in PEM of an enrolment with this token under this name that has begun and not ended.
    ///
    /// # Errors
    ///
    /// It is there and cannot be read.
    pub fn enrolling(&self, token_id: &str, node_name: &NodeName) -> Result<Option<String>, DataDirError> {
        let path = self.identity().join(ENROLLING);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(file("read", &path))?,
        };
        let begun: Enrolling = serde_json::from_slice(&text).map_err(|error| file("read", &path)(error.into()))?;
        Ok(Some(begun)
            .filter(|begun| begun.token_id == token_id && begun.node_name == *node_name)
            .map(|begun| begun.key))
    }

    /// Keeps the key of an enrolment that begins, in place of that of any other.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn begin_enrolling(&self, token_id: &str, node_name: &NodeName, key: &str) -> Result<(), DataDirError> {
        let path = self.identity().join(ENROLLING);
        let begun = Enrolling { token_id: token_id.to_owned(), node_name: node_name.clone(), key: key.to_owned() };
        let text = serde_json::to_string(&begun).unwrap_or_default();
        durable::replace(&path, text.as_bytes(), 0o600).map_err(file("write", &path))
    }

    /// Forgets the key of an enrolment that has ended.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn end_enrolling(&self) -> Result<(), DataDirError> {
        let path = self.identity().join(ENROLLING);
        std::fs::remove_file(&path).map_err(file("remove", &path))
    }

    /// The node's certificate, key and root.
    ///
    /// # Errors
    ///
    /// They are missing or damaged.
    pub fn credentials(&self) -> Result<Credentials, DataDirError> {
        let identity = self.identity();
        let node = self.certificate_and_key();
        Ok(Credentials::load(&identity.join(ROOT), &node, &node)?)
    }

    /// The root that this node trusts, in PEM.
    ///
    /// # Errors
    ///
    /// It is missing.
    pub fn root_certificate(&self) -> Result<String, DataDirError> {
        let path = self.identity().join(ROOT);
        std::fs::read_to_string(&path).map_err(file("read", &path))
    }

    /// The file of certificate and key.
    #[must_use]
    pub fn certificate_and_key(&self) -> PathBuf {
        self.identity().join(CERTIFICATE_AND_KEY)
    }

    /// The file by whose lock an agent keeps others out.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Where the ledger lies.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger")
    }

    /// Where the runtime keeps images, containers, logs and volumes.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// Where it is kept what apps take from config maps and secrets, and the key that it is sealed with.
    #[must_use]
    pub fn configurations(&self) -> Cache {
        Cache::new(self.root.join("configuration"), self.identity().join(CONFIGURATION_KEY))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }
}

fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + use<'a> {
    move |source| DataDirError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn two_agents_cannot_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(directory.path().to_owned());
        let held = data.lock().unwrap();
        assert!(matches!(data.lock(), Err(DataDirError::InUse(_))));
        drop(held);
        data.lock().unwrap();
    }

    #[test]
    fn the_key_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(directory.path().join("agent"));
        data.make().unwrap();
        assert!(matches!(data.enrolment(), Err(DataDirError::NotEnrolled(_))));
        let enrolment = Enrolment {
            node_name: NodeName::parse("edge-1").unwrap(),
            server: "localhost:7441".to_owned(),
            node_uid: "0123456789abcdef".to_owned(),
        };
        data.enrol(&enrolment, "root", "chain", "key").unwrap();
        assert_eq!(data.enrolment().unwrap(), enrolment);
        data.begin_enrolling("token", &enrolment.node_name, "key").unwrap();
        for file in ["node.pem", "enrolling.json"] {
            let file = directory.path().join("agent/identity").join(file);
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn an_enrolment_goes_on_with_its_own_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(directory.path().to_owned());
        data.make().unwrap();
        let [one, other] = ["edge-1", "edge-2"].map(|name| NodeName::parse(name).unwrap());
        assert_eq!(data.enrolling("a", &one).unwrap(), None);
        data.begin_enrolling("a", &one, "key").unwrap();
        assert_eq!(data.enrolling("a", &one).unwrap().as_deref(), Some("key"));
        assert_eq!(data.enrolling("b", &one).unwrap(), None);
        assert_eq!(data.enrolling("a", &other).unwrap(), None);
        data.end_enrolling().unwrap();
        assert_eq!(data.enrolling("a", &one).unwrap(), None);
    }
}
