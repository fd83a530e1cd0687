//! Why a task did not succeed.

use serde::{Deserialize, Serialize};

use crate::task::TaskState;

/// Every reason for which a task can fail: closed, so that clients can rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureReason {
    /// The registry or the node does not have the image.
    ImageNotFound,
    /// The registry refuses access to the image.
    ImageAccessDenied,
    /// The registry could not be reached or broke off.
    RegistryUnreachable,
    /// The image is for another CPU architecture.
    ArchitectureMismatch,
    /// The image or archive is damaged, or its digest does not match.
    ImageInvalid,
    /// The node's disk is full.
    DiskFull,
    /// A host port is taken.
    PortInUse,
    /// The node has no interface of that name.
    InterfaceNotFound,
    /// The interface has no IPv4 address.
    InterfaceWithoutIpv4,
    /// A host path is missing, or refused by the node.
    HostPathUnavailable,
    /// The command is not in the image or cannot be executed.
    CommandNotFound,
    /// The container ended before it was healthy, more often than allowed.
    ContainerExited,
    /// The container passed its memory limit.
    OutOfMemory,
    /// The node cannot do what the spec asks for.
    Unsupported,
    /// The node was deleted while the task was open.
    NodeDeleted,
    /// The job's deadline passed.
    DeadlineExceeded,
    /// The container runtime failed in a way that has no reason of its own.
    RuntimeError,
    /// Nothing came of a layer any more, from a registry that can be reached.
    PullStalled,
    /// The app that the job is for is not on the node.
    AppNotFound,
    /// The node has not enough left of what the app asks for.
    InsufficientResources,
    /// The node lacks a label, or another value, that the spec is filled in with.
    NodeValueMissing,
    /// The liveness probe failed before the app was healthy, more often than allowed.
    LivenessProbeFailed,
    /// A config map or a secret that the spec names is not there, or has no such key.
    ConfigurationMissing,
    /// A config map or a secret is there, and cannot be used as the spec says.
    ConfigurationUnusable,
    /// A device that the spec names is not on the node, or is none.
    DeviceUnavailable,
    /// The node has no accelerator of the kind that the app asks for.
    AcceleratorNotFound,
    /// Too few of the node's accelerators of that kind are free.
    InsufficientAccelerators,
}

impl FailureReason {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 27] = [
        Self::ImageNotFound,
        Self::ImageAccessDenied,
        Self::RegistryUnreachable,
        Self::ArchitectureMismatch,
        Self::ImageInvalid,
        Self::DiskFull,
        Self::PortInUse,
        Self::InterfaceNotFound,
        Self::InterfaceWithoutIpv4,
        Self::HostPathUnavailable,
        Self::CommandNotFound,
        Self::ContainerExited,
        Self::OutOfMemory,
        Self::Unsupported,
        Self::NodeDeleted,
        Self::DeadlineExceeded,
        Self::RuntimeError,
        Self::PullStalled,
        Self::AppNotFound,
        Self::InsufficientResources,
        Self::NodeValueMissing,
        Self::LivenessProbeFailed,
        Self::ConfigurationMissing,
        Self::ConfigurationUnusable,
        Self::DeviceUnavailable,
        Self::AcceleratorNotFound,
        Self::InsufficientAccelerators,
    ];
}

/// Why a task did not succeed, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// For machines.
    pub reason: FailureReason,
    /// One sentence for people.
    pub message: String,
    /// The state in which it happened.
    pub step: TaskState,
}

/// Bytes of a sentence: what went wrong is said at its beginning.
const MAX_SENTENCE: usize = 500;

impl Failure {
    /// A failure with its message made one sentence: a capital first, a full stop last, no line breaks or control
    /// characters, and not longer than people read.
    #[must_use]
    pub fn new(reason: FailureReason, message: &str, step: TaskState) -> Self {
        Self { reason, message: sentence(message), step }
    }
}

impl Failure {
    /// The same with what came of it, such as `the node went back to revision 3`, at the end of its sentence.
    #[must_use]
    pub fn with_outcome(self, outcome: &str) -> Self {
        let mut message = self.message.trim_end_matches('.').to_owned();
        if message.len() + outcome.len() > MAX_SENTENCE {
            crate::validate::cut(&mut message, MAX_SENTENCE.saturating_sub(outcome.len()));
            message.push('…');
        }
        Self { message: format!("{message}; {outcome}."), ..self }
    }
}

fn sentence(text: &str) -> String {
    let mut plain = crate::validate::one_line(text);
    if plain.len() > MAX_SENTENCE {
        crate::validate::cut(&mut plain, MAX_SENTENCE);
        plain.push('…');
    }
    let mut letters = plain.chars();
    let mut sentence: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_one_sentence() {
        for (message, expected) in [
            ("no such image", "No such image."),
            ("The port is taken.", "The port is taken."),
            (" two\n lines\t\u{7}here ", "Two lines here."),
            ("émile", "Émile."),
            ("", "."),
        ] {
            assert_eq!(Failure::new(FailureReason::RuntimeError, message, TaskState::Checking).message, expected);
        }
        let failure = Failure::new(FailureReason::RuntimeError, "it is full", TaskState::Checking);
        assert_eq!(failure.with_outcome("it was left").message, "It is full; it was left.");
        let long = Failure::new(FailureReason::RuntimeError, &"ü".repeat(10_000), TaskState::Checking);
        let long = long.with_outcome("it was left").message;
        assert!(long.len() < 510 && long.ends_with("…; it was left."), "{long}");
        let long = Failure::new(FailureReason::RuntimeError, &"ü".repeat(10_000), TaskState::Checking).message;
        assert!(long.len() < 510 && long.ends_with("…."), "{long}");
    }
}
