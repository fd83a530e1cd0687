//! What somebody asks for when they create a job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kind::JobKind;
use crate::limits;
use crate::name::AppName;
use crate::rollout::Rollout;
use crate::spec::AppSpec;
use crate::targets::Targets;
use crate::validate::{Path, Violations};

/// A job that has not been checked yet: what, where, how, and in what time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct JobOrder {
    /// What to do.
    pub work: Work,
    /// Where.
    pub targets: Targets,
    /// How it is paced.
    pub rollout: Rollout,
    /// Time to finish in.
    pub timeout: Duration,
}

/// What a job shall do, with what each kind needs for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bring this up as a new app.
    Deploy(Arc<AppSpec>),
    /// Bring this app, which is there, up with another spec.
    Update {
        /// The app.
        app: AppName,
        /// What it shall be from now on, whole.
        spec: Arc<AppSpec>,
    },
    /// Remove this app.
    Remove(AppName),
    /// Fetch the image of this spec, which has no instances.
    Pull(Arc<AppSpec>),
}

impl Work {
    /// Puts together what a request says: `app` and `spec` are the fields `app_name` and `spec` of the message at `path`.
    /// Where something is missing or too much, adds that to `bad` and returns `None`.
    pub fn of(
        kind: JobKind,
        app: Option<AppName>,
        spec: Option<AppSpec>,
        path: Path<'_>,
        bad: &mut Violations,
    ) -> Option<Self> {
        let before = bad.0.len();
        if app.is_some() != kind.needs_app() {
            bad.add(path.field("app_name"), if app.is_some() { misplaced(kind) } else { "is missing".to_owned() });
        }
        let needs_spec = kind != JobKind::Remove;
        if spec.is_some() != needs_spec {
            bad.add(path.field("spec"), if spec.is_some() { misplaced(kind) } else { "is missing".to_owned() });
        }
        match (kind, app, spec) {
            _ if bad.0.len() > before => None,
            (JobKind::Deploy, _, Some(spec)) => Some(Self::Deploy(Arc::new(spec))),
            (JobKind::Update, Some(app), Some(spec)) => Some(Self::Update { app, spec: Arc::new(spec) }),
            (JobKind::Remove, Some(app), _) => Some(Self::Remove(app)),
            (JobKind::Pull, _, Some(mut spec)) => {
                if spec.instances > 1 {
                    bad.add(
                        path.field("spec").field("instances"),
                        "is not for PULL jobs, which run nothing; leave it out",
                    );
                    return None;
                }
                spec.instances = 0;
                spec.image.keep_for.get_or_insert(limits::DEFAULT_KEEP_FOR);
                Some(Self::Pull(Arc::new(spec)))
            }
            (JobKind::Deploy | JobKind::Update | JobKind::Remove | JobKind::Pull, _, _) => None,
        }
    }

    /// The job's kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Deploy(_) => JobKind::Deploy,
            Self::Update { .. } => JobKind::Update,
            Self::Remove(_) => JobKind::Remove,
            Self::Pull(_) => JobKind::Pull,
        }
    }

    /// The app that is there before the job, if there is one.
    #[must_use]
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::Deploy(_) | Self::Pull(_) => None,
            Self::Update { app, .. } | Self::Remove(app) => Some(app),
        }
    }

    /// What shall run, if anything shall.
    #[must_use]
    pub fn spec(&self) -> Option<&Arc<AppSpec>> {
        match self {
            Self::Deploy(spec) | Self::Update { spec, .. } | Self::Pull(spec) => Some(spec),
            Self::Remove(_) => None,
        }
    }
}

fn misplaced(kind: JobKind) -> String {
    format!("is not for {kind} jobs; leave it out")
}

/// An order as it is written: flat, with a field for whatever any kind needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    kind: JobKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<AppName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<AppSpec>,
    #[serde(default)]
    targets: Targets,
    #[serde(default)]
    rollout: Rollout,
    #[serde(default = "default_timeout", with = "crate::quantity::duration")]
    timeout: Duration,
}

fn default_timeout() -> Duration {
    limits::DEFAULT_TIMEOUT
}

impl TryFrom<Written> for JobOrder {
    type Error = Violations;

    fn try_from(written: Written) -> Result<Self, Violations> {
        let Written { kind, app, spec, targets, rollout, timeout } = written;
        let mut bad = Violations::default();
        match Work::of(kind, app, spec, Path::Root, &mut bad) {
            Some(work) => Ok(Self { work, targets, rollout, timeout }),
            None => Err(bad),
        }
    }
}

impl From<JobOrder> for Written {
    fn from(order: JobOrder) -> Self {
        let JobOrder { work, targets, rollout, timeout } = order;
        let (kind, app) = (work.kind(), work.app().cloned());
        Self { kind, app, spec: work.spec().map(|spec| AppSpec::clone(spec)), targets, rollout, timeout }
    }
}
