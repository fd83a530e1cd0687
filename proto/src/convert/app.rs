//! Apps, and their output.

use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::app::{App, AppState, AppStatus, BoundPort, Desired, InstanceExit, InstanceState, InstanceStatus};
use longshore_model::event::{AppEvent, EventKind};
use longshore_model::health::Readiness;
use longshore_model::limits;
use longshore_model::name::JobId;
use longshore_model::spec::AppSpec;
use longshore_model::validate::{Path, Violations};

use super::spec::{port_number, said};
use super::{FromWire, address, bounded, message, mirrored, optional, required, timestamp};
use crate::v1;

/// Instances of one report; more than a spec allows cannot be.
const MAX_INSTANCES: usize = limits::MAX_INSTANCES as usize;

mirrored!(AppState, AppState, none: Some(Self::Unknown), {
    Unknown => Unspecified,
    Starting => Starting,
    Running => Running,
    NotReady => NotReady,
    BackOff => BackOff,
    Completed => Completed,
    Failed => Failed,
    Removed => Removed,
});

mirrored!(InstanceState, InstanceState, none: None, {
    Waiting => Waiting,
    Running => Running,
    BackOff => BackOff,
    Exited => Exited,
});

mirrored!(EventKind, AppEventType, none: None, {
    Started => Started,
    Restarted => Restarted,
    Ready => Ready,
    NotReady => NotReady,
    Exited => Exited,
    OutOfMemory => OutOfMemory,
    ProbeFailed => ProbeFailed,
    BackOff => BackOff,
    Updating => Updating,
    WentBack => WentBack,
    Failed => Failed,
    Removed => Removed,
});

/// The wire form of an app that runs `spec`.
#[must_use]
pub fn app(app: &App, spec: &AppSpec) -> v1::App {
    v1::App {
        node_name: app.node.to_string(),
        app_name: app.name.to_string(),
        job_id: app.job.to_string(),
        revision: app.revision,
        removing: app.desired == Desired::Removing,
        status: Some(v1::AppStatus::from(&app.status)),
        spec: Some(v1::AppSpec::from(spec)),
        update_time: Some(timestamp(app.update_time)),
        removing_job_id: app.remover.as_ref().map(JobId::to_string).unwrap_or_default(),
        previous_job_id: app.previous.as_ref().map(|previous| previous.job.to_string()).unwrap_or_default(),
        previous_revision: app.previous.as_ref().map(|previous| previous.revision).unwrap_or_default(),
        spec_revision: app.spec_revision,
    }
}

impl From<&AppStatus> for v1::AppStatus {
    fn from(status: &AppStatus) -> Self {
        Self {
            state: v1::AppState::from(status.state).into(),
            instances: status.instances.iter().map(v1::InstanceStatus::from).collect(),
            ports: status.ports.iter().map(v1::BoundPort::from).collect(),
        }
    }
}

impl FromWire<v1::AppStatus> for AppStatus {
    fn from_wire(wire: v1::AppStatus, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let state = FromWire::from_wire(wire.state, path.field("state"), bad);
        let instances = bounded(wire.instances, MAX_INSTANCES, path.field("instances"), bad);
        let ports = bounded(wire.ports, limits::MAX_BOUND_PORTS, path.field("ports"), bad);
        Some(Self { state: state?, instances: instances?, ports: ports? })
    }
}

impl From<&InstanceStatus> for v1::InstanceStatus {
    fn from(status: &InstanceStatus) -> Self {
        Self {
            index: status.index,
            state: v1::InstanceState::from(status.state).into(),
            starts: status.starts,
            start_time: status.start_time.map(timestamp),
            last_exit: status.last_exit.map(v1::InstanceExit::from),
            readiness: status.readiness.as_ref().map(v1::Readiness::from),
            last_exit_reason: status.last_exit_reason.clone().unwrap_or_default(),
            // Not of the status: whoever knows of sessions adds it.
            usage: None,
        }
    }
}

