//! The way to the engine: a socket that may be away for a while, and come back with another version behind it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use longshore_model::failure::FailureReason;

use super::refusal;
use crate::runtime::RuntimeError;
use crate::runtime::privileges::Bounding;

/// Longest time until an engine begins to answer a request: a busy one on a slow disk deletes containers for a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time until an engine says which version it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Times that an engine is asked before an answer that cannot be understood is taken for what it is.
const MAX_ASKED: u32 = 200;
/// Between them.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Where an engine listens: `unix:///run/docker.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(PathBuf);

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be unix:// and the absolute path of the engine's socket, such as unix:///run/docker.sock")]
pub struct AddressError;

impl Address {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let path = text.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute());
        path.map(|path| Self(path.to_owned())).ok_or(AddressError)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Such as `Docker 20.10.24, API 1.41`.
    pub(super) version: String,
    /// Whether it keeps output in several files, and not in one that it empties when it is full.
    pub(super) rotates: bool,
    /// Whether added capabilities are in force for users other than root too, and not only in the bounding set.
    pub(super) arms_users: bool,
    /// Whether it enforces limits on CPU.
    pub(super) limits_cpu: bool,
    /// Whether it enforces limits on memory.
    pub(super) limits_memory: bool,
    /// Whether it enforces limits on processes.
    pub(super) limits_pids: bool,
    /// Whether it can forbid swap to a container.
    pub(super) limits_swap: bool,
    /// Whether its containers reach the outside.
    pub(super) forwards: bool,
    /// Whether it runs as a user other than root.
    pub(super) is_rootless: bool,
    /// Where it keeps everything; no container may have that.
    pub(super) root: Option<PathBuf>,
    /// Whether it can run privileged containers: see [`gives_all`].
    pub(super) gives_all: bool,
    /// Whether containers run under a filter of system calls unless it is asked not to.
    pub(super) filters_calls: bool,
}

/// What is known of an engine.
#[derive(Debug, Default)]
struct Known {
    /// Speaks the version that was agreed on; forgotten when the engine goes away.
    client: Option<Docker>,
    /// What it said of itself the last time.
    facts: Facts,
}

/// An engine.
#[derive(Debug)]
pub(super) struct Engine {
    address: Address,
    known: Mutex<Known>,
}

impl Engine {
    /// Names an engine; connects to nothing.
    pub(super) fn new(address: Address) -> Self {
        Self { address, known: Mutex::default() }
    }

    /// A client that speaks a version that the engine knows.
    pub(super) async fn client(&self) -> Result<Docker, RuntimeError> {
        Ok(self.connect().await?.0)
    }

    /// As [`Engine::client`], with what the engine says of itself.
    pub(super) async fn connect(&self) -> Result<(Docker, Facts), RuntimeError> {
        {
            let known = self.known();
            if let Some(client) = known.client.clone() {
                return Ok((client, known.facts.clone()));
            }
        }
        let negotiated = tokio::time::timeout(CONNECT_TIMEOUT, self.negotiate()).await;
        let negotiated = negotiated.unwrap_or(Err(Error::RequestTimeoutError));
        let (client, facts) = negotiated.map_err(|error| self.away(&error))?;
        *self.known() = Known { client: Some(client.clone()), facts: facts.clone() };
        Ok((client, facts))
    }

    async fn negotiate(&self) -> Result<(Docker, Facts), Error> {
        let path = self.address.0.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await?;
        let version = docker.version().await?;
        let info = docker.info().await?;
        let is_podman = version.components.iter().flatten().any(|component| component.name.contains("Podman"));
        let product = if is_podman { "Podman" } else { "Docker" };
        let api = docker.client_version();
        let number = version.version.unwrap_or_default();
        let facts = facts(format!("{product} {number}, API {api}"), &number, is_podman, &info);
        Ok((docker, facts))
    }

    /// What the engine said of itself when it was last reached.
    pub(super) fn facts(&self) -> Facts {
        self.known().facts.clone()
    }

    /// Whether the last request found no engine.
    pub(super) fn is_away(&self) -> bool {
        self.known().client.is_none()
    }

    /// What it means that a request failed, and whether to look for the engine anew.
    pub(super) fn failed(&self, doing: &str, error: &Error) -> RuntimeError {
        match error {
            Error::DockerResponseServerError { message, .. } => refusal::refused(doing, message),
            Error::DockerStreamError { error } => refusal::refused(doing, error),
            Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => RuntimeError {
                reason: FailureReason::RuntimeError,
                message: format!("{doing} failed: the container engine's answer cannot be understood: {error}"),
            },
            other => self.away(other),
        }
    }

