//! Tasks.

use longshore_model::cause;
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::task::{PullProgress, PullStart, Task, TaskEvent, TaskState};
use longshore_model::validate::{Path, Violations};

use super::{FromWire, list, message, mirrored, optional, required, timestamp};
use crate::v1;

mirrored!(TaskState, TaskState, none: None, {
    Pending => Pending,
    Assigned => Assigned,
    Checking => Checking,
    Pulling => Pulling,
    Creating => Creating,
    Starting => Starting,
    Settling => Settling,
    Succeeded => Succeeded,
    Failed => Failed,
    TimedOut => TimedOut,
    Cancelled => Cancelled,
});

mirrored!(FailureReason, FailureReason, none: None, {
    ImageNotFound => ImageNotFound,
    ImageAccessDenied => ImageAccessDenied,
    RegistryUnreachable => RegistryUnreachable,
    ArchitectureMismatch => ArchitectureMismatch,
    ImageInvalid => ImageInvalid,
    DiskFull => DiskFull,
    PortInUse => PortInUse,
    InterfaceNotFound => InterfaceNotFound,
    InterfaceWithoutIpv4 => InterfaceWithoutIpv4,
    HostPathUnavailable => HostPathUnavailable,
    CommandNotFound => CommandNotFound,
    ContainerExited => ContainerExited,
    OutOfMemory => OutOfMemory,
    Unsupported => Unsupported,
    NodeDeleted => NodeDeleted,
    DeadlineExceeded => DeadlineExceeded,
    RuntimeError => RuntimeError,
    PullStalled => PullStalled,
    AppNotFound => AppNotFound,
    InsufficientResources => InsufficientResources,
    NodeValueMissing => NodeValueMissing,
    LivenessProbeFailed => LivenessProbeFailed,
    ConfigurationMissing => ConfigurationMissing,
    ConfigurationUnusable => ConfigurationUnusable,
    DeviceUnavailable => DeviceUnavailable,
    AcceleratorNotFound => AcceleratorNotFound,
    InsufficientAccelerators => InsufficientAccelerators,
});

impl From<&Task> for v1::Task {
    fn from(task: &Task) -> Self {
        Self {
            job_id: task.job.to_string(),
            node_name: task.node.to_string(),
            attempt: task.attempt,
            state: v1::TaskState::from(task.state).into(),
            pull: task.pull.map(v1::PullProgress::from),
            failure: task.failure.as_ref().map(|failure| {
                let cause = cause::of(task).unwrap_or_default();
                v1::Failure { cause, ..failure.into() }
            }),
            cancel_requested: task.cancel_requested,
            absent_time: task.absent_time.map(timestamp),
            assign_time: task.assign_time.map(timestamp),
            update_time: Some(timestamp(task.update_time)),
            end_time: task.end_time.map(timestamp),
            version: task.version,
            history: task.history.iter().map(v1::TaskEvent::from).collect(),
            spec_revision: task.spec_revision,
            pull_start: task.pull_start.map(v1::PullStart::from),
        }
    }
}

impl FromWire<v1::Task> for Task {
    fn from_wire(wire: v1::Task, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let job = FromWire::from_wire(wire.job_id, path.field("job_id"), bad);
        let node = FromWire::from_wire(wire.node_name, path.field("node_name"), bad);
        let state = FromWire::from_wire(wire.state, path.field("state"), bad);
        let failure = optional(wire.failure, path.field("failure"), bad);
        let absent_time = optional(wire.absent_time, path.field("absent_time"), bad);
        let assign_time = optional(wire.assign_time, path.field("assign_time"), bad);
        let update_time = required(wire.update_time, path.field("update_time"), bad);
        let end_time = optional(wire.end_time, path.field("end_time"), bad);
        let pull_start = optional(wire.pull_start, path.field("pull_start"), bad);
        let history = list(wire.history, path.field("history"), bad);
        Some(Self {
            job: job?,
            node: node?,
            attempt: wire.attempt,
            spec_revision: wire.spec_revision,
            state: state?,
            pull: wire.pull.map(PullProgress::from),
            pull_start: pull_start?,
            failure: failure?,
            cancel_requested: wire.cancel_requested,
            absent_time: absent_time?,
            assign_time: assign_time?,
            update_time: update_time?,
            end_time: end_time?,
            version: wire.version,
            history: history?,
        })
    }
}

impl From<PullProgress> for v1::PullProgress {
    fn from(pull: PullProgress) -> Self {
        Self { done_bytes: pull.done, total_bytes: pull.total }
    }
}

impl From<v1::PullProgress> for PullProgress {
    fn from(wire: v1::PullProgress) -> Self {
        Self { done: wire.done_bytes, total: wire.total_bytes }
    }
}

impl From<PullStart> for v1::PullStart {
    fn from(start: PullStart) -> Self {
        Self { time: Some(timestamp(start.time)), done_bytes: start.done }
    }
}

impl FromWire<v1::PullStart> for PullStart {
    fn from_wire(wire: v1::PullStart, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let time = required(wire.time, path.field("time"), bad)?;
        Some(Self { time, done: wire.done_bytes })
    }
}

impl From<&Failure> for v1::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            reason: v1::FailureReason::from(failure.reason).into(),
            message: failure.message.clone(),
            step: v1::TaskState::from(failure.step).into(),
            cause: String::new(),
        }
    }
}

impl FromWire<v1::Failure> for Failure {
    fn from_wire(wire: v1::Failure, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let reason = FromWire::from_wire(wire.reason, path.field("reason"), bad);
        let step = FromWire::from_wire(wire.step, path.field("step"), bad);
        Some(Self { reason: reason?, message: message(wire.message), step: step? })
    }
}

impl From<&TaskEvent> for v1::TaskEvent {
    fn from(event: &TaskEvent) -> Self {
        Self {
            attempt: event.attempt,
            state: v1::TaskState::from(event.state).into(),
            failure: event.failure.as_ref().map(v1::Failure::from),
            time: Some(timestamp(event.time)),
            late: event.late,
        }
    }
}

impl FromWire<v1::TaskEvent> for TaskEvent {
    fn from_wire(wire: v1::TaskEvent, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let state = FromWire::from_wire(wire.state, path.field("state"), bad);
        let failure = optional(wire.failure, path.field("failure"), bad);
        let time = required(wire.time, path.field("time"), bad);
        Some(Self { attempt: wire.attempt, state: state?, failure: failure?, time: time?, late: wire.late })
    }
}