impl FromWire<v1::InstanceStatus> for InstanceStatus {
    fn from_wire(wire: v1::InstanceStatus, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let state = FromWire::from_wire(wire.state, path.field("state"), bad);
        let start_time = optional(wire.start_time, path.field("start_time"), bad);
        let last_exit = optional(wire.last_exit, path.field("last_exit"), bad);
        let readiness = optional(wire.readiness, path.field("readiness"), bad);
        Some(Self {
            index: wire.index,
            state: state?,
            starts: wire.starts,
            start_time: start_time?,
            last_exit: last_exit?,
            last_exit_reason: Some(message(wire.last_exit_reason)).filter(|reason| !reason.is_empty()),
            readiness: readiness?,
        })
    }
}

impl From<&Readiness> for v1::Readiness {
    fn from(readiness: &Readiness) -> Self {
        Self {
            ready: readiness.ready,
            since_time: Some(timestamp(readiness.since)),
            message: readiness.message.clone(),
        }
    }
}

impl FromWire<v1::Readiness> for Readiness {
    fn from_wire(wire: v1::Readiness, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let since = required(wire.since_time, path.field("since_time"), bad)?;
        Some(Self { ready: wire.ready, since, message: message(wire.message) })
    }
}

impl From<InstanceExit> for v1::InstanceExit {
    fn from(exit: InstanceExit) -> Self {
        Self { code: exit.code, out_of_memory: exit.out_of_memory, time: Some(timestamp(exit.time)) }
    }
}

impl FromWire<v1::InstanceExit> for InstanceExit {
    fn from_wire(wire: v1::InstanceExit, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let time = required(wire.time, path.field("time"), bad)?;
        Some(Self { code: wire.code, out_of_memory: wire.out_of_memory, time })
    }
}

impl From<&BoundPort> for v1::BoundPort {
    fn from(port: &BoundPort) -> Self {
        Self {
            instance: port.instance,
            container_port: port.container_port.into(),
            host_port: port.host_port.into(),
            protocol: v1::Protocol::from(port.protocol).into(),
            host_ip: port.host_ip.to_string(),
            shared: port.shared,
            host_interface: port.host_interface.clone().unwrap_or_default(),
        }
    }
}

impl FromWire<v1::BoundPort> for BoundPort {
    fn from_wire(wire: v1::BoundPort, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let container_port = port_number(wire.container_port, path.field("container_port"), bad);
        let host_port = port_number(wire.host_port, path.field("host_port"), bad);
        let protocol = FromWire::from_wire(wire.protocol, path.field("protocol"), bad);
        let host_ip = address(&wire.host_ip, path.field("host_ip"), bad);
        Some(Self {
            instance: wire.instance,
            container_port: container_port?,
            host_port: host_port?,
            protocol: protocol?,
            host_ip: host_ip?,
            shared: wire.shared,
            host_interface: said(wire.host_interface),
        })
    }
}

impl From<&AppEvent> for v1::AppEvent {
    fn from(event: &AppEvent) -> Self {
        let what = &event.what;
        Self {
            app_name: event.app.to_string(),
            node_name: event.node.to_string(),
            number: event.number,
            r#type: v1::AppEventType::from(what.kind).into(),
            instance: what.instance,
            revision: what.revision,
            message: what.message.clone(),
            exit_code: what.exit_code,
            count: what.count,
            first_time: Some(timestamp(event.first_time)),
            last_time: Some(timestamp(event.last_time)),
            node_time: what.node_time.map(timestamp),
        }
    }
}

/// One line of an instance's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the container wrote it.
    pub time: Timestamp,
    /// Whether it went to standard error.
    pub stderr: bool,
    /// The line without its line feed.
    pub text: Bytes,
}

impl From<LogLine> for v1::LogLine {
    fn from(line: LogLine) -> Self {
        let stream = if line.stderr { v1::LogStream::Stderr } else { v1::LogStream::Stdout };
        Self { time: Some(timestamp(line.time)), stream: stream.into(), text: line.text }
    }
}

impl FromWire<v1::LogLine> for LogLine {
    fn from_wire(wire: v1::LogLine, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let time = required(wire.time, path.field("time"), bad);
        let stderr = match v1::LogStream::try_from(wire.stream) {
            Ok(v1::LogStream::Stdout) => Some(false),
            Ok(v1::LogStream::Stderr) => Some(true),
            Ok(v1::LogStream::Unspecified | v1::LogStream::File) | Err(_) => {
                bad.add(path.field("stream"), format!("has the value {}, which is no output stream", wire.stream));
                None
            }
        };
        Some(Self { time: time?, stderr: stderr?, text: wire.text })
    }
}
