//! What an agent and a shim tell each other, on disk and on the shim's socket.
//!
//! Shims outlive agents, and so may be older: fields are only ever added, with defaults, and the meaning of those that
//! exist does not change.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::{fs, io};

use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::failure::FailureReason;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::runtime::RuntimeError;

use super::layout::{FILE_MODE, STATE};

/// Where a container is, as its shim last wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// Made, and waits to be started.
    Created,
    /// Up.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Ended.
    Exited(InstanceExit),
    /// Could not be made or started.
    Failed(Failure),
}

/// Why a shim could not do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) reason: FailureReason,
    pub(super) message: String,
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self { reason: error.reason, message: error.message }
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        Self { reason: failure.reason, message: failure.message }
    }
}

/// A command to a shim: one per connection, one line of JSON, answered by one line of [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Command {
    /// Run the program of a created container.
    Start,
    /// Send a signal to the container's first process.
    Kill(i32),
    /// Answer when the container has ended.
    Wait,
    /// Let new clients of the ports in, or keep them out.
    Ports {
        /// Which of the two.
        open: bool,
    },
    /// Run a command beside the container's program. Its streams, or the socket that takes its terminal, come with the
    /// message; it is answered by [`Answer::Begun`] first, and the command is killed when the connection ends.
    Exec(Exec),
    /// Bind the ports of these interfaces anew where that has another address.
    Relocate {
        /// Of each interface.
        addresses: BTreeMap<String, Ipv4Addr>,
    },
}

/// A command beside the container's program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exec {
    /// What to execute.
    pub(super) args: Vec<String>,
    /// Variables beside the program's, or instead of them.
    pub(super) env: Vec<(String, String)>,
    /// Columns and rows of its terminal, if it is to have one.
    pub(super) terminal: Option<(u16, u16)>,
    /// When it is killed in any case.
    pub(super) timeout_ms: Option<u64>,
}

/// A shim's answer: the state after the command, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// It was done.
    Done(State),
    /// It was not.
    Refused(Failure),
    /// The command runs.
    Begun,
    /// The command has ended with this exit code, and nothing that it started is left.
    Ended(i32),
}

/// The state of a container; `None` if its shim never wrote one that can be read.
pub(super) fn read(container: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(container.join(STATE)).ok()?).ok()
}

/// Replaces the state of a container.
pub(super) fn write(container: &Path, state: &State) -> io::Result<()> {
    durable::replace(&container.join(STATE), &serde_json::to_vec(state)?, FILE_MODE)
}
