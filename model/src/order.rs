//! What somebody asks for when they create a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::rollout::Rollout;
use crate::spec::AppSpec;
use crate::targets::Targets;

/// A job that has not been checked yet: what, where, how, and in what time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobOrder {
    /// What to run.
    pub spec: AppSpec,
    /// Where.
    pub targets: Targets,
    /// How it is paced.
    #[serde(default)]
    pub rollout: Rollout,
    /// Time to finish in; in YAML `10m`.
    #[serde(default = "default_timeout", with = "crate::quantity::duration")]
    pub timeout: Duration,
}

fn default_timeout() -> Duration {
    limits::DEFAULT_TIMEOUT
}
