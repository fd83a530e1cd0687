//! What server and agent say to each other in a session.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_model::assignment::{Assignment, ImageAccess, Order};
use longshore_model::label;
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::task::{PullProgress, TaskState};
use longshore_model::validate::{Path, Violations};

use super::{FromWire, encode_spec, mirrored, optional, required, timestamp};
use crate::v1;

mirrored!(Order, Order, none: None, { Deploy => Deploy, Keep => Keep, Cancel => Cancel });

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        Self {
            app_name: assignment.app.to_string(),
            revision: assignment.revision,
            job_id: assignment.job.to_string(),
            attempt: assignment.attempt,
            order: v1::Order::from(assignment.order).into(),
            app_spec: encode_spec(&assignment.spec),
            request_id: String::new(),
            image_access: v1::ImageAccess::from(assignment.image_access).into(),
            node_labels: assignment.node_labels.clone(),
        }
    }
}

impl From<ImageAccess> for v1::ImageAccess {
    fn from(access: ImageAccess) -> Self {
        match access {
            ImageAccess::Untold => Self::Unspecified,
            ImageAccess::Open => Self::Open,
            ImageAccess::Credential => Self::Credential,
        }
    }
}

impl From<v1::ImageAccess> for ImageAccess {
    fn from(access: v1::ImageAccess) -> Self {
        match access {
            v1::ImageAccess::Unspecified => Self::Untold,
            v1::ImageAccess::Open => Self::Open,
            v1::ImageAccess::Credential => Self::Credential,
        }
    }
}

impl FromWire<v1::Assignment> for Assignment {
    fn from_wire(wire: v1::Assignment, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let app = FromWire::from_wire(wire.app_name, path.field("app_name"), bad);
        let job = FromWire::from_wire(wire.job_id, path.field("job_id"), bad);
        let order = FromWire::from_wire(wire.order, path.field("order"), bad);
        let spec = FromWire::from_wire(wire.app_spec.as_ref(), path.field("app_spec"), bad);
        label::check(&wire.node_labels, path.field("node_labels"), bad);
        // What only a newer server can say is no reason to refuse an app: the agent asks.
        let image_access = v1::ImageAccess::try_from(wire.image_access).unwrap_or_default().into();
        Some(Self {
            app: app?,
            revision: wire.revision,
            job: job?,
            attempt: wire.attempt,
            order: order?,
            spec: Arc::new(spec?),
            image_access,
            node_labels: wire.node_labels,
        })
    }
}

/// The wire form of a task's report, with the moment by the node's clock.
#[must_use]
pub fn task_report(report: &TaskReport, node_time: Timestamp) -> v1::TaskReport {
    v1::TaskReport {
        job_id: report.job.to_string(),
        attempt: report.attempt,
        state: v1::TaskState::from(report.state).into(),
        pull: report.pull.map(v1::PullProgress::from),
        failure: report.failure.as_ref().map(v1::Failure::from),
        node_time: Some(timestamp(node_time)),
    }
}

impl FromWire<v1::TaskReport> for TaskReport {
    fn from_wire(wire: v1::TaskReport, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let job = FromWire::from_wire(wire.job_id, path.field("job_id"), bad);
        let state = FromWire::from_wire(wire.state, path.field("state"), bad);
        let failure = optional(wire.failure, path.field("failure"), bad);
        if let Some(state @ (TaskState::Pending | TaskState::Assigned | TaskState::TimedOut)) = state {
            bad.add(path.field("state"), format!("is {state}, which only the server decides"));
            return None;
        }
        Some(Self {
            job: job?,
            attempt: wire.attempt,
            state: state?,
            pull: wire.pull.map(PullProgress::from),
            failure: failure?,
        })
    }
}

impl From<&AppReport> for v1::AppReport {
    fn from(report: &AppReport) -> Self {
        Self {
            app_name: report.app.to_string(),
            revision: report.revision,
            attempt: report.attempt,
            status: Some(v1::AppStatus::from(&report.status)),
        }
    }
}

impl FromWire<v1::AppReport> for AppReport {
    fn from_wire(wire: v1::AppReport, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let app = FromWire::from_wire(wire.app_name, path.field("app_name"), bad);
        let status = required(wire.status, path.field("status"), bad);
        Some(Self { app: app?, revision: wire.revision, attempt: wire.attempt, status: status? })
    }
}
