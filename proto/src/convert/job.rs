//! Jobs.

use longshore_model::clock::Clock;
use longshore_model::job::{Job, JobState, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::limits;
use longshore_model::name::AppName;
use longshore_model::order::{JobOrder, Work};
use longshore_model::rollout::Rollout;
use longshore_model::spec::AppSpec;
use longshore_model::targets::Targets;
use longshore_model::validate::{Path, Violations};

use super::{FromWire, duration, mirrored, optional, timestamp};
use crate::v1;

mirrored!(JobState, JobState, none: None, {
    Queued => Queued,
    Running => Running,
    Succeeded => Succeeded,
    PartiallySucceeded => PartiallySucceeded,
    Failed => Failed,
    Stopping => Stopping,
    Stopped => Stopped,
    TimedOut => TimedOut,
});

mirrored!(JobKind, JobKind, none: Some(Self::Deploy), {
    Deploy => Deploy, Update => Update, Remove => Remove, Pull => Pull,
});

impl From<&Job> for v1::Job {
    fn from(job: &Job) -> Self {
        let remaining = match job.clock {
            Clock::Paused(remaining) => Some(duration(remaining)),
            Clock::Running(_) | Clock::Over => None,
        };
        Self {
            job_id: job.id.to_string(),
            app_name: job.app.to_string(),
            state: v1::JobState::from(job.state()).into(),
            spec: Some(v1::AppSpec::from(job.spec.as_ref())),
            rollout: Some(job.rollout.into()),
            timeout: Some(duration(job.timeout)),
            counts: Some(job.counts.into()),
            round: job.round,
            create_time: Some(timestamp(job.create_time)),
            start_time: job.start_time.map(timestamp),
            end_time: job.end_time.map(timestamp),
            deadline: job.clock.deadline().map(timestamp),
            remaining,
            creator: job.creator.clone(),
            version: job.version,
            warnings: job.warnings.clone(),
            etag: job.etag(),
            kind: v1::JobKind::from(job.kind).into(),
            template: job.template.as_ref().map(v1::TemplateUse::from),
            spec_revision: job.spec_revision,
        }
    }
}

impl From<TaskCounts> for v1::TaskCounts {
    fn from(counts: TaskCounts) -> Self {
        Self {
            pending: counts.pending,
            active: counts.active,
            succeeded: counts.succeeded,
            failed: counts.failed,
            timed_out: counts.timed_out,
            cancelled: counts.cancelled,
            absent: counts.absent,
        }
    }
}

impl From<v1::TaskCounts> for TaskCounts {
    fn from(wire: v1::TaskCounts) -> Self {
        Self {
            pending: wire.pending,
            active: wire.active,
            absent: wire.absent,
            succeeded: wire.succeeded,
            failed: wire.failed,
            timed_out: wire.timed_out,
            cancelled: wire.cancelled,
        }
    }
}

impl From<Rollout> for v1::Rollout {
    fn from(rollout: Rollout) -> Self {
        Self { max_parallel: rollout.max_parallel, absent_after: Some(duration(rollout.absent_after)) }
    }
}

impl FromWire<v1::Rollout> for Rollout {
    fn from_wire(wire: v1::Rollout, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let absent_after = optional(wire.absent_after, path.field("absent_after"), bad)?;
        Some(Self {
            max_parallel: wire.max_parallel,
            absent_after: absent_after.unwrap_or(limits::DEFAULT_ABSENT_AFTER),
        })
    }
}

impl From<&Targets> for v1::Targets {
    fn from(targets: &Targets) -> Self {
        Self {
            node_names: targets.node_names.clone(),
            selector: targets.selector.clone().unwrap_or_default(),
            mixed_architectures: targets.mixed_architectures,
        }
    }
}

impl From<v1::Targets> for Targets {
    fn from(wire: v1::Targets) -> Self {
        Self {
            node_names: wire.node_names,
            selector: Some(wire.selector).filter(|selector| !selector.is_empty()),
            mixed_architectures: wire.mixed_architectures,
        }
    }
}

impl From<&JobOrder> for v1::CreateJobRequest {
    fn from(order: &JobOrder) -> Self {
        Self {
            kind: v1::JobKind::from(order.work.kind()).into(),
            app_name: order.work.app().map(AppName::to_string).unwrap_or_default(),
            spec: order.work.spec().map(|spec| v1::AppSpec::from(spec.as_ref())),
            targets: Some(v1::Targets::from(&order.targets)),
            rollout: Some(order.rollout.into()),
            timeout: Some(duration(order.timeout)),
            ..Self::default()
        }
    }
}

impl FromWire<v1::CreateJobRequest> for JobOrder {
    fn from_wire(wire: v1::CreateJobRequest, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let kind = FromWire::from_wire(wire.kind, path.field("kind"), bad);
        let app = Some(wire.app_name).filter(|name| !name.is_empty());
        let app: Option<Option<AppName>> = optional(app, path.field("app_name"), bad);
        let spec = wire.spec.map(|spec| v1::AppSpec { image_only: false, ..spec });
        let spec: Option<Option<AppSpec>> = optional(spec, path.field("spec"), bad);
        let rollout = optional(wire.rollout, path.field("rollout"), bad);
        let timeout = optional(wire.timeout, path.field("timeout"), bad);
        Some(Self {
            work: Work::of(kind?, app?, spec?, path, bad)?,
            targets: wire.targets.map(Targets::from).unwrap_or_default(),
            rollout: rollout.flatten().unwrap_or_default(),
            timeout: timeout.flatten().unwrap_or(limits::DEFAULT_TIMEOUT),
        })
    }
}