    fn away(&self, error: &Error) -> RuntimeError {
        self.known().client = None;
        let cause: &dyn std::error::Error = error;
        let deepest = std::iter::successors(Some(cause), |error| error.source()).last().unwrap_or(cause);
        let message = format!("the container engine at {} cannot be reached: {deepest}", self.address);
        RuntimeError { reason: FailureReason::RuntimeError, message }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A replaced value is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts(version: String, number: &str, is_podman: bool, info: &SystemInfo) -> Facts {
    Facts {
        version,
        rotates: !is_podman,
        arms_users: is_podman,
        limits_cpu: info.cpu_cfs_quota == Some(true) && info.cpu_cfs_period == Some(true),
        limits_memory: info.memory_limit == Some(true),
        limits_pids: info.pids_limit == Some(true),
        limits_swap: info.swap_limit == Some(true),
        forwards: info.ipv4_forwarding == Some(true),
        is_rootless: info.security_options.iter().flatten().any(|option| option.starts_with("name=rootless")),
        root: info.docker_root_dir.as_deref().filter(|root| root.starts_with('/')).map(PathBuf::from),
        gives_all: is_podman || gives_all(number, info.default_runtime.as_deref(), is_whole()),
        filters_calls: info.security_options.iter().flatten().any(|option| filters_calls(option)),
    }
}

/// Whether a Docker can run privileged containers. Before 23 it gives them every capability that the kernel has, which
/// its usual runtime, runc, cannot where the machine keeps some from root, as containers and some virtual machines do.
fn gives_all(version: &str, default_runtime: Option<&str>, is_whole: bool) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    is_whole || major.is_some_and(|major: u32| major >= 23) || !matches!(default_runtime, Some("runc") | None)
}

/// Whether root on this machine, and so the engine, has every capability that the kernel has.
fn is_whole() -> bool {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok());
    last.zip(Bounding::own().ok()).is_none_or(|(last, own)| own.is_whole(last))
}

/// Reads one of an engine's security options, such as `name=seccomp,profile=default`.
fn filters_calls(option: &str) -> bool {
    let mut words = option.split(',');
    words.next() == Some("name=seccomp") && words.all(|word| word != "profile=unconfined")
}

/// Asks, and asks again while the answer has a word in it that is not the API's: Podman tells of a container that has
/// ended and is not tidied up yet that it is `stopped`, which is over in a moment.
pub(super) async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut asked = 0;
    loop {
        asked += 1;
        match ask().await {
            Err(Error::JsonDataError { .. }) if asked < MAX_ASKED => tokio::time::sleep(ASK_AGAIN).await,
            answer => return answer,
        }
    }
}

/// Whether the engine answered that it has no such thing.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_of_this_node() {
        let text = "unix:///run/podman/podman.sock";
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        for wrong in ["", "/run/docker.sock", "unix://", "unix://docker.sock", "tcp://127.0.0.1:2375"] {
            assert_eq!(wrong.parse::<Address>(), Err(AddressError), "{wrong}");
        }
    }

    #[test]
    fn an_old_docker_gives_only_what_the_machine_has() {
        for (version, runtime, is_whole, expected) in [
            ("20.10.24+dfsg1", Some("runc"), true, true),
            ("20.10.24+dfsg1", Some("runc"), false, false),
            ("20.10.24+dfsg1", None, false, false),
            ("20.10.24+dfsg1", Some("crun"), false, true),
            ("23.0.1", Some("runc"), false, true),
            ("", Some("runc"), false, false),
        ] {
            assert_eq!(gives_all(version, runtime, is_whole), expected, "{version} {runtime:?} {is_whole}");
        }
    }

    #[test]
    fn a_filter_of_system_calls_is_read_from_the_options() {
        for option in ["name=seccomp,profile=default", "name=seccomp,profile=/usr/share/containers/seccomp.json"] {
            assert!(filters_calls(option), "{option}");
        }
        for option in ["", "name=apparmor", "name=seccomp,profile=unconfined", "name=cgroupns"] {
            assert!(!filters_calls(option), "{option}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let engine = Engine::new("unix:///nowhere/engine.sock".parse().unwrap());
        let error = engine.client().await.unwrap_err();
        assert_eq!(error.reason, FailureReason::RuntimeError);
        assert!(error.message.contains("unix:///nowhere/engine.sock cannot be reached"), "{error}");
    }
}
