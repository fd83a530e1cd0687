//! What a server tells an agent to run.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{AppName, JobId};
use crate::node::Labels;
use crate::spec::AppSpec;
use crate::task::{TaskClass, TaskState};

/// One app that a node shall run, and the task that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The app.
    pub app: AppName,
    /// Grows with every change of what the app runs on this node.
    pub revision: u64,
    /// The job.
    pub job: JobId,
    /// The task's attempt.
    pub attempt: u32,
    /// What to do.
    pub order: Order,
    /// What to run.
    pub spec: Arc<AppSpec>,
    /// Whether a credential is known that the image is read with.
    #[serde(default)]
    pub image_access: ImageAccess,
    /// Those of the node's labels that the spec asks for, as they were when its attempt began.
    #[serde(default)]
    pub node_labels: Labels,
}

/// Whether the server knew of a registry credential for an app's image when it said what to run. Not a promise: a credential
/// may come or go at any time after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageAccess {
    /// It has not said.
    #[default]
    Untold,
    /// There is none.
    Open,
    /// There is one, or the image asks for one.
    Credential,
}

/// What to do with an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The task is open: bring the app up and report each step.
    Deploy,
    /// The task is over: keep the app running.
    Keep,
    /// The task is open and shall be given up: remove the app, then report CANCELLED.
    Cancel,
}

impl Order {
    /// The order for an app that belongs on its node, from the state of its task.
    #[must_use]
    pub fn of(task: TaskState, cancel_requested: bool) -> Self {
        match task.class() {
            TaskClass::Active if cancel_requested => Self::Cancel,
            TaskClass::Active => Self::Deploy,
            _ => Self::Keep,
        }
    }
}
