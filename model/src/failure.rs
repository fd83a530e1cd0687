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
}

impl FailureReason {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 17] = [
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
